"""Formulas in index notation: written once as plain text, rendered as text, LaTeX or MathML.

    dz_ns = Σ_k da_nk J_nks          a_nk = ⟨exp z_nk|Σ_s exp z_ns⟩

Index letters follow a name's underscore, ⟨over|under⟩ is a fraction, and everything else is
literal. Docstrings need more: v̂, β1, r_0, μ_(t+1), softmax(z)_k, 1e-6, and the powers β1^t and
2^(t + 1).
"""

import re
from collections.abc import Callable

__all__ = ["columns", "definitions", "indices", "latex", "mathml", "plain", "prose"]

TOKEN = re.compile(
    r"⟨(?P<over>[^⟨⟩|]*)\|(?P<under>[^⟨⟩|]*)⟩"
    r"|Σ_(?P<sum>[a-z]+)"
    r"|(?P<name>d?(?:[A-Za-z]\u0302|[α-ωΑ-Ωℓ∫]|[A-Za-z]+))(?P<prime>[′']?)"
    r"(?:_(?P<index>[a-z]+|\d|\([^()]*\))|(?<=[α-ω])(?P<digit>\d))?(?P<power>[²³ᵀ]?)"
    r"|_(?P<below>[a-z]+)|\^(?P<raised>[a-z0-9]+|\([^()]*\)|⌊[^⌊⌋]*⌋)"
    r"|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?|½)|(?P<space>\s+)|(?P<other>[-+*<>]=|.)"
)
FUNCTIONS = {
    *("exp", "log", "max", "min", "tanh", "erf", "softplus", "elu", "mean", "clip", "diag"),
    *("cos", "sign", "round", "softmax"),
}
WORDS = {"where", "else", "with", "sum", "ones", "row", "major", "order", "in", "slope", "over"}
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "λ": "lambda",
    "μ": "mu", "σ": "sigma", "φ": "varphi", "π": "pi", "Σ": "Sigma", "Φ": "Phi",
    "η": "eta", "ρ": "rho", "τ": "tau", "ψ": "psi",
}  # fmt: skip
HAT = "\u0302"  # after the letter that it is on
POWERS = {"²": "2", "³": "3", "ᵀ": r"\mathsf{T}"}
SYMBOLS = {
    "∂": r"\partial ", "·": r"\cdot ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "√": r"\surd ",
    "∘": r"\odot ", "½": r"\tfrac12 ", "…": r"\dots ", "∈": r"\in ", "<=": r"\le ", ">=": r"\ge ",
}  # fmt: skip
SIGNS = {
    "-": "−", "-=": "−=", "<=": "≤", ">=": "≥", "<": "&lt;", ">": "&gt;", "&": "&amp;",
}  # fmt: skip


def plain(formula: str) -> str:
    """Return the formula as text.

    >>> plain("a_nk = ⟨exp z_nk|Σ_s exp z_ns⟩")
    'a_nk = exp z_nk / Σ_s exp z_ns'
    """

    def fraction(match: re.Match) -> str:
        over, under = match[1], match[2]
        simple = re.fullmatch(r"[^ ]+|Σ_\w+ \w+ \w+|Σ_\w+ \w+|\(.*\)²", under)
        over = f"({over})" if re.search(r" [+-] ", over) else over
        return f"{over} / {under if simple else f'({under})'}"

    return re.sub(r"⟨([^|]*)\|([^⟩]*)⟩", fraction, formula)


def indices(formula: str) -> str:
    """Return the index letters that are summed over.

    >>> indices("z_nj = Σ_i x_ni W_ij + b_j")
    'i'
    """
    return "".join(dict.fromkeys("".join(re.findall(r"Σ_([a-z]+)", formula))))


def definitions(formula: str) -> list[str]:
    """Split a formula from the definitions that follow it.

    >>> definitions("a_n = max(u_n, 0), u_n = z_n")
    ['a_n = max(u_n, 0)', 'u_n = z_n']
    """
    return re.split(r", (?=[^,]*=)", formula)


