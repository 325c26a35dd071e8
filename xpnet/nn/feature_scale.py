"""Trained factors of the features."""

from typing import Any, ClassVar

from xpnet.nn.initializers import Ones
from xpnet.nn.layer import REAL, FeatureLayer, Params, Variable
from xpnet.ops.feature_scale import feature_scale, feature_scale_backward
from xpnet.registry import register
from xpnet.typing import Array

__all__ = ["FeatureScale"]


@register("feature_scale")
class FeatureScale(FeatureLayer):
    """y_nj = s_j x_nj, with a trained s for each feature, 1 at first.

    Before the first dense layer of a network for tables it is a soft selection of features, and
    learns fast at a larger learning rate. Holzmüller, Grinsztajn and Steinwart, "Better by default:
    strong pre-tuned MLPs and boosted trees on tabular data", NeurIPS 2024 (arXiv:2407.04491),
    section 3, where that is 6 times the rate of the weights.
    """

    formula: ClassVar = "s_j z_nj", "s_j"
    bounds = REAL

    def variables(self) -> dict[str, Variable]:
        return {"s": Variable((self.built_features,), Ones())}

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Array]:
        return feature_scale(x, params["s"]), x

    def backward(
        self, params: Params, residuals: Array, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        dx, ds = feature_scale_backward(dy, residuals, params["s"], input_gradient=input_gradient)
        return dx, {"s": ds}
