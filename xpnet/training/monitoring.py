"""What of the epochs a callback or a schedule watches: their loss, accuracy, or a metric."""

import math
from collections.abc import Iterable

from xpnet.errors import ConfigError
from xpnet.optim.schedules import MODES, Mode
from xpnet.training.callbacks import Callback, EpochMetrics

__all__ = ["Monitoring", "best_epoch", "check_monitor", "check_monitored", "seen", "watched"]


def seen(record: EpochMetrics, what: str) -> float | None:
    """Return the value of that name, of the validation if there is one; None without it."""
    return record.get(f"val_{what}", record.get(what))


def watched(record: EpochMetrics, what: str) -> float:
    """Return :func:`seen`'s value; raises ConfigError where the epochs have none."""
    value = seen(record, what)
    if value is None:
        msg = f"there is no {what!r} to monitor; use 'loss', or 'accuracy' for a classification, "
        msg += "or a metric of your own: fit(..., metrics={name: function})"
        raise ConfigError(msg)
    return value


def best_epoch(history: Iterable[EpochMetrics], monitor: str = "loss") -> EpochMetrics | None:
    """Return the record of the first of the best epochs, whose checkpoint a run keeps as the best.

    None without a validation, where no checkpoint is the best, and where no value is a number.

    >>> best_epoch([{"epoch": 1, "val_loss": 0.2}, {"epoch": 2, "val_loss": 0.3}])["epoch"]
    1
    """
    having = [r for r in history if isinstance(r.get(f"val_{monitor}"), int | float)]
    most = MODES.get(monitor) == "max"
    values = [-r[f"val_{monitor}"] if most else r[f"val_{monitor}"] for r in having]
    best = min((v for v in values if v < math.inf), default=None)  # NaN is not
    return None if best is None else having[values.index(best)]


def check_monitor(what: str, mode: Mode | None) -> None:
    """Raise ConfigError for a mode that is not that of the value, or one's own metric without."""
    if isinstance(what, str) and what.startswith("val_"):
        msg = f"monitor {what!r} is written {what.removeprefix('val_')!r}: it is that of the "
        msg += "validation where there is one"
        raise ConfigError(msg)
    if mode not in (None, "min", "max"):
        msg = f"mode must be 'min' or 'max'; got {mode!r}"
        raise ConfigError(msg)
    if what in MODES and mode not in (None, MODES[what]):
        msg = f"{what} needs mode {MODES[what]!r}; got {mode!r}"
        raise ConfigError(msg)
    if what not in MODES and mode is None:
        msg = f"monitor must be 'loss' or 'accuracy', or a metric of your own; got {what!r}, which "
        msg += "needs a mode: 'max' where more is better, else 'min'"
        raise ConfigError(msg)


class Monitoring(Callback):
    """Base of the callbacks that watch a value of the epochs.

    ``monitor`` is "loss" or "accuracy", of the validation where there is one, or a metric of one's
    own, with ``mode`` "max" where more of it is better, else "min". Raises ConfigError.
    """

    def __init__(self, monitor: str, mode: Mode | None) -> None:
        check_monitor(monitor, mode)
        self.monitor, self.mode = monitor, mode

    def monitored(self, record: EpochMetrics) -> float:
        """Return the value of an epoch so that lower is better."""
        value = watched(record, self.monitor)
        return -value if MODES.get(self.monitor, self.mode) == "max" else value


def check_monitored(callbacks: Iterable[Callback], known: Iterable[str]) -> None:
    """Raise ConfigError for a callback that monitors what the epochs will not have."""
    having: EpochMetrics = dict.fromkeys(known, 0.0)
    for callback in callbacks:
        if isinstance(callback, Monitoring):
            watched(having, callback.monitor)
