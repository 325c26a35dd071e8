"""How many threads an array library computes with on a CPU: read, limited for a while, restored."""

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["Switch", "ThreadPool", "blas_threads", "cores"]

Switch = tuple[Callable[[], int], Callable[[int], object]]  # reads the number, sets it


class ThreadPool:
    """The threads of one library, which the whole process shares.

    ``switches`` read and set their number, one for each copy of the library.
    """

    def __init__(self, switches: Sequence[Switch]) -> None:
        self._switches = switches
        # The garbage collector may end a limit while this thread has the lock.
        self._lock = threading.RLock()
        self._limits: list[tuple[weakref.ref[_User], int]] = []  # the newest last
        self._before: list[int] = []

    @property
    def given(self) -> int:
        """The number outside :meth:`limited`: the library's default, or what a user has set."""
        with self._lock:
            return max(self._before if self._limits else self._read())

    @contextmanager
    def limited(self, count: int) -> Iterator[None]:
        """Compute with ``count`` threads within, and with as many as before after the last one.

        These may overlap in any order, also from several Python threads: the newest one holds.
        """
        user = _User()
        # Ctrl-C may come before `finally` does, or within it: then the limit ends with its user.
        limit = weakref.ref(user, self._end)
        try:
            with self._lock:
                if not self._limits:
                    self._before = self._read()
                self._limits.append((limit, count))
                self._hold(self._limits)
            yield
        finally:
            self._end(limit)
            del limit  # so that it is not called again

    def _end(self, limit: "weakref.ref[_User]") -> None:
        with self._lock:
            others = [each for each in self._limits if each[0] is not limit]
            if len(others) < len(self._limits):
                self._hold(others)
                self._limits = others  # last: whoever is interrupted before it has all of it to do

    def _read(self) -> list[int]:
        return [read() for read, _ in self._switches]

    def _hold(self, limits: "list[tuple[weakref.ref[_User], int]]") -> None:
        counts = [count for _, count in limits[-1:]] * len(self._switches) or self._before
        for (_, write), count in zip(self._switches, counts, strict=True):
            write(count)


class _User:
    """Whoever is within :meth:`ThreadPool.limited`, as long as that lasts."""


@functools.cache
def blas_threads() -> ThreadPool | None:
    """Return the threads of NumPy's BLAS; None for one that has no switch, as Apple's has not.

    The fused step calls the same library by its address, so what is set here holds there.
    """
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return ThreadPool([(b.get_num_threads, b.set_num_threads) for b in found]) if found else None


def cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
