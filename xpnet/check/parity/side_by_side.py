"""A config on several backends at once, compared step by step with NumPy in float64."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from xpnet.backends import Backend, get_backend
from xpnet.backends.backend import FLOAT_DTYPES
from xpnet.check.parity.checked_step import CheckedStep, Fault, Key, Rounding
from xpnet.check.parity.compare import TOLERANCES, Difference, difference
from xpnet.check.parity.module import ModuleBackend
from xpnet.check.parity.operations import check_operations
from xpnet.check.parity.report import FirstDifference, Growth, Report, Result
from xpnet.check.sample import Sample, sample_rows
from xpnet.errors import BackendError, ConfigError
from xpnet.nn.layout import layouts, merge
from xpnet.optim.groups import grouped
from xpnet.random import generator
from xpnet.run.config import Config
from xpnet.step import Batch, StepInputs, TrainState, dropout_keys
from xpnet.step.trace import Results
from xpnet.training.engine import Engine

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
    reference = _Side(config, rows, get_backend("numpy", dtype="float64"), None, check=False)
    sides, results = [], []
    for asked in backends:
        side = _prepare(config, rows, asked, tolerance, seconds, operations=operations)
        results.append(side.result if isinstance(side, _Side) else side)
        if isinstance(side, _Side):
            sides.append(side)
    with np.errstate(all="ignore"):  # overflowing training is compared like any other
        for moment in _moments(config, rows, steps, size):
            expected = reference.step(moment)
            for side in sides:
                side.compare(moment, expected)
    described = reference.result.described
    return Report(source, rows.source, steps, size, config.seed, described, results)


class _Moment(NamedTuple):
    """One step: its rows and its numbers."""

    inputs: StepInputs
    x: np.ndarray
    y: np.ndarray


def _moments(config: Config, rows: Sample, steps: int, size: int) -> Iterator[_Moment]:
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
        yield _Moment(inputs, rows.x[chosen], rows.y[chosen])


def _prepare(
    config: Config,
    rows: Sample,
    asked: str | Backend,
    tolerance: float | None,
    seconds: float,
    *,
    operations: bool,
) -> "_Side | Result":
    """Make a backend's side of the comparison, or a result that says why there is none."""
    name = asked if isinstance(asked, str) else f"{asked.name}:{asked.dtype_name}"
    try:
        backend = _parse(asked, config.dtype) if isinstance(asked, str) else asked
    except BackendError as error:
        return Result(name, not_run=str(error))
    tested = isinstance(backend, ModuleBackend)
    called = check_operations(backend, seconds) if tested and operations else []
    try:
        side = _Side(config, rows, backend, tolerance)
    except Exception as error:  # a library under test may raise anything
        if not tested:
            raise
        described = backend.describe()
        fault = _failed("first state", error)
        result = Result(name, None, described, 0.0, [fault], 1, operations=called)
        result.module = backend.name
        return result
    side.result.asked, side.result.operations = name, called
    side.result.module = backend.name
    side.seconds = seconds if tested else math.inf
    return side


def _parse(asked: str, dtype: str) -> Backend:
    """Make the backend of ``name[:device][:dtype]``; a device may contain a colon itself."""
    name, *rest = asked.split(":")
    if rest and rest[-1] in FLOAT_DTYPES:
        dtype = rest.pop()
    return get_backend(name, ":".join(rest) or "auto", dtype)


