"""Where a command writes what it was asked for."""

import os
from collections.abc import Iterable
from pathlib import Path

import click

from xpnet.errors import DataError
from xpnet.storage import atomic_write_text

__all__ = ["check_places", "write_output"]


def check_places(*paths: str | None) -> None:
    """Raise DataError where a file could not be made, before minutes are spent on what is in it."""
    for path in paths:
        folder = Path(path or ".").parent
        if not os.access(folder, os.W_OK):
            why = "is not writable" if folder.is_dir() else "is no folder"
            msg = f"cannot write {path}: {str(folder)!r} {why}"
            raise DataError(msg)


def write_output(path: str, text: str | Iterable[str]) -> None:
    """Write ``text``, or its lines as they are made, to ``path``: all of it, or nothing of it.

    A symbolic link stays one. A device or a pipe, such as /dev/null, is written to rather than
    replaced; ``-`` is standard output.
    """
    place, lines = Path(path), (text,) if isinstance(text, str) else text
    if path == "-":
        for line in lines:
            click.echo(line, nl=False)
    elif place.exists() and not place.is_file() and not place.is_dir():
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror}"
            raise DataError(msg) from error
    else:
        atomic_write_text(os.path.realpath(place), lines)
