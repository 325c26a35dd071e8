"""Class weights that are counted from the labels of a training."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from xpnet.errors import CheckpointError
from xpnet.nn.losses import Loss
from xpnet.ops.cross_entropy import balanced_weights

__all__ = ["counted", "is_balanced", "weighted"]


def is_balanced(loss: Loss) -> bool:
    """Return whether the loss has class weights that are still to be counted."""
    return getattr(loss, "class_weights", None) == "balanced"


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
