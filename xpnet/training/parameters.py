"""The parameters of a model and its running statistics, among the named tensors of an engine."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from xpnet.backends import backend_of
from xpnet.errors import DataError
from xpnet.settings import did_you_mean

__all__ = ["read_only", "with_assigned"]


def read_only(tensors: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return those of parameters and statistics by their names in the model."""
    named = {k.partition("/"): v for k, v in tensors.items()}
    found = {k[2]: v for k, v in named.items() if k[0] in ("params", "stats")}
    for tensor in found.values():  # writing to a copy would change nothing
        tensor.flags.writeable = False
    return MappingProxyType(found)


def with_assigned(tensors: dict[str, np.ndarray], some: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors with ``some`` in their places.

    Values are arrays of any library, on any device, or nested lists of numbers.
    Raises DataError for a name that is not there, a wrong shape or a value that is not finite.
    """
    if not hasattr(some, "items"):
        msg = "params are assigned as a mapping of names to arrays; got "
        raise DataError(msg + type(some).__name__, python="trainer.params = {'0.dense.W': ...}")
    full = {k.partition("/")[2]: k for k in tensors if k.startswith(("params/", "stats/"))}
    assigned = dict(tensors)
    for name, value in some.items():
        if name not in full:
            msg = f"the model has no parameter {name!r}; {did_you_mean(str(name), full)}"
            raise DataError(msg)
        mine = tensors[full[name]]
        given = _numbers(name, value)
        if given.shape != mine.shape:
            msg = f"{name} must be finite numbers of shape {mine.shape}; got {given.shape}"
            raise DataError(msg)
        with np.errstate(over="ignore"):  # which is found below
            assigned[full[name]] = given.astype(mine.dtype)
        if not np.isfinite(assigned[full[name]]).all():
            msg = (
                f"{name} must be finite numbers of shape {mine.shape}; in {mine.dtype} some are not"
            )
            raise DataError(msg)
    return assigned


def _numbers(name: str, value: Any) -> np.ndarray:
    """The value on the host; raises DataError for what is no array of real numbers."""
    backend = backend_of(value)
    try:
        given = np.asarray(value) if backend is None else backend.to_host(value)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"{name} must be an array of numbers: {error}"
        raise DataError(msg) from None
    if given.dtype.kind not in "buif":
        msg = f"{name} must be an array of numbers; got {given.dtype}"
        raise DataError(msg)
    return given
