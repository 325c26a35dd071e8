"""Where a command writes what it was asked for."""

import os
from pathlib import Path

import click

from xpnet.checkpoint import atomic_write_text
from xpnet.errors import DataError

__all__ = ["write_output"]


def write_output(path: str, text: str) -> None:
    """Write ``text`` to the file ``path``: all of it, or nothing of it.

    A symbolic link stays one. A device or a pipe, such as /dev/null, is written to rather than
    replaced; ``-`` is standard output.
    """
    place = Path(path)
    if path == "-":
        click.echo(text, nl=False)
    elif place.exists() and not place.is_file() and not place.is_dir():
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror}"
            raise DataError(msg) from error
    else:
        atomic_write_text(os.path.realpath(place), text)
