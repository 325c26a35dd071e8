"""Element-wise losses and their derivatives: e_nj = f(z_nj, y_nj), all shapes equal.

The hinges and the binary cross-entropy are for two classes, the others for numbers.
"""

from array_api_compat import array_namespace

from xpnet.elementwise import clip
from xpnet.ops.activations import sigmoid, softplus
from xpnet.typing import Array

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_backward",
    "hinge",
    "hinge_backward",
    "huber",
    "huber_backward",
    "poisson",
    "poisson_backward",
    "squared_error",
    "squared_error_backward",
    "squared_hinge",
    "squared_hinge_backward",
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
    return clip(z - y, -delta, delta)


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


def hinge(z: Array, y: Array) -> Array:
    """e = max(1 - s z, 0), s = 1 where y > 0, else -1: targets are 1 and 0, or 1 and -1.

    Cortes and Vapnik 1995.

    >>> import numpy as np
    >>> hinge(np.array([0.5, 0.5, 2.0]), np.array([1.0, 0.0, 1.0]))
    array([0.5, 1.5, 0. ])
    """
    xp = array_namespace(z)
    return xp.maximum(1.0 - _sign(y) * z, 0.0)


def hinge_backward(z: Array, y: Array) -> Array:
    """dz = -s where s z < 1, else 0: at the kink the derivative is taken as 0."""
    xp = array_namespace(z)
    s = _sign(y)
    return xp.where(s * z < 1.0, -s, 0.0)


def squared_hinge(z: Array, y: Array) -> Array:
    """e = max(1 - s z, 0)², s = 1 where y > 0, else -1. Lee and Mangasarian 2001."""
    margin = hinge(z, y)
    return margin * margin


def squared_hinge_backward(z: Array, y: Array) -> Array:
    """dz = -2 s max(1 - s z, 0)."""
    return -2.0 * _sign(y) * hinge(z, y)


def _sign(y: Array) -> Array:
    """1 where y > 0, else -1."""
    return 2.0 * array_namespace(y).astype(y > 0.0, y.dtype) - 1.0


def poisson(z: Array, y: Array, *, log_input: bool = True, eps: float = 1e-8) -> Array:
    """e = -log P(y) + log y! of a Poisson variable of rate exp z, or of rate z.

    exp(z) - y z, or z - y log(z + eps) without ``log_input``; ``eps`` must be a number of the
    dtype, and 1e-8 is 0 in float16.

    >>> import numpy as np
    >>> poisson(np.array([0.0]), np.array([3.0])), poisson(np.array([1.0]), np.array([3.0]))
    (array([1.]), array([-0.28171817]))
    """
    xp = array_namespace(z)
    return xp.exp(z) - y * z if log_input else z - y * xp.log(z + eps)


def poisson_backward(z: Array, y: Array, *, log_input: bool = True, eps: float = 1e-8) -> Array:
    """dz = exp(z) - y, or 1 - y / (z + eps)."""
    xp = array_namespace(z)
    return xp.exp(z) - y if log_input else 1.0 - y / (z + eps)
