"""What the step needs from a device, and CuPy's implementation of it."""

import gc
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from xpnet.cache import cache_folder
from xpnet.errors import BackendError, UnsupportedError, first_line
from xpnet.kernels.cuda.blas import (
    WORKSPACE_BYTES,
    Blas,
    Numbers,
    Products,
    Rest,
    Run,
    find_library,
)
from xpnet.kernels.cuda.blas_lt import BlasLt, CublasLt
from xpnet.kernels.cuda.choices import Choices, is_switched_off
from xpnet.kernels.cuda.lanes import LANES, Call, Recorded, waits
from xpnet.kernels.cuda.matmul import version
from xpnet.kernels.cuda.measuring import measured, no_garbage_collection
from xpnet.kernels.cuda.sources import PACK, STORED, Kernel, arguments, contained, source
from xpnet.parallel import Comm
from xpnet.typing import Array

__all__ = ["CaptureError", "CupyExecutor", "Executor", "width_pack"]


class CaptureError(BackendError):
    """The work cannot be captured as a graph; the message says why."""


def width_pack(stored: str, *, tf32: bool) -> int:
    """Return how many numbers of a layer are 16 bytes if products use tensor cores, else 1."""
    on_tensor_cores = stored in STORED.values() or (tf32 and stored == "float32")
    return PACK // np.dtype(stored).itemsize if on_tensor_cores else 1


