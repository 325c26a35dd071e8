"""Early stopping: the end of a training that gets no better, with its best weights."""

import math
import warnings
from numbers import Integral
from typing import Any

from xpnet.errors import ConfigError, XpnetWarning
from xpnet.optim.schedules import Mode
from xpnet.settings import NonNegativeFloat, PositiveInt, convert
from xpnet.training.callbacks import Callback, EpochMetrics
from xpnet.training.monitoring import Monitoring, seen

__all__ = ["EarlyStopping", "early_stopping"]

PATIENCE = 10  # epochs, where none is given: scikit-learn's n_iter_no_change


class EarlyStopping(Monitoring):
    """Stop once the watched value has not fallen by ``min_delta`` for ``patience`` epochs.

    ``monitor`` is "loss" or "accuracy", of the validation where there is one, or a metric of one's
    own, with ``mode`` "max" where more of it is better, else "min". What it waits for follows from
    the history: a training that was stopped so stays stopped when it is resumed, also with other
    settings if these would have stopped it, and another training begins anew.

    With ``restore_best`` a copy of the weights of the best epoch is kept on the device, and put
    back when the training is over, be it by this or after its last epoch. Training further then
    goes on from these weights, where it otherwise goes on as if it had not ended. An interrupted
    training keeps its last weights, to be resumed. Of epochs before this callback's own there are
    no weights: if one of them is the best, the last stay, with a warning (XpnetWarning).
    """

    on_all_ranks = True

    def __init__(
        self,
        patience: int,
        monitor: str = "loss",
        min_delta: float = 0.0,
        *,
        mode: Mode | None = None,
        restore_best: bool = False,
    ) -> None:
        super().__init__(monitor, mode)
        self.patience = convert(PositiveInt, patience, "patience")
        self.min_delta = convert(NonNegativeFloat, min_delta, "min_delta")
        self.restore_best = restore_best
        self.best, self.waited = math.inf, 0
        self._kept: tuple[int, Any] | None = None  # the step of the best epoch, and its weights

    def on_train_begin(self, trainer: Any) -> None:
        self.best, self.waited = math.inf, 0
        for record in trainer.history:
            if seen(record, self.monitor) is not None:
                self._observe(record)
        self._stop_if_due(trainer)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self._observe(record)
        if self.restore_best and self._best_step(trainer) == record["step"]:
            self._kept = record["step"], trainer.engine.weights()
        self._stop_if_due(trainer)

    def on_train_end(self, trainer: Any) -> None:
        over = trainer.position.epoch >= trainer.epochs or trainer.stopped == self._reason
        if not self.restore_best or trainer.failed is not None or not over:
            return
        best = self._best_step(trainer)
        if self._kept is not None and self._kept[0] == best:
            trainer.engine.set_weights(self._kept[1])
        elif trainer.position.step != best:
            msg = f"the best {self.monitor} was that of an earlier training, whose weights are not "
            msg += "in memory: the last weights stay"
            warnings.warn(msg, XpnetWarning, stacklevel=2)

    def _observe(self, record: EpochMetrics) -> None:
        value = self.monitored(record)
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    def _best_step(self, trainer: Any) -> int:
        """The step after the first of the epochs with the best value, whatever ``min_delta``."""

        def badness(record: EpochMetrics) -> tuple[bool, float]:
            value = self.monitored(record)
            return math.isnan(value), value

        having = [r for r in trainer.history if seen(r, self.monitor) is not None]
        return min(having, key=badness)["step"] if having else trainer.position.step

    @property
    def _reason(self) -> str:
        return f"no better {self.monitor} for {self.waited} epochs"

    def _stop_if_due(self, trainer: Any) -> None:
        if self.waited >= self.patience:
            trainer.stop(self._reason)


def early_stopping(asked: Any, *, validated: bool) -> list[Callback]:
    """Return what ``early_stopping=`` of a fit asks for: one that is given, or of a patience.

    Raises ConfigError for anything else, and for a patience without a validation to watch.
    """
    if asked is None or asked is False:
        return []
    if isinstance(asked, EarlyStopping):
        return [asked]
    if not isinstance(asked, Integral):
        msg = f"early_stopping must be True, a number of epochs or an EarlyStopping; got {asked!r}"
        raise ConfigError(msg)
    patience = PATIENCE if asked is True else int(asked)
    if not validated:
        msg = "early_stopping watches the loss of a validation, and there is none"
        remedy = "pass validation_fraction=0.1 or validation=..., or early_stopping="
        raise ConfigError(msg, python=f"{remedy}EarlyStopping({patience}) for the training's own")
    return [EarlyStopping(patience, restore_best=True)]
