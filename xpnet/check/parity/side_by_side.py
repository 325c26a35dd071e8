"""A config on several backends at once, compared step by step with NumPy in float64."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np

from xpnet.backends import Backend, get_backend
from xpnet.backends.backend import FLOAT_DTYPES
from xpnet.check.parity.around import AroundBackend, around
from xpnet.check.parity.module import ModuleBackend
from xpnet.check.parity.operations import Row, check_operations
from xpnet.check.parity.report import Report, Result
from xpnet.check.parity.side import Moment, Side, failed
from xpnet.check.sample import Sample, sample_rows
from xpnet.errors import BackendError, ConfigError
from xpnet.nn.layout import layouts
from xpnet.optim.groups import grouped
from xpnet.random import generator
from xpnet.run.config import Config
from xpnet.step import StepInputs, dropout_keys

__all__ = ["parity"]


def parity(
    config: Config,
    backends: Iterable[str | Backend] = ("numpy",),
    *,
    steps: int = 20,
    batch_size: int | None = None,
    tolerance: float | None = None,
    source: str = "config",
    rows: Sample | None = None,
    seconds: float = 60.0,
    operations: bool = True,
) -> Report:
    """Train ``config`` for ``steps`` steps on each backend and compare every tensor.

    A backend is an object or ``"name:device:dtype"``, such as ``"torch"`` or
    ``"torch:cuda:0:float32"``; the dtype is the config's by default. ``tolerance`` is relative,
    by default 1e-10 for float64 and 1e-4 for float32. ``batch_size`` and ``rows`` are the config's
    by default; a batch size left to the device's memory becomes 64.

    Steps are compared in the dtype and on whole batches: ``mixed`` and ``accumulate`` are ignored.
    A library under test (``load_module``) has ``seconds`` for its operations, which ``operations``
    False leaves out, and as many for its steps; what there is no time for is said. A missing
    backend gives a result that says so. Raises ConfigError for a config that cannot be trained,
    DataError for data that does not fit.
    """
    if steps < 1 or (tolerance is not None and not tolerance > 0):
        msg = f"parity needs steps >= 1 and a tolerance > 0; got {steps} and {tolerance}"
        raise ConfigError(msg)
    size = batch_size or (config.batch_size if isinstance(config.batch_size, int) else 64)
    epochs = config.epochs if isinstance(config.epochs, int) else 30
    config = dataclasses.replace(config, batch_size=size, epochs=epochs)
    rows = rows or sample_rows(config, steps * size)
    config = rows.config
    config.loss.check_target(rows.y, rows.model.output_shape[-1])
    reference = Side(config, rows, get_backend("numpy", dtype="float64"), None, check=False)
    sides, results = [], []
    for asked in backends:
        side = _prepare(config, rows, asked, tolerance, seconds, operations=operations)
        results.append(side.result if isinstance(side, Side) else side)
        if isinstance(side, Side):
            sides.append(side)
    with np.errstate(all="ignore"):  # overflowing training is compared like any other
        for moment in _moments(config, rows, steps, size):
            expected = reference.step(moment)
            for side in sides:
                side.compare(moment, expected)
    described = reference.result.described
    return Report(source, rows.source, steps, size, config.seed, described, results)


def _moments(config: Config, rows: Sample, steps: int, size: int) -> Iterator[Moment]:
    """Yield the steps that training would take on these rows."""
    per_epoch = math.ceil(len(rows.x) / size)
    schedule, total = config.schedule.init(), cast(int, config.epochs) * per_epoch
    rule = grouped(config.optimizer, layouts(rows.model)[0])
    for step in range(steps):
        epoch, batch = divmod(step, per_epoch)
        order = generator(config.seed, "shuffle", epoch).permutation(len(rows.x))
        chosen = order[batch * size : (batch + 1) * size]
        lr = config.schedule.lr(schedule, config.optimizer.lr, step, total, per_epoch)
        keys = dropout_keys(config.seed, step, rows.model.n_random)
        inputs = StepInputs(step, rule.coefficients(lr, step + 1), keys)
        yield Moment(inputs, rows.x[chosen], rows.y[chosen])


def _prepare(
    config: Config,
    rows: Sample,
    asked: str | Backend,
    tolerance: float | None,
    seconds: float,
    *,
    operations: bool,
) -> Side | Result:
    """Make a backend's side of the comparison, or a result that says why there is none."""
    name = asked if isinstance(asked, str) else f"{asked.name}:{asked.dtype_name}"
    try:
        backend = _parse(asked, config.dtype) if isinstance(asked, str) else asked
    except BackendError as error:
        return Result(name, not_run=str(error))
    if not isinstance(backend, ModuleBackend):
        side = Side(config, rows, backend, tolerance)
        side.result.asked = name
        return side
    called = check_operations(backend, seconds) if operations else []
    begun = _begun(config, rows, around(backend), tolerance, called)
    result = begun.result if isinstance(begun, Side) else begun
    result.asked, result.operations, result.module = name, called, backend.name
    if isinstance(begun, Side):
        begun.seconds, result.computes = seconds, backend.computes
    return begun


def _begun(
    config: Config,
    rows: Sample,
    backend: ModuleBackend,
    tolerance: float | None,
    called: list[Row],
) -> Side | Result:
    """Make the side of a library under test, around what stops its first state."""
    try:
        return Side(config, rows, backend, tolerance)
    except Exception as error:  # a library under test may raise anything
        fault = failed("first state", error)
    again = AroundBackend.of(backend)
    again.leave_out(called)
    try:
        side = Side(config, rows, again, tolerance, stands_in=True)
    except Exception:
        return Result(backend.name, None, backend.describe(), 0.0, [fault], 1)
    side.result.faults, side.result.fault_step = [fault], 1
    return side


def _parse(asked: str, dtype: str) -> Backend:
    """Make the backend of ``name[:device][:dtype]``; a device may contain a colon itself."""
    name, *rest = asked.split(":")
    if rest and rest[-1] in FLOAT_DTYPES:
        dtype = rest.pop()
    return get_backend(name, ":".join(rest) or "auto", dtype)
