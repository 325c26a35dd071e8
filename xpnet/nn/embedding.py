"""The layer that replaces codes of categories by trained vectors."""

import dataclasses
from typing import Annotated, Any

from xpnet.errors import ConfigError
from xpnet.nn.initializers import INITIALIZERS, Initializer, Normal
from xpnet.nn.layer import REAL, Layer, Params, Shape, Variable
from xpnet.ops.embedding import embedding, embedding_backward, embedding_codes
from xpnet.registry import register
from xpnet.settings import OneOf, PositiveInt
from xpnet.typing import Array

__all__ = ["Embedding"]


@register("embedding")
class Embedding(Layer):
    """y = [x_rest, E_1[c_1], ..., E_m[c_m]]: the last m inputs are codes, the others pass.

    It takes (N, D), and returns (N, D - m + m ``width``); code i is one of the whole numbers
    0..``sizes[i]``-1, and E_i (sizes[i], width) is its table. Any other number reads row 0, which
    is meant for a value that is missing or was never seen. A code has no gradient, so this is the
    first layer: after another one, its codes would be anything.

    8 numbers per code is the width in Holzmüller, Grinsztajn and Steinwart, "Better by default",
    NeurIPS 2024 (RealMLP-TD), and N(0, 1) the first value of PyTorch's Embedding: the size of
    inputs that are scaled.
    """

    sizes: tuple[PositiveInt, ...]
    width: PositiveInt = 8
    initializer: Annotated[Initializer, OneOf(INITIALIZERS)] = Normal()
    inputs: PositiveInt | None = None
    bounds = REAL

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sizes:
            msg = "an embedding needs the sizes of its codes, such as sizes=[12, 100]; got none"
            raise ConfigError(msg)

    @property
    def exact(self) -> int:
        return max(self.sizes) - 1

    def build(self, in_shape: Shape) -> tuple["Embedding", Shape]:
        m = len(self.sizes)
        if len(in_shape) != 1 or in_shape[0] < m:
            msg = f"an embedding of {m} codes takes a vector per example of {m} or more inputs; "
            msg += f"got shape {in_shape}"
            raise ConfigError(msg)
        if self.inputs not in (None, in_shape[0]):
            msg = f"this embedding takes {self.inputs} inputs; got {in_shape[0]}"
            raise ConfigError(msg)
        built = dataclasses.replace(self, inputs=in_shape[0])
        return built, (in_shape[0] + m * (self.width - 1),)

    def variables(self) -> dict[str, Variable]:
        shapes = ((size, self.width) for size in self.sizes)
        return {f"E{i}": Variable(shape, self.initializer) for i, shape in enumerate(shapes)}

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, tuple[Array, ...]]:
        codes = embedding_codes(x, self.sizes)
        return embedding(x, self._tables(params), codes), codes

    def backward(
        self, params: Params, residuals: Any, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        tables = self._tables(params)
        dx, grads = embedding_backward(dy, tables, residuals, input_gradient=input_gradient)
        return dx, {f"E{i}": dE for i, dE in enumerate(grads)}

    def _tables(self, params: Params) -> list[Array]:
        return [params[f"E{i}"] for i in range(len(self.sizes))]
