"""Finds the formulas in docstrings, which are plain text, and renders them as MathML.

    dz_s = Σ_k da_k J_ks = a_s (da_s - Σ_k da_k a_k), the vector times the Jacobian.

A formula is the longest run of words that the notation of ``xpnet.explanation.notation`` reads:
operators, numbers, single letters with their index letters, the functions that it knows, and the
names of the arguments. A run without any sign of mathematics, such as "a" or "(N, K)", is text.
"""

import html
import re
import textwrap
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from xpnet.explanation.notation import FUNCTIONS, HAT, TOKEN, mathml

# Between these two characters, which no text has, Markdown finds a formula.
OPEN, CLOSE = "\ue000", "\ue001"
NAME = "\ue002"  # stands for a name of several letters while a formula is converted

# What has no formulas for this: code, roles, and where a link leads.
CODE = re.compile(r"(:\w+:`[^`]+`|``.+?``|`[^`]+`|\]\([^)]*\))", re.DOTALL)
CONNECTORS = {"where", "else"}
AS_WORDS = {"sign", "round", "clip", "mean", "min", "max"}  # functions only before a parenthesis
OPERATORS = set("=+-*/·<>≤≥≠∘|") | {"-=", "+=", "*=", "<=", ">="}
PLAIN = set("=+-*/·<>≤≥≠∘|‖()[],.!'∞⌊⌋₂²³∂√Σ^") | {"-=", "+=", "*=", "<=", ">="}
STRONG = re.compile(rf"[=+*/·<>≤≥≠|‖²³√Σ∂∫^∞{HAT}α-ωℓΦ]|\b[a-zA-Z]\w?_[a-z\d(]|\b[A-Z]\(")
CALL = re.compile(rf"\b({'|'.join(FUNCTIONS)})(\(| [^\W\d])")
SLASH = "\ue003"  # a slash without space around it
# A ratio written without blanks, such as dC/dW_ij, 1/N or z/√2, is set as a fraction in a block.
TERM = rf"√?[∂d]?(?:\d+|[A-Za-zα-ωℓ]{HAT}?)(?:_[a-z\d]+)?[²³]?"
RATIO = re.compile(rf"(?<![\w)/])({TERM})/({TERM})(?![\w(/^])")
SHAPE = re.compile(r"\([A-Z]\w*,")


class Word(NamedTuple):
    """A word of a text: where it is, itself without the punctuation after it, and that."""

    start: int
    core: str
    after: str


def formulas(text: str, names: Collection[str] = ()) -> list[tuple[bool, str]]:
    """Divide text into (whether it is a formula, the part); together they are the text.

    >>> formulas("a = max(z, 0). Nair and Hinton 2010.")
    [(True, 'a = max(z, 0)'), (False, '. Nair and Hinton 2010.')]
    """
    found: list[tuple[bool, str]] = []
    done = 0
    for start, end in _runs(text, names):
        found += [(False, text[done:start]), (True, text[start:end])]
        done = end
    return [part for part in [*found, (False, text[done:])] if part[1]]


def _runs(text: str, names: Collection[str]) -> list[tuple[int, int]]:
    words = [_word(m) for m in re.finditer(r"\S+", text)]
    runs, n = [], 0
    while n < len(words):
        length = _length(words[n:], text, names)
        run = _trimmed(words[n : n + length])
        if run:
            start = run[0].start
            runs.append(_balanced(text, start, run[-1].start + len(run[-1].core)))
        n += max(length, 1)
    return [run for run in runs if _is_strong(text[slice(*run)])]


def _word(match: re.Match) -> Word:
    core = re.sub(r"(?:(?<!\.)\.|[,;:])$", "", match[0])
    return Word(match.start(), core, match[0][len(core) :])


def _length(words: list[Word], text: str, names: Collection[str]) -> int:
    """Return how many of the words, from the first on, are one formula."""
    taken = ""
    for n, (start, core, after) in enumerate(words):
        rest = text[start:]
        if core in CONNECTORS:
            if not taken:
                return n
        elif SHAPE.match(rest) or not _is_mathematics(core, names, taken):
            return n
        taken += f" {core}"
        cases = "where" in taken and re.match(r"[^.;:]*?\belse\b", rest[len(core) :])
        if after and not (after == "," and (_is_open(taken) or cases)):
            return n + 1
    return len(words)


