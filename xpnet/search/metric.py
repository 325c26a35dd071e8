"""What the trials of a sweep are compared by."""

from collections.abc import Iterable
from dataclasses import dataclass

from xpnet.errors import ConfigError
from xpnet.run.config import Config
from xpnet.search.space import Parameter
from xpnet.settings import did_you_mean
from xpnet.training.callbacks import EpochMetrics

__all__ = ["Metric", "changes_loss", "choose_metric"]

LOWER = ("loss", "mse", "mae")  # is better


@dataclass(frozen=True)
class Metric:
    """What trials are compared by: a score of the validation part, ``name`` as in its report."""

    name: str

    @property
    def maximize(self) -> bool:
        """Whether more of it is better."""
        return self.name not in LOWER

    @property
    def title(self) -> str:
        """Its name where it is shown."""
        return f"val_{self.name}"

    def better(self, a: float, b: float) -> bool:
        """Return whether ``a`` is better than ``b``."""
        return a > b if self.maximize else a < b

    def watched(self, record: EpochMetrics) -> float:
        """Return what tells during the training how good it will be: the like of the score.

        That is the score itself where epochs have it; else the accuracy, or the loss with the sign
        of the score.
        """
        if self.title in record:
            return float(record[self.title])
        if self.maximize and "val_accuracy" in record:
            return float(record["val_accuracy"])
        return float(record["val_loss"]) * (-1 if self.maximize else 1)

    def comparable(self, config: Config, space: Iterable[Parameter]) -> bool:
        """Return whether the epochs of different trials can be compared, as pruning does.

        The losses of trials that differ in the loss cannot.
        """
        by_epoch = self.name if self.name in ("loss", "accuracy") else None
        if by_epoch is None:
            by_epoch = "loss" if config.loss.predicts == "value" else "accuracy"
        return by_epoch == "accuracy" or not changes_loss(space)


def changes_loss(space: Iterable[Parameter]) -> list[str]:
    """Return the settings by which the loss of one trial is another than that of the next."""
    return [
        p.key for p in space if p.key.partition(".")[0] == "loss" or p.key == "data.target_scaling"
    ]


def choose_metric(monitor: str, config: Config, space: list[Parameter]) -> Metric:
    """What trials are compared by; raises ConfigError for what they cannot be compared by."""
    name = monitor.removeprefix("val_")
    values = config.loss.predicts == "value"
    changed = changes_loss(space)
    if name == "auto":
        other = "r2" if values else "accuracy"
        return Metric(other if changed else config.early_stopping.monitor)
    known = ["loss", "accuracy", "macro_f1"]
    if values:
        known = ["loss", "r2", "mse", "mae"]
    elif config.data.task == "multilabel":
        known += ["exact"]
    else:
        known += ["macro_precision", "macro_recall"]
    if name not in known:
        msg = f"sweep.monitor: no {monitor!r} of a {config.data.task}; {did_you_mean(name, known)}"
        raise ConfigError(msg)
    if name == "loss" and changed:
        msg = f"sweep.monitor: the losses of trials with another {changed[0]} cannot be compared; "
        msg += f"monitor {known[1]!r}, or leave {changed[0]} out of the space"
        raise ConfigError(msg)
    return Metric(name)
