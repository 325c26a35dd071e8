"""Nodes that together are one of ONNX's own operators, made that one.

A portable formula says a softmax in five functions of the standard; ONNX has an operator for it,
for which runtimes have a kernel. Each rule below is such an operator, by the formula that it is: a
pattern of nodes, whose inner results nothing else reads.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["fused"]


def fused(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a model that computes the same, to rounding, with fewer nodes."""
    made = _Fusing(model)
    while made.step():
        pass
    return made.model()


class Match(NamedTuple):
    """A node that takes the place of others."""

    node: "onnx.NodeProto"
    gone: list[Any]


class _Fusing:
    """A graph, and who makes and reads each of its values."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        import onnx
        from onnx import numpy_helper

        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self.graph = self._model.graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        known = onnx.shape_inference.infer_shapes(model).graph
        values = [*known.value_info, *known.input, *known.output]
        self.shapes = {
            v.name: [d.dim_value or d.dim_param or None for d in v.type.tensor_type.shape.dim]
            for v in values
        }
        self.ranks = {name: len(shape) for name, shape in self.shapes.items()}
        self._rules = (
            *(self._reshape, self._scale, self._gemm, self._relu, self._softmax, self._sigmoid),
            *(self._leaky, self._gelu, self._layer_norm),
        )

    def step(self) -> bool:
        """Replace the first match; say whether there was one."""
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.readers: dict[str, int] = {output.name: 2 for output in self.graph.output}
        for name in (name for node in self.graph.node for name in node.input):
            self.readers[name] = self.readers.get(name, 0) + 1
        for node in self.graph.node:
            for rule in self._rules:
                if (match := rule(node)) is not None:
                    self._replace(node, match)
                    return True
        return False

    def _replace(self, last: Any, match: Match) -> None:
        gone = {id(node) for node in match.gone}
        nodes = []
        for node in self.graph.node:
            if node is last:
                nodes.append(match.node)
            elif id(node) not in gone:
                nodes.append(node)
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        copy = match.node if match.node.op_type == "Identity" else None
        if copy is not None and copy.output[0] not in {o.name for o in self.graph.output}:
            kept = [node for node in kept if node.output[0] != copy.output[0]]
            for node in kept:
                names = [copy.input[0] if n == copy.output[0] else n for n in node.input]
                del node.input[:]
                node.input.extend(names)
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def model(self) -> "onnx.ModelProto":
        used = {name for node in self.graph.node for name in node.input}
        used |= {output.name for output in self.graph.output}
        initializers = [i for i in self.graph.initializer if i.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(initializers)
        for i, node in enumerate(self.graph.node):
            node.name = f"{node.op_type}_{i}"
        return self._model

    # -- what a pattern is made of -----------------------------------------------------------------

    def _maker(self, name: str, op: str) -> Any:
        """The node of this operator that makes a value which nothing else reads, or None."""
        node = self.makers.get(name)
        alone = node is not None and node.op_type == op and self.readers.get(name) == 1
        return node if alone else None

    def _sides(self, node: Any, op: str) -> Iterator[tuple[Any, str]]:
        """Each input that such a node makes, with the other input."""
        a, b = node.input
        for mine, other in ((a, b), (b, a)):
            if (made := self._maker(mine, op)) is not None:
                yield made, other

    def _number(self, name: str) -> float | None:
        value = self.constants.get(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def _reduced(self, node: Any, op: str) -> str | None:
        """What a node reduces over its last axis, which stays; None if it does not."""
        if node is None or node.op_type != op:
            return None
        attributes = {a.name: a for a in node.attribute}
        axes = list(attributes["axes"].ints) if "axes" in attributes else None
        if axes is None and len(node.input) > 1 and node.input[1] in self.constants:
            axes = self.constants[node.input[1]].reshape(-1).tolist()
        keeps = attributes["keepdims"].i if "keepdims" in attributes else 1
        last = self.ranks.get(node.input[0], 0) - 1
        return node.input[0] if keeps and axes in ([-1], [last]) else None

    # -- the operators -----------------------------------------------------------------------------

    def _reshape(self, node: Any) -> Match | None:
        """x in the shape that it has."""
        from onnx import helper

        if node.op_type != "Reshape" or node.input[1] not in self.constants:
            return None
        asked, shape = self.constants[node.input[1]].tolist(), self.shapes.get(node.input[0])
        if shape is None or len(shape) != len(asked) or asked.count(-1) > 1:
            return None
        if any(n not in (-1, m) for n, m in zip(asked, shape, strict=True)):
            return None
        return Match(helper.make_node("Identity", [node.input[0]], node.output), [])

    def _scale(self, node: Any) -> Match | None:
        """x a b with constants a and b."""
        from onnx import helper, numpy_helper

        if node.op_type != "Mul":
            return None
        for product, second in self._sides(node, "Mul"):
            a, b = self.constants.get(second), None
            for first, x in (product.input, reversed(product.input)):
                b = self.constants.get(first)
                if a is None or b is None or x in self.constants:
                    continue
                both = np.asarray(a * b)
                if both.ndim > max(a.ndim, b.ndim) or both.ndim > self.ranks.get(x, 0):
                    continue
                name = f"{node.output[0]}_scale"
                self.constants[name] = both
                self.graph.initializer.append(numpy_helper.from_array(both, name))
                return Match(helper.make_node("Mul", [x, name], node.output), [product])
        return None

    def _gemm(self, node: Any) -> Match | None:
        """x W + b of a matrix."""
        from onnx import helper

        if node.op_type != "Add":
            return None
        for product, bias in self._sides(node, "MatMul"):
            value = self.constants.get(bias)
            x, weights = product.input
            plain = value is not None and value.ndim == 1 and weights in self.constants
            if plain and self.ranks.get(x) == 2 and self.constants[weights].ndim == 2:
                return Match(helper.make_node("Gemm", [x, weights, bias], node.output), [product])
        return None

    def _relu(self, node: Any) -> Match | None:
        """max(z, 0)."""
        from onnx import helper

        if node.op_type != "Max" or len(node.input) != 2:
            return None
        for z, zero in (node.input, reversed(node.input)):
            if self._number(zero) == 0.0:
                return Match(helper.make_node("Relu", [z], node.output), [])
        return None

    def _softmax(self, node: Any) -> Match | None:
        """exp(z - max z) / Σ exp(z - max z), along the last axis."""
        from onnx import helper

        if node.op_type != "Div":
            return None
        e, total = node.input
        exp, summed = self.makers.get(e), self._maker(total, "ReduceSum")
        if exp is None or exp.op_type != "Exp" or self._reduced(summed, "ReduceSum") != e:
            return None
        shift = self._maker(exp.input[0], "Sub")
        if shift is None or self.readers.get(e) != 2:
            return None
        z, peak = shift.input
        if self._reduced(top := self._maker(peak, "ReduceMax"), "ReduceMax") != z:
            return None
        made = helper.make_node("Softmax", [z], node.output, axis=-1)
        return Match(made, [exp, summed, shift, top])

    def _sigmoid(self, node: Any) -> Match | None:
        """(1 where z >= 0, else e) / (1 + e), with e = exp(-|z|)."""
        from onnx import helper

        if node.op_type != "Div":
            return None
        chosen, under = self._maker(node.input[0], "Where"), self._maker(node.input[1], "Add")
        if chosen is None or under is None:
            return None
        condition, one, e = chosen.input
        others = [name for name in under.input if name != e]
        exp = self.makers.get(e)
        if self.readers.get(e) != 2 or exp is None or exp.op_type != "Exp" or len(others) != 1:
            return None
        minus = self._maker(exp.input[0], "Neg")
        size = self._maker(minus.input[0], "Abs") if minus is not None else None
        sign = self._maker(condition, "GreaterOrEqual")
        if size is None or sign is None or self._number(others[0]) != 1.0:
            return None
        z = size.input[0]
        if sign.input[0] != z or self._number(sign.input[1]) != 0.0 or self._number(one) != 1.0:
            return None
        made = helper.make_node("Sigmoid", [z], node.output)
        return Match(made, [chosen, under, exp, minus, size, sign])

    def _leaky(self, node: Any) -> Match | None:
        """z where z > 0, else slope z."""
        from onnx import helper

        if node.op_type != "Where":
            return None
        condition, z, below = node.input
        sign, scaled = self._maker(condition, "Greater"), self._maker(below, "Mul")
        if sign is None or scaled is None or z not in scaled.input:
            return None
        slope = self._number(next(n for n in scaled.input if n != z))
        if slope is None or sign.input[0] != z or self._number(sign.input[1]) != 0.0:
            return None
        made = helper.make_node("LeakyRelu", [z], node.output, alpha=slope)
        return Match(made, [sign, scaled])

    def _gelu(self, node: Any) -> Match | None:
        """z (1 + erf(z / √2)) / 2."""
        from onnx import helper

        if node.op_type != "Mul":
            return None
        for halved, z in self._sides(node, "Mul"):
            outer, half = self._with_number(halved, "Add")
            found, one = self._with_number(outer, "Erf")
            if found is None or (half, one) != (0.5, 1.0):
                continue
            inner = self._maker(found.input[0], "Mul")
            root = [n for n in map(self._number, inner.input if inner else ()) if n is not None]
            if root and z in inner.input and abs(root[0] - 0.5**0.5) < 1e-6:
                made = helper.make_node("Gelu", [z], node.output)
                return Match(made, [halved, outer, found, inner])
        return None

    def _with_number(self, node: Any, op: str) -> tuple[Any, float | None]:
        """The node of this operator and the number that a node takes, if it takes these two."""
        for name, other in (node.input, reversed(node.input)) if node is not None else ():
            made, value = self._maker(name, op), self._number(other)
            if made is not None and value is not None:
                return made, value
        return None, None

    def _layer_norm(self, node: Any) -> Match | None:
        """c / √(mean c² + ε) γ + β along the last axis, with c = x - mean x."""
        from onnx import helper

        if node.op_type != "Add":
            return None
        for scaled, beta in self._sides(node, "Mul"):
            for unit, gamma in self._sides(scaled, "Mul"):
                for inverse, c in self._sides(unit, "Div"):
                    root = self._maker(inverse.input[1], "Sqrt")
                    sum_ = self._maker(root.input[0], "Add") if root is not None else None
                    square, eps = self._with_number(sum_, "ReduceMean")
                    power = self._maker(self._reduced(square, "ReduceMean") or "", "Mul")
                    centre: Any = self.makers.get(c)
                    if (
                        power is None
                        or centre is None
                        or list(power.input) != [c, c]
                        or self.readers[c] != 3
                    ):
                        continue
                    x, mean = centre.input if centre.op_type == "Sub" else ("", "")
                    averaged = self._maker(mean, "ReduceMean")
                    learned = beta in self.constants and gamma in self.constants
                    if self._reduced(averaged, "ReduceMean") != x or not learned:
                        continue
                    made = helper.make_node(
                        "LayerNormalization", [x, gamma, beta], node.output, epsilon=eps
                    )
                    gone = [scaled, unit, inverse, root, sum_, square, power, centre, averaged]
                    return Match(made, gone)
        return None
