"""Nodes that together are one of ONNX's own operators, made that one.

A portable formula says a softmax in five functions of the standard; ONNX has an operator for it,
for which runtimes have a kernel. Element-wise functions are known by what they compute
(:mod:`xpnet.interop.onnx.functions`). What reduces, or has weights, has a rule below: a pattern of
nodes, whose inner results nothing else reads.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.interop.onnx.functions import ELEMENTWISE, Operator, points, same_operator, values
from xpnet.interop.onnx.rewrite import Match, Rewriting

if TYPE_CHECKING:
    import onnx

__all__ = ["fused"]

FLOATS = (1, 11)  # TensorProto's float and double
REACH = 40  # nodes of an element-wise function, at most


def fused(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a model that computes the same, to rounding, with fewer nodes."""
    made = _Fusing(model)
    while made.step():
        pass
    return made.model()


class _Fusing(Rewriting):
    """The rules, in the order in which a node is tried."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        super().__init__(model)
        self._known: dict[Any, Operator | None] = {}
        self.rules = (
            *(self._reshape, self._scale, self._affine, self._gemm, self._softmax),
            *(self._log_softmax, self._prelu, self._function),
            *(self._layer_norm, self._scaled_norm),
        )

    # -- weights -----------------------------------------------------------------------------------

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
        from onnx import helper

        if node.op_type != "Mul":
            return None
        for product, second in self.sides(node, "Mul"):
            a, b = self.constants.get(second), None
            for first, x in (product.input, reversed(product.input)):
                b = self.constants.get(first)
                if a is None or b is None or x in self.constants:
                    continue
                both = np.asarray(a * b)
                if both.ndim > max(a.ndim, b.ndim) or both.ndim > self.ranks.get(x, 0):
                    continue
                name = self.free(f"{node.output[0]}_scale")
                made = helper.make_node("Mul", [x, name], node.output)
                return Match(made, [product], {name: both})
        return None

    def _affine(self, node: Any) -> Match | None:
        """(x W + b) ∘ s, or + s: batch norm after a dense layer, whose weights take it up."""
        from onnx import helper

        if node.op_type not in ("Add", "Sub", "Mul"):
            return None
        sides = self.sides(node, "Gemm") if node.op_type != "Sub" else self.first(node, "Gemm")
        for gemm, other in sides:
            s = self.constants.get(other)
            x, weights, bias = gemm.input
            W, b = self.constants[weights], self.constants[bias]
            if s is None or gemm.attribute or s.shape not in ((), (1,), b.shape):
                continue
            made: dict[str, np.ndarray] = {}
            if node.op_type == "Mul":
                weights, wide = self.instead(weights, "scaled"), W.astype(np.float64) * s
                made[weights], moved = wide.astype(W.dtype), b * s.astype(np.float64)
            else:
                moved = b.astype(np.float64) + (s if node.op_type == "Add" else -s)
            bias = self.instead(bias, "moved")
            made[bias] = moved.astype(b.dtype)
            whole = helper.make_node("Gemm", [x, weights, bias], node.output)
            return Match(whole, [gemm], made)
        return None

    def _gemm(self, node: Any) -> Match | None:
        """x W + b of a matrix."""
        from onnx import helper

        if node.op_type != "Add":
            return None
        for product, bias in self.sides(node, "MatMul"):
            value = self.constants.get(bias)
            x, weights = product.input
            plain = value is not None and value.ndim == 1 and weights in self.constants
            if plain and self.ranks.get(x) == 2 and self.constants[weights].ndim == 2:
                return Match(helper.make_node("Gemm", [x, weights, bias], node.output), [product])
        return None

    def _prelu(self, node: Any) -> Match | None:
        """z where z > 0, else slope z, for a trained slope."""
        from onnx import helper

        if node.op_type != "Where" or node.output[0] in self.double:
            return None
        condition, z, below = node.input
        sign, scaled = self.maker(condition, "Greater"), self.maker(below, "Mul")
        if sign is None or scaled is None or z not in scaled.input:
            return None
        slope = next((n for n in scaled.input if n != z), "")
        known = self.constants.get(slope)
        if known is None or "." not in slope or known.ndim > self.ranks.get(z, 0):
            return None
        if sign.input[0] != z or self.number(sign.input[1]) != 0.0:
            return None
        return Match(helper.make_node("PRelu", [z, slope], node.output), [sign, scaled])

    # -- what reduces ------------------------------------------------------------------------------

    def _shifted(self, shift: Any) -> tuple[str, Any] | None:
        """z and the node of max z, of a node z - max z."""
        if shift is None or shift.op_type != "Sub":
            return None
        z, peak = shift.input
        top = self.maker(peak, "ReduceMax")
        return (z, top) if self.reduced(top, "ReduceMax") == z else None

    def _softmax(self, node: Any) -> Match | None:
        """exp(z - max z) / Σ exp(z - max z), along the last axis."""
        from onnx import helper

        if node.op_type != "Div":
            return None
        e, total = node.input
        exp, summed = self.makers.get(e), self.maker(total, "ReduceSum")
        if exp is None or exp.op_type != "Exp" or self.reduced(summed, "ReduceSum") != e:
            return None
        shift = self.maker(exp.input[0], "Sub")
        if self.readers.get(e) != 2 or (found := self._shifted(shift)) is None:
            return None
        made = helper.make_node("Softmax", [found[0]], node.output, axis=-1)
        return Match(made, [exp, summed, shift, found[1]])

    def _log_softmax(self, node: Any) -> Match | None:
        """z - max z - log Σ exp(z - max z), along the last axis."""
        from onnx import helper

        if node.op_type != "Sub":
            return None
        s, total = node.input
        shift, log = self.makers.get(s), self.maker(total, "Log")
        summed = self.maker(log.input[0], "ReduceSum") if log is not None else None
        exp = self.maker(self.reduced(summed, "ReduceSum") or "", "Exp")
        if exp is None or exp.input[0] != s or self.readers.get(s) != 2:
            return None
        if (found := self._shifted(shift)) is None:
            return None
        made = helper.make_node("LogSoftmax", [found[0]], node.output, axis=-1)
        return Match(made, [log, summed, exp, shift, found[1]])

    def _with_number(self, node: Any, op: str) -> tuple[Any, float | None]:
        """The node of this operator and the number that a node takes, if it takes these two."""
        for name, other in (node.input, reversed(node.input)) if node is not None else ():
            made, value = self.maker(name, op), self.number(other)
            if made is not None and value is not None:
                return made, value
        return None, None

    def _layer_norm(self, node: Any) -> Match | None:
        """c (1 / √(mean c² + ε)) along the last axis, with c = x - mean x."""
        from onnx import helper

        if node.op_type != "Mul" or node.output[0] in self.double:  # ε is a float32 there
            return None
        for inverse, c in self.sides(node, "Div"):
            root = self.maker(inverse.input[1], "Sqrt")
            sum_ = self.maker(root.input[0], "Add") if root is not None else None
            square, eps = self._with_number(sum_, "ReduceMean")
            power = self.maker(self.reduced(square, "ReduceMean") or "", "Mul")
            centre: Any = self.makers.get(c)
            if power is None or list(power.input) != [c, c] or centre is None:
                continue
            x, mean = centre.input if centre.op_type == "Sub" else ("", "")
            averaged, length = self.maker(mean, "ReduceMean"), self.shapes.get(x, [None])[-1]
            if self.number(inverse.input[0]) != 1.0 or self.readers[c] != 3:
                continue
            if self.reduced(averaged, "ReduceMean") != x or not isinstance(length, int):
                continue
            ones = self.free(f"{node.output[0]}_ones")
            made = helper.make_node("LayerNormalization", [x, ones], node.output, epsilon=eps)
            gone = [inverse, root, sum_, square, power, centre, averaged]
            return Match(made, gone, {ones: np.ones(length, np.float32)})
        return None

    def _scaled_norm(self, node: Any) -> Match | None:
        """A normalization times γ, or one of γ plus β."""
        from onnx import helper

        if node.op_type not in ("Mul", "Add"):
            return None
        for norm, learned in self.sides(node, "LayerNormalization"):
            x, gamma, *beta = norm.input
            value = self.constants.get(learned)
            if value is None or value.shape != self.constants[gamma].shape or beta:
                continue
            plain = gamma not in self.given
            if plain != (node.op_type == "Mul"):
                continue
            inputs = [x, learned] if node.op_type == "Mul" else [x, gamma, learned]
            made = helper.make_node("LayerNormalization", inputs, node.output)
            made.attribute.extend(norm.attribute)
            return Match(made, [norm])
        return None

    # -- element-wise functions --------------------------------------------------------------------

    def _function(self, node: Any) -> Match | None:
        """A function of one array and of numbers, which an operator computes."""
        from onnx import helper

        best, kind = None, self.types.get(node.output[0])
        if kind not in FLOATS:
            return None
        for root, part in self._parts(node):
            operator = self._operator(root, part) if self.types.get(root) == kind else None
            same = operator is not None and operator.op_type == node.op_type
            if operator is not None and not (same and len(part) == 1):
                best = root, part, operator
        if best is None:
            return None
        root, part, operator = best
        made = helper.make_node(operator.op_type, [root], node.output, **operator.attributes)
        return Match(made, [n for n in part if n is not node])

    def _parts(self, node: Any) -> Iterator[tuple[str, list[Any]]]:
        """The parts of the graph that end with a node, and the one value that each takes."""
        part: list[Any] = []
        frontier = {node.output[0]}
        while len(part) < REACH:
            makers = [n for name in frontier if (n := self.makers.get(name)) is not None]
            if len(makers) < len(frontier):
                return
            last = max(makers, key=lambda n: self.place[id(n)])
            if last.op_type not in ELEMENTWISE or not self._inner(last, part):
                return
            part.append(last)
            frontier.discard(last.output[0])
            for name in last.input:
                value = self.constants.get(name)
                if value is None:
                    frontier.add(name)
                elif value.ndim or (name in self.given and "." in name):
                    return
            if len(frontier) == 1:
                yield next(iter(frontier)), part[::-1]

    def _inner(self, node: Any, part: list[Any]) -> bool:
        """Whether nothing beyond a part, of which a node is to be the first, reads the node."""
        if not part:
            return True
        name = node.output[0]
        read = sum(n == name for other in part for n in other.input)
        return self.readers.get(name) == read

    def _operator(self, root: str, part: list[Any]) -> Operator | None:
        names = {root: "x"}
        numbers = []
        for node in part:
            for name in node.input:
                if (value := self.constants.get(name)) is not None:
                    numbers.append(value)
                    names[name] = repr(value.item())
            names[node.output[0]] = f"v{len(names)}"
        end = part[-1].output[0]
        eps = float(np.finfo(np.float64 if end in self.double else np.float32).eps)
        key = eps, *((n.op_type, *(names[i] for i in n.input), names[n.output[0]]) for n in part)
        if key not in self._known:
            at = points([float(v) for v in numbers if v.dtype.kind == "f"])
            y = values(part, self.constants, root, at)[end]
            self._known[key] = same_operator(at, y, eps)
        return self._known[key]
