"""Clipping of the flat gradient vector (P,), on its own device: the host never waits.

Every function consumes the gradient; use only what it returns.
"""

from dataclasses import dataclass

from array_api_compat import array_namespace

from xpnet.elementwise import clip
from xpnet.settings import Checked, PositiveFloat
from xpnet.typing import Array

__all__ = ["Clip", "clip_by_norm", "clip_by_value", "factor_of_norm"]


@dataclass(frozen=True)
class Clip(Checked):
    """How training clips a gradient: each component, the norm, both or neither."""

    norm: PositiveFloat | None = None
    value: PositiveFloat | None = None

    def apply(self, grad: Array) -> Array:
        """Clip the components first, then the norm of the result; consumes ``grad``."""
        if self.value is not None:
            grad = clip_by_value(grad, self.value)
        if self.norm is not None:
            grad = clip_by_norm(grad, self.norm)
        return grad


def clip_by_norm(grad: Array, max_norm: float) -> Array:
    """Scale the gradient down to the Euclidean norm ``max_norm`` if its norm is larger.

        g *= min(1, max_norm / (‖g‖ + 1e-6))

    The norm is over all parameters of the model at once, as in Pascanu, Mikolov and Bengio, "On
    the difficulty of training recurrent neural networks", ICML 2013; the 1e-6 is PyTorch's
    (``clip_grad_norm_``). A gradient with a NaN becomes NaN throughout.

    >>> import numpy as np
    >>> clip_by_norm(np.array([3.0, 4.0]), 1.0).round(3)
    array([0.6, 0.8])
    """
    grad *= factor_of_norm(_norm(grad), max_norm)
    return grad


def _norm(grad: Array) -> Array:
    xp = array_namespace(grad)
    # `linalg` is an extension of the standard: a library need not have it.
    if hasattr(getattr(xp, "linalg", None), "vector_norm"):
        return xp.linalg.vector_norm(grad)
    return xp.sqrt(xp.sum(grad * grad))


def factor_of_norm(norm: Array, max_norm: float) -> Array:
    """Return the factor, (), that brings a gradient of this norm, (), down to ``max_norm``."""
    return array_namespace(norm).minimum(max_norm / (norm + 1e-6), 1.0)


def clip_by_value(grad: Array, limit: float) -> Array:
    """Clip every component of the gradient to [-limit, limit].

    >>> import numpy as np
    >>> clip_by_value(np.array([-3.0, 0.5]), 1.0)
    array([-1. ,  0.5])
    """
    return clip(grad, -limit, limit)
