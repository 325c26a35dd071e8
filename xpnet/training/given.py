"""What each rank of a training was given: the same settings, and all of the same rows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.errors import ConfigError, DataError
from xpnet.training.loader import Loader

__all__ = ["compare", "given_to"]

ROWS, VALUES = 16, 64  # of the data that are compared: rows, and values of each
RTOL = 1e-3  # preprocessing may round differently on another processor


# Of a trainer, what all ranks must have in common.
SETTINGS = (
    *("model", "loss", "optimizer", "schedule", "clip", "batch_size", "seed", "accumulate"),
    *("mixed", "parallel", "class_weights", "updates_before", "position"),
)


class SeenRows(NamedTuple):
    """What is compared of a data set."""

    rows: int
    arrays: dict[str, tuple[tuple[int, ...], str]]  # shape of a row and dtype, by name
    some: dict[str, np.ndarray]  # values (n, m) of rows from first to last, by name


def given_to(
    trainer: Any, data: Loader, validation: Loader | None, of_fit: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what must be the same on all ranks, by name; ``of_fit`` are arguments of ``fit``."""
    engine = trainer.engine
    settings = {name: getattr(trainer, name) for name in SETTINGS} | dict(of_fit)
    settings |= {"step": engine.step.kind, "backend": engine.backend.name}
    settings |= {"dtype": engine.backend.dtype_name}
    # The address of an object is another one in each process.
    given: dict[str, Any] = {k: re.sub(" at 0x[0-9a-f]+", "", repr(v)) for k, v in settings.items()}
    given |= {"data": _seen(data), "validation": _seen(validation)}
    return given | {"classes": repr(trainer.classes)}  # after the data, which may be why


def _seen(loader: Loader | None) -> SeenRows | None:
    """What is compared of a data set: a few values of a few of its rows."""
    if loader is None:
        return None
    at_hand = loader.arrays["x"].shape[0]
    taken = loader.take(_spread(at_hand, ROWS)).arrays
    some = {}
    for name, array in taken.items():
        host = array if isinstance(array, np.ndarray) else loader.backend.to_host(array)
        flat = host.reshape(len(host), -1)
        some[name] = flat[:, _spread(flat.shape[1], VALUES)]
    described = {k: (tuple(v.shape[1:]), str(v.dtype)) for k, v in loader.arrays.items()}
    return SeenRows(loader.rows, described, some)


def _spread(count: int, most: int) -> np.ndarray:
    """Indices from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def compare(given: Sequence[Mapping[str, Any]]) -> None:
    """Raise the same error on all ranks where these were given different things, by rank.

    A value is data, SeenRows, where its name is "data" or "validation"; else a setting.
    """
    first = given[0]
    for name in first:
        for rank, other in enumerate(given):
            if name in ("data", "validation"):
                if difference := _difference(first[name], other[name], rank):
                    what = "" if name == "data" else "validation: "
                    msg = f"{what}the ranks were given different data: {difference}. Every rank is "
                    msg += "given the whole data set, and takes its rows of each batch itself"
                    raise DataError(msg)
            elif first[name] != other[name]:
                msg = f"{name} is {first[name]} on rank 0 and {other[name]} on rank {rank}; all "
                msg += "ranks must be given the same settings, and be at the same step"
                raise ConfigError(msg)


def _difference(a: SeenRows | None, b: SeenRows | None, rank: int) -> str:
    """What distinguishes the data of rank 0 and of another one; "" if nothing does."""
    if a is None or b is None:
        return "" if a is b else f"rank {0 if a is None else rank} has none"
    if a.rows != b.rows:
        return f"rank 0 has {a.rows} rows, rank {rank} has {b.rows}"
    if a.arrays != b.arrays:
        return f"rank 0 has {_in_words(a)}, rank {rank} has {_in_words(b)}"
    for name, values in a.some.items():
        if not np.allclose(values, b.some[name], rtol=RTOL, atol=0.0, equal_nan=True):
            return f"each has {a.rows} rows, and {name} of rank {rank} are not those of rank 0"
    return ""


def _in_words(seen: SeenRows) -> str:
    return ", ".join(f"{k} of {dtype} {shape}" for k, (shape, dtype) in seen.arrays.items())
