"""What a command prints and writes: all of it goes through here.

A line and a cell of a table may hold names from files; these are escaped, so that no text acts on
a terminal.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xpnet.escape import escape

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["add_column", "add_row", "cell", "check_places", "show", "say", "write_output"]


def say(*lines: str, err: bool = False) -> None:
    """Print lines, each of which remains one."""
    for line in lines:
        click.echo(escape(line), err=err)


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


def check_places(*paths: str | None) -> None:
    """Raise DataError if a file could not be written, before minutes are spent computing it."""
    from xpnet.errors import DataError

    for path in filter(None, paths):
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
