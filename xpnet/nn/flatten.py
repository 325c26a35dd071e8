"""The layer that turns each example into a vector."""

import math
from typing import Any

from array_api_compat import array_namespace

from xpnet.nn.layer import Layer, Params, Shape
from xpnet.registry import register
from xpnet.typing import Array

__all__ = ["Flatten"]


@register("flatten")
class Flatten(Layer):
    """y (N, I) for x (N, ...), in row-major order."""

    passes = True

    def build(self, in_shape: Shape) -> tuple["Flatten", Shape]:
        return self, (math.prod(in_shape),)

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Shape]:
        xp = array_namespace(x)
        return xp.reshape(x, (x.shape[0], math.prod(x.shape[1:]))), x.shape

    def backward(
        self, params: Params, residuals: Shape, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        xp = array_namespace(dy)
        return xp.reshape(dy, residuals), {}
