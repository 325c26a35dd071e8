"""Layers without parameters, each of one function; the formulas are in ``xpnet.ops``.

``ACTIVATIONS`` has a row for each; CONTRIBUTING.md says what else one needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from xpnet.nn.layer import Layer, Params
from xpnet.ops import activations as ops
from xpnet.ops.softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from xpnet.settings import PositiveFloat, Range
from xpnet.typing import Array

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "GELUTanh",
    "Identity",
    "LeakyReLU",
    "LogSoftmax",
    "ReLU",
    "Sigmoid",
    "SiLU",
    "Softmax",
    "Softplus",
    "Tanh",
]


@dataclass(frozen=True)
class Activation(Layer):
    """a = f(z; settings), where the settings are the fields of the class."""

    f: ClassVar[Callable[..., Array]]
    f_backward: ClassVar[Callable[..., Array]]
    keeps_output: ClassVar[bool] = False  # whether f_backward takes a rather than z

    @property
    def setting(self) -> float:
        """The one number that a compiled kernel of f takes: a slope or an alpha; 0 for none."""
        return 0.0

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Array]:
        a = type(self).f(x, **vars(self))
        return a, a if self.keeps_output else x

    def backward(
        self, params: Params, residuals: Array, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        return type(self).f_backward(dy, residuals, **vars(self)), {}


@dataclass(frozen=True)
class Identity(Activation):
    """a = z."""

    f, f_backward = ops.identity, ops.identity_backward
    keeps_output = True


@dataclass(frozen=True)
class ReLU(Activation):
    """a = max(z, 0)."""

    f, f_backward = ops.relu, ops.relu_backward
    keeps_output = True


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """a = z where z > 0, else slope z."""

    slope: Annotated[float, Range(ge=0)] = 0.01
    f, f_backward = ops.leaky_relu, ops.leaky_relu_backward

    @property
    def setting(self) -> float:
        """The slope."""
        return self.slope


@dataclass(frozen=True)
class Sigmoid(Activation):
    """a = 1 / (1 + exp(-z))."""

    f, f_backward = ops.sigmoid, ops.sigmoid_backward
    keeps_output = True


@dataclass(frozen=True)
class Tanh(Activation):
    """a = tanh z."""

    f, f_backward = ops.tanh, ops.tanh_backward
    keeps_output = True


@dataclass(frozen=True)
class GELU(Activation):
    """a = z Φ(z), with erf."""

    f, f_backward = ops.gelu, ops.gelu_backward


@dataclass(frozen=True)
class GELUTanh(Activation):
    """GELU's tanh approximation."""

    f, f_backward = ops.gelu_tanh, ops.gelu_tanh_backward


@dataclass(frozen=True)
class SiLU(Activation):
    """a = z σ(z), also called swish."""

    f, f_backward = ops.silu, ops.silu_backward


@dataclass(frozen=True)
class Softplus(Activation):
    """a = log(1 + exp z)."""

    f, f_backward = ops.softplus, ops.softplus_backward


@dataclass(frozen=True)
class ELU(Activation):
    """a = z where z > 0, else alpha (exp z - 1)."""

    alpha: PositiveFloat = 1.0
    f, f_backward = ops.elu, ops.elu_backward

    @property
    def setting(self) -> float:
        """The factor alpha."""
        return self.alpha


@dataclass(frozen=True)
class SELU(Activation):
    """a = λ elu(z, α), self-normalising with LeCun-normal weights."""

    f, f_backward = ops.selu, ops.selu_backward


@dataclass(frozen=True)
class Softmax(Activation):
    """a_k = exp z_k / Σ_s exp z_s along ``axis`` (0 is the batch). Follow with CrossEntropy."""

    axis: int = -1
    f, f_backward = softmax, softmax_backward
    keeps_output = True


@dataclass(frozen=True)
class LogSoftmax(Activation):
    """log softmax along ``axis`` (0 is the batch)."""

    axis: int = -1
    f, f_backward = log_softmax, log_softmax_backward
    keeps_output = True


ACTIVATIONS: dict[str, type[Layer]] = {
    "identity": Identity,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
    "gelu_tanh": GELUTanh,
    "silu": SiLU,
    "softplus": Softplus,
    "elu": ELU,
    "selu": SELU,
    "softmax": Softmax,
    "log_softmax": LogSoftmax,
}
