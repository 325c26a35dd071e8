"""The explanation as one self-contained HTML page: no network, no library."""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xpnet import page
from xpnet.escape import escape, escape_html
from xpnet.explanation import wording
from xpnet.explanation.model import Beside, Explanation, Playground, Step, Tensor
from xpnet.explanation.notation import definitions, mathml, prose
from xpnet.explanation.page_tensors import Drawn, drawn

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["render"]

TRIPLE = "⟨∂C|∂W_ij⟩ = Σ_n Σ_k Σ_s ⟨∂C|∂a_nk⟩ · ⟨∂a_nk|∂z_ns⟩ · ⟨∂z_ns|∂W_ij⟩"


class _Panel(NamedTuple):
    """A step in one convention."""

    number: int
    convention: str
    printed: bool
    step: Step
    operands: list[Drawn]
    result: Drawn
    sizes: dict[str, int]  # of the letters that are summed over

    @property
    def fates(self) -> list[tuple[str, list[str]]]:
        """Each summed letter with the operands that have it."""
        found = [(i, [t.label for t in self.operands if i in t.letters]) for i in self.step.summed]
        return [(letter, labels) for letter, labels in found if labels]


def render(explanation: Explanation) -> str:
    """Return the HTML of the page."""
    e = explanation
    return page.render(
        "xpnet.explanation",
        "page.html",
        e=e,
        math=_math,
        prose=_prose,
        definitions=definitions,
        lines=lambda text: _markup(escape_html(text)),
        question=wording.QUESTION,
        answer=wording.ANSWER,
        beside_text=wording.BESIDE,
        triple=TRIPLE,
        start=_start(e),
        panels=_panels(e),
        ways=_ways(e),
        ways_note=wording.ways_note(e),
        wrong=_wrong(e),
        beside=[_beside(b) for b in e.beside],
        bridge=[
            [drawn(t, column=column) for t in tensors]
            for tensors, column in ((e.bridge.rows, False), (e.bridge.column, True))
        ],
        bridge_difference=wording.number(e.bridge.difference),
        data=_data(e.playground),
    )


def _markup(text: str) -> "Markup":
    from markupsafe import Markup

    return Markup(text)


def _math(formula: str, lit: str = "", *, inline: bool = False) -> "Markup":
    """Return MathML with the letters of ``lit`` highlighted."""
    markup = mathml(formula, inline=inline)
    for letter in lit:
        markup = markup.replace(f'"ix" data-ix="{letter}"', f'"ix on" data-ix="{letter}"')
    return _markup(markup)


def _prose(line: str) -> "Markup":
    """Return text with its formulas as MathML, and minus signs for hyphens before numbers."""
    words = lambda text: re.sub(  # noqa: E731
        r"(?<![\w-])-(?=\d)", "−", escape_html(text).replace("&#x27;", "’")
    )
    return _markup(prose(line, words, lambda formula: mathml(formula, inline=True)))


def _start(e: Explanation) -> int:
    """The step to open on: where the vector multiplies the Jacobian, or else the first backward."""
    backward = [i for i, step in enumerate(e.steps, 1) if step.direction == "backward"]
    return next((i for i in backward if "J_nks" in e.steps[i - 1].formula), backward[0])


def _panels(e: Explanation) -> list[_Panel]:
    panels = []
    for i, step in enumerate(e.steps, 1):
        if e.convention != "column":
            panels.append(_panel(i, step, "rows", printed=True))
        if e.convention != "rows":
            printed = e.convention == "column"
            panels.append(_panel(i, step.column(), "column", printed=printed))
    return panels


def _panel(number: int, step: Step, convention: str, *, printed: bool) -> _Panel:
    sizes = {
        letter: n
        for t in (*step.operands, step.result)
        for letter, n in zip(t.letters, t.shape, strict=True)
        if letter in step.summed
    }
    upright = convention == "column"
    operands = [drawn(t, step.summed, column=upright) for t in step.operands]
    result = drawn(step.result, step.summed, column=upright)
    return _Panel(number, convention, printed, step, operands, result, sizes)


class _Way(NamedTuple):
    """A line of the table of ways."""

    name: str
    formula: str
    function: str
    bad: bool
    differences: list[tuple[str, int]]  # of dz and dW: as text, and on a logarithmic scale in %


def _ways(e: Explanation) -> list[_Way]:
    return [
        _Way(
            way.name,
            way.formula,
            way.function,
            way is e.ways.wrong and not way.exact,
            [(x.replace("-", "−"), _on_a_log_scale(float(x))) for x in (dz, dW)],
        )
        for way, dz, dW in wording.way_rows(e)
    ]


def _on_a_log_scale(x: float) -> int:
    """From 0 for 1e-17 to 100 for 10."""
    part = (math.log10(x) + 17) / 18 if x > 0 and math.isfinite(x) else 0.0
    return round(100 * min(max(part, 0.0), 1.0))


def _wrong(e: Explanation) -> list[tuple[Drawn, bool]]:
    """The gradient of the row where the wrong product is worst, and that product."""
    n = int(np.abs(e.ways.wrong.dz - e.ways.trained[0]).max(axis=-1).argmax())
    right = e.ways.trained[0][n]
    if not wording.fits(right):
        return []
    wrong = e.ways.wrong
    return [
        (drawn(Tensor("dz", "s", right)), False),
        (drawn(Tensor("da", "s", wrong.dz[n])), not wrong.exact),
    ]


def _beside(b: Beside) -> tuple[Beside, list[Drawn], str]:
    """The tensors of a comparison, and how far the product with the diagonal is off."""
    values = (b.a, b.da, b.jacobian, b.diagonal, b.dz)
    tensors = [drawn(Tensor("", "ks" if x.ndim == 2 else "k", x)) for x in values]
    return b, tensors, wording.number(float(np.abs(b.dz - b.diagonal).max()))


def _data(play: Playground) -> dict[str, object]:
    def plain_numbers(x: np.ndarray | float) -> object:
        if isinstance(x, float):
            return x if math.isfinite(x) else None
        return (
            [plain_numbers(v) for v in x.tolist()] if x.ndim == 1 else list(map(plain_numbers, x))
        )

    return {
        "logits": plain_numbers(play.logits),
        "label": play.label,
        "classes": list(map(escape, play.classes)),
        "loss": play.loss,
        "softmax": plain_numbers(play.softmax),
        "jacobian": plain_numbers(play.jacobian),
        "gradient": plain_numbers(play.gradient),
        "wrong": plain_numbers(play.wrong),
    }
