"""Is the gradient the derivative of the cost? Ours against finite differences and autodiff.

    report = gradcheck(Sequential([Dense(8), ReLU(), Dense(3)]), SoftmaxCrossEntropy(), x, y)
    print(report.ok, report.faults)

The backward pass that training runs is compared, entry by entry in float64, with central
differences of the cost and, where they are installed, with what PyTorch and JAX make of the same
forward pass. If something differs, every layer and the loss is held to its own forward, which
names the one at fault: an error in a layer spoils the gradients of all the layers before it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xpnet.check.autodiff import AUTODIFF
from xpnet.errors import BackendError, ConfigError
from xpnet.nn import Params, Sequential
from xpnet.nn.layout import Layout, initialize, layouts, merge
from xpnet.nn.losses import Loss, SoftmaxCrossEntropy, quotient
from xpnet.random import generator
from xpnet.step import Batch, dropout_keys, gradients
from xpnet.step.trace import Operation, Recorder, trace
from xpnet.training.trainer import Trainer
from xpnet.typing import Array

__all__ = ["DIFFERENCES", "Check", "Report", "Worst", "gradcheck"]

DIFFERENCES = "differences"  # the oracle that is always there
STEPS = (1e-3, 3e-4, 1e-4, 3e-5)  # tried in turn until no kink lies within

Tensors = dict[str, np.ndarray]
Index = tuple[int, ...]


class Worst(NamedTuple):
    """Where a tensor differs most from an oracle."""

    error: float  # relative; see `_worst`
    place: Index
    ours: float
    theirs: float


@dataclass(frozen=True)
class Check:
    """One tensor's gradient beside the oracles'."""

    tensor: str  # such as "0.dense.W", or "x" for the input
    shape: Index
    checked: int  # entries compared
    kinks: int  # entries left out, because the cost has no derivative there
    worst: Mapping[str, Worst]  # by oracle; empty where every entry was left out

    @property
    def error(self) -> float:
        """The largest relative error; a NaN counts as infinite."""
        return max((w.error for w in self.worst.values()), default=0.0)


@dataclass(frozen=True)
class Report:
    """What was compared, and what is wrong."""

    checks: tuple[Check, ...]
    faults: tuple[str, ...]  # a sentence for each wrong layer
    not_run: Mapping[str, str]  # oracle -> why
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every gradient agrees with every oracle, and something was compared."""
        return not self.faults and all(c.error <= self.tolerance for c in self.checks)


class Problem(NamedTuple):
    """A cost, the tensors it depends on, and the gradient that is claimed for it."""

    cost: Callable[[Tensors], float]
    tensors: Tensors  # float64 on the host
    gradient: Tensors


def gradcheck(
    model: Sequential | Trainer,
    loss: Loss | None = None,
    x: Any = None,
    y: Any = None,
    weight: Any = None,
    *,
    samples: int = 100,
    seed: int = 0,
    tolerance: float = 1e-6,
    oracles: Iterable[str] = tuple(AUTODIFF),
) -> Report:
    """Compare the gradients of ``loss`` over the batch (x, y, weight), x (N, ...), in training.

    ``samples`` entries of each tensor are drawn by ``seed``; 0 takes all of them. The weights are
    the first ones of ``seed``; those of a Trainer are its own, as is its loss unless one is given.
    Raises DataError and ConfigError as training does.

    >>> from xpnet.nn import Dense, Tanh
    >>> x, y = np.array([[0.5, -1.0], [2.0, 1.0]]), np.array([0, 2])
    >>> gradcheck(Sequential([Dense(4), Tanh(), Dense(3)]), x=x, y=y, oracles=[]).ok
    True
    """
    if x is None or y is None:
        msg = "gradcheck needs a batch: give x (N, ...) and y"
        raise ConfigError(msg)
    x = np.array(x, dtype=np.float64)
    trainer, model = (model, model.model) if isinstance(model, Trainer) else (None, model)
    loss = loss or (SoftmaxCrossEntropy() if trainer is None else trainer.loss)
    model = model.build(x.shape[1:])
    batch = Batch(x, np.asarray(y), None if weight is None else np.array(weight, np.float64))
    trained, stats = _weights(model, seed) if trainer is None else _trained(model, trainer)
    step = _Step(model, loss, batch, stats, dropout_keys(seed, 0, model.n_random))
    problem = step.problem(trained)
    places = {
        name: _sample(t, samples, generator(seed, "sample", 1, i))
        for i, (name, t) in enumerate(problem.tensors.items())
    }
    claims, not_run = {}, {}
    for oracle in oracles:
        try:
            claims[oracle] = AUTODIFF[oracle](step.cost, problem.tensors)
        except BackendError as error:
            not_run[oracle] = str(error)
    checks = tuple(_check(problem, name, places[name], claims) for name in places)
    faults: list[str] = []
    if any(c.error > tolerance for c in checks):
        faults = step.blame(trained, samples, seed, tolerance)
        faults = faults or [
            "every layer agrees with its own forward; the chain between them is off"
        ]
    return Report(checks, tuple(faults), not_run, tolerance)


