"""An ONNX graph without the clutter of its recording: constants, copies, branches never taken.

ndonnx guards products and sums against arrays without elements, by ``If`` nodes that ask for the
size, and writes every scalar as a node of its own. Here constants become initializers, what
follows from constants alone is computed, equal nodes become one, and the branches for an empty
batch go: the graph is for batches of one row or more.
"""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["simplify"]

LARGEST = 4096  # elements of a constant that is computed here, by default
# What depends on more than its inputs, or has a graph within it.
NOT_FOLDED = frozenset({"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "Constant"})


def simplify(model: "onnx.ModelProto", largest: int = LARGEST) -> "onnx.ModelProto":
    """Return a model that computes the same for every batch with rows, with fewer nodes.

    What has up to ``largest`` elements and follows from constants is computed. Initializers keep
    their names, if they are still there.
    """
    import onnx

    made, own = onnx.ModelProto(), onnx.ModelProto()
    made.CopyFrom(model)
    own.CopyFrom(model)  # its nodes are renamed
    opsets = {domain.domain: domain.version for domain in model.opset_import}
    graph = _Graph(own.graph, largest, opsets)
    while graph.tidied():
        pass
    graph.write(made.graph)
    return made


class _Graph:
    """Nodes in order, and the constants among their values."""

    def __init__(self, graph: "onnx.GraphProto", largest: int, opsets: dict[str, int]) -> None:
        from onnx import numpy_helper

        self.largest, self.opsets = largest, opsets
        self.named = {i.name for i in graph.initializer}

        self.nodes = list(graph.node)
        self.outputs = [output.name for output in graph.output]
        self.inputs = {i.name for i in graph.input}
        self.constants: dict[str, np.ndarray] = {
            i.name: numpy_helper.to_array(i) for i in graph.initializer
        }

    def tidied(self) -> bool:
        """Simplify once; say whether anything changed."""
        before = [node.SerializeToString() for node in self.nodes]
        self.nodes = self._folded()
        self._merge()
        self._without_copies()
        self._used_alone()
        return [node.SerializeToString() for node in self.nodes] != before

    def _folded(self) -> "list[onnx.NodeProto]":
        kept: list[onnx.NodeProto] = []
        made_by: dict[str, onnx.NodeProto] = {}
        for node in self.nodes:
            if self._asks_for_emptiness(node, made_by):
                self.constants[node.output[0]] = np.array(False)
            elif node.op_type == "If" and node.input[0] in self.constants:
                kept += self._inlined(node)
            elif not self._evaluated(node):
                kept.append(node)
            for name in node.output:
                made_by[name] = node
        return kept

    def _asks_for_emptiness(self, node: Any, made_by: Any) -> bool:
        """Whether a node compares the size of an array, which has rows, with 0."""
        if node.op_type != "Equal":
            return False
        for size, zero in (node.input, reversed(node.input)):
            constant = self.constants.get(zero)
            if constant is not None and constant.size == 1 and not constant.any():
                return self._is_size(size, made_by)
        return False

    def _is_size(self, name: str, made_by: Any) -> bool:
        """Whether a value is the size of an array, or a product of such sizes."""
        maker = made_by.get(name)
        if maker is None or maker.op_type == "Size":
            return maker is not None
        return maker.op_type == "Mul" and all(self._is_size(n, made_by) for n in maker.input)

    def _inlined(self, node: Any) -> "list[onnx.NodeProto]":
        """The nodes of the branch that is taken, whose results get the node's names."""
        from onnx import helper

        name = "then_branch" if bool(self.constants[node.input[0]].all()) else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == name)
        inner = _Graph(branch, self.largest, self.opsets)
        self.constants |= inner.constants
        copies = [
            helper.make_node("Identity", [result], [output])
            for result, output in zip(inner.outputs, node.output, strict=True)
        ]
        return [*inner.nodes, *copies]

    def _evaluated(self, node: Any) -> bool:
        """Compute a node of constants alone; say whether it is one."""
        from onnx import numpy_helper
        from onnx.reference import ReferenceEvaluator

        if node.op_type == "Constant":
            value = next((a for a in node.attribute if a.name == "value"), None)
            if value is None:
                return False
            self.constants[node.output[0]] = numpy_helper.to_array(value.t)
            return True
        known = all(not name or name in self.constants for name in node.input)
        if not known or not node.input or node.op_type in NOT_FOLDED:
            return False
        if any(name in self.outputs for name in node.output):  # not every runtime gives constants
            return False
        given = {name: self.constants[name] for name in node.input if name}
        if sum(value.size for value in given.values()) > self.largest:
            return False
        results = ReferenceEvaluator(node).run(None, given)
        if sum(np.size(result) for result in results) > self.largest:
            return False
        self.constants |= dict(zip(node.output, map(np.asarray, results), strict=True))
        return True

    def _merge(self) -> None:
        """Let equal constants, and nodes that compute the same, be one."""
        first: dict[Any, Any] = {}
        key: Any
        other: dict[str, str] = {}
        for name, value in self.constants.items():
            if name in self.named or value.dtype == object:
                continue
            key = (value.dtype.str, value.shape, value.tobytes())
            if (same := first.setdefault(key, name)) != name:
                other[name] = same
        kept = []
        for node in self.nodes:
            _rename(node, other)
            key = (node.op_type, node.domain, tuple(node.input),
                   tuple(sorted(a.SerializeToString() for a in node.attribute)))  # fmt: skip
            same_node = first.setdefault(key, node)
            is_output = any(name in self.outputs for name in node.output)
            if same_node is node or is_output or node.op_type.startswith("Random"):
                kept.append(node)
            else:
                other |= dict(zip(node.output, same_node.output, strict=True))
        for node in kept:
            _rename(node, other)
        self.nodes = kept

    def _without_copies(self) -> None:
        """Take Identity nodes out, but those that hand on an input or a constant."""
        other: dict[str, str] = {}
        kept: list[Any] = []
        makers = {name: node for node in self.nodes for name in node.output}
        for node in self.nodes:
            _rename(node, other)
            copy, source = node.op_type == "Identity", node.input[0] if node.input else ""
            if copy and node.output[0] not in self.outputs:
                other[node.output[0]] = source
                continue
            movable = source in makers and source not in self.outputs and source not in self.inputs
            if copy and movable and any(source in n.output for n in kept):
                target = node.output[0]
                other[source] = target
                for earlier in kept:
                    _rename(earlier, {source: target})
                    names = [target if name == source else name for name in earlier.output]
                    del earlier.output[:]
                    earlier.output.extend(names)
                continue
            kept.append(node)
        for node in kept:
            _rename(node, other)
        self.nodes = kept

    def _used_alone(self) -> None:
        """Leave out what nothing needs."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(_uses(node))
        self.nodes = kept[::-1]
        self.constants = {k: v for k, v in self.constants.items() if k in needed}

    def write(self, graph: "onnx.GraphProto") -> None:
        """Put the nodes and constants into a graph, with short names for what is within it."""
        from onnx import numpy_helper

        fixed = {*self.outputs, *self.inputs, *self.named}
        unused = (name for name in map("v{}".format, itertools.count()) if name not in fixed)
        values = [*self.constants, *(name for node in self.nodes for name in node.output)]
        names = {name: next(unused) for name in values if name and name not in fixed}
        for i, node in enumerate(self.nodes):
            _rename(node, names, once=True)
            made = [names.get(name, name) for name in node.output]
            del node.output[:]
            node.output.extend(made)
            node.name = f"{node.op_type}_{i}"
            _without_defaults(node, self.opsets)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(
            numpy_helper.from_array(value, names.get(name, name))
            for name, value in self.constants.items()
        )


def _without_defaults(node: Any, opsets: dict[str, int]) -> None:
    """Leave out attributes that say what holds without them; an older opset may lack them."""
    from onnx import defs, helper

    value = helper.get_attribute_value
    known = defs.get_schema(node.op_type, opsets[node.domain], node.domain).attributes
    usual = {k: a.default_value for k, a in known.items() if a.default_value.name}
    kept = [a for a in node.attribute if a.name not in usual or value(a) != value(usual[a.name])]
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)


def _rename(node: Any, names: dict[str, str], *, once: bool = False) -> None:
    """Let a node, and the graphs within it, take its inputs by other names, and theirs in turn."""

    def last(name: str) -> str:
        while name in names:
            name = names[name]
            if once:
                break
        return name

    given = [last(name) for name in node.input]
    if given != list(node.input):
        del node.input[:]
        node.input.extend(given)
    for graph in _graphs(node):
        for inner in graph.node:
            _rename(inner, names, once=once)
        for output in graph.output:
            output.name = last(output.name)


def _uses(node: Any) -> set[str]:
    inner = (name for graph in _graphs(node) for n in graph.node for name in _uses(n))
    outputs = (output.name for graph in _graphs(node) for output in graph.output)
    return {*node.input, *inner, *outputs}


def _graphs(node: Any) -> "Iterable[onnx.GraphProto]":
    return [a.g for a in node.attribute if a.name.endswith(("_branch", "body"))]
