"""The explanation as terminal output, in 80 columns.

Numbers stand beside the text where there is room, and an array or a line of code that was shown
above is not shown again.
"""

import io
import re
from collections.abc import Iterator
from typing import Any

from xpnet.explanation import terminal_sections as sections
from xpnet.explanation import wording
from xpnet.explanation.model import Code, Explanation, Step
from xpnet.explanation.notation import plain, prose
from xpnet.explanation.terminal_example import example
from xpnet.explanation.terminal_layout import (
    WIDTH,
    Shown,
    beside,
    flowed,
    numbers_of,
    right,
    wrapped,
)

__all__ = ["render", "show"]

SUMMED = "bold magenta"
INDENT = 3


def render(explanation: Explanation) -> str:
    """Return the text, without colours."""
    from rich.console import Console

    buffer = io.StringIO()
    show(explanation, Console(file=buffer, highlight=False, width=WIDTH))
    return buffer.getvalue()


def show(explanation: Explanation, console: Any) -> None:
    """Print to a rich console, never wider than 80 columns."""
    for line in _lines(explanation):
        console.print(line, width=min(WIDTH, console.width), soft_wrap=console.width >= WIDTH)


def _lines(e: Explanation) -> Iterator[Any]:
    from rich.text import Text

    shown = Shown()
    yield Text(e.title, style="bold")
    facts = [Text.assemble((f"{name} ", "dim"), value) for name, value in e.setting]
    yield from flowed(facts, 0)
    if e.example is not None:
        yield from example(e.example)
    yield from wrapped(wording.QUESTION, style="italic")
    yield from wrapped(prose(wording.ANSWER))
    yield from sections.two_ways(e)
    direction = ""
    for number, (step, _) in enumerate(e.shown(), 1):
        if step.direction != direction:
            direction = step.direction
            yield from sections.rule(direction.capitalize())
        yield from _step(number, step, shown)
    yield from sections.derivation(e)
    yield from sections.nudges(e)
    yield from sections.ways(e)
    yield from sections.sigmoid_and_softmax(e)
    if e.convention != "rows":
        yield from sections.bridge(e)
    yield from sections.legend(e)
    yield from sections.script(e)


def _step(number: int, step: Step, shown: Shown) -> Iterator[Any]:
    from rich.text import Text

    head = Text.assemble(f"{number}. ", (step.title, "bold"), (f" [{wording.place(step)}]", "dim"))
    blocks = [numbers_of(t, step.summed) for t in step.operands if shown.new(t) and t.name != "δ"]
    shown.new(step.result)
    blocks.append(numbers_of(step.result, step.summed, "bold cyan"))
    if not shown.text(f"{step.formula} {step.einsum} {step.code}"):  # as in a step above
        yield from beside([*flowed([head], 0)], blocks, INDENT)
        return
    formulas = [_lit(plain(step.formula), step.summed, "_")]
    if step.matrix:
        formulas.append(Text(prose(step.matrix), "yellow"))
    if step.einsum:
        formulas.append(_lit(step.einsum, step.summed, '"'))
    left = [*flowed([head], 0), *flowed(formulas, INDENT)]
    for code in step.code:
        if shown.text(repr(code)):
            left = _with_code(left, code)
    yield from beside(left, blocks, INDENT)
    if step.note and shown.text(step.note):
        yield from wrapped(prose(step.note), INDENT, "dim")


def _with_code(left: list[Any], code: Code) -> list[Any]:
    """Return the lines with those of a function, and where they are at the end of one of them."""
    from rich.text import Text

    where = f"{code.path}:{code.line}"
    rows = [Text(row, "green") for row in code.text.splitlines()]
    lines = [line for row in rows for line in flowed([row], INDENT)]
    full, short = (Text(text, "dim") for text in (f"{where} {code.function}", where))
    for label, at in ((full, -1), (short, -1), (full, 0), (short, 0)):
        if labelled := right(left[at], label):
            return [*(labelled if line is left[at] else line for line in left), *lines]
    return [*left, Text.assemble(" " * INDENT, full), *lines]


def _lit(line: str, letters: str, after: str) -> Any:
    """Highlight the summed letters wherever they are indices."""
    from rich.text import Text

    out = Text(line, style="yellow" if after == "_" else "green")
    pattern = r"_[a-z]+" if after == "_" else r'"[^"]*"'
    for match in re.finditer(pattern, line):
        for i in range(match.start() + 1, match.end()):
            if line[i] in letters:
                out.stylize(SUMMED, i, i + 1)
    return out
