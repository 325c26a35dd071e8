"""What training asks of an array library beyond the Array API standard.

The standard leaves out placement from the host, waiting for the device, compilation and a way to
learn which devices are there. A backend is those few methods; everything else is the formulas.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from array_api_compat import device as array_device

from xpnet.backends.threads import ThreadPool
from xpnet.errors import BackendError, DataError, how_to_install, import_failure
from xpnet.prefetch import Empty, new_array, prefetch
from xpnet.typing import Array

__all__ = ["FLOAT_DTYPES", "Backend", "Probe"]

FLOAT_DTYPES = ("float32", "float64")


class Probe(NamedTuple):
    """What is known of a library without running it."""

    version: str | None  # None if it is not installed
    devices: tuple[str, ...]  # values of `device`, the preferred one first
    note: str = ""  # why an expected device is missing, and what to do


class Backend(ABC):
    """One array library on one device with one floating dtype.

    ``Backend(device, dtype)`` raises :class:`~xpnet.errors.BackendError` where the library or the
    device is missing. Subclasses set ``name`` and define the abstract methods; see
    ``xpnet/backends/numpy.py`` for the smallest one. A package of its own joins by an entry point
    in the group ``xpnet.backends``, its name the backend's name and its value the class.
    """

    name: ClassVar[str]
    jit_by_default: ClassVar[bool] = False  # whether training goes through `jit` unasked
    # Whether training keeps each vector of parameters as a SplitVector, which `owns`, `to_host`
    # (flat), `synchronize` and `jit` then take like an array.
    splits: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.__abstractmethods__:
            raise _incomplete(cls)
        return super().__new__(cls)

    def __init__(self, device: str = "auto", dtype: str = "float32") -> None:
        if dtype not in FLOAT_DTYPES:
            msg = f"dtype must be one of {', '.join(FLOAT_DTYPES)}; got {dtype!r}"
            raise BackendError(msg)
        self.device_name = self._found(device)
        self.dtype_name = dtype

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come from a pickle, perhaps to a machine that does not have the library or the device."""
        self._found(state["device_name"])
        vars(self).update(state)

    def _found(self, device: str) -> str:
        """Return the name of a device that is there; raises BackendError if there is none."""
        probe = self.probe()
        if not probe.devices:
            raise BackendError(probe.note)
        if device == "auto":
            device = probe.devices[0]
        if f"{device}:0" in probe.devices:
            device = f"{device}:0"
        if device not in probe.devices:
            self.refuse(device, probe)
        return device

    @classmethod
    def _library(cls, distribution: str, module: str, extra: str) -> Probe:
        """Say whether the library can be used, in ``note`` why not; its devices are not asked."""
        version = installed_version((distribution,), module)
        if version is None:
            note = f"backend {cls.name!r} is not installed: {how_to_install(extra)}"
            return Probe(None, (), note)
        broken = import_failure(module)
        return Probe(version, (), f"backend {cls.name!r} needs {broken}" if broken else "")

    @classmethod
    @abstractmethod
    def probe(cls) -> Probe:
        """Return what is installed and which devices it has; never raises, never allocates."""
        raise _incomplete(cls)  # a class is probed before it is instantiated

    @classmethod
    def refuse(cls, device: str, probe: Probe) -> None:
        """Raise the error for a device that is not there."""
        reason = f"; {probe.note}" if probe.note else ""
        msg = f"backend {cls.name!r} has no device {device!r}{reason}"
        msg += f"; its devices: {', '.join(probe.devices)}"
        raise BackendError(msg)

    @property
    @abstractmethod
    def xp(self) -> Any:
        """The namespace of the library, as the Array API standard defines it."""

    @property
    @abstractmethod
    def device(self) -> Any:
        """The library's own device object, as creation functions take it."""

    @property
    def dtype(self) -> Any:
        """The library's own floating dtype object."""
        return getattr(self.xp, self.dtype_name)

    def dtype_named(self, name: str) -> Any:
        """Return a dtype object by name, also one that the standard does not have.

        Raises BackendError where the library has none of that name.
        """
        found = getattr(self.xp, name, None)
        if found is None:
            msg = f"backend {self.name!r} has no dtype {name}; torch and jax have float16 and "
            msg += "bfloat16, numpy and cupy float16, and the fused step of cupy both"
            raise BackendError(msg)
        return found

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        """Place ``x`` on this device.

        ``x`` is a NumPy array (or what NumPy makes one of) or already an array of this library.
        ``dtype`` is a name such as ``"int32"``; by default floats take this backend's dtype and
        integers int32. The result may share memory with ``x``, so write to neither.

        Raises BackendError for an array of another library, for xpnet makes no copy unasked, and
        DataError for what holds no real numbers, or an integer beyond int32.
        """
        if self.owns(x):
            default = self.default_dtype(x.dtype)
            return self._move(x, dtype or default)
        if foreign(x):
            msg = f"backend {self.name!r} was given an array of {type(x).__module__}; "
            msg += "convert it first, or choose the backend that the array belongs to"
            raise BackendError(msg)
        return self.place(self.as_host(x, dtype))

    def as_host(
        self, x: Any, dtype: str | None = None, *, out: Callable[..., np.ndarray] | None = None
    ) -> np.ndarray:
        """Return a host copy of ``x`` in the dtype that :meth:`asarray` gives it; raises as it.

        ``out`` makes the array for it, from a shape and a dtype.
        """
        host = np.asarray(x)
        default = self.default_dtype(host.dtype)
        if out is None:
            cast = np.array(host, dtype=dtype or default)
        else:
            np.copyto(cast := out(host.shape, np.dtype(dtype or default)), host, casting="unsafe")
        if cast.dtype.kind == "i" and host.dtype != cast.dtype:
            _check_same(host, cast)
        return cast

    def default_dtype(self, dtype: Any) -> str:
        """Return the name of the dtype that :meth:`asarray` gives an array of this dtype.

        Raises DataError for a dtype of no real numbers.
        """
        name = getattr(dtype, "name", str(dtype))  # of NumPy's without the order of bytes
        for part, default in {"float": self.dtype_name, "bool": "bool", "int": "int32"}.items():
            if part in name:
                return default
        msg = f"an array must hold real numbers; got dtype {name}"
        raise DataError(msg)

    def _move(self, x: Array, dtype: str) -> Array:
        """Cast and check an array that is already of this library."""
        xp = self.xp
        if (where := array_device(x)) != self.device:
            msg = f"the array is on {where}, but the backend is on {self.device_name}; "
            msg += "move one of them"
            raise BackendError(msg)
        moved = xp.astype(x, getattr(xp, dtype), copy=False)
        if dtype == "int32" and x.dtype != moved.dtype:
            _check_same(self.to_host(x), self.to_host(moved))
        return moved

    @abstractmethod
    def place(self, host: np.ndarray) -> Array:
        """Copy a NumPy array to the device, dtype kept; ``host`` is handed over."""

    @abstractmethod
    def to_host(self, x: Array) -> np.ndarray:
        """Return a NumPy copy of ``x``; waits for the device."""

    def staging(self) -> tuple[Callable[[Array], np.ndarray], Callable[[np.ndarray], Array]]:
        """Return ``to_host`` and ``place`` for vectors that come back at once, one at a time.

        What the first returns holds until its next call, and may be written to.
        """
        return self.to_host, self.place

    @abstractmethod
    def owns(self, x: Any) -> bool:
        """Return whether ``x`` is an array of this library."""

    def active(self) -> AbstractContextManager[Any]:
        """Return a context within which this thread computes on the backend's device.

        For a library that computes where the thread is, not where the arrays are (CuPy).
        """
        return nullcontext()

    def bound(self, function: Callable) -> Callable:
        """Return ``function``, computing on the backend's device whoever calls it."""
        if type(self).active is Backend.active:
            return function

        @wraps(function)
        def there(*args: Any, **options: Any) -> Any:
            with self.active():
                return function(*args, **options)

        return there

    def free_memory(self) -> int | None:
        """Return the free bytes of a device with its own memory; None if it uses the host's."""
        return None

    def out_of_memory(self, error: BaseException) -> bool:
        """Return whether ``error`` is how the library reports running out of memory."""
        return isinstance(error, MemoryError)

    def synchronize(self, x: Array) -> None:  # noqa: B027 - nothing to wait for by default
        """Wait until ``x`` has been computed."""

    def threads(self) -> ThreadPool | None:
        """Return the threads that compute on a CPU; None where their number cannot be changed."""
        return None

    @property
    def has_jit(self) -> bool:
        """Whether :meth:`jit` compiles."""
        return type(self).jit is not Backend.jit

    def jit(self, function: Callable, *, donate: bool = False) -> Callable:
        """Return ``function`` compiled by the library, or as it is where that has no compiler.

        ``donate`` says that the first argument is handed over: its memory may be reused.
        """
        return function

    def stream(
        self, prepared: Callable[[Empty], Iterator[dict[str, np.ndarray]]]
    ) -> Iterator[dict[str, Array]]:
        """Yield batches of host arrays on the device, dtypes kept; a thread prepares them ahead.

        ``prepared(empty)`` yields them. What it writes into the arrays that ``empty`` gives it for
        a batch need not be copied again; it asks for those of a batch after it has yielded the one
        before. A batch may be overwritten once the next one is asked for.
        """
        placed = ({k: self.place(v) for k, v in b.items()} for b in prepared(new_array))
        return prefetch(placed, depth=2)

    def tf32(self) -> str:
        """Say whether the factors of float32 products are rounded to TF32 (10 bits): "on" or "off",
        with the switch that decides it, or "does not apply".
        """
        return "does not apply"

    def allow_tf32(self, allowed: bool) -> None:  # noqa: B027 - by default there is none
        """Turn TF32 on or off where it applies, for the whole process where the library has one
        switch; several times faster on NVIDIA's tensor cores.
        """

    @property
    def _has_tf32(self) -> bool:
        return self.device_name.startswith("cuda") and self.dtype_name == "float32"

    def describe(self) -> dict[str, str]:
        """Return what a run records of its backend."""
        probe = self.probe()
        return {
            "backend": self.name,
            "version": str(probe.version),
            "device": self.device_name,
            "dtype": self.dtype_name,
            "tf32": self.tf32(),
        }

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(device={self.device_name!r}, dtype={self.dtype_name!r})"


def _incomplete(cls: type[Backend]) -> BackendError:
    """The error for a class with abstract methods; Python's TypeError would read as xpnet's bug."""
    missing = ", ".join(map(repr, sorted(cls.__abstractmethods__)))
    return BackendError(f"backend class {cls.__name__} must define {missing}")


def _check_same(host: np.ndarray, integers: np.ndarray) -> None:
    """Refuse a cast that wraps: it would turn one label into another."""
    wrong = host[host != integers]
    if wrong.size:
        msg = f"integers are stored as {integers.dtype}, which cannot hold {wrong[0]}"
        raise DataError(msg)


def foreign(x: Any) -> bool:
    """Return whether ``x`` is an array of a library other than NumPy, without importing any."""
    columns = hasattr(x, "__arrow_c_array__")  # of pyarrow, which NumPy reads
    return hasattr(x, "__dlpack__") and not columns and not isinstance(x, (np.ndarray, np.generic))


def installed_version(distribution_names: tuple[str, ...], module: str) -> str | None:
    """Return the version of a library without importing it; None if it is not installed."""
    from importlib import metadata, util

    if module not in sys.modules and util.find_spec(module) is None:
        return None
    for name in distribution_names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return str(getattr(sys.modules.get(module), "__version__", "unknown"))
