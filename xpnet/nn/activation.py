"""Layers without parameters, each of one function; the formulas are in ``xpnet.ops``.

``ACTIVATIONS`` has them by name; CONTRIBUTING.md says how another one is added.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from xpnet.nn.layer import REAL, Layer, Params
from xpnet.ops import activations as ops
from xpnet.ops.softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from xpnet.registry import register
from xpnet.settings import PositiveFloat, Range
from xpnet.typing import Array

__all__ = [
    "ACTIVATIONS",
    "CELU",
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "GELUTanh",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyReLU",
    "LogSoftmax",
    "Mish",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
]

ACTIVATIONS: dict[str, type[Layer]] = {}  # by the names that they are registered by


@dataclass(frozen=True)
class Activation(Layer):
    """a = f(z), and dz = f'(z) da; the settings of f are the fields of the class.

    Both are functions of arrays of any shape and real floating dtype, by the Array API alone, and
    without a Python branch on what is in an array: then they are also compiled.
    """

    table: ClassVar[dict[str, type[Layer]]] = ACTIVATIONS
    elementwise: ClassVar[bool] = True  # whether a_nj depends on z_nj only
    keeps_output: ClassVar[bool] = False  # whether `backward_value` takes a rather than z
    # f and f' in index letters, for `explain`; without them it shows the code alone.
    formula: ClassVar[tuple[str, str] | None] = None

    @abstractmethod
    def value(self, z: Array, /) -> Array:
        """Return a."""

    @abstractmethod
    def backward_value(self, da: Array, kept: Array, /) -> Array:
        """Return dz from da and what the forward pass keeps: z, or a if ``keeps_output``."""

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Array]:
        a = self.value(x)
        return a, a if self.keeps_output else x

    def backward(
        self, params: Params, residuals: Array, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        return self.backward_value(dy, residuals), {}


@register("identity")
class Identity(Activation):
    """a = z."""

    keeps_output = True
    passes = True
    formula = "z_nj", "1"
    value, backward_value = staticmethod(ops.identity), staticmethod(ops.identity_backward)


@register("relu")
class ReLU(Activation):
    """a = max(z, 0)."""

    keeps_output = True
    bounds = 0.0, math.inf
    formula = "max(z_nj, 0)", "1 where a_nj > 0, else 0"
    value, backward_value = staticmethod(ops.relu), staticmethod(ops.relu_backward)


@register("leaky_relu")
class LeakyReLU(Activation):
    """a = z where z > 0, else slope z."""

    slope: Annotated[float, Range(ge=0)] = 0.01
    formula = "z_nj where z_nj > 0, else slope · z_nj", "1 where z_nj > 0, else slope"

    @property
    def bounds(self) -> tuple[float, float]:
        return REAL if self.slope else (0.0, math.inf)

    def value(self, z: Array) -> Array:
        return ops.leaky_relu(z, self.slope)

    def backward_value(self, da: Array, z: Array) -> Array:
        return ops.leaky_relu_backward(da, z, self.slope)


@register("sigmoid")
class Sigmoid(Activation):
    """a = 1 / (1 + exp(-z))."""

    keeps_output = True
    bounds = 0.0, 1.0
    formula = "⟨1|1 + exp(-z_nj)⟩", "a_nj (1 - a_nj)"
    value, backward_value = staticmethod(ops.sigmoid), staticmethod(ops.sigmoid_backward)


@register("tanh")
class Tanh(Activation):
    """a = tanh z."""

    keeps_output = True
    bounds = -1.0, 1.0
    formula = "tanh z_nj", "1 - a_nj²"
    value, backward_value = staticmethod(ops.tanh), staticmethod(ops.tanh_backward)


@register("gelu")
class GELU(Activation):
    """a = z Φ(z), with erf."""

    bounds = -0.17, math.inf
    formula = "z_nj Φ(z_nj)", "Φ(z_nj) + z_nj φ(z_nj)"
    value, backward_value = staticmethod(ops.gelu), staticmethod(ops.gelu_backward)


@register("gelu_tanh")
class GELUTanh(Activation):
    """GELU's tanh approximation."""

    bounds = -0.171, math.inf
    formula = (
        "½ z_nj (1 + tanh u_nj), u_nj = √(2/π) (z_nj + 0.044715 z_nj³)",
        "½ (1 + t_nj) + ½ z_nj (1 - t_nj²) u′_nj, t_nj = tanh u_nj",
    )
    value, backward_value = staticmethod(ops.gelu_tanh), staticmethod(ops.gelu_tanh_backward)


@register("silu")
class SiLU(Activation):
    """a = z σ(z), also called swish."""

    bounds = -0.279, math.inf
    formula = "z_nj σ(z_nj)", "s_nj (1 + z_nj (1 - s_nj)), s_nj = σ(z_nj)"
    value, backward_value = staticmethod(ops.silu), staticmethod(ops.silu_backward)


