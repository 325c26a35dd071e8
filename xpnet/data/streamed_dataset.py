"""Data sets larger than memory: rows stay in their file and pass by, a window at a time.

A file is a row of *blocks* of a few megabytes, each read at once. The parts of a split take their
share of every block, so that each is read at the speed of the disk and a file that is sorted by
class is split evenly. An epoch takes the blocks in random order, several to a *window*, and the
rows of a window in random order. All of it follows from (seed, epoch): a training is resumed at any
batch by reading no more than the window that the batch is in.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xpnet.data.batches import Shuffle, prefetch
from xpnet.data.dataset import Dataset
from xpnet.data.row_file import RowFile, Rows
from xpnet.random import generator

__all__ = ["Assignment", "StreamedDataset"]

Transform = Callable[[np.ndarray], np.ndarray]


class Assignment:
    """Which rows of each block belong to which part.

    Each block is turned by a random number of rows and then cut, so that a part has at most two
    runs of rows of it. Where a cut falls between two rows it is rounded at random: over many
    blocks the shares come out right, however few rows a block has.
    """

    def __init__(self, bounds: np.ndarray, shares: Sequence[float] = (1.0,), seed: int = 0) -> None:
        self.bounds, sizes = bounds, np.diff(bounds)
        draw = generator(seed, "split")
        self._turn = draw.integers(sizes) if len(shares) > 1 else np.zeros_like(sizes)
        inner = np.cumsum(shares)[:-1] * sizes[:, None] + draw.random((len(sizes), 1))
        edges = [np.zeros((len(sizes), 1)), np.floor(inner), sizes[:, None]]
        self._edges = np.minimum(np.hstack(edges).astype(np.int64), sizes[:, None])

    def counts(self, part: int) -> np.ndarray:
        """Return how many rows of each block belong to a part."""
        return self._edges[:, part + 1] - self._edges[:, part]

    def runs(self, part: int, block: int) -> list[tuple[int, int]]:
        """Return where the runs of a part in a block begin and end, as rows of the file."""
        low, n = int(self.bounds[block]), int(self.bounds[block + 1] - self.bounds[block])
        begin, end = (int(self._turn[block] + e) for e in self._edges[block, part : part + 2])
        cut = [(begin - n, end - n)] if begin >= n else [(0, end - n), (begin, min(end, n))]
        return [(low + a, low + b) for a, b in cut if b > a]


@dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A part of a file of rows, with the interface of :class:`Dataset` but for the arrays.

    ``targets`` turns labels as the file holds them into class indices or numbers; ``transform``
    turns a block of features into ``dtype``, by default those of the file.
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
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns, where the file has any."""
        return self.file.feature_names

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
        """Return the rows of this part in a block, transformed, with targets for labels."""
        runs = [self.file.read(*run) for run in self.assignment.runs(self.part, number)]
        x = np.concatenate([rows.x for rows in runs])
        x = x if self.transform is None else self.transform(x)
        if self.targets is None:
            return Rows(x, None)
        return Rows(x, self.targets(np.concatenate([rows.y for rows in runs])))

    def take(self, indices: Iterable[int]) -> Dataset:
        """Return the rows at ``indices`` of this part, in that order, in memory."""
        ends = np.cumsum(self._counts)
        xs: list[np.ndarray] = []
        ys: list[np.ndarray] = []
        for i in indices:
            number = int(np.searchsorted(ends, i, side="right"))
            at = int(i - ends[number] + self._counts[number])
            x, y = self.block(number)
            xs.append(x[at])
            if y is not None:
                ys.append(y[at])
        y = np.stack(ys) if ys else None
        return Dataset(np.stack(xs), y, self.classes, self.name, self.feature_names)

    def batches(self, size: int, shuffle: Shuffle | None = None, start: int = 0) -> Iterator[Rows]:
        """Yield batches of ``size`` rows from number ``start`` on, the last one ragged.

        A thread reads and transforms the next window while batches are taken out of one.
        """
        left = len(self) - start * size
        made: list[np.ndarray | None] = []
        filled = 0
        for rows, order in prefetch(self._windows(shuffle, start * size), depth=1):
            at = 0
            while at < len(order):
                if filled == 0:
                    n = min(size, left)
                    made = [None if v is None else np.empty((n, *v.shape[1:]), v.dtype)
                            for v in rows]  # fmt: skip
                chosen = order[at : at + n - filled]
                for v, out in zip(rows, made, strict=True):
                    if v is not None and out is not None:
                        v.take(chosen, 0, out[filled : filled + len(chosen)], "clip")
                at, filled = at + len(chosen), filled + len(chosen)
                if filled == n:
                    left, filled = left - n, 0
                    yield Rows(*made)  # type: ignore[arg-type]

    def _windows(self, shuffle: Shuffle | None, skip: int) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield the rows of each window, and the order to take them in; all but ``skip`` rows.

        There are two buffers: one is filled while the other one is emptied.
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
            taken = np.arange(n) if shuffle is None else shuffle.order(n, 1 + number)
            yield rows, taken[max(0, skip - before[first]) :]

    def _window(self, blocks: np.ndarray, x: np.ndarray) -> Rows:
        """Read blocks into ``x``; the system is told of all of them before the first is read."""
        for number in blocks:
            for run in self.assignment.runs(self.part, number):
                self.file.expect(*run)
        at, ys = 0, []
        for number in blocks:
            rows = self.block(number)
            x[at : at + len(rows.x)] = rows.x
            at += len(rows.x)
            ys.append(rows.y)
        return Rows(x, None if self.targets is None else np.concatenate(ys))  # type: ignore[arg-type]
