"""Whether a model, its loss, the targets and the batches fit, before the first step.

Each would train without an error, and badly: a softmax that is applied twice, a target that the
last layer cannot reach, a variance of one row. What a layer gives and what a loss takes is said by
its class: :attr:`Layer.bounds` and :attr:`Layer.gives`, :attr:`Loss.takes` and
:meth:`Loss.wrong`. Where that is not known, nothing is refused.
"""

import math
from collections.abc import Callable

from array_api_compat import array_namespace

from xpnet.errors import ConfigError, DataError
from xpnet.nn.flatten import Flatten
from xpnet.nn.layer import REAL, Layer
from xpnet.nn.losses import Loss
from xpnet.nn.sequential import Sequential
from xpnet.registry import name_of
from xpnet.typing import Array

__all__ = ["alone_in", "check_batches", "check_codes", "check_output", "check_reachable"]

CLASSES = ("logits", "probabilities", "log-probabilities")
OF_CLASSES = {"probabilities": "cross_entropy", "log-probabilities": "negative_log_likelihood"}
# Up to where a dtype has all whole numbers.
WHOLE = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24, "float64": 2**53}
INSTEAD = {
    "rates": "end the model with softplus",
    "probabilities": "end the model with softmax, or use softmax_cross_entropy without one",
    "log-probabilities": "end the model with log_softmax, or use softmax_cross_entropy without one",
}


def check_output(model: Sequential, loss: Loss) -> None:
    """Raise ConfigError where the model does not end in what the loss takes.

    >>> from xpnet.nn import Dense, Softmax
    >>> from xpnet.nn.losses import SoftmaxCrossEntropy
    >>> check_output(Sequential([Dense(3), Softmax()]), SoftmaxCrossEntropy())
    Traceback (most recent call last):
    xpnet.errors.ConfigError: softmax_cross_entropy takes logits, not the outputs of softmax, ...
    """
    last, name = _last(model), name_of(loss)
    if last is not None and last.bounds is not None and not _fits(last, last.bounds, loss):
        within = "" if last.bounds == REAL else f", which are {_between(last.bounds)}"
        msg = f"{name} takes {loss.takes}, not the outputs of {name_of(last)}{within}: "
        msg += f"{loss.reason} (see xpnet explain --loss {name}); "
        msg += INSTEAD.get(loss.takes, f"leave out the last {name_of(last)}")
        if last.gives in OF_CLASSES and loss.predicts == "class":
            msg += f", or use {OF_CLASSES[last.gives]}"
        raise ConfigError(msg)
    if model.input_shape is not None and loss.predicts == "class" and loss.takes in CLASSES:
        _check_classes(model.output_shape, name)


def _check_classes(shape: tuple[int, ...], name: str) -> None:
    msg = f"{name} needs an output for each class; the model has "
    if len(shape) != 1:
        msg += f"outputs of shape {shape}: end it with flatten and a dense layer"
        raise ConfigError(msg)
    if shape == (1,):
        msg += "one, and the softmax of one number is 1: give the last layer more units, or use "
        msg += "binary_cross_entropy"
        raise ConfigError(msg)


def check_codes(model: Sequential, dtype: str) -> None:
    """Raise ConfigError where codes would not reach the layer that takes them as they are.

    That is after a layer that computes, and where ``dtype``, that of the layers, rounds them.

    >>> from xpnet.nn import Dense, Embedding
    >>> check_codes(Sequential([Embedding((9, 1000)), Dense(3)]), "bfloat16")
    Traceback (most recent call last):
    xpnet.errors.ConfigError: embedding has codes up to 999, and bfloat16 only has the whole ...
    """
    for i, layer in enumerate(model.layers):
        if not layer.exact:
            continue
        before = next((b for b in model.layers[:i] if not isinstance(b, Flatten)), None)
        if before is not None:
            msg = f"{name_of(layer)} takes codes, which {name_of(before)} before it would change: "
            raise ConfigError(msg + "put it first")
        if layer.exact > WHOLE[dtype]:
            msg = f"{name_of(layer)} has codes up to {layer.exact}, and {dtype} only has the whole "
            msg += f"numbers up to {WHOLE[dtype]}"
            wider = dtype in ("float16", "bfloat16")
            msg += ": train without mixed" if wider else ": use dtype float64"
            raise ConfigError(msg)