def prose(
    line: str, words: Callable[[str], str] = str, formula: Callable[[str], str] = plain
) -> str:
    """Convert text and the formulas between its dollar signs, each with its own function.

    >>> prose("the sum over $k$ leaves $dz_ns$")
    'the sum over k leaves dz_ns'
    """
    parts = line.split("$")
    return "".join(formula(p) if n % 2 else words(p) for n, p in enumerate(parts))


def columns(formula: str) -> str:
    """Return the formula for samples as columns: pairs of index letters are swapped.

    >>> columns("dW_ij = Σ_n x_ni dz_nj")
    'dW_ji = Σ_n x_in dz_jn'
    """
    return re.sub(r"(?<!Σ)(?<!δ)_([a-z])([a-z])(?![a-z])", r"_\2\1", formula)


def latex(formula: str) -> str:
    r"""Return LaTeX for math mode.

    >>> latex("dz_ns = Σ_k da_nk J_nks")
    '\\mathrm{d}z_{ns} = \\sum_{k} \\mathrm{d}a_{nk} J_{nks}'
    >>> latex("v̂ = v / (1 - β2^t)")
    '\\hat{v} = v / (1 - \\beta _{2}^{t})'
    """
    return _convert(formula, _latex_token)


def mathml(formula: str, *, inline: bool = False) -> str:
    """Return a MathML element; every index letter is an ``<mi class="ix" data-ix="k">``.

    ``inline`` puts the letter of a sum beside the sign, for running text.

    >>> mathml("x_n").count('data-ix="n"')
    1
    """
    body = _convert(formula, _mathml_token)
    if inline:
        body = body.replace("<munder>", "<msub>").replace("</munder>", "</msub>")
        body = body.replace(' largeop="true" movablelimits="false"', ' largeop="false"')
    style = "" if inline else ' displaystyle="true"'
    return f"<math{style}><mrow>{body}</mrow></math>"


def _convert(formula: str, token: Callable[[re.Match], str]) -> str:
    return "".join(token(match) for match in TOKEN.finditer(formula))


def _latex_token(m: re.Match) -> str:
    if m["over"] is not None:
        return rf"\frac{{{latex(m['over'])}}}{{{latex(m['under'])}}}"
    if m["sum"]:
        return rf"\sum_{{{m['sum']}}}"
    if m["name"]:
        index = f"_{{{_latex_index(m)}}}" if _index(m) else ""
        power = f"^{{{POWERS[m['power']]}}}" if m["power"] else ""
        return _latex_name(m["name"]) + ("'" if m["prime"] else "") + index + power
    if m["below"]:
        return f"_{{{m['below']}}}"
    if m["raised"]:
        return f"^{{{latex(_bare(m['raised']))}}}"
    if m["number"] and "e" in m[0]:
        mantissa, _, power = m[0].partition("e")
        return rf"{mantissa} \cdot 10^{{{int(power)}}}"
    if m["number"] or m["space"]:
        return SYMBOLS.get(m[0], m[0])
    if m["other"] in POWERS:
        return rf"^{{{POWERS[m['other']]}}}"
    return SYMBOLS.get(m["other"], m["other"])


def _latex_index(m: re.Match) -> str:
    index = _index(m)
    return index if index.isalpha() else latex(index)


def _latex_name(name: str) -> str:
    if name in FUNCTIONS:
        return rf"\operatorname{{{name}}}"
    if name in WORDS:
        return rf"\text{{ {name} }}"
    prefix, base = _split(name)
    if base[1:] == HAT:
        base = rf"\hat{{{base[0]}}}"
    elif base in ("ℓ", "∫"):
        base = {"ℓ": r"\ell ", "∫": r"\int "}[base]
    elif base in GREEK:
        base = rf"\{GREEK[base]} "
    elif len(base) > 1:
        base = rf"\mathrm{{{base}}}"
    return (r"\mathrm{d}" if prefix else "") + base


