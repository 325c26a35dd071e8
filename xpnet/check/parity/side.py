"""One side of a comparison: an engine on a backend, whose steps are held to the reference's."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xpnet.backends import Backend
from xpnet.check.parity.around import AroundBackend
from xpnet.check.parity.checked_step import CheckedStep, Fault, Key, Rounding
from xpnet.check.parity.compare import TOLERANCES, Difference, difference
from xpnet.check.parity.module import ModuleBackend
from xpnet.check.parity.operations import check_operations, said
from xpnet.check.parity.report import FirstDifference, Growth, Result
from xpnet.check.sample import Sample
from xpnet.nn.layout import merge
from xpnet.run.config import Config
from xpnet.step import Batch, StepInputs, TrainState
from xpnet.step.trace import Results
from xpnet.training.engine import Engine

__all__ = ["Moment", "Side", "failed"]


class Moment(NamedTuple):
    """One step: its rows and its numbers."""

    inputs: StepInputs
    x: np.ndarray
    y: np.ndarray


class Side:
    """An engine on one backend, whose steps are compared."""

    def __init__(
        self,
        config: Config,
        rows: Sample,
        backend: Backend,
        tolerance: float | None,
        *,
        check: bool = True,
        stands_in: bool = False,
    ) -> None:
        self.stands_in, self.stopped = stands_in, False
        self.clip, model = config.clip, rows.model
        self.seconds, self.spent = math.inf, 0.0  # for its steps
        self.tolerance = TOLERANCES[backend.dtype_name] if tolerance is None else tolerance
        # A library under test takes every step itself, also one that has the name of a backend.
        step = "portable" if isinstance(backend, ModuleBackend) else config.step
        settings: Any = {"seed": config.seed, "step": step}
        parts = (model, config.loss, config.optimizer, config.clip)
        self._engine_on = lambda backend: Engine(backend, *parts, **settings)
        self._checked_on = partial(
            CheckedStep, model=model, loss=config.loss, tolerance=self.tolerance, check=check
        )
        self._before: TrainState | None = None  # the state that the step under way began with
        self._begin(backend)
        self.compiled = self.engine.step.kind != "portable"  # and rounds in another order
        described = backend.describe()
        described["compiled"] = "yes" if self.compiled else "no"
        self.result = Result(backend.name, None, described, self.tolerance)

    def _begin(self, backend: Backend) -> None:
        self.backend = backend
        with self._around():
            self.engine = self._engine_on(backend)
        self.checked = self._checked_on(backend)

    def _around(self) -> AbstractContextManager[None]:
        """What training runs in: a library that has raised goes on with NumPy in its stead."""
        if self.stands_in and isinstance(self.backend, AroundBackend):
            return self.backend.standing_in()
        return nullcontext()

    @property
    def _lazy(self) -> bool:
        return isinstance(self.backend, ModuleBackend) and self.backend.lazy

    def step(self, moment: Moment) -> dict[Key, np.ndarray]:
        """Take one step, an operation at a time and then as training does; return its tensors."""
        engine, checked, dtype = self.engine, self.checked, self.backend.dtype_name
        with self._around():
            self._before = before = engine.host_state()  # the step consumes the state
            state = engine.state
            params = engine.params_layout.split(state.params)
            tensors = merge(params, engine.stats_layout.split(state.stats))
            batch = Batch(self.backend.asarray(moment.x, dtype), self.backend.asarray(moment.y))
        checked.take(tensors, batch, moment.inputs.keys)
        with self._around():
            cost = np.asarray(self.backend.to_host(engine.train(batch, moment.inputs)))
            state = engine.host_state()
            if self._lazy:
                engine.set_state(state)  # or each step would compute all that came before
        after = _named(engine, state)
        if checked.check:
            self._check_update(moment, before, after | {"C": cost})
        return {**checked.tensors, **{("update", name): value for name, value in after.items()}}

    def compare(self, moment: Moment, expected: dict[Key, np.ndarray]) -> None:
        """Take the step and note faults, the first difference and the growth.

        Only a library under test goes on after a step with a fault.
        """
        if self.stopped or self.result.steps is not None:
            return
        if self.spent > self.seconds:
            self.result.steps = len(self.result.growth)
            return
        began = time.monotonic()
        self._compare(moment, expected)
        self.spent += time.monotonic() - began

    def _compare(self, moment: Moment, expected: dict[Key, np.ndarray]) -> None:
        number = moment.inputs.step + 1
        try:
            actual, faults = self.step(moment), self.checked.faults
        except Exception as error:  # a library under test may raise anything
            actual, faults = self._again(
                moment, [*self.checked.faults, failed("train step", error)]
            )
        self._note(faults, number)
        differences = self._differences(actual, expected)
        self.result.growth.append(_growth(number, differences))
        first = next((k for k, d in differences.items() if d.error > self.tolerance), None)
        if first is not None and self.result.first_difference is None:
            self.result.first_difference = FirstDifference(number, *first, differences[first])

    def _again(
        self, moment: Moment, faults: list[Fault]
    ) -> tuple[dict[Key, np.ndarray], list[Fault]]:
        """Take a step that has raised once more, around what raised; return it and all faults."""
        if self.stands_in or self._before is None or not isinstance(self.backend, ModuleBackend):
            self.stopped = True
            return {}, faults
        self.stands_in, before = True, self._before
        try:
            backend = AroundBackend.of(self.backend)
            called = self.result.operations or check_operations(backend.tested, self.seconds)
            backend.leave_out(called)
            self._begin(backend)
            with self._around():
                self.engine.set_state(before)
            return self.step(moment), [*faults, *self.checked.faults]
        except Exception as error:  # a library under test may raise anything
            self.stopped = True
            return {}, [*faults, failed("train step", error)]

    def _note(self, faults: list[Fault], number: int) -> None:
        """Keep the first fault at each tensor, and what NumPy computed in the library's stead."""
        found = self.result.faults
        known = {_key(fault) for fault in found}
        if isinstance(self.backend, AroundBackend):
            self.result.stood_in = sorted(self.backend.stood_in)
            told = {fault.what for fault in (*found, *faults)}
            new = {k: v for k, v in self.backend.stood_in.items() if v not in told}
            faults = [*faults, *(Fault("training", name, what) for name, what in new.items())]
        for fault in faults:
            if _key(fault) not in known:
                found.append(fault)
                known.add(_key(fault))
        if found and self.result.fault_step is None:
            self.result.fault_step = number
        self.stopped |= bool(found) and not isinstance(self.backend, ModuleBackend)

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
        self, moment: Moment, before: TrainState, after: dict[str, np.ndarray]
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
            # Whole it may round otherwise than an operation at a time.
            rounds = self.compiled or self.stands_in or self._lazy
            if fault and not (rounds and self._near(update, host, tensor, value, expected)):
                checked.faults.append(fault)

    def _near(
        self,
        update: Callable[..., Results],
        host: tuple[Any, ...],
        tensor: str,
        actual: np.ndarray,
        expected: dict[str, np.ndarray],
    ) -> bool:
        """Whether a step that is compiled, lazy or partly NumPy's agrees as a whole.

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


def _key(fault: Fault) -> tuple[str, ...]:
    # The numbers of one that is off are others in each step.
    return (fault.layer, fault.tensor, "" if fault.difference else fault.what)


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


def failed(tensor: str, error: BaseException) -> Fault:
    """Return the fault of a library that raises where training as a whole runs."""
    return Fault("update" if tensor == "train step" else "engine", tensor, said(error))


def _wide(x: Any) -> np.ndarray:
    return np.array(x, dtype=np.float64)
