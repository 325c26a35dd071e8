"""Files that are either the old ones or the new ones, never something between.

A new file is written beside its place under a temporary name, flushed to the disk and then renamed
over the old one; the folder is flushed last, because the name is stored there. Whoever writes holds
a shared lock on the folder. The kernel ends that lock with the process, however it ends, so
:func:`sweep` can tell the leftovers of the dead from the work of the living.

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
except ImportError:  # Windows: neither advisory locks nor folders that can be opened
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
]

TEMPORARY = ".xpnet-tmp"
PATIENCE = 0.5  # seconds; a sweep takes milliseconds


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a CheckpointError, "cannot {action} {path}: why"."""
    try:
        yield
    except OSError as error:
        msg = f"cannot {action} {path}: {error.strerror or error}"
        raise CheckpointError(msg) from error


def try_lock(fd: int) -> bool | None:
    """Take the exclusive lock of an open file or folder without waiting.

    False: another process holds it. None: there are no such locks here (Windows, some network
    file systems), so that nothing can be told.
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
def _opened(folder: Path) -> Iterator[int | None]:
    """Open a folder to lock or flush it; None where folders cannot be opened."""
    if fcntl is None:
        yield None
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _share(fd: int) -> None:
    """Hold the folder's shared lock, once a sweep that is going on is over.

    Somebody may hold the exclusive one for hours: `flock DIR xpnet train --out DIR`. Without the
    lock a sweep might take a file from under its writer, which would be told and try again.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:  # without locks here, sweep() leaves everything in place
            return
        else:
            return


def _flush_folder(fd: int | None) -> None:
    if fd is None:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that keeps no folders to flush
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each name flushed to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with _opened(folder.parent) as fd:
        _flush_folder(fd)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what the block leaves there becomes ``path``."""
    with storage_errors("write", path), _opened(path.parent) as fd:
        if fd is not None:
            _share(fd)
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMPORARY}")
        try:
            yield temporary
            os.replace(temporary, path)
            _flush_folder(fd)
        finally:
            # Also after success: renaming one link of a file over another link of it does nothing.
            temporary.unlink(missing_ok=True)


def _write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def atomic_write(path: str | Path, *chunks: bytes | memoryview) -> None:
    """Write ``chunks`` one after another as the whole new content of ``path``.

    Returns when the bytes are on the disk. On a CheckpointError (disk full, no permission, ...) the
    old content is still there.
    """
    with _replacing(Path(path)) as temporary:
        _write_new(temporary, chunks)


def atomic_write_text(path: str | Path, text: str | Iterable[str]) -> None:
    """Write ``text``, or its lines one by one, as UTF-8; with the guarantees of atomic_write."""
    lines = (text,) if isinstance(text, str) else text
    with _replacing(Path(path)) as temporary:
        _write_new(temporary, (line.encode() for line in lines))


def atomic_link(source: str | Path, path: str | Path) -> None:
    """Make ``path`` a second name of the file ``source``, or a copy where links cannot be made.

    Neither file may be written in place afterwards; those of this package never are.
    """
    with _replacing(Path(path)) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            _write_new(temporary, [Path(source).read_bytes()])


def sweep(folder: str | Path) -> None:
    """Remove the temporary files of writers that died, unless somebody is writing right now."""
    # A leftover does no harm, so one that cannot be removed (a read-only folder) is no error.
    with suppress(OSError), _opened(Path(folder)) as fd:
        if fd is not None and try_lock(fd):
            for leftover in Path(folder).glob(f".*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)


def preflight(folder: str | Path, bytes_needed: int, largest_file: int = 1) -> None:
    """Make ``folder`` if need be and check that ``bytes_needed`` can be written there.

    Space for one file of ``largest_file`` bytes is taken and given back, because a quota or a limit
    on files shows nowhere else. Raises CheckpointError before any time has gone into a run that
    could not be saved, and leaves no folder that was not there.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        with storage_errors("use the folder", folder):
            make_folder(folder)
            with tempfile.TemporaryFile(dir=folder) as probe:  # permission bits do not tell it all
                probe.write(b"x")
                probe.flush()
                _take_space(probe.fileno(), largest_file)
                os.fsync(probe.fileno())
            free = shutil.disk_usage(folder).free
        if free < bytes_needed:
            msg = (
                f"{folder} has {free / 1e6:,.1f} MB free, and {bytes_needed / 1e6:,.1f} MB are "
                "needed; free some space or choose another folder"
            )
            raise CheckpointError(msg)
    except CheckpointError:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _take_space(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
                raise
