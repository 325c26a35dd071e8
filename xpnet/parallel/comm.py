"""What the processes of a training tell one another: one interface, whatever carries it.

A training on n processes is the same program n times, each with a *rank* 0 to n - 1. All of them
call the same methods in the same order; a call returns when what it needs of the others is there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Never, Self, TypeVar

from xpnet.typing import Array

__all__ = ["ALONE", "Comm", "Local"]

T = TypeVar("T")


class Comm(ABC):
    """The processes that train together, as one of them sees them.

    Sums are of the same bits on every rank. A failure of one of the others is not waited for: after
    ``parallel.timeout`` seconds in one call the whole job ends. Any thread may call, one at a time.
    """

    name: ClassVar[str]  # such as "mpi"
    note: str = ""  # in what they are connected, and why so, for the log
    # Whether allreduce takes arrays on a device; else only those of NumPy.
    takes_device: bool = False
    # Whether such a sum only joins the current stream of the device, and may be part of its graphs.
    on_stream: bool = False

    rank: int
    size: int
    local_rank: int  # among the ranks of this host
    local_size: int  # ranks of this host

    @abstractmethod
    def bcast(self, value: T) -> T:
        """Return rank 0's value, any object that can be pickled."""

    @abstractmethod
    def allgather(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank: arrays of NumPy or what can be pickled."""

    @abstractmethod
    def allreduce(self, x: Array) -> None:
        """Replace a contiguous vector by the sum over the ranks, element by element."""

    @abstractmethod
    def iallreduce(self, x: Array) -> Callable[[], None]:
        """Begin :meth:`allreduce` of ``x``; what is returned waits for its end."""

    @abstractmethod
    def barrier(self) -> None:
        """Return once all ranks have come here."""

    def launched(self) -> None:  # noqa: B027 - nothing to do but where sums join a stream
        """Note that a graph with sums has been launched on the current stream of the device."""

    @property
    @abstractmethod
    def host(self) -> "Comm":
        """The ranks of this host alone; their ranks are the :attr:`local_rank`."""

    def hosts(self) -> int:
        """Return on how many hosts the ranks are; all of them call it."""
        return self.allgather(self.local_rank).count(0)

    @abstractmethod
    def abort(self, code: int) -> Never:
        """End all processes of the job at once, with this exit code."""


class Local(Comm):
    """A process alone: whatever is reduced is there already."""

    name = "local"
    takes_device = True
    rank, size, local_rank, local_size = 0, 1, 0, 1

    def bcast(self, value: T) -> T:
        return value

    def allgather(self, value: T) -> list[T]:
        return [value]

    def allreduce(self, x: Array) -> None:
        pass

    def iallreduce(self, x: Array) -> Callable[[], None]:
        return lambda: None

    def barrier(self) -> None:
        pass

    @property
    def host(self) -> Self:
        return self

    def abort(self, code: int) -> Never:
        raise SystemExit(code)


ALONE = Local()
