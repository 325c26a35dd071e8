"""Curves in the terminal: braille dots, two by four in a cell, between axes with round numbers.

It is drawn here because the libraries for it are worse: plotext 6 ends the process on a NaN, and
plotext 5 leaves out the points before one. A curve that is not the first is dashed, so that curves
differ without colours; where the terminal has no braille it is drawn in letters.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xpnet.cli.output import cell

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Curve", "chart", "ticks"]

STYLES = ("blue", "dark_orange", "green", "magenta")
LETTERS = "*o+x"
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a cell, by column and row
DECADES = 1.5  # that positive values span before the scale is a logarithm
DASH = 3  # dots of a dash, and of a gap


class Curve(NamedTuple):
    """A curve: its name, and coordinates (N,) and (N,); what is not finite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(
    curves: Sequence[Curve],
    title: str,
    width: int,
    height: int,
    *,
    mark: float | None = None,
    braille: bool = True,
) -> list["Text"]:
    """Return the lines of a chart, ``width`` characters wide, with ``height`` rows of curves.

    The vertical scale is a logarithm where positive values span decades, which the title says.
    ``mark`` is a place on the horizontal axis, at which a dotted line stands.
    """
    shown = [Curve(c.name, *_finite(c)) for c in curves]
    values = [y for c in shown for y in c.y if not math.isnan(y)]
    places = [x for c in shown for x, y in zip(c.x, c.y, strict=True) if not math.isnan(y)]
    if not values:
        return [cell(f"{title}: no finite value", "bold")]
    log = min(values) > 0 and math.log10(max(values) / min(values)) > DECADES
    scale = math.log10 if log else float
    low, high = _room(scale(min(values)), scale(max(values)))
    marks = ticks(low, high, max(2, height // (2 if log else 3)), log=log)
    labels = [_label(10**tick if log else tick) for tick in marks]
    gutter = max(map(len, labels))
    grid = _Grid(max(width - gutter - 2, 8), height, braille)
    grid.spans((min(places), max(places)), (low, high))
    if mark is not None:
        grid.mark(mark)
    for number, curve in enumerate(shown):
        grid.draw(curve.x, [y if math.isnan(y) else scale(y) for y in curve.y], number)
    by_row = {grid.row(tick): label for tick, label in zip(marks, labels, strict=True)}
    lines = [_legend(title + (", log scale" if log else ""), curves, width, braille=braille)]
    axis = ("┤", "│", "└", "─", "┬") if braille else ("+", "|", "+", "-", "+")
    for row in range(height):
        line = cell("").append(f"{by_row.get(row, ''):>{gutter}} {axis[row not in by_row]}", "dim")
        lines.append(line.append_text(grid.line(row)))
    return [*lines, *_below(grid, min(places), max(places), gutter, axis)]


def _finite(curve: Curve) -> tuple[list[float], list[float]]:
    pairs = zip(curve.x, curve.y, strict=True)
    kept = [(float(x), float(y) if math.isfinite(y) else math.nan) for x, y in pairs]
    return [x for x, _ in kept], [y for _, y in kept]


def _room(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: a flat curve is in the middle of one."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = abs(high) / 2 or 0.5
    return low - half, high + half


def ticks(low: float, high: float, most: int, *, log: bool = False) -> list[float]:
    """Return round numbers from ``low`` to ``high``, at most ``most`` of them and one at least.

    With ``log`` they are logarithms, of 1, 2 and 5 times powers of ten where there are few powers.

    >>> ticks(0.0, 1.0, 5), ticks(-2.1, 0.1, 4, log=True)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [-2.0, -1.0, 0.0])
    """
    if log:
        powers = range(math.ceil(low), math.floor(high) + 1)
        finer = [p + math.log10(s) for p in range(math.floor(low), powers.stop) for s in (1, 2, 5)]
        finer = [tick for tick in finer if low <= tick <= high]
        chosen = finer if len(finer) <= most or len(powers) < 2 else [float(p) for p in powers]
        return (chosen or [low])[:: -(-len(chosen) // most) or 1]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * s for s in (1, 2, 2.5, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(n * step, 12) for n in range(first, last + 1)] or [low]
    return [low]


def _label(value: float) -> str:
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.0e}"


def _legend(title: str, curves: Sequence[Curve], width: int, *, braille: bool) -> "Text":
    """The title, then each curve with its dots and last value; on lines of their own if long."""
    named = [c for c in curves if len(c.y)]
    samples = ("⠒⠒", "⠂⠐", "⠂⠐", "⠂⠐") if braille else LETTERS
    entries = [f"{samples[n % 4]} {c.name} {c.y[-1]:.4g}" for n, c in enumerate(named)]
    fits = len(title) + sum(3 + len(entry) for entry in entries) <= width
    text = cell("").append_text(cell(title, "bold"))
    for number, entry in enumerate(entries):
        text.append("   " if fits else "\n  ").append_text(cell(entry, STYLES[number % 4]))
    return text


def _below(grid: "_Grid", low: float, high: float, gutter: int, axis: Sequence[str]) -> list[Any]:
    """The horizontal axis, and the whole numbers below it."""
    room = max(2, grid.width // 8)
    marks = [t for t in ticks(*_room(low, high), room) if low <= t <= high and t == round(t)]
    if low == high:
        marks = [low]
    rule, labels = [axis[3]] * grid.width, [" "] * (grid.width + gutter + 2)
    free = 0
    for tick in marks:
        column, label = grid.column(tick), f"{tick:,.0f}"
        start = min(max(gutter + 2 + column - len(label) // 2, 0), len(labels) - len(label))
        if start >= free:
            rule[column] = axis[4]
            labels[start : start + len(label)] = label
            free = start + len(label) + 1
    rule_text = f"{'':>{gutter}} {axis[2]}{''.join(rule)}"
    return [cell(rule_text, "dim"), cell("".join(labels).rstrip(), "dim")]


class _Grid:
    """Cells of a chart, and the dots in them."""

    def __init__(self, width: int, height: int, braille: bool) -> None:
        self.width, self.height = width, height
        self.fine = (2, 4) if braille else (1, 1)  # dots of a cell
        self.dots: dict[tuple[int, int], int] = {}  # (row, column) -> pattern
        self.owner: dict[tuple[int, int], int] = {}
        self.alone: set[tuple[int, int]] = set()
        self.marked: int | None = None

    def spans(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        """Set what the edges of the grid are."""
        self.x, self.y = x, y

    def _dot(self, x: float, y: float) -> tuple[float, float]:
        (left, right), (low, high) = self.x, self.y
        across, up = self.width * self.fine[0] - 1, self.height * self.fine[1] - 1
        column = (x - left) / (right - left) * across if right > left else across / 2
        return column, (high - y) / (high - low) * up

    def row(self, y: float) -> int:
        """Return the row of cells of a height."""
        return _near(self._dot(self.x[0], y)[1]) // self.fine[1]

    def column(self, x: float) -> int:
        """Return the column of cells of a place."""
        return _near(self._dot(x, self.y[0])[0]) // self.fine[0]

    def mark(self, x: float) -> None:
        """Stand a dotted line at a place."""
        if self.x[0] <= x <= self.x[1]:
            self.marked = self.column(x)

    def draw(self, xs: Sequence[float], ys: Sequence[float], number: int) -> None:
        """Draw a curve; points without neighbours are dots of their own."""
        before: tuple[float, float] | None = None
        run = count = 0
        for x, y in zip(xs, ys, strict=True):
            if math.isnan(y):
                self._end(before, run, number)
                before, run = None, 0
                continue
            dot = self._dot(x, y)
            for column, row in _between(before or dot, dot):
                count += 1
                if not number or count // DASH % 2 == 0:
                    self._set(column, row, number)
            before, run = dot, run + 1
        self._end(before, run, number)

    def _end(self, last: tuple[float, float] | None, run: int, number: int) -> None:
        if last is not None and run == 1:
            self._set(_near(last[0]), _near(last[1]), number)
            place = (_near(last[1]) // self.fine[1], _near(last[0]) // self.fine[0])
            self.alone.add(place)

    def _set(self, column: int, row: int, number: int) -> None:
        place = (row // self.fine[1], column // self.fine[0])
        pattern = DOTS[column % 2][row % 4] if self.fine == (2, 4) else 1
        self.dots[place] = self.dots.get(place, 0) | pattern
        self.owner[place] = number

    def line(self, row: int) -> "Text":
        """Return a row of cells."""
        line = cell("")
        cells = (self._cell((row, column)) for column in range(self.width))
        for style, same in itertools.groupby(cells, key=lambda each: each[1]):
            line.append("".join(character for character, _ in same), style)
        line.rstrip()
        return line

    def _cell(self, place: tuple[int, int]) -> tuple[str, str]:
        """A character and its style."""
        braille = self.fine[0] == 2
        if place not in self.dots:
            marked = place[1] == self.marked
            return ("┊" if braille else ":", "dim") if marked else (" ", "")
        owner = self.owner[place] % len(STYLES)
        drawn = chr(0x2800 + self.dots[place]) if braille else LETTERS[owner]
        return "●" if braille and place in self.alone else drawn, STYLES[owner]


def _between(a: tuple[float, float], b: tuple[float, float]) -> Iterator[tuple[int, int]]:
    """The dots of a line, without its first unless it is all there is."""
    steps = math.ceil(max(abs(b[0] - a[0]), abs(b[1] - a[1])))
    if steps == 0:
        yield _near(b[0]), _near(b[1])
    for n in range(1, steps + 1):
        share = n / steps
        yield _near(a[0] + (b[0] - a[0]) * share), _near(a[1] + (b[1] - a[1]) * share)


def _near(place: float) -> int:
    """The dot that is nearest; Python's own ``round`` leaves one out between 0.5 and 1.5."""
    return math.floor(place + 0.5)
