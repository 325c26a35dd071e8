"""What is in a column of a table: counted over all of its rows, a block of them at a time.

A table in memory is one block, and one that is larger than memory as many as its file has. What is
kept does not grow with the rows.
"""

from collections import Counter
from typing import Any

import numpy as np

from xpnet.data.columns import MISSING, number
from xpnet.data.values import Content, content_of, values_of

__all__ = ["MAX_LEVELS", "MAX_VALUES", "Survey"]

MAX_LEVELS = 100_000  # more texts than these are not categories
MAX_VALUES = 10_000  # of numbers, counted to be shown
BLOCK = 2**16
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


class Survey:
    """Rows, missing values, extremes and different values of one column, from all of its rows."""

    def __init__(self) -> None:
        self.content: Content = "nothing"
        self.type = "null"  # Arrow's, in words
        self.is_coded = False  # an Arrow dictionary, as of what a file calls categories
        self.rows = self.missing = 0
        self.low, self.high = np.inf, -np.inf  # of numbers; of dates, in seconds since 1970
        self.texts: Counter[str] = Counter()  # with their numbers of rows, up to MAX_LEVELS
        self.values = np.empty(0)  # different numbers, up to MAX_VALUES
        self.numbers = 0  # rows whose text spells a number
        self.first_text: tuple[int, str] | None = None  # row and value of one that does not
        self.infinite: tuple[int, float] | None = None  # row and value of the first

    def add(self, column: Any) -> "Survey":
        """Add a block of rows, an Arrow array."""
        if self.content == "nothing":
            self.content, self.type = content_of(column), str(column.type)
        if content_of(column) in ("number", "boolean", "date"):
            self._add_values(values_of(column))
        else:
            self.missing += column.null_count
            for block in getattr(column, "chunks", [column]):
                if self.content == "text" and block.null_count < len(block):
                    self._add_texts(block)
                self.rows += len(block)
            return self
        self.rows += len(column)
        return self

    @property
    def distinct(self) -> int:
        """How many different values there are, as far as they were counted."""
        return len(self.texts) if self.content == "text" else len(self.values)

    @property
    def is_complete(self) -> bool:
        """Whether :attr:`distinct` is right, and not what was counted before too many came."""
        return len(self.texts) <= MAX_LEVELS and len(self.values) <= MAX_VALUES

    @property
    def is_constant(self) -> bool:
        """Whether all rows are alike."""
        return self.missing == self.rows or (self.missing == 0 and self.distinct == 1)

    def _add_texts(self, column: Any) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self.is_coded = self.is_coded or pa.types.is_dictionary(column.type)
        kind = column.type.value_type if self.is_coded else column.type
        if not self.is_complete:  # they are counted no more, but a mistake is still to be found
            texts = column.cast(kind)
            gone = pc.is_in(pc.utf8_trim_whitespace(texts), pa.array(sorted(MISSING), kind))
            self.missing += pc.sum(gone).as_py()
            texts = pc.if_else(gone, pa.scalar(None, kind), texts)
            is_number = pc.match_substring_regex(texts, NUMBER)
            self.numbers += pc.sum(is_number).as_py() or 0
            if self.first_text is None and (row := pc.index(is_number, False).as_py()) >= 0:
                self.first_text = (self.rows + row, column[row].as_py())
            return
        counts = pc.value_counts(column.drop_null())
        texts, rows = counts.field(0).to_pylist(), counts.field(1).to_pylist()
        gone = [text.strip() in MISSING for text in texts]
        self.missing += sum(n for n, is_gone in zip(rows, gone, strict=True) if is_gone)
        rows = [n for n, is_gone in zip(rows, gone, strict=True) if not is_gone]
        texts = [text for text, is_gone in zip(texts, gone, strict=True) if not is_gone]
        others = [text for text in texts if number(text) is None]
        spelled = {*texts}.difference(others)
        self.numbers += sum(n for text, n in zip(texts, rows, strict=True) if text in spelled)
        if others and self.first_text is None:
            is_other = pc.is_in(column.cast(kind), value_set=pa.array(others, kind))
            row = pc.index(is_other, True).as_py()
            self.first_text = (self.rows + row, column[row].as_py())
        for text, n in zip(texts, rows, strict=True):
            self.texts[text.strip()] += n

    def _add_values(self, values: np.ndarray) -> None:
        """Add numbers, of which NaN is missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if values.dtype.kind == "f" and (gaps := np.isnan(values)).any():
            self.missing += int(gaps.sum())
            present = values[~gaps]
        else:
            present = values
        if not len(present):
            return
        self.low = min(self.low, float(present.min()))
        self.high = max(self.high, float(present.max()))
        if self.infinite is None and not np.isfinite([self.low, self.high]).all():
            row = int(np.isinf(values).argmax())
            self.infinite = (self.rows + row, float(values[row]))
        for start in range(0, len(present), BLOCK):
            if not self.is_complete:
                break
            found = pc.unique(pa.array(present[start : start + BLOCK])).to_numpy()
            self.values = np.union1d(self.values, found)
