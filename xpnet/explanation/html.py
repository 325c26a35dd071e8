"""The explanation as one self-contained HTML page: no network, no library."""

import json
import math
import re
from collections.abc import Iterator
from importlib import resources

import numpy as np

from xpnet.escape import escape, escape_html, filled
from xpnet.explanation import wording
from xpnet.explanation.model import Beside, Explanation, Playground, Step, Tensor
from xpnet.explanation.notation import definitions, mathml, prose

__all__ = ["render"]

TRIPLE = "⟨∂C|∂W_ij⟩ = Σ_n Σ_k Σ_s ⟨∂C|∂a_nk⟩ · ⟨∂a_nk|∂z_ns⟩ · ⟨∂z_ns|∂W_ij⟩"


def render(explanation: Explanation) -> str:
    """Return the HTML of the page."""
    e = explanation
    folder = resources.files("xpnet.explanation") / "page"
    parts = {
        "css": (folder / "page.css").read_text("utf-8"),
        "js": (folder / "page.js").read_text("utf-8"),
        "title": _text(e.title),
        "convention": e.convention,
        "question": _text(wording.QUESTION),
        "answer": _prose(wording.ANSWER),
        "triple": mathml(TRIPLE),
        "setting": "".join(
            f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in e.setting
        ),
        "switch": _switch(e),
        "tabs": "".join(_tabs(e)),
        "panels": "".join(_panels(e)),
        "ways": _ways(e),
        "why": _prose(e.ways.why),
        "wrong": _wrong(e),
        "beside_text": _prose(wording.BESIDE),
        "beside": "".join(_beside(b) for b in e.beside),
        "bridge": "" if e.convention == "rows" else _bridge(e),
        "data": _data(e.playground),
    }
    return filled((folder / "page.html").read_text("utf-8"), parts)


def _text(line: str) -> str:
    return escape_html(line)


def _prose(line: str) -> str:
    """Return text with its formulas as MathML, and minus signs for hyphens before numbers."""
    words = lambda part: re.sub(r"(?<![\w-])-(?=\d)", "−", _text(part).replace("&#x27;", "’"))  # noqa: E731
    return prose(line, words, lambda formula: mathml(formula, inline=True))


def _data(play: Playground) -> str:
    def plain_numbers(x: np.ndarray | float) -> object:
        if isinstance(x, float):
            return x if math.isfinite(x) else None
        return (
            [plain_numbers(v) for v in x.tolist()] if x.ndim == 1 else list(map(plain_numbers, x))
        )

    table = {
        "logits": plain_numbers(play.logits),
        "label": play.label,
        "classes": list(map(escape, play.classes)),
        "loss": play.loss,
        "softmax": plain_numbers(play.softmax),
        "jacobian": plain_numbers(play.jacobian),
        "gradient": plain_numbers(play.gradient),
        "wrong": plain_numbers(play.wrong),
    }
    return json.dumps(table, allow_nan=False).replace("<", "\\u003c")


def _switch(e: Explanation) -> str:
    if e.convention != "both":
        return ""
    return (
        '<div class="switch" role="group" aria-label="Convention">'
        '<button type="button" data-convention="rows" aria-pressed="true">rows: x W</button>'
        '<button type="button" data-convention="column" aria-pressed="false">columns: W x</button>'
        "</div>"
    )


def _tabs(e: Explanation) -> Iterator[str]:
    direction = ""
    for i, step in enumerate(e.steps):
        if step.direction != direction:
            direction = step.direction
            yield f'<p role="presentation">{direction}</p>'
        chosen = ' data-start="yes"' if i == e.opening else ""
        yield (
            f'<button type="button" role="tab" id="tab-{i + 1}"{chosen}><span>{i + 1}</span>'
            f"<span>{_text(step.title)} <em>{_text(step.place)}</em></span></button>"
        )


def _panels(e: Explanation) -> Iterator[str]:
    for i, step in enumerate(e.steps, 1):
        if e.convention != "column":
            yield _panel(i, step, "rows", printed=True)
        if e.convention != "rows":
            yield _panel(i, step.column(), "column", printed=e.convention == "column")


def _panel(i: int, step: Step, convention: str, *, printed: bool) -> str:
    summed = step.summed
    tensors = (*step.operands, step.result)
    sizes = {letter: n for t in tensors for letter, n in zip(t.letters, t.shape, strict=True)}
    data = "".join(f' data-size-{letter}="{sizes[letter]}"' for letter in summed if letter in sizes)
    sign = -1 if step.einsum.startswith("-") else 1
    column = convention == "column"
    return (
        f'<article class="panel{" shown-in-print" if printed else ""}" role="tabpanel" hidden'
        f' id="step-{i}-{convention}" aria-labelledby="tab-{i}" data-summed="{summed}"'
        f' data-product="{_text(" ".join(step.product))}" data-added="{_text(step.added)}"'
        f' data-sign="{sign}"{data}>'
        f'<h3>{_text(step.title)}<span class="place">{_text(step.place)}</span></h3>'
        f'<div class="formula summed">{_formula(step.formula, summed)}</div>'
        f'<dl class="facts">{_facts(step)}</dl><div class="tensors">'
        + "".join(_tensor(t, summed, "operand", column) for t in step.operands)
        + _tensor(step.result, summed, "result", column)
        + f'</div><p class="expansion" aria-live="polite"></p>{_fate(step)}'
        + (f'<p class="note">{_prose(step.note)}</p>' if step.note else "")
        + "</article>"
    )


