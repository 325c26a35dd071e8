"""The dense layer: z = x W + b."""

import dataclasses
from typing import Annotated, Any

from xpnet.errors import ConfigError
from xpnet.nn.initializers import INITIALIZERS, GlorotUniform, Initializer, Zeros
from xpnet.nn.layer import REAL, Layer, Params, Shape, Variable
from xpnet.ops.dense import dense, dense_backward
from xpnet.registry import register
from xpnet.settings import OneOf, PositiveInt
from xpnet.typing import Array

__all__ = ["Dense"]


@register("dense")
class Dense(Layer):
    """z = x W + b with ``units`` outputs J; the number of inputs I is inferred.

    W (I, J) and b (J,) are parameters; with ``bias=False`` there is no b.
    """

    units: PositiveInt
    bias: bool = True
    initializer: Annotated[Initializer, OneOf(INITIALIZERS)] = GlorotUniform()
    bias_initializer: Annotated[Initializer, OneOf(INITIALIZERS)] = Zeros()
    inputs: PositiveInt | None = None
    bounds = REAL

    def build(self, in_shape: Shape) -> tuple["Dense", Shape]:
        if len(in_shape) != 1:
            msg = f"a dense layer takes one vector per example; got shape {in_shape}: "
            msg += "put Flatten before it" if in_shape else "give rows of features, (N, features)"
            raise ConfigError(msg)
        if self.inputs not in (None, in_shape[0]):
            msg = f"this dense layer takes {self.inputs} inputs; got {in_shape[0]}"
            raise ConfigError(msg)
        return dataclasses.replace(self, inputs=in_shape[0]), (self.units,)

    def variables(self) -> dict[str, Variable]:
        if self.inputs is None:
            msg = "the layer has not been built: call build(input_shape) on the model first"
            raise ConfigError(msg)
        variables = {"W": Variable((self.inputs, self.units), self.initializer)}
        if self.bias:
            variables["b"] = Variable((self.units,), self.bias_initializer)
        return variables

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Array]:
        return dense(x, params["W"], params.get("b")), x

    def backward(
        self, params: Params, residuals: Array, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        x = residuals
        dx, dW, db = dense_backward(dy, x, params["W"], input_gradient=input_gradient)
        return dx, {"W": dW, "b": db} if self.bias else {"W": dW}
