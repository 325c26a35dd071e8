"""One forward and backward pass, layer by layer, by the functions that training runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from xpnet.backends import Backend
from xpnet.errors import ConfigError
from xpnet.explanation.layer_steps import Pass, backward_steps, forward_steps
from xpnet.explanation.loss_steps import LossPass, loss_steps, run_loss
from xpnet.explanation.model import Step
from xpnet.explanation.output import Head, Output, check_size, output_of
from xpnet.explanation.subject import Subject
from xpnet.explanation.two_ways import OtherWay, on_way, other_way, own_way
from xpnet.nn import Activation, Dense, Layer, LogSoftmax, Softmax
from xpnet.ops.softmax import softmax_jacobian
from xpnet.step import Batch, dropout_keys
from xpnet.step.trace import Call, Recorder, trace
from xpnet.typing import Array

__all__ = ["LayerPass", "layer_pass"]


@dataclass(frozen=True, eq=False)
class LayerPass:
    """The steps in the order of computation, and the output layer for a closer look."""

    steps: tuple[Step, ...]
    head: Head
    out: Output
    loss: LossPass


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
    output, host = recorder.of("loss")[None].operands[0], backend.to_host
    forward, backward = recorder.of("forward"), recorder.of("backward")
    p, x = forward[last].operands
    dz, dW = backward[last].operands[2], backward[last].results[0]["dW"]
    head = Head(x, p, forward[last].results[0]["output"], batch.y, dz, dW)
    passes = [_pass(layer, forward[i], backward[i], host) for i, layer in enumerate(model.layers)]
    of_loss, out = run_loss(subject.loss, output, batch.y, host), output_of(head, subject.loss)
    steps = tuple(_steps(passes, last, of_loss, other_way(out, of_loss, host)))
    return LayerPass(steps, head, out, of_loss)


def _steps(passes: list[Pass], last: int, of_loss: LossPass, other: OtherWay) -> Iterator[Step]:
    """Yield the steps in the order of computation; ``last`` is the last dense layer."""
    loss, own = loss_steps(of_loss), own_way(other)

    def mark(steps: Iterable[Step]) -> Iterable[Step]:
        return on_way(steps, own) if own else steps

    for p in passes[: last + 1]:
        yield from forward_steps(p)
    for p in passes[last + 1 :]:
        yield from mark(forward_steps(p))
    yield from (*other.function, *loss.target, *other.value, *mark(loss.value), *loss.cost)
    yield from (*other.gradient, *mark(loss.gradient))
    for p in reversed(passes[last + 1 :]):
        yield from mark(backward_steps(p))
    yield from other.fused
    for p in reversed(passes[: last + 1]):
        yield from backward_steps(p)


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
