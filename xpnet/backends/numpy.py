"""NumPy: the reference, on the CPU."""

from typing import Any

import array_api_compat.numpy
import numpy as np

from xpnet.backends.backend import Backend, Probe
from xpnet.backends.threads import ThreadPool, blas_threads
from xpnet.typing import Array

__all__ = ["NumpyBackend"]


class NumpyBackend(Backend):
    """NumPy arrays; the device is always ``"cpu"``."""

    name = "numpy"

    @classmethod
    def probe(cls) -> Probe:
        return Probe(np.__version__, ("cpu",))

    @property
    def xp(self) -> Any:
        return array_api_compat.numpy

    @property
    def device(self) -> Any:
        return "cpu"

    def place(self, host: np.ndarray) -> Array:
        return host

    def to_host(self, x: Array) -> np.ndarray:
        return np.array(x)

    def owns(self, x: Any) -> bool:
        return isinstance(x, np.ndarray)

    def threads(self) -> ThreadPool | None:
        return blas_threads()