def _formula(formula: str, summed: str = "") -> str:
    return "".join(_lit(mathml(part), summed) for part in definitions(formula))


def _facts(step: Step) -> str:
    rows = []
    if step.matrix:
        rows.append(("matrices", f"<span>{_prose(step.matrix)}</span>"))
    if step.einsum:
        name = "einsum" if "einsum" in step.einsum else "numpy"
        rows.append((name, f"<code>{_lit_einsum(step)}</code>"))
    code = "".join(
        f"<small>{_text(f'{c.path}:{c.line}')} · {_text(c.function)}</small>"
        f"<pre>{_text(c.text)}</pre>"
        for c in step.code
    )
    rows.append(("code", code))
    return "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)


def _lit(markup: str, summed: str) -> str:
    """Highlight the summed letters in MathML."""
    for letter in summed:
        markup = markup.replace(
            f'class="ix" data-ix="{letter}"', f'class="ix on" data-ix="{letter}"'
        )
    return markup


def _lit_einsum(step: Step) -> str:
    parts = step.einsum.split('"')
    out = []
    for n, part in enumerate(parts):
        if n % 2 == 0:
            out.append(_text(part))
            continue
        letters = "".join(f'<b class="on">{c}</b>' if c in step.summed else _text(c) for c in part)
        out.append(f"&quot;{letters}&quot;")
    return "".join(out)


def _fate(step: Step) -> str:
    if not step.summed:
        return '<p class="fate">There is no sum.</p>'
    parts = []
    for letter in step.summed:
        having = [t for t in step.operands if letter in t.letters]
        names = " and ".join(_lit(mathml(f"{t.name}_{t.letters}"), letter) for t in having)
        if names:
            parts.append(
                f'<b class="on"><i>{letter}</i></b> is summed over: it is an index of {names}, '
                f"but not of {mathml(_named(step.result))}."
            )
    return f'<p class="fate">{" ".join(parts)}</p>' if parts else ""


def _named(t: Tensor) -> str:
    return f"{t.name}_{t.letters}" if t.letters else t.name


def _tensor(t: Tensor, summed: str, kind: str, column: bool) -> str:
    named = _lit(mathml(_named(t)), summed)
    return (
        f'<div class="tensor {kind}"><p class="name" data-name="{_text(t.name)}">{named}</p>'
        f'<p class="shape">{_text(wording.shape(t))}</p>{_matrix(t, summed, column)}</div>'
    )


def _matrix(t: Tensor, summed: str, column: bool) -> str:
    if not wording.fits(t.values):
        return _schematic(t, summed)
    if t.values.ndim <= 2:
        return _table(t, t.values, (), column)
    if t.values.ndim > 3 or len(t.values) > wording.MOST:
        return _table(t, t.values[:1], (), column) if t.values.ndim == 3 else _schematic(t, summed)
    return "".join(_table(t, t.values[n], (n,), column) for n in range(len(t.values)))


def _table(t: Tensor, values: np.ndarray, before: tuple[int, ...], column: bool) -> str:
    """Return a matrix as a table whose cells carry their indices and full value."""
    if values.ndim == 3:
        values, before = values[0], (0,)
    upright = column and len(t.letters) == 1 and t.letters != "n"
    cells = wording.numbers(values)
    rows = []
    for r, row in enumerate(cells):
        tds = []
        for c, cell in enumerate(row):
            place = {0: (), 1: (c,)}.get(values.ndim, (r, c))
            where = " ".join(map(str, (*before, *place)))
            exact = repr(float(np.asarray(values)[place]))
            td = f'<td data-at="{where}" data-v="{exact}">{cell.replace("-", "−")}</td>'
            tds.append(f"<tr>{td}</tr>" if upright else td)
        rows.append("".join(tds) if upright else f"<tr>{''.join(tds)}</tr>")
    stack = f' data-n="{before[0]}"' + (" hidden" if before[0] else "") if before else ""
    return (
        f'<table class="m" data-letters="{t.letters}" data-name="{_text(t.name)}"{stack}'
        f' aria-label="{_text(t.name)}"><tbody>{"".join(rows)}</tbody></table>'
    )


