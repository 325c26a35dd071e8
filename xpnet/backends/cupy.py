"""CuPy: NumPy's interface on an NVIDIA GPU.

Importing this module needs no GPU and starts none: CuPy creates a CUDA context at the first array.
"""

from typing import Any

import numpy as np

from xpnet.backends.base import Backend, Probe, installed_version
from xpnet.typing import Array

__all__ = ["CupyBackend"]

_WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy-rocm-7-0", "cupy")


class CupyBackend(Backend):
    """CuPy arrays on ``"cuda"`` or ``"cuda:N"``."""

    name = "cupy"

    @classmethod
    def probe(cls) -> Probe:
        version = installed_version(_WHEELS, "cupy")
        if version is None:
            note = "device 'cuda' needs CuPy, which is not installed: pip install 'xpnet[cupy]'"
            return Probe(None, (), note)
        try:
            import cupy
        except ImportError as error:
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
        # CuPy computes on the thread's current device, wherever the arrays are.
        self.device.use()

    @property
    def xp(self) -> Any:
        import array_api_compat.cupy

        return array_api_compat.cupy

    @property
    def device(self) -> Any:
        import cupy

        return cupy.cuda.Device(int(self.device_name.partition(":")[2]))

    def place(self, host: np.ndarray) -> Array:
        import cupy

        with self.device:
            return cupy.asarray(host)

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

    def describe(self) -> dict[str, str]:
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(self.device.id)
        name = properties["name"].decode()
        return {**super().describe(), "gpu": name}