class _Step:
    """The cost of a model on one batch, for arrays of any library."""

    def __init__(self, model: Sequential, loss: Loss, batch: Batch, stats: Array, keys: Any):
        self.model, self.loss, self.batch, self.keys = model, loss, batch, keys
        self.layout, stats_layout = layouts(model)
        self.stats = stats_layout.split(stats)

    def cost(self, tensors: Mapping[str, Array], place: Callable[[np.ndarray], Array]) -> Array:
        params: list[dict[str, Array]] = [
            {k: place(v) for k, v in stats.items()} for stats in self.stats
        ]
        for e in self.layout.entries:
            params[e.layer][e.variable] = tensors[e.name]
        output, _ = self.model.forward(params, tensors["x"], train=True, keys=self.keys)
        weight = self.batch.weight
        sums = self.loss.sums(
            output, place(self.batch.y), None if weight is None else place(weight)
        )
        return quotient(sums.loss, sums.denominator)

    def problem(self, trained: Array) -> Problem:
        """The whole step, with the gradients that training computes and dC/dx besides."""
        params = merge(self.layout.split(trained), self.stats)
        *_, grads = gradients(self.model, self.loss, params, self.batch, keys=self.keys)
        dx: Array
        *_, dx, _ = gradients(
            self.model, self.loss, params, self.batch, keys=self.keys, input_gradient=True
        )
        gradient = _named(self.layout, grads) | {"x": dx}
        tensors = {k: np.array(v) for k, v in self.layout.named(trained).items()}
        tensors["x"] = self.batch.x.copy()
        return Problem(lambda t: float(self.cost(t, np.asarray)), tensors, gradient)

    def blame(self, trained: Array, samples: int, seed: int, tolerance: float) -> list[str]:
        """Name the layers whose backward is not the adjoint of their own forward, and the loss."""
        params = merge(self.layout.split(trained), self.stats)
        recorder, problems = Recorder(), dict[str, Problem]()
        options: Any = {"input_gradient": True, "do": recorder}
        for place, name, array in trace(
            self.model, self.loss, params, self.batch, self.keys, **options
        ):
            if name == "doutput":
                problems[str(place)] = self._loss_problem(recorder.calls[-1].operands[0], array)
            if place.layer is None or place.phase != "backward" or name != "dx":
                continue
            forward, (p, residuals, dy) = recorder.of("forward"), recorder.calls[-1].operands
            layer, x = self.model.layers[place.layer], forward[place.layer].operands[1]
            if array.shape != x.shape:
                return [
                    *_faults(problems, samples, seed, tolerance),
                    _shape(str(place), array, x),
                ]
            needed = place.layer != self.model.first_trained  # training asks the first for no dx
            grads = layer.backward(p, residuals, dy, input_gradient=needed)[1]
            operation = forward[place.layer].operation
            problems[str(place)] = _adjoint(operation, p, x, dy, {"x": array, **grads})
        return _faults(problems, samples, seed, tolerance)

    def _loss_problem(self, output: Array, doutput: Array) -> Problem:
        def cost(t: Tensors) -> float:
            again = self.loss.sums(t["output"], self.batch.y, self.batch.weight)
            return float(quotient(again.loss, again.denominator))

        return Problem(cost, {"output": np.array(output)}, {"output": doutput})


def _adjoint(forward: Operation, params: Params, x: Array, dy: Array, claimed: Tensors) -> Problem:
    """The layer alone: its gradients are those of <dy, forward(x)>."""

    def cost(t: Tensors) -> float:
        return float(np.sum(dy * forward(t, t["x"])[0]["output"]))

    tensors = {"x": np.array(x), **{k: np.array(v) for k, v in params.items()}}
    return Problem(cost, tensors, claimed)


def _faults(problems: dict[str, Problem], samples: int, seed: int, tolerance: float) -> list[str]:
    faults = []
    for number, (place, problem) in enumerate(problems.items()):
        for i, (name, claimed) in enumerate(problem.gradient.items()):
            if claimed.shape != problem.tensors[name].shape:
                faults.append(_shape(f"{place}, d{name}", claimed, problem.tensors[name]))
                continue
            rng = generator(seed, "sample", 2, number, i)
            check = _check(problem, name, _sample(claimed, samples, rng), {})
            if check.error > tolerance:
                worst = check.worst[DIFFERENCES]
                faults.append(
                    f"{place}: d{name}{list(worst.place)} is {worst.ours:.6g}, but the differences "
                    f"of its own forward give {worst.theirs:.6g}"
                )
    return faults


