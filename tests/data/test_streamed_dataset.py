"""Streamed data: every row exactly once, in the right part and the right order."""

import gzip
import itertools
import os
import zipfile

import numpy as np
import pytest

from xpnet.data import Assignment, Columns, Shuffle, open_rows, read, scan
from xpnet.data.row_file import BLOCKS
from xpnet.data.stored import StoredRows
from xpnet.errors import DataError
from xpnet.nn import Dense, ReLU, Sigmoid
from xpnet.nn.losses import Poisson
from xpnet.parallel import WHOLE
from xpnet.training.trainer import Trainer

SHARES = (0.7, 0.1, 0.2)


def table(rng, rows, columns=3):
    """Features whose first column is the number of the row, and labels sorted by class."""
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    x[:, 0] = np.arange(rows)
    return x, np.sort(rng.integers(0, 5, rows))


def scanned(file, shares=SHARES, **options):
    return scan(file, shares, **options)


FORMATS = ["npz", "npy, a column", "npy, a file of labels", "idx", "parquet"]


def write_parquet(path, x, labels, group=50):
    pa = pytest.importorskip("pyarrow", reason="it reads Parquet")
    pq = pytest.importorskip("pyarrow.parquet", reason="it reads Parquet")
    columns = {f"f{j}": x[:, j] for j in range(x.shape[1])} | {"label": labels}
    pq.write_table(pa.table(columns), path, row_group_size=group)


@pytest.fixture(params=FORMATS)
def saved(request, tmp_path, rng):
    """(path, label, x, y) in each format that can be streamed."""
    x, y = table(rng, 997)
    path = tmp_path / "t.npz"
    if request.param == "npz":
        np.savez(path, x=x, y=y)
        return path, "auto", x, y
    path = tmp_path / "t.npy"
    if request.param == "npy, a column":
        np.save(path, np.column_stack([x[:, :2], y, x[:, 2]]).astype(">f4"))
        return path, 2, x, y
    if request.param == "npy, a file of labels":
        np.save(path, x.reshape(997, 3, 1))
        np.save(tmp_path / "labels.npy", y.astype("U8"))
        return path, "labels.npy", x.reshape(997, 3, 1), y
    if request.param == "parquet":
        write_parquet(tmp_path / "t.parquet", x, y.astype(str))
        return tmp_path / "t.parquet", "auto", x, y
    path = tmp_path / "images.idx"
    path.write_bytes(b"\0\0\x0d\2" + np.array(x.shape, ">u4").tobytes() + x.astype(">f4").tobytes())
    path.with_name("labels.idx").write_bytes(
        b"\0\0\x08\1" + np.array(y.shape, ">u4").tobytes() + y.astype("u1").tobytes()
    )
    return path, "labels.idx", x, y


def test_every_format_yields_every_row_once_with_its_label(saved):
    path, label, x, y = saved
    whole = scanned(open_rows(path, label))
    batches = [list(part.batches(64)) for part in whole.parts]
    got_x = np.concatenate([b.x for b in itertools.chain(*batches)])
    got_y = np.concatenate([b.y for b in itertools.chain(*batches)])
    order = np.argsort(got_x.reshape(len(x), -1)[:, 0])
    np.testing.assert_array_equal(got_x[order], x)
    np.testing.assert_array_equal(got_y[order], y)
    assert got_x.dtype == np.float32
    assert got_y.dtype == np.int32
    assert whole.parts[0].classes == ("0", "1", "2", "3", "4")
    in_memory = read(path, label=label)
    np.testing.assert_array_equal(in_memory.x, x)
    np.testing.assert_array_equal(in_memory.y, y)


