"""What one rank makes for others: data is read by one rank of a host, and is there once.

Arrays are handed over in a file without a name, which the ranks of a host map into their memory:
the pages are the same ones for all, until a rank writes to one and has a copy of it. The file lies
in memory (/dev/shm) where there is room, and else where temporary files do.
"""

import contextlib
import mmap
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, NamedTuple, TypeVar

from xpnet.errors import DataError
from xpnet.parallel.comm import Comm

__all__ = ["agreed", "shared_by_all", "shared_by_host"]

T = TypeVar("T")

BEAT = 0.5  # seconds between two signs of life of a rank that works while others wait
QUICK = 0.01  # seconds of work during which none is given
ALIGNED = 64  # bytes, at a multiple of which each array begins
MEMORY = "/dev/shm"


def shared_by_all(comm: Comm, make: Callable[[], T]) -> T:
    """Return to all ranks what ``make`` returns on rank 0, pickled for the others.

    It is for what is small, such as a data set that stays in its file. ``make`` must not use
    ``comm``. Raises on all ranks what is raised on one.
    """
    if comm.size == 1:
        return make()
    first = comm.rank == 0
    made = agreed(comm, make if first else None)
    pickled = agreed(comm, partial(pickle.dumps, made) if first else None)
    pickled = comm.bcast(pickled)
    received = agreed(comm, None if first else partial(pickle.loads, pickled))
    return made if first else received


def shared_by_host(comm: Comm, make: Callable[[], T]) -> T:
    """Return to the ranks of each host what ``make`` returns on the first one of them.

    Arrays of NumPy in it are in memory that these ranks share; what a rank writes to one, it has
    for itself. A rank that cannot open the file in which they are calls ``make``, too; it must not
    use ``comm``. Raises on all ranks what is raised on one, and DataError where a host has no room
    for the file.
    """
    if comm.size == 1:
        return make()
    host = comm.host
    first, alone = host.rank == 0, host.size == 1
    made = agreed(comm, make if first else None)
    with contextlib.ExitStack() as stack:
        handed = agreed(comm, partial(_Handed.of, made, stack) if first and not alone else None)
        path = host.bcast(handed and handed.path)
        file = _opened(path, stack)
        host.barrier()
        if handed:  # from here on the file is gone once nobody has it open
            _remove(path)
        agreed(comm, handed and handed.write)
        pickled, spans = host.bcast(handed and (handed.pickled, handed.spans)) or (b"", [])

        def received() -> T:
            if alone:
                return made
            return make() if file is None else _mapped(file, pickled, spans)

        return agreed(comm, received)


class _Handed(NamedTuple):
    """An object on its way to the ranks of a host: its arrays in a file, pickled without them."""

    path: str
    file: BinaryIO
    pickled: bytes
    buffers: list[memoryview]
    spans: list[tuple[int, int]]  # of the file, one for each buffer

    @classmethod
    def of(cls, made: Any, stack: contextlib.ExitStack) -> "_Handed":
        found: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(made, protocol=5, buffer_callback=found.append)
        buffers, spans, end = [buffer.raw() for buffer in found], [], 0
        for buffer in buffers:
            spans.append((end, end + len(buffer)))
            end += len(buffer) + -len(buffer) % ALIGNED
        number, path = tempfile.mkstemp(prefix="xpnet-", dir=_folder(end))
        stack.callback(_remove, path)
        return cls(path, stack.enter_context(open(number, "wb")), pickled, buffers, spans)

    def write(self) -> None:
        size = self.spans[-1][1] if self.spans else 0
        try:
            for buffer, (begin, _) in zip(self.buffers, self.spans, strict=True):
                self.file.seek(begin)
                self.file.write(buffer)
            self.file.flush()
        except OSError as error:
            folder = os.path.dirname(self.path)
            msg = f"{folder}: no room for {size:,} bytes of data that the processes of a host "
            msg += f"share ({error.strerror}): name another folder in TMPDIR"
            raise DataError(msg) from error


def _folder(size: int) -> str:
    """Where there is room for so many bytes: in memory if possible."""
    with contextlib.suppress(OSError):
        if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > size:
            return MEMORY
    return tempfile.gettempdir()


def _opened(path: str | None, stack: contextlib.ExitStack) -> BinaryIO | None:
    """The file; None if this rank does not see it, as in a container of its own."""
    with contextlib.suppress(OSError):
        return None if path is None else stack.enter_context(open(path, "rb"))
    return None


def _remove(path: str | None) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path or "")


def _mapped(file: BinaryIO, pickled: bytes, spans: list[tuple[int, int]]) -> Any:
    """The object, its arrays in the file: a page that is written to becomes a copy."""
    size = max((end for _, end in spans), default=0)
    whole = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else b"")
    return pickle.loads(pickled, buffers=[whole[a:b] if b > a else bytearray() for a, b in spans])


def agreed(comm: Comm, work: Callable[[], T] | None) -> Any:
    """Do this rank's ``work``, and return what it returns once all ranks have done theirs.

    A rank without work returns None. Where some fail, all raise the error of the first of them. The
    work may take as long as it takes, but must not use ``comm``: a thread of this rank says on it
    now and then that it goes on, so that those who wait know.
    """
    if comm.size == 1:
        return None if work is None else work()
    signs, result, failure = None if work is None else _Signs(comm), None, None
    if work is None or signs is None:
        said = _until_done(comm, _Said, time.sleep)
    else:
        try:
            result = work()
        except Exception as error:
            failure = error
        except BaseException:
            signs.leave()
            raise
        said = signs.end(_Said(error=_picklable(failure)))
    for rank, (_, raised) in enumerate(said):
        if raised is not None:
            raise failure if failure and rank == comm.rank else raised
    return result


class _Said(NamedTuple):
    """What a rank says of its work."""

    busy: bool = False
    error: Exception | None = None


def _until_done(
    comm: Comm, say: Callable[[], _Said], wait: Callable[[float], object]
) -> list[_Said]:
    """What all ranks say once none is busy; they ask one another more and more seldom."""
    began = time.monotonic()
    while True:
        said = comm.allgather(say())
        if not any(one.busy for one in said):
            return said
        wait(min(BEAT, (time.monotonic() - began) / 10))


class _Signs:
    """A thread that says that this rank is busy, until it is no more."""

    def __init__(self, comm: Comm) -> None:
        self._own, self._over = _Said(busy=True), threading.Event()
        self._said: list[_Said] = []
        self._failure: BaseException | None = None
        self._left = False
        self._thread = threading.Thread(target=self._tell, args=(comm,), daemon=True)
        self._thread.start()

    def end(self, own: _Said) -> list[_Said]:
        """Say how it went, and return what the others say of theirs."""
        self._own = own
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._said

    def leave(self) -> None:
        """Say nothing any more."""
        self._left = True
        self._over.set()

    def _tell(self, comm: Comm) -> None:
        self._over.wait(QUICK)
        try:
            self._said = _until_done(comm, self._say, self._over.wait)
        except BaseException as error:  # raised where it ends
            self._failure = error

    def _say(self) -> _Said:
        if self._left:
            raise SystemExit
        return self._own


def _picklable(error: Exception | None) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
