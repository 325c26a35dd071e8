"""The one pass over a streamed file before training: checks, classes, statistics, fingerprint.

For data in memory these are separate functions (:func:`xpnet.data.check`, ``fit_scaler``,
``fingerprint``); here each of them would read the file again.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from xpnet.data.encoder_fit import EncoderStats
from xpnet.data.labels import REGRESSION, Labels, encode
from xpnet.data.row_file import RowFile, Rows
from xpnet.data.running_stats import RunningStats
from xpnet.data.streamed_dataset import Assignment, Check, StreamedDataset
from xpnet.data.wanted import Task
from xpnet.errors import DataError
from xpnet.prefetch import prefetch

__all__ = ["Scan", "scan"]

MAX_CLASSES = 100_000  # more distinct labels than these are not classes
# Rows that are divided as one piece, where their labels do not change: so few that a part has rows
# from everywhere, and so many that they are read in runs of kilobytes.
PIECE_BYTES, PIECES = 2**19, 64


Targets = Callable[[np.ndarray], np.ndarray]


class Scan(NamedTuple):
    """The result of the pass."""

    parts: tuple[StreamedDataset, ...]
    stats: tuple[RunningStats, ...]  # of the features of each part
    target_stats: tuple[RunningStats, ...]  # of the regression targets of each part
    class_counts: np.ndarray | None  # (parts, K) rows of each class in each part
    fingerprint: str  # SHA-256 of x and y: dtype, shape and bytes
    encoding: EncoderStats | None = None  # of the first part, where the columns have kinds


def scan(
    file: RowFile,
    shares: Sequence[float] = (1.0,),
    *,
    seed: int = 0,
    task: Task = "classification",
    classes: Sequence[str] | None = None,
    name: str = "rows",
    window_bytes: int = 2**27,
    check: Check | None = None,
) -> Scan:
    """Read a file once, from beginning to end, and split its rows by ``shares``.

    Every part has its share of every piece of the file (xpnet/data/streamed_dataset.py);
    ``class_counts`` tells how evenly the classes came out.

    If ``classes`` are given, labels are looked up among them. ``window_bytes`` of rows are shuffled
    at a time; two such windows are in memory. ``check`` is given the targets of a regression.
    Raises DataError that names the first row with a bad value.

        train, test = scan(open_rows("large.npz"), (0.8, 0.2)).parts
        trainer.fit(train, epochs=3, validation=test)
    """
    row_bytes = max(1, file.dtype.itemsize * int(np.prod(file.shape[1:])))
    piece_rows = max(1, min(PIECE_BYTES // row_bytes, file.shape[0] // PIECES))
    assignment = Assignment(file.bounds, shares, seed, piece_rows)
    summary = _Summary(file, task, len(shares), check)
    stats = tuple(RunningStats() for _ in shares)
    target_stats = tuple(RunningStats() for _ in shares)
    kinds = bool(file.columns and file.columns.kinds)
    encoding = EncoderStats(file.columns, seed) if file.columns and kinds else None
    ends = itertools.pairwise(file.bounds.tolist())
    blocks = ((number, file.read(*block)) for number, block in enumerate(ends))
    for number, rows in prefetch(blocks, depth=2):
        low = int(file.bounds[number])
        if task == "classification" and rows.y is not None:
            y = _one_label(rows.y, file, low)
            rows = rows._replace(y=y)
            if len(shares) > 1:
                assignment.cut(number, y)
        owner = np.zeros(len(rows.x), np.intp)  # the part of each row
        for part in range(len(shares)):
            for start, stop in assignment.runs(part, number):
                owner[start - low : stop - low] = part
        summary.add(rows, low, owner)
        for part in range(len(shares)):
            mine = slice(None) if len(shares) == 1 else owner == part
            add = stats[part].add_present if kinds else stats[part].add
            add(rows.x[mine])
            if encoding and part == 0:
                encoding.add(rows.x[mine])
            if task == "regression" and rows.y is not None:
                target_stats[part].add(rows.y[mine])
    targets, names = summary.targets(classes)
    counts = summary.class_counts(targets, len(names)) if targets and names else None
    parts = tuple(
        StreamedDataset(file, assignment, part, targets, names, name, window_bytes)
        for part in range(len(shares))
    )
    return Scan(parts, stats, target_stats, counts, summary.fingerprint(), encoding)


def _one_label(y: np.ndarray, file: RowFile, low: int) -> np.ndarray:
    """Return class labels (n,), of one-hot rows (n, K) the column of the 1."""
    if y.ndim == 1:
        return y
    bad = (y != 0).sum(axis=1) != 1
    bad |= y.max(axis=1) != 1
    if bad.any():
        row = low + int(bad.argmax())
        msg = f"{file.location(row)}: class labels must be (N,), or (N, K) with one 1 in "
        raise DataError(msg + f"each row; got {y.shape}", command="--task multilabel")
    return y.argmax(axis=1)


def _of_one_hot(y: np.ndarray) -> np.ndarray:
    return (y if y.ndim < 2 else y.argmax(axis=1)).astype(np.int32)


def _codes(codes: np.ndarray, known: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The code of each label, of which those that are known are sorted."""
    return codes[np.searchsorted(known, y)]


