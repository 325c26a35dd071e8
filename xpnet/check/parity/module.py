"""A backend made from any namespace that claims to implement the Array API."""

import importlib
import sys
import warnings
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import device as array_device

from xpnet.backends.backend import FLOAT_DTYPES, Backend, Probe
from xpnet.errors import BackendError
from xpnet.typing import Array

__all__ = ["ModuleBackend", "load_module"]

# How arrays become NumPy's: by protocol, or as dask, ndonnx, sparse, PyTorch, CuPy, dpnp do it.
WAYS = ("__dlpack__", "__array__", "compute", "unwrap_numpy", "todense", "numpy", "get", "asnumpy")
LAZY = ("compute", "unwrap_numpy")


class ModuleBackend(Backend):
    """The namespace ``module`` on its default device.

    ``to_numpy`` names the method of its arrays that gives NumPy's; by default some are tried.
    """

    def __init__(
        self,
        module: Any,
        dtype: str = "float32",
        name: str | None = None,
        to_numpy: str | None = None,
    ) -> None:
        if dtype not in FLOAT_DTYPES:
            msg = f"dtype must be one of {', '.join(FLOAT_DTYPES)}; got {dtype!r}"
            raise BackendError(msg)
        if not hasattr(module, "asarray"):
            msg = f"{module!r} has no asarray: it is not an Array API namespace"
            raise BackendError(msg)
        self.module = module
        self.name = name or str(getattr(module, "__name__", "module"))  # type: ignore[misc]
        self.device_name, self.dtype_name = "default", dtype
        self.to_numpy, self._way = to_numpy, ""  # the way that has given numbers

    @classmethod
    def probe(cls) -> Probe:
        return Probe("of the module", ("default",))

    def describe(self) -> dict[str, str]:
        # array_api_compat.torch is PyTorch's, mlx.core MLX's.
        parts = self.name.partition(":")[0].removeprefix("array_api_compat.").split(".")
        modules = [self.module, *map(sys.modules.get, parts)]
        known = (getattr(module, "__version__", None) for module in modules)
        return {**super().describe(), "version": str(next(filter(None, known), "unknown"))}

    @property
    def xp(self) -> Any:
        return self.module

    @property
    def device(self) -> Any:
        return array_device(self.place(np.zeros(1, dtype=self.dtype_name)))

    def place(self, host: np.ndarray) -> Array:
        return self.module.asarray(host)

    def to_host(self, x: Array) -> np.ndarray:
        """Copy an array to NumPy: by DLPack, ``__array__``, or a method that lazy arrays have.

        Raises BackendError where none of these gives numbers; if one did before, what the library
        now says: a lazy one computes here, and may fail here.
        """
        if isinstance(x, np.ndarray | np.generic):
            return np.array(x)
        tried = [self._way] if self._way else []
        failed: list[Exception] = []
        for way in (*tried, *([self.to_numpy] if self.to_numpy else WAYS)):
            try:
                found = _by(way, x)
            except Exception as error:  # a library under test may raise anything
                failed.append(error)
                continue
            if found is not None:
                self._way = way
                return found
        if failed and hasattr(x, self._way):
            raise failed[0]
        known = ", ".join((self.to_numpy and [self.to_numpy]) or WAYS)
        msg = (
            f"an array of {self.name} ({type(x).__name__}) cannot be copied to NumPy: tried {known}"
        )
        raise BackendError(
            msg,
            python="pass to_numpy, the name of a method of its arrays that does",
            command="name the method of its arrays that does with --to-numpy",
        )

    @property
    def computes(self) -> str:
        """The method that gives the numbers of an array that may still be to be computed; or ""."""
        if self.to_numpy:
            return self.to_numpy
        try:
            x = self.place(np.zeros(1, dtype=self.dtype_name))
        except Exception:  # a library under test may raise anything
            return ""
        return next((way for way in LAZY if hasattr(x, way)), "")

    @cached_property
    def lazy(self) -> bool:
        """Whether a copy of an array, or of a result, may compute it."""
        if self.computes:
            return True
        try:
            x = self.place(np.zeros(1, dtype=self.dtype_name))
            return any(hasattr(x + x, way) for way in LAZY)
        except Exception:  # a library under test may raise anything
            return False

    def computed(self, x: Array) -> Array:
        """Return ``x``, computed where the library is lazy: what follows does not do so again."""
        return self.place(self.to_host(x)) if self.lazy else x

    def owns(self, x: Any) -> bool:
        # A library whose arrays are NumPy's own gets host arrays like any other library.
        own = type(self.place(np.zeros(1, dtype=self.dtype_name)))
        return isinstance(x, own) and not isinstance(x, np.ndarray)


def _by(way: str, x: Any) -> np.ndarray | None:
    """What one way of copying gives, if these are numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "__dlpack__":
            found = np.from_dlpack(x)
        elif way == "__array__":
            found = np.asarray(x)
        else:
            found = np.asarray(getattr(x, way)())
        return np.array(found) if found.dtype.kind in "biufc" else None


def load_module(path: str, dtype: str = "float32", to_numpy: str | None = None) -> ModuleBackend:
    """Import ``package.module`` or ``package.module:attribute`` and make a backend of it.

    Raises BackendError if there is no such module, importing it fails, or its arrays cannot be
    copied to NumPy.

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
    backend = ModuleBackend(namespace, dtype, path, to_numpy)
    try:
        x = backend.place(np.zeros(1, dtype=dtype))
    except Exception:  # a library under test may raise anything; its operations will tell
        return backend
    backend.to_host(x)
    return backend
