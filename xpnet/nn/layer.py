"""What a layer is: a frozen description, and three pure functions of arrays.

    layer, out_shape = layer.build(in_shape)        fills in the sizes; shapes exclude the batch
    y, residuals = layer.forward(params, x)         residuals: whatever backward needs
    dx, grads = layer.backward(params, residuals, dy)

``params`` and ``grads`` are mappings from the names in :meth:`Layer.variables` to arrays.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

from xpnet.errors import ConfigError
from xpnet.nn.initializers import Initializer
from xpnet.settings import Checked, PositiveInt
from xpnet.typing import Array

__all__ = ["LAYERS", "REAL", "FeatureLayer", "Layer", "Params", "Shape", "Variable"]

Params = Mapping[str, Array]
Shape = tuple[int, ...]
REAL = -math.inf, math.inf  # the bounds of what can be any number


class Variable(NamedTuple):
    """An array that a layer owns: a trained parameter, or a statistic that training tracks."""

    shape: Shape
    initializer: Initializer
    trained: bool = True


LAYERS: dict[str, type["Layer"]] = {}  # by the names that they are registered by


@dataclass(frozen=True)
class Layer(Checked, ABC):
    """Base class of the layers."""

    table: ClassVar[dict[str, type["Layer"]]] = LAYERS
    random: ClassVar[bool] = False  # whether `forward` uses `keys` in training
    passes: ClassVar[bool] = False  # whether its outputs are its inputs, as far as a loss can tell
    # Of how many numbers it takes a mean per feature in training, at the least: a variance needs 2.
    fewest: ClassVar[int] = 1

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Between what its outputs lie, for :mod:`xpnet.nn.fit`; None if that is not known."""
        return None

    @property
    def gives(self) -> Literal["numbers", "probabilities", "log-probabilities"]:
        """What a row of its outputs is."""
        return "numbers"

    @property
    def exact(self) -> int:
        """The largest code among its inputs, which must not be rounded; 0 where there are none."""
        return 0

    def build(self, in_shape: Shape) -> tuple["Layer", Shape]:
        """Return this layer with its sizes filled in, and the shape of one output example.

        Raises ConfigError if the shape does not fit.
        """
        return self, in_shape

    def variables(self) -> dict[str, Variable]:
        """Return the arrays of a built layer by name, in the order of the flat vector."""
        return {}

    @abstractmethod
    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Any]:
        """Return y and the residuals. ``keys``, two int32, decide what a random layer draws."""

    @abstractmethod
    def backward(
        self, params: Params, residuals: Any, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        """Return dx and the gradients: the exact adjoint of :meth:`forward` at those residuals.

        ``input_gradient=False`` allows a layer to skip dx and return None for it.
        """

    def track(self, params: Params, residuals: Any) -> dict[str, Array]:
        """Return the new values of the variables that are not trained, after a training forward."""
        return {}

    def shared(self, total: Callable[[Array], Array]) -> "Layer":
        """Return the layer for batches of which other processes have rows, too.

        ``total`` returns the sum of a vector over the processes. A layer that takes each example by
        itself is the same one. Raises ConfigError for one that does not, where it says no other.
        """
        if self.fewest > 1 or not all(v.trained for v in self.variables().values()):
            msg = f"{type(self).__name__} computes with all rows of a batch, and does not say how, "
            msg += "where several processes share one"
            raise ConfigError(msg, python="define its method shared, or train in one process")
        return self


@dataclass(frozen=True)
class FeatureLayer(Layer):
    """Base class of the layers that have parameters for the features, the last axis."""

    features: PositiveInt | None = field(default=None, kw_only=True)  # filled in by build

    def build(self, in_shape: Shape) -> tuple["FeatureLayer", Shape]:
        name = type(self).__name__
        if not in_shape:
            msg = f"{name} needs at least one axis besides the batch; got scalars"
            raise ConfigError(msg)
        if self.features not in (None, in_shape[-1]):
            msg = f"this {name} takes {self.features} features; got {in_shape[-1]}"
            raise ConfigError(msg)
        return replace(self, features=in_shape[-1]), in_shape

    @property
    def built_features(self) -> int:
        """The number of features; raises ConfigError before :meth:`build`."""
        if self.features is None:
            msg = "the layer has not been built: call build(input_shape) on the model first"
            raise ConfigError(msg)
        return self.features
