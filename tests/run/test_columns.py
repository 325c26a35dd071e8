"""A run knows its data: later files are matched by the names and positions it was trained on.

The oracle is the straight run: what it predicts of the rows as they were in training.
"""

import csv
import itertools
import json

import numpy as np
import pytest

from xpnet.cli.main import main
from xpnet.data import rare_classes, read
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.run import load, streamed_splits, train
from xpnet.run.config_sources import load_config
from xpnet.storage import save

QUICK = (
    *("epochs=1", "batch_size=90", "model.hidden=[8]", "backend=numpy", "dtype=float64"),
    *("step=portable", "threads=1"),
)
FEATURES = ("a", "b", "c", "d")
FORMATS = ("csv", "parquet", "streamed")


def table(rows=90, seed=0):
    """Columns a to d and the species, which the largest of the first three decides."""
    x = np.random.default_rng(seed).normal(size=(rows, 4)).round(3)
    species = np.array(["aster", "rose", "tulip"])[np.argmax(x[:, :3], axis=1)]
    return {**dict(zip(FEATURES, x.T, strict=True)), "species": species}


def write_csv(path, columns, header=True):
    rows = zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns] if header else [])
        csv.writer(file).writerows(rows)
    return path


def write_parquet(path, columns, metadata=None):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=30)
    return path


@pytest.fixture(params=FORMATS)
def kind(request, monkeypatch):
    """A format, whose later files are streamed, too, where its training is."""
    if request.param == "streamed":
        monkeypatch.setattr(streamed_splits, "is_large", lambda path: True)
        monkeypatch.setattr("xpnet.run.trained_run.is_large", lambda path: True)
    return request.param


def write(folder, kind, name, columns):
    if kind == "csv":
        return write_csv(folder / f"{name}.csv", columns)
    return write_parquet(folder / f"{name}.parquet", columns)


def go(source, out, kind="csv", *settings, said=None):
    stream = ["data.stream=yes"] if kind == "streamed" else []
    config = load_config(str(source), [*QUICK, *stream, *settings])
    return train(config, out, report=[].append if said is None else said.append)


def predicted(run, path, **options):
    rows = run.read(path, labelled=False, **options)
    return np.concatenate(list(run.predictions(rows)))


def labels(run, path, **options):
    rows = run.read(path, labelled=True, **options)
    return rows.take(range(len(rows))).y


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code, *capsys.readouterr()


# ----------------------------------------------------------------- the same rows, told otherwise