class _Summary:
    """What is kept of all rows: their digests, and each label with its numbers of rows."""

    def __init__(self, file: RowFile, task: Task, parts: int, check: Check | None) -> None:
        self.file, self.task, self.parts, self.check = file, task, parts, check
        self.digests = {"x": hashlib.sha256(), "y": hashlib.sha256()}
        self.labelled, self.first_row = False, dict[object, int]()  # label -> its first row
        self.counts: dict[object, np.ndarray] = {}  # label -> its rows in each part

    def add(self, rows: Rows, low: int, owner: np.ndarray) -> None:
        self.digests["x"].update(np.ascontiguousarray(rows.x).data)
        if not (self.file.columns and self.file.columns.kinds):
            self._check_finite("x", rows.x, low)
        if rows.y is None:
            return
        self.labelled = True
        self.digests["y"].update(rows.y.tobytes())
        if self.task != "classification":
            if rows.y.dtype.kind not in "fiub":
                msg = f"{self.file.location(low)}: regression targets must be numbers; "
                raise DataError(msg + f"got {rows.y.dtype}")
            self._check_finite("y", rows.y, low)
            if self.task == "multilabel":
                self._check_binary(rows.y, low)
            if self.check is not None:
                self.check(rows.y, lambda i: self.file.location(low + i))
            return
        values, firsts, codes = np.unique(rows.y, return_index=True, return_inverse=True)
        table = np.bincount(codes * self.parts + owner, minlength=len(values) * self.parts)
        per_part = table.reshape(-1, self.parts)
        for value, row, counts in zip(values.tolist(), firsts.tolist(), per_part, strict=True):
            self.first_row.setdefault(value, low + row)
            self.counts[value] = self.counts.get(value, 0) + counts
        if len(self.first_row) > MAX_CLASSES:
            msg = f"{self.file.location(low)}: more than {MAX_CLASSES} distinct labels; "
            raise DataError(msg + "is this a regression?", **REGRESSION)

    def _check_binary(self, y: np.ndarray, low: int) -> None:
        if y.ndim < 2 or not (good := (y == 0) | (y == 1)).all():
            row = 0 if y.ndim < 2 else int((~good).any(axis=1).argmax())
            msg = f"{self.file.location(low + row)}: several labels must be (N, J) of 0 and 1; got "
            raise DataError(msg + f"{y.shape} with {y[row]}")

    def _check_finite(self, letter: str, values: np.ndarray, low: int) -> None:
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            row, *index = (int(i) for i in np.argwhere(~finite)[0])
            where = self.file.location(low + row) + (f", {letter}{index}" if index else "")
            msg = f"{where} is {values[(row, *index)]}; it must be a finite number"
            raise DataError(msg)

    def targets(
        self, classes: Sequence[str] | None
    ) -> tuple[Targets | None, tuple[str, ...] | None]:
        """Return the function from labels to targets, and the names of the classes."""
        if not self.labelled:
            return None, None
        if self.task != "classification":
            return partial(np.asarray, dtype=np.float64), None
        columns = self.file.columns
        if columns and len(columns.labels) > 1:  # one-hot
            of_columns = tuple(columns.shown(j) for j in columns.labels)
            return _of_one_hot, of_columns
        values = sorted(self.first_row)  # type: ignore[type-var]
        rows = [self.first_row[value] for value in values]
        labels = Labels(
            [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values],
            np.arange(len(values)),
        )
        where = lambda i: self.file.location(rows[i])  # noqa: E731
        codes, names = encode(labels, classes, where, columns)
        return partial(_codes, codes, np.array(values)), names

    def class_counts(self, targets: Targets, n_classes: int) -> np.ndarray:
        """Return how many rows each part has of each class."""
        found = np.zeros((self.parts, n_classes), np.int64)
        values = sorted(self.counts)  # type: ignore[type-var]
        for k, value in zip(targets(np.array(values)), values, strict=True):
            found[:, k] += self.counts[value]
        return found

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.file.dtype.str} {self.file.shape}".encode())
        for part in self.digests.values():
            digest.update(part.digest())
        return digest.hexdigest()
