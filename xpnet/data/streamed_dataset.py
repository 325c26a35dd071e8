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

import numpy as np

from xpnet.data.batches import Shuffle
from xpnet.data.columns import Columns
from xpnet.data.dataset import Dataset
from xpnet.data.row_file import RowFile, Rows
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
    def _counts(self) -> np.ndarray:
        return self.assignment.counts(self.part)

    def block(self, number: int) -> Rows:
        """Return the rows of this part in a block, with transformed features and targets."""
        runs = [self.file.read(*run) for run in self.assignment.runs(self.part, number)]
        x = np.concatenate([rows.x for rows in runs])
        x = x if self.transform is None else self.transform(x)
        if self.targets is None:
            return Rows(x, None)
        y = self.targets(np.concatenate([rows.y for rows in runs]))
        if self.check is not None:
            self.check(y, lambda i: self._location(number, i))
        return Rows(x, y)

    def _location(self, block: int, i: int) -> str:
        """The place in the file of row ``i`` of this part in a block."""
        rows = itertools.chain(*(range(*run) for run in self.assignment.runs(self.part, block)))
        return self.file.location(next(itertools.islice(rows, i, None)))

    def take(self, indices: Iterable[int]) -> Dataset:
        """Return the rows at ``indices`` of this part, in that order, as a data set in memory."""
        ends = np.cumsum(self._counts)
        xs: list[np.ndarray] = []
        ys: list[np.ndarray] = []
        for i in indices:
            number = int(np.searchsorted(ends, i, side="right"))
            row = int(i - ends[number] + self._counts[number])
            x, y = self.block(number)
            xs.append(x[row])
            if y is not None:
                ys.append(y[row])
        y = np.stack(ys) if ys else None
        return Dataset(np.stack(xs), y, self.classes, self.name, self.columns)

    def batches(
        self,
        size: int,
        shuffle: Shuffle | None = None,
        start: int = 0,
        empty: Empty = new_array,
    ) -> Iterator[Rows]:
        """Yield batches of ``size`` rows, beginning with batch ``start``; the last may be smaller.

        ``empty`` gives the arrays for "x" and "y" of each. A thread reads and transforms the next
        window while batches are taken from the current one.
        """
        left = len(self) - start * size
        batch: list[np.ndarray | None] = []
        filled = 0
        for rows, order in prefetch(self._windows(shuffle, start * size), depth=1):
            taken = 0
            while taken < len(order):
                if filled == 0:
                    n = min(size, left)
                    batch = [None if v is None else empty(k, (n, *v.shape[1:]), v.dtype)
                             for k, v in zip(Rows._fields, rows, strict=True)]  # fmt: skip
                chosen = order[taken : taken + n - filled]
                for v, out in zip(rows, batch, strict=True):
                    if v is not None and out is not None:
                        v.take(chosen, 0, out[filled : filled + len(chosen)], "clip")
                taken, filled = taken + len(chosen), filled + len(chosen)
                if filled == n:
                    left, filled = left - n, 0
                    yield Rows(*batch)  # type: ignore[arg-type]

    def _windows(self, shuffle: Shuffle | None, skip: int) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield the rows of each window and the order to take them in, without the first ``skip``.

        There are two buffers: one is filled while the other is being read.
        """
        order = (
            np.arange(len(self._counts)) if shuffle is None else shuffle.order(len(self._counts))
        )
        order = order[self._counts[order] > 0]
        counts = self._counts[order]
        before = np.cumsum(counts) - counts
        dtype = np.dtype(self.dtype or self.file.dtype)
        row_bytes = dtype.itemsize * int(np.prod(self._input_shape))
        firsts = np.unique(before // max(1, self.window_bytes // row_bytes), return_index=True)[1]
        ends = np.append(firsts[1:], len(order))
        sizes = np.add.reduceat(counts, firsts)
        shape = (int(sizes.max()), *self._input_shape)
        buffers = [np.empty(shape, dtype) for _ in range(min(2, len(firsts)))]
        for number, (first, end, n) in enumerate(zip(firsts, ends, sizes, strict=True)):
            if before[first] + n <= skip:
                continue
            rows = self._window(order[first:end], buffers[number % len(buffers)][:n])
            row_order = np.arange(n) if shuffle is None else shuffle.order(n, 1 + number)
            yield rows, row_order[max(0, skip - before[first]) :]

    def _window(self, blocks: np.ndarray, x: np.ndarray) -> Rows:
        """Read blocks into ``x``, after announcing all of them to the operating system."""
        for number in blocks:
            for run in self.assignment.runs(self.part, number):
                self.file.expect(*run)
        filled, ys = 0, []
        for number in blocks:
            rows = self.block(number)
            x[filled : filled + len(rows.x)] = rows.x
            filled += len(rows.x)
            ys.append(rows.y)
        return Rows(x, None if self.targets is None else np.concatenate(ys))  # type: ignore[arg-type]