class _Side:
    """An engine on one backend, whose steps are compared."""

    def __init__(
        self,
        config: Config,
        rows: Sample,
        backend: Backend,
        tolerance: float | None,
        *,
        check: bool = True,
    ) -> None:
        self.backend, self.clip, model = backend, config.clip, rows.model
        self.seconds, self.spent = math.inf, 0.0  # for its steps
        self.tolerance = TOLERANCES[backend.dtype_name] if tolerance is None else tolerance
        self.engine = Engine(
            backend,
            model,
            config.loss,
            config.optimizer,
            config.clip,
            seed=config.seed,
            step=config.step,
        )
        self.checked = CheckedStep(backend, model, config.loss, self.tolerance, check=check)
        self.compiled = self.engine.step.kind != "portable"  # and rounds in another order
        described = backend.describe()
        described["compiled"] = "yes" if self.compiled else "no"
        self.result = Result(backend.name, None, described, self.tolerance)

    def step(self, moment: _Moment) -> dict[Key, np.ndarray]:
        """Take one step, an operation at a time and then as training does; return its tensors."""
        engine, checked, dtype = self.engine, self.checked, self.backend.dtype_name
        state = engine.state
        params = engine.params_layout.split(state.params)
        tensors = merge(params, engine.stats_layout.split(state.stats))
        batch = Batch(self.backend.asarray(moment.x, dtype), self.backend.asarray(moment.y))
        checked.take(tensors, batch, moment.inputs.keys)
        before = engine.host_state()  # the step consumes the state
        cost = np.asarray(self.backend.to_host(engine.train(batch, moment.inputs)))
        after = _named(engine, engine.host_state())
        if checked.check:
            self._check_update(moment, before, after | {"C": cost})
        return {**checked.tensors, **{("update", name): value for name, value in after.items()}}

    def compare(self, moment: _Moment, expected: dict[Key, np.ndarray]) -> None:
        """Take the step and note faults, the first difference and the growth."""
        if self.result.faults or self.result.steps is not None:
            return
        if self.spent > self.seconds:
            self.result.steps = len(self.result.growth)
            return
        began = time.monotonic()
        self._compare(moment, expected)
        self.spent += time.monotonic() - began

    def _compare(self, moment: _Moment, expected: dict[Key, np.ndarray]) -> None:
        number = moment.inputs.step + 1
        try:
            actual = self.step(moment)
        except Exception as error:  # a library under test may raise anything
            self.checked.faults.append(_failed("train step", error))
            actual = {}
        if self.checked.faults:
            self.result.faults, self.result.fault_step = list(self.checked.faults), number
        differences = self._differences(actual, expected)
        self.result.growth.append(_growth(number, differences))
        first = next((k for k, d in differences.items() if d.error > self.tolerance), None)
        if first is not None and self.result.first_difference is None:
            self.result.first_difference = FirstDifference(number, *first, differences[first])

    def _differences(
        self, actual: dict[Key, np.ndarray], expected: dict[Key, np.ndarray]
    ) -> dict[Key, Difference]:
        """How far each tensor is from the reference's.

        A gradient that is 0 but for rounding (that of a bias before a batch normalisation) is
        held to the rounding, and a parameter to the size of all of them.
        """
        sizes = _sizes(expected)
        differences = {}
        for key, value in actual.items():
            if value.shape != expected[key].shape:
                continue
            worst = difference(value, expected[key], sizes.get(_role(key), 0.0))
            if worst.error > self.tolerance and key in self.checked.rounding:
                rounding = self.checked.rounding[key](key[1])
                if float(np.abs(expected[key]).max()) <= rounding < math.inf:
                    worst = difference(value, expected[key], rounding / self.tolerance)
            differences[key] = worst
        return differences

    def _check_update(
        self, moment: _Moment, before: TrainState, after: dict[str, np.ndarray]
    ) -> None:
        """Hold the update that training made to the rule, at the gradient of the trace."""
        engine, checked = self.engine, self.checked
        grad = engine.params_layout.join(checked.gradients, np.zeros(0))

        def update(params: np.ndarray, grad: np.ndarray, slots: Sequence[np.ndarray]) -> Results:
            owned = self.clip.apply(np.array(grad))
            made = engine.optimizer.update(
                np.array(params), owned, tuple(map(np.array, slots)), moment.inputs.coefficients
            )
            return _named(engine, before._replace(params=made[0], slots=made[1])), None

        host = (_wide(before.params), _wide(grad), tuple(map(_wide, before.slots)))
        expected = update(*host)[0]
        expected |= engine.stats_layout.named(engine.stats_layout.join(checked.stats, np.zeros(0)))
        expected["C"] = next(v for (_, tensor), v in checked.tensors.items() if tensor == "C")
        rounding = Rounding(update, host, self.backend.dtype_name)
        for tensor, value in after.items():
            fault = checked.judge("update", tensor, value, expected[tensor], rounding)
            if fault and not (self.compiled and self._near(update, host, tensor, value, expected)):
                checked.faults.append(fault)

    def _near(
        self,
        update: Callable[..., Results],
        host: tuple[Any, ...],
        tensor: str,
        actual: np.ndarray,
        expected: dict[str, np.ndarray],
    ) -> bool:
        """Whether a compiled step agrees as a whole.

        It may round otherwise than the trace: put a ReLU's input on the other side of 0, and give
        a gradient of nothing but rounding another sign, which Adam turns into a whole step.
        """
        if actual.shape != expected[tensor].shape:
            return False
        parts = []
        for e in self.engine.params_layout.entries:
            key = (self.checked.names[e.layer], f"d{e.variable}")
            lost = self.checked.rounding[key](key[1]) if key in self.checked.rounding else 0.0
            parts.append(np.full(e.stop - e.start, lost))
        params, grad, slots = host
        by = np.concatenate(parts)
        low, high = (update(params, near, slots)[0] for near in (grad - by, grad + by))
        differences = np.abs(_wide(actual) - expected[tensor])
        if tensor in low:
            moved = (np.abs(other[tensor] - expected[tensor]) for other in (low, high))
            differences = np.maximum(differences - np.maximum(*moved), 0.0)
        limit = math.sqrt(self.tolerance) * float(np.linalg.norm(expected[tensor]))
        return float(np.linalg.norm(differences)) <= limit


