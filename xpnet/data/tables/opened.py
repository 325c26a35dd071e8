"""Opening a table whatever it is compressed with, archives with one table included."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xpnet.data import files
from xpnet.data.files import one_line, reading
from xpnet.errors import DataError

__all__ = ["FORMATS", "Unchanged", "contents", "is_compressed", "opened", "suffix_of"]

FORMATS = {
    "text": (".csv", ".tsv", ".txt", ".data", ".dat"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".feather", ".arrow", ".ipc"),
    "json": (".jsonl", ".ndjson"),
    "arff": (".arff",),
    "libsvm": (".libsvm", ".svm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
# What archivers add on their own.
EXTRAS = re.compile(r"(.*/)?(__MACOSX/.*|\.[^/]*|Thumbs\.db|desktop\.ini)|.*/", re.IGNORECASE)


def is_compressed(path: Path) -> bool:
    """Return whether the bytes of a file are other than those of the table."""
    return path.suffix.lower() in COMPRESSED


def suffix_of(path: Path, *, inside: bool = True) -> str:
    """Return the suffix of the table in a file, in lower case, without its compression.

    That of an archive is its table's, unless one is not to look ``inside``.

    >>> suffix_of(Path("a.CSV.gz")), suffix_of(Path("a.parquet"))
    ('.csv', '.parquet')
    """
    name = Path(path.name.lower())
    own = Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
    if name.suffix == ".zip" and inside:
        with _archive(path) as (_, held):
            return Path(held.lower()).suffix or own
    return own


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file for its bytes without compression; errors while reading become DataErrors.

    A .zip archive must hold one file, or one that is a table by its name.
    """
    if path.suffix.lower() != ".zip":
        with reading(path) as file:
            yield file
        return
    with _archive(path) as (archive, held), archive.open(held) as file:
        yield file  # type: ignore[misc]


@contextmanager
def _archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, str]]:
    try:
        with reading(path) as file, zipfile.ZipFile(file) as archive:
            yield archive, _member(path, archive)
    # RuntimeError: it is encrypted; UnicodeDecodeError: the name of a file in it is damaged
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {one_line(error)}"
        raise DataError(msg) from error


def _member(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the name of the one table in an archive."""
    names = [name for name in archive.namelist() if not EXTRAS.fullmatch(name)]
    tables = names if len(names) == 1 else [n for n in names if n.lower().endswith(SUFFIXES)]
    if len(tables) == 1:
        return tables[0]
    shown = ", ".join(repr(name[:60]) for name in names[:5]) or "nothing"
    msg = f"{path}: holds {shown}{', ...' if len(names) > 5 else ''}; it must hold one table"
    raise DataError(msg + ": extract the one to read")


def contents(path: Path) -> bytes:
    """Return the bytes of a table as a whole, without compression; at most MAX_BYTES."""
    parts, size = [], 0
    with opened(path) as file:
        while part := file.read(files.MAX_LINE):
            parts.append(part)
            size += len(part)
            if size > files.MAX_BYTES:
                msg = f"{path}: more than {files.MAX_BYTES} bytes; split the file"
                raise DataError(msg)
    return b"".join(parts)


class Unchanged:
    """Notices that a file, which is read more than once, is another than before.

    Raises DataError at the end of its block, and in place of what the block raises; also where it
    is unpickled and the file is another one.
    """

    def __init__(self, path: Path, digest: str = "") -> None:
        self._path, self._known = path, self._stamp(path)
        if digest:
            files.check_same(path, digest)

    def __reduce__(self) -> tuple[type[Unchanged], tuple[Path, str]]:
        return type(self), (self._path, files.digest_of(self._path))

    def __enter__(self) -> None:
        self._check()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, Exception):
            self._check(error)

    def _check(self, cause: BaseException | None = None) -> None:
        if self._stamp(self._path) != self._known:
            msg = f"{self._path}: the file was changed while it was being used; start again"
            raise DataError(msg) from cause

    @staticmethod
    def _stamp(path: Path) -> tuple[int, ...]:
        try:
            stat = os.stat(path)
        except OSError:  # it is gone
            return ()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
