"""The network of an estimator: its layers, its first weights and its update rule."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from xpnet.errors import DataError
from xpnet.nn import Dense, Dropout, Layer, Sequential
from xpnet.nn.activation import ACTIVATIONS, Activation
from xpnet.nn.layout import layouts
from xpnet.optim.optimizers import OPTIMIZERS, SGD, Adam, Coefficients, Optimizer
from xpnet.typing import Array

__all__ = ["HIDDEN", "RULES", "first_weights", "named", "network", "rule", "unnamed", "variables"]

# scikit-learn's names, and the library's; a softmax is none of a hidden unit.
HIDDEN: dict[str, str] = {"logistic": "sigmoid"}
HIDDEN |= {
    name: name
    for name, kind in ACTIVATIONS.items()
    if issubclass(kind, Activation) and kind.elementwise
}
RULES = tuple(OPTIMIZERS)

Weights = tuple[list[np.ndarray], list[np.ndarray]]  # coefs and intercepts


class PlainEpsilonAdam(Adam):
    """Adam with ε̂, which is added to √v as it is: Kingma and Ba's reordered form, and that of
    scikit-learn. The library's ε is that of their Algorithm 1, added to √v̂.
    """

    def coefficients(self, lr: float, t: int) -> Coefficients:
        return super().coefficients(lr, t)._replace(eps=self.eps)


def network(sizes: Sequence[int], activation: str, dropout: float) -> Sequential:
    """Return the built model of dense layers between ``sizes``, whose output is linear."""
    layers: list[Layer] = []
    for units in sizes[1:-1]:
        layers += [Dense(units), ACTIVATIONS[HIDDEN[activation]]()]
        layers += [Dropout(dropout)] if dropout else []
    return Sequential([*layers, Dense(sizes[-1])]).build((sizes[0],))


def first_weights(sizes: Sequence[int], activation: str, rng: Any, dtype: str) -> Weights:
    """Draw the weights as scikit-learn's MLP does: of an equal ``rng``, the same numbers.

    Glorot and Bengio's bounds, √(6 / (I + J)), also for the intercepts; for the logistic function
    √(2 / (I + J)).
    """
    gain = 2.0 if HIDDEN[activation] == "sigmoid" else 6.0
    coefs, intercepts = [], []
    for n_in, n_out in itertools.pairwise(sizes):
        bound = math.sqrt(gain / (n_in + n_out))
        coefs.append(rng.uniform(-bound, bound, (n_in, n_out)).astype(dtype))
        intercepts.append(rng.uniform(-bound, bound, n_out).astype(dtype))
    return coefs, intercepts


def check_shapes(weights: Weights, sizes: Sequence[int]) -> None:
    """Raise DataError where weights that are gone on with are of another network."""
    found = [(W.shape, b.shape) for W, b in zip(*weights, strict=True)]
    wanted = [((i, j), (j,)) for i, j in itertools.pairwise(sizes)]
    if found != wanted:
        msg = f"training goes on from the weights in coefs_, of shapes {[W for W, _ in found]}; "
        msg += f"the network is now {'-'.join(map(str, sizes))}: set warm_start=False, or leave "
        msg += "hidden_layer_sizes and the number of outputs as they were"
        raise DataError(msg)


def variables(model: Sequential, coefs: Iterable[Array], intercepts: Iterable[Array]) -> list[Any]:
    """Return what the model's forward takes: a mapping per layer."""
    pairs = zip(coefs, intercepts, strict=True)
    return [
        dict(zip("Wb", next(pairs), strict=True)) if isinstance(layer, Dense) else {}
        for layer in model.layers
    ]


def named(model: Sequential, weights: Weights) -> dict[str, np.ndarray]:
    """Return the weights by their names within the model."""
    layers = variables(model, *weights)
    return {e.name: layers[e.layer][e.variable] for e in layouts(model)[0].entries}


def unnamed(model: Sequential, tensors: Any) -> Weights:
    """Return the weights of :func:`named`, as arrays of their own."""
    entries = layouts(model)[0].entries
    coefs = [np.array(tensors[e.name]) for e in entries if e.variable == "W"]
    return coefs, [np.array(tensors[e.name]) for e in entries if e.variable == "b"]


def rule(estimator: Any) -> Optimizer:
    """Return the update rule of an estimator's parameters; of other rules than two, its lr alone.

    Nesterov's momentum without a momentum is plain descent, as in scikit-learn.
    """
    e, lr = estimator, estimator.learning_rate_init
    if e.solver == "sgd":
        nesterov = bool(e.nesterovs_momentum and e.momentum)
        return SGD(lr, momentum=e.momentum, nesterov=nesterov)
    if e.solver == "adam":
        return PlainEpsilonAdam(lr, beta1=e.beta_1, beta2=e.beta_2, eps=e.epsilon)
    return OPTIMIZERS[e.solver](lr)
