"""Writing a command's results to a file or to standard output."""

import os
from collections.abc import Iterable
from pathlib import Path

import click

from xpnet.errors import DataError
from xpnet.storage import atomic_write_text

__all__ = ["check_places", "write_output"]


def check_places(*paths: str | None) -> None:
    """Raise DataError if a file could not be written, before minutes are spent computing it."""
    for path in filter(None, paths):
        folder = Path(path).parent
        if path != "-" and not os.access(folder, os.W_OK):
            why = "is not writable" if folder.is_dir() else "is not a folder"
            msg = f"cannot write {path}: {str(folder)!r} {why}; choose another folder"
            raise DataError(msg)


def write_output(path: str, text: str | Iterable[str]) -> None:
    """Write ``text``, or lines as they are produced, to ``path``, completely or not at all.

    A symbolic link is kept: its target is written. A device or a pipe, such as /dev/null, is
    written to rather than replaced; ``-`` is standard output. Raises DataError.
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
