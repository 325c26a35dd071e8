"""The dropout layer."""

from typing import Any, ClassVar

from xpnet.errors import ConfigError
from xpnet.nn.layer import Layer, Params
from xpnet.ops.dropout import dropout, dropout_backward
from xpnet.registry import register
from xpnet.settings import Fraction
from xpnet.typing import Array

__all__ = ["Dropout"]


@register("dropout")
class Dropout(Layer):
    """In training, set each element to 0 with probability ``rate`` and scale up the rest."""

    rate: Fraction = 0.5
    random: ClassVar[bool] = True
    passes: ClassVar[bool] = True

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Array | None]:
        if not train:
            return x, None
        if keys is None:
            msg = "dropout needs keys in training; get them from xpnet.step.dropout_keys"
            raise ConfigError(msg)
        return dropout(x, self.rate, keys)

    def backward(
        self, params: Params, residuals: Array | None, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        return dy if residuals is None else dropout_backward(dy, residuals), {}
