"""Training by epochs, as scikit-learn's MLP counts them: when to stop, and at which rate."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from xpnet.backends import Backend
from xpnet.errors import DataError, TrainingError
from xpnet.training.callbacks import Callback, EpochMetrics
from xpnet.training.engine import Engine
from xpnet.training.loader import Loader
from xpnet.training.trainer import Trainer

__all__ = ["NOT_FINITE", "Epochs", "Training", "train"]

SMALLEST_RATE = 1e-6  # at which "adaptive" stops
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


class Training(Trainer):
    """A trainer with scikit-learn's penalty ``alpha``, and a learning rate that can be told."""

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        self._alpha, self._rate = alpha, 0.0
        super().__init__(*args, **kwargs)
        self._rate = self.optimizer.lr

    @property
    def asked(self) -> tuple[Any, ...]:
        """What the training was made with."""
        made = self.model, self.loss, self.optimizer, self.batch_size, self._alpha
        return (*made, repr(self.backend))

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate

    def tell(self, rate: float) -> None:
        """Go on at this learning rate.

        The velocity of scikit-learn's SGD has the rate within it, that of the library is multiplied
        by it: what has been gathered at the old rate keeps its length.
        """
        engine = self.engine
        if engine.optimizer.slots == ("v",) and rate != self._rate:
            kept = tuple(v * (self._rate / rate) for v in engine.state.slots)
            engine.state = engine.state._replace(slots=kept)
        self._rate = rate

    def let_go(self) -> None:
        """Forget the data of the last fit."""
        vars(self).pop("_batches", None)
        self._set(callbacks=[])  # which know the rows that were held out
        self._keep()

    def _made_engine(self, backend: Backend, **more: Any) -> Engine:
        return super()._made_engine(backend, alpha=self._alpha, **more)

    def _lr(self, step: int) -> float:
        return self._rate


class Epochs(Callback):
    """Keep an estimator's record of its epochs, and stop or slow down by its parameters.

    ``score`` is that of the validation after an epoch, higher is better; None without one.
    """

    def __init__(
        self, estimator: Any, rows: int, score: Callable[[Trainer], float] | None, *, once: bool
    ) -> None:
        self.estimator, self.rows, self.score, self.once = estimator, rows, score, once
        self.best: tuple[Any, Any] | None = None  # weights, on the device

    def on_train_begin(self, trainer: Any) -> None:
        if self.score is not None:
            self.best = trainer.engine.weights()

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        e = self.estimator
        e.n_iter_ += 1
        e.t_ += self.rows
        e.loss_ = float(record["loss"])
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            print(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
        self._count(trainer)
        if e.solver == "sgd" and e.learning_rate == "invscaling":
            trainer.tell(e.learning_rate_init / (e.t_ + 1) ** e.power_t)
        if e._no_improvement_count > e.n_iter_no_change:
            self._end_or_slow_down(trainer)

    def _count(self, trainer: Any) -> None:
        """Count the epochs without an improvement by ``tol``, and remember the best."""
        e = self.estimator
        if self.score is None:
            missed = e.loss_ > e.best_loss_ - e.tol
            e.best_loss_ = min(e.best_loss_, e.loss_)
        else:
            score = self.score(trainer)
            e.validation_scores_.append(score)
            if e.verbose:
                print(f"Validation score: {score:f}")
            missed = score < e.best_validation_score_ + e.tol
            if score > e.best_validation_score_:
                e.best_validation_score_ = score
                self.best = trainer.engine.weights()
        e._no_improvement_count = e._no_improvement_count + 1 if missed else 0

    def _end_or_slow_down(self, trainer: Any) -> None:
        e, what = self.estimator, "Training loss" if self.score is None else "Validation score"
        reason = f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} "
        reason += "consecutive epochs."
        if e.solver == "sgd" and e.learning_rate == "adaptive" and trainer.rate > SMALLEST_RATE:
            trainer.tell(trainer.rate / 5.0)
            e._no_improvement_count = 0
            done = f"Setting learning rate to {trainer.rate:f}"
        elif self.once:
            return
        else:
            trainer.stop(reason)
            done = "Stopping."
        if e.verbose:
            print(f"{reason} {done}")


def train(trainer: Training, loader: Loader, epochs: int, record: Epochs) -> None:
    """Train for so many epochs more, unless ``record`` stops it; best weights are put back.

    Warns where all epochs were used, and where the training was interrupted. Raises DataError, a
    ValueError, where it is not finite, unless there are weights of a better epoch.
    """
    e = record.estimator
    try:
        trainer.fit(loader, epochs=trainer.position.epoch + epochs, callbacks=[record])
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=5)
    except TrainingError as error:
        if "not finite" not in str(error):
            raise
        if record.score is None or not np.isfinite(e.best_validation_score_):
            msg = f"{NOT_FINITE} {error.message}"
            raise DataError(msg) from error
        e.validation_scores_.append(float("nan"))
        e.n_iter_ += 1
        msg = f"the training diverged in epoch {e.n_iter_}, and ended with the weights of the best "
        msg += f"validation score: lower learning_rate_init or scale the data ({error.message})"
        warnings.warn(msg, ConvergenceWarning, stacklevel=5)
    else:
        if trainer.stopped is None and not record.once:
            msg = f"Stochastic Optimizer: Maximum iterations ({epochs}) reached and the "
            msg += "optimization hasn't converged yet."
            warnings.warn(msg, ConvergenceWarning, stacklevel=5)
    if record.best is not None:
        trainer.engine.set_weights(record.best)
    trainer.let_go()
