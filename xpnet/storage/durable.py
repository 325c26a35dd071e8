"""Atomic and durable writes: a file has either its old or its new contents, never a mixture.

A new file is written under a temporary name in the same folder, flushed to the disk and renamed to
replace the old one. The folder is flushed last, because it stores the name. A writer holds a shared
lock on the folder, which the kernel releases when the process ends, however it ends, so
:func:`sweep` can tell the temporary files of dead writers from those of live ones.

    Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xpnet.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks, and cannot open folders
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "atomic_link",
    "atomic_write",
    "atomic_write_text",
    "storage_errors",
    "make_folder",
    "preflight",
    "sweep",
    "try_lock",
    "write_output",
]

TEMPORARY = ".xpnet-tmp"
LOCK_TIMEOUT = 0.5  # seconds; a sweep takes milliseconds


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CheckpointError: "cannot {action} {path}: reason"."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno == errno.ENOENT and not path.parent.is_dir():
            reason = f"there is no folder {str(path.parent)!r}"
        msg = f"cannot {action} {path}: {reason}"
        raise CheckpointError(msg) from error


def try_lock(fd: int) -> bool | None:
    """Acquire the exclusive lock on an open file or folder without waiting.

    Returns False if another process holds it, and None if there are no such locks (on Windows, on
    some network file systems), so that nothing is known.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _open_folder(folder: Path) -> Iterator[int | None]:
    """Open a folder to lock or flush it; yield None if folders cannot be opened."""
    if fcntl is None:
        yield None
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _lock_shared(fd: int) -> None:
    """Acquire the folder's shared lock, after waiting for a sweep in progress to end.

    Another process may hold the exclusive lock for hours: `flock DIR xpnet train --out DIR`. Then
    the file is written without the lock; if a sweep deletes it, the writer gets an error and tries
    again.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    while time.monotonic() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:  # no locks here, so sweep() deletes nothing
            return
        else:
            return


def _flush_folder(fd: int | None) -> None:
    if fd is None:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system cannot flush folders
            raise


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and flush each name to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with _open_folder(folder.parent) as fd:
        _flush_folder(fd)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; the file written there becomes ``path``."""
    with storage_errors("write", path), _open_folder(path.parent) as fd:
        if fd is not None:
            _lock_shared(fd)
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMPORARY}")
        try:
            yield temporary
            os.replace(temporary, path)
            _flush_folder(fd)
        finally:
            # Even after success: renaming one link of a file over another link of it does nothing.
            temporary.unlink(missing_ok=True)


def _write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def atomic_write(path: str | Path, *chunks: bytes | memoryview) -> None:
    """Replace the contents of ``path`` by ``chunks``, one after another.

    Returns when the bytes are on the disk. After a CheckpointError (disk full, no permission, ...)
    the file has its old contents.
    """
    with _replacing(Path(path)) as temporary:
        _write_new(temporary, chunks)


def atomic_write_text(path: str | Path, text: str | Iterable[str]) -> None:
    """Write ``text``, or its lines one by one, as UTF-8, with the guarantees of atomic_write."""
    lines = (text,) if isinstance(text, str) else text
    with _replacing(Path(path)) as temporary:
        _write_new(temporary, (line.encode() for line in lines))


def write_output(path: str | Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write ``chunks`` to a file that the user names, with the guarantees of atomic_write.

    A symbolic link is kept: its target is written. A device or a pipe, such as /dev/null, is
    written to rather than replaced.
    """
    place = Path(path)
    if place.exists() and not place.is_file() and not place.is_dir():
        with storage_errors("write", place), open(place, "wb") as file:
            file.writelines(chunks)
        return
    with _replacing(place.resolve() if place.is_symlink() else place) as temporary:
        _write_new(temporary, chunks)


def atomic_link(source: str | Path, path: str | Path) -> None:
    """Make ``path`` a hard link to the file ``source``, or a copy if links are not supported.

    Neither file may be modified in place afterwards; this package never does so.
    """
    with _replacing(Path(path)) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            _write_new(temporary, [Path(source).read_bytes()])


def sweep(folder: str | Path) -> None:
    """Delete the temporary files of dead writers, unless a live one is writing to the folder."""
    # A leftover does no harm, so failing to delete it (in a read-only folder) is not an error.
    with suppress(OSError), _open_folder(Path(folder)) as fd:
        if fd is not None and try_lock(fd):
            for leftover in Path(folder).glob(f".*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)


def preflight(folder: str | Path, bytes_needed: int, largest_file: int = 1) -> None:
    """Create ``folder`` if necessary and check that ``bytes_needed`` can be written to it.

    Space for one file of ``largest_file`` bytes is reserved and released, because only this reveals
    a quota or a limit on file sizes. Raises CheckpointError before any time is spent on a run that
    cannot be saved, and removes the folder if it did not exist before.
    """
    folder = Path(folder)
    created = not folder.exists()
    try:
        with storage_errors("use the folder", folder):
            make_folder(folder)
            with tempfile.TemporaryFile(dir=folder) as probe:  # permission bits are not enough
                probe.write(b"x")
                probe.flush()
                _reserve(probe.fileno(), largest_file)
                os.fsync(probe.fileno())
            free = shutil.disk_usage(folder).free
        if free < bytes_needed:
            msg = (
                f"{folder} has {free / 1e6:,.1f} MB free, but {bytes_needed / 1e6:,.1f} MB are "
                "needed; free some space or choose another folder"
            )
            raise CheckpointError(msg)
    except CheckpointError:
        if created:
            with suppress(OSError):
                folder.rmdir()
        raise


def _reserve(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
                raise
