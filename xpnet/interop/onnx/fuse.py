"""Nodes that together are one of ONNX's own operators, made that one.

A portable formula says a softmax in five functions of the standard; ONNX has an operator for it,
for which runtimes have a kernel. Element-wise functions are known by what they compute
(:mod:`xpnet.interop.onnx.functions`). What reduces, or has weights, has a rule below: a pattern of
nodes, whose inner results nothing else reads.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xpnet.interop.onnx.functions import ELEMENTWISE, Operator, points, same_operator, values

if TYPE_CHECKING:
    import onnx

__all__ = ["fused"]

REACH = 40  # nodes of an element-wise function, at most


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
        graph = self._model.graph
        self.nodes = list(graph.node)
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self._given = set(self.constants)
        self.outputs = {output.name for output in graph.output}
        # Shapes do not depend on the weights, which may be too many to be copied once more.
        known = onnx.shape_inference.infer_shapes(model).graph
        values = [*known.value_info, *known.input, *known.output]
        self.shapes = {
            v.name: [d.dim_value or d.dim_param or None for d in v.type.tensor_type.shape.dim]
            for v in values
        }
        self.ranks = {name: len(shape) for name, shape in self.shapes.items()}
        double = onnx.TensorProto.DOUBLE
        self.double = {v.name for v in values if v.type.tensor_type.elem_type == double}
        self._known: dict[Any, Operator | None] = {}
        self._rules = (
            *(self._reshape, self._scale, self._affine, self._gemm, self._softmax),
            *(self._log_softmax, self._prelu, self._function),
            *(self._layer_norm, self._scaled_norm),
        )

    def step(self) -> bool:
        """Replace matches that do not meet; say whether there was one."""
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers = dict.fromkeys(self.outputs, 2)
        for name in (name for node in self.nodes for name in node.input):
            self.readers[name] = self.readers.get(name, 0) + 1
        self.place = {id(node): i for i, node in enumerate(self.nodes)}
        instead: dict[int, Any] = {}
        gone: set[int] = set()
        for node in reversed(self.nodes):
            if id(node) in gone:
                continue
            for rule in self._rules:
                match = rule(node)
                if match is not None and not any(id(n) in gone | {*instead} for n in match.gone):
                    instead[id(node)] = match.node
                    gone |= {id(n) for n in match.gone}
                    break
        kept = [instead.get(id(node), node) for node in self.nodes if id(node) not in gone]
        self.nodes = self._without_copies(kept)
        return bool(instead)

    def _without_copies(self, nodes: list[Any]) -> list[Any]:
        """The nodes without those that hand on a value within the graph."""
        other: dict[str, str] = {}
        kept = []
        for node in nodes:
            if any(name in other for name in node.input):
                names = [other.get(name, name) for name in node.input]
                del node.input[:]
                node.input.extend(names)
            if node.op_type == "Identity" and node.output[0] not in self.outputs:
                other[node.output[0]] = node.input[0]
            else:
                kept.append(node)
        return kept

    def model(self) -> "onnx.ModelProto":
        from onnx import numpy_helper

        graph = self._model.graph
        used = {name for node in self.nodes for name in node.input} | self.outputs
        kept = [i for i in graph.initializer if i.name in used]
        made = [name for name in self.constants if name not in self._given and name in used]
        nodes = [type(node).FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        if len(kept) < len(graph.initializer):
            kept = [type(i).FromString(i.SerializeToString()) for i in kept]
            del graph.initializer[:]
            graph.initializer.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(self.constants[n], n) for n in made)
        for i, node in enumerate(graph.node):
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

    def _constant(self, name: str, value: np.ndarray) -> str:
        """A constant of the graph of this name, or of one that is like it."""
        while name in self.constants or name in self.shapes:
            name += "_"
        self.constants[name] = value
        return name

    def _instead(self, name: str, how: str, value: np.ndarray) -> str:
        """A constant in place of a weight, or of one that has taken its place."""
        if name in self._given:
            return self._constant(f"{name}.{how}", value)
        self.constants[name] = value
        return name

    def _reduced(self, node: Any, op: str) -> str | None:
        """What a node reduces over its last axis, which stays; None if it does not.

        It may also do so over axes of length 1, which changes nothing.
        """
        if node is None or node.op_type != op:
            return None
        attributes = {a.name: a for a in node.attribute}
        axes = list(attributes["axes"].ints) if "axes" in attributes else None
        if axes is None and len(node.input) > 1 and node.input[1] in self.constants:
            axes = self.constants[node.input[1]].reshape(-1).tolist()
        keeps = attributes["keepdims"].i if "keepdims" in attributes else 1
        shape = self.shapes.get(node.input[0], [])
        longer = {a % len(shape) for a in axes or () if shape and shape[a] != 1}
        return node.input[0] if keeps and longer == {len(shape) - 1} else None

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
        for product, second in self._sides(node, "Mul"):
            a, b = self.constants.get(second), None
            for first, x in (product.input, reversed(product.input)):
                b = self.constants.get(first)
                if a is None or b is None or x in self.constants:
                    continue
                both = np.asarray(a * b)
                if both.ndim > max(a.ndim, b.ndim) or both.ndim > self.ranks.get(x, 0):
                    continue
                name = self._constant(f"{node.output[0]}_scale", both)
                return Match(helper.make_node("Mul", [x, name], node.output), [product])
        return None

    def _affine(self, node: Any) -> Match | None:
        """(x W + b) ∘ s, or + s: batch norm after a dense layer, whose weights take it up."""
        from onnx import helper

        if node.op_type not in ("Add", "Sub", "Mul"):
            return None
        sides = self._sides(node, "Gemm") if node.op_type != "Sub" else self._first(node, "Gemm")
        for gemm, other in sides:
            s = self.constants.get(other)
            x, weights, bias = gemm.input
            W, b = self.constants[weights], self.constants[bias]
            if s is None or gemm.attribute or s.shape not in ((), (1,), b.shape):
                continue
            if node.op_type == "Mul":
                wide = W.astype(np.float64) * s
                weights = self._instead(weights, "scaled", wide.astype(W.dtype))
                moved = b * s.astype(np.float64)
            else:
                moved = b.astype(np.float64) + (s if node.op_type == "Add" else -s)
            bias = self._instead(bias, "moved", moved.astype(b.dtype))
            return Match(helper.make_node("Gemm", [x, weights, bias], node.output), [gemm])
        return None

    def _first(self, node: Any, op: str) -> Iterator[tuple[Any, str]]:
        if (made := self._maker(node.input[0], op)) is not None:
            yield made, node.input[1]

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

    def _prelu(self, node: Any) -> Match | None:
        """z where z > 0, else slope z, for a trained slope."""
        from onnx import helper

        if node.op_type != "Where" or node.output[0] in self.double:
            return None
        condition, z, below = node.input
        sign, scaled = self._maker(condition, "Greater"), self._maker(below, "Mul")
        if sign is None or scaled is None or z not in scaled.input:
            return None
        slope = next((n for n in scaled.input if n != z), "")
        known = self.constants.get(slope)
        if known is None or "." not in slope or known.ndim > self.ranks.get(z, 0):
            return None
        if sign.input[0] != z or self._number(sign.input[1]) != 0.0:
            return None
        return Match(helper.make_node("PRelu", [z, slope], node.output), [sign, scaled])

    # -- what reduces ------------------------------------------------------------------------------

    def _shifted(self, shift: Any) -> tuple[str, Any] | None:
        """z and the node of max z, of a node z - max z."""
        if shift is None or shift.op_type != "Sub":
            return None
        z, peak = shift.input
        top = self._maker(peak, "ReduceMax")
        return (z, top) if self._reduced(top, "ReduceMax") == z else None

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
        shift, log = self.makers.get(s), self._maker(total, "Log")
        summed = self._maker(log.input[0], "ReduceSum") if log is not None else None
        exp = self._maker(self._reduced(summed, "ReduceSum") or "", "Exp")
        if exp is None or exp.input[0] != s or self.readers.get(s) != 2:
            return None
        if (found := self._shifted(shift)) is None:
            return None
        made = helper.make_node("LogSoftmax", [found[0]], node.output, axis=-1)
        return Match(made, [log, summed, exp, shift, found[1]])

    def _with_number(self, node: Any, op: str) -> tuple[Any, float | None]:
        """The node of this operator and the number that a node takes, if it takes these two."""
        for name, other in (node.input, reversed(node.input)) if node is not None else ():
            made, value = self._maker(name, op), self._number(other)
            if made is not None and value is not None:
                return made, value
        return None, None

    def _layer_norm(self, node: Any) -> Match | None:
        """c (1 / √(mean c² + ε)) along the last axis, with c = x - mean x."""
        from onnx import helper

        if node.op_type != "Mul" or node.output[0] in self.double:  # ε is a float32 there
            return None
        for inverse, c in self._sides(node, "Div"):
            root = self._maker(inverse.input[1], "Sqrt")
            sum_ = self._maker(root.input[0], "Add") if root is not None else None
            square, eps = self._with_number(sum_, "ReduceMean")
            power = self._maker(self._reduced(square, "ReduceMean") or "", "Mul")
            centre: Any = self.makers.get(c)
            if power is None or list(power.input) != [c, c] or centre is None:
                continue
            x, mean = centre.input if centre.op_type == "Sub" else ("", "")
            averaged, length = self._maker(mean, "ReduceMean"), self.shapes.get(x, [None])[-1]
            if self._number(inverse.input[0]) != 1.0 or self.readers[c] != 3:
                continue
            if self._reduced(averaged, "ReduceMean") != x or not isinstance(length, int):
                continue
            ones = self._constant(f"{node.output[0]}_ones", np.ones(length, np.float32))
            made = helper.make_node("LayerNormalization", [x, ones], node.output, epsilon=eps)
            return Match(made, [inverse, root, sum_, square, power, centre, averaged])
        return None

    def _scaled_norm(self, node: Any) -> Match | None:
        """A normalization times γ, or one of γ plus β."""
        from onnx import helper

        if node.op_type not in ("Mul", "Add"):
            return None
        for norm, learned in self._sides(node, "LayerNormalization"):
            x, gamma, *beta = norm.input
            value = self.constants.get(learned)
            if value is None or value.shape != self.constants[gamma].shape or beta:
                continue
            plain = gamma not in self._given
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

        best = None
        for root, part in self._parts(node):
            operator = self._operator(root, part)
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
                elif value.ndim or (name in self._given and "." in name):
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
