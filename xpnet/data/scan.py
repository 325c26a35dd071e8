"""The one pass over a streamed file before it is trained on: checks, classes, scaling, fingerprint.

For data in memory these are functions of their own (:func:`xpnet.data.check`, ``fit_scaler``,
``fingerprint``); here each of them would read the file again.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from xpnet.data.batches import prefetch
from xpnet.data.labels import Labels, encode
from xpnet.data.read import Task
from xpnet.data.row_file import RowFile, Rows
from xpnet.data.running_stats import RunningStats
from xpnet.data.streamed_dataset import Assignment, StreamedDataset
from xpnet.errors import DataError

__all__ = ["Scan", "scan"]

MAX_CLASSES = 100_000  # more different labels than that are not classes


class Scan(NamedTuple):
    """What is known of a file after the pass, by part where it says so."""

    parts: tuple[StreamedDataset, ...]
    stats: tuple[RunningStats, ...]  # of the features
    target_stats: tuple[RunningStats, ...]  # of a regression's targets
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
    """Read a file once, from its beginning to its end, and divide its rows by ``shares``.

    ``classes`` are those of another file that labels are looked up among; ``window_bytes`` of rows
    are shuffled at a time, and two windows in memory. Raises DataError, naming the first row that
    has a bad value.

        train, test = scan(open_rows("large.npz"), (0.8, 0.2)).parts
        trainer.fit(train, epochs=3, validation=test)
    """
    assignment, seen = Assignment(file.bounds, shares, seed), _Seen(file, task)
    stats = tuple(RunningStats() for _ in shares)
    target_stats = tuple(RunningStats() for _ in shares)
    ends = itertools.pairwise(file.bounds.tolist())
    blocks = ((number, file.read(*block)) for number, block in enumerate(ends))
    for number, rows in prefetch(blocks, depth=2):
        low = int(file.bounds[number])
        seen.take(rows, low)
        for part in range(len(shares)):
            for start, stop in assignment.runs(part, number):
                stats[part].add(rows.x[start - low : stop - low])
                if task == "regression" and rows.y is not None:
                    target_stats[part].add(rows.y[start - low : stop - low])
    targets, names = seen.targets(classes)
    parts = tuple(
        StreamedDataset(file, assignment, part, targets, names, name, window_bytes)
        for part in range(len(shares))
    )
    return Scan(parts, stats, target_stats, seen.fingerprint())


class _Seen:
    """What has to be remembered of all rows: their digests, and each label once."""

    def __init__(self, file: RowFile, task: Task) -> None:
        self.file, self.task = file, task
        self.digests = {"x": hashlib.sha256(), "y": hashlib.sha256()}
        self.labelled, self.first = False, dict[object, int]()  # label -> first row that has it

    def take(self, rows: Rows, low: int) -> None:
        self.digests["x"].update(np.ascontiguousarray(rows.x).data)
        self._check_finite("x", rows.x, low)
        if rows.y is None:
            return
        self.labelled = True
        self.digests["y"].update(rows.y.tobytes())
        if self.task == "regression":
            if rows.y.dtype.kind not in "fiub":
                msg = f"{self.file.place(low)}: targets of a regression must be numbers; "
                raise DataError(msg + f"got {rows.y.dtype}")
            self._check_finite("y", rows.y, low)
            return
        if rows.y.ndim > 1:
            msg = f"{self.file.place(low)}: labels of classes must be (N,); got {rows.y.shape}"
            raise DataError(msg)
        for value, at in zip(*np.unique(rows.y, return_index=True), strict=True):
            self.first.setdefault(value.item(), low + int(at))
        if len(self.first) > MAX_CLASSES:
            msg = f"{self.file.place(low)}: more than {MAX_CLASSES} different labels; "
            raise DataError(msg + "for a regression, set data.task = 'regression'")

    def _check_finite(self, letter: str, values: np.ndarray, low: int) -> None:
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            row, *place = (int(i) for i in np.argwhere(~finite)[0])
            found = values[(row, *place)]
            where = f", {letter}{place}" if place else ""
            msg = f"{self.file.place(low + row)}{where} is {found}; it must be a finite number"
            raise DataError(msg)

    def targets(
        self, classes: Sequence[str] | None
    ) -> tuple[Callable[[np.ndarray], np.ndarray] | None, tuple[str, ...] | None]:
        """Return what turns labels into targets, and the names of the classes."""
        if not self.labelled:
            return None, None
        if self.task == "regression":
            return lambda y: y.astype(np.float64), None
        values = sorted(self.first)  # type: ignore[type-var]
        rows = [self.first[value] for value in values]
        labels = Labels(
            [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values],
            np.arange(len(values)),
        )
        codes, names = encode(labels, classes, lambda i: self.file.place(rows[i]))
        known = np.array(values)
        return lambda y: codes[np.searchsorted(known, y)], names

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.file.dtype.str} {self.file.shape}".encode())
        for part in self.digests.values():
            digest.update(part.digest())
        return digest.hexdigest()
