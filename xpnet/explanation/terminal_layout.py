"""Lines of at most 80 columns: text with numbers beside it, and what was shown before left out."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from xpnet.explanation import wording
from xpnet.explanation.model import Tensor

__all__ = ["WIDTH", "Shown", "beside", "flowed", "numbers_of", "right", "wrapped"]

WIDTH = 80
GAP = 3
NARROW = 25  # columns that text needs


class Shown:
    """What has been printed, which need not be printed again."""

    def __init__(self) -> None:
        self._seen: set[tuple[str | bytes, ...]] = set()

    def new(self, tensor: Tensor) -> bool:
        """Return whether the array was not shown under this name before; it is from now on."""
        values = np.ascontiguousarray(tensor.values)
        return self._first(tensor.name, str(values.shape).encode() + values.tobytes())

    def text(self, text: str) -> bool:
        """Return whether a text was not shown before; it is from now on."""
        return self._first("", text.encode())

    def _first(self, *key: Any) -> bool:
        fresh = key not in self._seen
        self._seen.add(key)
        return fresh


def wrapped(text: str, indent: int = 0, style: str = "", hanging: int = 0) -> Iterator[Any]:
    """Yield the lines of a paragraph; ``hanging`` more columns before all but the first."""
    from rich.text import Text

    for line in textwrap.wrap(
        text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + hanging),
        break_on_hyphens=False,
    ):  # fmt: skip
        yield Text(line, style)


def flowed(parts: Sequence[Any], indent: int, gap: int = GAP) -> Iterator[Any]:
    """Yield lines with the parts one after another, as many to a line as fit."""
    from rich.text import Text

    line = Text(" " * indent)
    for part in parts:
        used = line.cell_len > indent
        if used and line.cell_len + gap + part.cell_len > WIDTH:
            yield from _folded(line, indent)
            line, used = Text(" " * indent), False
        line = Text.assemble(line, " " * (gap if used else 0), part)
    if line.cell_len > indent:
        yield from _folded(line, indent)


def _folded(line: Any, indent: int) -> Iterator[Any]:
    """Yield a line, on several where it is too long, broken between words."""
    from rich.text import Text

    while line.cell_len > WIDTH:
        cut = line.plain.rfind(" ", indent + 1, WIDTH + 1)
        cut = cut if cut > indent else WIDTH
        yield line[:cut]
        spaces = len(line.plain[cut:]) - len(line.plain[cut:].lstrip())
        line = Text.assemble(" " * (indent + 2), line[cut + spaces :])
    yield line


def right(line: Any, label: Any) -> Any | None:
    """Return the line with a label at its right end; None where there is no room."""
    from rich.text import Text

    room = WIDTH - line.cell_len - label.cell_len
    return Text.assemble(line, " " * room, label) if room >= 2 else None


def numbers_of(tensor: Tensor, summed: str = "", style: str = "bold") -> list[Any]:
    """Return the lines of an array: its name, shape and numbers, or their norm."""
    from rich.text import Text

    head = Text(tensor.name + (f"_{tensor.letters}" if tensor.letters else ""), style)
    start = len(tensor.name) + 1
    for i, letter in enumerate(tensor.letters):
        if letter in summed:
            head.stylize("bold magenta", start + i, start + i + 1)
    shape = f" {_shape(tensor.shape)}" if tensor.shape else ""
    values = tensor.values
    if not wording.fits(values):
        return [Text.assemble(head, (shape, "dim"), f" {wording.norm(values)}")]
    first = values.ndim > 2 and len(values) > 1
    cells = wording.numbers(values)
    width = max(len(c) for row in cells for c in row)
    if len(cells) == 1:
        return _vector(Text.assemble(head, (shape, "dim"), " = "), cells[0])
    title = Text.assemble(head, (shape, "dim"), (", n = 0", "dim") if first else "")
    return [title, *(Text("  ".join(c.rjust(width) for c in row)) for row in cells)]


def _vector(head: Any, row: list[str]) -> list[Any]:
    """Return a row of numbers after its name, on two lines where it is long."""
    from rich.text import Text

    at = wording.MOST if len(row) > wording.MOST else len(row)
    lines = [Text.assemble(head, "  ".join(row[:at]))]
    for start in range(at, len(row), at):
        lines.append(Text.assemble(" " * head.cell_len, "  ".join(row[start : start + at])))
    return lines


def _shape(shape: Iterable[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def beside(left: list[Any], blocks: list[list[Any]], indent: int) -> list[Any]:
    """Return the lines ``left`` with blocks of numbers beside or below, whichever takes fewest."""
    tall = [block for block in blocks if len(block) > 1]
    low = [block for block in blocks if len(block) == 1]
    ways = [_aside(left, blocks), _aside(left, tall), _aside(left, blocks[-1:]), left]
    below: list[list[list[Any]]] = [[], low, blocks[:-1], blocks]
    tried = [
        [*way, *_side_by_side(rest, indent)]
        for way, rest in zip(ways, below, strict=True)
        if way is not None
    ]
    return min(tried, key=len)


def _aside(left: list[Any], blocks: list[list[Any]]) -> list[Any] | None:
    """Return the lines with all blocks to the right of the last ones; None where they do not go."""
    from rich.text import Text

    lines = [line for block in blocks for line in block]
    if not lines:
        return None
    column = WIDTH - max(line.cell_len for line in lines)
    free = 0
    while free < len(left) and left[-1 - free].cell_len + GAP <= column:
        free += 1
    if not free or column < NARROW:
        return None
    start = max(len(left) - free, len(left) - len(lines))
    out = list(left[:start])
    for i, line in enumerate(lines):
        text = left[start + i] if start + i < len(left) else Text("")
        out.append(Text.assemble(text, " " * (column - text.cell_len), line))
    return out


def _side_by_side(blocks: list[list[Any]], indent: int) -> Iterator[Any]:
    """Yield lines of blocks next to each other, as many as fit."""
    from rich.text import Text

    while blocks:
        taken, used = 0, indent
        for block in blocks:
            width = max(line.cell_len for line in block)
            if taken and used + GAP + width > WIDTH:
                break
            used += width + (GAP if taken else 0)
            taken += 1
        row, blocks = blocks[:taken], blocks[taken:]
        for i in range(max(map(len, row))):
            line = Text(" " * indent)
            at = indent
            for block in row:
                width = max(part.cell_len for part in block)
                if i < len(block):
                    line = Text.assemble(line, " " * (at - line.cell_len), block[i])
                at += width + GAP
            yield line
