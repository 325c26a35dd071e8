"""Data sets larger than memory: rows stay in their file and are read a window at a time.

A file consists of *blocks* of a few megabytes, each of which is read at once. Every part of a split
gets its share of every block, so that it is read at the speed of the disk and a file that is sorted
by class is split evenly. An epoch reads the blocks in random order, several of them to a *window*,
and shuffles the rows of each window. Both orders depend on (seed, epoch) alone: training resumes at
any batch by reading just the window that contains it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xpnet.data.batches import Shuffle, prefetch
from xpnet.data.columns import Columns
from xpnet.data.dataset import Dataset
from xpnet.data.row_file import RowFile, Rows
from xpnet.random import generator

__all__ = ["Assignment", "StreamedDataset"]

Transform = Callable[[np.ndarray], np.ndarray]


class Assignment:
    """Which rows of each block belong to which part.

    Each block is rotated by a random number of rows and then cut, so that a part has at most two
    runs of rows in it. The positions of the cuts are rounded at random: over many blocks the shares
    are right, however few rows a block has.
    """

    def __init__(self, bounds: np.ndarray, shares: Sequence[float] = (1.0,), seed: int = 0) -> None:
        self.bounds, sizes = bounds, np.diff(bounds)
        draw = generator(seed, "split")
        self._rotation = draw.integers(sizes) if len(shares) > 1 else np.zeros_like(sizes)
        inner = np.cumsum(shares)[:-1] * sizes[:, None] + draw.random((len(sizes), 1))
        edges = [np.zeros((len(sizes), 1)), np.floor(inner), sizes[:, None]]
        self._edges = np.minimum(np.hstack(edges).astype(np.int64), sizes[:, None])

    def counts(self, part: int) -> np.ndarray:
        """Return how many rows of each block belong to a part."""
        return self._edges[:, part + 1] - self._edges[:, part]

    def runs(self, part: int, block: int) -> list[tuple[int, int]]:
        """Return the begin and end of each run of a part in a block, as rows of the file."""
        low, n = int(self.bounds[block]), int(self.bounds[block + 1] - self.bounds[block])
        begin, end = (int(self._rotation[block] + e) for e in self._edges[block, part : part + 2])
        cut = [(begin - n, end - n)] if begin >= n else [(0, end - n), (begin, min(end, n))]
        return [(low + a, low + b) for a, b in cut if b > a]


@dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A part of a file of rows, with the interface of :class:`Dataset` except for the arrays.

    ``targets`` converts labels, as stored in the file, to class indices or numbers; ``transform``
    converts a block of features to ``dtype``, which is that of the file by default.
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
    def _counts(self) -> np.ndarray:
        return self.assignment.counts(self.part)

    def block(self, number: int) -> Rows:
        """Return the rows of this part in a block, with transformed features and targets."""
        runs = [self.file.read(*run) for run in self.assignment.runs(self.part, number)]
        x = np.concatenate([rows.x for rows in runs])
        x = x if self.transform is None else self.transform(x)
        if self.targets is None:
            return Rows(x, None)
        return Rows(x, self.targets(np.concatenate([rows.y for rows in runs])))

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

    def batches(self, size: int, shuffle: Shuffle | None = None, start: int = 0) -> Iterator[Rows]:
        """Yield batches of ``size`` rows, beginning with batch ``start``; the last may be smaller.

        A thread reads and transforms the next window while batches are taken from the current one.
        """
        left = len(self) - start * size
        batch: list[np.ndarray | None] = []
        filled = 0
        for rows, order in prefetch(self._windows(shuffle, start * size), depth=1):
            taken = 0
            while taken < len(order):
                if filled == 0:
                    n = min(size, left)
                    batch = [None if v is None else np.empty((n, *v.shape[1:]), v.dtype)
                             for v in rows]  # fmt: skip
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
        row_bytes = dtype.itemsize * int(np.prod(self.feature_shape))
        firsts = np.unique(before // max(1, self.window_bytes // row_bytes), return_index=True)[1]
        ends = np.append(firsts[1:], len(order))
        sizes = np.add.reduceat(counts, firsts)
        shape = (int(sizes.max()), *self.feature_shape)
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