def _is_mathematics(word: str, names: Collection[str], before: str) -> bool:
    for m in TOKEN.finditer(word):
        name = m["name"]
        if name is None:
            if m["other"] and m["other"] not in PLAIN:
                return False
            continue
        letters = name.removeprefix("d") or name
        if len(letters) == 1 or letters[1:] == HAT:
            continue
        if name in FUNCTIONS and (name not in AS_WORDS or word[m.end() : m.end() + 1] == "("):
            continue
        whole = re.match(r"\w+", word[m.start() :])
        if not names or {name, whole[0] if whole else name}.isdisjoint(names):
            return False
        after = word[0] == "(" or re.search(r"([-=+*/·(<>]|where|else)$", before)
        if word.strip("()⌊⌋") in names and not after:
            return False
    return bool(word) and "**" not in word


def _trimmed(run: list[Word]) -> list[Word]:
    """Return a run without what joins nothing at its end, or at its beginning."""
    joins = CONNECTORS | OPERATORS
    while run and run[-1].core in joins:
        run = run[:-1]
    while run and run[0].core in joins - {"-"}:
        run = run[1:]
    return run


def _is_open(text: str) -> bool:
    return any(text.count(a) > text.count(b) for a, b in ("()", "[]", "⌊⌋"))


def _balanced(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out a bracket that is opened before the run, or closed after it."""
    for opening, closing in ("()", "[]"):
        while text[start:end].count(closing) > text[start:end].count(opening):
            end = start + text[start:end].rindex(closing)
        while text[start:end].count(opening) > text[start:end].count(closing):
            start += text[start:end].index(opening) + 1
    return start, end


def _is_strong(run: str) -> bool:
    if not re.search(r"\w", run) or re.search(r"\d/\d+/\d|\+\+", run):  # a date, a language
        return False
    return bool(STRONG.search(run) or re.search(r"\w\)? - ", run) or CALL.search(run))


def element(formula: str, names: Collection[str] = (), *, inline: bool = True) -> str:
    """Return the MathML element of a formula; names of arguments are upright words.

    >>> "<mtext>pct_start</mtext>" in element("t = pct_start T", ["pct_start"])
    True
    """
    words = [name for name in re.findall(r"[a-zA-Z]\w+", formula) if name in names]
    for name in words:
        formula = re.sub(rf"\b{name}\b", NAME, formula, count=1)
    formula = formula.replace(f"^{NAME}", f"^({NAME})")
    formula = RATIO.sub(rf"\1{SLASH}\2" if inline else r"⟨\1|\2⟩", formula.replace("\n", " "))
    made = mathml(formula, inline=inline)
    made = made.replace(f"<mo>{SLASH}</mo>", '<mo lspace="0" rspace="0">/</mo>')
    for name in words:
        made = made.replace(f"<mo>{NAME}</mo>", f"<mtext>{name}</mtext>", 1)
    return made


def marked(text: str, names: Collection[str] = ()) -> str:
    """Return text for Markdown in which the formulas, but none in code, are marked."""
    parts = CODE.split(text)
    for n in range(0, len(parts), 2):
        divided = formulas(parts[n], names)
        parts[n] = "".join(f"{OPEN}{part}{CLOSE}" if is_one else part for is_one, part in divided)
    return "".join(parts)


def marked_page(text: str) -> str:
    """Return a page of Markdown in which the formulas of sentences and of tables are marked."""
    parts = re.split(r"(?ms)(^```.*?^```$|^#.*?$|^<!--.*?-->)", text)
    for n in range(0, len(parts), 2):
        parts[n] = "".join(
            "|".join(map(marked, piece.split("|"))) if piece.startswith("|") else marked(piece)
            for piece in re.split(r"(?m)(^\|.*$)", parts[n])
        )
    return "".join(parts)


def is_formulas(block: str, names: Collection[str] = ()) -> bool:
    """Whether every line of a block has a formula, and none a word in quotes.

    >>> is_formulas("g += λp" + chr(10) + "v = μv + g"), is_formulas('"mean"  C = 1')
    (True, False)
    """
    lines = [line for line in block.splitlines() if line.strip()]
    some = [any(is_one for is_one, _ in formulas(line, names)) for line in lines]
    return bool(lines) and all(some) and '"' not in block and "`" not in block


def table(block: str, names: Collection[str] = ()) -> str:
    """Return the HTML of lines of formulas; three blanks in a line divide it into cells."""
    rows = []
    for line in filter(str.strip, block.splitlines()):
        cells = [_cell(cell, names) for cell in re.split(r"\s{3,}", line.strip())]
        if line.startswith(" " * 12):  # below the second cell of the line before
            cells.insert(0, "")
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<div class="formulas"><table class="formulas">{"".join(rows)}</table></div>'


def _cell(text: str, names: Collection[str]) -> str:
    if re.fullmatch(r"[a-z]+_[a-z_]{2,}", text):
        return f"<code>{text}</code>"
    parts = [
        element(part, names, inline=False) if is_one else html.escape(part)
        for is_one, part in formulas(text, names)
    ]
    return "".join(parts)


def fence(source: str, language: str, css: str, options: Any, md: Any, **more: Any) -> str:
    """Render a fenced block of plain text for Markdown: formulas, or the text as it is."""
    names, _, rest = source.partition("\n") if source.startswith("names: ") else ("", "", source)
    known = names.removeprefix("names: ").split()
    if is_formulas(rest, known):
        return table(rest, known)
    return f'<div class="highlight"><pre><code>{html.escape(rest)}</code></pre></div>'


def to_markdown(
    docstring: str, names: Collection[str] = (), link: Callable[[str], str] = "`{}`".format
) -> str:
    """Return a docstring as Markdown: its formulas marked, its blocks fenced, its roles linked.

    ``names`` are those of the arguments or fields, and ``link`` makes the link to a name.
    """
    out = []
    blocks = re.split(r"\n\s*\n", docstring.strip("\n"))
    n, is_code = 0, False
    while n < len(blocks):
        block = blocks[n].strip("\n")
        if block.lstrip().startswith(">>>"):
            out.append(f"```pycon\n{textwrap.dedent(block)}\n```")
        elif block.startswith("    "):
            while n + 1 < len(blocks) and blocks[n + 1].startswith("    "):
                n += 1
                block += "\n\n" + blocks[n].strip("\n")
            out.append(_fenced(textwrap.dedent(block), names, is_code))
        else:
            text = CODE.sub(lambda m: _linked(m[0], link), marked(block, names))
            out.append(re.sub(r"::$", ":", text))
        is_code = block.endswith("::")
        n += 1
    return "\n\n".join(out)


def _fenced(block: str, names: Collection[str], is_code: bool) -> str:
    if is_formulas(block, names) and not is_code:
        there = sorted(name for name in names if re.search(rf"\b{name}\b", block))
        first = f"names: {' '.join(there)}\n" if there else ""
        return f"```formulas\n{first}{block}\n```"
    try:
        compile(block, "docstring", "exec")
        language = "python"
    except SyntaxError:
        language = "text"
    return f"```{language}\n{block}\n```"


def _linked(code: str, link: Callable[[str], str]) -> str:
    role = re.fullmatch(r":\w+:`~?([^`]+)`", code, re.DOTALL)
    return link(role[1]) if role else code


def register(md: Any) -> None:
    """Let a Markdown converter render what :func:`marked` has marked."""
    from markdown.inlinepatterns import InlineProcessor

    class Formula(InlineProcessor):
        def handleMatch(self, m: re.Match, data: str) -> tuple[str, int, int]:  # noqa: N802
            return self.md.htmlStash.store(element(m[1])), m.start(0), m.end(0)

    md.inlinePatterns.register(Formula(f"{OPEN}([^{CLOSE}]*){CLOSE}", md), "formula", 250)
