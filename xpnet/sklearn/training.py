"""The trainer as scikit-learn's stochastic solvers use it.

Batches in an order that a RandomState draws, a penalty in the loss, and a watch at the end of each
epoch, which keeps the curves, sets the learning rate and stops: the rules of MLPClassifier's ``fit``.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import shuffle as shuffled

from xpnet.backends import Backend
from xpnet.data import Shuffle
from xpnet.optim.schedules import Schedule, State
from xpnet.step import Batch
from xpnet.training.callbacks import Callback, EpochMetrics
from xpnet.training.engine import Engine
from xpnet.training.loader import Loader
from xpnet.training.trainer import Trainer

__all__ = ["OrderedLoader", "PenalizedTrainer", "RateOfWatch", "Watch"]

SMALLEST_RATE = 1e-6  # an adaptive learning rate that came to this is not divided any more
DIVISOR = 5.0


class PenalizedTrainer(Trainer):
    """A trainer whose loss has the penalty ½ α Σ W² / D of every batch."""

    def __init__(self, *args: Any, alpha: float, **options: Any) -> None:
        self._alpha = alpha
        super().__init__(*args, **options)

    def _made_engine(self, backend: Backend, **more: Any) -> Engine:
        return super()._made_engine(backend, alpha=self._alpha, **more)


class _Given(NamedTuple):
    """An order of rows in the place of a :class:`~xpnet.data.Shuffle`."""

    rows: np.ndarray

    def order(self, n: int) -> np.ndarray:
        return self.rows


class OrderedLoader(Loader):
    """A loader whose epochs shuffle the order before them by ``random``; None keeps the rows' own.

    An epoch that is repeated, to explain a failure, has its order again.
    """

    def __init__(
        self, backend: Backend, x: Any, y: Any, weight: Any, random: np.random.RandomState | None
    ) -> None:
        super().__init__(backend, x, y, weight)
        self._random, self._order, self._epoch = random, np.arange(self.rows), -1

    def batches(
        self,
        batch_size: int,
        shuffle: Shuffle | None = None,
        start: int = 0,
        *,
        reuse: bool = False,
    ) -> Iterator[Batch]:
        order: Any = None
        if shuffle is not None and self._random is not None:
            if shuffle.epoch != self._epoch:
                self._order = shuffled(self._order, random_state=self._random)
                self._epoch = shuffle.epoch
            order = _Given(self._order)
        return super().batches(batch_size, order, start, reuse=reuse)


class Watch(Callback):
    """What is watched from epoch to epoch, over the calls of ``fit`` that go on from each other.

    ``score`` returns the validation score of a trainer with ``early_stopping``.
    """

    def __init__(self) -> None:
        self.loss_curve: list[float] = []
        self.validation_scores: list[float] | None = None
        self.best_loss: float | None = np.inf
        self.best_score: float | None = None
        self.best_weights: Any = None
        self.no_improvement = 0
        self.seen = 0  # rows, over all epochs
        self.epochs = 0  # of this call
        self.rate = 0.0
        self.score: Callable[[Any], float] | None = None
        self.settings: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # The weights and the score are those of a fit that is over.
        return {**vars(self), "score": None, "best_weights": None}

    def begin(self, settings: dict[str, Any], score: Callable[[Any], float] | None) -> None:
        """Begin another call of ``fit``; ``settings`` are the parameters of the estimator."""
        self.settings, self.score, self.epochs = settings, score, 0
        if score is not None and self.validation_scores is None:
            self.validation_scores, self.best_score, self.best_loss = [], -np.inf, None
        elif score is None and self.best_loss is None:
            self.validation_scores, self.best_score, self.best_loss = None, None, np.inf

    def on_train_begin(self, trainer: Any) -> None:
        if self.score is not None and self.best_weights is None:
            self.best_weights = trainer.engine.weights()

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self.epochs += 1
        self.seen += trainer.rows
        self.loss_curve.append(record["loss"])
        if self.settings["verbose"]:
            print(f"Iteration {self.epochs}, loss = {record['loss']:.8f}")
        if self.score is None:
            self._watch_loss(record["loss"])
        else:
            self._watch_score(self.score(trainer), trainer.engine)
        if self._of_sgd("invscaling"):
            start, power = self.settings["learning_rate_init"], self.settings["power_t"]
            self.rate = float(start) / (self.seen + 1) ** power
        if self.no_improvement > self.settings["n_iter_no_change"]:
            self._go_slower_or_stop(trainer)

    def _of_sgd(self, schedule: str) -> bool:
        s = self.settings
        return s["solver"] == "sgd" and s["learning_rate"] == schedule

    def _watch_loss(self, loss: float) -> None:
        assert self.best_loss is not None
        worse = loss > self.best_loss - self.settings["tol"]
        self.no_improvement = self.no_improvement + 1 if worse else 0
        self.best_loss = min(self.best_loss, loss)

    def _watch_score(self, score: float, engine: Engine) -> None:
        assert self.validation_scores is not None
        assert self.best_score is not None
        self.validation_scores.append(score)
        if self.settings["verbose"]:
            print(f"Validation score: {score:f}")
        worse = score < self.best_score + self.settings["tol"]
        self.no_improvement = self.no_improvement + 1 if worse else 0
        if score > self.best_score:
            self.best_score, self.best_weights = score, engine.weights()

    def _go_slower_or_stop(self, trainer: Any) -> None:
        what = "Training loss" if self.score is None else "Validation score"
        reason = f"{what} did not improve more than tol={self.settings['tol']:f} for "
        reason += f"{self.settings['n_iter_no_change']} consecutive epochs."
        adaptive = self._of_sgd("adaptive")
        if adaptive and self.rate > SMALLEST_RATE:
            self.rate /= DIVISOR
            self.no_improvement = 0
            ending = f" Setting learning rate to {self.rate:f}"
        else:
            ending = " Learning rate too small. Stopping." if adaptive else " Stopping."
            trainer.stop(reason)
        if self.settings["verbose"]:
            print(reason + ending)

    def diverged(self) -> None:
        """Note an epoch whose loss is not finite, and warn: the best weights so far are kept."""
        assert self.validation_scores is not None
        self.validation_scores.append(np.nan)
        msg = f"training is not finite in epoch {self.epochs + 1}: the best weights before it stay"
        warnings.warn(msg, ConvergenceWarning, stacklevel=2)


@dataclass(frozen=True)
class RateOfWatch(Schedule):
    """The learning rate that a watch has come to."""

    watch: Any

    def lr(
        self, state: State, base_lr: float, step: int, total_steps: int, steps_per_epoch: int
    ) -> float:
        return self.watch.rate
