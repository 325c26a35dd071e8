"""Opening files that cannot be trusted.

A name in somebody else's run folder may refer to a pipe, which never ends, to a device or to a file
elsewhere. These functions open only regular files, and read only files of limited size.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Any

from xpnet.errors import ConfigError

__all__ = ["MAX_JSON", "MAX_TOML", "as_path", "open_regular", "read_regular"]

MAX_TOML = 2**17  # a config is written by hand, and tomllib takes n² steps for a key of n parts
MAX_JSON = 2**30  # a history has a few hundred bytes per epoch

# Without O_NONBLOCK, opening a pipe waits for its other end. Windows has neither flag.
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def as_path(path: Any, what: str) -> Path:
    """Return a path that a user gave as text or a Path; raises ConfigError for what is none."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        msg = f"{what} must name a file or a folder, as text or a Path; got {path!r}"
        raise ConfigError(msg)
    return Path(text)


def open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file and return its descriptor; raise OSError for anything else.

    Symbolic links are not followed if the file is opened for writing.
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
    """Return the contents of a regular file of at most ``limit`` bytes; raises OSError."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"{size:,} bytes are more than {limit:,}", str(path))
        return file.read(size)
