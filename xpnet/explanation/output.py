"""The output function, its Jacobian and the loss's gradient: what the ways to dz are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from xpnet.errors import ConfigError
from xpnet.nn import Identity, Layer, Sigmoid
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Loss,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
    quotient,
)
from xpnet.ops.activations import identity_backward, sigmoid_backward
from xpnet.ops.cross_entropy import cross_entropy_backward, softmax_cross_entropy_backward
from xpnet.ops.softmax import log_softmax, softmax, softmax_backward, softmax_jacobian
from xpnet.typing import Array

__all__ = [
    "Head",
    "Output",
    "check_size",
    "jacobian",
    "output_of",
    "sigmoid_da",
    "sigmoid_losses",
    "vector_times_jacobian",
]

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


class Output(NamedTuple):
    """An output function a(z), the loss's gradient with respect to a, and ways to combine them."""

    name: str
    a: Array  # (N, K)
    da: Array  # (N, K)
    J: Array  # (N, K, K)
    component: Callable[[np.ndarray, int, int], float]  # J_ks from a row of a
    backward: Callable[[Array, Array], Array]  # the product form
    fused: Array  # (N, K) dz without a Jacobian
    J_formula: str
    product: str
    fused_formula: str
    fused_function: str
    log_a: Array | None = None  # (N, K) of a softmax, from the logits


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


def check_size(shape: tuple[int, ...]) -> None:
    """Raise ConfigError where the Jacobian of an output of this shape is too large."""
    N, K = shape[0], shape[-1]
    if N * K * K > LARGEST_JACOBIAN:
        msg = f"the Jacobian ({N}, {K}, {K}) is too large to form; choose a smaller --batch"
        raise ConfigError(msg)


def vector_times_jacobian(out: Output) -> Array:
    """Return dz_ns = Σ_k da_nk J_nks, (N, K): which training avoids."""
    return array_namespace(out.J).matmul(out.da[:, None, :], out.J)[:, 0, :]


def output_of(head: Head, loss: Loss) -> Output:
    """Return what dz is computed from; raises ConfigError if the Jacobian is too large."""
    check_size(head.z.shape)
    if isinstance(loss, SoftmaxCrossEntropy | CrossEntropy | NegativeLogLikelihood):
        return _softmax(head, loss)
    z, D = head.z, _denominator(head, loss, head.z)
    if isinstance(loss, BinaryCrossEntropy):
        return _sigmoid(head, loss, D)
    layer: Layer = Identity()
    a, kept = layer.forward({}, z)
    da = quotient(loss.terms(a, head.target).gradient, D)
    return Output(
        "identity", a, da, jacobian(layer, kept, z), lambda a, k, s: float(k == s),
        identity_backward, da, "J_nks = δ_ks", "dz_ns = da_ns",
        "dz_ns = ∂C/∂z_ns", f"{type(loss).__name__}.terms",
    )  # fmt: skip


def _denominator(head: Head, loss: Loss, output: Array) -> Array:
    return loss.sums(output, head.target).denominator


def _softmax(
    head: Head, loss: SoftmaxCrossEntropy | CrossEntropy | NegativeLogLikelihood
) -> Output:
    z = head.z
    a, log_a = softmax(z), log_softmax(z)
    D = _denominator(head, loss, a)
    v = loss._targets(z, head.target, None)[0]
    return Output(
        "softmax",
        a,
        quotient(cross_entropy_backward(a, v), D),
        softmax_jacobian(a),
        lambda a, k, s: a[k] * ((1.0 if k == s else 0.0) - a[s]),
        softmax_backward,
        quotient(softmax_cross_entropy_backward(log_a, v), D),
        "J_nks = a_nk (δ_ks - a_ns)",
        "dz_ns = a_ns (da_ns - Σ_k da_nk a_nk)",
        "dz_ns = ⟨(Σ_k v_nk) a_ns - v_ns|D⟩",
        "softmax_cross_entropy_backward",
        log_a,
    )


def _sigmoid(head: Head, loss: BinaryCrossEntropy, D: Array) -> Output:
    layer: Layer = Sigmoid()
    a, kept = layer.forward({}, head.z)
    xp = array_namespace(a)
    y = xp.reshape(xp.astype(head.target, a.dtype, copy=False), a.shape)
    p = loss.positive_weight
    return Output(
        "sigmoid", a, sigmoid_da(a, y, p, D), jacobian(layer, kept, a),
        lambda a, k, s: a[k] * (1.0 - a[k]) if k == s else 0.0,
        sigmoid_backward, quotient(loss.terms(head.z, head.target).gradient, D),
        "J_nks = δ_ks a_nk (1 - a_nk)",
        "dz_ns = da_ns a_ns (1 - a_ns)",
        "dz_ns = ⟨(1 - y_ns) σ(z_ns) - p y_ns σ(-z_ns)|D⟩", "binary_cross_entropy_backward",
    )  # fmt: skip


# xpnet computes this loss from logits only, so what takes probabilities is written here. What is
# not used counts as 0, for 0 log 0 is no number.


def sigmoid_losses(a: Array, y: Array, p: float) -> Array:
    """e_nk = -p y_nk log a_nk - (1 - y_nk) log(1 - a_nk), (N, K)."""
    xp = array_namespace(a)
    yes = xp.where(y == 0.0, 0.0, p * y * xp.log(a))
    no = xp.where(y == 1.0, 0.0, (1.0 - y) * xp.log(1.0 - a))
    return -yes - no


def sigmoid_da(a: Array, y: Array, p: float, D: Array) -> Array:
    """da_nk = ((1 - y_nk) / (1 - a_nk) - p y_nk / a_nk) / D, (N, K)."""
    xp = array_namespace(a)
    no = xp.where(y == 1.0, 0.0, (1.0 - y) / (1.0 - a))
    yes = xp.where(y == 0.0, 0.0, p * y / a)
    return quotient(no - yes, D)
