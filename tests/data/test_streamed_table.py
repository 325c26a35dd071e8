"""Tables whose rows stay in their file: the same kinds, rows and encoder as in memory."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from xpnet.data import EncoderStats, Shuffle, encoder_fit, fit_encoder, open_rows, read, scan
from xpnet.data.running_stats import RunningStats
from xpnet.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

ROWS, NAN = 2000, np.nan


def mixed(rows=ROWS):
    """A number and a category with gaps, a date, an id, a constant, a varied text, and a label."""
    rng = np.random.default_rng(1)
    gaps = rng.random((2, rows)) < 0.1
    size = np.where(gaps[0], NAN, rng.normal(3, 5, rows).round(3))
    colour = np.array(["red", "green", "blue"])[rng.integers(0, 3, rows)]
    dates = np.datetime64("2024-01-01T00:00:00") + rng.integers(0, 10**7, rows)
    return {
        "id": np.arange(rows),
        "size": pa.array(size, from_pandas=True),
        "colour": pa.array(np.where(gaps[1], None, colour).tolist()),
        "when": pa.array(dates),
        "country": ["DE"] * rows,
        "remark": [f"remark {k}" for k in range(rows)],
        "vip": (rng.random(rows) < 0.3).tolist(),
        "grade": rng.integers(0, 50, rows),
        "outcome": np.where(rng.random(rows) < 0.4, "yes", "no").tolist(),
    }


@pytest.fixture(params=["csv", "parquet", "feather"])
def path(request, tmp_path):
    return tmp_path / f"t.{request.param}"


def write(path, columns):
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.parquet

    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=170)
    else:
        pyarrow.feather.write_feather(table, path, chunksize=170)
    return path


def whole(file):
    return [file.read(*ends) for ends in itertools.pairwise(file.bounds.tolist())]


def test_rows_kinds_and_encoder_are_those_of_the_table_in_memory(path):
    expected = read(write(path, mixed()))
    file = open_rows(path)
    assert file.columns.meta() == expected.columns.meta()
    assert file.columns.described == expected.columns.described
    assert (file.task, file.dtype) == ("classification", np.float64)
    blocks = whole(file)
    np.testing.assert_array_equal(np.concatenate([b.x for b in blocks]), expected.x)
    scanned = scan(file, (0.8, 0.2), task=file.task)
    train, test = scanned.parts
    assert train.classes == expected.classes
    rows = np.concatenate([b.x for b in train.batches(300)])
    assert len(rows) + len(test) == ROWS
    for scaling in ("standard", "minmax", "max", "robust", "none"):
        encoder = scanned.encoding.encoder(scaling)
        oracle = fit_encoder(rows, expected.columns, scaling)
        assert (encoder.names, encoder.embeddings) == (oracle.names, oracle.embeddings)
        np.testing.assert_allclose(
            encoder.apply(expected.x, "float64"),
            oracle.apply(expected.x, "float64"),
            rtol=1e-9,
            atol=1e-9,
        )
    assert scanned.encoding.note == ""


def test_batches_are_as_wide_as_what_the_transform_gives(path):
    file = open_rows(write(path, mixed()))
    scanned = scan(file, task=file.task)
    encoder = scanned.encoding.encoder("standard")
    part = replace(scanned.parts[0], transform=encoder.apply, dtype="float32")
    got = list(part.batches(64, Shuffle(0, 0)))
    assert {b.x.shape[1:] for b in got} == {encoder.output_shape}
    assert sum(len(b.x) for b in got) == ROWS
    x = encoder.apply(read(path).x)
    together = np.concatenate([b.x for b in got])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(x, axis=0))


def test_a_later_file_is_read_with_the_kinds_of_the_run(path):
    columns = read(write(path, mixed())).columns
    later = mixed(100)
    later["colour"] = ["pink", None] * 50
    later["size"] = [None] * 100
    file = open_rows(write(path, later), like=columns)
    x = np.concatenate([b.x for b in whole(file)])
    np.testing.assert_array_equal(x[:4, 1], [-1, NAN, -1, NAN])
    assert np.isnan(x[:, 0]).all()
    assert scan(file, task="classification", classes=("no", "yes")).parts[0].classes == (
        "no",
        "yes",
    )
    later["size"] = ["big"] * 100
    file = open_rows(write(path, later), like=columns)
    with pytest.raises(DataError, match=r"column 1 \('size'\): 'big' is not a finite number"):
        whole(file)


def test_a_place_is_that_of_the_row_in_the_whole_file(path):
    columns = mixed()
    size = columns["size"].to_pylist()
    size[1234] = float("inf")
    with pytest.raises(DataError, match=r"(line 1236|row 1234), column 1 \('size'\): 'inf' is not"):
        open_rows(write(path, {**columns, "size": size}))
    columns["outcome"][1500] = None
    file = open_rows(write(path, columns))
    with pytest.raises(DataError, match=r"(line 1502|row 1500): the label is missing") as caught:
        scan(file, task=file.task)
    assert "--set data.stream=no --set data.missing_labels=drop" in caught.value.at_command_line


def test_the_task_is_that_of_all_labels(path):
    write(path, mixed())
    assert open_rows(path, "size").task == "regression"
    file = open_rows(path, "grade")
    assert file.task == "regression"
    assert [n for n in file.columns.notes if "(50 whole numbers, 0 to 49) is taken for a" in n]
    assert open_rows(path, "grade", task="classification").task == "classification"


def test_several_labels(path):
    n = np.arange(300)
    columns = {"a": n / 7, "u": n % 3 == 0, "v": n % 3 == 1, "w": n % 3 == 2}
    file = open_rows(write(path, columns), ["u", "v", "w"])
    assert file.task == "multilabel"
    part = scan(file, task=file.task).parts[0]
    y = np.concatenate([b.y for b in part.batches(100)])
    assert y.tolist() == np.eye(3)[n % 3].tolist()
    part, counts = scan(file, task="classification").parts[0], scan(file).class_counts
    assert (part.classes, counts.tolist()) == (("u", "v", "w"), [[100, 100, 100]])
    assert np.concatenate([b.y for b in part.batches(100)]).tolist() == (n % 3).tolist()
    file = open_rows(write(path, {**columns, "w": n % 2 == 0}), ["u", "v", "w"])
    with pytest.raises(
        DataError, match=r"(line 2|row 0): class labels must be \(N,\), or \(N, K\)"
    ):
        scan(file, task="classification")
    file = open_rows(write(path, {**columns, "w": n}), ["u", "v", "w"])
    assert file.task == "regression"
    with pytest.raises(
        DataError, match=r"(line 4|row 2): several labels must be \(N, J\) of 0 and"
    ):
        scan(file, task="multilabel")


def test_narrow_numbers_stay_narrow(tmp_path):
    path = tmp_path / "t.parquet"
    columns = {"a": np.arange(300, dtype=np.float32), "b": np.arange(300) % 7}
    columns["b"] = columns["b"].astype(np.uint8)
    write(path, {**columns, "y": ["u", "v", "w"] * 100})
    assert open_rows(path).dtype == np.float32
    write(path, {**columns, "b": pa.array([None, *columns["b"][1:]]), "y": ["u", "v", "w"] * 100})
    assert open_rows(path).dtype == np.float64


@pytest.mark.parametrize("options", [{"weight": "grade"}, {"missing_labels": "drop"}])
def test_what_is_for_rows_in_memory_is_refused(path, options):
    with pytest.raises(DataError, match="are for rows in memory"):
        open_rows(write(path, mixed()), **options)


def test_medians_of_many_rows_are_those_of_a_seeded_sample(monkeypatch, rng):
    monkeypatch.setattr(encoder_fit, "SAMPLE", 500)
    columns = read(pa.table({"a": [1.5, 2.0], "b": ["p", "q"], "y": [1, 2]})).columns
    x = np.column_stack([rng.normal(size=5000), rng.integers(0, 2, 5000)])
    x[::7, 0] = NAN
    fills = []
    for seed in (0, 0, 1):
        stats = EncoderStats(columns, seed)
        for block in np.array_split(x, 9):
            stats.add(block)
        fills.append(float(stats.encoder("robust").fill[0]))
        assert stats.note == "medians are those of 500 of 5,000 training rows"
    assert fills[0] == fills[1] != fills[2]
    assert abs(fills[0] - np.nanmedian(x[:, 0])) < 0.2


def test_running_statistics_skip_what_is_missing(rng):
    x = rng.normal(3, 5, (500, 4))
    x[rng.random((500, 4)) < 0.3] = NAN
    x[:200, 1] = NAN
    x[:, 3] = NAN
    stats = RunningStats()
    for block in np.array_split(x, 7):
        stats.add_present(block)
    known = x[:, :3]
    np.testing.assert_array_equal(stats.count, (~np.isnan(x)).sum(axis=0))
    np.testing.assert_allclose(stats.mean[:3], np.nanmean(known, axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.std[:3], np.nanstd(known, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(stats.low[:3], np.nanmin(known, axis=0))
    np.testing.assert_array_equal(stats.high[:3], np.nanmax(known, axis=0))
    fill = np.array([1.0, 2.0, -50.0])
    filled = stats.filled([0, 1, 2], fill, np.isnan(known).sum(axis=0))
    expected = np.where(np.isnan(known), fill, known)
    np.testing.assert_allclose(filled.mean, expected.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(filled.std, expected.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(filled.low, expected.min(axis=0))
