"""Opening files of which nothing is known but a name.

A name in a run folder that somebody sent may lead to a pipe, which never ends, to a device, or to a
file elsewhere. Whatever is opened here is an ordinary file, and no larger than its reader takes.
"""

import errno
import os
import stat
from pathlib import Path

__all__ = ["MAX_JSON", "MAX_TOML", "open_regular", "read_regular"]

MAX_TOML = 2**17  # a config is written by hand, and a key of n parts takes tomllib n² steps
MAX_JSON = 2**30  # a history has a few hundred bytes for an epoch

# Without O_NONBLOCK, to open a pipe waits for its other end. Windows has neither.
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open an ordinary file and return its descriptor; raises OSError for anything else.

    A file that is opened for writing is not looked for through a symbolic link.
    """
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    fd = os.open(path, flags | NO_WAIT | (NO_FOLLOW if writes else 0), 0o666)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_regular(path: str | Path, limit: int) -> bytes:
    """Return the content of an ordinary file of ``limit`` bytes at most; raises OSError."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"{size:,} bytes are more than {limit:,}", str(path))
        return file.read(size)
