"""A graph in which matches are replaced: what the rules of :mod:`xpnet.interop.onnx.fuse` need."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xpnet.interop.onnx.parts import Parts

if TYPE_CHECKING:
    import onnx

__all__ = ["Match", "Rewriting"]


class Match(NamedTuple):
    """A node that takes the place of others, and constants that come with it."""

    node: "onnx.NodeProto"
    gone: list[Any]
    constants: Mapping[str, np.ndarray] = MappingProxyType({})


class Rewriting:
    """A graph and its parts.

    A subclass lists its ``rules``: each takes a node and returns a :class:`Match` that ends with
    it, or None.
    """

    rules: tuple[Callable[[Any], Match | None], ...] = ()

    def __init__(self, model: "onnx.ModelProto") -> None:
        import onnx
        from onnx import numpy_helper

        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self.nodes = list(graph.node)
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.given = set(self.constants)
        self.outputs = {output.name for output in graph.output}
        known = onnx.shape_inference.infer_shapes(model).graph
        values = [*known.value_info, *known.input, *known.output]
        self.shapes = {
            v.name: [d.dim_value or d.dim_param or None for d in v.type.tensor_type.shape.dim]
            for v in values
        }
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.double = {k for k, kind in self.types.items() if kind == onnx.TensorProto.DOUBLE}
        trained = {name for name in self.given if "." in name}
        self.parts = Parts(self.nodes, self.constants, self.outputs, trained, exact=True)

    def step(self) -> bool:
        """Replace matches that do not meet; say whether there was one."""
        self.parts.wire(self.nodes)
        instead: dict[int, Any] = {}
        gone: set[int] = set()
        for node in reversed(self.nodes):
            if id(node) in gone:
                continue
            for rule in self.rules:
                match = rule(node)
                if match is not None and not any(id(n) in gone | {*instead} for n in match.gone):
                    instead[id(node)] = match.node
                    gone |= {id(n) for n in match.gone}
                    self.constants.update(match.constants)
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
        """The model with the nodes that are there now."""
        from onnx import numpy_helper

        graph = self._model.graph
        used = {name for node in self.nodes for name in node.input} | self.outputs
        kept = [i for i in graph.initializer if i.name in used]
        made = [name for name in self.constants if name not in self.given and name in used]
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

    def maker(self, name: str, op: str) -> Any:
        """The node of this operator that makes a value which nothing else reads, or None."""
        node = self.parts.makers.get(name)
        alone = node is not None and node.op_type == op and self.parts.readers.get(name) == 1
        return node if alone else None

    def sides(self, node: Any, op: str) -> Iterator[tuple[Any, str]]:
        """Each input that such a node makes, with the other input."""
        a, b = node.input
        for mine, other in ((a, b), (b, a)):
            if (made := self.maker(mine, op)) is not None:
                yield made, other

    def first(self, node: Any, op: str) -> Iterator[tuple[Any, str]]:
        """The first input, if such a node makes it, with the other input."""
        if (made := self.maker(node.input[0], op)) is not None:
            yield made, node.input[1]

    def rank(self, name: str) -> int | None:
        """How many axes a value has, if that is known."""
        shape = self.constants[name].shape if name in self.constants else self.shapes.get(name)
        return None if shape is None else len(shape)

    def number(self, name: str) -> float | None:
        """The constant of this name, if it is one number."""
        value = self.constants.get(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def free(self, name: str) -> str:
        """A name for a constant: this, or one that is like it."""
        while name in self.constants or name in self.shapes:
            name += "_"
        return name

    def instead(self, name: str, how: str) -> str:
        """A name for what takes the place of a weight, or of what has already done so."""
        return self.free(f"{name}.{how}") if name in self.given else name
