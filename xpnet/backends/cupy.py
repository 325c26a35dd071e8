"""CuPy: NumPy's interface on an NVIDIA GPU.

Importing this module needs no GPU and starts none: CuPy creates a CUDA context at the first array.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from xpnet.backends.backend import Backend, Probe, installed_version
from xpnet.errors import how_to_install
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
        try:
            import cupy
        except Exception as error:  # also a folder for its cache that cannot be made
            reason = str(error).strip().partition("\n")[0]
            return Probe(version, (), f"CuPy {version} cannot be imported: {reason}")
        if not cupy.cuda.is_available():
            driver = cupy.cuda.runtime.driverGetVersion()
            note = "device 'cuda' needs an NVIDIA GPU with its driver; CuPy sees none "
            note += f"(driver version {driver}): run nvidia-smi, or use --device cpu"
            return Probe(version, (), note)
        count = cupy.cuda.runtime.getDeviceCount()
        return Probe(version, tuple(f"cuda:{i}" for i in range(count)))

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

    def owns(self, x: Any) -> bool:
        import cupy

        return isinstance(x, cupy.ndarray)

    def free_memory(self) -> int | None:
        with self.device:
            return self.device.mem_info[0]

    def out_of_memory(self, error: BaseException) -> bool:
        import cupy

        return isinstance(error, (MemoryError, cupy.cuda.memory.OutOfMemoryError))

    def synchronize(self, x: Array) -> None:
        x.device.synchronize()

    def stream(
        self, prepared: Callable[[Empty], Iterator[dict[str, np.ndarray]]], held: int = 1
    ) -> Iterator[dict[str, Array]]:
        from xpnet.backends.cupy_transfer import CupyLanes, transferred

        return transferred(CupyLanes(self.device), prepared, held)

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
        named = {key: f"{v // 1000}.{v % 1000 // 10}" for key, v in versions.items()}
        return {**super().describe(), "gpu": name, **named}


def _is_positive(setting: str) -> bool:
    """Whether CuPy takes a variable for on: a whole number above 0."""
    try:
        return int(setting) > 0
    except ValueError:
        return False
