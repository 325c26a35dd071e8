"""One training per run folder.

The kernel's lock on ``run.lock`` decides. It ends with the process that holds it, even by kill -9,
so a dead run never blocks the next one. The contents of the file are for people, and decide only if
there are no such locks (on Windows, on some network file systems). The file is not removed when the
lock is released: otherwise two processes could each lock a file of this name.
"""

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xpnet.errors import CheckpointError
from xpnet.storage.durable import make_folder, storage_errors, sweep, try_lock
from xpnet.storage.safe_open import open_regular

__all__ = ["RunLock", "writer_of"]


class RunLock:
    """Lock the run folder ``folder`` for one writer, in a ``with`` block.

    Entering raises CheckpointError with the pid and host of the owner if the folder is in use. Then
    ``taken_over`` is a message if the last owner ended without releasing the lock, else None. The
    temporary files that such an owner left in the folder are deleted.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "run.lock"
        self.taken_over: str | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        with storage_errors("lock", self.path):
            make_folder(self.path.parent)
            fd = open_regular(self.path, os.O_RDWR | os.O_CREAT)
            try:
                self._claim(fd)
            except BaseException:
                os.close(fd)
                raise
        self._fd = fd
        sweep(self.path.parent)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing unlocks. If the owner cannot be erased, the next one takes it for a dead process.
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _claim(self, fd: int) -> None:
        locked = try_lock(fd)
        owner = _read_owner(fd)
        if locked is False or (locked is None and owner and _may_be_alive(owner)):
            hint = "" if locked is False else f", or delete {self.path} if it has ended"
            msg = (
                f"{self.path.parent} is in use by {_describe(owner)}; "
                f"choose another folder, or wait until it ends{hint}"
            )
            raise CheckpointError(msg)
        self.taken_over = f"{_describe(owner)} ended without releasing the lock" if owner else None
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, json.dumps(_this_process()).encode())


def writer_of(folder: str | Path) -> str | None:
    """Return who writes in a run folder now, such as "pid 7 on host a since ..."; None if nobody.

    The lock is not touched, for a training that starts just now needs it. On another host nobody
    can see whether the process lives: it is taken at its word.
    """
    try:
        fd = open_regular(Path(folder) / "run.lock")
    except OSError:
        return None
    try:
        owner = _read_owner(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return _describe(owner) if owner and _may_be_alive(owner) else None


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {"pid": pid, "host": platform.node(), "since": since, "started": _started(pid)}


def _started(pid: int) -> str | None:
    """Return the start time of a process, which tells it from a later one with its pid (Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc(5), in clock ticks since boot


def _read_owner(fd: int) -> dict[str, Any]:
    """Return the owner that the lock file names, or {} if it names none."""
    text = os.read(fd, 4096)
    if not text:
        return {}
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        owner = None
    return owner if isinstance(owner, dict) else {"pid": "unknown"}


def _may_be_alive(owner: dict[str, Any]) -> bool:
    """Return whether the owner may still be running; False only if it is known to have ended."""
    pid = owner.get("pid")
    # Signal 0 tests whether a process exists; on Windows os.kill would terminate it.
    if owner.get("host") != platform.node() or not isinstance(pid, int) or os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return owner.get("started") == _started(pid)


def _describe(owner: dict[str, Any]) -> str:
    if "host" not in owner:
        return "an unknown process"
    return f"pid {owner.get('pid')} on host {owner['host']} since {owner.get('since')}"
