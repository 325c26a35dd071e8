"""A text file as blocks of whole rows in UTF-8: nothing of it but one block is in memory."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpnet.data import files
from xpnet.data.files import one_line
from xpnet.data.tables.opened import opened
from xpnet.errors import DataError

__all__ = ["Block", "Cutter", "NotUtf8Error", "Source", "lines_in", "source"]

# Arrow reads the blocks of about a MiB fastest, if they have enough rows.
HEAD, FIRST, SIZE = 2**16, 2**18, 2**20


class Block(NamedTuple):
    """Whole rows of a text."""

    data: bytes  # UTF-8
    offset: int  # of its first byte in the text as UTF-8


class Cutter:
    """Finds where rows end: a line break in quotes ends none."""

    def __init__(self, delimiter: str, quote: str) -> None:
        self.quote = quote.encode()
        mark = rb" \t" if delimiter == "space" else re.escape(delimiter.encode())
        q = re.escape(self.quote)
        # Atomic groups, for possessive quantifiers match wrongly before Python 3.11.5 (gh-106052).
        field = rb"(?>(?>(?>Q[^Q]*Q)+)(?>[^D\n]*)|(?!Q)(?>[^D\n]*))" if quote else rb"(?>[^D\n]*)"
        row = rb"(?>(?>(?>(?>FIELD[D])*)FIELD\n)*)".replace(b"FIELD", field)
        self._rows = re.compile(row.replace(b"D", mark).replace(b"Q", q))

    def end(self, data: bytes) -> int:
        """Return the end of the last whole row of ``data``, which begins with a row."""
        if not self.quote or self.quote not in data or self._even(data):
            return data.rfind(b"\n") + 1
        match = self._rows.match(data)
        assert match is not None
        return match.end()

    def _even(self, data: bytes) -> bool:
        """Return whether each line has an even number of quotes, so that none ends inside them."""
        codes = np.frombuffer(data, np.uint8)
        starts = np.concatenate([[0], np.flatnonzero(codes == 10) + 1])
        quotes = (codes == self.quote[0]).astype(np.uint8)
        odd = np.add.reduceat(quotes, starts[starts < len(codes)], dtype=np.uint8) & 1
        # The last line may go on: where it does not end yet, it does not count.
        return not odd[: len(starts) - 1].any()


def lines_in(data: bytes) -> int:
    """Return the number of line breaks."""
    count = data.count(b"\n")
    return count + data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else count


class Source(NamedTuple):
    """A text file and how its bytes become text."""

    path: Path
    encoding: str = "utf-8"
    mark: int = 0  # bytes of the byte order mark, where the encoding is UTF-8
    cr: bool = False  # whether its lines end with a carriage return alone
    size: int = 0  # of a block, about

    def head(self) -> bytes:
        """Return the first rows, for a guess."""
        with opened(self.path) as file:
            return b"".join(_pieces(file, self, self.mark, HEAD, limit=HEAD))

    def blocks(self, cutter: Cutter, start: int = 0) -> Iterator[Block]:
        """Yield the rows from byte ``start`` of the text.

        Raises DataError for more than MAX_BYTES, for a row longer than MAX_LINE, for bytes that
        are not of the encoding, NUL among them, and for a quote that is never closed.
        """
        offset, rest, enough = start or self.mark, b"", 0
        with opened(self.path) as file:
            for piece in _pieces(file, self, offset, min(FIRST, self.size or SIZE)):
                data = rest + piece if rest else piece
                end = 0
                if len(data) >= min(enough, files.MAX_LINE):  # a long row is not cut at every piece
                    end = cutter.end(data)
                    enough = 0 if end else 2 * len(data)
                if end:
                    yield self._checked(Block(data[:end], offset))
                    offset += end
                elif len(data) >= files.MAX_LINE:
                    msg = f"{self.where(offset)}: more than {files.MAX_LINE} bytes in a row; "
                    raise DataError(msg + "split the file, or is a quote never closed?")
                rest = data[end:]
        if rest:
            if cutter.end(rest + b"\n") <= len(rest):
                msg = f"{self.where(offset)}: a quote is opened that nothing closes"
                remedy = "--set data.text.quote=none reads quotes as text"
                raise DataError(msg, python="TextFormat(quote='none')", command=remedy)
            yield self._checked(Block(rest, offset))

    def block(self, offset: int, size: int) -> Block:
        """Return the rows of one block of a file that is neither compressed nor to be decoded."""
        with opened(self.path) as file:
            file.seek(offset)
            data = file.read(size)
        return self._checked(Block(data.replace(b"\r", b"\n") if self.cr else data, offset))

    def where(self, offset: int, lines: int = 0) -> str:
        """Name the line that is ``lines`` after the one with this byte, which takes a while."""
        line, at, before = 1 + lines, self.mark, b""
        with opened(self.path) as file:
            for piece in _pieces(file, self, at, SIZE):
                part = piece[: max(0, offset - at)]
                line += lines_in(part) - (before == b"\r" and part.startswith(b"\n"))
                at, before = at + len(piece), part[-1:]
                if at >= offset:
                    break
        return f"{self.path}: line {line}"

    def _checked(self, block: Block) -> Block:
        data = block.data
        if b"\0" in data:
            where = self.where(block.offset + data.index(0))
            msg = (
                f"{where}: a NUL byte, which no text has; is it UTF-16 without a byte order mark, "
            )
            raise DataError(msg + "or not a table?")
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError as error:
                byte = f"byte 0x{data[error.start]:02x}"
                msg = f"{self.where(block.offset + error.start)}: {byte} is not UTF-8"
                remedy = "name the encoding, such as cp1252: {}encoding"
                raise NotUtf8Error(
                    msg, python=remedy.format("TextFormat."), command=remedy.format("data.text.")
                ) from None
        return block


class NotUtf8Error(DataError):
    """The text is in another encoding."""


def source(path: Path, encoding: str) -> Source:
    """Return how the bytes of a file become text; "auto" goes by the byte order mark."""
    with opened(path) as file:
        head = file.read(HEAD)
    mark = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    if encoding == "auto":
        wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if wide else "utf-8"
    found = Source(path, codecs.lookup(encoding).name)
    if found.encoding == "utf-8":
        found = found._replace(mark=mark)
    text = found.head()
    return found._replace(cr=b"\r" in text and b"\n" not in text)


def _pieces(
    file: io.BufferedIOBase, source: Source, start: int, size: int, limit: int | None = None
) -> Iterator[bytes]:
    """Yield the text from byte ``start`` as UTF-8, the first of ``size`` the others as set."""
    plain, skip = source.encoding == "utf-8", start
    if plain and file.seekable():
        file.seek(start)
        skip = 0
    decoder = codecs.getincrementaldecoder(source.encoding)()
    total = 0
    while piece := file.read(size):
        total, size = total + len(piece), source.size or SIZE
        if total > files.MAX_BYTES:
            msg = f"{source.path}: more than {files.MAX_BYTES} bytes; split the file"
            raise DataError(msg)
        if not plain:
            piece = _decoded(decoder, piece, source)
        skip, piece = max(0, skip - len(piece)), piece[skip:]
        yield piece.replace(b"\r", b"\n") if source.cr else piece
        if limit and total >= limit:
            return
    if not plain:
        yield _decoded(decoder, b"", source)


def _decoded(decoder: codecs.IncrementalDecoder, piece: bytes, source: Source) -> bytes:
    try:
        return decoder.decode(piece, final=not piece).encode()
    except UnicodeError as error:
        msg = f"{source.path}: is not {source.encoding}: {one_line(error)}"
        raise DataError(msg) from None
