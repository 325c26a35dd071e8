"""The parameters of a model and its running statistics, among the named tensors of an engine."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

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

    Raises DataError for a name that is not there, a wrong shape or a value that is not finite.
    """
    full = {k.partition("/")[2]: k for k in tensors if k.startswith(("params/", "stats/"))}
    assigned = dict(tensors)
    for name, value in some.items():
        if name not in full:
            msg = f"the model has no parameter {name!r}; {did_you_mean(name, full)}"
            raise DataError(msg)
        mine, value = tensors[full[name]], np.asarray(value)
        if value.shape != mine.shape or not np.isfinite(value).all():
            msg = f"{name} must be finite numbers of shape {mine.shape}; got {value.shape}"
            raise DataError(msg)
        assigned[full[name]] = value.astype(mine.dtype)
    return assigned
