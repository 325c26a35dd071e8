"""The explanation as a LaTeX document for pdflatex, with amsmath and fancyvrb."""

from collections.abc import Iterable, Iterator

import numpy as np

from xpnet.explanation import wording
from xpnet.explanation.model import Explanation, Step, Tensor
from xpnet.explanation.notation import definitions, latex, prose

__all__ = ["render"]

PREAMBLE = r"""\documentclass[11pt,a4paper]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage{amsmath,amssymb}
\usepackage[margin=25mm]{geometry}
\usepackage{fancyvrb}
\usepackage{array}
\allowdisplaybreaks
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\setcounter{secnumdepth}{0}
\setcounter{MaxMatrixCols}{20}
\begin{document}
"""
# The non-ASCII characters of text and code, for pdflatex.
CHARACTERS = {
    "Σ": r"$\Sigma$", "δ": r"$\delta$", "∂": r"$\partial$", "≠": r"$\ne$", "≤": r"$\le$",
    "ᵀ": r"$^{\mathsf T}$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "λ": r"$\lambda$",
    "σ": r"$\sigma$", "μ": r"$\mu$", "√": r"$\surd$", "∘": r"$\odot$", "…": r"\dots{}",
    "ℓ": r"$\ell$", "²": r"$^2$", "³": r"$^3$", "·": r"$\cdot$", "π": r"$\pi$", "Φ": r"$\Phi$",
    "φ": r"$\varphi$", "ε": r"$\varepsilon$", "∈": r"$\in$", "′": "'", "–": "--", "⟨": "", "⟩": "",
}  # fmt: skip
# Replacements inside code, where only the backslash and braces are special.
VERBATIM = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "²": r"\textsuperscript{2}",
            "³": r"\textsuperscript{3}", "ᵀ": r"\textsuperscript{T}"}  # fmt: skip
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def render(explanation: Explanation) -> str:
    """Return the LaTeX source of the document."""
    return PREAMBLE + "\n".join(_lines(explanation)) + "\n\\end{document}\n"


def _lines(e: Explanation) -> Iterator[str]:
    yield rf"\section*{{{_text(e.title)}}}"
    yield rf"\textit{{{_text(wording.QUESTION)}}}" + "\n"
    yield _prose(wording.ANSWER) + "\n"
    yield from _table("ll", [tuple(map(_text, row)) for row in e.setting], raw=True)
    if row := wording.row_text(e):
        yield _text(row) + "\n"
    yield from _two_ways(e)
    direction = ""
    for number, (step, other) in enumerate(e.shown(), 1):
        if step.direction != direction:
            direction = step.direction
            yield rf"\section{{{direction.capitalize()}}}"
        yield from _step(number, step, other)
    yield from _reasons(e)
    yield rf"\section{{{wording.WAYS}}}"
    rows = [
        (_text(w.name), rf"${latex(w.formula)}$", _text(dz), _text(dW))
        for w, dz, dW in wording.way_rows(e)
    ]
    yield from _table(
        r"p{42mm}lll", [("way", "formula", "dz difference", "dW difference"), *rows], raw=True
    )
    yield "Difference: the largest from the gradients that training computes. "
    yield _text(wording.ways_note(e)) + "\n"
    yield _prose(e.ways.why) + "\n"
    yield rf"\section{{{wording.COMPARED}}}"
    yield _prose(f"{wording.BESIDE} {e.playground.note}".strip()) + "\n"
    for b in e.beside:
        kind = "diagonal" if b.is_diagonal else "full"
        yield rf"\subsection{{{_text(b.name)}: the Jacobian is {kind}}}"
        named = {"a": b.a, "da": b.da, "J": b.jacobian, "da ∘ diag(J)": b.diagonal, "da J": b.dz}
        yield rf"\[ {latex(b.formula)} \]"
        for name, values in named.items():
            yield _values(latex(name), values)
    if e.convention != "rows":
        yield rf"\section{{{wording.BRIDGE}}}"
        yield from _table("lll", [("", "code: rows", "textbook: columns"), *e.bridge.pairs])
        yield _prose(wording.bridge_text(e)) + "\n"
    yield rf"\section{{{wording.LEGEND}}}"
    letters = [(f"${x.symbol}$", x.meaning, x.shape) for x in e.legend]
    yield from _table(r"lp{85mm}l", letters)
    if e.script:
        yield rf"\section{{{wording.SCRIPT}}}"
        yield from _verbatim(e.script.rstrip())


