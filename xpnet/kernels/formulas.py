"""The formulas of a training step that kernels are printed from: what portable code computes.

Each function calls the portable code with symbols. A layer, a loss or a rule of the user's own is
traced like the library's; where one cannot be, UnsupportedError says which operation stands in the
way.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from xpnet.errors import UnsupportedError
from xpnet.kernels.printing import NUMBA as PYTHON
from xpnet.kernels.printing import printed
from xpnet.kernels.tracing import Formula, Symbol, traced, traced_by_rows
from xpnet.nn import Activation, Layer
from xpnet.nn.losses import Loss
from xpnet.optim.clipping import Clip, clip_by_value, factor_of_norm
from xpnet.optim.groups import Grouped
from xpnet.optim.optimizers import Optimizer

__all__ = [
    "ElementLoss",
    "Elementwise",
    "RowLayer",
    "activation",
    "descent",
    "element_loss",
    "function",
    "norm_factor",
    "row_layer",
    "squared_gradient",
    "update",
]


class Elementwise(NamedTuple):
    """An activation: a = value(z), and dz = derivative(da, kept)."""

    value: Formula
    derivative: Formula
    keeps_output: bool  # whether `kept` is a, else it is z

    @property
    def is_identity(self) -> bool:
        """Whether it is a = z, which needs no kernel."""
        return _is_input(self.value.outputs[0])


class ElementLoss(NamedTuple):
    """A loss of elements: (e, de/dz) of (z, y), and whether an element is correct, if it can be."""

    value: Formula
    correct: Formula | None


def activation(layer: Layer) -> Elementwise:
    """Return the formulas of an element-wise layer without parameters.

    Raises UnsupportedError.
    """
    if not isinstance(layer, Activation):
        msg = f"{type(layer).__name__} is no Activation, so it is not element-wise"
        raise UnsupportedError(msg)
    value = traced(lambda z: layer.forward({}, z, train=True), "z")
    if len(value.outputs) != 2:
        msg = "it keeps more than one array for its backward"
        raise UnsupportedError(msg)
    a, kept = value.outputs
    if kept is not a and not _is_input(kept):
        msg = "it keeps neither its input nor its output for its backward"
        raise UnsupportedError(msg)
    derivative = traced(lambda da, kept: layer.backward({}, kept, da)[0], "da", "kept")
    return Elementwise(value._replace(outputs=(a,)), derivative, kept is a)


def _is_input(x: Any) -> bool:
    return isinstance(x, Symbol) and x.operation == "input"


def element_loss(loss: Loss) -> ElementLoss:
    """Return the formulas of an element-wise loss. Raises UnsupportedError."""
    value = traced(lambda z, y: loss.terms(z, y)[:3], "z", "y")
    *terms, weight = value.outputs
    if weight != 1.0:  # the kernels divide by the number of elements, or by the rows' weights
        msg = "its terms give its elements weights of their own"
        raise UnsupportedError(msg)
    value = value._replace(outputs=tuple(terms))
    if loss.predicts == "value":
        return ElementLoss(value, None)
    correct = traced(lambda z, y: loss.correct(z, y)[0], "z", "y", total=True)
    return ElementLoss(value, correct)


def update(optimizer: Optimizer, clip: Clip = Clip(), *, divided: bool = False) -> Formula:
    """Return the formula of a rule after clipping: p and the slots after an update.

    Its inputs are p, g, ``slot_*`` and ``c_*``, the coefficients of the update; ``factor`` where
    the norm is clipped; and ``denominator``, if g is to be divided by that first. Raises
    UnsupportedError.
    """
    slots = [f"slot_{name}" for name in optimizer.slots]
    like = optimizer.coefficients(optimizer.lr, 1)
    numbers = [f"c_{name}" for name in like._fields]

    def updated(p: Any, g: Any, factor: Any, denominator: Any, *rest: Any) -> Any:
        g = _clipped(g, factor, denominator, clip, divided=divided)
        return optimizer.update(p, g, rest[: len(slots)], type(like)(*rest[len(slots) :]))

    formula = traced(updated, "p", "g", "factor", "denominator", *slots, *numbers)
    if len(formula.outputs) != 1 + len(slots):
        msg = f"it returns {len(formula.outputs) - 1} slots; it has {len(slots)}"
        raise UnsupportedError(msg)
    return formula


def squared_gradient(clip: Clip, *, divided: bool = False) -> Formula:
    """Return what the norm adds up: the square of g, each component clipped."""

    def squared(g: Any, denominator: Any) -> Any:
        g = _clipped(g, 1.0, denominator, Clip(value=clip.value), divided=divided)
        return g * g

    return traced(squared, "g", "denominator")


def norm_factor(max_norm: float) -> Formula:
    """Return the factor that clips a gradient, as a function of its ``norm``."""
    return traced(lambda norm: factor_of_norm(norm, max_norm), "norm")


def _clipped(g: Any, factor: Any, denominator: Any, clip: Clip, *, divided: bool) -> Any:
    g = g / denominator if divided else g
    if clip.value is not None:
        g = clip_by_value(g, clip.value)
    return g if clip.norm is None else g * factor


def descent(optimizer: Optimizer, clip: Clip) -> Callable[[Any], tuple[float, float]] | None:
    """Return (α, β) as a function of the coefficients if the update is p = α g + β p, else None.

    Such an update needs no pass of its own: the product that computes g adds to p.
    """
    if optimizer.slots or clip != Clip() or isinstance(optimizer, Grouped):
        return None
    try:
        formula = update(optimizer)
    except UnsupportedError:
        return None
    if _degree(formula.outputs[0]) != 1 or _constant(formula):
        return None
    step = function(formula)
    return lambda c: (step(0.0, 1.0, 0.0, 0.0, *c), step(1.0, 0.0, 0.0, 0.0, *c))


def function(formula: Formula) -> Callable[..., float]:
    """Return a function of Python's floats that computes a formula's first output.

    Where C gives inf or NaN it may raise ArithmeticError or ValueError.
    """
    code = printed(formula, PYTHON)
    names = {"real": float, "math": math, **{f"k{i}": x for i, x in enumerate(code.numbers)}}
    body = "; ".join((*code.statements, f"return {code.outputs[0]}"))
    exec(f"def computed({', '.join(formula.inputs)}): {body}", names)
    return names["computed"]  # type: ignore[return-value]


def _degree(x: Any) -> int | None:
    """The degree of an expression in p and g; None where it is not linear."""
    if not isinstance(x, Symbol):
        return 0
    if x.operation == "input":
        return int(x.operands[0] in ("p", "g"))
    degrees = [_degree(operand) for operand in x.operands]
    if None in degrees:
        return None
    if x.operation in ("+", "-", "neg"):
        return max(degrees)  # type: ignore[type-var]
    if x.operation == "*" and min(degrees) == 0:  # type: ignore[type-var]
        return max(degrees)  # type: ignore[type-var]
    return 0 if max(degrees) == 0 else None  # type: ignore[type-var]


def _constant(formula: Formula) -> bool:
    """Whether a term has neither p nor g."""
    return any(
        x.operation in ("+", "-") and 0 in (degrees := [_degree(y) for y in x.operands])
        and max(degrees) == 1  # type: ignore[type-var]
        for x in formula.order()
    )  # fmt: skip


class RowLayer(NamedTuple):
    """A layer that works along each row: y, what backward needs, and backward itself.

    ``forward`` has y and then the residuals as outputs, of inputs x and the parameters;
    ``backward`` dx, if it is asked for, and the gradients of the parameters, of inputs dy,
    ``r0``, ``r1``, ... (the residuals) and the parameters.
    """

    forward: Formula
    backward: Formula
    without_dx: Formula | None  # None where nothing is trained
    residuals: tuple[str, ...]  # "x", "y", a parameter, or "element" or "row" for a new array


def row_layer(layer: Layer, parameters: tuple[str, ...]) -> RowLayer:
    """Return the formulas of a layer whose sums are along rows, and its parameters per column.

    Raises UnsupportedError.
    """
    made: dict[str, Any] = {}

    def forward(x: Any, *values: Any) -> Any:
        made["x"], made["parameters"] = x, values
        y, made["residuals"] = layer.forward(
            dict(zip(parameters, values, strict=True)), x, train=True
        )
        return y, made["residuals"]

    columns = dict.fromkeys(parameters, "column")
    formula = traced_by_rows(forward, x="element", **columns)
    names = {id(made["x"]): "x", id(formula.outputs[0]): "y"}
    names |= {id(v): name for v, name in zip(made["parameters"], parameters, strict=True)}
    found = formula.outputs[1:]
    if not all(isinstance(r, Symbol) and r.level in ("element", "row", "column") for r in found):
        msg = "it keeps a number for its backward"
        raise UnsupportedError(msg)
    kinds = tuple(names.get(id(r), r.level) for r in found)
    if "column" in kinds:
        msg = "it keeps a number of each column for its backward"
        raise UnsupportedError(msg)
    levels = {f"r{i}": r.level for i, r in enumerate(found)}
    alone = isinstance(made["residuals"], Symbol)

    def backward(dx: bool) -> Formula:
        def run(dy: Any, *given: Any) -> Any:
            kept, values = given[: len(found)], given[len(found) :]
            new, grads = layer.backward(
                dict(zip(parameters, values, strict=True)), kept[0] if alone else kept, dy,
                input_gradient=dx,
            )  # fmt: skip
            return ([new] if dx else []), [grads[name] for name in parameters]

        return traced_by_rows(run, dy="element", **levels, **columns)

    without = backward(dx=False) if parameters else None
    return RowLayer(formula, backward(dx=True), without, kinds)
