"""Normalisations: y = γ x̂ + β over the last axis' features."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from array_api_compat import array_namespace, device

from xpnet.errors import ConfigError
from xpnet.nn.initializers import Constant, Zeros
from xpnet.nn.layer import REAL, FeatureLayer, Params, Shape, Variable
from xpnet.ops.normalization import (
    Mean,
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
            residuals = normalize(x, _all_but_last(x), self.eps, self._mean)
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
            return normalize_backward(dx_hat, x_hat, inv_std, axes, self._mean), grads
        return normalize_fixed_backward(dx_hat, inv_std), grads

    def track(self, params: Params, residuals: Any) -> dict[str, Array]:
        xp = array_namespace(params["mean"])
        x_hat, _, mean, var = residuals
        unbiased = xp.reshape(var, (-1,)) * self._unbiased(x_hat)
        m = self.momentum
        return {
            "mean": (1.0 - m) * params["mean"] + m * xp.reshape(mean, (-1,)),
            "var": (1.0 - m) * params["var"] + m * unbiased,
        }

    # Of a batch whose rows are elsewhere, too: how to take a mean over all of them.
    @property
    def _mean(self) -> Mean | None:
        return None

    def _unbiased(self, x_hat: Array) -> Any:
        """R / (R - 1), by which the biased variance of R rows is multiplied."""
        rows = math.prod(x_hat.shape[:-1])
        return rows / max(rows - 1, 1)


@dataclass(frozen=True)
class SharedBatchNorm(BatchNorm):
    """Batch normalisation where every rank has some rows of the batch: μ and v are those of all.

    ``total`` returns the sum of an array over the ranks; a sum and the rows that it is of go
    through it together. In PyTorch this is SyncBatchNorm. It is the layer "batch_norm" still: what
    is trained so may be used and trained on without it.
    """

    registered: ClassVar[str] = "batch_norm"
    total: Any = field(default=None, kw_only=True, repr=False, compare=False)

    @property
    def _mean(self) -> Mean:
        return self._shared_mean

    def _shared_mean(self, x: Array) -> Array:
        total = self.total(self._with_rows(x))
        return array_namespace(x).reshape(total[:-1] / total[-1], (1,) * (x.ndim - 1) + (-1,))

    def _with_rows(self, x: Array) -> Array:
        """The sum of each feature, and the number of rows: (J + 1,)."""
        xp, rows = array_namespace(x), math.prod(x.shape[:-1])
        count = xp.full((1,), float(rows), dtype=x.dtype, device=device(x))
        return xp.concat([xp.sum(x, axis=_all_but_last(x)), count])

    def _unbiased(self, x_hat: Array) -> Array:
        xp, rows = array_namespace(x_hat), float(math.prod(x_hat.shape[:-1]))
        rows = self.total(xp.full((1,), rows, dtype=x_hat.dtype, device=device(x_hat)))
        return rows / xp.maximum(rows - 1.0, xp.ones_like(rows))


def _all_but_last(x: Array) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - 1))