VARIANTS = {
    "the same": lambda t: t,
    "turned round": lambda t: dict(reversed(t.items())),
    "label first": lambda t: {"species": t["species"], **t},
    "a number added in front": lambda t: {"vip": np.arange(90) % 7, **t},
    "a text added behind": lambda t: {**t, "vip": ["yes", "no"] * 45},
    "another label added": lambda t: {**t, "label": ["u", "v"] * 45, "target": np.arange(90) % 2},
    "row numbers added": lambda t: {"Unnamed: 0": range(90), **t, "Id": range(1, 91)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_rows_are_predicted_and_scored_alike(kind, variant, tmp_path):
    source = write(tmp_path, kind, "train", table())
    run = go(source, tmp_path / "run", kind)
    p, y = predicted(run, source), labels(run, source)
    np.testing.assert_array_equal(p, run.predict(np.transpose([table()[n] for n in FEATURES])))
    assert [run.preprocessing.classes[k] for k in y] == table()["species"].tolist()
    other = write(tmp_path, kind, "other", VARIANTS[variant](table()))
    loaded = load(tmp_path / "run", backend="numpy")
    np.testing.assert_array_equal(predicted(loaded, other), p)
    np.testing.assert_array_equal(labels(loaded, other), y)
    without = {k: v for k, v in VARIANTS[variant](table()).items() if k != "species"}
    np.testing.assert_array_equal(predicted(loaded, write(tmp_path, kind, "w", without)), p)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_test_file_is_scored_as_the_file_itself(kind, variant, tmp_path):
    source = write(tmp_path, kind, "train", table())
    test = write(tmp_path, kind, "test", VARIANTS[variant](table()))
    scores = [
        go(source, tmp_path / f"{n}", kind, f"data.test={path}").test
        for n, path in enumerate((source, test))
    ]
    assert scores[0] == scores[1]
    assert scores[0]["rows"] == 90


def renamed(old, new):
    return {new if k == old else k: v for k, v in table().items()}


def lacking(*names):
    return {k: v for k, v in table().items() if k not in names}


@pytest.mark.parametrize(
    ("columns", "labelled", "says"),
    [
        (renamed("b", "bb"), False, "no column 'b'"),
        (lacking("c"), False, "no column 'c'"),
        (lacking("c", "d"), True, "no column 'c' and 1 more"),
        (lacking("species"), True, "no labels to score against, only the features (no column"),
        (renamed("species", "label"), True, "no labels to score against, only the features"),
    ],
)
def test_what_is_missing_is_named(kind, columns, labelled, says, tmp_path):
    source = write(tmp_path, kind, "train", table())
    run = go(source, tmp_path / "run", kind)
    other = write(tmp_path, kind, "other", columns)
    with pytest.raises(DataError) as caught:
        run.read(other, labelled=labelled)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(other))
    with pytest.raises(DataError, match=r"no column|no labels to score against"):
        go(source, tmp_path / "again", kind, f"data.test={other}")


def test_a_label_of_another_name_is_chosen_for_that_file(kind, tmp_path, capsys):
    source = write(tmp_path, kind, "train", table())
    run = go(source, tmp_path / "run", kind)
    other = write(tmp_path, kind, "other", renamed("species", "kind"))
    np.testing.assert_array_equal(labels(run, other, label="kind"), labels(run, source))
    with pytest.raises(DataError, match="'a' is a feature of the run, and cannot be the label"):
        run.read(other, labelled=True, label="a")
    code, out, _ = command(capsys, "evaluate", tmp_path / "run", other, "--label", "kind", "--json")
    assert code == 0
    again = command(capsys, "evaluate", tmp_path / "run", source, "--json")[1]
    assert json.loads(out) == json.loads(again)


@pytest.mark.parametrize("at", range(5))
def test_without_a_header_the_label_is_where_it_was(at, tmp_path):
    t = table()
    names = [*FEATURES[:at], "species", *FEATURES[at:]]
    source = write_csv(tmp_path / "train.csv", {n: t[n] for n in names})
    run = go(source, tmp_path / "run", "csv", "data.label=species")
    p, y = predicted(run, source), labels(run, source)
    bare = write_csv(tmp_path / "bare.csv", {n: t[n] for n in names}, header=False)
    np.testing.assert_array_equal(predicted(run, bare), p)
    np.testing.assert_array_equal(labels(run, bare), y)
    alone = write_csv(tmp_path / "alone.csv", {n: t[n] for n in FEATURES}, header=False)
    np.testing.assert_array_equal(predicted(run, alone), p)
    # and the other way round: trained without names, and used with them
    at_position = go(bare, tmp_path / "bare", "csv", f"data.label={at}")
    np.testing.assert_array_equal(predicted(at_position, source), predicted(at_position, bare))
    np.testing.assert_array_equal(labels(at_position, source), y)
    numbers = np.transpose([t[n] if n != "species" else y for n in names])
    np.save(tmp_path / "bare.npy", numbers)
    np.testing.assert_array_equal(predicted(at_position, tmp_path / "bare.npy"), p)


def test_rows_of_an_array_left_in_their_file_are_found_by_position(tmp_path, monkeypatch):
    x, y = np.transpose([table()[n] for n in FEATURES]), np.arange(90) % 3
    np.save(tmp_path / "first.npy", np.ascontiguousarray(np.c_[y, x]))
    np.save(tmp_path / "alone.npy", np.ascontiguousarray(x))
    run = go(tmp_path / "first.npy", tmp_path / "run", "streamed", "data.label=0")
    for large in (True, False):
        monkeypatch.setattr("xpnet.run.trained_run.is_large", lambda path, large=large: large)
        np.testing.assert_array_equal(labels(run, tmp_path / "first.npy"), y)
        for name in ("first", "alone"):
            np.testing.assert_array_equal(predicted(run, tmp_path / f"{name}.npy"), run.predict(x))
        with pytest.raises(DataError, match="no labels to score against"):
            run.read(tmp_path / "alone.npy", labelled=True)


@pytest.mark.parametrize("names", [("a", "a", "c", "d"), ("a", "b", "b", "d")])
def test_columns_of_one_name_are_told_apart_by_their_order_alone(names, tmp_path):
    path = write_csv(tmp_path / "a.csv", table())
    _, *rows = path.read_text().splitlines()
    path.write_text("\n".join([",".join([*names, "species"]), *rows]))
    plain = write_csv(tmp_path / "plain.csv", table())
    run, unique = go(path, tmp_path / "run"), go(plain, tmp_path / "unique")
    np.testing.assert_array_equal(predicted(run, path), predicted(unique, plain))
    for one, other in ((run, plain), (unique, path)):
        with pytest.raises(DataError, match=r"several columns are named|no column"):
            one.read(other, labelled=False)


def test_a_width_that_may_mean_two_things_is_refused(tmp_path):
    t = {"Id": range(1, 91), **table()}
    run = go(write_csv(tmp_path / "train.csv", t), tmp_path / "run")
    p = predicted(run, tmp_path / "train.csv")
    bare = {n: write_csv(tmp_path / f"{n}.csv", c, header=False) for n, c in {
        "whole": t,
        "features": {n: t[n] for n in FEATURES},
        "with Id": {n: t[n] for n in ("Id", *FEATURES)},
        "with label": table(),
        "narrow": {n: t[n] for n in "abc"},
    }.items()}  # fmt: skip
    for name in ("whole", "features"):
        np.testing.assert_array_equal(predicted(run, bare[name]), p)
    for name in ("whole", "with label"):
        assert labels(run, bare[name]).tolist() == labels(run, tmp_path / "train.csv").tolist()
    with pytest.raises(DataError, match="5 columns without names, with or without the label"):
        run.read(bare["with label"], labelled=False)
    with pytest.raises(DataError, match=r"line 1: label '.*' is not a whole number"):
        run.read(bare["with Id"], labelled=True)
    with pytest.raises(DataError, match=r"features have shape \(3,\); the run was trained on"):
        run.read(bare["narrow"], labelled=False)


def test_names_that_contradict_the_position_of_the_label_are_refused(tmp_path):
    bare = write_csv(tmp_path / "train.csv", table(), header=False)
    run = go(bare, tmp_path / "run")
    first = {"class": table()["species"], **{n: table()[n] for n in FEATURES}}
    other = write_csv(tmp_path / "first.csv", first)
    with pytest.raises(DataError, match="column 0 is 'class', but the run, which was trained on"):
        run.read(other, labelled=False)


# ------------------------------------------------------------------- headers of numbers (pandas)


def test_a_header_that_counts_the_columns_is_one(tmp_path):
    t = table()
    numbered = {str(j): values for j, values in enumerate(t.values())}
    source = write_csv(tmp_path / "train.csv", numbered)
    said = []
    run = go(source, tmp_path / "run", said=said)
    header = "the first row (0, 1, ...) is taken for a header: "
    assert header + "data.header = 'no' reads it as values" in said
    named = go(write_csv(tmp_path / "named.csv", t), tmp_path / "named")
    assert run.test == named.test
    p = predicted(named, tmp_path / "named.csv")
    np.testing.assert_array_equal(predicted(run, source), p)
    features = write_csv(tmp_path / "f.csv", {str(j): t[n] for j, n in enumerate(FEATURES)})
    assert len(predicted(run, features)) == 90
    with pytest.raises(DataError, match="no column 'a'"):
        named.read(source, labelled=False)
    turned = write_csv(tmp_path / "t.csv", {str(j): t[FEATURES[j]] for j in (3, 2, 1, 0)})
    with pytest.raises(DataError, match="line 1: the first row, 3, 2, 1, 0, may be a header"):
        run.read(turned, labelled=False)
    part = {**{str(j): t[n] for j, n in enumerate(FEATURES)}, "species": t["species"]}
    partly = write_csv(tmp_path / "p.csv", part)  # df["species"] = ...
    assert go(partly, tmp_path / "partly").test == named.test
    indexed = write_csv(tmp_path / "i.csv", {"": range(90), **numbered})  # df.to_csv()
    np.testing.assert_array_equal(predicted(run, indexed), p)
    assert go(indexed, tmp_path / "indexed").test == named.test


def test_a_first_row_equal_to_the_names_of_the_run_is_a_header(tmp_path):
    years = dict(zip(("2019", "2020", "2021", "2022", "y"), table().values(), strict=True))
    source = write_csv(tmp_path / "train.csv", years)
    run = go(source, tmp_path / "run", "csv", "data.label=y")
    features = {n: years[n] for n in ("2019", "2020", "2021", "2022")}
    later = write_csv(tmp_path / "later.csv", features)
    np.testing.assert_array_equal(predicted(run, later), predicted(run, source))


def test_a_class_that_is_called_auto_is_not_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("5,1,auto\n6,0,manual\n")
    assert read(path).classes == ("auto", "manual")


def test_rows_of_small_whole_numbers_are_not_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("0,1,yes\n1,0,no\n1,1,yes\n0,1,no\n")
    assert len(read(path)) == 4


# -------------------------------------------------------------------------- row numbers, indices


def index_of_pandas(names):
    return {"pandas": json.dumps({"index_columns": names, "columns": []})}


@pytest.mark.parametrize("stream", ["no", "yes"])
@pytest.mark.parametrize("name", ["__index_level_0__", "when"])
def test_the_index_of_pandas_in_a_parquet_file_is_left_out(stream, name, tmp_path):
    kept = np.flatnonzero(np.arange(180) % 2)  # df[mask].to_parquet()
    plain = write_parquet(tmp_path / "train.parquet", table())
    indexed = write_parquet(
        tmp_path / "indexed.parquet", {**table(), name: kept}, index_of_pandas([name])
    )
    settings, said = (f"data.stream={stream}",), []
    expected = go(plain, tmp_path / "plain", "parquet", *settings)
    run = go(indexed, tmp_path / "run", "parquet", *settings, said=said)
    assert run.test == expected.test
    assert f"left out: {name} (the index of pandas): data.row_numbers = 'keep' keeps it" in said
    np.testing.assert_array_equal(predicted(run, plain), predicted(expected, plain))
    np.testing.assert_array_equal(predicted(expected, indexed), predicted(run, plain))
    keep = go(indexed, tmp_path / "keep", "parquet", *settings, "data.row_numbers=keep",
              "data.label=species")  # fmt: skip
    assert keep.preprocessing.feature_names == (*FEATURES, name)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("", range(90)),  # df.to_csv()
        ("", range(1, 91)),  # R
        ("", [f"row {n}" for n in range(90)]),  # R, with names
        ("", np.flatnonzero(np.arange(180) % 2)),  # df[mask].to_csv()
        ("rownames", [f"row {n}" for n in range(90)]),
        ("Unnamed: 0", np.random.default_rng(0).permutation(90)),
        ("Id", range(1, 91)),
        ("index", range(90)),
        ("PassengerId", range(1, 91)),
        ("customer_id", np.random.default_rng(0).permutation(90)),
    ],
)
def test_a_column_that_numbers_the_rows_is_left_out(kind, name, values, tmp_path):
    plain = go(write(tmp_path, kind, "plain", table()), tmp_path / "plain", kind)
    said = []
    source = write(tmp_path, kind, "train", {name: values, **table()})
    run = go(source, tmp_path / "run", kind, said=said)
    assert run.test == plain.test
    assert [line for line in said if line.startswith(f"left out: {name or 'column 0'} (")]
    last = write(tmp_path, kind, "last", {**table(), name: values})
    assert go(last, tmp_path / "last", kind).test == plain.test


