"""A table whose rows stay in its file: kinds from one pass over all blocks, then block by block."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xpnet.data.columns import Columns, listed
from xpnet.data.kinds import with_kinds
from xpnet.data.labels import MISSING, Labels
from xpnet.data.outcomes import task_of_values
from xpnet.data.row_file import Rows
from xpnet.data.survey import Survey
from xpnet.data.table_rows import check_columns, features_of, label_values
from xpnet.data.tables import Header, TextFormat, open_table
from xpnet.data.values import level_text
from xpnet.data.wanted import Task, Wanted
from xpnet.errors import DataError

__all__ = ["TableRows"]


class TableRows:
    """Rows of a table that can be read block by block. Its blocks are those of the file.

    ``task`` is what its labels are for: that which was asked for, or else what all of them say.
    """

    def __init__(
        self,
        path: Path,
        wanted: Wanted,
        text: TextFormat,
        header: Header = "auto",
        task: Task | Literal["auto"] = "auto",
    ) -> None:
        self._file = open_table(path, text, header, wanted.is_header)
        self._begin()
        self.bounds, self.location = self._file.bounds, self._file.location
        first, rows = self._file.block(0), int(self.bounds[-1])
        columns = wanted.columns(
            path, self._file.names, first.num_columns, self._column, self._file.index
        ).noting(*self._file.notes)
        check_columns(columns, path, first.num_columns, rows)
        if columns.weight is not None:
            msg = f"{path}: weights are for rows in memory"
            raise DataError(msg, python="read(path)", command="--set data.stream=no")
        self.task: Task = "classification" if task == "auto" else task
        narrow = not columns.kinds
        if wanted.like is None:
            surveys = self._survey(first.num_columns)
            chosen = wanted.kept(columns.names, first.num_columns, path)
            columns = with_kinds(columns, surveys, chosen, path, self.location)
            columns = replace(columns, dates=self._file.dates)
            narrow = not any(surveys[j].missing for j in columns.features)
            if task == "auto" and columns.labels:
                self.task, note = _task(columns, surveys)
                columns = columns.noting(*[note] if note else [])
        self.columns: Columns | None = columns
        self._columns = columns
        self.shape: tuple[int, ...] = (rows, len(columns.features))
        x = features_of(first, columns, self.location) if narrow else np.empty(0)
        self.dtype = x.dtype

    def _begin(self) -> None:
        self._lock, self._unpacked = threading.Lock(), (-1, Rows(np.empty(0), None))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_unpacked")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def _column(self, j: int) -> Any:
        import pyarrow as pa

        blocks = [block.column(j) for block in self._file.batches()]
        return pa.chunked_array([chunk for block in blocks for chunk in block.chunks])

    def _survey(self, width: int) -> list[Survey]:
        surveys = [Survey() for _ in range(width)]
        for block in self._file.batches():
            for j, survey in enumerate(surveys):
                survey.add(block.column(j))
        return surveys

    def take(self, rows: np.ndarray) -> Rows:
        return self._unpack(self._block_of(rows[0]), rows)

    def _block_of(self, row: int) -> int:
        return int(np.searchsorted(self.bounds, row, side="right")) - 1

    def read(self, start: int, stop: int) -> Rows:
        block = self._block_of(start)
        with self._lock:
            if self._unpacked[0] != block:  # a part has at most two runs in a block
                self._unpacked = (block, self._unpack(block))
            x, y = self._unpacked[1]
        low = int(self.bounds[block])
        return Rows(x[start - low : stop - low], None if y is None else y[start - low : stop - low])

    def _unpack(self, block: int, rows: np.ndarray | None = None) -> Rows:
        """The rows of a block, or some of them; all of it is decoded."""
        data, low = self._file.block(block), int(self.bounds[block])
        if rows is not None:
            data = data.take(rows - low)

        def location(row: int, column: int | None = None) -> str:
            return self.location(low + row if rows is None else int(rows[row]), column)

        x = features_of(data, self._columns, location).astype(self.dtype, copy=False)
        if not self._columns.labels:
            return Rows(x, None)
        labels = label_values(data, self._columns, location)
        missing: np.ndarray
        if isinstance(labels, Labels):
            gone = np.array(
                [v is None or v != v or level_text(v) in MISSING for v in labels.values]
            )
            missing, y = gone[labels.codes], _array(labels.values)[labels.codes]
        else:
            missing, y = np.isnan(labels).reshape(len(labels), -1).any(axis=1), labels
        if missing.any():
            msg = f"{location(int(missing.argmax()))}: the label is missing"
            drop = "--set data.stream=no --set data.missing_labels=drop"
            raise DataError(msg, python='read(path, missing_labels="drop")', command=drop)
        return Rows(x, y)

    def expect(self, rows: range | np.ndarray) -> None:
        """Do nothing: a block is read at once."""


def _array(values: Any) -> np.ndarray:
    """Return values of one type, of which None is a missing one."""
    present = [v for v in values if v is not None]
    return np.array([v if v is not None else present[0] for v in values] if present else [""])


def _task(columns: Columns, surveys: list[Survey]) -> tuple[Task, str]:
    """Return what the labels are by themselves, and what is to be said of it."""
    if len(columns.labels) == 1:
        survey = surveys[columns.labels[0]]
        values = survey.values.tolist() if survey.content == "number" else ["text"]
        return task_of_values(values, columns)
    if not all({*surveys[j].values.tolist()} <= {0, 1} for j in columns.labels):
        return "regression", ""
    names = listed([columns.shown(j) for j in columns.labels])
    said = f"labels: {names}: columns of 0 and 1, any number of which may be 1 in a row; "
    return "multilabel", said + "if it is always one: --task classification"
