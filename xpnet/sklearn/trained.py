"""A fitted estimator as a trainer of the library, which is saved, exported and explained."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xpnet.nn.losses import BinaryCrossEntropy, Loss, MeanSquaredError, Poisson, SoftmaxCrossEntropy
from xpnet.optim.optimizers import Adam
from xpnet.sklearn.network import named, network
from xpnet.sklearn.rows import host
from xpnet.training.class_labels import unless_indices
from xpnet.training.trainer import Trainer

__all__ = ["trainer_of"]

# By the function of the outputs. Those of the estimators are the same but for constant factors.
LOSSES: dict[str, Loss] = {
    "softmax": SoftmaxCrossEntropy(),
    "logistic": BinaryCrossEntropy(),
    "identity": MeanSquaredError(),
    "exp": Poisson(),
}


def trainer_of(estimator: Any) -> Trainer:
    """Return the network of a fitted estimator as a trainer on NumPy, with its classes.

    Its update rule is Adam with the estimator's learning rate, and begins anew. Raises
    scikit-learn's NotFittedError before fit.
    """
    check_is_fitted(estimator, "coefs_")
    coefs, intercepts = ([*map(host, part)] for part in (estimator.coefs_, estimator.intercepts_))
    sizes = [*(len(W) for W in coefs), len(intercepts[-1])]
    trainer = Trainer(
        network(sizes, estimator.activation, estimator.dropout),
        LOSSES[estimator.out_activation_],
        Adam(estimator.learning_rate_init),
        backend="numpy",
        dtype=coefs[0].dtype.name,
    )
    trainer.params = named(trainer.model, (coefs, intercepts))
    trainer._set(classes=_classes(estimator))
    return trainer


def _classes(estimator: Any) -> tuple[Any, ...] | None:
    """The labels of the classes; None where they are indices, and of several labels.

    Labels that are floating numbers, which are whole ones, come back as these.
    """
    several = estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1
    if several or not hasattr(estimator, "classes_"):
        return None
    classes = np.asarray(estimator.classes_)
    if classes.dtype.kind == "f":
        classes = classes.astype(np.int64)
    return unless_indices([v.item() if isinstance(v, np.generic) else v for v in classes])
