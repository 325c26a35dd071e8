"""How the page draws a tensor: as tables of numbers, or as a box in proportion to its shape."""

import math
from typing import NamedTuple

import numpy as np

from xpnet.explanation import wording
from xpnet.explanation.model import Tensor

__all__ = ["MOST", "Box", "Cell", "Drawn", "Table", "drawn", "fits", "written"]

MOST = 12  # rows and columns of a matrix of numbers on a page
MOST_IN_A_STACK = 6


class Cell(NamedTuple):
    """A number of a tensor as it is written, and its exact value where that is another."""

    text: str
    exact: str


class Table(NamedTuple):
    """A matrix, and its place in the stack that it is of, if any."""

    rows: list[list[Cell]]
    place: int | None = None


class Box(NamedTuple):
    """A matrix too large to show: its sides in rem, and the band of an axis that is summed."""

    width: float
    height: float
    band: str
    across: tuple[str, bool]  # the letter of an axis, and whether it is summed
    down: tuple[str, bool]
    shape: str
    norm: str


class Drawn(NamedTuple):
    """A tensor as the page shows it."""

    name: str
    letters: str
    label: str  # the name with its letters, in the notation of formulas
    shape: str
    tables: list[Table]
    box: Box | None
    copied: str = ""  # the id of a panel that has the same tables

    @property
    def wide(self) -> bool:
        """Whether a row of it takes the width of the page."""
        return any(len(table.rows[0]) > MOST_IN_A_STACK for table in self.tables)


def drawn(t: Tensor, summed: str = "", *, column: bool = False) -> Drawn:
    """Return ``t`` for the page; ``summed`` are letters, ``column`` writes vectors upright."""
    label = f"{t.name}_{t.letters}" if t.letters else t.name
    tables = _tables(t, column=column)
    box = None if tables else _box(t, summed)
    return Drawn(t.name, t.letters, label, wording.shape(t), tables, box)


def fits(values: np.ndarray) -> bool:
    """Return whether an array is small enough to be shown in numbers."""
    return values.ndim <= 3 and max(values.shape[-2:], default=1) <= MOST


def written(x: float) -> str:
    """Return a number of a table as text, as the page's script writes it.

    >>> [written(x) for x in (0.0, -0.25, 6e-6, 1e5, -math.inf)]
    ['0', '−0.2500', '6.00e−6', '1.00e+5', '−∞']
    """
    if not x:
        return "0"
    if not math.isfinite(x):
        return "nan" if math.isnan(x) else "∞" if x > 0 else "−∞"
    if 5e-5 <= abs(x) < 1e5:
        text = f"{x:.4f}"
    else:
        digits, _, power = f"{x:.2e}".partition("e")
        text = f"{digits}e{int(power):+d}"
    return text.replace("-", "−")


def _tables(t: Tensor, *, column: bool) -> list[Table]:
    values = t.values
    if not fits(values):
        return []
    if values.ndim < 3:
        return [_table(t, values, None, column=column)]
    most = 1 if len(values) > MOST_IN_A_STACK else len(values)
    return [_table(t, values[n], n, column=column) for n in range(most)]


def _table(t: Tensor, values: np.ndarray, place: int | None, *, column: bool) -> Table:
    whole = bool((values == np.round(values)).all()) and np.abs(values).max(initial=0) < 1e5
    rows = [[_cell(x, whole=whole) for x in row] for row in np.atleast_2d(values).tolist()]
    if column and len(t.letters) == 1 and t.letters != "n":
        rows = [[cell] for row in rows for cell in row]
    return Table(rows, place)


def _cell(x: float, *, whole: bool) -> Cell:
    if whole:
        return Cell(str(int(x)).replace("-", "−"), "")
    return Cell(written(x), repr(x) if x and math.isfinite(x) else "")


def _box(t: Tensor, summed: str) -> Box:
    shape = (1, 1, *t.shape)[-2:]
    height, width = (round(2.6 + 5.4 * math.sqrt(n / max(shape)), 2) for n in shape)
    down, across = ((letter, letter in summed) for letter in t.letters.rjust(2)[-2:])
    band = {
        (True, True): "0",
        (True, False): "42% 0",
        (False, True): "0 42%",
        (False, False): "42%",
    }[across[1], down[1]]
    size = " × ".join(map(str, t.shape))
    return Box(width, height, band, across, down, size, wording.norm(t.values))
