"""The dense (affine, fully connected) map.

    z_nj = Σ_i x_ni W_ij + b_j

The batch is a matrix of rows. Textbooks write one sample as a column, z = W a + b with W (J, I);
the two are transposes of each other: (x W)ᵀ = Wᵀ xᵀ.
"""

from array_api_compat import array_namespace

from xpnet.typing import Array

__all__ = ["dense", "dense_backward"]


def dense(x: Array, W: Array, b: Array | None = None) -> Array:
    """z = x W + b for x (N, I), W (I, J), b (J,); returns z (N, J).

    >>> import numpy as np
    >>> dense(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([5.0]))
    array([[16.]])
    """
    z = x @ W  # (N, J)
    if b is not None:
        z += b
    return z


def dense_backward(
    dz: Array, x: Array, W: Array, *, input_gradient: bool = True
) -> tuple[Array | None, Array, Array]:
    """Return dx (N, I), dW (I, J) and db (J,) for dz = dC/dz (N, J).

    From ∂z_ns/∂W_ij = x_ni δ_sj, ∂z_ns/∂b_j = δ_sj and ∂z_ns/∂x_ni = W_is:

        dW_ij = Σ_n x_ni dz_nj        db_j = Σ_n dz_nj        dx_ni = Σ_j dz_nj W_ij

    ``input_gradient=False`` leaves dx out (None): nothing below the first layer needs it, and it
    is a third of that layer's work.
    """
    xp = array_namespace(dz)
    dW = x.T @ dz  # (I, J)
    db = xp.sum(dz, axis=0)  # (J,)
    dx = dz @ W.T if input_gradient else None  # (N, I)
    return dx, dW, db
