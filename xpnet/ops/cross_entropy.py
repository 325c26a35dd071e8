"""Cross-entropy, from probabilities and from logits, for every form of target.

Each function returns one loss and one gradient row per example, weighted but not averaged:
ℓ_n = -s_n Σ_k v_nk log a_nk, where v_nk = w_k t_nk is a target row times class weights and s_n a
sample weight. A :class:`xpnet.nn.losses.Loss` divides both by the same denominator.
"""

from array_api_compat import array_namespace, device

from xpnet.ops.softmax import log_softmax
from xpnet.typing import Array

__all__ = [
    "balanced_weights",
    "cross_entropy",
    "cross_entropy_backward",
    "negative_log_likelihood",
    "negative_log_likelihood_backward",
    "one_hot",
    "smooth",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
]


def one_hot(labels: Array, n_classes: int, like: Array) -> Array:
    """y_nk = 1 where labels_n = k, else 0: (N, K) for labels (N,), in the dtype of ``like``.

    A label outside 0..K-1 (an ignored one) gives a row of zeros.

    >>> import numpy as np
    >>> one_hot(np.array([1, 0]), 2, np.array(0.0))
    array([[0., 1.],
           [1., 0.]])
    """
    xp = array_namespace(labels)
    dtype = xp.result_type(labels.dtype, xp.int32)  # K may not fit into 8 bits
    classes = xp.arange(n_classes, dtype=dtype, device=device(labels))
    return xp.astype(labels[:, None] == classes[None, :], like.dtype)


def balanced_weights(counts: Array) -> Array:
    """w_k = n / (K n_k) for the number n_k of rows of each class, (K,): each class weighs the same.

    n is their sum, and K the number of classes that have rows; the others have the weight 1. King
    and Zeng, "Logistic regression in rare events data", Political Analysis 9, 2001; scikit-learn's
    ``class_weight="balanced"``.

    >>> import numpy as np
    >>> balanced_weights(np.array([6.0, 2.0, 0.0]))
    array([0.66666667, 2.        , 1.        ])
    """
    xp, present = array_namespace(counts), counts > 0.0
    K = xp.sum(xp.astype(present, counts.dtype))
    return xp.where(present, xp.sum(counts) / (K * xp.where(present, counts, 1.0)), 1.0)


def smooth(y: Array, smoothing: float) -> Array:
    """t_nk = (1 - ε) y_nk + ε / K: label smoothing. Szegedy et al. 2016, equation 7."""
    return (1.0 - smoothing) * y + smoothing / y.shape[-1]


def cross_entropy(a: Array, v: Array) -> Array:
    """ℓ_n = -Σ_k v_nk log a_nk, (N,) for probabilities a and targets v, both (N, K).

    A class with v = 0 adds nothing, even where a = 0; where v > 0 and a = 0 the loss is infinite.

    >>> import numpy as np
    >>> cross_entropy(np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 0.0, 0.0]]))
    array([0.69314718])
    """
    xp = array_namespace(a)
    return -xp.sum(_where_used(v, v * xp.log(_used_or_one(v, a))), axis=-1)


def cross_entropy_backward(a: Array, v: Array) -> Array:
    """da_nk = -v_nk / a_nk, (N, K)."""
    return _where_used(v, -v / _used_or_one(v, a))


def _used_or_one(v: Array, a: Array) -> Array:
    """The probabilities that count, and 1 for the others, where a may be 0."""
    xp = array_namespace(a)
    return xp.where(v == 0.0, 1.0, a)


def _where_used(v: Array, x: Array) -> Array:
    xp = array_namespace(x)
    return xp.where(v == 0.0, 0.0, x)


def negative_log_likelihood(log_a: Array, v: Array) -> Array:
    """ℓ_n = -Σ_k v_nk l_nk, (N,) for log-probabilities l and targets v, both (N, K).

    >>> import numpy as np
    >>> negative_log_likelihood(np.array([[-0.5, -1.0]]), np.array([[0.0, 1.0]]))
    array([1.])
    """
    xp = array_namespace(log_a)
    return -xp.sum(v * _where_used(v, log_a), axis=-1)  # 0 times -inf would be NaN


def negative_log_likelihood_backward(log_a: Array, v: Array) -> Array:
    """dl_nk = -v_nk, (N, K)."""
    return -v


def softmax_cross_entropy(z: Array, v: Array) -> tuple[Array, Array]:
    """ℓ_n = -Σ_k v_nk log softmax(z)_nk from logits; returns ℓ (N,) and log softmax(z) (N, K).

    Finite for logits of any finite size. A logit of -inf is an impossible class: it adds nothing
    where v = 0, and an infinite loss where v > 0.

    >>> import numpy as np
    >>> softmax_cross_entropy(np.array([[10000.0, 0.0]]), np.array([[0.0, 1.0]]))[0]
    array([10000.])
    """
    log_a = log_softmax(z)
    return negative_log_likelihood(log_a, v), log_a


def softmax_cross_entropy_backward(log_a: Array, v: Array) -> Array:
    """dz_ns = (Σ_k v_nk) a_ns - v_ns, (N, K): a - y where the rows of v sum to 1.

    It is softmax_backward(cross_entropy_backward(a, v), a) with a divided out:
    a_s (-v_s / a_s + Σ_k (v_k / a_k) a_k).
    """
    xp = array_namespace(log_a)
    return xp.exp(log_a) * xp.sum(v, axis=-1, keepdims=True) - v
