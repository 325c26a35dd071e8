"""The numbers of a step, which the host computes, as functions of its number within a graph.

A rule's coefficients at update t are affine in the learning rate, c(η, t) = a(t) + η b(t). So two
tables hold those of any rule, also of one's own, up to where the numbers no longer change. The
learning rate is a table as well, or an input of the graph. Nothing of a rule is written twice.
"""

from typing import NamedTuple

import numpy as np

from xpnet.errors import ConfigError
from xpnet.optim.optimizers import Optimizer
from xpnet.optim.schedules import Constant, Plateau, Schedule

__all__ = ["Column", "Table", "learning_rates", "tables"]

LONGEST = 1_000_000  # updates in a table


class Column(NamedTuple):
    """One coefficient at t = 1, 2, ...: a number each, and what it has of the learning rate."""

    fixed: np.ndarray  # (T,) or (1,) where it never changes
    per_lr: np.ndarray


class Table(NamedTuple):
    """The coefficients of a rule; ``ends`` is the last update that they are known for, if any."""

    kind: type
    columns: tuple[Column, ...]
    ends: int | None


def tables(optimizer: Optimizer, dtype: str, last: int) -> Table:
    """Return the coefficients of all updates, in ``dtype``.

    They go on beyond ``last`` where they no longer change by then; else they end there. Raises
    ConfigError for a rule whose coefficients are no affine function of the learning rate.
    """
    kind, at = type(optimizer.coefficients(optimizer.lr, 1)), optimizer.coefficients
    _check_affine(optimizer)
    steps = min(max(last, _settled(optimizer, dtype)), LONGEST)
    at_0 = np.array([at(0.0, t) for t in range(1, steps + 1)], np.float64).reshape(steps, -1)
    at_1 = np.array([at(1.0, t) for t in range(1, steps + 1)], np.float64).reshape(steps, -1)
    fixed, per_lr = at_0.astype(dtype), (at_1 - at_0).astype(dtype)
    cut = max(_length(fixed), _length(per_lr))
    settles = _same(optimizer, dtype, steps)
    columns = [
        Column(_shortened(fixed[:cut, i]), _shortened(per_lr[:cut, i]))
        for i in range(fixed.shape[1])
    ]
    return Table(kind, tuple(columns), None if settles else steps)


def learning_rates(schedule: Schedule, base_lr: float, steps: int, per_epoch: int) -> np.ndarray:
    """Return the learning rate of every step (steps,), or (1,) where it is constant, in float64.

    Raises ConfigError for a schedule that follows the validation, and for one too long.
    """
    if isinstance(schedule, Constant):
        return np.array([base_lr])
    if isinstance(schedule, Plateau) or type(schedule).observe is not Schedule.observe:
        msg = f"{schedule!r} follows the metrics of the epochs, which no step has: make the "
        msg += "learning rate an input"
        raise ConfigError(msg, python='learning_rate="input"', command="add --lr-input")
    if steps > LONGEST:
        msg = f"the schedule has {steps:,} steps, and a table at most {LONGEST:,}: make the "
        msg += "learning rate an input"
        raise ConfigError(msg, python='learning_rate="input"', command="add --lr-input")
    state = schedule.init()
    return np.array([schedule.lr(state, base_lr, t, steps, per_epoch) for t in range(steps)])


def _check_affine(optimizer: Optimizer) -> None:
    for t in (1, 2, 1000):
        a, b, c, d = (np.array(optimizer.coefficients(lr, t), np.float64) for lr in (0, 1, 0.5, 2))
        if not (np.allclose(c, (a + b) / 2, rtol=1e-12) and np.allclose(d, 2 * b - a, rtol=1e-12)):
            msg = f"the coefficients of {type(optimizer).__name__} are no affine function of the "
            msg += "learning rate, which an exported step needs"
            raise ConfigError(msg)


def _settled(optimizer: Optimizer, dtype: str) -> int:
    """The power of two from which on the coefficients stay, or 1 where they never do."""
    t = 1
    while t <= LONGEST:
        if _same(optimizer, dtype, t):
            return t
        t *= 2
    return 1


def _same(optimizer: Optimizer, dtype: str, t: int) -> bool:
    later = (t, t + 1, 2 * t + 1, 8 * t + 3, 64 * t + 7, 2**40)
    for lr in (0.0, 1.0):
        rows = [np.array(optimizer.coefficients(lr, n), np.float64).astype(dtype) for n in later]
        if any((row != rows[0]).any() for row in rows[1:]):
            return False
    return True


def _length(rows: np.ndarray) -> int:
    """How many rows there are up to the last that differs from the one before."""
    changes = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1))
    return int(changes[-1]) + 2 if len(changes) else 1


def _shortened(column: np.ndarray) -> np.ndarray:
    return column[:1] if (column == column[0]).all() else column