def test_an_id_with_nulls_is_a_feature_that_lacks_values(tmp_path):
    ids = [None if n == 7 else n for n in range(90)]
    got = read(write_parquet(tmp_path / "a.parquet", {"id": ids, **table()}))
    assert got.feature_names == ("id", *FEATURES)
    assert np.flatnonzero(np.isnan(got.x[:, 0])).tolist() == [7]


def test_numbers_that_do_not_count_the_rows_are_features(kind, tmp_path):
    ids = np.arange(90) * 3
    source = write(tmp_path, kind, "train", {"id": ids, "no": np.arange(90) % 9, **table()})
    run = go(source, tmp_path / "run", kind)
    assert run.preprocessing.feature_names == ("id", "no", *FEATURES)


def test_rows_numbered_without_a_header_are_seen_only_if_there_are_some(tmp_path):
    path = write_csv(tmp_path / "a.csv", {"n": range(1, 91), **table()}, header=False)
    assert read(path).x.shape == (90, 4)
    assert read(path, row_numbers="keep").x.shape == (90, 5)
    short = write_csv(tmp_path / "b.csv", {"n": range(1, 6), **table(5)}, header=False)
    assert read(short).x.shape == (5, 5)
    path.write_text("".join(f"{n},{'ab'[n % 2]}\n" for n in range(30)))
    assert read(path).x.shape == (30, 1)  # there is nothing else to learn from


