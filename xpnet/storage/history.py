"""The history of a run, one JSON object per line."""

import collections
import io
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xpnet.errors import CheckpointError
from xpnet.storage.durable import atomic_write, storage_errors
from xpnet.storage.plain_json import decoded, json_text
from xpnet.storage.safe_open import MAX_JSON, open_regular, read_regular

__all__ = ["History"]

MAX_LINE = 2**20  # bytes of a record; an epoch's has a few hundred


class History:
    """An append-only JSON Lines file of records such as ``{"step": 100, "loss": 0.25}``.

    A record is complete once its newline is written: a line that was truncated by a crash is
    ignored, and the next :meth:`append` removes it. NaN and infinities are written as the strings
    "NaN", "Infinity" and "-Infinity" and are read as floats. The file is closed between calls.
    Writing does not follow symbolic links.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record with one write. It survives the process, but maybe not a power failure."""
        line = self._line(record)
        with storage_errors("append to", self.path), self._open() as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.truncate(sum(map(len, self._lines())))
            if file.write(line) != len(line):
                msg = f"cannot append to {self.path}: the disk is full"
                raise CheckpointError(msg)

    def read(self) -> list[dict[str, Any]]:
        """Return the records, oldest first; [] if there is no file.

        Raises CheckpointError with the line number if a complete line is not a JSON object.
        """
        return [self._record(number, line) for number, line in enumerate(self._lines(), 1)]

    def last(self, count: int) -> tuple[list[dict[str, Any]], int]:
        """Return the last ``count`` records, and how many there are in all.

        The file is read a line at a time: memory is that of the records returned. Raises
        CheckpointError as :meth:`read` does, but only for these records.
        """
        lines: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=count)
        number = 0
        with storage_errors("read", self.path), suppress(FileNotFoundError, NotADirectoryError):
            with open(open_regular(self.path), "rb") as file:
                while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                    number += 1
                    lines.append((number, line))
            if len(line) == MAX_LINE:
                msg = f"{self.path} line {number + 1} is not a record: it has more than "
                raise CheckpointError(msg + f"{MAX_LINE:,} bytes; repair or remove it")
        return [self._record(number, line) for number, line in lines], number

    def rewrite(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace the contents of the file by these records, whatever it holds now.

        A resumed run removes the records it will repeat, adds lost ones and repairs damaged ones.
        """
        lines = [self._line(record) for record in records]
        try:
            text = read_regular(self.path, MAX_JSON)
        except FileNotFoundError:
            text = b""
        except OSError:  # a pipe, for example: it is replaced
            text = None
        if text != b"".join(lines):
            atomic_write(self.path, *lines)

    def _line(self, record: Mapping[str, Any]) -> bytes:
        try:
            return json_text(record).encode() + b"\n"
        except (TypeError, ValueError) as error:
            msg = f"a record of {self.path} must be JSON data: {error}"
            raise CheckpointError(msg) from error

    def _open(self) -> io.FileIO:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        return open(open_regular(self.path, flags), "ab+", buffering=0)

    def _lines(self) -> list[bytes]:
        """Return the complete lines."""
        with storage_errors("read", self.path):
            text = read_regular(self.path, MAX_JSON) if self.path.exists() else b""
        return [line + b"\n" for line in text.split(b"\n")[:-1]]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if isinstance(record, dict):
                return decoded(record)
        except (ValueError, RecursionError):
            pass
        msg = f"{self.path} line {number} is not a JSON object; repair or remove it"
        raise CheckpointError(msg)
