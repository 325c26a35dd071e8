"""The lines of a text in which every line is a row: JSON Lines, ARFF, LIBSVM."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

from xpnet.data import files
from xpnet.data.tables.opened import opened
from xpnet.data.tables.table import Location, column_of
from xpnet.errors import DataError

__all__ = ["Lines"]


class Lines:
    """Iterates over the lines of a UTF-8 text, counts them, and remembers which are rows.

    Raises DataError for bytes that are not UTF-8, and for more than MAX_BYTES or a line longer than
    MAX_LINE.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        self._lines, self._rows = self._read(), array("q")

    @property
    def where(self) -> str:
        """The name of the line that was read last."""
        return f"{self.path}: line {self.number}"

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def _read(self) -> Iterator[str]:
        total = 0
        with opened(self.path) as file:
            while line := file.readline(files.MAX_LINE):
                total, self.number = total + len(line), self.number + 1
                if total > files.MAX_BYTES or len(line) == files.MAX_LINE:
                    msg = f"{self.where}: more than {files.MAX_BYTES} bytes, or {files.MAX_LINE} "
                    raise DataError(msg + "in a line; split the file")
                try:
                    yield line.decode("utf-8-sig" if self.number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{line[error.start]:02x}"
                    msg = f"{self.where}: {byte} is not UTF-8; save the file as UTF-8"
                    raise DataError(msg) from None

    def rows(self, comment: str = "") -> Iterator[str]:
        """Yield the lines that follow and are rows: not blank, and no comment."""
        for line in self._lines:
            if line.strip() and not (comment and line.lstrip().startswith(comment)):
                self._rows.append(self.number)
                yield line
        if not self._rows:
            msg = f"{self.where if self.number else f'{self.path}: line 1'}: "
            raise DataError(msg + ("no rows" if self.number else "the file is empty"))

    def line_of(self, row: int) -> str:
        """Name the line of a row."""
        return f"{self.path}: line {self._rows[row]}"

    def location(self, names: tuple[str, ...] | None) -> Location:
        """Return the location of the rows that were read."""

        def location(row: int, column: int | None = None) -> str:
            return self.line_of(row) + column_of(names, column)

        return location