def _shape(place: str, actual: Array, expected: Array) -> str:
    return f"{place}: the gradient has shape {tuple(actual.shape)}, not {tuple(expected.shape)}"


def _check(
    problem: Problem, name: str, places: list[Index], claims: Mapping[str, Tensors]
) -> Check:
    ours = problem.gradient[name]
    shape = problem.tensors[name].shape
    if ours.shape != shape:
        misshapen = Worst(float("inf"), (), float("nan"), float("nan"))
        return Check(name, shape, len(places), 0, {DIFFERENCES: misshapen})
    numbers, smooth, base = _differences(problem, name, places)
    kept = [place for place, good in zip(places, smooth, strict=True) if good]
    theirs = {DIFFERENCES: numbers[smooth]}
    theirs |= {oracle: np.array([t[name][p] for p in kept]) for oracle, t in claims.items()}
    mine = np.array([ours[p] for p in kept])
    worst = {k: _worst(mine, v, kept, base) for k, v in theirs.items()} if kept else {}
    return Check(name, shape, len(kept), len(places) - len(kept), worst)


def _worst(ours: np.ndarray, theirs: np.ndarray, places: list[Index], base: float) -> Worst:
    """The largest |ours - theirs| relative to the larger of the two.

    An entry far below its tensor's largest, or below what rounding leaves of a difference of
    costs of the size of ``base``, is held to that instead.
    """
    sizes = np.maximum(np.abs(ours), np.abs(theirs))
    floor = max(1e-3 * float(sizes.max()), 1e-4 * max(1.0, abs(base)))
    errors = np.abs(ours - theirs) / np.maximum(sizes, floor)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    at = int(errors.argmax())
    return Worst(float(errors[at]), places[at], float(ours[at]), float(theirs[at]))


def _differences(
    problem: Problem, name: str, places: list[Index]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return dC/dt at each place, whether C has a derivative there, and C.

    Central differences at h and h/2, extrapolated to h = 0, are right to O(h⁴). Where a kink lies
    within h, those two part, or the one-sided ones, extrapolated to h = 0, do: then a smaller h
    is tried, and if even the smallest does not help, the kink is at the place itself.
    """
    tensors = {k: t.copy() for k, t in problem.tensors.items()}
    t, base = tensors[name], problem.cost(tensors)
    numbers, smooth = np.empty(len(places)), np.zeros(len(places), dtype=bool)
    for i, place in enumerate(places):
        at = t[place]
        for h in STEPS:
            costs = []
            for moved in (at + h, at - h, at + h / 2, at - h / 2):
                t[place] = moved
                costs.append(problem.cost(tensors))
            up, down, up2, down2 = costs
            wide, narrow = (up - down) / (2 * h), (up2 - down2) / h
            numbers[i] = (4 * narrow - wide) / 3
            bend = (up - 2 * base + down) / h  # the right difference less the left one
            bend2 = (up2 - 2 * base + down2) / (h / 2)
            rounding = max(1e-10, 1e-14 / h) * max(1.0, abs(base))
            if abs(2 * bend2 - bend) + abs(wide - narrow) <= 1e-7 * abs(narrow) + rounding:
                smooth[i] = True
                break
        t[place] = at
    return numbers, smooth, base


def _sample(t: np.ndarray, samples: int, rng: np.random.Generator) -> list[Index]:
    """Draw entries without repetition: all of them for ``samples`` 0."""
    count = samples if 0 < samples < t.size else t.size
    chosen = np.sort(rng.choice(t.size, size=count, replace=False))
    return [tuple(int(k) for k in np.unravel_index(n, t.shape)) for n in chosen]


def _weights(model: Sequential, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The first weights; where all of a tensor are equal (b, γ, β), moved a little.

    A factor γ that is missing does not show where γ is 1.
    """
    flats = initialize(model, seed)
    rng = generator(seed, "sample", 3)
    for layout, flat in zip(layouts(model), flats, strict=True):
        for e in layout.entries:
            part = flat[e.start : e.stop]
            if (part == part[0]).all():
                part += 0.1 * rng.uniform(-1.0, 1.0, size=part.shape)
    return flats


def _trained(model: Sequential, trainer: Trainer) -> tuple[np.ndarray, np.ndarray]:
    """The weights and statistics of a trainer, which its model was built with."""
    like, params = np.zeros(0), trainer.params
    tensors = {name: array.astype(np.float64) for name, array in params.items()}
    flats = [layout.join_named(tensors, like) for layout in layouts(model)]
    return flats[0], flats[1]


def _named(layout: Layout, layers: list[dict[str, Array]]) -> Tensors:
    return {e.name: layers[e.layer][e.variable] for e in layout.entries}
