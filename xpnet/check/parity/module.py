"""A backend made from any namespace that claims to implement the Array API."""

import importlib
from typing import Any

import numpy as np
from array_api_compat import device as array_device

from xpnet.backends.backend import FLOAT_DTYPES, Backend, Probe
from xpnet.errors import BackendError
from xpnet.typing import Array

__all__ = ["ModuleBackend", "load_module"]


class ModuleBackend(Backend):
    """The namespace ``module`` on its default device."""

    def __init__(self, module: Any, dtype: str = "float32", name: str | None = None) -> None:
        if dtype not in FLOAT_DTYPES:
            msg = f"dtype must be one of {', '.join(FLOAT_DTYPES)}; got {dtype!r}"
            raise BackendError(msg)
        if not hasattr(module, "asarray"):
            msg = f"{module!r} has no asarray: it is not an Array API namespace"
            raise BackendError(msg)
        self.module = module
        self.name = name or str(getattr(module, "__name__", "module"))  # type: ignore[misc]
        self.device_name, self.dtype_name = "default", dtype

    @classmethod
    def probe(cls) -> Probe:
        return Probe("of the module", ("default",))

    def describe(self) -> dict[str, str]:
        version = str(getattr(self.module, "__version__", "unknown"))
        return {**super().describe(), "version": version}

    @property
    def xp(self) -> Any:
        return self.module

    @property
    def device(self) -> Any:
        return array_device(self.place(np.zeros(1, dtype=self.dtype_name)))

    def place(self, host: np.ndarray) -> Array:
        return self.module.asarray(host)

    def to_host(self, x: Array) -> np.ndarray:
        try:
            return np.array(np.from_dlpack(x))
        except (AttributeError, TypeError, BufferError, RuntimeError):
            return np.array(x)

    def owns(self, x: Any) -> bool:
        # A library whose arrays are NumPy's own gets host arrays like any other library.
        own = type(self.place(np.zeros(1, dtype=self.dtype_name)))
        return isinstance(x, own) and not isinstance(x, np.ndarray)


def load_module(path: str, dtype: str = "float32") -> ModuleBackend:
    """Import ``package.module`` or ``package.module:attribute`` and make a backend of it.

    Raises BackendError if there is no such module or importing it fails.

    >>> load_module("numpy").name
    'numpy'
    """
    module, _, attribute = path.partition(":")
    try:
        namespace = importlib.import_module(module)
        for name in filter(None, attribute.split(".")):
            namespace = getattr(namespace, name)
    except Exception as error:  # importing a module may raise anything
        msg = f"cannot import {path!r} ({type(error).__name__}: {error}); "
        msg += "is it installed, or is its folder in PYTHONPATH?"
        raise BackendError(msg) from error
    return ModuleBackend(namespace, dtype, path)
