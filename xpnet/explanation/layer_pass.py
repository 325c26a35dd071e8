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
from xpnet.nn import Activation, Dense, Layer, LogSoftmax, Softmax
from xpnet.ops.softmax import softmax_jacobian
from xpnet.step import Batch, dropout_keys
from xpnet.step.trace import Call, Recorder, trace
from xpnet.typing import Array

__all__ = ["Head", "LayerPass", "jacobian", "layer_pass"]

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
class LayerPass:
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


def layer_pass(subject: Subject, backend: Backend) -> LayerPass:
    """Take one step of training apart, on ``backend``.

    Raises ConfigError for a model without a dense layer or a Jacobian that is too large to form.
    """
    model, last = subject.model, _last_dense(subject.model.layers)
    params = [{k: backend.asarray(v) for k, v in p.items()} for p in subject.params]
    batch = Batch(backend.asarray(subject.x), backend.asarray(subject.y))
    keys, recorder = dropout_keys(subject.seed, 0, model.n_random), Recorder()
    options: Any = {"train": subject.train, "input_gradient": True, "do": recorder}
    for _ in trace(model, subject.loss, params, batch, keys, **options):
        pass
    output = recorder.of("loss")[None].operands[0]
    forward_loss, backward_loss = loss_steps(
        run_loss(subject.loss, output, batch.y, backend.to_host)
    )
    forward, backward = recorder.of("forward"), recorder.of("backward")
    passes = [
        _pass(layer, forward[i], backward[i], backend.to_host)
        for i, layer in enumerate(model.layers)
    ]
    steps = (
        *(step for p in passes for step in forward_steps(p)),
        *forward_loss,
        *backward_loss,
        *(step for p in reversed(passes) for step in backward_steps(p)),
    )
    p, x = forward[last].operands
    dz, dW = backward[last].operands[2], backward[last].results[0]["dW"]
    head = Head(x, p, forward[last].results[0]["output"], batch.y, dz, dW)
    return LayerPass(steps, head)


def _last_dense(layers: tuple[Layer, ...]) -> int:
    dense = [i for i, layer in enumerate(layers) if isinstance(layer, Dense)]
    after = layers[dense[-1] + 1 :] if dense else ()
    if not dense or not all(isinstance(layer, Softmax | LogSoftmax) for layer in after):
        msg = "explain needs a model that ends in a dense layer, with or without a softmax"
        raise ConfigError(msg)
    return dense[-1]


def _pass(layer: Layer, forward: Call, backward: Call, host: Callable[[Array], np.ndarray]) -> Pass:
    (params, x), (named, residuals) = forward.operands, forward.results
    y, dy = named["output"], backward.operands[2]
    gradients = _on_host(backward.results[0], host)
    xp = array_namespace(y)
    slopes = y
    J = None
    if isinstance(layer, Softmax):
        check_size(y.shape)
        J = host(softmax_jacobian(y)) if len(y.shape) == 2 else None
    elif isinstance(layer, Activation) and layer.elementwise:
        slopes = layer.backward({}, residuals, xp.ones_like(y))[0]
    kept = residuals
    if isinstance(kept, tuple) and all(hasattr(r, "dtype") for r in kept):
        kept = tuple(host(r) for r in kept)
    elif hasattr(kept, "dtype"):
        kept = host(kept)
    place = f"{forward.place.layer} {forward.place.name}"
    dx, grads = gradients.pop("dx"), {k.removeprefix("d"): g for k, g in gradients.items()}
    return Pass(
        layer, place, _on_host(params, host), host(x), host(y), kept, host(dy), dx, grads,
        host(slopes), J,
    )  # fmt: skip


def _on_host(arrays: Mapping[str, Array], host: Callable) -> dict[str, np.ndarray]:
    return {name: host(array) for name, array in arrays.items()}


def check_size(shape: tuple[int, ...]) -> None:
    """Raise ConfigError where the Jacobian of an output of this shape is too large."""
    N, K = shape[0], shape[-1]
    if N * K * K > LARGEST_JACOBIAN:
        msg = f"the Jacobian ({N}, {K}, {K}) is too large to form; choose a smaller --batch"
        raise ConfigError(msg)
