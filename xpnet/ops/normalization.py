"""Layer, group, batch and root-mean-square normalisation, and their adjoints.

    y = γ x̂ + β        x̂ = (x - μ) / √(v + ε)

μ and v are the mean and the (biased) variance of x over the normalised axes: the features of each
row for layer normalisation (Ba, Kiros and Hinton 2016), groups of them for group normalisation (Wu
and He 2018), the rows of each feature for batch normalisation (Ioffe and Szegedy 2015). All have
the same backward pass: x reaches y directly, through μ and through v, and with g = γ dy and means
over the normalised axes the three add up to

    dx = (g - mean(g) - x̂ mean(g x̂)) / √(v + ε)

Without μ, root-mean-square normalisation (Zhang and Sennrich 2019) has x̂ = x / √(mean(x²) + ε) and
dx = (g - x̂ mean(g x̂)) / √(mean(x²) + ε).

Squares have room in float32 up to |x| = 1e19, in float64 up to 1e154; in float16 only up to 255, so
that 16-bit numbers are computed with in float32, and v, μ and 1/√(v + ε) stay that.
"""

from collections.abc import Callable, Sequence

from array_api_compat import array_namespace

from xpnet.ops.special import widened
from xpnet.typing import Array

__all__ = [
    "Means",
    "normalize",
    "normalize_backward",
    "normalize_fixed_backward",
    "rms_normalize",
    "rms_normalize_backward",
]

Means = Callable[..., Sequence[Array]]  # the mean of each array, its axes kept as 1


@widened
def normalize(
    x: Array, axis: int | tuple[int, ...], eps: float, means_of: Means | None = None
) -> tuple[Array, ...]:
    """Return x̂ (shape of x) and, with the normalised axes kept as 1, 1/√(v + ε), μ and v.

    ``means_of`` takes means over these axes where x is only a part of what is normalised.
    """
    xp = array_namespace(x)
    means_of = means_of or _means_over(axis)
    (mean,) = means_of(x)
    centred = x - mean
    (var,) = means_of(centred * centred)
    inv_std = 1.0 / xp.sqrt(var + eps)
    centred *= inv_std
    return centred, inv_std, mean, var


@widened
def normalize_backward(
    dx_hat: Array,
    x_hat: Array,
    inv_std: Array,
    axis: int | tuple[int, ...],
    means_of: Means | None = None,
) -> Array:
    """dx for dx̂ = γ dy, where μ and v are functions of x; ``means_of`` as of :func:`normalize`."""
    means_of = means_of or _means_over(axis)
    along_mean, along_x_hat = means_of(dx_hat, dx_hat * x_hat)
    return (dx_hat - along_mean - x_hat * along_x_hat) * inv_std


def _means_over(axis: int | tuple[int, ...]) -> Means:
    return lambda *arrays: [array_namespace(x).mean(x, axis=axis, keepdims=True) for x in arrays]


def normalize_fixed_backward(dx_hat: Array, inv_std: Array) -> Array:
    """dx for dx̂ = γ dy, where μ and v are constants (running statistics): dx̂ / √(v + ε)."""
    return dx_hat * inv_std


@widened
def rms_normalize(x: Array, eps: float) -> tuple[Array, Array]:
    """Return x̂ (shape of x) and 1/√(mean(x²) + ε), over the last axis, which is kept as 1.

    >>> import numpy as np
    >>> rms_normalize(np.array([[3.0, 4.0]]), 0.0)[0].round(3)
    array([[0.849, 1.131]])
    """
    xp = array_namespace(x)
    inv_rms = 1.0 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * inv_rms, inv_rms


@widened
def rms_normalize_backward(dx_hat: Array, x_hat: Array, inv_rms: Array) -> Array:
    """dx for dx̂ = γ dy."""
    xp = array_namespace(dx_hat)
    along_x_hat = xp.mean(dx_hat * x_hat, axis=-1, keepdims=True)
    return (dx_hat - x_hat * along_x_hat) * inv_rms