def _named(engine: Engine, state: TrainState) -> dict[str, np.ndarray]:
    """The parameters, slots and statistics of a host state by name."""
    named = dict(engine.params_layout.named(state.params))
    for slot, flat in zip(engine.optimizer.slots, state.slots, strict=True):
        named |= {f"{slot} of {k}": v for k, v in engine.params_layout.named(flat).items()}
    return named | engine.stats_layout.named(state.stats)


def _growth(number: int, differences: dict[Key, Difference]) -> Growth:
    largest = dict.fromkeys(Growth._fields[1:], 0.0)
    for (layer, tensor), worst in differences.items():
        kind = _kind(layer, tensor)
        largest[kind] = max(largest[kind], worst.error)
    return Growth(number, **largest)


def _kind(layer: str, tensor: str) -> str:
    if tensor in ("output", "prediction"):
        return "activations"
    if tensor in ("C", "correct"):
        return "loss"
    return "parameters" if layer == "update" or tensor.startswith("new ") else "gradients"


def _role(key: Key) -> str | None:
    """What vector a tensor of the state is part of: the parameters or one of the slots."""
    layer, tensor = key
    if layer != "update" or tensor == "C":
        return None
    return tensor.partition(" of ")[0] if " of " in tensor else "params"


def _sizes(tensors: dict[Key, np.ndarray]) -> dict[str | None, float]:
    """The root mean square of each vector of the state."""
    vectors: dict[str | None, list[np.ndarray]] = {}
    for key, tensor in tensors.items():
        if _role(key) is not None:
            vectors.setdefault(_role(key), []).append(np.ravel(tensor))
    return {k: float(np.sqrt(np.mean(np.concatenate(v) ** 2))) for k, v in vectors.items()}


def _failed(tensor: str, error: BaseException) -> Fault:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Fault("update" if tensor == "train step" else "engine", tensor, text[:300])


def _wide(x: Any) -> np.ndarray:
    return np.array(x, dtype=np.float64)
