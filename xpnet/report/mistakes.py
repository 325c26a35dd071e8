"""The rows that a model gets most wrong: as pictures, or as a person wrote them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.page.images import png
from xpnet.report.evidence import Mistake
from xpnet.report.layout import Card, Section, Table, number, percent

__all__ = ["Picture", "Shown", "mistakes"]

MOST_COLUMNS = 12
MARGIN = (
    "They are ordered by how far the output is on the wrong side: this loss gives no probability."
)
THUMBNAIL = 96  # pixels of the longer side


class Shown(NamedTuple):
    """A mistake and its row: pixels (H, W) or (H, W, 3), or the texts of its columns."""

    mistake: Mistake
    pixels: np.ndarray | None = None
    cells: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A row as an image, with what it is and what it was taken for."""

    src: str
    row: int
    expected: str
    actual: str
    p_expected: str
    p_actual: str


def mistakes(
    shown: Sequence[Shown],
    names: Sequence[str],
    classes: Sequence[str] | None,
    targets: Sequence[str],
    *,
    values: bool,
    probable: bool = True,
    part: str,
) -> Section | None:
    """Return the section of the worst mistakes; None where there is none.

    ``names`` are those of the columns, most important first; ``part`` says what rows are counted.
    """
    if not shown:
        return None
    lead = f"Rows are those of {part}, counted from 0. "
    if values:
        title, lead = "The largest residuals", f"{lead}{_far(shown, targets)}"
    else:
        title, lead = "The surest mistakes", f"{lead}{_sure(shown) if probable else MARGIN}"
    if shown[0].pixels is not None:
        pictures = tuple(
            _picture(each, classes, targets, sure=probable and not values, values=values)
            for each in shown
        )
        return Section("mistakes", title, lead, (Card("", (Gallery(pictures),), "", wide=True),))
    table = _table(shown, names, classes, targets, values=values, probable=probable)
    return Section("mistakes", title, lead, (Card("", (table,), "", wide=True),))


class Gallery(NamedTuple):
    """Pictures beside each other."""

    pictures: tuple[Picture, ...]


def _sure(shown: Sequence[Shown]) -> str:
    first = shown[0].mistake
    return f"In the first it is {percent(first.p_actual)} sure, and wrong."


def _far(shown: Sequence[Shown], targets: Sequence[str]) -> str:
    first = shown[0].mistake
    of = f" of {targets[first.column]}" if len(targets) > 1 else ""
    far = abs(first.actual - first.expected)
    return f"The first prediction{of} is {number(far)} away from the true value."


def _words(
    mistake: Mistake, classes: Sequence[str] | None, targets: Sequence[str], *, values: bool
) -> tuple[str, str]:
    """What a row is, and what it was taken for."""
    if values:
        return number(mistake.expected, 5), number(mistake.actual, 5)
    if classes is not None:
        return classes[int(mistake.expected)], classes[int(mistake.actual)]
    name = targets[mistake.column]
    return tuple(name if yes else f"not {name}" for yes in mistake[2:4])  # type: ignore[return-value]


def _picture(
    each: Shown,
    classes: Sequence[str] | None,
    targets: Sequence[str],
    *,
    sure: bool,
    values: bool,
) -> Picture:
    mistake, pixels = each.mistake, each.pixels
    assert pixels is not None
    shares = (percent(mistake.p_expected), percent(mistake.p_actual)) if sure else ("", "")
    words = _words(mistake, classes, targets, values=values)
    return Picture(png(pixels, THUMBNAIL), mistake.row, *words, *shares)


def _table(
    shown: Sequence[Shown],
    names: Sequence[str],
    classes: Sequence[str] | None,
    targets: Sequence[str],
    *,
    values: bool,
    probable: bool,
) -> Table:
    several = values and len(targets) > 1
    if values:
        header = ("row", *(("target",) if several else ()), "true", "predicted", "difference")
    else:
        header = ("row", "is", "taken for", "sure" if probable else "margin")
    rows: list[list[Any]] = []
    for mistake, _, cells in shown:
        words = _words(mistake, classes, targets, values=values)
        ahead = [f"{mistake.row:,}", *([targets[mistake.column]] if several else []), *words]
        if values:
            ahead.append(f"{mistake.actual - mistake.expected:+.4g}".replace("-", "−"))
        else:
            ahead.append(percent(mistake.p_actual) if probable else number(mistake.p_actual))
        rows.append([*ahead, *cells[:MOST_COLUMNS]])
    left = len(names) - MOST_COLUMNS
    more = (
        f"The first {MOST_COLUMNS} of {len(names)} columns, most important first."
        if left > 0
        else ""
    )
    align = ">" * len(header) if values else "><<>"
    align = f"><{'>' * 3}" if several else align
    heads = (*header, *names[:MOST_COLUMNS])
    return Table(heads, rows, align + "<" * min(len(names), MOST_COLUMNS), "Mistakes", more)
