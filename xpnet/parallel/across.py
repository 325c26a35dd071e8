"""Sums over the ranks of a training, of arrays of any library."""

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace

from xpnet.parallel.comm import Comm
from xpnet.parallel.settings import Parallel
from xpnet.parallel.share import Share
from xpnet.split_vector import SplitVector
from xpnet.typing import Array

__all__ = ["Across"]

T = TypeVar("T")


class Across:
    """The ranks that share each batch, and how what they have of it is summed.

    ``share`` is this rank's; with parts, sums are taken in the order of these. ``to_host`` and
    ``place`` move arrays to NumPy and back, where ``comm`` takes none on a device; ``active`` makes
    a thread compute on the device. ``settings`` are for a step of kernels, which sums its gradient
    itself.
    """

    def __init__(
        self,
        comm: Comm,
        share: Share,
        to_host: Callable[[Array], np.ndarray],
        place: Callable[[np.ndarray], Array],
        active: Callable[[], AbstractContextManager[Any]] = nullcontext,
        settings: Parallel = Parallel(),
    ) -> None:
        self.comm, self.share, self.settings = comm, share, settings
        self._to_host, self._place, self._active = to_host, place, active
        self._meeting: _Meeting | None = None

    def each(self, functions: Sequence[Callable[[], T]], *, meeting: bool) -> list[T]:
        """Call a function for each part that is here; ``meeting``: they call :meth:`total`."""
        if not meeting or len(functions) == 1:
            return [function() for function in functions]
        self._meeting = _Meeting(len(functions), self.sums, self._active)
        try:
            return self._meeting.run(functions)
        finally:
            self._meeting = None

    def total(self, x: Array) -> Array:
        """Return the sum of ``x`` over all parts, where each part of each rank comes to this."""
        return self.sums([[x]])[0] if self._meeting is None else self._meeting.total(x)

    def sums(self, parts: Sequence[Sequence[Array]]) -> list[Array]:
        """Return the sum of each array over the parts that are here, and over the ranks.

        The arrays are of one dtype, and go to the other ranks as one vector. What is returned
        shares memory with nothing else.
        """
        like = [t for x in parts[0] for t in _tensors(x)]
        split = any(isinstance(x, SplitVector) for x in parts[0])
        in_order = self.share.parts is not None
        staged = in_order or split or not self.comm.takes_device
        flats = [
            self._flat([t for x in part for t in _tensors(x)], split, staged) for part in parts
        ]
        if in_order:
            total = self._in_order(flats)
        else:
            (total,) = flats
            self.comm.allreduce(total)
        if isinstance(total, np.ndarray) and not isinstance(like[0], np.ndarray):
            if split:
                return _apart(total, parts[0], self._place)
            total = self._place(total)
        return _apart(total, parts[0], lambda x: x)

    def _flat(self, tensors: Sequence[Array], split: bool, staged: bool) -> Array:
        """The tensors in one vector; ``staged``, on the host."""
        if split:
            return self._to_host(SplitVector(tuple(tensors)))
        xp = array_namespace(*tensors)
        flat = xp.concat([xp.reshape(t, (-1,)) for t in tensors])
        return self._to_host(flat) if staged and not isinstance(flat, np.ndarray) else flat

    def _in_order(self, flats: Sequence[np.ndarray]) -> np.ndarray:
        """The sum of the parts of all ranks, part 0 first."""
        of_ranks = self.comm.allgather(np.stack(flats))
        parts, n = self.share.parts, self.share.size
        assert parts is not None
        total = of_ranks[0][0].copy()
        for p in range(1, parts):
            total += of_ranks[p % n][p // n]
        return total


class _Meeting:
    """Threads that each compute one part, and meet where a sum is taken over all of them."""

    def __init__(
        self,
        parts: int,
        sums: Callable[[Sequence[Sequence[Array]]], list[Array]],
        active: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._barrier = threading.Barrier(parts, self._sum)
        self._sums, self._active, self._own = sums, active, threading.local()
        self._given: list[Any] = [None] * parts
        self._total: Any = None

    def run(self, functions: Sequence[Callable[[], T]]) -> list[T]:
        results: list[Any] = [None] * len(functions)
        errors: list[BaseException] = []
        ended: list[BaseException] = []  # parts that waited for one with an error

        def part(i: int) -> None:
            self._own.part = i
            try:
                with self._active():
                    results[i] = functions[i]()
            except threading.BrokenBarrierError as error:
                ended.append(error)
            except BaseException as error:  # raised where it was asked for
                errors.append(error)
                self._barrier.abort()

        # What is set for this thread, such as what NumPy does about an overflow, holds for each.
        contexts = [copy_context() for _ in functions]
        threads = [
            threading.Thread(target=context.run, args=(part, i), daemon=True)
            for i, context in enumerate(contexts)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # a signal, while this thread waits
            self._barrier.abort()
            raise
        for error in errors + ended:
            raise error
        return results

    def total(self, x: Array) -> Array:
        self._given[self._own.part] = x
        self._barrier.wait()
        return self._total

    def _sum(self) -> None:
        (self._total,) = self._sums([[x] for x in self._given])


def _tensors(x: Array) -> tuple[Array, ...]:
    return x.tensors if isinstance(x, SplitVector) else (x,)


def _apart(flat: Array, like: Sequence[Array], place: Callable[[Array], Array]) -> list[Array]:
    """The vector as arrays of these shapes."""
    xp, begin, found = array_namespace(flat), 0, []
    for x in like:
        tensors = []
        for t in _tensors(x):
            size = math.prod(t.shape)
            tensors.append(place(xp.reshape(flat[begin : begin + size], t.shape)))
            begin += size
        found.append(SplitVector(tuple(tensors)) if isinstance(x, SplitVector) else tensors[0])
    return found
