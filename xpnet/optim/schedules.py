"""Learning rate schedules, computed on the host in Python floats.

A schedule is a pure function of the step, and of a *state*: plain data that a JSON checkpoint can
hold. All but :class:`Plateau` leave it empty. A trainer treats every schedule the same way::

    state = schedule.init()
    for step in range(total_steps):
        lr = schedule.lr(state, base_lr, step, total_steps, steps_per_epoch)
        ...                                          # update number t = step + 1
        if (step + 1) % steps_per_epoch == 0:        # the epoch is over
            state = schedule.observe(state, metric)

Granularity is part of each rule, and PyTorch's default for the rule of that name: Step,
Exponential and Plateau change the rate between epochs; Power, Cosine, CosLog and OneCycle at every
step.
Below, t is the step and e = ⌊t / steps_per_epoch⌋ the epoch, both from 0, T = total_steps, and η
the base rate, which is the optimizer's ``lr``.

>>> [Step(every=2, gamma=0.5).lr({}, 1.0, epoch, 6, 1) for epoch in range(6)]
[1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar, Literal

from xpnet.errors import ConfigError
from xpnet.registry import register
from xpnet.settings import Checked, Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, Range

__all__ = [
    "MODES",
    "SCHEDULES",
    "Constant",
    "CosLog",
    "Cosine",
    "Exponential",
    "Mode",
    "OneCycle",
    "Plateau",
    "Power",
    "Schedule",
    "Step",
]

State = Mapping[str, Any]
Mode = Literal["min", "max"]
MODES: Mapping[str, Mode] = {"loss": "min", "accuracy": "max"}  # what is better of a metric
Decay = Annotated[float, Range(gt=0, le=1)]
AtLeastOne = Annotated[float, Range(ge=1)]


SCHEDULES: dict[str, type["Schedule"]] = {}  # by the names that they are registered by


@dataclass(frozen=True)
class Schedule(Checked, ABC):
    """Base class of the schedules."""

    table: ClassVar[dict[str, type["Schedule"]]] = SCHEDULES
    monitor: ClassVar[Any] = "loss"  # or "accuracy": the metric that `observe` is given

    def init(self) -> State:
        """Return the state before the first epoch."""
        return {}

    def observe(self, state: State, metric: float) -> State:
        """Return the state after an epoch that ended with this value of the monitored metric."""
        return state

    @abstractmethod
    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        """Return the learning rate of ``step`` = 0, 1, ..., total_steps - 1."""


@register("constant")
class Constant(Schedule):
    """η throughout."""

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        return base_lr


@register("step")
class Step(Schedule):
    """η γ^⌊e / every⌋: reduced by the factor γ every ``every`` epochs (PyTorch's StepLR)."""

    _: KW_ONLY
    every: PositiveInt = 10
    gamma: Decay = 0.1

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        return base_lr * self.gamma ** (step // steps_per_epoch // self.every)


@register("exponential")
class Exponential(Schedule):
    """η γ^e: reduced by the factor γ after each epoch (PyTorch's ExponentialLR)."""

    gamma: Decay = 0.95

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        return base_lr * self.gamma ** (step // steps_per_epoch)


@register("power")
class Power(Schedule):
    """η / (t + 1)^power: inverse scaling, by which the sum of the rates has no limit.

    Robbins and Monro, "A stochastic approximation method", Ann. Math. Statist. 22, 1951, for
    1/2 < power <= 1. Scikit-learn's ``learning_rate="invscaling"`` with ``power_t``, counted in
    updates as in its SGDRegressor.
    """

    power: Annotated[float, Range(gt=0)] = 0.5

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        return base_lr / (step + 1) ** self.power


@register("cosine")
class Cosine(Schedule):
    """Half a cosine from η down to ``minimum`` η, after a linear warm-up over ``warmup`` T steps.

        t < w:   η (t + 1) / (w + 1)                                        w = round(warmup T)
        t >= w:  η (minimum + (1 - minimum) (1 + cos(π (t - w) / (T - w))) / 2)

    The warm-up neither wastes a step at rate 0 nor repeats η, which is first reached at t = w.
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
    equation 5, without restarts; PyTorch's CosineAnnealingLR with T_max = T - w. Warm-up: Goyal et
    al., "Accurate, large minibatch SGD", arXiv:1706.02677, section 2.2.
    """

    _: KW_ONLY
    warmup: Fraction = 0.0
    minimum: Fraction = 0.0

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        warm = min(round(self.warmup * total_steps), total_steps - 1)
        if step < warm:
            return base_lr * (step + 1) / (warm + 1)
        return _cosine(base_lr, self.minimum * base_lr, (step - warm) / (total_steps - warm))


@register("coslog")
class CosLog(Schedule):
    """Waves from 0 to η and back, ``cycles`` of them, each twice as long as the one before.

        η (1 - cos(2π log₂(1 + (2^cycles - 1) (t + ½) / T))) / 2

    The short ones come first, and the last takes half of the steps; ½, the middle of a step, keeps
    every rate above 0. Holzmüller, Grinsztajn and Steinwart, "Better by default: strong pre-tuned
    MLPs and boosted trees on tabular data", NeurIPS 2024 (arXiv:2407.04491), section 3: their
    coslog4 has 4 cycles.

    >>> [round(CosLog().lr({}, 1.0, step, 15, 1), 2) for step in range(8)]
    [0.93, 0.72, 0.32, 0.26, 0.98, 0.65, 0.08, 0.07]
    """

    cycles: Annotated[int, Range(ge=1, le=64)] = 4

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        wave = math.log2(1.0 + (2.0**self.cycles - 1.0) * ((step + 0.5) / total_steps))
        return base_lr * (1.0 - math.cos(2.0 * math.pi * wave)) / 2.0


@register("one_cycle")
class OneCycle(Schedule):
    """Up from η / div_factor to η over the first ``pct_start`` of the steps, then down to almost 0.

        from η / div_factor by half a cosine to η at t = pct_start T - 1,
        and by another to η / (div_factor final_div_factor) at t = T - 1

    Smith and Topin, "Super-convergence: very fast training of neural networks using large learning
    rates", arXiv:1708.07120. PyTorch's OneCycleLR with max_lr = η, two phases, and the
    momentum unchanged (``cycle_momentum=False``).
    """

    _: KW_ONLY
    pct_start: Fraction = 0.3
    div_factor: AtLeastOne = 25.0
    final_div_factor: AtLeastOne = 1e4

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        start = base_lr / self.div_factor
        peak = self.pct_start * total_steps - 1.0  # in general between two steps
        if step < peak:
            return _cosine(start, base_lr, step / peak)
        done = (step - peak) / (total_steps - 1.0 - peak)
        return _cosine(base_lr, start / self.final_div_factor, done)


@register("plateau")
class Plateau(Schedule):
    """Reduced by ``factor``, but not below ``min_lr``, when the metric stops improving.

    That is, when it has not improved for more than ``patience`` epochs in a row; the ``cooldown``
    epochs after a reduction do not count. To improve is to fall below best (1 - threshold), or in
    mode "max" to rise above best (1 + threshold); a metric that is not finite never does.
    PyTorch's ReduceLROnPlateau with its relative threshold and eps = 0. State: the number of
    reductions, the best value and the two counters of that rule.

    The metric is ``monitor``, "loss" or "accuracy", of the validation where there is one; the first
    needs mode "min", the second "max", and either setting implies the other. A metric of one's own
    (:meth:`Trainer.fit`) needs its mode.
    """

    _: KW_ONLY
    mode: Mode | None = None
    monitor: str | None = None  # type: ignore[misc] # each has its own
    factor: Annotated[float, Range(gt=0, lt=1)] = 0.1
    patience: NonNegativeInt = 10
    threshold: Fraction = 1e-4
    cooldown: NonNegativeInt = 0
    min_lr: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        monitor = self.monitor or ("accuracy" if self.mode == "max" else "loss")
        mode = MODES.get(monitor, self.mode)
        if self.mode not in (None, mode):
            msg = f"{monitor} needs mode {mode!r}; got {self.mode!r}"
            raise ConfigError(msg)
        if mode is None:
            msg = f"monitor is 'loss', 'accuracy' or a metric of your own; got {monitor!r}, which "
            msg += "needs a mode: 'max' where more is better, else 'min'"
            raise ConfigError(msg)
        object.__setattr__(self, "monitor", monitor)
        object.__setattr__(self, "mode", mode)

    def init(self) -> State:
        return {"reductions": 0, "best": None, "bad_epochs": 0, "cooldown_left": 0}

    def observe(self, state: State, metric: float) -> State:
        reductions, cooldown_left = state["reductions"], state["cooldown_left"]
        better = self._better(metric, state["best"])
        best = float(metric) if better else state["best"]
        bad_epochs = 0 if better or cooldown_left else state["bad_epochs"] + 1
        cooldown_left = max(cooldown_left - 1, 0)
        if bad_epochs > self.patience:
            reductions, bad_epochs, cooldown_left = reductions + 1, 0, self.cooldown
        return {
            "reductions": reductions,
            "best": best,
            "bad_epochs": bad_epochs,
            "cooldown_left": cooldown_left,
        }

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        # A base rate below min_lr is kept as it is.
        return min(base_lr, max(base_lr * self.factor ** state["reductions"], self.min_lr))

    def _better(self, metric: float, best: float | None) -> bool:
        if best is None or not math.isfinite(metric):
            return math.isfinite(metric)
        if self.mode == "min":
            return metric < best * (1.0 - self.threshold)
        return metric > best * (1.0 + self.threshold)


def _cosine(start: float, end: float, done: float) -> float:
    """Half a cosine from ``start`` to ``end``, at the fraction ``done`` of the way."""
    return end + (start - end) * (1.0 + math.cos(math.pi * min(done, 1.0))) / 2.0
