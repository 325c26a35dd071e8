"""Layers in sequence: the chain rule as a loop."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from xpnet.errors import ConfigError
from xpnet.nn.layer import LAYERS, Layer, Params, Shape, Variable
from xpnet.nn.summary import Table, architecture
from xpnet.registry import name_of
from xpnet.settings import Checked, OneOf, PositiveInt
from xpnet.typing import Array

__all__ = ["Sequential", "variable_name"]


@dataclass(frozen=True)
class Sequential(Checked):
    """A model: ``layers`` applied in order.

    ``Sequential([Dense(256), ReLU(), Dense(10)])`` leaves the sizes open;
    ``.build((784,))`` fills them in and returns a new model. ``frozen`` names parameters whose
    gradient training takes to be zero; the ``freeze`` of an update rule sets it.

    >>> from xpnet.nn import Dense, ReLU
    >>> model = Sequential([Dense(4), ReLU(), Dense(3)])
    >>> model
    Sequential([Dense(4), ReLU(), Dense(3)])
    >>> model.build((2,)).output_shape
    (3,)
    """

    layers: tuple[Annotated[Layer, OneOf(LAYERS)], ...]
    input_shape: tuple[PositiveInt, ...] | None = None
    frozen: tuple[str, ...] = ()

    if TYPE_CHECKING:  # any sequence of layers becomes a tuple

        def __init__(
            self,
            layers: Sequence[Layer],
            input_shape: Shape | None = None,
            frozen: Sequence[str] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        for i, layer in enumerate(self.layers if isinstance(self.layers, Sequence) else ()):
            if isinstance(layer, Sequential | list | tuple):
                msg = f"layers[{i}] is a {type(layer).__name__}, and layers come in one list"
                inner = ".layers" if isinstance(layer, Sequential) else ""
                raise ConfigError(msg, python=f"unpack it, [*first{inner}, ...]")
        super().__post_init__()

    def build(self, input_shape: Shape) -> "Sequential":
        """Return the model for examples of ``input_shape``, which excludes the batch.

        Raises ConfigError, naming the layer, if a shape does not fit.
        """
        shape, built = tuple(input_shape), []
        for i, layer in enumerate(self.layers):
            try:
                layer, shape = layer.build(shape)
            except ConfigError as error:
                msg = f"layer {i} ({name_of(layer)}): {error}"
                raise ConfigError(msg) from None
            built.append(layer)
        return dataclasses.replace(self, layers=tuple(built), input_shape=tuple(input_shape))

    def shapes(self) -> list[Shape]:
        """Return the shape of one example after each layer."""
        if self.input_shape is None:
            msg = "the model has not been built: call build(input_shape) first"
            raise ConfigError(msg)
        shape, shapes = self.input_shape, []
        for layer in self.layers:
            shape = layer.build(shape)[1]
            shapes.append(shape)
        return shapes

    def summary(self) -> str:
        """Return a table of the layers: output shapes, arrays and parameters, "?" before build.

        >>> from xpnet.nn import Dense
        >>> print(Sequential([Dense(4), Dense(3, bias=False)]).build((2,)).summary())
           layer  output shape  arrays            parameters
        ----------------------------------------------------
           input  (N, 2)
        0  dense  (N, 4)        W (2, 4), b (4,)          12
        1  dense  (N, 3)        W (4, 3)                  12
        ----------------------------------------------------
           total                                          24
        """
        return self.table().text()

    def _repr_html_(self) -> str:  # what a notebook shows
        return self.table().html()

    def table(self) -> Table:
        """Return the table that :meth:`summary` prints: the heads, the layers, and the sums."""
        return architecture([*map(name_of, self.layers)], self.layers, self.input_shape)

    def __repr__(self) -> str:
        shape = "" if self.input_shape is None else f", input_shape={self.input_shape}"
        frozen = f", frozen={self.frozen}" if self.frozen else ""
        return f"{type(self).__name__}([{', '.join(map(repr, self.layers))}]{shape}{frozen})"

    @property
    def output_shape(self) -> Shape:
        """The shape of one example's output."""
        return [self.input_shape or (), *self.shapes()][-1]

    def variables(self) -> list[dict[str, Variable]]:
        """Return the variables of each layer."""
        return [layer.variables() for layer in self.layers]

    @functools.cached_property
    def n_random(self) -> int:
        """How many layers draw random numbers in training, each with two keys."""
        return sum(layer.random for layer in self.layers)

    @functools.cached_property
    def first_trained(self) -> int:
        """The first layer with trained parameters, where backward may end; their number if none."""
        for i, variables in enumerate(self.variables()):
            names = (variable_name(i, self.layers[i], k) for k, v in variables.items() if v.trained)
            if not set(self.frozen).issuperset(names):
                return i
        return len(self.layers)

    def forward(
        self,
        params: Sequence[Params],
        x: Array,
        *,
        train: bool = False,
        keys: Sequence[Any] = (),
    ) -> tuple[Array, list[Any]]:
        """Return the output and each layer's residuals; ``keys`` holds a pair per random layer."""
        residuals, pairs = [], iter(keys)
        for layer, p in zip(self.layers, params, strict=True):
            pair = next(pairs, None) if layer.random else None
            x, r = layer.forward(p, x, train=train, keys=pair)
            residuals.append(r)
        return x, residuals

    def backward(
        self,
        params: Sequence[Params],
        residuals: Sequence[Any],
        dy: Array,
        *,
        input_gradient: bool = True,
    ) -> tuple[Array | None, list[dict[str, Array]]]:
        """Return dx and each layer's gradients, going back from dy = dC/doutput.

        With ``input_gradient=False`` the loop ends at the first layer that has parameters.
        """
        grads: list[dict[str, Array]] = [{} for _ in self.layers]
        first = self.first_trained
        gradient: Array | None = dy
        for i in reversed(range(len(self.layers))):
            if not input_gradient and i < first:
                return None, grads
            needed = input_gradient or i > first
            gradient, grads[i] = self.layers[i].backward(
                params[i], residuals[i], gradient, input_gradient=needed
            )
        return gradient, grads

    def track(self, params: Sequence[Params], residuals: Sequence[Any]) -> list[dict[str, Array]]:
        """Return each layer's new statistics after a training pass."""
        triples = zip(self.layers, params, residuals, strict=True)
        return [layer.track(p, r) for layer, p, r in triples]


def variable_name(index: int, layer: Layer, variable: str) -> str:
    """Return the name within the model of a variable of its layer ``index``.

    >>> from xpnet.nn import Dense
    >>> variable_name(0, Dense(3), "W")
    '0.dense.W'
    """
    return f"{index}.{name_of(layer)}.{variable}"
