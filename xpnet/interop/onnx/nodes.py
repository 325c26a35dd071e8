"""Single ONNX nodes as layers: https://onnx.ai/onnx/operators."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpnet import nn
from xpnet.errors import ConfigError, require
from xpnet.interop.imported import Part

__all__ = [
    "ACTIVATIONS",
    "FLOATS",
    "SELU",
    "UnlikeError",
    "attributes_of",
    "norm_part",
    "refused",
    "short",
    "written",
]

Attributes = Mapping[str, Any]
FLOATS = (1, 10, 11, 16)  # TensorProto's float, float16, double, bfloat16
SIXTH = 1 / 6
SELU = {"alpha": 1.6732632, "gamma": 1.0507010}  # as ONNX has them


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes of a node that are given; texts as str."""
    helper = require("onnx.helper", "onnx", "reading ONNX")
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def refused(where: str, why: str) -> ConfigError:
    """The error for a node that has no layer."""
    return ConfigError(f"{where} has no layer in xpnet: {why}")


class UnlikeError(ValueError):
    """A setting of an activation that xpnet has not; its text says which."""


def _fixed(attributes: Attributes, expected: Mapping[str, float], default: Attributes) -> None:
    for name, value in expected.items():
        found = attributes.get(name, default[name])
        if abs(found - value) > 1e-5 * abs(value):
            msg = f"its {name} is {found:g}, and xpnet's is {value:g}"
            raise UnlikeError(msg)


def _hard_sigmoid(a: Attributes) -> nn.Layer:
    _fixed(a, {"alpha": SIXTH, "beta": 0.5}, {"alpha": 0.2, "beta": 0.5})
    return nn.HardSigmoid()


def _selu(a: Attributes) -> nn.Layer:
    _fixed(a, SELU, SELU)
    return nn.SELU()


def _swish(a: Attributes) -> nn.Layer:
    _fixed(a, {"alpha": 1.0}, {"alpha": 1.0})
    return nn.SiLU()


def _gelu(a: Attributes) -> nn.Layer:
    return nn.GELUTanh() if a.get("approximate", "none") == "tanh" else nn.GELU()


# op -> its layer, from its attributes, for nodes of one input
ACTIVATIONS: Mapping[str, Callable[[Attributes], nn.Layer]] = {
    "Relu": lambda a: nn.ReLU(),
    "LeakyRelu": lambda a: nn.LeakyReLU(short(a.get("alpha", 0.01))),
    "Sigmoid": lambda a: nn.Sigmoid(),
    "Tanh": lambda a: nn.Tanh(),
    "Elu": lambda a: nn.ELU(short(a.get("alpha", 1.0))),
    "Selu": _selu,
    "Celu": lambda a: nn.CELU(short(a.get("alpha", 1.0))),
    "Gelu": _gelu,
    "Softplus": lambda a: nn.Softplus(),
    "Softsign": lambda a: nn.Softsign(),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda a: nn.HardSwish(),
    "Mish": lambda a: nn.Mish(),
    "Swish": _swish,
}


def short(number: float) -> float:
    """The shortest decimal number that float32 keeps as this: attributes are float32."""
    return float(str(np.float32(number)))


def written(constant: np.ndarray) -> float:
    """The shortest decimal number that a constant's dtype keeps as it: 0.1 of any."""
    return float(str(constant.reshape(-1)[0]))


def norm_part(op: str, a: Attributes, given: list[np.ndarray], J: int) -> Part:
    """Return the normalisation ``op`` over J features, ``given`` its arrays.

    Raises UnlikeError with what it has that xpnet's has not.
    """
    eps = short(a.get("epsilon", 1e-5))
    if a.get("axis", -1) not in (-1, 1):
        msg = "it normalises another axis than the last"
        raise UnlikeError(msg)
    arrays = {"gamma": given[0].reshape(-1)}
    if arrays["gamma"].size != J:
        msg = f"its scale has {arrays['gamma'].size} numbers for {J} features"
        raise UnlikeError(msg)
    if op == "RMSNormalization":
        return Part(nn.RMSNorm(eps=eps), arrays)
    frozen = () if len(given) > 1 else ("beta",)
    arrays["beta"] = given[1].reshape(-1) if len(given) > 1 else np.zeros_like(arrays["gamma"])
    if op == "LayerNormalization":
        return Part(nn.LayerNorm(eps=eps), arrays, frozen)
    if op == "GroupNormalization":
        return Part(nn.GroupNorm(eps=eps, groups=int(a["num_groups"])), arrays)
    if a.get("training_mode", 0):
        msg = "it is in training mode: export the model in evaluation mode"
        raise UnlikeError(msg)
    arrays |= {"mean": given[2], "var": given[3]}
    momentum = round(1.0 - short(a.get("momentum", 0.9)), 7)
    if not momentum:
        msg = "its momentum is 1: the statistics never move"
        raise UnlikeError(msg)
    return Part(nn.BatchNorm(eps=eps, momentum=momentum), arrays)
