"""What one rank has found out of a streamed file is handed over: no other reads all of it."""

import pickle

import numpy as np
import pytest
from thread_ranks import on_ranks

from xpnet.data import Shuffle, open_rows, scan, table_file
from xpnet.data.stored import StoredRows
from xpnet.data.table_file import TableRows
from xpnet.errors import DataError
from xpnet.parallel import shared_by_all
from xpnet.run.config_sources import load_config
from xpnet.run.splits import load_splits

pa = pytest.importorskip("pyarrow", reason="it reads tables")
FORMATS = ("npz", "npy", "csv", "parquet", "feather")


@pytest.fixture(params=FORMATS)
def path(request, tmp_path, rng):
    n, path = 400, tmp_path / f"t.{request.param}"
    x, y = rng.normal(size=(n, 3)).round(3), rng.integers(0, 3, n)
    if request.param == "npz":
        np.savez(path, x=x, y=y)
        return path
    if request.param == "npy":
        np.save(path, np.column_stack([x, y]))
        return path
    columns = {"a": x[:, 0], "kind": np.array(["u", "v", "w"])[rng.integers(0, 3, n)], "label": y}
    table = pa.table(columns)
    if request.param == "csv":
        pytest.importorskip("pyarrow.csv").write_csv(table, path)
    elif request.param == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=50)
    else:
        pytest.importorskip("pyarrow.feather").write_feather(table, path, chunksize=50)
    return path


def opened(path):
    return scan(open_rows(path, 3 if path.suffix == ".npy" else "auto"), (0.7, 0.3))


def test_it_yields_the_same_rows(path):
    part = opened(path).parts[1]
    other = pickle.loads(pickle.dumps(part))
    assert other.classes == part.classes
    assert other.columns == part.columns
    assert other.file.location(7) == part.file.location(7)
    batches = [list(p.batches(30, Shuffle(0, 1))) for p in (part, other)]
    for a, b in zip(*batches, strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, b.y)
        assert (a.x.dtype, a.y.dtype) == (b.x.dtype, b.y.dtype)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_targets_are_the_same(task, tmp_path, rng):
    y = rng.normal(size=200) if task == "regression" else np.eye(3)[rng.integers(0, 3, 200)]
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(200, 2)), y=y)
    part = scan(open_rows(tmp_path / "t.npz"), task=task).parts[0]
    other = pickle.loads(pickle.dumps(part))
    for a, b in zip(part.batches(30), other.batches(30), strict=True):
        np.testing.assert_array_equal(a.y, b.y)


def test_another_file_in_its_place_is_refused(path):
    pickled = pickle.dumps(opened(path))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"is another file on .* than where it was read first"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        pickle.loads(pickled)


def test_only_rank_0_reads_the_file_as_a_whole(path, monkeypatch):
    settings = {"data.stream": "yes"} | ({"data.label": "3"} if path.suffix == ".npy" else {})
    config, reads = load_config(path, settings), []
    monkeypatch.setattr(
        table_file.TableRows, "_survey", recording(reads, "survey", TableRows._survey)
    )
    for kind in (TableRows, StoredRows):
        monkeypatch.setattr(kind, "read", recording(reads, "read", kind.read))

    def on_rank(comm):
        splits = shared_by_all(comm, lambda: load_splits(config))
        return splits.fingerprint, splits.preprocessing.encoder.tensors()

    load_splits(config)
    alone = reads.copy()
    reads.clear()
    found = on_ranks(3, on_rank)
    assert reads == alone
    assert "read" in alone
    for fingerprint, encoder in found:
        assert fingerprint == found[0][0]
        for name, values in encoder.items():
            np.testing.assert_array_equal(values, found[0][1][name])


def recording(calls, name, function):
    def recorded(*given):
        calls.append(name)
        return function(*given)

    return recorded
