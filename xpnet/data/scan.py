"""The one pass over a streamed file before training: checks, classes, statistics, fingerprint.

For data in memory these are separate functions (:func:`xpnet.data.check`, ``fit_scaler``,
``fingerprint``); here each of them would read the file again.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from xpnet.data.batches import prefetch
from xpnet.data.labels import REGRESSION, Labels, encode
from xpnet.data.read import Task
from xpnet.data.row_file import RowFile, Rows
from xpnet.data.running_stats import RunningStats
from xpnet.data.streamed_dataset import Assignment, StreamedDataset
from xpnet.errors import DataError

__all__ = ["Scan", "scan"]

MAX_CLASSES = 100_000  # more distinct labels than these are not classes


class Scan(NamedTuple):
    """The result of the pass."""

    parts: tuple[StreamedDataset, ...]
    stats: tuple[RunningStats, ...]  # of the features of each part
    target_stats: tuple[RunningStats, ...]  # of the regression targets of each part
    fingerprint: str  # SHA-256 of x and y: dtype, shape and bytes


def scan(
    file: RowFile,
    shares: Sequence[float] = (1.0,),
    *,
    seed: int = 0,
    task: Task = "classification",
    classes: Sequence[str] | None = None,
    name: str = "rows",
    window_bytes: int = 2**27,
) -> Scan:
    """Read a file once, from beginning to end, and split its rows by ``shares``.

    If ``classes`` are given, labels are looked up among them. ``window_bytes`` of rows are shuffled
    at a time; two such windows are in memory. Raises DataError that names the first row with a bad
    value.

        train, test = scan(open_rows("large.npz"), (0.8, 0.2)).parts
        trainer.fit(train, epochs=3, validation=test)
    """
    assignment, summary = Assignment(file.bounds, shares, seed), _Summary(file, task)
    stats = tuple(RunningStats() for _ in shares)
    target_stats = tuple(RunningStats() for _ in shares)
    ends = itertools.pairwise(file.bounds.tolist())
    blocks = ((number, file.read(*block)) for number, block in enumerate(ends))
    for number, rows in prefetch(blocks, depth=2):
        low = int(file.bounds[number])
        summary.add(rows, low)
        for part in range(len(shares)):
            for start, stop in assignment.runs(part, number):
                stats[part].add(rows.x[start - low : stop - low])
                if task == "regression" and rows.y is not None:
                    target_stats[part].add(rows.y[start - low : stop - low])
    targets, names = summary.targets(classes)
    parts = tuple(
        StreamedDataset(file, assignment, part, targets, names, name, window_bytes)
        for part in range(len(shares))
    )
    return Scan(parts, stats, target_stats, summary.fingerprint())


class _Summary:
    """What is kept of all rows: their digests, and each label once."""

    def __init__(self, file: RowFile, task: Task) -> None:
        self.file, self.task = file, task
        self.digests = {"x": hashlib.sha256(), "y": hashlib.sha256()}
        self.labelled, self.first_row = False, dict[object, int]()  # label -> its first row

    def add(self, rows: Rows, low: int) -> None:
        self.digests["x"].update(np.ascontiguousarray(rows.x).data)
        self._check_finite("x", rows.x, low)
        if rows.y is None:
            return
        self.labelled = True
        self.digests["y"].update(rows.y.tobytes())
        if self.task == "regression":
            if rows.y.dtype.kind not in "fiub":
                msg = f"{self.file.location(low)}: regression targets must be numbers; "
                raise DataError(msg + f"got {rows.y.dtype}")
            self._check_finite("y", rows.y, low)
            return
        if rows.y.ndim > 1:
            msg = f"{self.file.location(low)}: class labels must be (N,); got {rows.y.shape}"
            raise DataError(msg)
        for value, row in zip(*np.unique(rows.y, return_index=True), strict=True):
            self.first_row.setdefault(value.item(), low + int(row))
        if len(self.first_row) > MAX_CLASSES:
            msg = f"{self.file.location(low)}: more than {MAX_CLASSES} distinct labels; "
            raise DataError(msg + "is this a regression?", **REGRESSION)

    def _check_finite(self, letter: str, values: np.ndarray, low: int) -> None:
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            row, *index = (int(i) for i in np.argwhere(~finite)[0])
            where = self.file.location(low + row) + (f", {letter}{index}" if index else "")
            msg = f"{where} is {values[(row, *index)]}; it must be a finite number"
            raise DataError(msg)

    def targets(
        self, classes: Sequence[str] | None
    ) -> tuple[Callable[[np.ndarray], np.ndarray] | None, tuple[str, ...] | None]:
        """Return the function from labels to targets, and the names of the classes."""
        if not self.labelled:
            return None, None
        if self.task == "regression":
            return lambda y: y.astype(np.float64), None
        values = sorted(self.first_row)  # type: ignore[type-var]
        rows = [self.first_row[value] for value in values]
        labels = Labels(
            [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values],
            np.arange(len(values)),
        )
        codes, names = encode(labels, classes, lambda i: self.file.location(rows[i]))
        known = np.array(values)
        return lambda y: codes[np.searchsorted(known, y)], names

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.file.dtype.str} {self.file.shape}".encode())
        for part in self.digests.values():
            digest.update(part.digest())
        return digest.hexdigest()
