"""The step of :mod:`xpnet.step.step`, an array at a time: the one instrumented pass.

    for place, name, array in trace(model, loss, params, batch, keys):
        print(place, name, array)

goes forward, through the loss and back, as :func:`xpnet.step.gradients` does, and yields each array
with its place and its name, in the order of computation:

    W, b, ...                  the variables of each layer
    x                          the batch, in the dtype of the layers
    output                     of each layer
    C, doutput                 of the loss: its value and dC/doutput
    prediction, correct        what the output predicts, and how many predictions are correct
    dW, db, ..., dx            of each layer, from the last to the first
    new mean, ...              the new statistics of each layer

It is lazy: whoever has seen enough stops asking. Whoever needs more than arrays gives a hook ``do``
that runs the operations. :class:`Recorder` keeps them with their operands; parity repeats each one
on NumPy.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from array_api_compat import array_namespace

from xpnet.nn import Layer, Params, Sequential, layer_name
from xpnet.nn.losses import Loss, quotient
from xpnet.step.microbatch import micro_batches
from xpnet.step.step import Batch, layer_dtype, output_gradient
from xpnet.typing import Array

__all__ = [
    "INPUT",
    "Call",
    "Operation",
    "Phase",
    "Place",
    "Recorder",
    "Results",
    "Traced",
    "describe",
    "trace",
]

INPUT = "the input batch"  # in words, as of describe

# Arrays by name, and what else the backward pass needs: a layer's residuals.
Results = tuple[dict[str, Any], Any]
Operation = Callable[..., Results]


Phase = Literal["variables", "forward", "loss", "backward", "track"]


class Place(NamedTuple):
    """Where in a step an array arises: in which phase, and at a layer or (None) at the loss."""

    phase: Phase
    layer: int | None
    name: str  # of the layer in a config, or the class of the loss
    part: int = 0  # the micro-batch

    def __str__(self) -> str:
        layer = f"layer {self.layer} ({self.name})"
        return f"the loss ({self.name})" if self.layer is None else layer


class Traced(NamedTuple):
    """An array of a step."""

    place: Place
    name: str
    array: Array


class Call(NamedTuple):
    """An operation of a step: what it was given and what it made."""

    place: Place
    operation: Operation
    operands: tuple[Any, ...]
    results: Results


class Recorder:
    """A hook for :func:`trace` that keeps each call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, place: Place, operation: Operation, *operands: Any) -> Results:
        results = operation(*operands)
        self.calls.append(Call(place, operation, operands, results))
        return results

    def of(self, phase: Phase) -> dict[int | None, Call]:
        """Return the first call at each layer in a phase, and (None) that of the loss itself."""
        return {c.place.layer: c for c in reversed(self.calls) if c.place.phase == phase}


def _call(place: Place, operation: Operation, *operands: Any) -> Results:
    return operation(*operands)


