"""What a terminal shows around the steps: both ways, why, a nudge, the five ways, the letters."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from xpnet.explanation import wording
from xpnet.explanation.model import Beside, Explanation, Tensor
from xpnet.explanation.notation import definitions, plain, prose
from xpnet.explanation.terminal_layout import WIDTH, beside, flowed, numbers_of, wrapped

__all__ = [
    "bridge",
    "derivation",
    "legend",
    "nudges",
    "rule",
    "script",
    "sigmoid_and_softmax",
    "two_ways",
    "ways",
]


def rule(title: str) -> Iterator[Any]:
    """Yield the lines above a section."""
    from rich.text import Text

    yield Text("")
    yield Text(f"{title} {'─' * (WIDTH - len(title) - 1)}", style="bold cyan")


def two_ways(e: Explanation) -> Iterator[Any]:
    """Yield dz through the Jacobian and fused."""
    if e.two_ways is None:
        yield from wrapped(prose(e.one_way))
        return
    yield from rule(wording.TWO_WAYS)
    both = e.two_ways
    yield from _rows([("through J", both.jacobian[0]), ("fused", both.fused[0])])
    yield from wrapped(prose(wording.two_ways_text(e)))


def _rows(named: Iterable[tuple[str, np.ndarray]], form: str = "") -> Iterator[Any]:
    """Yield lines of rows of numbers, one below the other, in as many parts as needed."""
    from rich.text import Text

    names, rows = zip(*named, strict=True)
    values = np.stack(rows)
    label = max(map(len, names)) + 2
    if values.shape[1] > wording.MOST_IN_A_ROW:
        for name, row in zip(names, values, strict=True):
            yield Text(f"{name:<{label}}{wording.norm(row)}")
        return
    cells = [[f"{x:{form}}" if x else "0" for x in row] for row in values]
    if not form or any(c.strip("-0.") == "" and c != "0" for row in cells for c in row):
        cells = wording.numbers(values)
    width = max(len(c) for row in cells for c in row) + 2
    fitting = max(1, (WIDTH - label) // width)
    for start in range(0, values.shape[1], fitting):
        for name, row in zip(names, cells, strict=True):
            part = "".join(c.rjust(width) for c in row[start : start + fitting])
            yield Text.assemble(f"{name if not start else '':<{label}}", part)


def derivation(e: Explanation) -> Iterator[Any]:
    """Yield where J comes from, line by line, with numbers at the right."""
    from rich.text import Text

    yield from rule(wording.DERIVATION)
    yield from wrapped(prose(e.derivation[0].text))
    width = max(len(prose(reason.name)) for reason in e.derivation) + 2
    for reason in e.derivation:
        parts = [Text(plain(reason.formula), "yellow")]
        parts += [Text(plain(reason.numbers))] if reason.numbers else []
        for n, line in enumerate(flowed(parts, width)):
            name = prose(reason.name) if not n else ""
            yield Text.assemble((f"{name:<{width}}", "dim"), line[width:])


def nudges(e: Explanation) -> Iterator[Any]:
    """Yield what moves when a logit is raised."""
    if not e.nudges:
        return
    yield from rule(wording.NUDGE)
    yield from wrapped(prose(wording.nudge_text(e)))
    largest = float(np.abs(e.nudges[0].actual).max())
    unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
    rows = [
        (f"{nudge.function}, {what}", values / unit)
        for nudge in e.nudges
        for what, values in (("by J", nudge.predicted), ("measured", nudge.actual))
    ]
    yield from _rows(rows, ".2f")
    yield from wrapped(f"In units of {unit:.0e}.", style="dim")


def ways(e: Explanation) -> Iterator[Any]:
    """Yield the table of ways, and why the wrong one is wrong."""
    from rich.text import Text

    yield from rule(wording.WAYS)
    rows = wording.way_rows(e)
    names, numbers = (max(len(way.name) for way, _, _ in rows), 7)
    yield Text(f"{'way':<{names}} {'dz diff':>{numbers}} {'dW diff':>{numbers}}  formula", "dim")
    for way, dz, dW in rows:
        head = f"{way.name:<{names}} {dz:>{numbers}} {dW:>{numbers}}"
        formula = plain(definitions(way.formula)[0])
        style = "bold red" if way is e.ways.wrong and not way.exact else ""
        for n, line in enumerate(wrapped(formula, len(head) + 2)):
            yield Text.assemble(head, line.plain[len(head) :], style=style) if not n else line
    note = f"The largest difference from the gradients of training. {wording.ways_note(e)}"
    yield from wrapped(note.strip(), style="dim")
    yield from wrapped(prose(e.ways.why))
    wrong = "dz, wrong" if not e.ways.wrong.exact else "dz by diag(J)"
    yield from _rows([("dz", e.ways.trained[0][0]), (wrong, e.ways.wrong.dz[0])])


def sigmoid_and_softmax(e: Explanation) -> Iterator[Any]:
    """Yield the two output functions on the same logits."""
    from rich.text import Text

    yield from rule(wording.COMPARED)
    yield from wrapped(f"{prose(wording.BESIDE)} {prose(e.playground.note)}".strip())
    for b in e.beside:
        kind = "diagonal" if b.is_diagonal else "full"
        yield from flowed([Text(f"{b.name}:", "bold"), Text(f"J is {kind}, {b.formula}")], 0, 1)
        if b is e.beside[1] and _is_above(e):
            yield from wrapped("It is the softmax of the steps above.", 3)
            continue
        left = [line for t in _vectors(b) for line in numbers_of(t)]
        left = [Text.assemble("   ", line) for line in left]
        yield from beside(left, [numbers_of(Tensor("J", "ks", b.jacobian))], 3)


def _is_above(e: Explanation) -> bool:
    """Return whether the steps have the same softmax with the same gradient."""
    own = e.ways.function == "softmax" and len(e.ways.a) == 1
    return own and not e.playground.note and np.array_equal(e.ways.da[0], e.beside[1].da)


def _vectors(b: Beside) -> Iterator[Tensor]:
    yield Tensor("a", "k", b.a)
    yield Tensor("da", "k", b.da)
    yield Tensor("dz = da J", "", b.dz)
    yield Tensor("da ∘ diag(J)", "", b.diagonal)


def bridge(e: Explanation) -> Iterator[Any]:
    """Yield the two conventions next to each other."""
    from rich.text import Text

    yield from rule(wording.BRIDGE)
    rows = [("", "code: rows", "textbook: columns"), *e.bridge.pairs]
    for row in rows:
        what, code, book = map(prose, row)
        yield Text(f"{what:<14} {code:<31} {book}", "dim" if not what else "")
    yield from wrapped(prose(wording.bridge_text(e)))


def legend(e: Explanation) -> Iterator[Any]:
    """Yield what each letter is."""
    from rich.text import Text

    yield from rule(wording.LEGEND)
    sizes = [f"{x.symbol} = {x.shape} {x.meaning}" for x in e.legend if x.kind == "size"]
    arrays = [x for x in e.legend if x.kind == "array"]
    indices = [f"{x.symbol} {x.meaning}" for x in e.legend if x.kind == "index"]
    yield from wrapped(f"{'; '.join(sizes)}. {'; '.join(indices)}.")
    parts = [Text.assemble((x.symbol, "bold"), f" {prose(x.meaning)};") for x in arrays]
    yield from flowed(parts, 0, 1)


def script(e: Explanation) -> Iterator[Any]:
    """Yield the lines to copy."""
    from rich.text import Text

    if e.script:
        yield from rule(wording.SCRIPT)
        yield from (Text(line, "green") for line in e.script.splitlines())