def _split(name: str) -> tuple[str, str]:
    """Split a gradient's name into its d and the rest."""
    gradient = name[0] == "d" and (len(name) == 2 or name[2:] == HAT) and name[1] != HAT
    return ("d", name[1:]) if gradient else ("", name)


def _mathml_token(m: re.Match) -> str:
    if m["over"] is not None:
        over, under = (_convert(m[part], _mathml_token) for part in ("over", "under"))
        return f"<mfrac><mrow>{over}</mrow><mrow>{under}</mrow></mfrac>"
    if m["sum"]:
        # With `movablelimits`, running text would have the letter beside the sign.
        sign = '<mo largeop="true" movablelimits="false">∑</mo>'
        return f"<munder>{sign}<mrow>{_letters(m['sum'])}</mrow></munder>"
    if m["below"]:
        return f"<msub><mrow></mrow><mrow>{_letters(m['below'])}</mrow></msub>"
    if m["name"]:
        return _mathml_name(m)
    if m["raised"]:
        return (
            f"<msup><mrow></mrow><mrow>{_convert(_bare(m['raised']), _mathml_token)}</mrow></msup>"
        )
    if m["space"]:
        around = m.string[m.start() - 1 : m.start()] + m.string[m.end() : m.end() + 1]
        product = len(around) == 2 and not set(around) & set("=+-·/∘<>≤≠,|")
        return '<mspace width="0.16em"></mspace>' if product else ""
    if m["number"] and "e" in m[0]:
        mantissa, _, power = m[0].partition("e")
        raised = f"<mn>{int(power)}</mn>".replace("<mn>-", "<mo>−</mo><mn>")
        ten = f"<msup><mn>10</mn><mrow>{raised}</mrow></msup>"
        return f"<mrow><mn>{mantissa}</mn><mo>·</mo>{ten}</mrow>"
    if m["number"]:
        return f"<mn>{m[0]}</mn>"
    if m["other"] in POWERS:
        return f"<msup><mrow></mrow>{_raised(m['other'])}</msup>"
    sign = SIGNS.get(m["other"], m["other"])
    fence = ' stretchy="false"' if sign in "()|" else ""
    return f"<mo{fence}>{sign}</mo>"


def _mathml_name(m: re.Match) -> str:
    name, index, power = m["name"], _index(m), m["power"]
    if name in FUNCTIONS:
        return f'<mi mathvariant="normal">{name}</mi><mspace width="0.17em"></mspace>'
    if name in WORDS:
        return f'<mtext class="word">&nbsp;{name}&nbsp;</mtext>'
    prefix, base = _split(name)
    upright = ' mathvariant="normal"' if len(base) > 1 and base[1:] != HAT else ""
    out = f"<mi{upright}>{base}{m['prime']}</mi>"
    if prefix:
        out = f'<mrow><mi mathvariant="normal">d</mi>{out}</mrow>'
    letters = f"<mrow>{_letters(index)}</mrow>" if index else ""
    raised = _raised(power)
    if index and power:
        return f"<msubsup>{out}{letters}{raised}</msubsup>"
    if power:
        return f"<msup>{out}{raised}</msup>"
    return f"<msub>{out}{letters}</msub>" if index else out


def _raised(power: str) -> str:
    return "<mo>⊤</mo>" if power == "ᵀ" else f"<mn>{POWERS.get(power)}</mn>"


def _letters(index: str) -> str:
    if not index.isalpha():
        return _convert(index, _mathml_token)
    return "".join(f'<mi class="ix" data-ix="{i}">{i}</mi>' for i in index)


def _index(m: re.Match) -> str:
    return _bare(m["index"] or m["digit"] or "")


def _bare(inner: str) -> str:
    """Return an index or a power without the parentheses that hold it together in text."""
    return inner[1:-1] if inner.startswith("(") else inner
