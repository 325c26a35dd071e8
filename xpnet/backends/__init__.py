"""The only place that names NumPy, CuPy, PyTorch, JAX and array-api-strict.

Each is one class and one row in ``BACKENDS``; CONTRIBUTING.md says what else one needs. A package
of its own uses an entry point in the group ``xpnet.backends`` instead.
"""

import importlib
from importlib import metadata
from typing import Any, NamedTuple

from xpnet.backends.backend import Backend, Probe, foreign
from xpnet.errors import BackendError
from xpnet.settings import did_you_mean

__all__ = [
    "BACKENDS",
    "Backend",
    "Probe",
    "Resolved",
    "backend_class",
    "backend_names",
    "backend_of",
    "get_backend",
    "resolve",
]

# "module:class", imported at first use: none of the libraries loads before it is asked for.
BACKENDS = {
    "numpy": "xpnet.backends.numpy:NumpyBackend",
    "cupy": "xpnet.backends.cupy:CupyBackend",
    "torch": "xpnet.backends.torch:TorchBackend",
    "jax": "xpnet.backends.jax:JaxBackend",
    "array-api-strict": "xpnet.backends.strict:StrictBackend",
}


def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {e.name: e for e in metadata.entry_points(group="xpnet.backends")}


def backend_names() -> list[str]:
    """Return the values of ``backend``: the built-in ones, then those of other packages."""
    return list(dict.fromkeys([*BACKENDS, *_entry_points()]))


def backend_class(name: str) -> type[Backend]:
    """Return the class of a backend by name, from here or from an entry point.

    Raises BackendError for what is no name of one.
    """
    if not isinstance(name, str):
        named = getattr(name, "__name__", "")  # of a library that is given in its place
        hint = f"; write {named!r}" if named in BACKENDS else ""
        msg = f"backend must be a name, such as 'numpy'; got {name!r}{hint}"
        raise BackendError(msg)
    if name in BACKENDS:
        module, _, attribute = BACKENDS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    plugins = _entry_points()
    if name not in plugins:
        msg = f"unknown backend {name!r}; {did_you_mean(name, [*BACKENDS, *plugins])}"
        raise BackendError(msg)
    try:
        return plugins[name].load()
    except Exception as error:  # a plugin may raise anything; its name helps
        msg = f"backend {name!r} ({plugins[name].value}) cannot be loaded: {error}"
        raise BackendError(msg) from error


def get_backend(name: str, device: str = "auto", dtype: str = "float32") -> Backend:
    """Make a backend by name.

    >>> get_backend("numpy")
    NumpyBackend(device='cpu', dtype='float32')
    """
    return backend_class(name)(device, dtype)


class Resolved(NamedTuple):
    """A backend, and the reason it was chosen (for the log and the run's record)."""

    backend: Backend
    reason: str


def resolve(backend: str = "auto", device: str = "auto", dtype: str = "float32") -> Resolved:
    """Choose a backend and a device.

    ``device="cuda"`` means CuPy unless a backend is named, and is an error where CuPy or the GPU
    is missing. ``auto`` for both takes CuPy where it sees a GPU, else NumPy, and says why.
    """
    if backend != "auto":
        asked = "named" if device == "auto" else "both named"
        return Resolved(get_backend(backend, device, dtype), asked)
    if device == "cpu":
        return Resolved(get_backend("numpy", device, dtype), "device cpu was requested")
    if device != "auto":
        if not isinstance(device, str) or device.partition(":")[0] != "cuda":
            msg = f"unknown device {device!r}; use auto, cpu, cuda or cuda:N, or name a backend"
            raise BackendError(msg)
        return Resolved(get_backend("cupy", device, dtype), f"device {device} was requested")
    probe = backend_class("cupy").probe()
    if probe.devices:
        return Resolved(get_backend("cupy", "auto", dtype), "auto: CuPy sees a GPU")
    why = "CuPy is not installed" if probe.version is None else probe.note
    why = "CuPy sees no GPU" if "CuPy sees none" in why else why
    return Resolved(get_backend("numpy", "auto", dtype), f"auto: {why}")


def backend_of(x: Any, dtype: str | None = None) -> Backend | None:
    """Return the backend and device of the array ``x``; None for host data.

    ``dtype`` is by default that of ``x`` where it is float64, else float32. Raises BackendError
    where no backend has the library or the device of ``x``.
    """
    if not foreign(x):
        return None
    from array_api_compat import device as array_device

    library = type(x).__module__.partition(".")[0]
    for name in backend_names():
        if library not in _roots(name):
            continue
        cls = backend_class(name)
        probe = cls.probe()
        for candidate in probe.devices:
            made = cls(candidate, dtype or _float_name(x))
            if made.owns(x) and made.device == array_device(x):
                return made
        cls.refuse(str(array_device(x)), probe)
    msg = f"no backend for an array of {library}; known: {', '.join(backend_names())}"
    raise BackendError(msg)


def _roots(name: str) -> tuple[str, ...]:
    """The root modules whose arrays belong to a backend."""
    return {"jax": ("jax", "jaxlib")}.get(name, (name.replace("-", "_"),))


def _float_name(x: Any) -> str:
    name = str(x.dtype).rpartition(".")[2]
    return name if name == "float64" else "float32"
