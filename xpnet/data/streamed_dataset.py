"""Data sets larger than memory: rows stay in their file and are read a window at a time.

A file consists of *blocks* of a few megabytes, or of the row groups of a table, each of which is
read at once, and a block of *pieces*: a run of rows of one class where the file is sorted by class,
and at most a 64th of the file. Every part of a split gets its share of every piece, so that it has
its share of every class and is still read at the speed of the disk. An epoch reads the blocks in
random order, several of them to a *window*, and shuffles the rows of each window. Both orders
depend on (seed, epoch) alone: training resumes at any batch by reading just the window that
contains it.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpnet.data.batches import Shuffle
from xpnet.data.columns import Columns
from xpnet.data.dataset import Dataset
from xpnet.data.row_file import RowFile, Rows
from xpnet.parallel import WHOLE, Share
from xpnet.prefetch import Empty, new_array, prefetch
from xpnet.random import generator

__all__ = ["Assignment", "Check", "StreamedDataset"]

Transform = Callable[[np.ndarray], np.ndarray]
Runs = list[tuple[int, int]]

GOLDEN = 0.6180339887498949  # the multiples of it, modulo 1, are the most even of all sequences
# A block is sorted by its labels if they change seldom; the places where they do are kept.
FEW_BORDERS, SORTED = 64, 256
RECENT = 4096  # blocks whose runs are kept
# Raises DataError for the first of some targets that is wrong, which the function given names.
Check = Callable[[np.ndarray, Callable[[int], str]], None]


class Assignment:
    """Which rows of each block belong to which part.

    Each piece of a block is rotated by a random number of rows and then cut, so that a part has at
    most two runs of rows in it. The positions of the cuts are rounded up or down by a sequence that
    is even over consecutive pieces (the multiples of the golden ratio): the shares are right,
    however few rows a piece has. All of it depends on the seed, the bounds and the pieces alone.
    """

    def __init__(
        self,
        bounds: np.ndarray,
        shares: Sequence[float] = (1.0,),
        seed: int = 0,
        piece_rows: int | None = None,
    ) -> None:
        self.bounds, self._seed, self._piece_rows = bounds, seed, piece_rows
        self._inner = np.cumsum(shares)[:-1]
        self._borders: dict[int, np.ndarray] = {}  # by block: rows of it where the label changes
        self._recent: dict[int, list[Runs]] = {}  # by block: the runs of each part

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_recent": {}}

    def cut(self, block: int, labels: np.ndarray) -> None:
        """Begin a piece wherever the label changes in a block, if it is sorted by them."""
        borders = np.flatnonzero(labels[1:] != labels[:-1]) + 1
        if 0 < len(borders) <= max(FEW_BORDERS, len(labels) // SORTED):
            self._borders[block] = borders.astype(np.int32)

    def counts(self, part: int) -> np.ndarray:
        """Return how many rows of each block belong to a part."""
        return self._counts[:, part]

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        if not len(self._inner):
            return np.diff(self.bounds)[:, None]
        edges = (self._edges(block)[2] for block in range(len(self.bounds) - 1))
        return np.stack([(e[:, 1:] - e[:, :-1]).sum(axis=0) for e in edges])

    def runs(self, part: int, block: int) -> Runs:
        """Return the begin and end of each run of a part in a block, as rows of the file."""
        low, high = int(self.bounds[block]), int(self.bounds[block + 1])
        if not len(self._inner):
            return [(low, high)]
        found = self._recent.get(block)
        if found is None:
            if len(self._recent) >= RECENT:
                self._recent.clear()
            begins, rotations, edges = self._edges(block)
            sizes = np.append(begins[1:], high - low) - begins
            found = self._recent[block] = [
                _runs(low + begins, sizes, rotations + edges[:, p], rotations + edges[:, p + 1])
                for p in range(edges.shape[1] - 1)
            ]
        return found[part]

    def _edges(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the beginnings of a block's pieces, their rotations, and the cuts of each."""
        n, borders = int(self.bounds[block + 1] - self.bounds[block]), self._borders.get(block)
        begins = np.arange(0, n, self._piece_rows or n)
        if borders is not None:
            begins = np.union1d(begins, borders)
        sizes, draw = np.append(begins[1:], n) - begins, generator(self._seed, "split", block)
        rotations, rounding = draw.integers(sizes), draw.random() + GOLDEN * np.arange(len(sizes))
        edges = np.empty((len(sizes), len(self._inner) + 2), np.int64)
        edges[:, 0], edges[:, -1] = 0, sizes
        edges[:, 1:-1] = self._inner * sizes[:, None] + (rounding % 1)[:, None]
        return begins, rotations, np.minimum(edges, sizes[:, None])


