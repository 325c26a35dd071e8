"""Element-wise activations a = f(z) and their adjoints dz = f'(z) da.

An element-wise function has a diagonal Jacobian, so its adjoint is an element-wise product. Each
``*_backward(da, kept, ...)`` takes what its forward keeps: the input z, or the output a where f'
is simpler in a. Any real floating dtype and any shape; results have the shape of z.

In float16, bfloat16, float32 and float64 a result is finite where the truth is a number of the
dtype. It is off by at most 4 units in its last place and, where 1 - a² and the like cancel, by some
ε more, ε being the distance from 1 to the next number: 1.5 ε, but 10 to 20 ε for the derivatives of
SiLU, Mish and GELU's approximation. tests/ops/test_precision.py has each bound.
"""

import math

from array_api_compat import array_namespace

from xpnet.elementwise import clip
from xpnet.ops.special import erf
from xpnet.typing import Array

__all__ = [
    "celu",
    "celu_backward",
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "hard_sigmoid",
    "hard_sigmoid_backward",
    "hard_swish",
    "hard_swish_backward",
    "identity",
    "identity_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "mish",
    "mish_backward",
    "prelu",
    "prelu_backward",
    "relu",
    "relu_backward",
    "selu",
    "selu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softplus",
    "softplus_backward",
    "softsign",
    "softsign_backward",
    "tanh",
    "tanh_backward",
]

# The fixed point of Klambauer et al. 2017, equation 14.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def identity(z: Array) -> Array:
    """a = z."""
    return z


def identity_backward(da: Array, a: Array) -> Array:
    """dz = da."""
    return da


def relu(z: Array) -> Array:
    """a = max(z, 0). Nair and Hinton 2010.

    >>> import numpy as np
    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    xp = array_namespace(z)
    return xp.maximum(z, 0.0)


def relu_backward(da: Array, a: Array) -> Array:
    """dz = da where a > 0, else 0: at the kink the derivative is taken as 0."""
    xp = array_namespace(da)
    return xp.where(a > 0.0, da, 0.0)


def leaky_relu(z: Array, slope: float = 0.01) -> Array:
    """a = z where z > 0, else slope z. Maas, Hannun and Ng 2013."""
    xp = array_namespace(z)
    return xp.where(z > 0.0, z, slope * z)


def leaky_relu_backward(da: Array, z: Array, slope: float = 0.01) -> Array:
    """dz = da where z > 0, else slope da."""
    xp = array_namespace(da)
    return xp.where(z > 0.0, da, slope * da)


def sigmoid(z: Array) -> Array:
    """a = 1 / (1 + exp(-z)), without overflow for any z.

    >>> import numpy as np
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    xp = array_namespace(z)
    # One half of (1 + tanh(z/2)) is the same function, but loses the small tail to rounding.
    e = xp.exp(-xp.abs(z))  # in (0, 1]
    return xp.where(z >= 0.0, 1.0, e) / (1.0 + e)


def sigmoid_backward(da: Array, a: Array) -> Array:
    """dz = a (1 - a) da."""
    return da * a * (1.0 - a)


def tanh(z: Array) -> Array:
    """a = tanh z."""
    xp = array_namespace(z)
    return xp.tanh(z)


def tanh_backward(da: Array, a: Array) -> Array:
    """dz = (1 - a²) da."""
    return da * (1.0 - a * a)


def gelu(z: Array) -> Array:
    """a = z Φ(z), Φ(z) = (1 + erf(z/√2)) / 2. Hendrycks and Gimpel 2016."""
    return z * _normal_cdf(z)


def gelu_backward(da: Array, z: Array) -> Array:
    """dz = (Φ(z) + z φ(z)) da, φ the standard normal density."""
    xp = array_namespace(da)
    density = xp.exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))
    return da * (_normal_cdf(z) + z * density)


def _normal_cdf(z: Array) -> Array:
    return 0.5 * (1.0 + erf(z * math.sqrt(0.5)))


def gelu_tanh(z: Array) -> Array:
    """a = z/2 (1 + tanh u), u = √(2/π) (z + 0.044715 z³): GELU's approximation in that paper."""
    xp = array_namespace(z)
    return 0.5 * z * (1.0 + xp.tanh(_gelu_inner(z)))


def gelu_tanh_backward(da: Array, z: Array) -> Array:
    """dz = ((1 + t)/2 + z/2 (1 - t²) u') da, t = tanh u, u' = √(2/π) (1 + 3·0.044715 z²)."""
    xp = array_namespace(da)
    z = clip(z, -10.0, 10.0)  # beyond it t is ±1, and 1 - t² = 0 times z² = inf is NaN
    t = xp.tanh(_gelu_inner(z))
    slope = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * z * z)
    return da * (0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * slope)


def _gelu_inner(z: Array) -> Array:
    return math.sqrt(2.0 / math.pi) * (z + 0.044715 * z * z * z)


def silu(z: Array) -> Array:
    """a = z σ(z), also called swish. Elfwing, Uchibe and Doya 2018."""
    return z * sigmoid(z)


def silu_backward(da: Array, z: Array) -> Array:
    """dz = s (1 + z (1 - s)) da, s = σ(z)."""
    s = sigmoid(z)
    return da * s * (1.0 + z * (1.0 - s))


