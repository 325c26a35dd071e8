"""Mixed precision: layers in float16 or bfloat16, weights, loss and update in float32.

    Micikevicius et al., "Mixed precision training", ICLR 2018.

float16 reaches down to 6e-8 only, and gradients are often smaller. The loss, and by the chain rule
every gradient, is therefore multiplied by a scale S before backward, and the gradient divided by it
after. S is found while training: a step whose gradient overflows is left out and halves S, and
after ``growth`` good steps in a row S doubles. bfloat16 has float32's range, and S stays 1.

A step that is left out was not taken: the bias corrections of the rule do not count it, as of
PyTorch's GradScaler, which does not call the optimizer then. (The schedule does, as does a
scheduler there that is called after every batch: its length is known beforehand.) How many were
left out only the device knows, and nobody waits for it. So a step is given :data:`CANDIDATES`,
which are the coefficients for as many as there may be since the host last looked, and it takes its
own.
"""

import functools
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from array_api_compat import array_namespace, device

from xpnet.elementwise import clip
from xpnet.nn.losses import quotient
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Optimizer
from xpnet.settings import Checked, PositiveFloat, PositiveInt
from xpnet.step import Batch, BatchGradient, StepInputs, TrainState, add
from xpnet.typing import Array

__all__ = [
    "CANDIDATES",
    "Mixed",
    "Narrow",
    "candidates",
    "first_scale",
    "first_skipped",
    "make_mixed_step",
]

Narrow = Literal["float16", "bfloat16"]

CANDIDATES = 8  # numbers of skipped steps that a step is prepared for


@dataclass(frozen=True)
class Mixed(Checked):
    """The narrow dtype, and how the loss scale of float16 begins and grows."""

    BARE: ClassVar[str] = "dtype"  # mixed = "float16" is mixed.dtype = "float16"

    dtype: Narrow = "bfloat16"
    initial_scale: PositiveFloat = 2.0**16
    growth: PositiveInt = 2000  # good steps in a row before the scale doubles

    @property
    def scales(self) -> bool:
        """Whether this dtype needs a loss scale."""
        return self.dtype == "float16"


def first_scale(mixed: Mixed, like: Array) -> Array:
    """Return the loss scale before the first step, and the 0 good steps behind it: (2,)."""
    xp = array_namespace(like)
    scale = mixed.initial_scale if mixed.scales else 1.0
    return xp.asarray([scale, 0.0], dtype=like.dtype, device=device(like))


def first_skipped(mixed: Mixed, like: Array) -> Array | None:
    """Return the number of skipped steps before the first one, if there is a loss scale."""
    xp = array_namespace(like)
    return xp.zeros((), dtype=xp.int32, device=device(like)) if mixed.scales else None


def candidates(optimizer: Optimizer, lr: float, t: int, skipped: int, unseen: int) -> Any:
    """Return the coefficients of step t for each number of steps that may have been skipped.

    These are ``skipped`` and up to ``unseen`` more, fewer than CANDIDATES: a flat named tuple of
    ``skipped`` and of the coefficients, which the step finds by its own count.
    """
    rows = [optimizer.coefficients(lr, max(t - skipped - i, 1)) for i in range(unseen + 1)]
    rows += rows[-1:] * (CANDIDATES - len(rows))
    return _candidates(rows[0]._fields)(float(skipped), *(x for row in rows for x in row))


@functools.cache
def _candidates(fields: tuple[str, ...]) -> Any:
    """The class of the candidates: one class, for a compiler of steps."""
    names = [f"{name}_{i}" for i in range(CANDIDATES) for name in fields]
    return namedtuple("Candidates", ["skipped", *names])


def _chosen(c: Any, kind: Any, skipped: Array | None, like: Array) -> Any:
    """The coefficients for this number of skipped steps, each 0-d, if ``c`` are candidates."""
    count = len(kind._fields)
    if skipped is None or len(c) == count:
        return c
    xp = array_namespace(like)
    if isinstance(c[0], float):
        numbers = xp.asarray(list(c), dtype=like.dtype, device=device(like))
    else:  # a compiler's
        numbers = xp.stack([xp.astype(x, like.dtype) for x in c])
    more = xp.astype(skipped, like.dtype) - numbers[0]
    row = xp.astype(clip(more, 0.0, CANDIDATES - 1.0), xp.int32)
    table = xp.reshape(numbers[1:], (CANDIDATES, count))
    chosen = xp.take(table, xp.reshape(row, (1,)), axis=0)
    return kind(*(chosen[0, i] for i in range(count)))


def make_mixed_step(
    gradient: Callable[..., BatchGradient],
    optimizer: Optimizer,
    clip: Clip,
    mixed: Mixed,
    narrow: Any,
    jit: Callable[[Callable], Callable] = lambda update: update,
) -> Callable[[TrainState, Batch, StepInputs], tuple[TrainState, Array]]:
    """Return the train step that computes ``gradient`` in the dtype ``narrow`` of the library.

    ``jit`` as of :func:`xpnet.step.make_train_step`.
    """

    kind = type(optimizer.coefficients(optimizer.lr, 1))

    def train_step(state: TrainState, batch: Batch, inputs: StepInputs) -> tuple[TrainState, Array]:
        assert state.scale is not None
        # Statistics are only tracked here, not computed with: they stay wide.
        narrowed = array_namespace(state.params).astype(state.params, narrow)
        g = gradient(narrowed, state.stats, batch, inputs.keys, state.scale[0], **inputs.shared)
        return update(state, g, inputs)

    @jit
    def update(state: TrainState, g: BatchGradient, inputs: StepInputs) -> tuple[TrainState, Array]:
        assert state.scale is not None
        xp = array_namespace(state.params)
        grad = xp.astype(g.gradient, state.params.dtype) / state.scale[0]
        stats, totals = g.stats, add(state.totals, g, inputs.step)
        cost = quotient(g.loss, g.denominator)
        if not mixed.scales:
            params, slots = optimizer.update(
                state.params, clip.apply(grad), state.slots, inputs.coefficients
            )
            return state._replace(params=params, stats=stats, slots=slots, totals=totals), cost
        good = xp.all(xp.isfinite(grad))
        # An optimizer consumes its state, and this one may be needed again: without a look from
        # the host, both outcomes are computed and one is chosen.
        copies = [xp.asarray(a, copy=True) for a in (state.params, *state.slots)]
        c = _chosen(inputs.coefficients, kind, state.skipped, state.params)
        params, slots = optimizer.update(copies[0], clip.apply(grad), tuple(copies[1:]), c)
        skipped = state.skipped
        if skipped is not None:
            skipped = skipped + xp.astype(~good, xp.int32)
        kept = TrainState(
            xp.where(good, params, state.params),
            xp.where(good, stats, state.stats),
            tuple(xp.where(good, a, b) for a, b in zip(slots, state.slots, strict=True)),
            totals,
            _next_scale(state.scale, good, mixed),
            skipped,
        )
        return kept, cost

    return train_step


def _next_scale(scale: Array, good: Array, mixed: Mixed) -> Array:
    xp = array_namespace(scale)
    grown = scale[1] + 1.0 >= float(mixed.growth)
    value = xp.where(good, xp.where(grown, 2.0 * scale[0], scale[0]), 0.5 * scale[0])
    steps = xp.where(good & ~grown, scale[1] + 1.0, 0.0)
    return xp.stack([value, steps])