# --------------------------------------------------------------------------------- what is said


def test_the_label_is_named_and_a_guess_is_said_to_be_one(tmp_path, capsys):
    source = write_csv(tmp_path / "train.csv", table())
    train_it = ["train", source, "--set", "epochs=1"]
    out = command(capsys, *train_it, "--out", tmp_path / "run")[1]
    line = "label: species, the last column (3 classes: aster, rose, tulip), a guess: "
    assert f"\n{line}--label chooses another; 4 features\n" in out
    assert (
        f"\n{line}--label chooses another; 4 features\n"
        in command(capsys, "show", tmp_path / "run")[1]
    )
    out = command(capsys, *train_it, "--label", "species", "--out", tmp_path / "chosen")[1]
    assert "\nlabel: species (3 classes: aster, rose, tulip); 4 features\n" in out


def test_the_label_chosen_is_not_forgotten_by_a_guess(tmp_path):
    """survived,class,sex: the default takes the column named class, and says so."""
    rng = np.random.default_rng(0)
    x = {"age": rng.normal(size=90), "fare": rng.normal(size=90)}
    survived = (x["age"] > 0).astype(int)
    source = write_csv(tmp_path / "t.csv", {"survived": survived, "class": survived + 1, **x})
    said = []
    go(source, tmp_path / "guessed", said=said)
    assert any(s.startswith("label: class, by its name (2 classes: 1, 2), a guess") for s in said)
    run = go(source, tmp_path / "chosen", "csv", "data.label=survived")
    assert run.preprocessing.feature_names == ("class", "age", "fare")
    np.testing.assert_array_equal(labels(run, source), survived)


