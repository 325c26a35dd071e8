"""A trained factor for each feature, and its adjoint.

y_nj = s_j x_nj        dx_nj = s_j dy_nj        ds_j = Σ_n x_nj dy_nj
"""

from array_api_compat import array_namespace

from xpnet.typing import Array

__all__ = ["feature_scale", "feature_scale_backward"]


def feature_scale(x: Array, s: Array) -> Array:
    """y = s x for x (N, ..., J) and s (J,).

    >>> import numpy as np
    >>> feature_scale(np.array([[1.0, 2.0]]), np.array([3.0, 0.5]))
    array([[3., 1.]])
    """
    return x * s


def feature_scale_backward(
    dy: Array, x: Array, s: Array, *, input_gradient: bool = True
) -> tuple[Array | None, Array]:
    """Return dx (the shape of x), unless it is not needed, and ds (J,) for dy = dC/dy."""
    rows = tuple(range(len(dy.shape) - 1))
    ds = array_namespace(dy).sum(dy * x, axis=rows)
    return dy * s if input_gradient else None, ds
