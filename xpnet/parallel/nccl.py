"""Ranks with a GPU each: sums by NCCL, through CuPy; all else by what connects them anyway."""

import ctypes
import time
import warnings
from collections.abc import Callable
from typing import Any, Never, TypeVar

import numpy as np

from xpnet.errors import BackendError, first_line, how_to_install
from xpnet.parallel.comm import Comm
from xpnet.parallel.watch import Watch
from xpnet.parallel.world import before_abort
from xpnet.typing import Array

__all__ = ["NcclComm", "load_nccl"]

T = TypeVar("T")

SUMMED = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64",
          "int32": "NCCL_INT32", "int64": "NCCL_INT64"}  # fmt: skip


def load_nccl() -> Any:
    """Return CuPy's module of NCCL; raises BackendError, with what to install, without it."""
    try:
        import cupy

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy's, of several lines
            from cupy.cuda import nccl
    except ModuleNotFoundError:
        msg = f"NCCL needs CuPy: {how_to_install('cupy')}"
        raise BackendError(msg) from None
    except Exception as error:
        msg = f"NCCL needs CuPy, which cannot be imported: {first_line(error)}"
        raise BackendError(msg) from error
    if not nccl.available:
        release = cupy.cuda.runtime.runtimeGetVersion() // 1000
        msg = f"CuPy finds no NCCL: pip install nvidia-nccl-cu{release}"
        raise BackendError(msg)
    return nccl


class NcclComm(Comm):
    """Ranks that ``others`` connects, and whose arrays of CuPy are summed where they are.

    Sums are put on CuPy's current stream, so that one that is being captured has them in its graph,
    and return before they are done; :meth:`launched` tells the watch of such a graph. All ranks
    make it together, each with a GPU that no other one has. ``end`` is called with a line for the
    terminal once a sum has not been done for ``timeout`` seconds, or another rank is lost.
    """

    name = "nccl"
    takes_device = on_stream = True

    def __init__(
        self, others: Comm, gpu: int, *, timeout: float, end: Callable[[str], None]
    ) -> None:
        import cupy

        self._others, self._cupy, self._nccl = others, cupy, load_nccl()
        self.rank, self.size = others.rank, others.size
        self.local_rank, self.local_size = others.local_rank, others.local_size
        self._begun: float | None = None
        key = others.bcast(self._nccl.get_unique_id() if self.rank == 0 else None)
        self._watch = Watch(timeout, end)
        with cupy.cuda.Device(gpu), self._watch("the start of NCCL"):
            self._ranks = self._nccl.NcclCommunicator(self.size, key, self.rank)
            self._beside = cupy.cuda.Stream(non_blocking=True)
            self._done = cupy.cuda.Event(disable_timing=True)
        # Never destroyed: NCCL would wait until all graphs with its sums are, and at its end Python
        # destroys both in any order. https://docs.nvidia.com/dl-cuda-graph (process-hang)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._ranks))
        self._watch.fault = self._fault
        before_abort.append(self._ranks.abort)

    def bcast(self, value: T) -> T:
        return self._others.bcast(value)

    def allgather(self, value: T) -> list[T]:
        return self._others.allgather(value)

    def barrier(self) -> None:
        self._others.barrier()

    @property
    def host(self) -> Comm:
        return self._others.host

    def abort(self, code: int) -> Never:
        self._others.abort(code)

    def allreduce(self, x: Array) -> None:
        if isinstance(x, np.ndarray):
            self._others.allreduce(x)
            return
        stream = self._cupy.cuda.get_current_stream()
        self._sum(x, stream)
        if not stream.is_capturing():
            self.launched()

    def iallreduce(self, x: Array) -> Callable[[], None]:
        """Begin :meth:`allreduce` on a stream of its own; the wait is the current stream's."""
        if isinstance(x, np.ndarray):
            return self._others.iallreduce(x)
        cuda = self._cupy.cuda
        ready, done = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)
        ready.record(cuda.get_current_stream())
        self._beside.wait_event(ready)
        self._sum(x, self._beside)
        done.record(self._beside)

        def wait(x: Array = x) -> None:  # which keeps x from being freed before
            stream = cuda.get_current_stream()
            stream.wait_event(done)
            if not stream.is_capturing():
                self.launched()

        return wait

    def launched(self) -> None:
        """Tell the watch that the current stream has sums from now on, as a graph brings them."""
        self._done.record(self._cupy.cuda.get_current_stream())
        self._begun = time.monotonic()

    def _sum(self, x: Array, stream: Any) -> None:
        number = SUMMED.get(str(x.dtype))
        if number is None or not isinstance(x, self._cupy.ndarray) or x.ndim != 1:
            kind = f"{type(x).__module__.partition('.')[0]}'s {x.dtype} of shape {tuple(x.shape)}"
            msg = f"NCCL sums vectors of CuPy of {', '.join(SUMMED)}; got {kind}"
            raise BackendError(msg)
        kind, add = getattr(self._nccl, number), self._nccl.NCCL_SUM
        self._ranks.allReduce(x.data.ptr, x.data.ptr, x.size, kind, add, stream.ptr)

    def _fault(self) -> str:
        """Why the sums on the GPU will not end; "" as long as they may."""
        try:
            self._ranks.check_async_error()
        except Exception as error:  # NcclError, which CuPy has only with NCCL
            return f"has lost the other ranks in a sum on the GPU: {first_line(error)}"
        begun = self._begun
        late = begun is not None and time.monotonic() - begun >= self._watch.timeout
        if not late or self._done.done or begun != self._begun:
            return ""
        waited = f"has waited {self._watch.timeout:g} s for the other ranks in a sum on the GPU"
        return f"{waited}: {self._watch.stopped}"
