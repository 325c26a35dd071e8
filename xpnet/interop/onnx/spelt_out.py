"""Find the formula that the nodes after a value spell out."""

from typing import Any

from xpnet import nn
from xpnet.interop.onnx.expressions import Algebra, Term, X, layers_of, where
from xpnet.interop.onnx.graph import Graph

__all__ = ["spelt_out"]

MOST = 16  # nodes of a formula
SAME = ("Tanh", "Erf", "Exp", "Log", "Abs", "Sigmoid", "Softplus")


class UnreadableError(Exception):
    """A node that no formula has."""


def spelt_out(graph: Graph, value: str) -> tuple[nn.Layer, list[Any], str] | None:
    """Return the layer of the longest formula after ``value``, its nodes and its result."""
    following = []
    for node in graph.after(value):
        following.append(node)
        if len(following) == MOST:
            break
    for end in reversed(following):
        inside = _between(value, end, following)
        if len(inside) < 2 or _escapes(graph, value, end, inside):
            continue
        terms = _Terms(graph, value, inside)
        try:
            form = str(terms.of(end.output[0]))
        except (UnreadableError, ZeroDivisionError, OverflowError):
            continue
        if (made := layers_of(terms.algebra, terms.constants).get(form)) is not None:
            return made(), inside, end.output[0]
    return None


def _between(value: str, end: Any, following: list[Any]) -> list[Any]:
    needed, inside = set(end.input), [end]
    for node in reversed(following[: following.index(end)]):
        if needed.intersection(node.output):
            inside.insert(0, node)
            needed.update(node.input)
    return inside


def _escapes(graph: Graph, value: str, end: Any, inside: list[Any]) -> bool:
    """Whether what is between is read elsewhere too."""
    ours = {id(n) for n in inside}
    values = [value, *(o for n in inside if n is not end for o in n.output)]
    read = any(id(r) not in ours for v in values for r in graph.readers(v))
    return read or any(v in graph.outputs for v in values[1:])


class _Terms:
    """The values of a few nodes as terms of one of them."""

    def __init__(self, graph: Graph, value: str, nodes: list[Any]) -> None:
        self.graph, self.algebra = graph, Algebra()
        self.constants: list[float] = []
        self.made = {o: node for node in nodes for o in node.output}
        self.known = {value: X}

    def of(self, name: str) -> Term:
        if name not in self.known:
            self.known[name] = self._term(name)
        return self.known[name]

    def _term(self, name: str) -> Term:
        constant = self.graph.constants.get(name)
        if constant is not None:
            if constant.size != 1 or constant.dtype.kind not in "fiu":
                raise UnreadableError
            number = float(str(constant.reshape(-1)[0]))
            self.constants.append(number)
            return Term(number)
        if name not in self.made:
            raise UnreadableError
        node, a = self.made[name], self.algebra
        op, attributes = node.op_type, self.graph.attributes(node)
        if op == "ReduceMean":
            return self._mean(node, attributes)
        if op == "Clip":
            given = [str(self.of(i).coef) for i in node.input[1:] if i]
            low, high = (
                (float(g) for g in given)
                if len(given) == 2
                else (attributes.get("min", 1.0), attributes.get("max", 0.0))
            )
            return a.function(f"Clip {low:.6g} {high:.6g}", self.of(node.input[0]))
        if op == "Where":
            return where(a, self._condition(node.input[0]), *map(self.of, node.input[1:]))
        terms = [self.of(i) for i in node.input if i]
        if op == "Pow" and not terms[1].factors:
            return a.power(terms[0], terms[1].coef)
        if op in ("Add", "Mul"):
            return a.add(*terms) if op == "Add" else a.mul(*terms)
        if op == "Sub":
            return a.add(terms[0], a.mul(Term(-1.0), terms[1]))
        if op == "Div":
            return a.mul(terms[0], a.power(terms[1], -1))
        powers = {"Reciprocal": -1, "Sqrt": 0.5}
        if op in powers:
            return a.power(terms[0], powers[op])
        if op == "Neg":
            return a.mul(Term(-1.0), terms[0])
        if op in ("Cast", "Identity"):
            return terms[0]
        if op == "Max" or op in SAME:
            return a.function(op, *terms)
        if op == "HardSigmoid":
            alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
            return a.function(f"HardSigmoid {alpha:.6g} {beta:.6g}", *terms)
        if op == "Elu" and attributes.get("alpha", 1.0) == 1.0:
            return a.function("Elu 1", *terms)
        raise UnreadableError

    def _condition(self, name: str) -> str:
        node = self.made.get(name)
        if node is None or node.op_type != "Greater":
            raise UnreadableError
        left, right = map(self.of, node.input)
        return f"{left} > {right}"

    def _mean(self, node: Any, attributes: Any) -> Term:
        axes = attributes.get("axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            axes = self.graph.constants[node.input[1]].reshape(-1).tolist()
        rank = len(self.graph.input_dims)
        if axes not in ([-1], [1] if rank == 2 else None) or not attributes.get("keepdims", 1):
            raise UnreadableError
        return self.algebra.function("mean", self.of(node.input[0]))
