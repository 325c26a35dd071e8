"""The leaky ReLU whose slope is trained."""

from typing import Annotated, Any, ClassVar, Literal

from array_api_compat import array_namespace

from xpnet.nn.activation import ACTIVATIONS
from xpnet.nn.initializers import Constant
from xpnet.nn.layer import REAL, FeatureLayer, Layer, Params, Variable
from xpnet.ops.activations import prelu, prelu_backward
from xpnet.registry import register
from xpnet.settings import Range
from xpnet.typing import Array

__all__ = ["PReLU"]


@register("prelu")
class PReLU(FeatureLayer):
    """a = z where z > 0, else α z, with a trained α: one number, or one per feature.

    α starts at ``slope``. He, Zhang, Ren and Sun, "Delving deep into rectifiers: surpassing
    human-level performance on ImageNet classification", ICCV 2015, equation 1; PyTorch's
    ``num_parameters`` is 1 for ``per="layer"`` and the number of features for ``per="feature"``.
    They advise against weight decay, which draws α towards 0.
    """

    table: ClassVar[dict[str, type[Layer]]] = ACTIVATIONS
    slope: Annotated[float, Range(ge=0)] = 0.25
    formula: ClassVar = "z_nj where z_nj > 0, else α z_nj", "1 where z_nj > 0, else α"
    per: Literal["layer", "feature"] = "layer"
    bounds = REAL

    def variables(self) -> dict[str, Variable]:
        shape = (self.built_features if self.per == "feature" else 1,)
        return {"alpha": Variable(shape, Constant(self.slope))}

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Array]:
        return prelu(x, params["alpha"]), x

    def backward(
        self, params: Params, residuals: Array, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        xp = array_namespace(dy)
        dx, parts = prelu_backward(dy, residuals, params["alpha"])
        axes = tuple(range(len(dy.shape) - (self.per == "feature")))
        return dx, {"alpha": xp.reshape(xp.sum(parts, axis=axes), params["alpha"].shape)}