def test_a_scan_finds_the_same_statistics_as_the_rows_in_memory(saved):
    path, label, _, _ = saved
    whole = scanned(open_rows(path, label))
    for part, stats in zip(whole.parts, whole.stats, strict=True):
        rows = np.concatenate([b.x for b in part.batches(1000)]).astype(np.float64)
        assert stats.count == len(part) == len(rows)
        np.testing.assert_allclose(stats.mean, rows.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(stats.std, rows.std(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(stats.low, rows.min(axis=0))
        np.testing.assert_array_equal(stats.high, rows.max(axis=0))


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 1000, 100_003])
def test_an_assignment_is_a_partition_with_the_given_shares(rows):
    bounds = np.append(np.arange(0, rows, max(1, rows // BLOCKS)), rows)
    assignment = Assignment(bounds, SHARES, seed=3)
    found = []
    for part, share in enumerate(SHARES):
        runs = [assignment.runs(part, b) for b in range(len(bounds) - 1)]
        sizes = [sum(b - a for a, b in block) for block in runs]
        assert sizes == assignment.counts(part).tolist()
        assert all(len(block) <= 2 for block in runs)
        found += [np.arange(a, b) for block in runs for a, b in block]
        # Each block is rounded at random, by less than one row: the errors add up as a random walk.
        assert abs(sum(sizes) - share * rows) < 4 * np.sqrt(len(bounds))
    assert np.sort(np.concatenate(found)).tolist() == list(range(rows))


def test_each_block_is_turned_by_its_own_number_of_rows():
    bounds = np.arange(0, 6_400, 100)
    assignment = Assignment(bounds, SHARES, seed=3)
    firsts = [assignment.runs(0, b)[-1][0] - bounds[b] for b in range(len(bounds) - 1)]
    assert len(set(firsts)) > 25  # of 63; without the turn the first part begins every block


def test_a_sorted_file_is_split_evenly_by_class(tmp_path):
    y = np.repeat(np.arange(10), 5000)
    np.savez(tmp_path / "t.npz", x=np.zeros((len(y), 2), np.float32), y=y)
    parts = scanned(open_rows(tmp_path / "t.npz", "auto")).parts
    for part, share in zip(parts, SHARES, strict=True):
        counts = np.bincount(np.concatenate([b.y for b in part.batches(500)]), minlength=10)
        # A class of 8 pieces (a block has 781 rows) is rounded up or down in each of them.
        np.testing.assert_allclose(counts, share * 5000, rtol=0, atol=4)


@pytest.mark.parametrize("order", ["sorted", "backwards", "shards", "shuffled", "time"])
@pytest.mark.parametrize("form", ["parquet, one group", "parquet", "npz"])
def test_every_part_has_its_share_of_every_class(form, order, tmp_path, rng):
    y = np.repeat(np.arange(10), rng.integers(200, 900, 10))
    if order == "shards":  # each sorted by itself
        y = np.concatenate([np.sort(piece) for piece in np.array_split(rng.permutation(y), 5)])
    if order == "shuffled":
        y = rng.permutation(y)
    if order == "time":  # a class becomes rarer as another begins
        y = y[np.argsort(y + rng.normal(size=len(y)))]
    y = y[::-1] if order == "backwards" else y
    x = np.column_stack([np.arange(len(y)), rng.normal(size=(len(y), 3))]).astype(np.float32)
    path = tmp_path / f"t.{form.partition(',')[0]}"
    if form == "npz":
        np.savez(path, x=x, y=y)
    else:
        write_parquet(path, x, y, group=len(y) if "one" in form else 700)
    whole = scanned(open_rows(path, "auto"))
    taken = [np.concatenate([b.x[:, 0] for b in p.batches(500)]).astype(int) for p in whole.parts]
    assert sorted(np.concatenate(taken)) == list(range(len(y)))
    for rows, share, counted in zip(taken, SHARES, whole.class_counts, strict=True):
        counts = np.bincount(y[rows], minlength=10)
        np.testing.assert_array_equal(counts, counted)
        random = np.sqrt(share * (1 - share) * np.bincount(y))  # of a split without stratification
        off = np.abs(counts - share * np.bincount(y))
        assert (off <= (4 if order in ("sorted", "backwards") else 4 * random)).all()
        assert np.ptp(rows) > 0.8 * len(y)
    again = scanned(open_rows(path, "auto"))
    other = scanned(open_rows(path, "auto"), seed=1)
    for a, b, c in zip(taken, again.parts, other.parts, strict=True):
        assert a.tolist() == np.concatenate([r.x[:, 0] for r in b.batches(500)]).tolist()
        assert a.tolist() != np.concatenate([r.x[:, 0] for r in c.batches(500)]).tolist()


def test_what_is_kept_of_a_split_is_a_fraction_of_the_rows():
    rows = 2**20
    assignment = Assignment(np.array([0, rows]), SHARES, 0, 4096)
    assignment.cut(0, np.arange(rows) % 7)  # changes everywhere: not sorted
    assert len(assignment.runs(0, 0)) <= 2 * rows // 4096
    assignment = Assignment(np.array([0, rows]), SHARES, 0, 4096)
    assignment.cut(0, np.arange(rows) // 1000)  # sorted
    kept = sum(b.nbytes for b in assignment._borders.values())
    assert 0 < kept <= rows // 32


@pytest.mark.parametrize("size", [1, 7, 64, 5000])
@pytest.mark.parametrize("window_bytes", [1, 500, 4000, 2**20])
def test_an_epoch_resumes_at_any_batch(size, window_bytes, tmp_path, rng):
    x, y = table(rng, 150)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    part = scanned(open_rows(tmp_path / "t.npz", "auto"), window_bytes=window_bytes).parts[0]
    for shuffle in (None, Shuffle(1, 2)):
        whole = list(part.batches(size, shuffle))
        assert {len(b.x) for b in whole[:-1]} <= {size}
        assert sorted(np.concatenate([b.x[:, 0] for b in whole])) == sorted(
            np.concatenate([b.x[:, 0] for b in part.batches(150)])
        )
        for start in {0, 1, len(whole) // 2, len(whole) - 1}:
            rest = list(part.batches(size, shuffle, start=start))
            for a, b in zip(whole[start:], rest, strict=True):
                np.testing.assert_array_equal(a.x, b.x)
                np.testing.assert_array_equal(a.y, b.y)


def test_every_epoch_has_its_own_order_and_is_mixed_across_the_file(tmp_path, rng):
    x, y = table(rng, 20_000)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    part = scanned(open_rows(tmp_path / "t.npz", "auto"), (1.0,), window_bytes=x.nbytes // 4).parts[
        0
    ]
    orders = [np.concatenate([b.x[:, 0] for b in part.batches(100, Shuffle(s, e))])
              for s, e in ((0, 0), (0, 1), (1, 0))]  # fmt: skip
    for a, b in itertools.combinations(orders, 2):
        assert (a == b).mean() < 0.01
    for order in orders:  # a batch of 100 has rows from the whole file, which is sorted
        batches = order.reshape(-1, 100)
        spread = batches.max(axis=1) - batches.min(axis=1)
        assert spread.min() > len(x) / 2
        # With 16 blocks to a window, a sixteenth of the order of the file remains.
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 2 / 16


def test_each_window_has_its_own_order(tmp_path, rng):
    x, y = table(rng, 20_000)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    whole = scanned(open_rows(tmp_path / "t.npz", "auto"), (1.0,), window_bytes=x.nbytes // 4)
    orders = [order for _, order in whole.parts[0]._windows(Shuffle(0, 0), 100, 0, WHOLE)]
    assert len(orders) >= 4
    for a, b in itertools.pairwise(orders):
        n = min(len(a), len(b))
        assert (a[:n] == b[:n]).mean() < 0.01


def test_memory_is_independent_of_the_rows_and_work_of_the_position(tmp_path):
    """A batch costs reading its window, wherever it is and however long the file."""

    class Counted(StoredRows):
        def read(self, start, stop):
            self.rows = getattr(self, "rows", 0) + stop - start
            return super().read(start, stop)

    for rows in (10_000, 100_000):
        np.savez(tmp_path / "t.npz", x=np.zeros((rows, 4), np.float32), y=np.arange(rows) % 3)
        inner = open_rows(tmp_path / "t.npz", "auto")
        for start in (0, rows // 20 - 2):  # each with a file of its own: a thread may read on
            counted = Counted(inner._x, inner._y)
            part = scanned(counted, (1.0,), window_bytes=2000 * 16).parts[0]
            counted.rows = 0
            batches = part.batches(10, Shuffle(0, 0), start=2 * start // 2)
            next(batches)
            batches.close()
            largest = int(np.diff(inner.bounds).max())
            assert counted.rows <= 2 * (2000 + largest)  # the window, and the prefetched one


def test_rows_are_taken_by_their_index_in_the_part(tmp_path, rng):
    x, y = table(rng, 300)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    part = scanned(open_rows(tmp_path / "t.npz", "auto")).parts[1]
    rows = np.concatenate([b.x for b in part.batches(300)])
    some = part.take([5, 0, len(part) - 1])
    np.testing.assert_array_equal(some.x, rows[[5, 0, len(part) - 1]])
    assert some.classes == part.classes


def test_a_trainer_takes_streamed_parts(tmp_path, rng):
    x = rng.normal(size=(1000, 4)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=x, y=(x[:, 0] > 0).astype(int))
    train, test = scanned(open_rows(tmp_path / "t.npz"), (0.8, 0.2)).parts
    trainer = Trainer([Dense(8), ReLU(), Dense(2)], backend="numpy", batch_size=20)
    history = trainer.fit(train, epochs=15, validation=test)
    assert history[-1]["val_accuracy"] > 0.9
    assert len(trainer.evaluate(test).predictions) == len(test)


def test_the_fingerprint_covers_every_byte(tmp_path, rng):
    x, y = table(rng, 200)
    fingerprints = set()
    for change in (lambda: None, lambda: x.__setitem__((199, 2), 1), lambda: y.__setitem__(0, 4)):
        change()
        np.savez(tmp_path / "t.npz", x=x, y=y)
        fingerprints.add(scanned(open_rows(tmp_path / "t.npz", "auto")).fingerprint)
    assert len(fingerprints) == 3


def test_regression_targets_are_numbers(tmp_path, rng):
    x, _ = table(rng, 200)
    y = rng.normal(size=(200, 2))
    np.savez(tmp_path / "t.npz", x=x, y=y)
    whole = scanned(open_rows(tmp_path / "t.npz", "auto"), (1.0,), task="regression")
    np.testing.assert_allclose(whole.target_stats[0].mean, y.mean(axis=0))
    assert whole.parts[0].classes is None
    np.testing.assert_array_equal(np.concatenate([b.y for b in whole.parts[0].batches(64)]), y)


def test_a_target_that_the_loss_does_not_take_is_named_by_its_row_in_the_file(tmp_path, rng):
    x, y = rng.normal(size=(200, 3)), rng.poisson(2.0, size=200).astype(float)
    y[157] = -1.0
    np.savez(tmp_path / "t.npz", x=x, y=y)
    rows, loss = open_rows(tmp_path / "t.npz", "auto"), Poisson()
    place = r"poisson takes counts; the target of .*t.npz.*: row 157 is -1.0"
    with pytest.raises(DataError, match=place):
        scan(rows, task="regression", check=lambda y, name: loss.check_target(y, 1, name))
    whole = scan(rows, task="regression").parts[0]  # which knows of no loss
    trainer = Trainer([Dense(1)], loss, backend="numpy", batch_size=20)
    with pytest.raises(DataError, match=place):
        trainer.fit(whole, epochs=1)
    bounded = Trainer([Dense(1), Sigmoid()], "mean_squared_error", backend="numpy")
    with pytest.raises(
        DataError, match=r"the target of .*t.npz.*: row \d+ is .* sigmoid, are betw"
    ):
        bounded.fit(whole, epochs=1)


def test_parquet_columns_are_selected_by_name(tmp_path, rng):
    x, y = table(rng, 300)
    write_parquet(tmp_path / "t.parquet", x, y)
    like = Columns((2, 0), (3,), ("f0", "f1", "f2", "label"), ((1, "of no use"),))
    file = open_rows(tmp_path / "t.parquet", like=like)
    np.testing.assert_array_equal(file.read(50, 100).x, x[50:100, [2, 0]])
    assert scanned(file).parts[0].feature_names == ("f2", "f0")
    like = Columns((0, 2), (1,), ("f0", "label", "f9"))
    with pytest.raises(DataError, match="no column 'f9'; known: f0, f1, f2"):
        open_rows(tmp_path / "t.parquet", like=like)


def test_each_parquet_row_group_is_unpacked_once(tmp_path, rng, monkeypatch):
    x, y = table(rng, 300)
    write_parquet(tmp_path / "t.parquet", x, y)
    file = open_rows(tmp_path / "t.parquet", "label")
    unpacked, unpack = [], file._unpack
    monkeypatch.setattr(file, "_unpack", lambda group: unpacked.append(group) or unpack(group))
    part = scanned(file).parts[0]
    assert unpacked == [0, 1, 2, 3, 4, 5]
    unpacked.clear()
    assert sum(len(b.x) for b in part.batches(16, Shuffle(0, 0))) == len(part)
    assert sorted(unpacked) == [0, 1, 2, 3, 4, 5]


# -- data that is refused --------------------------------------------------------------------


def refused(path, message=None, label="auto", **options):
    with pytest.raises(DataError, match=message) as caught:
        scanned(open_rows(path, label), **options)
    assert str(caught.value).startswith(str(path.parent))
    assert "\n" not in str(caught.value)


def test_a_bad_value_is_named_by_its_row(tmp_path, rng):
    x, y = table(rng, 500)
    x[321, 2] = np.nan
    np.savez(tmp_path / "t.npz", x=x, y=y)
    refused(tmp_path / "t.npz", r"row 321, x\[2\] is nan")
    x[321, 2] = 0
    np.savez(tmp_path / "t.npz", x=x, y=np.where(np.arange(500) == 77, np.inf, y))
    refused(tmp_path / "t.npz", r"row 77 is inf; it must be a finite number", task="regression")
    np.savez(tmp_path / "t.npz", x=x, y=np.where(np.arange(500) == 77, 1.5, y))
    refused(tmp_path / "t.npz", "row 77: label '1.5' is not a whole number")
    np.savez(tmp_path / "t.npz", x=x, y=y)
    refused(tmp_path / "t.npz", "not among the 2 known classes", classes=("0", "1"))


def test_a_file_that_cannot_be_streamed_says_why(tmp_path, rng, monkeypatch):
    x, y = table(rng, 50)
    np.savez_compressed(tmp_path / "t.npz", x=x, y=y)
    refused(tmp_path / "t.npz", "compressed, so it cannot be streamed; save it with np.savez")
    np.save(tmp_path / "t.npy", np.asfortranarray(x))
    refused(tmp_path / "t.npy", "in Fortran order, so its rows cannot be streamed")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"1,2\n"))
    refused(tmp_path / "t.csv.gz", "cannot be streamed; known: .npy .npz .idx ubyte .csv")
    np.savez(tmp_path / "t.npz", x=np.array([{}, {}]), y=y)
    refused(tmp_path / "t.npz", "an array of Python objects")
    write_parquet(tmp_path / "t.parquet", x, [*y[:20], None, *y[21:]])
    refused(tmp_path / "t.parquet", "row 20: the label is missing")
    np.savez(tmp_path / "t.npz", x=x, y=y[:-1])
    refused(tmp_path / "t.npz", r"labels of shape \(49,\) for 50 rows")
    monkeypatch.setattr("xpnet.data.files.MAX_BYTES", 500)
    write_parquet(tmp_path / "t.parquet", x, y)
    refused(tmp_path / "t.parquet", "row group 0: 50 rows of 4 columns.*row_group_size")


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.parquet"])
def test_a_file_truncated_at_any_byte_is_refused(name, tmp_path, rng):
    x, y = table(rng, 20)
    np.save(tmp_path / "t.npy", x)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    write_parquet(tmp_path / "t.parquet", x, y)
    whole = (tmp_path / name).read_bytes()
    for size in range(0, len(whole), 13):
        (tmp_path / name).write_bytes(whole[:size])
        refused(tmp_path / name)


def test_an_entry_with_a_wrong_offset_is_refused(tmp_path, rng):
    x, y = table(rng, 20)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    with zipfile.ZipFile(tmp_path / "t.npz") as archive:
        offset = archive.getinfo("x.npy").header_offset
    blob = bytearray((tmp_path / "t.npz").read_bytes())
    blob[offset + 28 : offset + 30] = b"\xff\xff"  # the length of the extra field
    (tmp_path / "t.npz").write_bytes(blob)
    refused(tmp_path / "t.npz")


@pytest.mark.parametrize("name", ["t.npz", "t.parquet"])
def test_a_file_that_is_modified_during_training_stops_it(name, tmp_path, rng):
    x, y = table(rng, 5000)
    path = tmp_path / name
    if path.suffix == ".npz":
        np.savez(path, x=x, y=y)
    else:
        write_parquet(path, x, y)
    part = scanned(open_rows(path, "auto"), window_bytes=2000).parts[0]
    batches = part.batches(10)
    next(batches)
    with path.open("r+b") as file:
        file.seek(3000)
        file.write(b"!")
    os.utime(path, ns=(0, 0))
    with pytest.raises(
        DataError, match=r"the file was changed (during training|while .* used); start again"
    ):
        list(batches)
