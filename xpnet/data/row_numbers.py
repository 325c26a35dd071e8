"""Which columns of a table number its rows, and so say nothing about them."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpnet.data.columns import ROW_NUMBERS
from xpnet.data.values import coded, content_of

__all__ = ["UNNAMED", "Cells", "row_numbers"]

Cells = Callable[[int], Any]  # from the position of a column to its values, an Arrow array

# As pandas and R write an index, as pandas reads that, and as R's own tables name it.
UNNAMED = re.compile(r"(Unnamed: \d+|row[._]?names?)?")
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
COUNTERS = re.compile(
    r"(?i:id|index|idx|no\.?|nr\.?|row|row[_ ]?(names?|num|number|no))|.*(Id|ID|_id)"
)
MIN_COUNTED = 10  # rows without a header whose first column counts them
OF_PANDAS, INDEX, NUMBERS = ROW_NUMBERS


def row_numbers(
    names: Sequence[str] | None, width: int, cells: Cells | None, index: Sequence[int]
) -> dict[int, str]:
    """Return the columns that number the rows, and why that is said of them.

    ``cells`` is None where columns have no names and are not to be looked at; ``index`` are those
    that the file itself calls its index.
    """
    found = dict.fromkeys(index, OF_PANDAS)
    if cells is None:
        return found
    for j in range(width) if names else ():
        name = names[j]  # type: ignore[index]
        if PANDAS_INDEX.fullmatch(name):
            found[j] = OF_PANDAS
        elif UNNAMED.fullmatch(name) and _is_index(cells(j)):
            found[j] = INDEX
        elif COUNTERS.fullmatch(name) and _counts(cells(j)):
            found[j] = NUMBERS
    if names is None and _counts(cells(0), in_order=True, least=MIN_COUNTED):
        found[0] = NUMBERS
    return found


def _whole(column: Any) -> np.ndarray | None:
    """Return the values of an Arrow column, int64, or None if they are not all whole numbers."""
    import pyarrow as pa

    kind = column.type
    if column.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    values = column.to_numpy()
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            if not (values == np.floor(values)).all() or not (np.abs(values) < 2**53).all():
                return None
    return values.astype(np.int64)


def _counts(column: Any, *, in_order: bool = False, least: int = 2) -> bool:
    """Return whether the values are 0 to n - 1 or 1 to n, in any order unless ``in_order``."""
    values = _whole(column)
    if values is None or len(values) < least or values.min() not in (0, 1):
        return False
    ordered = values if in_order else np.sort(values)
    return bool((np.diff(ordered) == 1).all())


def _is_index(column: Any) -> bool:
    """Return whether each value is another whole number or text, as the index of a table is."""
    is_text = content_of(column) == "text"
    if len(column) < 2 or column.null_count or not (is_text or _whole(column) is not None):
        return False
    return len(np.unique(coded(column)[1])) == len(column)
