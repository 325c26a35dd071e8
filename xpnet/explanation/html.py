"""The explanation as one self-contained HTML page: no network, no library."""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xpnet import page
from xpnet.escape import escape_html
from xpnet.explanation import wording
from xpnet.explanation.model import (
    Beside,
    Example,
    Explanation,
    Letter,
    Step,
    Tensor,
    TwoWays,
)
from xpnet.explanation.notation import definitions, mathml, prose
from xpnet.explanation.page_tensors import MOST, Drawn, drawn, fits, written
from xpnet.page.images import png

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
        written=written,
        prose=_prose,
        definitions=definitions,
        lines=lambda text: _markup(escape_html(text)),
        question=wording.QUESTION,
        answer=wording.ANSWER,
        beside_text=wording.BESIDE,
        triple=TRIPLE,
        start=e.opening + 1,
        panels=_panels(e),
        picture=None if e.example is None else _picture(e.example),
        two_ways=None if e.two_ways is None else _two_ways(e, e.two_ways),
        legend=_legend(e),
        ways=_ways(e),
        ways_note=wording.ways_note(e),
        wrong=_wrong(e),
        beside=[_beside(b) for b in e.beside],
        bridge=[
            [drawn(t, column=column) for t in tensors]
            for tensors, column in ((e.bridge.rows, False), (e.bridge.column, True))
        ],
        bridge_difference=wording.number(e.bridge.difference),
        data=_data(e),
    )


def _markup(text: str) -> "Markup":
    from markupsafe import Markup

    return Markup(text)


def _math(formula: str, lit: str = "", *, inline: bool = False) -> "Markup":
    """Return MathML with the letters of ``lit`` highlighted."""
    return _markup(_short(mathml(formula, inline=inline), lit))


def _short(markup: str, lit: str = "") -> str:
    """MathML without what a page does not need, which is half of it."""
    on = lambda m: '<mi class="on">' if m[1] in lit else "<mi>"  # noqa: E731
    markup = re.sub(r'<mi class="ix" data-ix="(.)">', on, markup).replace("></mspace>", "/>")
    markup = re.sub(r'<mo stretchy="false">(.)</mo>', r"<mtext>\1</mtext>", markup)
    return re.sub(r"^(<math[^>]*>)<mrow>(.*)</mrow></math>$", r"\1\2</math>", markup)


def _prose(line: str) -> "Markup":
    """Return text with its formulas as MathML, and minus signs for hyphens before numbers."""
    words = lambda text: re.sub(  # noqa: E731
        r"(?<![\w-])-(?=\d)", "−", escape_html(text).replace("&#x27;", "’")
    )
    return _markup(prose(line, words, lambda formula: _short(mathml(formula, inline=True))))


def _panels(e: Explanation) -> list[_Panel]:
    panels = []
    for i, step in enumerate(e.steps, 1):
        if e.convention != "column":
            panels.append(_panel(i, step, "rows", printed=True))
        if e.convention != "rows":
            printed = e.convention == "column"
            panels.append(_panel(i, step.column(), "column", printed=printed))
    seen: list[tuple[Drawn, str]] = []
    return [_without_copies(p, seen) for p in panels]


def _without_copies(p: _Panel, seen: list[tuple[Drawn, str]]) -> _Panel:
    """A panel that names, for each stack of matrices that was seen, the panel that has it."""

    def once(t: Drawn) -> Drawn:
        if len(t.letters) < 3 or not t.tables:
            return t
        for other, place in seen:
            if (other.name, other.tables) == (t.name, t.tables):
                return t._replace(copied=place)
        seen.append((t, f"step-{p.number}-{p.convention}"))
        return t

    return p._replace(operands=[once(t) for t in p.operands], result=once(p.result))


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


def _picture(example: Example) -> str | None:
    """The address of the example's picture."""
    if example.picture is None:
        return None
    return png(np.round(255 * np.clip(example.picture, 0, 1)).astype(np.uint8))


class _Bar(NamedTuple):
    """A number as text, and as a bar from the middle: its place and width in %."""

    text: str
    left: float
    width: float


class _Row(NamedTuple):
    """dz of a class on both ways."""

    name: str
    through: _Bar
    fused: _Bar
    difference: str


class _TwoWays(NamedTuple):
    """The first row's dz on both ways."""

    rows: list["_Row"]
    classes: int  # of which the rows are some
    full: str  # the value of a full bar
    steps: list[tuple[str, list[int]]]  # of each way: its backward steps
    losses: list[str]


def _two_ways(e: Explanation, two: TwoWays) -> _TwoWays:
    through, fused = two.jacobian[0], two.fused[0]
    classes = e.playground.classes if len(e.playground.classes) == len(through) else ()
    names = classes or tuple(map(str, range(len(through))))
    full = float(np.nan_to_num(np.abs([through, fused]), posinf=0).max()) or 1.0
    shown = np.sort(np.argsort(-np.abs(fused), kind="stable")[:MOST])
    rows = [
        _Row(names[k], _bar(x / full, x), _bar(y / full, y), written(abs(x - y)))
        for k, x, y in zip(shown, through[shown].tolist(), fused[shown].tolist(), strict=True)
    ]
    steps = [
        (way, [i for i, s in enumerate(e.steps, 1) if s.way == way and s.direction == "backward"])
        for way in ("jacobian", "fused")
    ]
    losses = [written(x) for x in two.losses]
    return _TwoWays(rows, len(names), written(full), steps, losses)


def _bar(part: float, x: float) -> _Bar:
    size = round(50 * min(abs(part), 1.0), 2) if math.isfinite(part) else 0.0
    return _Bar(written(x), 50 - size if part < 0 else 50, size)


KINDS = {"array": "arrays", "index": "index letters", "size": "sizes"}


def _legend(e: Explanation) -> list[tuple[str, list[tuple[Letter, str]]]]:
    """The letters by kind, each with its name, by which a step's letters are found."""
    name = lambda letter: letter.symbol.partition("_")[0]  # noqa: E731
    groups = {kind: [(x, name(x)) for x in e.legend if x.kind == kind] for kind in KINDS}
    return [(KINDS[kind], letters) for kind, letters in groups.items() if letters]


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
    if not fits(right):
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


def _data(e: Explanation) -> dict[str, object]:
    """What the page's script begins with."""
    play = e.playground
    liveliest = int(np.nan_to_num(np.diag(play.jacobian)).argmax())
    return {
        "logits": [x if math.isfinite(x) else None for x in play.logits.tolist()],
        "label": play.label,
        "classes": list(play.classes),
        "low": play.low,
        "high": play.high,
        "nudge": {"s": liveliest, "by": 0.5},
    }