def trace(
    model: Sequential,
    loss: Loss,
    params: Sequence[Params],
    batch: Batch,
    keys: Sequence[Any] = (),
    *,
    scale: Array | float = 1.0,
    parts: int = 1,
    train: bool = True,
    input_gradient: bool = False,
    do: Callable[..., Results] = _call,
) -> Iterator[Traced]:
    """Yield the arrays of a training step on ``batch``, before the update.

    The layers compute in the dtype of ``params``, the loss in that of ``batch.x``, and gradients
    are times the loss ``scale``: mixed precision. With ``parts`` the batch is taken in that many
    micro-batches, statistics carried along. Without ``input_gradient`` the way back ends where that
    of training does, at the first layer with parameters; with it, it goes on to dC/dx. ``train``
    False is the forward pass of an evaluation. ``do(place, operation, *operands)`` returns
    the results of an operation.

    >>> import numpy as np
    >>> from xpnet.nn import Dense
    >>> from xpnet.nn.losses import MeanSquaredError
    >>> model, params = Sequential([Dense(1)]).build((1,)), [{"W": np.ones((1, 1))}]
    >>> batch = Batch(np.ones((2, 1)), np.zeros((2, 1)))
    >>> [name for place, name, array in trace(model, MeanSquaredError(), params, batch)]
    ['W', 'x', 'output', 'C', 'doutput', 'prediction', 'dW', 'db']
    """
    layers: list[Params] = list(params)
    names = [*enumerate(map(layer_name, model.layers))]
    for number, (part, part_keys) in enumerate(micro_batches(batch, parts, keys)):

        def at(phase: Phase, n: int = number) -> list[Place]:
            return [Place(phase, i, name, n) for i, name in names]

        x = _cast(part.x, layer_dtype(layers, part.x))
        for place, p in zip(at("variables"), layers, strict=True):
            yield from _named(place, p)
        yield Traced(at("forward")[0], "x", x)
        residuals, pairs = [], iter(part_keys)
        for place, layer, p in zip(at("forward"), model.layers, layers, strict=True):
            pair = next(pairs, None) if layer.random else None
            named, kept = do(place, _forward(layer, pair, train=train), p, x)
            x = named["output"]
            residuals.append(kept)
            yield from _named(place, named)
        place = Place("loss", None, type(loss).__name__, number)
        output = _cast(x, part.x.dtype)
        named, _ = do(place, _cost(loss, scale), output, part.y, part.weight)
        yield from _named(place, named)
        gradient = _cast(named["doutput"], x.dtype)
        for operation, operands in _predictions(loss, output, part):
            yield from _named(place, do(place, operation, *operands)[0])
        first = 0 if input_gradient else model.first_trained
        for i, place in reversed([*enumerate(at("backward"))][first:]):
            backward = _backward(model.layers[i], input_gradient=input_gradient or i > first)
            named, _ = do(place, backward, layers[i], residuals[i], gradient)
            gradient = named.get("dx")
            yield from _named(place, named)
        for i, place in enumerate(at("track") if train else ()):
            named, _ = do(place, _track(model.layers[i]), layers[i], residuals[i])
            yield from _named(place, named)
            layers[i] = {**layers[i], **{k.removeprefix("new "): v for k, v in named.items()}}


def _named(place: Place, arrays: Params) -> Iterator[Traced]:
    return (Traced(place, name, array) for name, array in arrays.items())


def describe(traced: Traced) -> str:
    """Say in words which array it is.

    >>> describe(Traced(Place("backward", 0, "dense"), "dW", None))
    'the gradient of W of layer 0 (dense)'
    """
    place, name, _ = traced
    if place.phase == "variables":
        return f"parameter {name} of {place}"
    if place.phase == "backward" and name != "dx":
        return f"the gradient of {name.removeprefix('d')} of {place}"
    words = {"x": INPUT, "C": str(place), "doutput": f"the gradient of {place}"}
    words["dx"] = f"the input gradient of {place}"
    return words.get(name, f"the {name} of {place}")


def _cast(x: Array, dtype: Any) -> Array:
    return x if x.dtype == dtype else array_namespace(x).astype(x, dtype)


def _forward(layer: Layer, keys: Any, *, train: bool) -> Operation:
    def forward(p: Params, x: Array) -> Results:
        y, residuals = layer.forward(p, x, train=train, keys=keys)
        return {"output": y}, residuals

    return forward


def _cost(loss: Loss, scale: Array | float) -> Operation:
    def cost(output: Array, y: Array, weight: Array | None) -> Results:
        sums = loss.sums(output, y, weight)
        value = quotient(sums.loss, sums.denominator)
        return {"C": value, "doutput": output_gradient(sums, scale)}, None

    return cost


def _predictions(loss: Loss, output: Array, part: Batch) -> Iterator[tuple[Operation, tuple]]:
    yield lambda z: ({"prediction": loss.predict(z)}, None), (output,)
    if loss.predicts != "value":
        operands = (output, part.y, part.weight)
        yield lambda z, y, s: ({"correct": loss.correct(z, y, s)[0]}, None), operands


def _backward(layer: Layer, *, input_gradient: bool) -> Operation:
    def backward(p: Params, residuals: Any, dy: Array) -> Results:
        dx, grads = layer.backward(p, residuals, dy, input_gradient=input_gradient)
        named = {f"d{k}": v for k, v in grads.items()}
        return {**named, "dx": dx} if input_gradient else named, None

    return backward


def _track(layer: Layer) -> Operation:
    def track(p: Params, residuals: Any) -> Results:
        return {f"new {k}": v for k, v in layer.track(p, residuals).items()}, None

    return track