def _runs(lows: np.ndarray, sizes: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Runs:
    """Return the runs of a part in pieces at ``lows``, which go on at 0 from the size of each."""
    runs = np.empty((len(lows), 2, 2), np.int64)
    runs[:, 0, 0], runs[:, 0, 1] = np.maximum(begin - sizes, 0), np.maximum(end - sizes, 0)
    runs[:, 1, 0], runs[:, 1, 1] = np.minimum(begin, sizes), np.minimum(end, sizes)
    joined: Runs = []
    for a, b in (runs + lows[:, None, None]).reshape(-1, 2).tolist():
        if joined and joined[-1][1] == a:
            joined[-1] = (joined[-1][0], b)
        elif b > a:
            joined.append((a, b))
    return joined


@dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A part of a file of rows, with the interface of :class:`Dataset` except for the arrays.

    ``targets`` converts labels, as stored in the file, to class indices or numbers; ``transform``
    converts a block of features to ``dtype``, which is that of the file by default. ``check`` sees
    the targets of every block that is read.
    """

    file: RowFile
    assignment: Assignment
    part: int
    targets: Transform | None  # None without labels
    classes: tuple[str, ...] | None
    name: str
    window_bytes: int
    transform: Transform | None = None
    dtype: str | np.dtype | None = None
    check: Check | None = None

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def columns(self) -> Columns | None:
        """The columns of the table in the file."""
        return self.file.columns

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns, if the file has any."""
        return None if self.columns is None else self.columns.feature_names

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one row of features."""
        return self.file.shape[1:]

    @property
    def labelled(self) -> bool:
        """Whether there are labels or targets."""
        return self.targets is not None

    @property
    def _input_shape(self) -> tuple[int, ...]:
        """The shape of a transformed row."""
        if self.transform is None:
            return self.feature_shape
        return self.transform(np.zeros((1, *self.feature_shape), self.file.dtype)).shape[1:]

    @property
    def _dtype(self) -> np.dtype:
        """The dtype of a transformed row."""
        return np.dtype(self.dtype or self.file.dtype)

    @property
    def _counts(self) -> np.ndarray:
        return self.assignment.counts(self.part)

    def block(self, number: int, some: np.ndarray | None = None) -> Rows:
        """Return the rows of this part in a block, with transformed features and targets.

        ``some`` (n,) are the numbers of those to return among them, in ascending order.
        """
        if some is None:
            runs = [self.file.read(*run) for run in self.assignment.runs(self.part, number)]
            x = np.concatenate([rows.x for rows in runs])
            labels = None if self.targets is None else np.concatenate([rows.y for rows in runs])
        else:
            x, labels = self.file.take(self._numbers(number)[some])
        x = x if self.transform is None else self.transform(x)
        if self.targets is None or labels is None:
            return Rows(x, None)
        y = self.targets(labels)
        if self.check is not None:
            self.check(y, lambda i: self._location(number, i if some is None else some[i]))
        return Rows(x, y)

    def _location(self, block: int, i: int | np.integer) -> str:
        """The place in the file of row ``i`` of this part in a block."""
        return self.file.location(int(self._numbers(block)[i]))

    def _numbers(self, block: int) -> np.ndarray:
        """The rows of the file that are of this part in a block, in ascending order."""
        return np.concatenate([np.arange(*r) for r in self.assignment.runs(self.part, block)])

    def take(self, indices: Iterable[int]) -> Dataset:
        """Return the rows at ``indices`` of this part, in that order, as a data set in memory."""
        wanted, places = np.unique([*indices], return_inverse=True)
        ends = np.cumsum(self._counts)
        numbers = np.searchsorted(ends, wanted, side="right")
        some = wanted - (ends - self._counts)[numbers]
        found = [self.block(int(k), some[numbers == k]) for k in np.unique(numbers)]
        x = np.concatenate([rows.x for rows in found])[places]
        y = None if self.targets is None else np.concatenate([rows.y for rows in found])[places]
        return Dataset(x, y, self.classes, self.name, self.columns)

    def batches(
        self,
        size: int,
        shuffle: Shuffle | None = None,
        start: int = 0,
        empty: Empty = new_array,
        share: Share = WHOLE,
    ) -> Iterator[Rows]:
        """Yield batches of ``size`` rows, beginning with batch ``start``; the last may be smaller.

        Of each only the rows of ``share`` are read and yielded, in the order of its positions;
        there may be none. ``empty`` gives the arrays for "x" and "y" of each. A thread reads and
        transforms the next window while batches are taken from the current one.
        """
        windows = prefetch(self._windows(shuffle, size, start, share), depth=1)
        rows: Rows | None = None
        order, taken = np.zeros(0, np.intp), 0
        for first in range(start * size, len(self), size):
            n, places = _places(min(size, len(self) - first), share)
            batch: list[np.ndarray | None] = []
            filled = 0
            while filled < n or not batch:
                if taken == len(order) and filled < n:
                    (rows, order), taken = next(windows), 0
                rows = rows or self._none()
                if not batch:
                    batch = [None if v is None else empty(k, (n, *v.shape[1:]), v.dtype)
                             for k, v in zip(Rows._fields, rows, strict=True)]  # fmt: skip
                chosen = order[taken : taken + n - filled]
                at = slice(filled, filled + len(chosen))
                for v, out in zip(rows, batch, strict=True):
                    if v is None or out is None:
                        continue
                    if places is None:
                        v.take(chosen, 0, out[at], "clip")
                    else:
                        out[places[at]] = v[chosen]
                taken, filled = taken + len(chosen), filled + len(chosen)
            yield Rows(*batch)  # type: ignore[arg-type]

    def _none(self) -> Rows:
        """No row of a window; what targets are like is seen by reading one."""
        x = np.empty((0, *self._input_shape), self._dtype)
        if self.targets is None:
            return Rows(x, None)
        y = self.block(int(np.argmax(self._counts > 0)), np.zeros(1, np.intp)).y
        return Rows(x, y)

    def _windows(
        self, shuffle: Shuffle | None, size: int, start: int, share: Share
    ) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield the rows of each window and the order to take them in, from batch ``start`` on.

        Of a window without a row of ``share`` nothing is read. Where windows begin and end, and in
        which order their rows come, depends on no share. There are two buffers: one is filled while
        the other is being read.
        """
        order = (
            np.arange(len(self._counts)) if shuffle is None else shuffle.order(len(self._counts))
        )
        order = order[self._counts[order] > 0]
        counts = self._counts[order]
        before = np.cumsum(counts) - counts
        row_bytes = self._dtype.itemsize * int(np.prod(self._input_shape))
        firsts = np.unique(before // max(1, self.window_bytes // row_bytes), return_index=True)[1]
        ends = np.append(firsts[1:], len(order))
        lows = before[firsts]
        highs = np.append(lows[1:], len(self))
        sizes = _owned(highs, size, share) - _owned(lows, size, share)
        shape = (int(sizes.max()), *self._input_shape)
        buffers = itertools.cycle(
            [np.empty(shape, self._dtype) for _ in range(min(2, len(firsts)))]
        )
        for number, (low, high) in enumerate(zip(lows, highs, strict=True)):
            if high <= (begin := max(low, start * size)):
                continue
            n, own = high - low, None
            row_order = np.arange(n) if shuffle is None else shuffle.order(n, 1 + number)
            row_order = row_order[begin - low :]
            if not share.is_whole:
                row_order = row_order[share.owns(np.arange(begin, high) % size)]
                if not len(row_order):
                    continue
                by_row = np.argsort(row_order)
                own = row_order[by_row]
                row_order[by_row] = np.arange(len(own))
            yield self._window(order[firsts[number] : ends[number]], next(buffers), own), row_order

    def _window(self, blocks: np.ndarray, x: np.ndarray, own: np.ndarray | None) -> Rows:
        """Read blocks into ``x``, after announcing all of them to the operating system.

        ``own`` (n,) are the rows of the window to read, in ascending order; None is all.
        """
        parts: list[tuple[int, np.ndarray | None]] = [(number, None) for number in blocks]
        if own is not None:
            ends = np.cumsum(self._counts[blocks])
            begins = ends - self._counts[blocks]
            cuts = itertools.pairwise(np.searchsorted(own, [0, *ends]))
            parts = [
                (number, own[a:b] - begin)
                for number, begin, (a, b) in zip(blocks, begins, cuts, strict=True)
                if b > a
            ]
        for number, some in parts:
            if some is not None:
                self.file.expect(self._numbers(number)[some])
                continue
            for run in self.assignment.runs(self.part, number):
                self.file.expect(range(*run))
        filled, ys = 0, []
        for number, some in parts:
            rows = self.block(number, some)
            x[filled : filled + len(rows.x)] = rows.x
            filled += len(rows.x)
            ys.append(rows.y)
        return Rows(x[:filled], None if self.targets is None else np.concatenate(ys))  # type: ignore[arg-type]


def _owned(rows: np.ndarray, size: int, share: Share) -> np.ndarray:
    """How many of the first ``rows`` of an epoch are in the share, in batches of ``size``."""
    if share.is_whole:
        return rows
    before = np.concatenate([[0], np.cumsum(share.owns(np.arange(size)))])
    return rows // size * before[-1] + before[rows % size]


def _places(rows: int, share: Share) -> tuple[int, np.ndarray | None]:
    """How many of a batch's rows are in the share; where they go, in the order in which they come.

    None is one after the other.
    """
    if share.is_whole:
        return rows, None
    positions = share.positions(rows)
    return len(positions), None if share.parts is None else np.argsort(positions)
