"""The explanation as terminal output, in 80 columns."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from xpnet.explanation import wording
from xpnet.explanation.model import Beside, Explanation, Step, Tensor
from xpnet.explanation.notation import plain, prose

__all__ = ["render", "show"]

WIDTH = 80
SUMMED = "bold magenta"


def render(explanation: Explanation) -> str:
    """Return the text, without colours."""
    from rich.console import Console

    buffer = io.StringIO()
    show(explanation, Console(file=buffer, highlight=False, width=WIDTH))
    return buffer.getvalue()


def show(explanation: Explanation, console: Any) -> None:
    """Print to a rich console, never wider than 80 columns."""
    from rich.padding import Padding

    for part, left in _parts(explanation):
        console.print(Padding(part, (0, 0, 0, left)), width=min(WIDTH, console.width))


def _parts(e: Explanation) -> Iterator[tuple[Any, int]]:
    """Yield what to print and its left margin."""
    from rich.text import Text

    yield Text(e.title, style="bold"), 0
    for name, value in e.setting:
        yield Text.assemble((f"{name:<12}", "dim"), value), 0
    yield Text(f"\n{wording.QUESTION}\n", style="italic"), 0
    yield Text(prose(wording.ANSWER)), 0
    direction = ""
    for number, (step, other) in enumerate(e.shown(), 1):
        if step.direction != direction:
            direction = step.direction
            yield _rule(direction.capitalize()), 0
        yield from _step(number, step, other)
    yield from _ways(e)
    yield from _beside(e)
    if e.convention != "rows":
        yield from _bridge(e)


def _rule(title: str) -> Any:
    from rich.text import Text

    return Text(f"\n{title} {'─' * (WIDTH - len(title) - 1)}", style="bold cyan")


def _step(number: int, step: Step, other: Step | None) -> Iterator[tuple[Any, int]]:
    from rich.text import Text

    yield Text.assemble(f"\n{number}. ", (step.title, "bold"), (f"  [{step.place}]", "dim")), 0
    yield _line("formula", _formula(step)), 3
    if step.summed:
        letters = " and ".join(step.summed)
        yield _line("summed", Text(f"over {letters}", style=SUMMED)), 3
    if step.matrix:
        yield _line("matrices", Text(prose(step.matrix))), 3
    if step.einsum:
        yield (
            _line(
                "einsum" if "einsum" in step.einsum else "numpy",
                _lit(step.einsum, step.summed, '"'),
            ),
            3,
        )
    for code in step.code:
        yield _line("code", Text(f"{code.path}:{code.line} {code.function}", style="dim")), 3
        for row in code.text.splitlines():
            yield Text(row, style="green", overflow="fold"), 15
    if other is not None and other.formula != step.formula:
        column = plain(other.formula) + (f"   {prose(other.matrix)}" if other.matrix else "")
        yield _line("as columns", Text(column, style="dim")), 3
    for row in _beside_each_other([*step.operands, step.result], step.summed):
        yield row, 3
    if step.note:
        yield Text(prose(step.note), style="dim"), 3


def _line(name: str, value: Any) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 0))
    grid.add_column(width=12)
    grid.add_column()
    grid.add_row(Text(name, style="dim"), value)
    return grid


def _formula(step: Step) -> Any:
    return _lit(plain(step.formula), step.summed, "_")


def _lit(line: str, letters: str, after: str) -> Any:
    """Highlight the summed letters wherever they are indices."""
    import re

    from rich.text import Text

    out = Text(line, style="yellow" if after == "_" else "green")
    pattern = r"_[a-z]+" if after == "_" else r'"[^"]*"'
    for match in re.finditer(pattern, line):
        for i in range(match.start() + 1, match.end()):
            if line[i] in letters:
                out.stylize(SUMMED, i, i + 1)
    return out


def _beside_each_other(tensors: list[Tensor], summed: str) -> Iterator[Any]:
    """Lay out blocks of numbers from left to right, in as many rows as needed."""
    from rich.table import Table

    rows: list[list[Any]] = [[]]
    used = 0
    for i, tensor in enumerate(tensors):
        block, width = _block(tensor, summed, result=i == len(tensors) - 1)
        if rows[-1] and used + width + 3 > WIDTH - 3:
            rows.append([])
            used = 0
        rows[-1].append(block)
        used += width + 3
    for row in rows:
        grid = Table.grid(padding=(0, 3, 0, 0))
        grid.add_row(*row)
        yield grid


def _block(tensor: Tensor, summed: str, *, result: bool) -> tuple[Any, int]:
    from rich.text import Text

    index = f"_{tensor.letters}" if tensor.letters else ""
    head = f"{tensor.name}{index}  {wording.shape(tensor)}"
    out = Text(head, style="bold cyan" if result else "bold")
    start = len(tensor.name) + 1
    for i, letter in enumerate(tensor.letters):
        if letter in summed:
            out.stylize(SUMMED, start + i, start + i + 1)
    lines = _number_lines(tensor.values)
    out.append("\n" + "\n".join(lines), style="not bold")
    return out, max(len(head), *map(len, lines))


def _number_lines(values: Any) -> list[str]:
    if not wording.fits(values):
        return [f"… {wording.norm(values)}"]
    cells = wording.numbers(values)
    width = max(len(c) for row in cells for c in row)
    lines = [""] if values.ndim < 3 else ["first example only:"]
    for row in cells:
        for start in range(0, len(row), wording.MOST):
            lines.append("  ".join(c.rjust(width) for c in row[start : start + wording.MOST]))
    return [line for line in lines if line]


def _table(title: str, headings: Iterable[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _ways(e: Explanation) -> Iterator[tuple[Any, int]]:
    from rich.text import Text

    yield _rule("dC/dz and dC/dW of the output layer, five ways"), 0
    table = _table("", ["way", "formula", "dz diff.", "dW diff."])
    for way, dz, dW in wording.way_rows(e):
        style = "bold red" if way is e.ways.wrong and not way.exact else None
        table.add_row(way.name, plain(way.formula), dz, dW, style=style)
    yield table, 0
    yield Text("diff.: the largest difference from the gradients of training", "dim"), 1
    if note := wording.ways_note(e):
        yield Text(note, "dim"), 1
    yield Text(f"\n{prose(e.ways.why)}"), 1
    n = e.ways.trained[0]
    first = [
        Tensor("dz", "ns", n[:1]),
        Tensor(
            "dz wrong" if not e.ways.wrong.exact else "dz by diag(J)", "ns", e.ways.wrong.dz[:1]
        ),
    ]
    yield Text(""), 0
    for row in _beside_each_other(first, ""):
        yield row, 1


def _beside(e: Explanation) -> Iterator[tuple[Any, int]]:
    from rich.text import Text

    yield _rule("Sigmoid + MSE compared with softmax + cross-entropy"), 0
    yield Text(f"{prose(wording.BESIDE)}\n"), 0
    for b in e.beside:
        kind = "diagonal" if b.is_diagonal else "full"
        yield Text.assemble((b.name, "bold"), f": the Jacobian is {kind}, {b.formula}"), 0
        for row in _beside_each_other(list(_beside_tensors(b)), ""):
            yield row, 3
        yield Text(""), 0


def _beside_tensors(b: Beside) -> Iterator[Tensor]:
    yield Tensor("a", "k", b.a)
    yield Tensor("da", "k", b.da)
    yield Tensor("J", "ks", b.jacobian)
    yield Tensor("da diag(J)", "s", b.diagonal)
    yield Tensor("dz = da J", "s", b.dz)


def _bridge(e: Explanation) -> Iterator[tuple[Any, int]]:
    from rich.text import Text

    yield _rule("The bridge: a sample as a column, a batch as rows"), 0
    table = _table("", ["", "code: rows", "textbook: columns"])
    for row in e.bridge.pairs:
        table.add_row(*map(prose, row))
    yield table, 0
    most = wording.number(e.bridge.difference)
    yield Text(f"(x W)ᵀ = Wᵀ xᵀ. Computed both ways, z and dW differ by at most {most}."), 1
