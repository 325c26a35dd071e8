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
"""

from array_api_compat import array_namespace

from xpnet.ops.special import widened
from xpnet.typing import Array

__all__ = [
    "normalize",
    "normalize_backward",
    "normalize_fixed_backward",
    "rms_normalize",
    "rms_normalize_backward",
]


def normalize(x: Array, axis: int | tuple[int, ...], eps: float) -> tuple[Array, ...]:
    """Return x̂ (shape of x) and, with the normalised axes kept as 1, 1/√(v + ε), μ and v.

    For 16-bit x those three are float32: v has no room in float16 where |x| exceeds 255. In float32
    there is room up to 1e19, in float64 up to 1e154.
    """
    xp = array_namespace(x)
    wide = widened(x)
    mean = xp.mean(wide, axis=axis, keepdims=True)
    centred = wide - mean
    var = xp.mean(centred * centred, axis=axis, keepdims=True)
    inv_std = 1.0 / xp.sqrt(var + eps)
    centred *= inv_std
    return xp.astype(centred, x.dtype, copy=False), inv_std, mean, var


def normalize_backward(
    dx_hat: Array, x_hat: Array, inv_std: Array, axis: int | tuple[int, ...]
) -> Array:
    """dx for dx̂ = γ dy, where μ and v are functions of x."""
    xp = array_namespace(dx_hat)
    g, x_hat = widened(dx_hat), widened(x_hat)
    along_mean = xp.mean(g, axis=axis, keepdims=True)
    along_x_hat = xp.mean(g * x_hat, axis=axis, keepdims=True)
    return xp.astype((g - along_mean - x_hat * along_x_hat) * inv_std, dx_hat.dtype, copy=False)


def normalize_fixed_backward(dx_hat: Array, inv_std: Array) -> Array:
    """dx for dx̂ = γ dy, where μ and v are constants (running statistics): dx̂ / √(v + ε)."""
    return dx_hat * inv_std


def rms_normalize(x: Array, eps: float) -> tuple[Array, Array]:
    """Return x̂ (shape of x) and 1/√(mean(x²) + ε), over the last axis, which is kept as 1.

    The latter is float32 for 16-bit x, as in :func:`normalize`.

    >>> import numpy as np
    >>> rms_normalize(np.array([[3.0, 4.0]]), 0.0)[0].round(3)
    array([[0.849, 1.131]])
    """
    xp = array_namespace(x)
    wide = widened(x)
    inv_rms = 1.0 / xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return xp.astype(wide * inv_rms, x.dtype, copy=False), inv_rms


def rms_normalize_backward(dx_hat: Array, x_hat: Array, inv_rms: Array) -> Array:
    """dx for dx̂ = γ dy."""
    xp = array_namespace(dx_hat)
    g, x_hat = widened(dx_hat), widened(x_hat)
    along_x_hat = xp.mean(g * x_hat, axis=-1, keepdims=True)
    return xp.astype((g - x_hat * along_x_hat) * inv_rms, dx_hat.dtype, copy=False)
