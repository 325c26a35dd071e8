"""Sums over the ranks of a training, of arrays of any library."""

import threading
from collections.abc import Callable, Sequence
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
    ``place`` move arrays to NumPy and back, where ``comm`` takes none on a device; ``settings`` are
    for a step of kernels, which sums its gradient itself.
    """

    def __init__(
        self,
        comm: Comm,
        share: Share,
        to_host: Callable[[Array], np.ndarray],
        place: Callable[[np.ndarray], Array],
        settings: Parallel = Parallel(),
    ) -> None:
        self.comm, self.share, self._to_host, self._place = comm, share, to_host, place
        self.settings = settings
        self._meeting: _Meeting | None = None

    def each(self, functions: Sequence[Callable[[], T]], *, meeting: bool) -> list[T]:
        """Call a function for each part that is here; ``meeting``: they call :meth:`total`."""
        if not meeting or len(functions) == 1:
            return [function() for function in functions]
        with _Meeting(len(functions), self.sums) as self._meeting:
            try:
                return self._meeting.run(functions)
            finally:
                self._meeting = None

    def total(self, x: Array) -> Array:
        """Return the sum of ``x`` over all parts, where each part of each rank comes to this."""
        return self.sums([[x]])[0] if self._meeting is None else self._meeting.total(x)

    def sums(self, parts: Sequence[Sequence[Array]]) -> list[Array]:
        """Return the sum of each array over the parts that are here, and over the ranks."""
        like = [t for x in parts[0] for t in _tensors(x)]
        xp = array_namespace(*like)
        flats = [
            xp.concat([xp.reshape(t, (-1,)) for x in part for t in _tensors(x)]) for part in parts
        ]
        if not self.comm.takes_device or self.share.parts is not None:
            flats = [f if isinstance(f, np.ndarray) else self._to_host(f) for f in flats]
        if self.share.parts is None:
            (total,) = flats
            self.comm.allreduce(total)
        else:
            total = self._in_order(flats)
        if not isinstance(like[0], np.ndarray) and isinstance(total, np.ndarray):
            total = self._place(total)
        return _apart(total, parts[0])

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
        self, parts: int, sums: Callable[[Sequence[Sequence[Array]]], list[Array]]
    ) -> None:
        self._barrier = threading.Barrier(parts, self._sum)
        self._sums, self._own = sums, threading.local()
        self._given: list[Any] = [None] * parts
        self._total: Any = None

    def __enter__(self) -> "_Meeting":
        return self

    def __exit__(self, *error: object) -> None:
        self._barrier.abort()

    def run(self, functions: Sequence[Callable[[], T]]) -> list[T]:
        results: list[Any] = [None] * len(functions)
        errors: list[BaseException] = []

        def part(i: int) -> None:
            self._own.part = i
            try:
                results[i] = functions[i]()
            except threading.BrokenBarrierError:
                pass  # another part has the error
            except BaseException as error:  # raised where it was asked for
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=part, args=(i,)) for i in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def total(self, x: Array) -> Array:
        self._given[self._own.part] = x
        self._barrier.wait()
        return self._total

    def _sum(self) -> None:
        (self._total,) = self._sums([[x] for x in self._given])


def _tensors(x: Array) -> tuple[Array, ...]:
    return x.tensors if isinstance(x, SplitVector) else (x,)


def _apart(flat: Array, like: Sequence[Array]) -> list[Array]:
    """The vector as arrays of these shapes."""
    xp, begin, found = array_namespace(flat), 0, []
    for x in like:
        tensors = []
        for t in _tensors(x):
            size = int(np.prod(t.shape))
            tensors.append(xp.reshape(flat[begin : begin + size], t.shape))
            begin += size
        found.append(SplitVector(tuple(tensors)) if isinstance(x, SplitVector) else tensors[0])
    return found
