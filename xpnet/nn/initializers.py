"""Initial weights, drawn on the host so that every backend starts from the same numbers.

``initializer.init(rng, shape)`` returns a new NumPy float64 array; it is rounded to the model's
dtype when it is placed. A weight W has shape (I, J), inputs by outputs: its *fan-in* is I and its
*fan-out* J. With weights of variance 1/I and independent unit inputs, z = x W has variance 1; the
rules differ in what they keep from exploding or vanishing (z, dx or both) and for which activation.

"Normal" is the plain normal distribution, not truncated at two standard deviations.

>>> from xpnet.random import generator
>>> W = HeNormal().init(generator(0, "init"), (784, 128))
>>> f"{W.std():.3f}, {(2 / 784) ** 0.5:.3f}"
'0.051, 0.051'
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from array_api_compat import array_namespace

from xpnet.errors import ConfigError
from xpnet.registry import register
from xpnet.settings import Checked, PositiveFloat, Range
from xpnet.typing import Array

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = [
    "INITIALIZERS",
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LeCunNormal",
    "LeCunUniform",
    "Normal",
    "Ones",
    "Orthogonal",
    "Zeros",
]

Shape = tuple[int, ...]
FiniteFloat = Annotated[float, Range(gt=-math.inf, lt=math.inf)]


INITIALIZERS: dict[str, type["Initializer"]] = {}  # by the names that they are registered by


@dataclass(frozen=True)
class Initializer(Checked, ABC):
    """Base class of the initializers."""

    table: ClassVar[dict[str, type["Initializer"]]] = INITIALIZERS

    @abstractmethod
    def init(self, rng: "Generator", shape: Shape) -> Array:
        """Return a float64 array on the host; raises ConfigError for a shape without fans."""


@register("glorot_uniform")
class GlorotUniform(Initializer):
    """U(-a, a), a = √(6 / (I + J)), of variance 2 / (I + J): a compromise between z and dx.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 16 ("normalized initialization"); for tanh and other odd activations.
    """

    def init(self, rng: "Generator", shape: Shape) -> Array:
        n_in, n_out = _fans(self, shape)
        return _uniform(rng, shape, 2.0 / (n_in + n_out))


@register("glorot_normal")
class GlorotNormal(Initializer):
    """N(0, σ²), σ² = 2 / (I + J): Glorot and Bengio's equation 12, as a normal distribution."""

    def init(self, rng: "Generator", shape: Shape) -> Array:
        n_in, n_out = _fans(self, shape)
        return _normal(rng, shape, 2.0 / (n_in + n_out))


@register("he_uniform")
class HeUniform(Initializer):
    """U(-a, a), a = √(6 / I), of variance 2 / I: He et al.'s, as a uniform distribution."""

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _uniform(rng, shape, 2.0 / _fans(self, shape)[0])


@register("he_normal")
class HeNormal(Initializer):
    """N(0, σ²), σ² = 2 / I, for ReLU: the gain √2 makes up for the half that ReLU sets to 0.

    He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015, equation 10.
    """

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _normal(rng, shape, 2.0 / _fans(self, shape)[0])


@register("lecun_uniform")
class LeCunUniform(Initializer):
    """U(-a, a), a = √(3 / I), of variance 1 / I: LeCun et al.'s, as a uniform distribution."""

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _uniform(rng, shape, 1.0 / _fans(self, shape)[0])


@register("lecun_normal")
class LeCunNormal(Initializer):
    """N(0, σ²), σ² = 1 / I, which preserves the variance of z; SELU requires it.

    LeCun, Bottou, Orr and Müller, "Efficient BackProp", in Neural Networks: Tricks of the Trade,
    Springer 1998, equation 16.
    """

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _normal(rng, shape, 1.0 / _fans(self, shape)[0])


@register("orthogonal")
class Orthogonal(Initializer):
    """``gain`` times a random matrix with orthonormal columns, or rows where I < J.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", ICLR 2014 (arXiv:1312.6120). Without the signs of R's diagonal, QR's
    own convention would favour some matrices: Mezzadri, "How to generate random matrices from the
    classical compact groups", Notices of the AMS 54, 2007.
    """

    gain: PositiveFloat = 1.0

    def init(self, rng: "Generator", shape: Shape) -> Array:
        n_in, n_out = _fans(self, shape)
        a = rng.standard_normal((max(shape), min(shape)))
        xp = array_namespace(a)
        q, r = xp.linalg.qr(a)
        q *= xp.where(xp.linalg.diagonal(r) < 0.0, -self.gain, self.gain)
        return q if n_in >= n_out else xp.matrix_transpose(q)


@register("normal")
class Normal(Initializer):
    """N(0, σ²) with σ = ``sd``, in any shape, whatever its fans.

    Of weights that are divided by √I elsewhere, as in the NTK parametrisation, of biases beside
    them, and of embeddings.
    """

    sd: PositiveFloat = 1.0

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _normal(rng, shape, self.sd**2)


@register("constant")
class Constant(Initializer):
    """``value`` everywhere, in any shape."""

    value: FiniteFloat = 0.0

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _filled(rng, shape, self.value)


@register("zeros")
class Zeros(Initializer):
    """0 everywhere, for biases and shifts; as weights it would leave a layer's units equal."""

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _filled(rng, shape, 0.0)


@register("ones")
class Ones(Initializer):
    """1 everywhere, for scales."""

    def init(self, rng: "Generator", shape: Shape) -> Array:
        return _filled(rng, shape, 1.0)


def _fans(initializer: Initializer, shape: Shape) -> tuple[int, int]:
    """Return (fan-in, fan-out) of a weight's shape (I, J)."""
    if len(shape) != 2 or min(shape) < 1:
        msg = f"{type(initializer).__name__} needs a shape (I, J) with I, J >= 1; got {shape}: "
        msg += "use Zeros, Ones or Constant"
        raise ConfigError(msg)
    return shape[0], shape[1]


def _uniform(rng: "Generator", shape: Shape, variance: float) -> Array:
    limit = math.sqrt(3.0 * variance)  # U(-a, a) has the variance a²/3
    return rng.uniform(-limit, limit, shape)


def _normal(rng: "Generator", shape: Shape, variance: float) -> Array:
    return rng.normal(0.0, math.sqrt(variance), shape)


def _filled(rng: "Generator", shape: Shape, value: float) -> Array:
    return rng.uniform(value, value, shape)  # an interval of width 0
