"""Ranks that MPI connects, through mpi4py."""

import pickle
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, Never, TypeVar

import numpy as np

from xpnet.errors import BackendError
from xpnet.parallel.comm import Comm
from xpnet.parallel.watch import Watch
from xpnet.parallel.world import abort
from xpnet.typing import Array

__all__ = ["MpiComm"]

T = TypeVar("T")

# MPI counts in 32 bits: longer vectors are summed in pieces of so many numbers.
PIECE = 1 << 28
PATIENT = 0.001  # seconds, after which a wait no longer takes all of a core
FIRST = 512  # bytes of a first message, which says how long the others are
ROOM = FIRST - 16  # for what is so short that there are no others
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
        end: Callable[[str], None],
        cuda_aware: bool = False,
        why: Callable[[], str] = str,
    ) -> None:
        from mpi4py import MPI

        self._mpi, self._comm = MPI, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.takes_device = cuda_aware
        self._watch = Watch(timeout, end, why)
        with self._watch("the search for the ranks of this host"):
            self._host = comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        self.local_rank, self.local_size = self._host.Get_rank(), self._host.Get_size()

    def bcast(self, value: T) -> T:
        head, raw = _packed(value) if self.rank == 0 else (b"", [])
        first = _beginning(head, 0)
        with self._watch("a broadcast"):
            self._patiently(self._comm.Ibcast(first))
            whole = np.empty(first[:8].view(np.int64)[0], np.uint8)
            if len(whole) > ROOM:
                self._broadcast(memoryview(head) if self.rank == 0 else whole.data)
            else:
                whole[:] = first[16 : 16 + len(whole)]
            if self.rank == 0:
                for part in raw:
                    self._broadcast(part)
                return value
            pickled, lengths = pickle.loads(whole.data)
            buffers = [np.empty(length, np.uint8).data for length in lengths]
            for part in buffers:
                self._broadcast(part)
        return pickle.loads(pickled, buffers=buffers)

    def _broadcast(self, part: memoryview, root: int = 0) -> None:
        for begin in range(0, len(part), PIECE):
            self._comm.Bcast(part[begin : begin + PIECE], root)

    def allgather(self, value: T) -> list[T]:
        head, raw = _packed(value)
        body = b"".join(part for p in raw for part in (p, bytes(-len(p) % ALIGNED)))
        first = np.empty((self.size, FIRST), np.uint8)
        with self._watch("a gathering"):
            self._patiently(self._comm.Iallgather(_beginning(head, len(body)), first))
            lengths = first[:, :16].copy().view(np.int64)
            if lengths[:, 0].max() > ROOM:
                heads = self._gathered(head, lengths[:, 0])
            else:
                heads = [row[16 : 16 + n].data for row, n in zip(first, lengths[:, 0], strict=True)]
            bodies = self._gathered(body, lengths[:, 1])
        return [_unpacked(*both) for both in zip(heads, bodies, strict=True)]

    def _gathered(self, own: bytes, lengths: np.ndarray) -> list[memoryview]:
        """The bytes of all ranks, of these lengths, as parts of one new buffer."""
        ends = np.cumsum(lengths)
        found, begins = np.empty(ends[-1], np.uint8), ends - lengths
        parts = [found.data[b:e] for b, e in zip(begins, ends, strict=True)]
        if 0 < len(found) < PIECE:
            byte = self._mpi.BYTE
            self._comm.Allgatherv([own, byte], [found, lengths, begins, byte])
            return parts
        parts[self.rank][:] = own
        for rank, part in enumerate(parts):
            self._broadcast(part, rank)
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
            self._patiently(self._comm.Ibarrier())

    def _patiently(self, request: Any) -> None:
        """Wait for the others; MPI's own calls keep a core busy as long as they wait."""
        begin = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - begin
            if waited > PATIENT:
                time.sleep(min(waited / 10, 0.01))

    @cached_property
    def host(self) -> "MpiComm":
        return MpiComm(self._host, timeout=self._watch.timeout, end=self._watch.end)

    def abort(self, code: int) -> Never:
        abort(code)


def _packed(value: Any) -> tuple[bytes, list[memoryview]]:
    """What is pickled, without the memory of arrays in it, and that."""
    parts: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=parts.append)
    raw = [part.raw() for part in parts]
    return pickle.dumps((pickled, [len(part) for part in raw])), raw


def _beginning(head: bytes, body: int) -> np.ndarray:
    """The first message: the lengths of the two others, and the first one if there is room."""
    first = np.zeros(FIRST, np.uint8)
    first[:16].view(np.int64)[:] = len(head), body
    if len(head) <= ROOM:
        first[16 : 16 + len(head)] = np.frombuffer(head, np.uint8)
    return first


def _unpacked(head: memoryview, body: memoryview) -> Any:
    pickled, lengths = pickle.loads(head)
    begins = np.cumsum([0, *(n + -n % ALIGNED for n in lengths)])
    own = [body[b : b + n] for b, n in zip(begins, lengths, strict=False)]
    return pickle.loads(pickled, buffers=own)
