"""Normalisations: y = γ x̂ + β over the last axis' features."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from array_api_compat import array_namespace, device

from xpnet.errors import ConfigError
from xpnet.nn.initializers import Constant, Zeros
from xpnet.nn.layer import REAL, FeatureLayer, Layer, Params, Shape, Variable
from xpnet.ops.normalization import (
    normalize,
    normalize_backward,
    normalize_fixed_backward,
    rms_normalize,
    rms_normalize_backward,
)
from xpnet.registry import register
from xpnet.settings import PositiveFloat, PositiveInt, Range
from xpnet.typing import Array

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "Norm", "RMSNorm", "SharedBatchNorm"]

ONES = Constant(1.0)


@dataclass(frozen=True)
class Norm(FeatureLayer):
    """Base class of the normalisations."""

    # x̂ and dx in index letters, for `explain`.
    formula: ClassVar[tuple[str, str]] = (
        "⟨x_nj - μ|√(v + ε)⟩",
        "⟨dx̂_nj - mean(dx̂) - x̂_nj mean(dx̂ x̂)|√(v + ε)⟩, dx̂_nj = γ_j dy_nj",
    )

    eps: PositiveFloat = 1e-5
    bounds = REAL

    def variables(self) -> dict[str, Variable]:
        shape = (self.built_features,)
        return {"gamma": Variable(shape, ONES), "beta": Variable(shape, Zeros())}

    def _affine_gradients(self, dy: Array, x_hat: Array) -> dict[str, Array]:
        """dγ = Σ dy x̂ and dβ = Σ dy over all axes but the features."""
        xp = array_namespace(dy)
        rows = _all_but_last(dy)
        return {"gamma": xp.sum(dy * x_hat, axis=rows), "beta": xp.sum(dy, axis=rows)}


@register("layer_norm")
class LayerNorm(Norm):
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


@register("group_norm")
class GroupNorm(Norm):
    """x̂ = (x - μ) / √(v + ε), μ and v of each example over a group of features and all other axes.

    The features, the last axis, are divided into ``groups`` of neighbours of one size; PyTorch,
    whose channels come first, has the same formula. One group is, for vectors, layer normalisation.
    Wu and He, "Group normalization", ECCV 2018, equations 1 to 7.
    """

    groups: PositiveInt = 1

    def build(self, in_shape: Shape) -> tuple[FeatureLayer, Shape]:
        built, shape = super().build(in_shape)
        if shape[-1] % self.groups:
            msg = f"{shape[-1]} features cannot be divided into {self.groups} groups: choose "
            msg += "groups that divide them"
            raise ConfigError(msg)
        return built, shape

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, tuple[Array, Array]]:
        grouped, inv_std, _, _ = normalize(self._grouped(x), (1, 3), self.eps)
        x_hat = array_namespace(x).reshape(grouped, x.shape)
        return x_hat * params["gamma"] + params["beta"], (x_hat, inv_std)

    def backward(
        self, params: Params, residuals: Any, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        x_hat, inv_std = residuals
        grads = self._affine_gradients(dy, x_hat)
        if not input_gradient:
            return None, grads
        grouped = self._grouped(dy * params["gamma"]), self._grouped(x_hat)
        dx = normalize_backward(*grouped, inv_std, (1, 3))
        return array_namespace(dy).reshape(dx, dy.shape), grads

    def _grouped(self, x: Array) -> Array:
        """The array with axes for the example, its other axes, the group, the feature in it."""
        N, J = x.shape[0], x.shape[-1]
        shape = (N, math.prod(x.shape[1:-1]), self.groups, J // self.groups)
        return array_namespace(x).reshape(x, shape)


@register("rms_norm")
class RMSNorm(Norm):
    """y = γ x / √(mean(x²) + ε), the mean over the last axis of each example: no μ, and no β.

    Zhang and Sennrich, "Root mean square layer normalization", NeurIPS 2019, equation 4; PyTorch's
    RMSNorm, whose ε is by default the dtype's.
    """

    formula = (
        "⟨x_nj|√(mean(x²) + ε)⟩",
        "⟨dx̂_nj - x̂_nj mean(dx̂ x̂)|√(mean(x²) + ε)⟩, dx̂_nj = γ_j dy_nj",
    )

    def variables(self) -> dict[str, Variable]:
        return {"gamma": Variable((self.built_features,), ONES)}

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, tuple[Array, Array]]:
        x_hat, inv_rms = rms_normalize(x, self.eps)
        return x_hat * params["gamma"], (x_hat, inv_rms)

    def backward(
        self, params: Params, residuals: Any, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        x_hat, inv_rms = residuals
        grads = {"gamma": array_namespace(dy).sum(dy * x_hat, axis=_all_but_last(dy))}
        if not input_gradient:
            return None, grads
        return rms_normalize_backward(dy * params["gamma"], x_hat, inv_rms), grads


@register("batch_norm")
class BatchNorm(Norm):
    """x̂ = (x - μ) / √(v + ε), μ and v per feature: the batch's in training, else running ones.

    The running statistics move by ``momentum`` towards each batch's mean and unbiased variance,
    r = (1 - m) r + m μ, as in PyTorch. They are part of the training state, not of the layer.
    """

    momentum: Annotated[float, Range(gt=0, le=1)] = 0.1
    fewest = 2

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
            residuals = self._normalized(x)
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
            axes = _all_but_last(dy)
            return normalize_backward(dx_hat, x_hat, inv_std, axes, *of_batch[2:]), grads
        return normalize_fixed_backward(dx_hat, inv_std), grads

    def track(self, params: Params, residuals: Any) -> dict[str, Array]:
        xp = array_namespace(params["mean"])
        mean, var = residuals[2:4]
        unbiased = xp.reshape(var, (-1,)) * self._unbiased(residuals)
        m = self.momentum
        return {
            "mean": (1.0 - m) * params["mean"] + m * xp.reshape(mean, (-1,)),
            "var": (1.0 - m) * params["var"] + m * unbiased,
        }

    def shared(self, total: Callable[[Array], Array]) -> Layer:
        if type(self) is not BatchNorm:
            return super().shared(total)
        return SharedBatchNorm(**vars(self), total=total)

    def _normalized(self, x: Array) -> tuple:
        return normalize(x, _all_but_last(x), self.eps)

    def _unbiased(self, residuals: Any) -> Any:
        """R / (R - 1), by which the biased variance of R rows is multiplied."""
        rows = math.prod(residuals[0].shape[:-1])
        return rows / max(rows - 1, 1)


@dataclass(frozen=True)
class SharedBatchNorm(BatchNorm):
    """Batch normalisation where other processes have rows of the batch, too: μ and v are of all.

    ``total`` returns the sum of a vector over all of them, and is called three times in a step. In
    PyTorch this is SyncBatchNorm. It is the layer "batch_norm" still, within a step: what is
    trained so is used and trained on without it.
    """

    registered: ClassVar[str] = "batch_norm"
    total: Any = field(default=None, kw_only=True, repr=False, compare=False)

    def _normalized(self, x: Array) -> tuple:
        means = _SharedMeans(self.total)
        return (*normalize(x, _all_but_last(x), self.eps, means), means)

    def _unbiased(self, residuals: Any) -> Array:
        rows = residuals[-1].rows
        xp = array_namespace(rows)
        return rows / xp.maximum(rows - 1.0, xp.ones_like(rows))


class _SharedMeans:
    """Means over the rows of all processes; the first ones bring the number of these rows along."""

    def __init__(self, total: Callable[[Array], Array]) -> None:
        self._total = total
        self.rows: Any = None  # (1,), in the dtype of the means

    def __call__(self, *arrays: Array) -> list[Array]:
        x, xp = arrays[0], array_namespace(*arrays)
        sums = [xp.sum(a, axis=_all_but_last(a)) for a in arrays]
        if self.rows is None:
            rows = float(math.prod(x.shape[:-1]))
            sums.append(xp.full((1,), rows, dtype=x.dtype, device=device(x)))
        total = self._total(xp.concat(sums))
        if self.rows is None:
            total, self.rows = total[:-1], total[-1:]
        shape = (len(arrays), *(1,) * (len(x.shape) - 1), x.shape[-1])
        means = xp.reshape(total / self.rows, shape)
        return [means[i, ...] for i in range(len(arrays))]


def _all_but_last(x: Array) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - 1))
