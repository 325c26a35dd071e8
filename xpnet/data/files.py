"""Opening files that may be missing, unreadable, compressed, truncated or hostile."""

import difflib
import gzip
import importlib
import io
import platform
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.errors import DataError

__all__ = [
    "MAX_BYTES",
    "check_declared_size",
    "check_same",
    "digest_of",
    "existing",
    "memory_errors",
    "naming",
    "one_line",
    "reading",
    "read_bytes",
]

# The limit of one array. A few kilobytes of a compressed file can declare terabytes.
MAX_BYTES = 8 * 2**30
MAX_LINE = 64 * 2**20
SAMPLE = 2**16  # bytes at the beginning, in the middle and at the end of a file
# The highest compression ratio of deflate (zlib's technical details: 1032 to 1).
MAX_DEFLATE_RATIO = 1032


def existing(path: str | Path) -> Path:
    """Return ``path`` as a Path, or raise DataError if it is not a regular file."""
    path = Path(path)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            msg = f"{path}: is a folder; name a file in it"
        elif path.exists():
            msg = f"{path}: is not a regular file"
        elif not path.parent.is_dir():
            msg = f"{path}: no such file; the folder {path.parent} does not exist"
        else:
            siblings = [p.name for p in path.parent.iterdir()]
            closest = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.75)
            msg = f"{path}: no such file" + (f"; did you mean {closest[0]!r}?" if closest else "")
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
    raise DataError(msg)


@contextmanager
def reading(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, decompressed if its name says so; errors while reading become DataErrors."""
    open_, error_of_its_own = _opener(path.suffix.lower())
    try:
        with open_(path) as file:
            yield file
    except (OSError, EOFError, zlib.error, error_of_its_own) as error:
        msg = f"{path}: cannot be read: {getattr(error, 'strerror', None) or one_line(error)}"
        raise DataError(msg) from error


def _opener(suffix: str) -> tuple[Callable[[Path], Any], type[Exception]]:
    """Return what opens files of this suffix, and the error of its own that it raises."""
    if suffix == ".gz":
        return gzip.open, OSError
    if suffix == ".bz2":
        return importlib.import_module("bz2").open, OSError  # not every Python has these two
    if suffix == ".xz":
        lzma = importlib.import_module("lzma")
        return lzma.open, lzma.LZMAError
    if suffix == ".zst":
        arrow = importlib.import_module("pyarrow")
        return lambda path: _buffered(arrow, path), OSError
    return lambda path: path.open("rb"), OSError


def _buffered(arrow: Any, path: Path) -> io.BufferedReader:
    """Open a .zst file; Arrow's own files have no lines."""
    return io.BufferedReader(arrow.input_stream(path.open("rb"), compression="zstd"))


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the name of a file, or of a part, before the message of a DataError that lacks it."""
    try:
        yield
    except DataError as error:
        if str(path) in str(error):
            raise
        raise error.within(str(path)) from error


@contextmanager
def memory_errors(path: Path) -> Iterator[None]:
    """Turn a MemoryError of the block into a DataError that names the file."""
    try:
        yield
    except MemoryError as error:
        why = f": {one_line(error)}" if str(error) else ""
        msg = f"{path}: does not fit into memory{why}; split the file"
        raise DataError(msg) from None


def digest_of(path: Path) -> str:
    """Return what tells a file from others that take its place: a hash of size and samples."""
    size = existing(path).stat().st_size
    found = sha256(str(size).encode())
    try:
        with path.open("rb") as file:
            for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
                file.seek(max(0, start))
                found.update(file.read(SAMPLE))
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise DataError(msg) from error
    return found.hexdigest()


def check_same(path: Path, digest: str) -> None:
    """Raise DataError where a file has not the digest that it had where it was read first."""
    if digest_of(path) != digest:
        msg = f"{path}: is another file on {platform.node()} than where it was read first: "
        raise DataError(msg + "copy that one, or name one that all hosts see")


def one_line(error: Exception) -> str:
    """Return the message of an error, or its type, short and on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_declared_size(
    where: str, declared: int, stored: int, *, compressed: bool, in_memory: bool = True
) -> None:
    """Raise DataError if a header declares more than the ``stored`` bytes can hold.

    To be called before anything of the declared size is allocated; ``in_memory=False`` if the array
    is never in memory as a whole.
    """
    if declared > stored * (MAX_DEFLATE_RATIO if compressed else 1):
        msg = f"{where}: its header declares {declared} bytes but it holds fewer; is it truncated?"
        raise DataError(msg)
    if not compressed and declared < stored:
        msg = f"{where}: its header declares {declared} bytes but it holds {stored}"
        raise DataError(msg)
    if in_memory and declared > MAX_BYTES:
        msg = f"{where}: {declared} bytes are more than the {MAX_BYTES} that can be read at once"
        raise DataError(
            msg,
            python="stream it, scan(open_rows(path)), or split the file",
            command="--set data.stream=yes, or split the file",
        )


def read_bytes(file: io.BufferedIOBase, size: int, where: str) -> np.ndarray:
    """Return the rest of ``file`` as uint8 (size,), or raise DataError if it has another size."""
    data = np.empty(size, np.uint8)
    view, done = data.data, 0
    while done < size and (n := file.readinto(view[done : done + MAX_LINE])):
        done += n
    if done < size:
        msg = f"{where}: its header declares {size} bytes but it holds {done}; is it truncated?"
        raise DataError(msg)
    if file.read(1):  # at the end of a compressed file this also verifies its checksum
        msg = f"{where}: it holds more than the {size} bytes that its header declares"
        raise DataError(msg)
    return data
