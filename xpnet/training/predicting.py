"""What a trainer can do without training: evaluate, predict, and return gradients."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Never

import numpy as np

from xpnet.data import StreamedDataset
from xpnet.errors import TrainingError
from xpnet.nn.fit import check_batches
from xpnet.parallel import WHOLE, Share
from xpnet.step import AnyBatch, Batch, dropout_keys
from xpnet.training.arguments import refuse_more
from xpnet.training.class_labels import decided
from xpnet.training.engine import Engine, Metrics
from xpnet.training.loader import Loader
from xpnet.training.memory import memory_errors
from xpnet.training.reading import Reading
from xpnet.training.sources import features
from xpnet.training.threads import Threads, limited
from xpnet.typing import Array

__all__ = ["EVALUATION_BATCH", "Evaluation", "Predicting"]

EVALUATION_BATCH = 1024  # rows; without a backward pass there is room for more than in training


class Evaluation(NamedTuple):
    """A pass over labelled examples without training."""

    loss: float
    accuracy: float | None  # None for regression
    predictions: np.ndarray  # probabilities (N, K), or values


class Predicting(Reading):
    """The part of a trainer that changes nothing."""

    seed: int
    chosen_threads: Threads | None
    _batch: AnyBatch  # of the last step

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """The model and its state on the backend."""

    @property
    @abstractmethod
    def _rows_of_step(self) -> int | None:
        """The rows of the last step's batch, where ranks share it."""

    @abstractmethod
    def _repair(self) -> None:
        """Go back to the state that was kept, where a step was interrupted."""

    def evaluate(self, data: Any, *more: Never, label: str | int | None = None) -> Evaluation:
        """Return loss, accuracy and predictions for data in any form that :meth:`fit` takes.

        Raises TrainingError before there is anything trained, DataError where data is not finite.
        """
        refuse_more(more, "evaluate((x, y))")
        parts: list[np.ndarray] = []

        def keep(batch: Batch, output: Array, predicted: Array) -> None:
            parts.append(self.engine.backend.to_host(predicted))

        metrics = self.score(data, keep, label=label)
        return Evaluation(metrics.loss, metrics.accuracy, np.concatenate(parts))

    def score(
        self,
        data: Any,
        each: Callable[[Batch, Array, Array], None],
        *,
        label: str | int | None = None,
    ) -> Metrics:
        """Return loss and accuracy; ``each`` is given every batch, its output and its predictions.

        These are on the device, and nothing is kept of them here: it is for data of any size.
        """
        with memory_errors(self):
            self.check_trained()
            loader = self._labelled(data, label)
            with limited(self.engine.backend, self.chosen_threads):
                return self._evaluate(loader, each)

    def _evaluate(
        self,
        loader: Loader,
        each: Callable[[Batch, Array, Array], None] = lambda batch, output, predicted: None,
        *,
        share: Share = WHOLE,
    ) -> Metrics:
        batches = loader.shared(share).batches(EVALUATION_BATCH)
        metrics = self.engine.evaluate(batches, each, shared=not share.is_whole)
        if metrics.bad_step >= 0:  # the data's fault, or a loss that is infinite
            loader.check_finite(EVALUATION_BATCH)
        return metrics

    def gradients(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, Array]:
        """Return the gradient of the loss over one batch, by the names of :attr:`params`.

        ``x`` (N, ...), ``y`` and ``sample_weight`` (N,) are as for :meth:`fit`. Each gradient is an
        array of the backend's library and dtype on its device, of its parameter's shape. The model
        is in training mode, as in the next step: a normalisation takes the statistics of this
        batch, dropout draws what that step would draw. It is the gradient before it is clipped, of
        the whole batch at once, also where a step would accumulate or narrow it; that of a frozen
        parameter is zero. Nothing is changed.

        Raises DataError where the rows do not fit the model or the loss.

        >>> from xpnet import Dense, Sequential, Trainer
        >>> model = Sequential([Dense(1)]).build((2,))
        >>> trainer = Trainer(model, "mean_squared_error", backend="numpy", dtype="float64")
        >>> trainer.params = {"0.dense.W": [[1.0], [0.0]], "0.dense.b": [0.0]}
        >>> {k: v.tolist() for k, v in trainer.gradients([[3.0, 1.0]], [1.0]).items()}
        {'0.dense.W': [[12.0], [4.0]], '0.dense.b': [4.0]}
        """
        self._repair()
        with memory_errors(self):
            data = (x, y) if sample_weight is None else (x, y, sample_weight)
            loader = self._labelled(data, training=True)
            check_batches(self.model, loader.rows, loader.rows, 1)
            batch = next(iter(loader.batches(loader.rows)))
            keys = dropout_keys(self.seed, self.position.step, self.model.n_random)
            with limited(self.engine.backend, self.chosen_threads):
                found = self.engine.gradient(batch, keys)
            return self.engine.params_layout.named(found.gradient)

    def gradient_of_step(self, before: Array) -> Array:
        """Return the gradient (P,) of the step taken last, for a callback's ``on_step_end``.

        ``before`` are the parameters (P,) before that step, as the backend keeps them. It is what
        the update rule took, before it is clipped; the next step may write over it.
        """
        keys = dropout_keys(self.seed, self.position.step - 1, self.model.n_random)
        return self.engine.gradient_of_step(self._batch, keys, before, self._rows_of_step)

    def check_trained(self) -> None:
        """Raise TrainingError where the weights are still those that they were drawn as."""
        if not self._has_learnt:
            msg = "nothing has been trained yet: the weights are random"
            raise TrainingError(msg, python="call fit or restore first, or assign params")

    def predict(self, x: Any) -> np.ndarray:
        """Return probabilities (N, K), or values for regression, as a host array.

        Raises TrainingError before there is anything trained.
        """
        parts = list(self.predictions(x))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def predict_classes(self, x: Any, threshold: float | Sequence[float] = 0.5) -> np.ndarray:
        """Return the label of each row's class, (N,), as a host array; without labels its index.

        A model with one output for two classes says the second where its probability is above
        ``threshold``. One with an output for each of several labels says 0 or 1 for each, (N, J),
        by one threshold or by J of them. Raises ConfigError for a regression, and as
        :meth:`predict`.
        """
        return decided(self.predict(x), self.loss, self.classes, threshold)

    def predictions(self, x: Any) -> Iterator[np.ndarray]:
        """Yield the same by batches, for x (N, ...), a Loader or a StreamedDataset of any size."""
        with memory_errors(self):
            self.check_trained()
            x = features(x, self._columns)
            loader = self._built_for(x if isinstance(x, Loader | StreamedDataset) else (x,))
            parts = self.engine.predictions(loader.batches(EVALUATION_BATCH))
            while True:
                with limited(self.engine.backend, self.chosen_threads):  # not while others compute
                    part = next(parts, None)
                if part is None:
                    return
                yield part
