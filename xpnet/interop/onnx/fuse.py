"""Nodes that together are one of ONNX's own operators, made that one.

A portable formula says a softmax in five functions of the standard; ONNX has an operator for it,
for which runtimes have a kernel. A formula is known by what it computes
(:mod:`xpnet.interop.onnx.functions`). What has weights has a rule below: a pattern of nodes, whose
inner results nothing else reads.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.interop.onnx.nodes import ACTIVATIONS
from xpnet.interop.onnx.rewrite import Match, Rewriting

if TYPE_CHECKING:
    import onnx

__all__ = ["fused"]

RESHAPED = ("Reshape", "Squeeze", "Unsqueeze")
FLOAT, DOUBLE = 1, 11  # of TensorProto
# What onnxruntime has a kernel for, in opset 21; of a normalisation, ε is a float32.
IN_FLOAT64 = {"Relu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax"}
NEWER = {"Swish", "RMSNormalization"}
WRITTEN = {FLOAT: {*ACTIVATIONS, *IN_FLOAT64, "LayerNormalization"} - NEWER, DOUBLE: IN_FLOAT64}


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
        self.rules = (
            *(self._reshape, self._scale, self._affine, self._transposed),
            *(self._gemm, self._prelu, self._formula, self._scaled_norm),
        )

    # -- weights -----------------------------------------------------------------------------------

    def _reshape(self, node: Any) -> Match | None:
        """x in the shape that it has, or in one shape after another."""
        from onnx import helper

        if node.op_type != "Reshape" or node.input[1] not in self.constants:
            return None
        asked, shape = self.constants[node.input[1]].tolist(), self.shapes.get(node.input[0])
        for op in () if 0 in asked else RESHAPED:
            for other, _ in self.first(node, op):
                made = helper.make_node("Reshape", [other.input[0], node.input[1]], node.output)
                return Match(made, [other])
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
                if both.ndim > max(a.ndim, b.ndim) or both.ndim > (self.rank(x) or 0):
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
            x, weights, bias = (*gemm.input, "")[:3]
            W, b = self.constants.get(weights), self.constants.get(bias)
            if s is None or W is None or b is None or s.shape not in ((), (1,), b.shape):
                continue
            if gemm.attribute:
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
        for product, bias in (*self.sides(node, "MatMul"), *self.sides(node, "Gemm")):
            if len(product.input) == 2 and self.rank(bias) == 1 and self._are_matrices(product):
                made = helper.make_node("Gemm", [*product.input, bias], node.output)
                made.attribute.extend(product.attribute)
                return Match(made, [product])
        return None

    def _transposed(self, node: Any) -> Match | None:
        """A product with the transpose of a matrix."""
        from onnx import helper

        if node.op_type not in ("MatMul", "Gemm") or not self._are_matrices(node):
            return None
        turned = {a.name: a.i for a in node.attribute}
        for i, name in enumerate(("transA", "transB")):
            other = self.parts.makers.get(node.input[i])
            if other is None or other.op_type != "Transpose" or name in turned:
                continue
            if any(list(a.ints) == [0, 1] for a in other.attribute):  # which changes nothing
                continue
            inputs = list(node.input)
            inputs[i] = other.input[0]
            made = helper.make_node("Gemm", inputs, node.output, **turned, **{name: 1})
            return Match(made, [other] if self.maker(other.output[0], "Transpose") else [])
        return None

    def _are_matrices(self, product: Any) -> bool:
        return all(self.rank(name) == 2 for name in product.input[:2])

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
        if known is None or "." not in slope or known.ndim > (self.rank(z) or 0):
            return None
        if sign.input[0] != z or self.number(sign.input[1]) != 0.0:
            return None
        return Match(helper.make_node("PRelu", [z, slope], node.output), [sign, scaled])

    # -- formulas ----------------------------------------------------------------------------------

    def _formula(self, node: Any) -> Match | None:
        """A function of one array and of numbers, which an operator computes."""
        from onnx import helper

        best, kind = None, self.types.get(node.output[0])
        if kind not in WRITTEN:
            return None
        eps = float(np.finfo(np.float64 if node.output[0] in self.double else np.float32).eps)
        for root, part in self.parts.ending(node):
            if not self._is_all_of(kind, root, part):
                continue
            operator = self.parts.operator(root, part, self.shapes.get(root), eps)
            if operator is not None and operator.op_type in WRITTEN[kind]:
                best = root, part, operator
        if best is None:
            return None
        root, part, operator = best
        constants = {}
        if operator.op_type == "LayerNormalization":
            name = self.free(f"{node.output[0]}_ones")
            length: Any = self.shapes[root][-1]
            constants[name] = np.ones(length, np.float32)
        made = helper.make_node(
            operator.op_type, [root, *constants], node.output, **operator.attributes
        )
        return Match(made, [n for n in part if n is not node], constants)

    def _is_all_of(self, kind: int, root: str, part: list[Any]) -> bool:
        """Whether a part takes an array of a type, and nothing in it is rounded to another."""
        casts = [n.output[0] for n in part if n.op_type == "Cast"]
        return all(self.types.get(name) == kind for name in (root, *casts))

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
