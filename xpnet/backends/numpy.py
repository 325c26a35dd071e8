"""NumPy: the reference, on the CPU."""

import logging
from collections.abc import Callable
from typing import Any

import array_api_compat.numpy
import numpy as np

from xpnet.backends.backend import Backend, Probe, installed_version
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

    def train_step(
        self,
        model: Any,
        loss: Any,
        optimizer: Any,
        clip: Any,
        mixed: Any = None,
        accumulate: int = 1,
    ) -> Callable | None:
        if accumulate > 1 or mixed is not None or installed_version(("numba",), "numba") is None:
            return None
        from xpnet.errors import UnsupportedError
        from xpnet.kernels.cpu.fused_step import FusedStep

        try:
            return FusedStep(model, loss, optimizer, clip, self.dtype_name)
        except UnsupportedError as error:
            logging.getLogger("xpnet").info("the portable step on the CPU, for %s", error)
            return None
