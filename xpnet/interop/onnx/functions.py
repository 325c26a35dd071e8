"""Element-wise functions that ONNX has an operator for, known by what they compute.

An activation is a formula of a few nodes, and may be written in many ways. So a part of the graph
that takes one array and numbers alone is computed at a thousand points, and compared there with
each operator: from 1e-30 to 1e30, at the numbers that occur in it, and beside them, where a formula
has its corners. A layer of the user's own becomes one node as well.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Operator", "points", "same_operator", "values"]

Numbers = np.ndarray
Function = Callable[..., Numbers]


class Operator(NamedTuple):
    """An operator of ONNX with one input, and its attributes."""

    op_type: str
    attributes: dict[str, Any]


# What the nodes of a part compute; each keeps the shape of its array.
ELEMENTWISE: dict[str, Function] = {
    "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Div": np.divide, "Equal": np.equal,
    "Exp": np.exp, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "IsInf": np.isinf,
    "IsNaN": np.isnan, "Less": np.less, "LessOrEqual": np.less_equal, "Log": np.log,
    "Max": np.maximum, "Min": np.minimum, "Mul": np.multiply, "Neg": np.negative,
    "Not": np.logical_not, "Or": np.logical_or, "Pow": np.power, "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0.0), "Sigmoid": lambda x: _sigmoid(x), "Sign": np.sign,
    "Sqrt": np.sqrt, "Sub": np.subtract, "Tanh": np.tanh, "Where": np.where,
    "Erf": np.vectorize(math.erf, otypes=[float]),
}  # fmt: skip
LARGE = 1e4  # where what is left of exp(-x) is 0


def _sigmoid(x: Numbers) -> Numbers:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0.0, 1.0, e) / (1.0 + e)


def _softplus(x: Numbers) -> Numbers:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _gelu(x: Numbers) -> Numbers:
    return x * 0.5 * np.vectorize(math.erfc, otypes=[float])(-x * math.sqrt(0.5))


def _gelu_tanh(x: Numbers) -> Numbers:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _elu(x: Numbers, alpha: float) -> Numbers:
    return np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _candidates(at: Callable[[float], float]) -> Iterator[tuple[Operator, Function]]:
    """The operators, with the attributes that a function of these values would have."""
    yield Operator("Relu", {}), ELEMENTWISE["Relu"]
    yield Operator("Sigmoid", {}), _sigmoid
    yield Operator("Tanh", {}), np.tanh
    yield Operator("Softplus", {}), _softplus
    yield Operator("Softsign", {}), lambda x: x / (1.0 + np.abs(x))
    yield Operator("Gelu", {}), _gelu
    yield Operator("Gelu", {"approximate": "tanh"}), _gelu_tanh
    yield Operator("Mish", {}), lambda x: x * np.tanh(_softplus(x))
    if (slope := -at(-1.0)) != 1.0:  # which is x itself
        yield Operator("LeakyRelu", {"alpha": slope}), lambda x: np.where(x >= 0.0, x, slope * x)
    depth = -at(-LARGE)
    yield Operator("Elu", {"alpha": depth}), lambda x: _elu(x, depth)
    if depth > 0.0:
        celu = Operator("Celu", {"alpha": depth})
        yield celu, lambda x: np.where(x > 0.0, x, _elu(np.minimum(x, 0.0) / depth, depth))
    if (gamma := at(1.0)) > 0.0:
        selu = Operator("Selu", {"alpha": depth / gamma, "gamma": gamma})
        yield selu, lambda x: gamma * _elu(x, depth / gamma)
    beta, rise = at(0.0), 4.0 * (at(0.25) - at(0.0))
    hard = Operator("HardSigmoid", {"alpha": rise, "beta": beta})
    yield hard, lambda x: np.clip(rise * x + beta, 0.0, 1.0)
    yield Operator("HardSwish", {}), lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)


# onnxruntime has the others in float32 alone.
IN_FLOAT64 = ("Relu", "Sigmoid", "Tanh")


def points(constants: list[float]) -> Numbers:
    """Where a function is computed to know it."""
    sizes = np.concatenate([np.logspace(-30, 30, 121), np.linspace(0.0, 20.0, 161), [LARGE]])
    corners = np.array([1.0, 0.25, *(abs(c) for c in constants if 0.0 < abs(c) < 1e30)])
    beside = [corners * (1.0 + d) for d in (0.0, 1e-6, -1e-6, 1e-3, -1e-3)]
    inverse = 1.0 / corners
    found = np.concatenate([sizes, *beside, inverse])
    return np.unique(np.concatenate([-found, found]))


def values(
    nodes: list[Any], constants: Mapping[str, Numbers], name: str, at: Numbers
) -> dict[str, Numbers]:
    """Compute nodes of the operators above, in float64, where the value ``name`` is ``at``."""
    known: dict[str, Numbers] = {name: at}

    def value(of: str) -> Numbers:
        if of in known:
            return known[of]
        number = constants[of].reshape(())
        return number.astype(np.float64) if number.dtype.kind == "f" else number

    with np.errstate(all="ignore"):
        for node in nodes:
            known[node.output[0]] = ELEMENTWISE[node.op_type](*map(value, node.input))
    return known


def same_operator(x: Numbers, y: Numbers, eps: float) -> Operator | None:
    """Return the operator that has the values ``y`` at :func:`points` ``x``, to rounding by eps."""
    if y.shape != x.shape or y.dtype.kind != "f" or not np.isfinite(y).all():
        return None

    def at(point: float) -> float:
        return float(y[np.searchsorted(x, point)])

    with np.errstate(all="ignore"):
        for operator, function in _candidates(at):
            if eps < 1e-10 and operator.op_type not in IN_FLOAT64:
                continue
            expected = function(x)
            if (np.abs(y - expected) <= 16.0 * eps * np.abs(expected) + 1e-9).all():
                return operator
    return None
