"""Layer and batch normalisation: y = γ x̂ + β over the last axis' features."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from array_api_compat import array_namespace

from xpnet.errors import ConfigError
from xpnet.nn.initializers import Constant, Zeros
from xpnet.nn.layer import Layer, Params, Shape, Variable
from xpnet.ops.normalization import normalize, normalize_backward, normalize_fixed_backward
from xpnet.settings import PositiveFloat, PositiveInt, Range
from xpnet.typing import Array

__all__ = ["BatchNorm", "LayerNorm"]

ONES = Constant(1.0)


@dataclass(frozen=True)
class _Norm(Layer):
    eps: PositiveFloat = 1e-5
    features: PositiveInt | None = None

    def build(self, in_shape: Shape) -> tuple["_Norm", Shape]:
        if not in_shape:
            msg = "a normalisation needs at least one axis besides the batch; got scalars"
            raise ConfigError(msg)
        if self.features not in (None, in_shape[-1]):
            msg = f"this normalisation takes {self.features} features; got {in_shape[-1]}"
            raise ConfigError(msg)
        return dataclasses.replace(self, features=in_shape[-1]), in_shape

    def variables(self) -> dict[str, Variable]:
        if self.features is None:
            msg = "the layer has not been built: call build(input_shape) on the model first"
            raise ConfigError(msg)
        shape = (self.features,)
        return {"gamma": Variable(shape, ONES), "beta": Variable(shape, Zeros())}

    def _affine_gradients(self, dy: Array, x_hat: Array) -> dict[str, Array]:
        """dγ = Σ dy x̂ and dβ = Σ dy over all axes but the features."""
        xp = array_namespace(dy)
        rows = _all_but_last(dy)
        return {"gamma": xp.sum(dy * x_hat, axis=rows), "beta": xp.sum(dy, axis=rows)}


@dataclass(frozen=True)
class LayerNorm(_Norm):
    """x̂ = (x - μ) / √(v + ε), μ and v over the last axis of each example."""

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, tuple[Array, Array]]:
        x_hat, inv_std, _, _ = normalize(x, -1, self.eps)
        return x_hat * params["gamma"] + params["beta"], (x_hat, inv_std)

    def backward(
        self, params: Params, residuals: Any, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        x_hat, inv_std = residuals
        grads = self._affine_gradients(dy, x_hat)
        if not input_gradient:
            return None, grads
        return normalize_backward(dy * params["gamma"], x_hat, inv_std, -1), grads


@dataclass(frozen=True)
class BatchNorm(_Norm):
    """x̂ = (x - μ) / √(v + ε), μ and v per feature: the batch's in training, else running ones.

    The running statistics move by ``momentum`` towards each batch's mean and unbiased variance,
    r = (1 - m) r + m μ, as in PyTorch. They are part of the training state, not of the layer.
    """

    momentum: Annotated[float, Range(gt=0, le=1)] = 0.1

    def variables(self) -> dict[str, Variable]:
        trained = super().variables()
        shape = trained["gamma"].shape
        return {
            **trained,
            "mean": Variable(shape, Zeros(), trained=False),
            "var": Variable(shape, ONES, trained=False),
        }

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, tuple]:
        xp = array_namespace(x)
        if train:
            residuals = normalize(x, _all_but_last(x), self.eps)
        else:
            inv_std = 1.0 / xp.sqrt(params["var"] + self.eps)
            residuals = ((x - params["mean"]) * inv_std, inv_std)
        return residuals[0] * params["gamma"] + params["beta"], residuals

    def backward(
        self, params: Params, residuals: Any, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        x_hat, inv_std, *of_batch = residuals
        grads = self._affine_gradients(dy, x_hat)
        if not input_gradient:
            return None, grads
        dx_hat = dy * params["gamma"]
        if of_batch:
            return normalize_backward(dx_hat, x_hat, inv_std, _all_but_last(dy)), grads
        return normalize_fixed_backward(dx_hat, inv_std), grads

    def track(self, params: Params, residuals: Any) -> dict[str, Array]:
        xp = array_namespace(params["mean"])
        x_hat, _, mean, var = residuals
        rows = 1
        for length in x_hat.shape[:-1]:
            rows *= length
        unbiased = xp.reshape(var, (-1,)) * (rows / max(rows - 1, 1))
        m = self.momentum
        return {
            "mean": (1.0 - m) * params["mean"] + m * xp.reshape(mean, (-1,)),
            "var": (1.0 - m) * params["var"] + m * unbiased,
        }


def _all_but_last(x: Array) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - 1))