def test_columns_left_out_of_a_later_file_are_said(tmp_path, capsys):
    source = write_csv(tmp_path / "train.csv", table())
    go(source, tmp_path / "run")
    more = write_csv(tmp_path / "more.csv", {**table(), "vip": ["yes", "no"] * 45})
    for name in ("evaluate", "predict"):
        code, _, err = command(capsys, name, tmp_path / "run", more)
        assert code == 0
        assert err == f"{more}: left out, because the run was not trained on it: 'vip'\n"


def test_another_line_than_the_label_is_blamed_where_it_is_to_blame(tmp_path, capsys):
    go(write_csv(tmp_path / "train.csv", table()), tmp_path / "run")
    path = write_csv(tmp_path / "bad.csv", table())
    lines = path.read_text().splitlines()
    lines[7] = "0.1,oops,0.2,0.3,rose"
    path.write_text("\n".join(lines))
    for name in ("evaluate", "predict"):
        code, _, err = command(capsys, name, tmp_path / "run", path)
        assert (code, err.count("\n")) == (2, 1)
        assert "line 8, column 1 ('b'): 'oops' is not a finite number" in err


@pytest.mark.parametrize("header", [True, False])
def test_a_column_of_texts_may_be_the_label(header, tmp_path, capsys):
    columns = {"kind": table()["species"], **{n: table()[n] for n in FEATURES}}
    path = write_csv(tmp_path / "a.csv", columns, header)
    got = read(path)
    assert (got.columns.kinds[0], got.classes) == ("category", None)
    assert "a guess: --label chooses another" in got.columns.lines(None)[0]
    given = "kind" if header else "0"
    settings = ["--set", "epochs=1", "--label", given, "--out", tmp_path / "run"]
    assert command(capsys, "train", path, *settings)[0] == 0