def _schematic(t: Tensor, summed: str) -> str:
    """Return a box in proportion to a matrix too large to show, with a band for the summed axis."""
    shape = (1, 1, *t.shape)[-2:]
    letters = t.letters.rjust(2)[-2:]
    longest = max(shape)
    height, width = (round(2.6 + 5.4 * math.sqrt(n / longest), 2) for n in shape)
    across, down = letters[1] in summed, letters[0] in summed
    band = {
        (True, True): "0",
        (True, False): "42% 0",
        (False, True): "0 42%",
        (False, False): "42%",
    }[across, down]

    def letter(i: int, place: str, lit: bool) -> str:
        return f'<b class="{place}{" on" if lit else ""}">{letters[i].strip()}</b>'

    return (
        f'<div class="big" style="--w:{width}rem;--h:{height}rem;--band:{band}">'
        f"{letter(1, 'c', across)}{letter(0, 'r', down)}"
        f"<span>{' × '.join(map(str, t.shape))}<br>{wording.norm(t.values)}</span></div>"
    )


def _ways(e: Explanation) -> str:
    rows = []
    for way, dz, dW in wording.way_rows(e):
        bad = way is e.ways.wrong and not way.exact
        cells = "".join(f'<td class="n">{_difference(x)}</td>' for x in (dz, dW))
        source = f"<code>{_text(way.function)}</code>" if way.function else ""
        formula = "&emsp;".join(map(mathml, definitions(way.formula)))
        rows.append(
            f'<tr{" class=bad" if bad else ""}><th scope="row">{_text(way.name)}</th>'
            f"<td>{formula}</td><td>{source}</td>{cells}</tr>"
        )
    heads = ("way", "formula", "function", "d<i>z</i> difference", "d<i>W</i> difference")
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    note = _text(wording.ways_note(e))
    return (
        f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="hint">Difference: the largest from the gradients that training computes; '
        f"the bars are logarithmic, from 10⁻¹⁷ to 10. {note}</p>"
    )


def _difference(x: str) -> str:
    value = float(x)
    part = (math.log10(value) + 17) / 18 if value > 0 and math.isfinite(value) else 0.0
    width = round(100 * min(max(part, 0.0), 1.0))
    return f'{x.replace("-", "−")}<i class="log" style="width:{width}%"></i>'


def _wrong(e: Explanation) -> str:
    n = int(np.abs(e.ways.wrong.dz - e.ways.trained[0]).max(axis=-1).argmax())
    right = Tensor("dz", "s", e.ways.trained[0][n])
    wrong = Tensor("da", "s", e.ways.wrong.dz[n])
    label = "d<i>a</i> ∘ diag <i>J</i>" + (
        ", wrong" if not e.ways.wrong.exact else ", correct here"
    )
    bad = " bad" if not e.ways.wrong.exact else ""
    if not wording.fits(right.values):
        return ""
    return (
        '<div class="tensors"><div class="tensor"><p class="name">d<i>z</i></p>'
        f'{_table(right, right.values, (), False)}</div><div class="tensor{bad}">'
        f'<p class="name">{label}</p>{_table(wrong, wrong.values, (), False)}</div></div>'
    )


def _beside(b: Beside) -> str:
    kind = "diagonal" if b.is_diagonal else "full"
    verdict = (
        "Everything off the diagonal is 0: the two agree."
        if b.is_diagonal
        else f"They differ by up to {wording.number(float(np.abs(b.dz - b.diagonal).max()))}."
    )
    named = (
        ("<i>a</i>", b.a), ("d<i>a</i>", b.da), (f"<i>J</i>, {kind}", b.jacobian),
        ("d<i>a</i> ∘ diag <i>J</i>", b.diagonal), ("d<i>z</i> = d<i>a</i> <i>J</i>", b.dz),
    )  # fmt: skip
    blocks = []
    for label, values in named:
        t = Tensor("", "ks" if values.ndim == 2 else "k", values)
        blocks.append(
            f'<div class="tensor"><p class="name">{label}</p>{_matrix(t, "", column=False)}</div>'
        )
    return (
        f'<div class="card"><h3>{_text(b.name)}</h3>'
        f'<div class="formula">{_formula(b.formula)}</div>'
        f'<div class="tensors">{"".join(blocks)}</div><p class="note">{verdict}</p></div>'
    )


def _bridge(e: Explanation) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_prose(what)}</th><td>{_prose(row)}</td><td>{_prose(col)}</td></tr>'
        for what, row, col in e.bridge.pairs
    )
    cards = "".join(
        f'<div class="card"><h3>{title}</h3><div class="tensors">'
        + "".join(_tensor(t, "", "operand", column) for t in tensors)
        + "</div></div>"
        for title, tensors, column in (
            ("Code: a batch of rows", e.bridge.rows, False),
            ("Textbook: a sample is a column", e.bridge.column, True),
        )
    )
    return (
        '<section id="bridge" aria-labelledby="bridge-title">'
        '<h2 id="bridge-title">The bridge: a sample as a column, a batch as rows</h2>'
        f"<p>{mathml('(x W)ᵀ = Wᵀ xᵀ')}: the textbook’s weights are the transpose of the code’s. "
        f"Computed both ways, <i>z</i> and d<i>W</i> differ by at most "
        f"{wording.number(e.bridge.difference)}.</p>"
        '<div class="scroll"><table class="plain"><thead><tr><th></th>'
        '<th scope="col">code: rows</th>'
        f'<th scope="col">textbook: columns</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f'<div class="pair">{cards}</div></section>'
    )
