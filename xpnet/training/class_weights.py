"""Class weights: those that a trainer is given, and those counted from its labels."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xpnet.backends import backend_of
from xpnet.data.columns import listed
from xpnet.errors import CheckpointError, ConfigError
from xpnet.nn.losses import Loss
from xpnet.ops.cross_entropy import balanced_weights

__all__ = ["ClassWeights", "by_class", "counted", "given", "is_balanced", "weighted"]

ClassWeights = Sequence[float] | Mapping[Any, float] | str


def is_balanced(loss: Loss) -> bool:
    """Return whether the loss has class weights that are still to be counted."""
    return getattr(loss, "class_weights", None) == "balanced"


def given(loss: Loss, weights: ClassWeights | None) -> Loss:
    """Return the loss with the class weights of a trainer: "balanced", or one for each class.

    A mapping is kept for :func:`by_class`. Raises ConfigError for anything else, for a loss that
    has no class weights and for one that has its own.
    """
    if weights is None:
        return loss
    own: Any = loss
    if not hasattr(own, "class_weights"):
        msg = f"{type(loss).__name__} has no class weights"
        remedy = "pass sample weights: fit((x, y, weight))"
        if hasattr(loss, "positive_weight"):
            remedy = "weigh the positive class: BinaryCrossEntropy(positive_weight=...)"
        raise ConfigError(msg, python=remedy)
    if own.class_weights is not None:
        msg = f"class_weights are given twice: {weights!r}, and {own.class_weights!r} by the loss"
        raise ConfigError(msg)
    if isinstance(weights, Mapping):
        if not weights or not all(_is_weight(w) for w in weights.values()):
            msg = "class_weights must be finite numbers >= 0, one for each label; got "
            raise ConfigError(msg + repr(dict(weights)))
        return loss
    if isinstance(weights, str) and weights == "balanced":
        return replace(own, class_weights="balanced")
    array = backend_of(weights)
    if isinstance(weights, str) or (array is None and not isinstance(weights, Iterable)):
        msg = f"class_weights must be 'balanced', a sequence or a mapping; got {weights!r}"
        raise ConfigError(msg)
    numbers = tuple(weights) if array is None else tuple(array.to_host(weights))
    if not all(_is_weight(w) for w in numbers):
        msg = f"class_weights must be finite numbers >= 0, one for each class; got {weights!r}"
        raise ConfigError(msg)
    return replace(own, class_weights=tuple(map(float, numbers)))


def by_class(weights: Mapping[Any, float], labels: Sequence[Any]) -> tuple[float, ...]:
    """Return the weight of each class; one that is not named weighs 1.

    Raises ConfigError for a name that is no label.

    >>> by_class({"tulip": 3}, ("rose", "tulip"))
    (1.0, 3.0)
    """
    unknown = [label for label in weights if label not in labels]
    if unknown:
        msg = f"class_weights names {unknown[0]!r}, which is not among the {len(labels)} classes"
        raise ConfigError(msg + f" ({listed([*map(repr, labels)])})")
    return tuple(float(weights.get(label, 1.0)) for label in labels)


def _is_weight(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and 0 <= value < math.inf)


def counted(loss: Loss, targets: Iterable[np.ndarray], K: int) -> tuple[float, ...]:
    """Return the balanced weights of K classes for class indices (N,) or rows (N, K), in parts.

    >>> from xpnet.nn.losses import SoftmaxCrossEntropy
    >>> loss = SoftmaxCrossEntropy(class_weights="balanced", ignore_label=-1)
    >>> counted(loss, [np.array([0, 0, -1]), np.array([0, 1])], 2)
    (0.6666666666666666, 2.0)
    """
    counts, ignored = np.zeros(K), getattr(loss, "ignore_label", None)
    for y in targets:
        if y.ndim == 2:
            counts += y.sum(axis=0)
        else:
            counts += np.bincount(y if ignored is None else y[y != ignored], minlength=K)
    return tuple(balanced_weights(counts).tolist())


def weighted(loss: Any, weights: tuple[float, ...] | None, K: int) -> Loss:
    """Return the loss with the weights that were counted; until then, all are 1.

    Raises CheckpointError for weights of another number of classes.
    """
    if not is_balanced(loss):
        return loss
    if weights is not None and len(weights) != K:
        msg = f"the checkpoint has {len(weights)} class weights; the model has {K} classes"
        raise CheckpointError(msg)
    return replace(loss, class_weights=weights or (1.0,) * K)
