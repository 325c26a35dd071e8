"""Metrics of one's own: functions of the targets and predictions of a whole validation."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xpnet.backends import Backend
from xpnet.data.files import one_line
from xpnet.errors import ConfigError, TrainingError
from xpnet.nn.losses import Loss
from xpnet.step import Batch
from xpnet.training.class_labels import decided
from xpnet.typing import Array

__all__ = ["Metric", "Validated", "check_metrics", "joined", "values"]

Metric = Callable[..., Any]
Part = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # targets, predictions, sample weights
OF_A_RECORD = ("epoch", "step", "lr", "loss", "accuracy", "seconds", "rows_per_second", "norms")
# By these names of a second parameter scikit-learn's metrics take probabilities, not labels.
PROBABILITIES = ("y_score", "y_prob", "y_proba")


def check_metrics(metrics: Any) -> dict[str, Metric]:
    """Return metrics by their names; raises ConfigError for what is no function or no name."""
    if not isinstance(metrics, Mapping):
        msg = "metrics must be a mapping of names to functions, such as {'f1': f1_score}; got "
        raise ConfigError(msg + type(metrics).__name__)
    for name, function in metrics.items():
        taken = name in OF_A_RECORD or not isinstance(name, str) or name.startswith("val_")
        if taken or not name.isidentifier():
            msg = f"a metric cannot have the name {name!r}: it must be an identifier that is not "
            msg += f"in the records yet ({', '.join(OF_A_RECORD)}) and does not begin with val_"
            raise ConfigError(msg)
        if not callable(function):
            msg = f"metrics: {name!r} must be a function (y_true, y_pred) -> number"
            msg += f"; got {type(function).__name__}"
            raise ConfigError(msg)
    return dict(metrics)


class Validated:
    """What a validation is asked and what is predicted, kept on the host batch by batch."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.parts: list[Part] = []  # a batch each

    def __call__(self, batch: Batch, output: Array, predicted: Array) -> None:
        host, weight = self._backend.to_host, batch.weight
        assert batch.y is not None
        weights = None if weight is None else host(weight)
        self.parts.append((host(batch.y), host(predicted), weights))


def joined(parts: Sequence[Part]) -> Part:
    """Return targets, predictions and sample weights of all rows, of those of batches."""
    y, predicted, weights = zip(*parts, strict=True)
    some = None if weights[0] is None else np.concatenate(weights)
    return np.concatenate(y), np.concatenate(predicted), some


def values(
    metrics: Mapping[str, Metric],
    y: np.ndarray,
    predicted: np.ndarray,
    weight: np.ndarray | None,
    loss: Loss,
    classes: tuple[Any, ...] | None,
) -> dict[str, float]:
    """Return what the metrics say, by their names in a record.

    ``y`` are the targets of a validation, ``predicted`` what :meth:`Trainer.predict` returns and
    ``weight`` (N,) its sample weights, if it has any. A function is given y_true and y_pred:
    labels, 0 or 1 for each of several labels, or numbers, (N,) of a single column; where its second
    parameter is y_score, y_prob or y_proba, this is what :meth:`Trainer.predict` returns instead.
    One with a parameter sample_weight is given the weights of the validation, if it has any. Raises
    TrainingError with the name of one that fails or that does not return a number.
    """
    ignored = getattr(loss, "ignore_label", None)
    if ignored is not None and y.ndim == 1:
        rows = y != ignored
        y, predicted = y[rows], predicted[rows]
        weight = None if weight is None else weight[rows]
    narrow = predicted[:, 0] if predicted.shape[1:] == (1,) else predicted
    y = y[:, 0] if y.shape[1:] == (1,) else y
    answer = narrow
    if loss.predicts != "value":
        answer = decided(predicted, loss, classes)
        if loss.predicts == "class":
            y = y if y.ndim == 1 else y.argmax(axis=-1)
        else:
            y = (y > 0.5).astype(np.int64)
        y = y if classes is None or y.ndim != 1 else np.asarray(classes)[y]
    found = {}
    for name, function in metrics.items():
        parameters = _parameters(function)
        second = parameters[1] if len(parameters) > 1 else ""
        given = narrow if second in PROBABILITIES else answer
        weights = (
            {} if weight is None or "sample_weight" not in parameters else {"sample_weight": weight}
        )
        try:
            result = function(y, given, **weights)
            if isinstance(result, str | bytes):
                msg = f"a metric is a number; got {result!r}"
                raise TypeError(msg)
            found[f"val_{name}"] = float(result)
        except Exception as error:
            msg = f"the metric {name!r} failed: {type(error).__name__}: {one_line(error)}"
            raise TrainingError(msg) from error
    return found


def _parameters(function: Metric) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of a built-in function
        return []
