"""array-api-strict: NumPy that refuses whatever the standard does not promise.

Its fake devices make it the test of placement on a machine without a GPU: an array on ``device1``
cannot meet one on the CPU. ``no_float64`` has no float64 and ``no_x64`` no 64-bit type at all.
"""

from typing import Any

import numpy as np

from xpnet.backends.backend import Backend, Probe
from xpnet.backends.threads import ThreadPool, blas_threads
from xpnet.typing import Array

__all__ = ["StrictBackend"]


class StrictBackend(Backend):
    """array-api-strict arrays on one of its fake devices."""

    name = "array-api-strict"

    @classmethod
    def probe(cls) -> Probe:
        found = cls._library("array-api-strict", "array_api_strict", "strict")
        if found.note:
            return found
        return Probe(found.version, ("cpu", "device1", "device2", "no_float64", "no_x64"))

    @property
    def xp(self) -> Any:
        import array_api_strict

        return array_api_strict

    @property
    def device(self) -> Any:
        name = "CPU_DEVICE" if self.device_name == "cpu" else self.device_name
        return self.xp.Device(name)

    def place(self, host: np.ndarray) -> Array:
        return self.xp.asarray(host, device=self.device)

    def to_host(self, x: Array) -> np.ndarray:
        return np.array(x.to_device(self.xp.Device("CPU_DEVICE")))

    def owns(self, x: Any) -> bool:
        return type(x).__module__.startswith("array_api_strict")

    def threads(self) -> ThreadPool | None:
        return blas_threads()
