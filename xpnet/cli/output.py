"""What a command prints and writes: all of it goes through here.

A line and a cell of a table may hold names from files; these are escaped, so that no text acts on
a terminal.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xpnet.escape import escape

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "add_column",
    "add_row",
    "cell",
    "check_places",
    "fits",
    "only_json",
    "print_json",
    "say",
    "say_above",
    "say_written",
    "terminal",
    "show",
    "show_rows",
    "write_json",
    "write_output",
]


def say(*lines: str, err: bool = False) -> None:
    """Print lines, each of which remains one."""
    for line in lines:
        click.echo(escape(line), err=err)


def say_above(bar: "Progress", line: str) -> None:
    """Print a line above a bar that is on the terminal."""
    bar.console.print(escape(line), markup=False, soft_wrap=True)


def cell(value: Any, style: str = "") -> "Text":
    """Return a cell of a table: neither markup nor control characters act in it."""
    from rich.text import Text

    return Text(escape(str(value)), style)


def add_column(table: "Table", name: str, **options: Any) -> None:
    """Add a column with a heading."""
    table.add_column(cell(name), **options)


def add_row(table: "Table", *values: Any, style: str | None = None) -> None:
    """Add a row of values, or of cells that have a style."""
    from rich.text import Text

    table.add_row(*(v if isinstance(v, Text) else cell(v) for v in values), style=style)


def show(what: "Table | Text") -> None:
    """Print a table, or a cell by itself, on standard output."""
    from rich.console import Console

    Console(highlight=False).print(what)


def show_rows(
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[Any]],
    spare: Sequence[str] = (),
    *,
    fold: bool = False,
) -> None:
    """Print rows of values or cells under (name, "left" or "right") columns, each row one line.

    On a narrow terminal the ``spare`` columns are left out, the last of them first. The first
    column is folded where it still does not fit, and with ``fold`` the others are as well.
    """
    from rich.table import Table

    texts, widths = _measured(columns, rows)
    kept, left = list(range(len(columns))), list(spare)
    while left and sum(widths[k] + 2 for k in kept) - 2 > terminal()[0]:
        dropped = left.pop()
        kept = [k for k in kept if columns[k][0] != dropped]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for k in kept:
        name, side = columns[k]
        add_column(table, name, justify=side, no_wrap=(k > 0) != fold, overflow="fold")
    for row in texts:
        add_row(table, *(row[k] for k in kept))
    show(table)


def fits(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> bool:
    """Return whether :func:`show_rows` has room for all of the columns."""
    return sum(width + 2 for width in _measured(columns, rows)[1]) - 2 <= terminal()[0]


def _measured(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]
) -> tuple[list[list["Text"]], list[int]]:
    """The cells, and the width of each column."""
    from rich.text import Text

    texts = [[v if isinstance(v, Text) else cell(v) for v in row] for row in rows]
    heads = [cell(name) for name, _ in columns]
    return texts, [max(c.cell_len for c in column) for column in zip(heads, *texts, strict=True)]


def terminal() -> tuple[int, int, bool]:
    """Return the width and height that standard output has, and whether it shows braille."""
    from rich.console import Console

    console = Console()
    return console.width, console.height, console.encoding.startswith("utf")


def print_json(value: Any) -> None:
    """Print a value as the JSON document of ``--json``, encoded as in the files of a run."""
    from xpnet.storage.plain_json import json_text

    click.echo(json_text(value, indent=2))


def write_json(path: str, value: Any) -> None:
    """Write a value to a file as :func:`print_json` prints it."""
    from xpnet.storage.plain_json import json_text

    write_output(path, json_text(value, indent=2) + "\n")


@contextlib.contextmanager
def only_json(as_json: bool) -> Iterator[None]:
    """With ``--json``, send to standard error what the block prints for people."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def say_written(path: str | Path, lines: list[str], as_json: bool) -> None:
    """Print what was written to ``path``, a file or the folder of a run, in words or as JSON."""
    if as_json:
        size = Path(path).stat().st_size if Path(path).is_file() else None
        print_json({"path": path, "bytes": size, "lines": lines})
    else:
        say(*lines)


def check_places(*paths: str | None, as_json: bool = False) -> None:
    """Raise DataError if a file could not be written, before minutes are spent computing it.

    With ``as_json`` standard output is taken, and no file may be written there.
    """
    from xpnet.errors import DataError

    for path in filter(None, paths):
        if path == "-" and as_json:
            msg = "- is standard output, which has the document of --json: name a file"
            raise DataError(msg)
        folder = Path(path).parent
        if path != "-" and not os.access(folder, os.W_OK):
            why = "is not writable" if folder.is_dir() else "is not a folder"
            msg = f"cannot write {path}: {str(folder)!r} {why}; choose another folder"
            raise DataError(msg)


def write_output(path: str, text: str | Iterable[str]) -> None:
    """Write ``text``, or lines as they are produced, to ``path``, completely or not at all.

    ``-`` is standard output; else see :func:`xpnet.storage.durable.write_output`.
    """
    from xpnet.storage.durable import write_output as write

    lines = (text,) if isinstance(text, str) else text
    if path == "-":
        for line in lines:
            click.echo(line, nl=False)
    else:
        write(path, (line.encode() for line in lines))
