"""A rank reads its own rows of a streamed file, and keeps no others."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpnet.data import Assignment, Shuffle, StreamedDataset, open_rows, scan
from xpnet.data.row_file import Rows
from xpnet.data.stored import NEAR, StoredArray
from xpnet.parallel import WHOLE, Share

ROWS, WIDE = 512, 2 * NEAR // 8  # numbers in a row, so many that others are skipped


@pytest.fixture
def wide(tmp_path, rng):
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(ROWS, WIDE)), y=rng.integers(0, 3, ROWS))
    return scan(open_rows(tmp_path / "t.npz"), window_bytes=2**21).parts[0]


@pytest.fixture
def reads(monkeypatch):
    """The (start, stop) of every read, and what the operating system is told of."""
    found, into = [], StoredArray._read_into

    def recorded(self, rows, start):
        found.append((self.row_bytes, start, start + len(rows)))
        into(self, rows, start)

    monkeypatch.setattr(StoredArray, "_read_into", recorded)
    return found


@pytest.mark.parametrize("shuffle", [None, Shuffle(0, 0)])
def test_every_row_is_read_once_by_one_rank(wide, reads, shuffle):
    for ranks in (2, 4):
        reads.clear()
        for rank in range(ranks):
            before = len(reads)
            for _ in wide.batches(32, shuffle, share=Share(rank, ranks)):
                pass
            own = [stop - start for size, start, stop in reads[before:] if size == WIDE * 8]
            assert sum(own) == ROWS // ranks
        rows = [r for size, *ends in reads for r in range(*ends) if size == WIDE * 8]
        assert sorted(rows) == list(range(ROWS))


def test_the_operating_system_is_told_of_the_same_rows(wide, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *of: told.append(of[1:3]), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    for _ in wide.batches(32, share=Share(1, 4)):
        pass
    offset, row = wide.file._x.offset, WIDE * 8
    assert told == [(offset + i * row, row) for i in range(1, ROWS, 4)]


def test_a_window_without_own_rows_is_not_read(wide, reads):
    share = Share(parts=1, rank=0, size=2)
    assert [len(x) for x, _ in wide.batches(64, share=share)] == [64] * 8
    reads.clear()
    with_none = list(wide.batches(64, share=Share(rank=1, size=2, parts=1)))
    assert [b.x.shape for b in with_none] == [(0, WIDE)] * 8
    assert [b.y.shape for b in with_none] == [(0,)] * 8
    assert {b.y.dtype for b in with_none} == {np.dtype(np.int32)}
    assert sum(stop - start for size, start, stop in reads if size == WIDE * 8) == 1  # for a dtype


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_window_takes_the_memory_of_the_rows_of_a_rank(wide, ranks):
    share = WHOLE if ranks == 1 else Share(1, ranks)
    windows = [x.base.shape for (x, _), _ in wide._windows(Shuffle(0, 0), 32, 0, share)]
    assert set(windows) == {(64 // ranks, WIDE)}


@given(st.lists(st.integers(0, 299), min_size=1, unique=True), st.integers(1, 3000))
def test_rows_that_are_skipped_change_no_row(tmp_path_factory, rows, width):
    path = tmp_path_factory.getbasetemp() / "taken.npy"
    path.write_bytes((np.arange(300 * width) % 251).astype("u1").tobytes())
    array = StoredArray(path, 0, np.dtype("u1"), (300, width))
    whole = (np.arange(300 * width) % 251).reshape(300, width)
    np.testing.assert_array_equal(array.take(np.sort(rows)), whole[np.sort(rows)])


class Numbers:
    """Rows that are their own numbers, in blocks."""

    dtype, columns = np.dtype(np.float64), None

    def __init__(self, rows, block):
        self.shape, self.bounds = (rows, 1), np.append(np.arange(0, rows, block), rows)

    def read(self, start, stop):
        return self.take(np.arange(start, stop))

    def take(self, rows):
        return Rows(rows[:, None].astype(float), -rows)

    def expect(self, rows):
        pass


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 50),
    st.integers(1, 6),
    st.sampled_from([None, 3, 8]),
    st.integers(1, 3),
    st.booleans(),
)
def test_the_rows_of_all_ranks_are_those_of_one_process(
    rows, block, window, size, ranks, parts, micro_batches, shuffled
):
    assignment = Assignment(np.append(np.arange(0, rows, block), rows), (0.7, 0.3), 1)
    data = StreamedDataset(
        Numbers(rows, block), assignment, 0, lambda y: y, None, "numbers", 8 * window
    )
    if not len(data):
        return
    ranks = min(ranks, parts or ranks)
    shuffle = Shuffle(1, 2) if shuffled else None
    whole = [(x.copy(), y.copy()) for x, y in data.batches(size, shuffle)]
    start = len(whole) // 2
    for rank in range(ranks):
        share = Share(rank, ranks, parts, micro_batches)
        own = list(data.batches(size, shuffle, start, share=share))
        assert len(own) == len(whole) - start
        for (x, y), found in zip(whole[start:], own, strict=True):
            at = share.positions(len(x))
            np.testing.assert_array_equal(found.x, x[at])
            np.testing.assert_array_equal(found.y, y[at])


def test_rows_are_taken_from_all_over_a_part(tmp_path, rng):
    x, y = rng.normal(size=(997, 3)), rng.integers(0, 5, 997)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    part = scan(open_rows(tmp_path / "t.npz"), (0.7, 0.3)).parts[1]
    whole = np.concatenate([b.x for b in part.batches(100)])
    chosen = [200, 3, 3, 290, 0]
    np.testing.assert_array_equal(part.take(chosen).x, whole[chosen])
    np.testing.assert_array_equal(part.take(iter(chosen)).y, part.take(range(len(part))).y[chosen])


def test_a_block_of_a_table_is_decoded_for_own_rows_alone(tmp_path, rng, monkeypatch):
    pytest.importorskip("pyarrow", reason="it reads tables")
    from xpnet.data import table_file

    lines = [
        f"{a:.3f},{b:.3f},{k}"
        for (a, b), k in zip(rng.normal(size=(400, 2)), itertools.cycle("xyz"))
    ]
    (tmp_path / "t.csv").write_text("a,b,label\n" + "\n".join(lines) + "\n")
    part = scan(open_rows(tmp_path / "t.csv")).parts[0]
    encoded, features_of = [], table_file.features_of

    def recorded(data, *given):
        encoded.append(len(data))
        return features_of(data, *given)

    monkeypatch.setattr(table_file, "features_of", recorded)
    for rank in range(3):
        for _ in part.batches(30, Shuffle(0, 0), share=Share(rank, 3)):
            pass
    assert sum(encoded) == 400
