"""Update rules, groups of parameters, learning-rate schedules and gradient clipping."""

from xpnet.optim import schedules

__all__ = ["schedules"]
