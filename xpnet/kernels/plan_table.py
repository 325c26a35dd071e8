"""A plan as a table to read: each operation with its formula, the arrays' shapes and the bytes."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from xpnet.kernels import operations as p
from xpnet.kernels.formulas import Elementwise
from xpnet.kernels.operations import Operation, Place, Plan
from xpnet.kernels.tracing import Formula, Symbol
from xpnet.nn import Sequential
from xpnet.nn.layout import layouts

__all__ = ["PlanLine", "plan_lines"]

# What is summed beside the gradient: the totals of a step.
SUMS = "Σℓ", "D", "correct", "counted"
PASSES = "forward", "loss", "backward", "ranks", "update"


class PlanLine(NamedTuple):
    """One operation on a batch of N rows."""

    phase: str
    formula: str
    shapes: str  # of what it writes
    bytes: int  # that it reads and writes, each array once
    fused: bool  # whether a kernel does it


def plan_lines(plan: Plan, model: Sequential, N: int, itemsize: int = 4) -> list[PlanLine]:
    """Return a line for each operation of a step on N rows, in order."""
    writer = _Writer(model, N, itemsize)
    phases: Any = (plan.forward, [plan.loss], plan.backward, plan.barrier, plan.updates)
    return [
        writer.line("ranks" if isinstance(operation, p.AllReduce) else phase, operation)
        for phase, operations in zip(PASSES, phases, strict=True)
        for operation in operations
    ]


class _Writer:
    def __init__(self, model: Sequential, N: int, itemsize: int) -> None:
        self.model, self.N, self.itemsize = model, N, itemsize
        self.shapes = [{name: v.shape for name, v in vs.items()} for vs in model.variables()]

    def line(self, phase: str, operation: Operation) -> PlanLine:
        formula, reads, writes = TEXTS[type(operation)](self, operation)
        size = sum(math.prod(shape) for shape in (*reads, *writes)) * self.itemsize
        portable = isinstance(operation, p.PortableForward | p.PortableBackward) or (
            isinstance(operation, p.LossStep) and operation.portable
        ) or (isinstance(operation, p.Update) and operation.formula is None)  # fmt: skip
        return PlanLine(phase, formula, " ".join(map(str, writes)), size, not portable)

    def of(self, *places: Place | None) -> list[tuple[int, ...]]:
        return [(self.N, *x.shape) for x in places if x is not None]

    def tensors(self, layer: int, *names: str) -> list[tuple[int, ...]]:
        return [self.shapes[layer][name] for name in names or self.shapes[layer]]

    def affine(self, o: p.Affine) -> Any:
        reads = [*self.of(o.x), *self.tensors(o.layer, "W")]
        return f"{o.z.name} = {o.x.name} W{o.layer}", reads, self.of(o.z)

    def affine_backward(self, o: p.AffineBackward) -> Any:
        text, W = f"dW{o.layer} = {o.x.name}ᵀ {o.dz.name}", self.tensors(o.layer, "W")
        if o.dx is None:
            return text, self.of(o.x, o.dz), W
        text += f"; {o.dx.name} = {o.dz.name} W{o.layer}ᵀ"
        return text, [*self.of(o.x, o.dz), *W], [*W, *self.of(o.dx)]

    def map(self, o: p.Map) -> Any:
        z = o.x.name if o.bias is None else f"({o.x.name} + b{o.bias})"
        reads = [*self.of(o.x), *(self.tensors(o.bias, "b") if o.bias is not None else [])]
        return f"{o.a.name} = {_value(o.f, z)}", reads, self.of(o.a, o.z)

    def map_backward(self, o: p.MapBackward) -> Any:
        reads, writes, parts = self.of(o.da), [], []
        if o.f is not None:
            reads, writes = self.of(o.da, o.kept), self.of(o.da)
            names = {"da": o.da.name, "kept": o.kept.name}
            parts.append(f"{o.da.name} = {_text(o.f.derivative, names)}")
        if o.bias is not None:
            parts.append(f"db{o.bias} = Σ {o.da.name}")
            writes += self.tensors(o.bias, "b")
        return "; ".join(parts), reads, writes

    def norm(self, o: p.Norm) -> Any:
        text = f"{o.y.name} = γ x̂ + β over the rows of {o.x.name}"
        text += f" on {o.ranks} ranks, which sum up x and (x - μ)²" * (o.ranks > 1)
        if o.f is not None:
            text += f"; {o.a.name} = {_value(o.f, o.y.name)}"
        return text, [*self.of(o.x), *self.tensors(o.layer)], self.of(o.x_hat, o.y)

    def norm_backward(self, o: p.NormBackward) -> Any:
        text = f"dγ{o.layer}, dβ{o.layer}"
        text += f", and their sums over {o.ranks} ranks" * (o.ranks > 1)
        text += f"; {o.da.name} = dx" * o.input_gradient
        return text, self.of(o.da, o.x_hat), self.of(o.da) if o.input_gradient else []

    def row_forward(self, o: p.RowForward) -> Any:
        text = f"{o.y.name} = {_text(o.formulas.forward, {'x': o.x.name})}"
        return text, [*self.of(o.x), *self.tensors(o.layer)], self.of(o.y, *o.kept)

    def row_backward(self, o: p.RowBackward) -> Any:
        f, formulas = o.forward, o.forward.formulas
        formula = formulas.backward if o.input_gradient else formulas.without_dx
        names = {"dy": o.dy.name}
        for i, residual in enumerate(formulas.residuals):
            own = f.kept[i]
            places = {"x": f.x.name, "y": f.y.name, "row": f"r{f.layer}_{i}"}
            names[f"r{i}"] = own.name if own is not None else places.get(residual, residual)
        assert formula is not None
        targets = [o.dy.name] * o.input_gradient
        targets += [f"d{name}{o.layer}" for name in self.shapes[o.layer]]
        texts = [f"{t} = {_text(formula, names, i)}" for i, t in enumerate(targets)]
        return "; ".join(texts), self.of(o.dy, f.y), self.of(o.dy) * o.input_gradient

    def softmax(self, o: p.SoftmaxForward) -> Any:
        return f"{o.a.name} = softmax {o.z.name}", self.of(o.z), self.of(o.a)

    def softmax_backward(self, o: p.SoftmaxBackward) -> Any:
        return f"{o.da.name} = Jᵀ {o.da.name}", self.of(o.da, o.a), self.of(o.da)

    def drop(self, o: p.Drop) -> Any:
        return f"{o.y.name} = {o.x.name} m{o.layer} / (1 - p)", self.of(o.x), self.of(o.y)

    def portable(self, o: p.PortableForward) -> Any:
        name = type(self.model.layers[o.layer]).__name__
        return f"{o.y.name} = {name}({o.x.name})", self.of(o.x), self.of(o.y)

    def portable_backward(self, o: p.PortableBackward) -> Any:
        name = type(self.model.layers[o.layer]).__name__
        return f"backward of {name}", self.of(o.dy), self.of(o.dx)

    def loss(self, o: p.LossStep) -> Any:
        bias = "" if o.bias is None else f" + b{o.bias}"
        C, D = ("C", " / D") if o.divided else ("Σℓ", "")
        if o.element is None:
            text = f"{C} and {o.gradient.name} = d{C}/d({o.output.name}{bias})"
        else:
            names = {"z": f"({o.output.name}{bias})" if bias else o.output.name}
            value, slope = (_text(o.element.value, names, i) for i in (0, 1))
            text = f"{C} = Σ {value}{D}; {o.gradient.name} = {slope}{D}"
        return text, self.of(o.output), self.of(o.gradient)

    def all_reduce(self, o: p.AllReduce) -> Any:
        n = o.end - o.begin + len(SUMS) * o.sums
        text = f"begin the sum over {o.ranks} ranks of {n:,} numbers: g"
        text += self.of_tensors([(o.begin, o.end)]) + f"; {', '.join(SUMS)}" * o.sums
        return text, [(n,)], [(n,)]

    def barrier(self, o: p.Barrier) -> Any:
        text = f"wait for the sums over {o.ranks} ranks; C = Σℓ / D"
        return text, [(len(SUMS),)], [(len(SUMS),)]

    def update(self, o: p.Update) -> Any:
        P = sum(b - a for a, b in o.part.ranges)
        if o.formula is None:
            return f"p = the rule's update{self.of_group(o)}", [(P,)] * 2, [(P,)]
        names = {name: name.split("_", 1)[1] for name in o.formula.inputs if "_" in name}
        names["denominator"] = "D"
        slots = [name for name in o.formula.inputs if name.startswith("slot_")]
        targets = ["p", *(names[name] for name in slots)]
        texts = [f"{t} = {_text(o.formula, names, i)}" for i, t in enumerate(targets)]
        text = "; ".join(texts) + self.of_group(o)
        return text, [(P,)] * (2 + len(slots)), [(P,)] * len(targets)

    def of_group(self, o: p.Update) -> str:
        """Which tensors an update is of, if not of all, and how large its steps are."""
        text, factor = self.of_tensors(o.part.ranges), o.part.group.lr_factor
        return text if factor == 1.0 else f"{text}, at {factor:g} of the learning rate"

    def of_tensors(self, ranges: Iterable[tuple[int, int]]) -> str:
        """Which tensors are in these parts of the flat vector, if not all."""
        entries = layouts(self.model)[0].entries
        names = [e.name for e in entries if any(a <= e.start < b for a, b in ranges)]
        return "" if len(names) == len(entries) else f" for {', '.join(names)}"


def _value(f: Elementwise | None, z: str) -> str:
    return z if f is None else _text(f.value, {"z": z})


def _text(formula: Formula, names: dict[str, str], output: int = 0) -> str:
    """The formula of an output, its inputs called by other names."""
    return _named(formula.outputs[output], names)


def _named(x: Any, names: dict[str, str]) -> str:
    if not isinstance(x, Symbol):
        return f"{x:g}"
    if x.operation == "input":
        return names.get(str(x), str(x))
    return x.written([_named(operand, names) for operand in x.operands])


TEXTS: dict[type, Callable[[_Writer, Any], Any]] = {
    p.Affine: _Writer.affine,
    p.AffineBackward: _Writer.affine_backward,
    p.Map: _Writer.map,
    p.MapBackward: _Writer.map_backward,
    p.Norm: _Writer.norm,
    p.NormBackward: _Writer.norm_backward,
    p.RowForward: _Writer.row_forward,
    p.RowBackward: _Writer.row_backward,
    p.SoftmaxForward: _Writer.softmax,
    p.SoftmaxBackward: _Writer.softmax_backward,
    p.Drop: _Writer.drop,
    p.PortableForward: _Writer.portable,
    p.PortableBackward: _Writer.portable_backward,
    p.LossStep: _Writer.loss,
    p.AllReduce: _Writer.all_reduce,
    p.Barrier: _Writer.barrier,
    p.Update: _Writer.update,
}
