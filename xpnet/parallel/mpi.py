"""Ranks that MPI connects, through mpi4py."""

import pickle
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Never, TypeVar

import numpy as np

from xpnet.errors import BackendError
from xpnet.parallel.comm import Comm
from xpnet.parallel.watch import Watch
from xpnet.parallel.world import abort, give_up
from xpnet.typing import Array

__all__ = ["MpiComm"]

T = TypeVar("T")

# MPI counts in 32 bits: longer vectors are summed in pieces of so many numbers.
PIECE = 1 << 28
ALIGNED = 64  # bytes, at a multiple of which each gathered array begins
SUMMED = tuple(map(np.dtype, ("float32", "float64", "int32", "int64")))


class MpiComm(Comm):
    """The ranks of an mpi4py communicator, which is this object's own.

    Vectors of NumPy are summed where they are; with ``cuda_aware`` those on a GPU, too, once what
    computes them is done. After ``timeout`` seconds in one call all processes end.
    """

    name = "mpi"

    def __init__(
        self,
        comm: Any,
        *,
        timeout: float,
        cuda_aware: bool = False,
        why: Callable[[], str] = str,
    ) -> None:
        from mpi4py import MPI
        from mpi4py.util import pkl5

        self._mpi, self._comm, self._pickling = MPI, comm, pkl5.Intracomm(comm)
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.takes_device = cuda_aware
        self._watch = Watch(timeout, partial(give_up, self.rank), why)
        with self._watch("the search for the ranks of this host"):
            self._host = comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        self.local_rank, self.local_size = self._host.Get_rank(), self._host.Get_size()

    def bcast(self, value: T) -> T:
        with self._watch("a broadcast"):
            received = self._pickling.bcast(value)
        return value if self.rank == 0 else received

    def allgather(self, value: T) -> list[T]:
        parts: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(value, protocol=5, buffer_callback=parts.append)
        raw = [part.raw() for part in parts]
        head = pickle.dumps((pickled, [len(part) for part in raw]))
        padded = [part for p in raw for part in (p, bytes(-len(p) % ALIGNED))]
        with self._watch("a gathering"):
            heads = self._gathered(head)
            bodies = self._gathered(b"".join(padded))
        return [_unpacked(*both) for both in zip(heads, bodies, strict=True)]

    def _gathered(self, own: bytes) -> list[memoryview]:
        """The bytes of all ranks, as parts of one new buffer."""
        lengths = np.empty(self.size, np.int64)
        self._comm.Allgather(np.array([len(own)], np.int64), lengths)
        ends = np.cumsum(lengths)
        found = np.empty(ends[-1] if self.size else 0, np.uint8)
        begins = ends - lengths
        parts = [found.data[b:e] for b, e in zip(begins, ends, strict=True)]
        if len(found) < PIECE:
            byte = self._mpi.BYTE
            self._comm.Allgatherv([own, byte], [found, lengths, begins, byte])
            return parts
        parts[self.rank][:] = own
        for rank, part in enumerate(parts):
            for begin in range(0, len(part), PIECE):
                self._comm.Bcast(part[begin : begin + PIECE], root=rank)
        return parts

    def allreduce(self, x: Array) -> None:
        size = self._checked(x)
        with self._watch("a sum of", size, "numbers"):
            for begin in range(0, size, PIECE):
                self._comm.Allreduce(self._mpi.IN_PLACE, x[begin : begin + PIECE])

    def iallreduce(self, x: Array) -> Callable[[], None]:
        size = self._checked(x)
        requests = [
            self._comm.Iallreduce(self._mpi.IN_PLACE, x[begin : begin + PIECE])
            for begin in range(0, size, PIECE)
        ]

        def wait() -> None:
            with self._watch("a sum of", size, "numbers"):
                self._mpi.Request.Waitall(requests)

        return wait

    def _checked(self, x: Array) -> int:
        """The length of a vector that can be summed; what computes it is done."""
        if not isinstance(x, np.ndarray):
            self._await_device(x)
        elif x.ndim == 1 and x.dtype in SUMMED:
            return x.size
        name = str(x.dtype).rpartition(".")[2]
        if len(x.shape) != 1 or name not in map(str, SUMMED):
            names = ", ".join(map(str, SUMMED))
            msg = f"MPI sums vectors of {names}; got {name} of shape {tuple(x.shape)}"
            raise BackendError(msg)
        return x.shape[0]

    def _await_device(self, x: Array) -> None:
        if not self.takes_device or not hasattr(x, "__cuda_array_interface__"):
            kind = f"{type(x).__module__.partition('.')[0]} on {getattr(x, 'device', 'a device')}"
            msg = f"MPI sums arrays of NumPy; got one of {kind}"
            raise BackendError(msg)
        import cupy

        cupy.asarray(x).device.synchronize()

    def barrier(self) -> None:
        with self._watch("a barrier"):
            self._comm.Barrier()

    @cached_property
    def host(self) -> "MpiComm":
        return MpiComm(self._host, timeout=self._watch.timeout)

    def abort(self, code: int) -> Never:
        abort(code)


def _unpacked(head: memoryview, body: memoryview) -> Any:
    pickled, lengths = pickle.loads(head)
    begins = np.cumsum([0, *(n + -n % ALIGNED for n in lengths)])
    own = [body[b : b + n] for b, n in zip(begins, lengths, strict=False)]
    return pickle.loads(pickled, buffers=own)