def test_a_categorical_column_of_a_parquet_file_is_a_feature(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    columns = {"colour": pa.array(["red", "blue"] * 45).dictionary_encode(), **table()}
    got = read(write_parquet(tmp_path / "train.parquet", columns))
    assert got.columns.kinds == ("category", *["number"] * 4)
    assert got.columns.levels[0] == ("blue", "red")
    assert got.x[:, 0].tolist() == [1, 0] * 45


def test_a_label_for_a_data_set_with_a_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data.label is for files; digits has labels of its own"):
        go("digits", tmp_path / "run", "csv", "data.label=3")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------ archives, arrays


def test_an_archive_is_asked_for_the_array_of_labels_of_the_run(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3
    np.savez(tmp_path / "train.npz", data=x, target=y)
    said = []
    run = go(tmp_path / "train.npz", tmp_path / "run", said=said)
    assert any(s.startswith("label: target, by its name (3 classes: 0, 1, 2), a") for s in said)
    np.savez(tmp_path / "more.npz", x=-x, data=x, y=y[::-1], target=y)
    np.testing.assert_array_equal(predicted(run, tmp_path / "more.npz"), run.predict(x))
    np.testing.assert_array_equal(labels(run, tmp_path / "more.npz"), y)
    np.savez(tmp_path / "other.npz", data=x, y=y)
    with pytest.raises(DataError, match=r"no array of labels \(any of target\)"):
        run.read(tmp_path / "other.npz", labelled=True)
    np.testing.assert_array_equal(labels(run, tmp_path / "other.npz", label="y"), y)
    rows = write_csv(tmp_path / "rows.csv", dict(zip("abcd", x.T, strict=True)))
    np.testing.assert_array_equal(predicted(run, rows), run.predict(x))


# ----------------------------------------------------------------------------------- checkpoints


def altered(folder, change):
    """Write the checkpoints of a run again with other metadata."""
    for path in (folder / "checkpoints").iterdir():
        from xpnet.storage import load as load_file

        found = load_file(path)
        change(found.meta["preparation"])
        path.unlink()
        save(path, found.tensors, found.meta)


def of_an_earlier_version(meta):
    columns = meta.pop("columns")
    names = columns["names"]
    meta["feature_names"] = names and [names[j] for j in columns["features"]]


def test_a_run_of_an_earlier_version_is_read(tmp_path):
    source = write_csv(tmp_path / "train.csv", table())
    p = predicted(go(source, tmp_path / "run"), source)
    altered(tmp_path / "run", of_an_earlier_version)
    run = load(tmp_path / "run", backend="numpy")
    np.testing.assert_array_equal(predicted(run, source), p)
    turned = write_csv(tmp_path / "turned.csv", dict(reversed(table().items())))
    np.testing.assert_array_equal(predicted(run, turned), p)
    assert len(labels(run, turned, label="species")) == 90
    with pytest.raises(DataError, match=r"which column holds the labels\? the run does not know"):
        run.read(turned, labelled=True)
    labelled = write_csv(tmp_path / "labelled.csv", renamed("species", "label"))
    assert len(labels(run, labelled)) == 90


@pytest.mark.parametrize(
    "columns",
    [
        {"features": [0, 0, 1, 2]},
        {"features": [0, 1, 2]},
        {"features": ["a", "b", "c", "d"]},
        {"features": None},
        {"labels": [1]},
        {"labels": ["species"]},
        {"names": ["a", "b"]},
        {"left_out": [[7, "no"]]},
        {"left_out": 3},
        {},
        [],
    ],
)
def test_columns_that_make_no_sense_are_refused(columns, tmp_path):
    source = write_csv(tmp_path / "train.csv", table())
    go(source, tmp_path / "run")
    whole = columns and isinstance(columns, dict)

    def change(meta):
        meta["columns"] = {**meta["columns"], **columns} if whole else columns

    altered(tmp_path / "run", change)
    with pytest.raises(CheckpointError, match="the checkpoint's columns"):
        load(tmp_path / "run")


# -------------------------------------------------------------------------------- missing labels


@pytest.mark.parametrize("missing", ["", "NA", "N/A", "?", "None", "null", "nan", "NaN", "<NA>"])
def test_a_missing_label_is_refused_with_its_row_or_dropped(missing, tmp_path):
    t = table()
    t["species"] = [missing if n % 10 == 4 else s for n, s in enumerate(t["species"])]
    source = write_csv(tmp_path / "train.csv", t)
    with pytest.raises(DataError, match=r"line 6: the label is missing") as caught:
        go(source, tmp_path / "run")
    assert "--set data.missing_labels=drop" in caught.value.at_command_line
    said = []
    run = go(source, tmp_path / "run", "csv", "data.missing_labels=drop", said=said)
    assert "dropped 9 of 90 rows, which have no label" in said
    kept = np.arange(90) % 10 != 4
    whole = {n: np.asarray(v)[kept] for n, v in t.items()}
    straight = go(write_csv(tmp_path / "kept.csv", whole), tmp_path / "kept")
    assert run.test == straight.test
    assert run.preprocessing.classes == ("aster", "rose", "tulip")
    assert len(run.read(source, labelled=False)) == 90


@pytest.mark.parametrize("kind_of_label", ["text", "number", "category"])
def test_labels_that_are_null_in_a_parquet_file_are_dropped(kind_of_label, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    t, gone = table(), np.arange(90) % 9 == 0
    values = (
        np.unique(t["species"], return_inverse=True)[1]
        if kind_of_label == "number"
        else (t["species"])
    )
    column = pa.array([None if g else v for g, v in zip(gone, values.tolist(), strict=True)])
    column = column.dictionary_encode() if kind_of_label == "category" else column
    source = write_parquet(tmp_path / "a.parquet", {**t, "species": column})
    with pytest.raises(DataError, match="row 0: the label is missing"):
        read(source)
    got = read(source, missing_labels="drop")
    np.testing.assert_array_equal(got.x, np.transpose([t[n][~gone] for n in FEATURES]))
    assert len(got.classes) == 3
    assert got.columns.notes == ("dropped 10 of 90 rows, which have no label",)
    with pytest.raises(ConfigError, match=r"data.missing_labels = 'drop' is for rows in memory"):
        go(source, tmp_path / "run", "streamed", "data.missing_labels=drop")


def test_a_row_after_one_that_was_dropped_keeps_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,y\n1,?\n2,1\n3,1.5\n")
    with pytest.raises(DataError, match=r"line 4: label '1\.5' is not a whole number"):
        read(path, missing_labels="drop", task="classification")


def test_a_regression_drops_rows_without_a_target(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,y\n1,2\n3,NA\n5,\n7,8\n")
    with pytest.raises(DataError, match=r"line 3: the target is missing"):
        read(path, task="regression")
    assert read(path, task="regression", missing_labels="drop").y.tolist() == [2.0, 8.0]
    np.savez(tmp_path / "a.npz", x=np.eye(3), y=np.array([[1, 2], [np.nan, 2], [3, 4]]))
    got = read(tmp_path / "a.npz", task="regression", missing_labels="drop")
    assert got.y.tolist() == [[1, 2], [3, 4]]
    path.write_text("a,y\n1,?\n2,?\n")
    with pytest.raises(DataError, match="no row has a label"):
        read(path, missing_labels="drop")


# ----------------------------------------------------------------------------- names of classes


def test_true_and_false_are_the_same_in_any_capitals(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,y\n1,True\n2,true\n3,FALSE\n4,False\n")
    got = read(path)
    assert (got.classes, got.y.tolist()) == (("False", "True"), [1, 1, 0, 0])
    path.write_text("a,y\n1,true\n2,false\n")
    assert read(path).classes == ("False", "True")
    assert read(path, classes=("false", "true")).y.tolist() == [1, 0]  # of an earlier version
    assert read(path, classes=got.classes).y.tolist() == [1, 0]
    parquet = write_parquet(tmp_path / "a.parquet", {"a": [1.0, 2.0], "y": [True, False]})
    assert read(parquet).classes == ("False", "True")
    assert read(parquet, classes=got.classes).y.tolist() == [1, 0]
    assert read(parquet, classes=("0", "1")).y.tolist() == [1, 0]  # of an earlier version


def test_classes_that_differ_in_capitals_alone_are_pointed_out(tmp_path):
    t = table()
    t["species"] = ["Rose" if n == 3 else s for n, s in enumerate(t["species"])]
    said = []
    go(write_csv(tmp_path / "a.csv", t), tmp_path / "run", "csv", "data.stratify=false", said=said)
    assert "classes that differ in their capitals alone: Rose, rose" in said


@pytest.mark.parametrize("label", [4, "4"])
def test_a_column_named_as_a_number_comes_before_a_position(label, tmp_path):
    species, features = table()["species"], [table()[n] for n in FEATURES]
    order = (features[0], species, *features[1:])  # at position 4 is a feature
    source = write_csv(tmp_path / "a.csv", dict(zip(("x", "4", "5", "6", "7"), order, strict=True)))
    got = read(source, label=label, header=True)
    assert got.classes == ("aster", "rose", "tulip")
    assert got.feature_names == ("x", "5", "6", "7")
    value = json.dumps(label)
    run = go(source, tmp_path / "run", "csv", f"data.label={value}", "data.header=yes")
    assert run.preprocessing.classes == got.classes


def test_classes_are_named_where_they_are_few_and_regressions_suspected(tmp_path):
    t = table()
    few = {**t, "species": ["lily" if n == 5 else s for n, s in enumerate(t["species"])]}
    got = read(write_csv(tmp_path / "few.csv", few))
    assert "'lily' (1)" in rare_classes(got.y, 3, got.classes)[0]
    whole = {**t, "species": np.random.default_rng(0).integers(0, 200, 90)}
    got = read(write_csv(tmp_path / "whole.csv", whole))
    assert got.classes is None
    assert "is taken for a regression; are they classes? --task" in got.columns.notes[0]


def test_every_order_of_the_columns_is_the_same_table(tmp_path):
    source = write_csv(tmp_path / "train.csv", table())
    run = go(source, tmp_path / "run")
    p = predicted(run, source)
    for order in itertools.islice(itertools.permutations(table()), 0, None, 7):
        other = write_csv(tmp_path / "o.csv", {n: table()[n] for n in order})
        np.testing.assert_array_equal(predicted(run, other), p)
