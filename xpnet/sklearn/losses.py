"""The losses of scikit-learn's MLP: a mean over rows, of a sum over the outputs of each."""

from dataclasses import dataclass

from array_api_compat import array_namespace

from xpnet.nn.losses import (
    BinaryCrossEntropy,
    ElementwiseLoss,
    Loss,
    Poisson,
    SoftmaxCrossEntropy,
    Terms,
)
from xpnet.ops import regression as ops
from xpnet.typing import Array

__all__ = ["classification_loss", "regression_loss"]


@dataclass(frozen=True)
class _ByRow(ElementwiseLoss):
    """C = Σ_nj s_n e_nj / Σ_n s_n, where "mean" of the library divides by the elements' weights."""

    def terms(self, output: Array, target: Array, weight: Array | None = None) -> Terms:
        terms = super().terms(output, target, weight)
        return terms._replace(weights=terms.weights / output.shape[1])


@dataclass(frozen=True)
class RowBinaryCrossEntropy(_ByRow, BinaryCrossEntropy):
    """The cross-entropies of a row's labels, added up."""


@dataclass(frozen=True)
class HalfSquaredError(_ByRow):
    """C = 1/D Σ_nj s_n ½ (z_nj - y_nj)²."""

    takes = "values"
    formula = "½ (z_nj - y_nj)²", "z_nj - y_nj"

    def value(self, z: Array, y: Array) -> Array:
        return 0.5 * ops.squared_error(z, y)

    def backward_value(self, z: Array, y: Array) -> Array:
        return 0.5 * ops.squared_error_backward(z, y)


@dataclass(frozen=True)
class HalfPoissonDeviance(_ByRow, Poisson):
    """C = 1/D Σ_nj s_n (y log y - y + exp z - y z), which is 0 where the rate exp z is y."""

    def value(self, z: Array, y: Array) -> Array:
        xp = array_namespace(z, y)
        least = y * xp.log(xp.where(y > 0.0, y, 1.0)) - y
        return super().value(z, y) + least


def classification_loss(out_activation: str) -> Loss:
    """Return the loss of the logits of a "softmax" or "logistic" output."""
    return SoftmaxCrossEntropy() if out_activation == "softmax" else RowBinaryCrossEntropy()


def regression_loss(name: str) -> Loss:
    """Return the loss that is called "squared_error" or "poisson"."""
    return HalfSquaredError() if name == "squared_error" else HalfPoissonDeviance()