def softplus(z: Array) -> Array:
    """a = log(1 + exp z), without overflow. Dugas et al. 2001."""
    xp = array_namespace(z)
    return xp.maximum(z, 0.0) + xp.log1p(xp.exp(-xp.abs(z)))


def softplus_backward(da: Array, z: Array) -> Array:
    """dz = σ(z) da."""
    return da * sigmoid(z)


def elu(z: Array, alpha: float = 1.0) -> Array:
    """a = z where z > 0, else alpha (exp z - 1). Clevert, Unterthiner and Hochreiter 2016."""
    xp = array_namespace(z)
    # Both branches are computed: without the minimum, exp of a large z would overflow.
    return xp.where(z > 0.0, z, alpha * xp.expm1(xp.minimum(z, 0.0)))


def elu_backward(da: Array, z: Array, alpha: float = 1.0) -> Array:
    """dz = da where z > 0, else alpha exp(z) da."""
    xp = array_namespace(da)
    return da * xp.where(z > 0.0, 1.0, alpha * xp.exp(xp.minimum(z, 0.0)))


def selu(z: Array) -> Array:
    """a = λ elu(z, α) with the constants that keep mean 0 and variance 1. Klambauer et al. 2017."""
    return SELU_SCALE * elu(z, SELU_ALPHA)


def selu_backward(da: Array, z: Array) -> Array:
    """dz = λ elu'(z, α) da."""
    return SELU_SCALE * elu_backward(da, z, SELU_ALPHA)


def celu(z: Array, alpha: float = 1.0) -> Array:
    """a = z where z > 0, else alpha (exp(z / alpha) - 1): an ELU of slope 1 at 0. Barron 2017."""
    xp = array_namespace(z)
    return xp.where(z > 0.0, z, alpha * xp.expm1(xp.minimum(z, 0.0) / alpha))


def celu_backward(da: Array, z: Array, alpha: float = 1.0) -> Array:
    """dz = da where z > 0, else exp(z / alpha) da."""
    xp = array_namespace(da)
    return da * xp.exp(xp.minimum(z, 0.0) / alpha)


def mish(z: Array) -> Array:
    """a = z tanh(softplus z). Misra 2020.

    With u = exp z, tanh(log(1 + u)) = n / (n + 2) and n = u (u + 2): one exponential, where tanh,
    log1p and exp would be three. Above 0, both sides are divided by u².
    """
    return z * _tanh_softplus(z)[0]


def mish_backward(da: Array, z: Array) -> Array:
    """dz = (t + z (1 - t²) σ(z)) da, t = tanh(softplus z)."""
    t, sigma = _tanh_softplus(z)
    return da * (t + z * (1.0 - t * t) * sigma)


def _tanh_softplus(z: Array) -> tuple[Array, Array]:
    """tanh(softplus z), and σ(z), which is softplus' slope."""
    xp = array_namespace(z)
    u, above = xp.exp(-xp.abs(z)), z >= 0.0
    n = xp.where(above, 1.0 + 2.0 * u, u * (u + 2.0))
    t = n / (n + 2.0 * xp.where(above, u * u, 1.0))
    return t, xp.where(above, 1.0, u) / (1.0 + u)


def hard_sigmoid(z: Array) -> Array:
    """a = z/6 + 1/2 between 0 and 1, in three pieces. Howard et al. 2019 (MobileNetV3)."""
    return clip(z * (1.0 / 6.0) + 0.5, 0.0, 1.0)


def hard_sigmoid_backward(da: Array, z: Array) -> Array:
    """dz = da/6 where -3 < z < 3, else 0: at the kinks the derivative is taken as 0."""
    xp = array_namespace(da)
    return xp.where(xp.abs(z) < 3.0, da * (1.0 / 6.0), 0.0)


def hard_swish(z: Array) -> Array:
    """a = z clip(z/6 + 1/2, 0, 1). Howard et al. 2019 (MobileNetV3)."""
    return z * hard_sigmoid(z)


def hard_swish_backward(da: Array, z: Array) -> Array:
    """dz = 0 where z <= -3, da where z >= 3, else (z/3 + 1/2) da."""
    xp = array_namespace(da)
    inner = xp.where(z < 3.0, z * (1.0 / 3.0) + 0.5, 1.0)
    return xp.where(z > -3.0, da * inner, 0.0)


def softsign(z: Array) -> Array:
    """a = z / (1 + |z|). Turian, Bergstra and Bengio 2009."""
    xp = array_namespace(z)
    return z / (1.0 + xp.abs(z))


def softsign_backward(da: Array, z: Array) -> Array:
    """dz = da / (1 + |z|)²."""
    xp = array_namespace(da)
    inverse = 1.0 / (1.0 + xp.abs(z))
    return da * inverse * inverse


def prelu(z: Array, slope: Array) -> Array:
    """a = z where z > 0, else slope z, with a trained slope of shape (1,) or (J,). He et al. 2015.

    >>> import numpy as np
    >>> prelu(np.array([[-2.0, 3.0]]), np.array([0.25]))
    array([[-0.5,  3. ]])
    """
    xp = array_namespace(z)
    return xp.where(z > 0.0, z, slope * z)


def prelu_backward(da: Array, z: Array, slope: Array) -> tuple[Array, Array]:
    """Return dz = da where z > 0, else slope da, and each element's part min(z, 0) da of dslope."""
    xp = array_namespace(da)
    return xp.where(z > 0.0, da, slope * da), da * xp.minimum(z, 0.0)
