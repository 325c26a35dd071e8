"""Where a value that is not finite first appears in a step."""

from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import array_namespace

from xpnet.nn import Params, Sequential, layer_name
from xpnet.nn.losses import Loss, quotient
from xpnet.step import Batch
from xpnet.typing import Array

__all__ = ["first_nonfinite"]


def first_nonfinite(
    model: Sequential,
    loss: Loss,
    params: Sequence[Params],
    batch: Batch,
    keys: Sequence[Any] = (),
    finite: Callable[[Array], bool] | None = None,
) -> str | None:
    """Name the first array of a step that has a NaN or an infinity, in the order of computation.

    None if all are finite. ``finite`` says whether an array is; by default it asks the array.

    >>> import numpy as np
    >>> from xpnet.nn import Dense
    >>> from xpnet.nn.losses import MeanSquaredError
    >>> model = Sequential([Dense(1)]).build((1,))
    >>> params = [{"W": np.array([[np.inf]]), "b": np.zeros(1)}]
    >>> first_nonfinite(model, MeanSquaredError(), params, Batch(np.ones((1, 1)), np.ones(1)))
    'parameter W of layer 0 (dense)'
    """
    finite = finite or _finite
    names = [f"layer {i} ({layer_name(layer)})" for i, layer in enumerate(model.layers)]
    for name, variables in zip(names, params, strict=True):
        for variable, array in variables.items():
            if not finite(array):
                return f"parameter {variable} of {name}"
    x, residuals, pairs = batch.x, [], iter(keys)
    if not finite(x):
        return "the input batch"
    for layer, name, p in zip(model.layers, names, params, strict=True):
        x, r = layer.forward(p, x, train=True, keys=next(pairs, None) if layer.random else None)
        residuals.append(r)
        if not finite(x):
            return f"the output of {name}"
    sums = loss.sums(x, batch.y, batch.weight)
    if not finite(sums.loss):
        return f"the loss ({type(loss).__name__})"
    gradient: Array = quotient(sums.gradient, sums.denominator)
    if not finite(gradient):
        return f"the gradient of the loss ({type(loss).__name__})"
    for i in reversed(range(len(names))):
        gradient, grads = model.layers[i].backward(params[i], residuals[i], gradient)
        for variable, array in grads.items():
            if not finite(array):
                return f"the gradient of {variable} of {names[i]}"
        if not finite(gradient):
            return f"the input gradient of {names[i]}"
    return None


def _finite(x: Array) -> bool:
    xp = array_namespace(x)
    return bool(xp.all(xp.isfinite(x)))