class Executor(Protocol):
    """A device that runs its work in order, asynchronously; only :meth:`to_host` waits for it."""

    dtype: str  # of `real` in the kernels
    stored: str  # of `act`, what layers store
    pack: int  # products are faster where widths are multiples of this

    @property
    def note(self) -> str:
        """What computes the products."""
        ...

    @property
    def algorithms(self) -> Mapping[str, str]:
        """The algorithms of the products so far, by what they are for."""
        ...

    def prefer(self, algorithms: Mapping[str, str]) -> bool:
        """Take these algorithms for products from now on; return whether any so far had another."""
        ...

    def active(self) -> AbstractContextManager: ...
    def owns(self, x: Any) -> bool: ...
    def empty(self, shape: tuple[int, ...], dtype: str) -> Array: ...
    def place(self, host: np.ndarray) -> Array: ...
    def to_host(self, x: Array) -> np.ndarray: ...
    def address(self, x: Array) -> int: ...
    def copy(self, target: Array, x: Array) -> None: ...
    def free(self) -> int: ...  # bytes of memory, at least

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return memory of the host that copies from and to the device are fast with."""
        ...

    def summed(self, comm: Comm, x: Array, staged: np.ndarray | None) -> Call:
        """Return a function that sums a vector over the ranks, in place.

        The host waits for the device, unless ``comm`` only joins the stream. Where it takes no
        arrays of a device, ``staged``, pinned and as long, is what it sums.
        """
        ...

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        """Compile kernels together, if they are not. Raises UnsupportedError if that fails."""
        ...

    def launch(self, kernel: Kernel, grid: tuple[int, int], block: int, *given: Any) -> Call:
        """Return a function that launches a kernel with these arguments."""
        ...

    def product(self, a: Array, b: Array, out: Array, *, add: bool = False, lane: int = 0) -> Call:
        """Return a function that computes out = a b, or with ``add`` out += a b.

        Products of different lanes may run at the same time.
        """
        ...

    def affine(
        self, a: Array, b: Array, bias: Array, out: Array, *, relu: bool, apart: Call
    ) -> tuple[Call, Rest]:
        """Return functions that compute out = a b + bias, and then ReLU if ``relu``.

        ``apart`` does all but the product, in place. The second function calls it, unless the first
        one does all of it because that is faster.
        """
        ...

    def capture(self, calls: Sequence[Recorded]) -> Call:
        """Return a function that replays the calls as one graph; capturing does not run them.

        Raises CaptureError.
        """
        ...


class CupyExecutor:
    """CuPy on one GPU. Work goes to CuPy's current stream."""

    def __init__(
        self, device: Any, dtype: str, *, tf32: bool = False, narrow: str | None = None
    ) -> None:
        import cupy

        self.dtype, self._cupy, self._device = dtype, cupy, device
        self.stored = STORED[narrow] if narrow else dtype
        self._narrow = narrow
        self.pack = width_pack(self.stored, tf32=tf32)
        self._modules: dict[str, Any] = {}  # by kernel
        self._functions: dict[str, Any] = {}
        self._no_blas = ""
        self._blas: list[Products] = []  # by lane: each has a workspace of its own
        self._lt: CublasLt | None = None
        with device:
            self._streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(LANES)]
            try:
                self._blas = self._products(Numbers(dtype, tf32=tf32))
            except BackendError as error:
                self._blas = []
                self._no_blas = str(error)
                if narrow:  # CuPy's own products have no bfloat16
                    raise UnsupportedError(self._no_blas) from error

    def _products(self, numbers: Numbers) -> list[Products]:
        """cuBLASLt's, or cuBLAS's where only that can be loaded."""
        cupy, library = self._cupy, find_library("cublas")
        spaces = [cupy.empty(WORKSPACE_BYTES, dtype=cupy.uint8) for _ in range(LANES)]
        plain = [partial(Blas, library, space, self.address, numbers) for space in spaces]
        try:
            found = find_library("cublasLt")
            name = cupy.cuda.runtime.getDeviceProperties(self._device.id)["name"].decode()
            choices = Choices(cache_folder() / "products", name, version(found))
            self._lt = CublasLt(found, self, numbers, choices, timed=not is_switched_off())
        except BackendError:
            return [make() for make in plain]
        return [BlasLt(self._lt, *both) for both in zip(spaces, plain, strict=True)]

    @property
    def note(self) -> str:
        return self._blas[0].note if self._blas else "products by CuPy"

    @property
    def algorithms(self) -> Mapping[str, str]:
        return {} if self._lt is None else self._lt.algorithms

    def prefer(self, algorithms: Mapping[str, str]) -> bool:
        return self._lt is not None and self._lt.prefer(algorithms)

    def active(self) -> AbstractContextManager:
        return self._device

    def owns(self, x: Any) -> bool:
        return isinstance(x, self._cupy.ndarray) and x.flags.c_contiguous

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        return self._cupy.empty(shape, dtype=dtype)

    def place(self, host: np.ndarray) -> Array:
        return self._cupy.asarray(host)

    def to_host(self, x: Array) -> np.ndarray:
        return x.get()

    def address(self, x: Array) -> int:
        return x.data.ptr

    def copy(self, target: Array, x: Array) -> None:
        if x.dtype == target.dtype and x.flags.c_contiguous:
            target.data.copy_from_device_async(x.data, x.nbytes)
        else:
            self._cupy.copyto(target, x)

    def free(self) -> int:
        return self._device.mem_info[0]

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        import cupyx  # type: ignore[import-not-found]

        return cupyx.empty_pinned(shape, dtype)

    def summed(self, comm: Comm, x: Array, staged: np.ndarray | None) -> Call:
        if staged is None:
            return partial(comm.allreduce, x)
        current = self._cupy.cuda.get_current_stream

        def through_host() -> None:
            stream = current()
            x.get(stream=stream, out=staged)  # ends when the copy has ended
            comm.allreduce(staged)
            x.set(staged, stream=stream)  # the next step's copy to `staged` comes after it

        return through_host

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        missing = [kernel for kernel in kernels if kernel.name not in self._modules]
        if not missing:
            return
        code = source(missing, self.dtype, self._narrow)
        module = self._cupy.RawModule(code=code, options=("--std=c++17",))
        with self._device:
            try:
                module.compile()
            except Exception as error:  # headers or NVRTC missing, or too old for the GPU
                kind = type(error).__name__
                msg = f"the kernels do not compile here ({kind}: {first_line(error)})"
                raise UnsupportedError(msg) from error
        self._modules |= {kernel.name: module for kernel in contained(missing)}

    def launch(self, kernel: Kernel, grid: tuple[int, int], block: int, *given: Any) -> Call:
        self.prepare([kernel])
        function = self._functions.get(kernel.name)
        if function is None:
            function = self._modules[kernel.name].get_function(kernel.name)
            self._functions[kernel.name] = function
        typed = tuple(arguments(kernel, given, self.dtype, self.stored))
        return partial(function, grid, (block,), typed)

    def product(self, a: Array, b: Array, out: Array, *, add: bool = False, lane: int = 0) -> Call:
        if not self._blas:
            cupy = self._cupy
            if add:
                return lambda: cupy.add(out, cupy.matmul(a, b), out=out)
            return partial(cupy.matmul, a, b, out=out)
        return self._on_current_stream(self._blas[lane].product(a, b, out, add=add))

    def affine(
        self, a: Array, b: Array, bias: Array, out: Array, *, relu: bool, apart: Call
    ) -> tuple[Call, Rest]:
        if not self._blas:
            return self.product(a, b, out), Rest(apart)
        run, rest = self._blas[0].affine(a, b, bias, out, relu=relu, apart=apart)
        return self._on_current_stream(run), rest

    def _on_current_stream(self, run: Run) -> Call:
        current = self._cupy.cuda.get_current_stream
        return lambda: run(current().ptr)

    def can_measure(self) -> bool:
        return not self._cupy.cuda.get_current_stream().is_capturing()

    def measured(self, runs: Sequence[Run]) -> list[float]:
        return measured(self._cupy, self._streams[0], runs)

    def capture(self, calls: Sequence[Recorded]) -> Call:
        if not self._blas:
            raise CaptureError(self._no_blas)
        cupy, streams, graph = self._cupy, self._streams, None
        after = waits(calls)
        gc.collect()  # what is freed during a capture may call CUDA, which would end it
        try:
            events = {i: cupy.cuda.Event(disable_timing=True) for i in after if i is not None}
            with cupy.cuda.using_allocator(_no_allocation), no_garbage_collection():
                for blas, stream in zip(self._blas, streams, strict=True):
                    blas.use(stream.ptr)
                streams[0].begin_capture()
                try:
                    self._issue(calls, after, events)
                finally:  # or a failed capture would leave the stream unusable
                    graph = streams[0].end_capture()
        except Exception as error:
            msg = f"the step could not be captured: {type(error).__name__}: {error}"
            raise CaptureError(msg) from error
        with suppress(Exception):  # a hint: else the first replay uploads it
            graph.upload()
        return graph.launch

    def _issue(
        self, calls: Sequence[Recorded], after: Sequence[int | None], events: dict[int, Any]
    ) -> None:
        """Issue each call to the stream of its lane, which waits for the other where it must."""
        for i, (call, awaited) in enumerate(zip(calls, after, strict=False)):
            stream = self._streams[call.lane]
            if awaited is not None:
                stream.wait_event(events[awaited])
            with stream:
                call.run()
            if i in events:
                events[i].record(stream)
        if after[-1] is not None:
            self._streams[0].wait_event(events[after[-1]])


def _no_allocation(size: int) -> Any:
    msg = f"{size} bytes were allocated during capture; a graph may only use static buffers"
    raise CaptureError(msg)
