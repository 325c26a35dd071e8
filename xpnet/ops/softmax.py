"""Softmax, its logarithm, and the product of each one's Jacobian with a gradient.

In every floating dtype the results are finite where the truth is a number of the dtype, if the
differences of the logits are, too: within 3 units in the last place and 2 ε.
"""

from array_api_compat import array_namespace, device

from xpnet.typing import Array

__all__ = [
    "log_softmax",
    "log_softmax_backward",
    "softmax",
    "softmax_backward",
    "softmax_jacobian",
]


def softmax(z: Array, axis: int = -1) -> Array:
    """a_k = exp z_k / Σ_s exp z_s along ``axis``; same shape as z.

    >>> import numpy as np
    >>> softmax(np.array([[0.0, np.log(3.0)]]))
    array([[0.25, 0.75]])
    """
    xp = array_namespace(z)
    # The shift cancels in the ratio and keeps every exponent <= 0.
    a = xp.exp(z - xp.max(z, axis=axis, keepdims=True))
    a /= xp.sum(a, axis=axis, keepdims=True)
    return a


def softmax_backward(da: Array, a: Array, axis: int = -1) -> Array:
    """dz_s = Σ_k da_k J_ks = a_s (da_s - Σ_k da_k a_k), the vector times the Jacobian.

    J_ks = ∂a_k/∂z_s = a_k (δ_ks - a_s) is full: every output depends on every input. It is
    never formed; see :func:`softmax_jacobian` for the matrix itself.

    >>> import numpy as np
    >>> softmax_backward(np.array([[1.0, 0.0]]), np.array([[0.25, 0.75]]))
    array([[ 0.1875, -0.1875]])
    """
    xp = array_namespace(da)
    return a * (da - xp.sum(da * a, axis=axis, keepdims=True))


def softmax_jacobian(a: Array) -> Array:
    """J_nks = a_nk (δ_ks - a_ns), (N, K, K) for a (N, K): to inspect, not to train with.

    >>> import numpy as np
    >>> softmax_jacobian(np.array([[0.25, 0.75]]))
    array([[[ 0.1875, -0.1875],
            [-0.1875,  0.1875]]])
    """
    xp = array_namespace(a)
    identity = xp.eye(a.shape[-1], dtype=a.dtype, device=device(a))  # δ_ks
    return a[:, :, None] * (identity[None, :, :] - a[:, None, :])


def log_softmax(z: Array, axis: int = -1) -> Array:
    """l_k = log softmax(z)_k = z_k - log Σ_s exp z_s along ``axis``, finite where a_k is 0.

    >>> import numpy as np
    >>> log_softmax(np.array([[1000.0, 0.0]]))
    array([[    0., -1000.]])
    """
    xp = array_namespace(z)
    shifted = z - xp.max(z, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


def log_softmax_backward(dl: Array, log_a: Array, axis: int = -1) -> Array:
    """dz_s = Σ_k dl_k ∂l_k/∂z_s = dl_s - a_s Σ_k dl_k, from ∂l_k/∂z_s = δ_ks - a_s."""
    xp = array_namespace(dl)
    return dl - xp.exp(log_a) * xp.sum(dl, axis=axis, keepdims=True)
