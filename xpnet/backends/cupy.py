"""CuPy: NumPy's interface on an NVIDIA GPU.

Importing this module needs no GPU and starts none: CuPy creates a CUDA context at the first array.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from xpnet.backends.backend import Backend, Probe, installed_version
from xpnet.backends.cupy_cache import import_cupy
from xpnet.errors import first_line, how_to_install
from xpnet.prefetch import Empty
from xpnet.typing import Array

__all__ = ["CupyBackend"]

_WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy-rocm-7-0", "cupy")


class CupyBackend(Backend):
    """CuPy arrays on ``"cuda"`` or ``"cuda:N"``.

    TF32 is off unless CuPy's own variable ``CUPY_TF32`` says otherwise, or :meth:`allow_tf32`.
    """

    name = "cupy"

    @classmethod
    def probe(cls) -> Probe:
        version = installed_version(_WHEELS, "cupy")
        if version is None:
            note = "device 'cuda' needs CuPy, which is not installed: "
            return Probe(None, (), note + how_to_install("cupy"))
        # Else CuPy takes six times as long to compile a kernel; it reads this when it is imported.
        os.environ.setdefault("CUPY_NVRTC_USE_PCH", "1")
        try:
            cupy, kernels = import_cupy()
        except Exception as error:
            return Probe(version, (), f"CuPy {version} cannot be imported: {first_line(error)}")
        if note := _why_no_gpu(cupy):
            return Probe(version, (), note)
        try:
            cupy.cuda.nvrtc.getVersion()
        except Exception as error:  # CuPy's wheel is there, CUDA's are not
            note = f"CuPy {version} cannot compile kernels: {first_line(error)}: "
            return Probe(version, (), note + how_to_install("cupy"))
        count = cupy.cuda.runtime.getDeviceCount()
        return Probe(version, tuple(f"cuda:{i}" for i in range(count)), kernels)

    def __init__(self, device: str = "auto", dtype: str = "float32") -> None:
        super().__init__(device, dtype)
        self._tf32 = _is_positive(os.environ.get("CUPY_TF32", ""))

    @property
    def xp(self) -> Any:
        import array_api_compat.cupy

        return array_api_compat.cupy

    @property
    def device(self) -> Any:
        import cupy

        return cupy.cuda.Device(int(self.device_name.partition(":")[2]))

    def active(self) -> AbstractContextManager[Any]:
        return self.device

    def place(self, host: np.ndarray) -> Array:
        import cupy

        with self.device:
            return cupy.asarray(host)

    def _move(self, x: Array, dtype: str) -> Array:
        with self.device:
            return super()._move(x, dtype)

    def to_host(self, x: Array) -> np.ndarray:
        return x.get()

    def staging(self) -> tuple[Callable[[Array], np.ndarray], Callable[[np.ndarray], Array]]:
        from xpnet.backends.cupy_transfer import Staging

        staging = Staging(self.device)
        return staging.to_host, staging.place

    def owns(self, x: Any) -> bool:
        import cupy

        return isinstance(x, cupy.ndarray)

    def free_memory(self) -> int | None:
        import cupy

        with self.device:  # CuPy keeps what was freed for its next arrays
            return self.device.mem_info[0] + cupy.get_default_memory_pool().free_bytes()

    def out_of_memory(self, error: BaseException) -> bool:
        # CuPy's pool raises a MemoryError; CUDA itself has not even room for a context.
        return isinstance(error, MemoryError) or "cudaErrorMemoryAllocation" in str(error)

    def synchronize(self, x: Array) -> None:
        x.device.synchronize()

    def stream(
        self, prepared: Callable[[Empty], Iterator[dict[str, np.ndarray]]]
    ) -> Iterator[dict[str, Array]]:
        from xpnet.backends.cupy_transfer import CupyLanes, transferred

        return transferred(CupyLanes(self.device), prepared)

    def tf32(self) -> str:
        if not self._has_tf32:
            return super().tf32()
        return "on" if self._tf32 else "off"

    def allow_tf32(self, allowed: bool) -> None:
        if not self._has_tf32:
            return
        from cupy._core import _routines_linalg as linalg

        self._tf32 = allowed  # of the fused step, which has a cuBLAS handle of its own
        kind = linalg.COMPUTE_TYPE_TF32 if allowed else linalg.COMPUTE_TYPE_DEFAULT
        linalg.set_compute_type("float32", kind)  # of the portable formulas

    def describe(self) -> dict[str, str]:
        import cupy

        runtime = cupy.cuda.runtime
        name = runtime.getDeviceProperties(self.device.id)["name"].decode()
        versions = {"cuda": runtime.runtimeGetVersion(), "driver_cuda": runtime.driverGetVersion()}
        named = {key: _version(number) for key, number in versions.items()}
        return {**super().describe(), "gpu": name, **named}


def _why_no_gpu(cupy: Any) -> str:
    """Say why CuPy has no device, and what to do; "" if it has one."""
    if cupy.cuda.is_available():
        return ""
    runtime = cupy.cuda.runtime
    driver, reason = runtime.driverGetVersion(), ""
    try:
        runtime.getDeviceCount()
    except Exception as error:  # what `is_available` keeps to itself
        reason = first_line(error)
    if driver and "InsufficientDriver" in reason:
        has, needs = (_version(v) for v in (driver, runtime.runtimeGetVersion()))
        return (
            f"device 'cuda' needs a newer NVIDIA driver: this one is for CUDA {has}, CuPy for "
            f"CUDA {needs}: update the driver, or install the CuPy of an older CUDA"
        )
    seen = f"driver version {driver}" + (f"; {reason}" if driver and reason else "")
    return (
        "device 'cuda' needs an NVIDIA GPU with its driver; CuPy sees none "
        f"({seen}): run nvidia-smi, or use --device cpu"
    )


def _version(number: int) -> str:
    """A version of CUDA as people write it.

    >>> _version(12040)
    '12.4'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def _is_positive(setting: str) -> bool:
    """Whether CuPy takes a variable for on: a whole number above 0."""
    try:
        return int(setting) > 0
    except ValueError:
        return False