def check_reachable(
    model: Sequential, loss: Loss, target: Array, row_name: Callable[[int], str] = "row {}".format
) -> None:
    """Raise DataError for targets of training that no output of the last layer can come near."""
    last = _last(model)
    if loss.takes not in ("values", "rates") or last is None or last.bounds in (None, REAL):
        return
    low, high = last.bounds or REAL
    beyond = (target < low) | (target > high)
    if array_namespace(target).any(beyond):
        row = int(beyond.nonzero()[0][0])
        msg = f"the target of {row_name(row)} is {target[row]}, but the outputs of the last layer, "
        msg += f"{name_of(last)}, are {_between((low, high))}: scale the targets, or leave the "
        raise DataError(msg + "layer out")


def check_batches(model: Sequential, rows: int, batch_size: int, accumulate: int) -> None:
    """Raise ConfigError where batch normalisation would see a single row.

    Its variance is 0: it says nothing, and would be averaged into the running one. A built model
    is trained on ``rows`` rows in batches of ``batch_size``, each in ``accumulate`` parts.
    """
    if (layer := alone_in(model, rows, batch_size, accumulate)) is None:
        return
    near = (batch_size + sign * i for i in range(1, rows + batch_size) for sign in (-1, 1))
    possible = (b for b in near if 1 < b <= rows)
    found = next((b for b in possible if _fewest(rows, b, accumulate) > 1), None)
    msg = f"{name_of(layer)} needs two rows for a variance, and {rows} rows in batches of "
    msg += f"{batch_size}" + (f", in {accumulate} micro-batches," if accumulate > 1 else "")
    msg += " leave it one"
    if found is None:
        msg += ": give it more rows, or use layer_norm"
        raise ConfigError(msg)
    raise ConfigError(msg, python=f"batch_size={found}", command=f"--set batch_size={found}")


def alone_in(model: Sequential, rows: int, batch_size: int, accumulate: int) -> Layer | None:
    """Return the layer that would take the variance of a single row, if there is one."""
    shapes = [model.input_shape or (), *model.shapes()]
    part = _fewest(rows, batch_size, accumulate)
    for layer, shape in zip(model.layers, shapes, strict=False):
        if part * math.prod(shape[:-1]) < layer.fewest:
            return layer
    return None


def _fewest(rows: int, batch_size: int, accumulate: int) -> int:
    """The rows of the smallest part of a batch, as of micro_batch_rows."""
    batches = {min(batch_size, rows), rows % batch_size or batch_size}
    return min(max(n // accumulate, 1) for n in batches)


def _last(model: Sequential) -> Layer | None:
    """The layer whose outputs the loss sees, if there is one."""
    return next((layer for layer in reversed(model.layers) if not layer.passes), None)


def _fits(last: Layer, bounds: tuple[float, float], loss: Loss) -> bool:
    low, high = bounds
    if loss.takes == "logits":
        # The softmax of log-probabilities is the probabilities again, with the same gradient.
        again = loss.predicts == "class" and last.gives == "log-probabilities"
        return bounds == REAL or again
    if loss.takes == "margins":
        return low < 0.0 < high
    if loss.takes == "rates":
        return low >= 0.0
    return loss.takes in ("numbers", "values", last.gives)


def _between(bounds: tuple[float, float]) -> str:
    low, high = bounds
    if math.isinf(high):
        return f"at least {low:g}"
    return f"at most {high:g}" if math.isinf(low) else f"between {low:g} and {high:g}"