@register("softplus")
class Softplus(Activation):
    """a = log(1 + exp z)."""

    bounds = 0.0, math.inf
    formula = "log(1 + exp z_nj)", "σ(z_nj)"
    value, backward_value = staticmethod(ops.softplus), staticmethod(ops.softplus_backward)


@register("elu")
class ELU(Activation):
    """a = z where z > 0, else alpha (exp z - 1)."""

    alpha: PositiveFloat = 1.0
    formula = "z_nj where z_nj > 0, else α (exp z_nj - 1)", "1 where z_nj > 0, else α exp z_nj"

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.alpha, math.inf

    def value(self, z: Array) -> Array:
        return ops.elu(z, self.alpha)

    def backward_value(self, da: Array, z: Array) -> Array:
        return ops.elu_backward(da, z, self.alpha)


@register("selu")
class SELU(Activation):
    """a = λ elu(z, α), self-normalising with LeCun-normal weights."""

    bounds = -1.76, math.inf
    formula = (
        "λ z_nj where z_nj > 0, else λ α (exp z_nj - 1)",
        "λ where z_nj > 0, else λ α exp z_nj",
    )
    value, backward_value = staticmethod(ops.selu), staticmethod(ops.selu_backward)


@register("celu")
class CELU(Activation):
    """a = z where z > 0, else alpha (exp(z / alpha) - 1), continuously differentiable.

    Barron, "Continuously differentiable exponential linear units", arXiv:1704.07483.
    """

    alpha: PositiveFloat = 1.0
    formula = (
        "z_nj where z_nj > 0, else α (exp(z_nj / α) - 1)",
        "1 where z_nj > 0, else exp(z_nj / α)",
    )

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.alpha, math.inf

    def value(self, z: Array) -> Array:
        return ops.celu(z, self.alpha)

    def backward_value(self, da: Array, z: Array) -> Array:
        return ops.celu_backward(da, z, self.alpha)


@register("mish")
class Mish(Activation):
    """a = z tanh(softplus z).

    Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020
    (arXiv:1908.08681).
    """

    bounds = -0.309, math.inf
    formula = (
        "z_nj tanh(softplus z_nj)",
        "t_nj + z_nj (1 - t_nj²) σ(z_nj), t_nj = tanh(softplus z_nj)",
    )
    value, backward_value = staticmethod(ops.mish), staticmethod(ops.mish_backward)


@register("hard_sigmoid")
class HardSigmoid(Activation):
    """a = clip(z/6 + 1/2, 0, 1): the sigmoid in three pieces.

    Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2; PyTorch's and Keras 3's.
    """

    bounds = 0.0, 1.0
    formula = "clip(z_nj / 6 + ½, 0, 1)", "1 / 6 where |z_nj| < 3, else 0"
    value, backward_value = staticmethod(ops.hard_sigmoid), staticmethod(ops.hard_sigmoid_backward)


@register("hard_swish")
class HardSwish(Activation):
    """a = z clip(z/6 + 1/2, 0, 1): SiLU with the hard sigmoid.

    Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2.
    """

    bounds = -0.375, math.inf
    formula = (
        "z_nj clip(z_nj / 6 + ½, 0, 1)",
        "1 where z_nj ≥ 3, z_nj / 3 + ½ where |z_nj| < 3, else 0",
    )
    value, backward_value = staticmethod(ops.hard_swish), staticmethod(ops.hard_swish_backward)


@register("softsign")
class Softsign(Activation):
    """a = z / (1 + |z|), which approaches -1 and 1 more slowly than tanh.

    Turian, Bergstra and Bengio, "Quadratic features and deep architectures for chunking",
    NAACL 2009.
    """

    bounds = -1.0, 1.0
    formula = "z_nj / (1 + |z_nj|)", "1 / (1 + |z_nj|)²"
    value, backward_value = staticmethod(ops.softsign), staticmethod(ops.softsign_backward)


@register("softmax")
class Softmax(Activation):
    """a_k = exp z_k / Σ_s exp z_s along ``axis`` (0 is the batch). Follow with CrossEntropy."""

    axis: int = -1
    elementwise = False
    keeps_output = True
    bounds = 0.0, 1.0

    @property
    def gives(self) -> Literal["numbers", "probabilities"]:
        return "probabilities" if self.axis in (-1, 1) else "numbers"

    def value(self, z: Array) -> Array:
        return softmax(z, self.axis)

    def backward_value(self, da: Array, a: Array) -> Array:
        return softmax_backward(da, a, self.axis)


@register("log_softmax")
class LogSoftmax(Activation):
    """log softmax along ``axis`` (0 is the batch)."""

    axis: int = -1
    elementwise = False
    keeps_output = True
    bounds = -math.inf, 0.0

    @property
    def gives(self) -> Literal["numbers", "log-probabilities"]:
        return "log-probabilities" if self.axis in (-1, 1) else "numbers"

    def value(self, z: Array) -> Array:
        return log_softmax(z, self.axis)

    def backward_value(self, da: Array, a: Array) -> Array:
        return log_softmax_backward(da, a, self.axis)
