"""Which operator of ONNX computes what a few nodes do.

An activation or a normalisation is a formula of a few nodes, and may be written in many ways. So
what takes one array and numbers alone is known by its values, which are compared with those of
xpnet's own layers: element by element at a thousand points, from 1e-30 to 1e30, at the numbers that
occur in it, and beside them, where a formula has its corners; along the last axis for rows of such
sizes. :mod:`xpnet.interop.onnx.nodes` says which layer an operator is. Nothing is spelled out here,
and what is read and what is written are known by the same table; a layer of the user's own becomes
one node as well.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np

from xpnet import nn
from xpnet.errors import ConfigError
from xpnet.interop.onnx.nodes import (
    ACTIVATIONS,
    FLOATS,
    SELU,
    UnlikeError,
    attributes_of,
    short,
    written,
)
from xpnet.ops.special import erf

__all__ = [
    "ALONG_ROWS",
    "COMPUTED",
    "Operator",
    "points",
    "rows",
    "same_along_rows",
    "same_operator",
    "values",
]

Numbers = np.ndarray
Function = Callable[..., Numbers]
Attributes = Mapping[str, Any]


class Operator(NamedTuple):
    """An operator of ONNX with one array, and its attributes."""

    op_type: str
    attributes: dict[str, Any]


PLAIN: dict[str, Function] = {
    "Abs": np.abs, "Add": np.add, "And": np.logical_and, "Div": np.divide, "Equal": np.equal,
    "Erf": erf, "Exp": np.exp, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "Identity": lambda x: x, "IsInf": np.isinf, "IsNaN": np.isnan, "Less": np.less,
    "LessOrEqual": np.less_equal, "Log": np.log,
    "Max": lambda *x: reduce(np.maximum, x), "Min": lambda *x: reduce(np.minimum, x),
    "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not, "Or": np.logical_or,
    "Pow": np.power, "Reciprocal": np.reciprocal, "Sign": np.sign, "Sqrt": np.sqrt,
    "Sub": np.subtract, "Where": np.where,
}  # fmt: skip
ALONG_ROWS: dict[str, Function] = {"ReduceMax": np.max, "ReduceMean": np.mean, "ReduceSum": np.sum}
COMPUTED = {*PLAIN, *ALONG_ROWS, *ACTIVATIONS, "Cast", "Clip"}
LARGE = 1e4  # where what is left of exp(-x) is 0
OVERFLOWS = 80.0  # beyond which exp(x) may be no number of float32


def _activation(op: str, attributes: Attributes) -> Function:
    """The function of an operator that is a layer, or like one with other numbers.

    Raises UnlikeError or ConfigError where there is none.
    """
    if op == "HardSigmoid":
        rise, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
        return lambda x: nn.HardSigmoid().value(6.0 * (rise * x + beta - 0.5))
    if op == "Selu":
        alpha, gamma = ({**SELU, **attributes}[name] for name in SELU)
        return lambda x: gamma * nn.ELU(short(alpha)).value(x)
    layer = ACTIVATIONS[op](attributes)
    assert isinstance(layer, nn.Activation)
    return layer.value


def _clipped(x: Numbers, low: Any = None, high: Any = None, **ends: float) -> Numbers:
    low, high = ends.get("min", low), ends.get("max", high)
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _reduced(function: Function, x: Numbers, axes: Any = None, **attributes: Any) -> Numbers:
    axes = attributes.get("axes", axes)
    along = () if axes is None else tuple(int(a) for a in np.reshape(axes, -1))
    if not along and attributes.get("noop_with_empty_axes"):
        return x
    return function(x, axis=along or None, keepdims=bool(attributes.get("keepdims", 1)))


def _function(op: str, attributes: Attributes) -> Function:
    """What a node computes. Raises UnlikeError or ConfigError for what is not computed here."""
    if op in PLAIN:
        return PLAIN[op]
    if op in ALONG_ROWS:
        return partial(_reduced, ALONG_ROWS[op], **attributes)
    if op == "Clip":
        return partial(_clipped, **attributes)
    if op == "Cast":
        if attributes["to"] in FLOATS:
            return lambda x: x.astype(np.float64)
        msg = "it rounds to whole numbers"
        raise UnlikeError(msg)
    return _activation(op, attributes)


def values(
    nodes: list[Any], constants: Mapping[str, Numbers], name: str, at: Numbers
) -> dict[str, Numbers]:
    """Compute nodes of the operators above, in float64, where the value ``name`` is ``at``.

    Raises UnlikeError or ConfigError for a node with attributes that are not computed here.
    """
    known: dict[str, Any] = {name: at, "": None}

    def value(of: str) -> Any:
        if of in known:
            return known[of]
        number = constants[of]
        if number.dtype.kind == "f":
            return np.float64(written(number))
        return number.reshape(()) if number.size == 1 else number

    with np.errstate(all="ignore"):
        for node in nodes:
            computed = _function(node.op_type, attributes_of(node))
            known[node.output[0]] = computed(*map(value, node.input))
    return known


# -- element by element ----------------------------------------------------------------------------


def points(numbers: Iterable[float], *, extremes: bool = False) -> Numbers:
    """Where a function of these numbers is computed to know it; ``extremes`` are NaN and ±∞."""
    sizes = np.concatenate([np.logspace(-30, 30, 121), np.linspace(0.0, 20.0, 161)])
    corners = np.array([1.0, 0.25, *(abs(c) for c in numbers if 0.0 < abs(c) < 1e30)])
    beside = [corners * (1.0 + d) for d in (0.0, 1e-6, -1e-6, 1e-3, -1e-3)]
    inverse = 1.0 / corners
    found = np.concatenate([sizes, np.linspace(21.0, 120.0, 100), [LARGE], *beside, inverse])
    beyond = [np.inf, np.nan] if extremes else []
    return np.unique(np.concatenate([-found, found, beyond, np.negative(beyond)]))


def _operators(at: Callable[[float], float]) -> Iterator[Operator]:
    """The operators, with the attributes that a function of these values would have."""
    for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Gelu"):
        yield Operator(op, {})
    yield Operator("Gelu", {"approximate": "tanh"})
    yield Operator("Mish", {})
    if (slope := -at(-1.0)) != 1.0:  # which is x itself
        yield Operator("LeakyRelu", {"alpha": slope})
    depth = -at(-LARGE)
    yield Operator("Elu", {"alpha": depth})
    yield Operator("Celu", {"alpha": depth})
    if (gamma := at(1.0)) > 0.0:
        yield Operator("Selu", {"alpha": depth / gamma, "gamma": gamma})
    beta, rise = at(0.0), 4.0 * (at(0.25) - at(0.0))
    if rise:  # else it is a constant
        yield Operator("HardSigmoid", {"alpha": rise, "beta": beta})
    yield Operator("HardSwish", {})
    yield Operator("Swish", {})


def same_operator(x: Numbers, y: Numbers, eps: float) -> Operator | None:
    """Return the operator that has the values ``y`` at :func:`points` ``x``, to rounding by eps.

    Where the exponential of a formula overflows, its values count as far as they are numbers.
    """
    counted = _counted(y, np.abs(x))
    if counted is None:
        return None

    def at(point: float) -> float:
        return float(y[np.searchsorted(x, point)])

    with np.errstate(all="ignore"):
        for operator in _operators(at):
            try:
                expected = _activation(*operator)(x)
            except (UnlikeError, ConfigError):
                continue
            if _same(y[counted], expected[counted], eps):
                return operator
    return None


def _counted(y: Numbers, size: Numbers) -> Numbers | None:
    """Which values are numbers; None unless all are that are of arguments up to 80 in size."""
    if y.shape != size.shape or y.dtype.kind != "f":
        return None
    counted = np.isfinite(y)
    return counted if counted[size <= OVERFLOWS].all() else None


def _same(y: Numbers, expected: Numbers, eps: float) -> bool:
    close = np.abs(y - expected) <= 16.0 * eps * np.abs(expected) + 1e-9
    return bool((close & np.isfinite(expected)).all())


# -- along the last axis ---------------------------------------------------------------------------


def rows(shape: tuple[int, ...]) -> Numbers:
    """Arrays of this shape, (R, *shape), for which a function of rows is computed to know it."""
    sizes = np.concatenate([np.logspace(-12, 12, 25), [1e-30, 1e30]])
    R, J = len(sizes), shape[-1]
    factors = sizes.reshape(-1, *(1 for _ in shape))
    numbers = np.random.default_rng(0).normal(size=(R, *shape))
    spikes = np.zeros((R, *shape))
    spikes[np.arange(R), ..., np.arange(R) % J] = 1.0
    return np.concatenate([numbers * factors, spikes * factors, -spikes * factors, numbers + 100.0])


def same_along_rows(
    x: Numbers, y: Numbers, numbers: Iterable[float], eps: float
) -> Operator | None:
    """Return the operator that has the values ``y`` for :func:`rows` ``x``, to rounding by eps.

    ``numbers`` are those that occur in the formula: one may be the ε of a normalisation.
    """
    counted = _counted(y, np.abs(x).max(axis=-1, keepdims=True) + 0.0 * x)
    if counted is None:
        return None
    layers: list[tuple[str, Attributes, nn.Layer]] = [
        ("Softmax", {"axis": -1}, nn.Softmax()),
        ("LogSoftmax", {"axis": -1}, nn.LogSoftmax()),
    ]
    for k in map(short, numbers):
        if k > 0.0:
            layers.append(("LayerNormalization", {"epsilon": k}, nn.LayerNorm(eps=k)))
            layers.append(("RMSNormalization", {"epsilon": k}, nn.RMSNorm(eps=k)))
    plain = {"gamma": np.ones(()), "beta": np.zeros(())}
    with np.errstate(all="ignore"):
        for op, attributes, layer in layers:
            expected = np.asarray(layer.forward(plain, x)[0])
            if _same(y[counted], expected[counted], eps):
                return Operator(op, dict(attributes))
    return None
