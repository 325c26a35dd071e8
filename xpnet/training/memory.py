"""How much memory a training step takes, and what to change if there is too little."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpnet.backends import Backend
from xpnet.errors import TrainingError
from xpnet.nn import Sequential
from xpnet.nn.layout import layouts
from xpnet.optim.optimizers import Optimizer

__all__ = [
    "Footprint",
    "fitting_batch",
    "footprint",
    "host_memory",
    "in_words",
    "memory_errors",
    "shortage",
]

KEEP_ON_HOST = {
    "python": "pass a Loader with resident=False, or fewer rows",
    "command": "set data.placement to host",
}
SHARE = 0.8  # of the free memory: allocators round up, and libraries keep workspaces


class Footprint(NamedTuple):
    """Bytes that a train step of the portable formulas holds at its peak."""

    state: int  # parameters, gradient, moments, statistics, and the update's temporaries
    row: int  # input, outputs, residuals and gradients of one example


def footprint(model: Sequential, optimizer: Optimizer, itemsize: int) -> Footprint:
    """Estimate the footprint of a built model from its shapes.

    >>> from xpnet.nn import Dense
    >>> from xpnet.optim.optimizers import SGD
    >>> footprint(Sequential([Dense(3)]).build((2,)), SGD(), 4)
    Footprint(state=180, row=44)
    """
    params, stats = (layout.size for layout in layouts(model))
    vectors = 1 + 2 + len(optimizer.slots) + 2  # p; g as tensors and joined; slots; temporaries
    inputs = math.prod(model.input_shape or ())
    outputs = sum(math.prod(shape) for shape in model.shapes())
    return Footprint((vectors * params + stats) * itemsize, (inputs + 3 * outputs) * itemsize)


def fitting_batch(
    need: Footprint,
    backend: Backend,
    rows: int,
    attempt: Callable[[int], None],
) -> int:
    """Return the largest batch size up to ``rows`` that fits the free memory of the device.

    The estimate is tried: ``attempt(n)`` takes a step of n rows, and n is halved while that runs
    out of memory. Raises TrainingError where not even one row fits.
    """
    free = backend.free_memory()
    free = host_memory() if free is None else free
    size = min(rows, max(1, int(SHARE * free - need.state) // need.row))
    while True:
        try:
            attempt(size)
        except Exception as error:
            if not backend.out_of_memory(error):
                raise
            if size == 1:
                raise TrainingError(shortage(need, 1, free)) from error
            size //= 2
        else:
            return size


@contextmanager
def memory_errors(trainer: Any) -> Iterator[None]:
    """Turn running out of memory into a TrainingError that says what a step takes."""
    try:
        yield
    except Exception as error:
        backend, model = trainer.backend, trainer.model
        if backend is None or not backend.out_of_memory(error):
            raise
        if model.input_shape is None:
            free = backend.free_memory()
            has = "" if free is None else f" of {in_words(free)} free"
            msg = f"out of memory{has}, at placing the rows"
            raise TrainingError(msg, **KEEP_ON_HOST) from error
        need = footprint(model, trainer.optimizer, np.dtype(backend.dtype_name).itemsize)
        rows = -(-trainer.batch_size // trainer.accumulate)
        raise TrainingError(shortage(need, rows, backend.free_memory())) from error


def shortage(need: Footprint, batch_size: int, free: int | None = None) -> str:
    """Return the message: what a step takes, for what, and what to change."""
    state, batch = need.state, need.row * batch_size
    has = "" if free is None else f" of {in_words(free)} free"
    return (
        f"out of memory{has}: a step takes about {in_words(state + batch)}, {in_words(state)} "
        f"for parameters, gradient and moments and {in_words(batch)} for {batch_size} rows of "
        f"{in_words(need.row)}; lower batch_size, set accumulate, or set data.placement to host"
    )


def in_words(count: int) -> str:
    """Return a number of bytes in words.

    >>> in_words(1536)
    '1.5 KiB'
    """
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.3g} {units[0]}"


def host_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process may still take; files that the system caches are free.

    On Linux that is what the kernel estimates, or what the limit of a container leaves.
    """
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        numbers = [line for name in (limit, used) for line in _lines(root / "sys/fs/cgroup" / name)]
        if len(numbers) == 2 and all(n.isdecimal() for n in numbers):  # else it is "max"
            found.append(max(0, int(numbers[0]) - int(numbers[1])))
    if found:
        return min(found)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 2**30


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return []
