"""One forward and backward pass, layer by layer, by the functions that training runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from xpnet.backends import Backend
from xpnet.errors import ConfigError
from xpnet.explanation.layer_steps import Pass, backward_steps, forward_steps
from xpnet.explanation.loss_steps import loss_steps, run_loss
from xpnet.explanation.model import Step
from xpnet.explanation.subject import Subject
from xpnet.nn import Activation, Dense, Layer, LogSoftmax, Softmax, layer_name
from xpnet.ops.softmax import softmax_jacobian
from xpnet.step import dropout_keys
from xpnet.typing import Array

__all__ = ["Head", "Walk", "jacobian", "walk"]

LARGEST_JACOBIAN = 20_000_000  # entries; more is no longer an explanation


@dataclass(frozen=True, eq=False)
class Head:
    """The last dense layer and what follows it, on the backend."""

    x: Array  # (N, I)
    params: Mapping[str, Array]
    z: Array  # (N, K)
    target: Array
    dz: Array  # (N, K) as training computes it
    dW: Array  # (I, K)  # noqa: N815


@dataclass(frozen=True, eq=False)
class Walk:
    """The steps in the order of computation, and the output layer for a closer look."""

    steps: tuple[Step, ...]
    head: Head


def jacobian(layer: Layer, residuals: Any, like: Array) -> Array:
    """Return J_nks = ∂a_nk/∂z_ns, (N, K, K): the layer's own backward of each unit vector.

    ``like`` (N, K) has the shape of the output. It is right for a layer without parameters.
    """
    xp = array_namespace(like)
    N, K = like.shape
    units = xp.eye(K, dtype=like.dtype, device=device(like))
    rows = []
    for k in range(K):
        unit = xp.broadcast_to(units[k : k + 1, :], (N, K))
        rows.append(layer.backward({}, residuals, unit)[0])
    return xp.stack(rows, axis=1)


def walk(subject: Subject, backend: Backend) -> Walk:
    """Take one step of training apart, on ``backend``.

    Raises ConfigError for a model without a dense layer or a Jacobian that is too large to form.
    """
    model = subject.model
    params = [{k: backend.asarray(v) for k, v in p.items()} for p in subject.params]
    target = backend.asarray(subject.y)
    inputs, residuals = [backend.asarray(subject.x)], []
    pairs = iter(dropout_keys(subject.seed, 0, model.n_random))
    for layer, p in zip(model.layers, params, strict=True):
        keys = next(pairs, None) if layer.random else None
        y, r = layer.forward(p, inputs[-1], train=subject.train, keys=keys)
        inputs.append(y)
        residuals.append(r)
    numbers, doutput = run_loss(subject.loss, inputs[-1], target, backend.to_host)
    forward_loss, backward_loss = loss_steps(numbers)
    gradients, grads = _backward(model.layers, params, residuals, doutput)
    passes = [
        _pass(i, layer, params, inputs, residuals, gradients, grads, backend.to_host)
        for i, layer in enumerate(model.layers)
    ]
    forward = [step for p in passes for step in forward_steps(p)]
    backward = [step for p in reversed(passes) for step in backward_steps(p)]
    last = _last_dense(model.layers)
    head = Head(
        inputs[last], params[last], inputs[last + 1], target, gradients[last + 1], grads[last]["W"]
    )
    return Walk((*forward, *forward_loss, *backward_loss, *backward), head)


def _backward(
    layers: tuple[Layer, ...], params: list, residuals: list, doutput: Array
) -> tuple[list[Array], list[dict[str, Array]]]:
    """Return dC/d of the input, of each layer's output, and each layer's gradients."""
    gradients: list[Any] = [doutput]
    grads: list[dict[str, Array]] = []
    for layer, p, r in zip(reversed(layers), reversed(params), reversed(residuals), strict=True):
        dx, g = layer.backward(p, r, gradients[0])
        gradients.insert(0, dx)
        grads.insert(0, g)
    return gradients, grads


def _last_dense(layers: tuple[Layer, ...]) -> int:
    dense = [i for i, layer in enumerate(layers) if isinstance(layer, Dense)]
    after = layers[dense[-1] + 1 :] if dense else ()
    if not dense or not all(isinstance(layer, Softmax) for layer in after):
        msg = "explain needs a model that ends in a dense layer, with or without a softmax"
        raise ConfigError(msg)
    return dense[-1]


def _pass(
    i: int,
    layer: Layer,
    params: list,
    inputs: list[Array],
    residuals: list,
    gradients: list[Array],
    grads: list[dict[str, Array]],
    host: Callable[[Array], np.ndarray],
) -> Pass:
    y, dy = inputs[i + 1], gradients[i + 1]
    xp = array_namespace(y)
    slopes = y
    J = None
    if isinstance(layer, Softmax):
        check_size(y.shape)
        J = host(softmax_jacobian(y)) if len(y.shape) == 2 else None
    elif isinstance(layer, Activation) and not isinstance(layer, LogSoftmax):
        slopes = layer.backward({}, residuals[i], xp.ones_like(y))[0]
    kept = residuals[i]
    if isinstance(kept, tuple) and all(hasattr(r, "dtype") for r in kept):
        kept = tuple(host(r) for r in kept)
    elif hasattr(kept, "dtype"):
        kept = host(kept)
    return Pass(
        layer, f"{i} {layer_name(layer)}", _on_host(params[i], host), host(inputs[i]), host(y),
        kept, host(dy), host(gradients[i]), _on_host(grads[i], host), host(slopes), J,
    )  # fmt: skip


def _on_host(arrays: Mapping[str, Array], host: Callable) -> dict[str, np.ndarray]:
    return {name: host(array) for name, array in arrays.items()}


def check_size(shape: tuple[int, ...]) -> None:
    """Raise ConfigError where the Jacobian of an output of this shape is too large."""
    N, K = shape[0], shape[-1]
    if N * K * K > LARGEST_JACOBIAN:
        msg = f"the Jacobian ({N}, {K}, {K}) is too large to form; choose a smaller --batch"
        raise ConfigError(msg)
