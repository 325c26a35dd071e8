"""Opening files that may be absent, unreadable, compressed, cut short or hostile."""

import difflib
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from xpnet.errors import DataError

__all__ = [
    "MAX_BYTES",
    "check_declared",
    "existing",
    "naming",
    "one_line",
    "reading",
    "read_bytes",
    "read_lines",
    "within_memory",
]

# What one array may take. A few kilobytes of compressed file can declare terabytes.
MAX_BYTES = 8 * 2**30
MAX_LINE = 64 * 2**20
# The most that deflate can shrink data (zlib's technical details: 1032 to 1).
MAX_DEFLATE_RATIO = 1032


def existing(path: str | Path) -> Path:
    """Return ``path`` as a Path, or raise DataError where it is not a regular file."""
    path = Path(path)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            msg = f"{path}: is a folder; name a file in it"
        elif path.exists():
            msg = f"{path}: is not a regular file"
        elif not path.parent.is_dir():
            msg = f"{path}: no such file, nor folder {path.parent}"
        else:
            siblings = [p.name for p in path.parent.iterdir()]
            near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.75)
            msg = f"{path}: no such file" + (f"; did you mean {near[0]!r}?" if near else "")
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
    raise DataError(msg)


@contextmanager
def reading(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, through gzip where its name ends in .gz; its failures become DataErrors."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        msg = f"{path}: cannot be read: {getattr(error, 'strerror', None) or one_line(error)}"
        raise DataError(msg) from error


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let a DataError of what a file holds begin with the file, where it does not name it."""
    try:
        yield
    except DataError as error:
        if str(path) in str(error):
            raise
        msg = f"{path}: {error}"
        raise DataError(msg) from error


@contextmanager
def within_memory(path: Path) -> Iterator[None]:
    """Say which file it was whose content did not fit into the memory."""
    try:
        yield
    except MemoryError as error:
        why = f": {one_line(error)}" if str(error) else ""
        msg = f"{path}: does not fit into memory{why}; split the file"
        raise DataError(msg) from None


def one_line(error: Exception) -> str:
    """Return what an error says, or is, as a message can hold it."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_declared(
    place: str, declared: int, stored: int, *, compressed: bool, at_once: bool = True
) -> None:
    """Raise DataError where a header declares more than the ``stored`` bytes can hold.

    To be called before anything of the declared size is allocated; ``at_once=False`` is for what
    is never in memory as a whole.
    """
    if declared > stored * (MAX_DEFLATE_RATIO if compressed else 1):
        msg = f"{place}: its header declares {declared} bytes but it holds fewer; is it cut short?"
        raise DataError(msg)
    if not compressed and declared < stored:
        msg = f"{place}: its header declares {declared} bytes but it holds {stored}"
        raise DataError(msg)
    if at_once and declared > MAX_BYTES:
        msg = f"{place}: {declared} bytes is more than the {MAX_BYTES} that are read at once; "
        msg += "train with data.stream = 'yes', or split the file"
        raise DataError(msg)


def read_bytes(file: io.BufferedIOBase, size: int, place: str) -> np.ndarray:
    """Return the rest of ``file`` as uint8 (size,), or raise DataError where that is not all."""
    data = np.empty(size, np.uint8)
    view, done = data.data, 0
    while done < size and (n := file.readinto(view[done : done + MAX_LINE])):
        done += n
    if done < size:
        msg = f"{place}: its header declares {size} bytes but it holds {done}; is it cut short?"
        raise DataError(msg)
    if file.read(1):  # at the end of a compressed file this also verifies its checksum
        msg = f"{place}: it goes on after the {size} bytes that its header declares"
        raise DataError(msg)
    return data


def read_lines(path: Path, *, skip: int = 0) -> Iterator[str]:
    """Yield the lines of a UTF-8 text after the first ``skip``, without a byte order mark."""
    total, number = 0, 0
    with reading(path) as file:
        while line := file.readline(MAX_LINE):
            total, number = total + len(line), number + 1
            if total > MAX_BYTES or len(line) == MAX_LINE:
                limit = f"{MAX_BYTES} bytes" if total > MAX_BYTES else f"{MAX_LINE} bytes in a line"
                msg = f"{path}: line {number}: more than {limit}; split the file or save it as .npy"
                raise DataError(msg)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                msg = (
                    f"{path}: line {number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
                )
                raise DataError(msg) from None
            if number > skip:
                yield text
