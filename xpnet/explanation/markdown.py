"""The explanation as Markdown, with formulas in the syntax that GitHub renders."""

from collections.abc import Iterator

import numpy as np

from xpnet.escape import escape_markdown
from xpnet.explanation import wording
from xpnet.explanation.model import Explanation, Step, Tensor
from xpnet.explanation.notation import latex, prose

__all__ = ["render"]


def render(explanation: Explanation) -> str:
    """Return the Markdown text."""
    return "\n".join(_lines(explanation)) + "\n"


def _lines(e: Explanation) -> Iterator[str]:
    yield f"# {escape_markdown(e.title)}\n"
    yield f"> {wording.QUESTION}\n"
    yield f"{_prose(wording.ANSWER)}\n"
    yield from _table(("", ""), [(name, escape_markdown(value)) for name, value in e.setting])
    if row := wording.row_text(e):
        yield f"{escape_markdown(row)}\n"
    yield from _two_ways(e)
    direction = ""
    for number, (step, other) in enumerate(e.shown(), 1):
        if step.direction != direction:
            direction = step.direction
            yield f"## {direction.capitalize()}\n"
        yield from _step(number, step, other)
    yield from _reasons(e)
    yield f"## {wording.WAYS}\n"
    rows = [
        (f"**{w.name}**" if w is e.ways.wrong else w.name, _math(w.formula), dz, dW)
        for w, dz, dW in wording.way_rows(e)
    ]
    yield from _table(("way", "formula", "dz difference", "dW difference"), rows)
    yield "Difference: the largest from the gradients that training computes. "
    yield f"{wording.ways_note(e)}\n"
    yield f"{_prose(e.ways.why)}\n"
    yield f"## {wording.COMPARED}\n"
    yield f"{_prose(f'{wording.BESIDE} {e.playground.note}'.strip())}\n"
    for b in e.beside:
        kind = "diagonal" if b.is_diagonal else "full"
        yield f"### {b.name}: the Jacobian is {kind}\n\n{_math(b.formula)}\n"
        yield from _tensors(
            [
                Tensor("a", "k", b.a),
                Tensor("da", "k", b.da),
                Tensor("J", "ks", b.jacobian),
                Tensor("da diag(J)", "s", b.diagonal),
                Tensor("dz = da J", "s", b.dz),
            ]
        )
    if e.convention != "rows":
        yield f"## {wording.BRIDGE}\n"
        pairs = [tuple(map(_prose, row)) for row in e.bridge.pairs]
        yield from _table(("", "code: rows", "textbook: columns"), pairs)
        yield f"{_prose(wording.bridge_text(e))}\n"
    yield f"## {wording.LEGEND}\n"
    letters = [(_math(x.symbol), _prose(x.meaning), x.shape) for x in e.legend]
    yield from _table(("letter", "what it is", "shape"), letters)
    if e.script:
        yield f"## {wording.SCRIPT}\n\n```python\n{e.script}```"


def _two_ways(e: Explanation) -> Iterator[str]:
    yield f"## {wording.TWO_WAYS}\n"
    if e.two_ways is not None:
        both = e.two_ways
        yield f"Through the Jacobian, dz: {_values(both.jacobian[:1])}\n"
        yield f"Fused, dz: {_values(both.fused[:1])}\n"
    yield f"{_prose(wording.two_ways_text(e))}\n"


def _reasons(e: Explanation) -> Iterator[str]:
    yield f"## {wording.DERIVATION}\n"
    for reason in e.derivation:
        yield f"{_prose(reason.text)}\n\n```math\n{latex(reason.formula)}\n```\n"
        if reason.numbers:
            yield f"In numbers: {_math(reason.numbers)}\n"
    yield f"## {wording.NUDGE}\n"
    yield f"{_prose(wording.nudge_text(e))}\n"
    heads, *rows = wording.nudge_rows(e)
    rows = [(escape_markdown(name), *cells) for name, *cells in rows]
    yield from _table(tuple(map(_prose, heads)), rows)


def _step(number: int, step: Step, other: Step | None) -> Iterator[str]:
    yield f"### {number}. {step.title} ({wording.place(step)})\n"
    yield f"```math\n{latex(step.formula)}\n```\n"
    if step.summed:
        yield (
            f"Summed over {_and(step.summed)}."
            + (f" {_prose(step.matrix)}" if step.matrix else "")
            + "\n"
        )
    if other is not None and other.formula != step.formula:
        yield f"As columns: {_math(other.formula)}\n"
    lines = [f"{step.einsum}  # the formula"] if step.einsum else []
    for code in step.code:
        lines += [f"# {code.path}:{code.line} {code.function}", code.text]
    yield "```python\n" + "\n".join(lines) + "\n```\n"
    yield from _tensors([*step.operands, step.result])
    if step.note:
        yield f"{_prose(step.note)}\n"


def _prose(line: str) -> str:
    return prose(line, formula=_math)


def _and(letters: str) -> str:
    return " and ".join(f"*{i}*" for i in letters)


def _math(formula: str) -> str:
    return f"${latex(formula)}$".replace("|", r"\vert ") if formula else ""


def _tensors(tensors: list[Tensor]) -> Iterator[str]:
    for t in tensors:
        name = f"`{t.name}`" + (f" *{t.letters}*" if t.letters else "")
        yield f"{name}, {wording.shape(t)}: {_values(t.values)}\n"


def _values(values: np.ndarray) -> str:
    """Return a number, a matrix in a fenced block, or the norm of a large matrix."""
    if not wording.fits(values):
        return wording.norm(values)
    cells = wording.numbers(values)
    if len(cells) == 1:
        return "[" + "  ".join(cells[0]) + "]" if values.ndim else cells[0][0]
    width = max(len(c) for row in cells for c in row)
    rows = ["  ".join(c.rjust(width) for c in row) for row in cells]
    return "\n\n```text\n" + "\n".join(rows) + "\n```"


def _table(headings: tuple[str, ...], rows: object) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{' --- |' * len(headings)}"
    for row in rows:  # type: ignore[attr-defined]
        yield f"| {' | '.join(map(str, row))} |"
    yield ""