def _two_ways(e: Explanation) -> Iterator[str]:
    yield rf"\section{{{wording.TWO_WAYS}}}"
    if e.two_ways is not None:
        both = e.two_ways
        yield _values(r"\mathrm{d}z\ \text{through}\ J", both.jacobian[:1])
        yield _values(r"\mathrm{d}z\ \text{fused}", both.fused[:1])
    yield _prose(wording.two_ways_text(e)) + "\n"


def _reasons(e: Explanation) -> Iterator[str]:
    yield rf"\section{{{wording.DERIVATION}}}"
    for reason in e.derivation:
        lines = [latex(part) for part in (*definitions(reason.formula), reason.numbers) if part]
        yield _prose(reason.text)
        yield "\\begin{gather*}\n" + "\\\\\n".join(lines) + "\n\\end{gather*}"
    yield rf"\section{{{wording.NUDGE}}}"
    yield _prose(wording.nudge_text(e)) + "\n"
    heads, *rows = wording.nudge_rows(e)
    cells = [tuple(map(_prose, heads))]
    cells += [(_text(name), *(f"${_scientific(c)}$" for c in row)) for name, *row in rows]
    yield r"{\scriptsize"
    yield from _table("l" * len(heads), cells, raw=True)
    yield "}"


def _step(number: int, step: Step, other: Step | None) -> Iterator[str]:
    yield rf"\subsection{{{number}. {_text(step.title)} ({_text(wording.place(step))})}}"
    parts = [latex(part) for part in definitions(step.formula)]
    yield "\\begin{gather*}\n" + ",\\\\\n".join(parts) + "\n\\end{gather*}"
    if step.summed:
        letters = " and ".join(f"${i}$" for i in step.summed)
        yield f"Summed over {letters}. " + _prose(step.matrix) + "\n"
    if other is not None and other.formula != step.formula:
        yield rf"As columns: ${latex(other.formula)}$" + "\n"
    if step.einsum:
        yield from _verbatim(step.einsum)
    for code in step.code:
        yield rf"\texttt{{\small {_text(f'{code.path}:{code.line} {code.function}')}}}"
        yield from _verbatim(code.text)
    for t in (*step.operands, step.result):
        yield _tensor(t)
    if step.note:
        yield _prose(step.note) + "\n"


def _verbatim(code: str) -> Iterator[str]:
    yield r"\begin{Verbatim}[fontsize=\footnotesize,commandchars=\\\{\}]"
    yield "".join(VERBATIM.get(c) or _in_verbatim(c) for c in code)
    yield r"\end{Verbatim}"


def _in_verbatim(c: str) -> str:
    math = CHARACTERS.get(c, c)
    return rf"\ensuremath{{{math[1:-1]}}}" if math.startswith("$") else math


def _tensor(t: Tensor) -> str:
    index = rf"_{{{t.letters}}}" if t.letters else ""
    label = rf"\underset{{{_math_shape(t)}}}{{{latex(t.name)}{index}}}"
    return _values(label, t.values)


def _math_shape(t: Tensor) -> str:
    return r" \times ".join(map(str, t.shape)) or "1"


def _values(label: str, values: np.ndarray) -> str:
    if not wording.fits(values):
        return rf"\[ {label}: \text{{{wording.norm(values)}}} \]"
    cells = wording.numbers(values)
    if not values.ndim:
        return rf"\[ {label} = {_scientific(cells[0][0])} \]"
    body = r" \\ ".join(" & ".join(map(_scientific, row)) for row in cells)
    first = r"\text{ (first example only)}" if values.ndim > 2 and len(values) > 1 else ""
    display = rf"\[ {label} = \begin{{bmatrix}} {body} \end{{bmatrix}}{first} \]"
    return display if len(cells[0]) <= wording.MOST else rf"{{\scriptsize{display}}}"


def _scientific(cell: str) -> str:
    mantissa, e, power = cell.partition("e")
    return rf"{mantissa} \cdot 10^{{{int(power)}}}" if e else mantissa


def _text(line: str) -> str:
    return "".join(
        SPECIAL.get(c) or CHARACTERS.get(c) or (f"\\{c}" if c in "&%$#_{}" else c) for c in line
    )


def _prose(line: str) -> str:
    return prose(line, _text, lambda formula: f"${latex(formula)}$")


def _table(columns: str, rows: Iterable[tuple[str, ...]], *, raw: bool = False) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{{columns}}}"
    for row in rows:
        yield " & ".join(cell if raw else _prose(cell) for cell in row) + r" \\"
    yield r"\end{tabular}" + "\n"
