"""Element-wise losses and their derivatives: e_nj = f(z_nj, y_nj), all shapes equal."""

from array_api_compat import array_namespace

from xpnet.ops.activations import sigmoid, softplus
from xpnet.typing import Array

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_backward",
    "huber",
    "huber_backward",
    "squared_error",
    "squared_error_backward",
]


def squared_error(z: Array, y: Array) -> Array:
    """e = (z - y)²."""
    r = z - y
    return r * r


def squared_error_backward(z: Array, y: Array) -> Array:
    """dz = 2 (z - y)."""
    return 2.0 * (z - y)


def huber(z: Array, y: Array, delta: float = 1.0) -> Array:
    """e = r²/2 where |r| <= δ, else δ (|r| - δ/2), r = z - y. Huber 1964.

    >>> import numpy as np
    >>> huber(np.array([0.5, 3.0]), np.array([0.0, 0.0]))
    array([0.125, 2.5  ])
    """
    xp = array_namespace(z)
    size = xp.abs(z - y)
    inner = xp.minimum(size, delta)  # |r| inside, δ outside: one formula covers both
    return inner * (size - 0.5 * inner)


def huber_backward(z: Array, y: Array, delta: float = 1.0) -> Array:
    """dz = r clipped to [-δ, δ]."""
    xp = array_namespace(z)
    return xp.clip(z - y, min=-delta, max=delta)


def binary_cross_entropy(z: Array, y: Array, positive_weight: float = 1.0) -> Array:
    """e = -(p y log σ(z) + (1 - y) log(1 - σ(z))) from logits z, for y in [0, 1].

    Computed as p y softplus(-z) + (1 - y) softplus(z), which does not overflow for any logit.

    >>> import numpy as np
    >>> binary_cross_entropy(np.array([0.0, -1000.0]), np.array([1.0, 1.0]))
    array([6.93147181e-01, 1.00000000e+03])
    """
    return positive_weight * y * softplus(-z) + (1.0 - y) * softplus(z)


def binary_cross_entropy_backward(z: Array, y: Array, positive_weight: float = 1.0) -> Array:
    """dz = (1 - y) σ(z) - p y σ(-z), which is σ(z) - y where p = 1."""
    return (1.0 - y) * sigmoid(z) - positive_weight * y * sigmoid(-z)
