"""The graph of an ONNX model: what is constant in it, and which nodes read a value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.errors import ConfigError, DataError, require
from xpnet.interop.onnx.nodes import FLOATS, attributes_of

__all__ = ["COMPARISONS", "Graph", "called", "example_shape", "loaded"]

# What only turns outputs into labels or tables, and all that follows it.
TAILS = ("ArgMax", "ZipMap", "ArrayFeatureExtractor", "TopK")
COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Binarizer")  # before labels


def called(node: Any) -> str:
    """What an error calls a node.

    >>> from types import SimpleNamespace as S
    >>> called(S(name="", op_type="Conv", output=["y"]))
    "node 'y' (Conv)"
    """
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


class Graph:
    """A model's nodes in order, without those that are constant or only compute shapes."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self.constants: dict[str, np.ndarray] = _initializers(graph)
        self.sizes: set[str] = set()  # values that are computed from shapes alone
        self.nodes: list[Any] = []
        for node in graph.node:
            self._sort(node, model)
        dynamic = [i for i in graph.input if i.name not in self.constants]
        if len(dynamic) != 1:
            names = ", ".join(i.name for i in dynamic) or "none"
            msg = f"the model must have one input; it has {len(dynamic)}: {names}"
            raise ConfigError(msg)
        self.input: str = dynamic[0].name
        dims = dynamic[0].type.tensor_type.shape.dim
        self.input_dims = [d.dim_value or None for d in dims]
        self.outputs = {o.name for o in graph.output}
        kinds = {o.name: o.type.tensor_type.elem_type for o in graph.output}
        self.tail = self._tail({name for name, kind in kinds.items() if kind not in FLOATS})
        self.cut = [n for n in self.nodes if id(n) in self.tail]
        self.nodes = [n for n in self.nodes if id(n) not in self.tail]

    def _sort(self, node: Any, model: Any) -> None:
        inputs = [name for name in node.input if name]
        dynamic = [name for name in inputs if name not in self.constants]
        if node.op_type in ("Shape", "Size") or (
            dynamic and all(name in self.sizes for name in dynamic)
        ):
            self.sizes.update(node.output)
        elif not dynamic and not _random(node):
            self.constants.update(self._folded(node, model))
        else:
            self.nodes.append(node)

    def _folded(self, node: Any, model: Any) -> dict[str, np.ndarray]:
        """The outputs of a node of constants, as the ONNX project's reference computes them."""
        helper = require("onnx.helper", "onnx", "reading ONNX")
        reference = require("onnx.reference", "onnx", "reading ONNX")
        names = [n for n in node.input if n]
        inputs = [helper.make_value_info(n, helper.make_tensor_type_proto(0, None)) for n in names]
        outputs = [helper.make_empty_tensor_value_info(n) for n in node.output]
        small = helper.make_model(
            helper.make_graph([node], "constant", inputs, outputs), opset_imports=model.opset_import
        )
        try:
            values = reference.ReferenceEvaluator(small).run(
                None, {n: self.constants[n] for n in names}
            )
        except Exception as error:
            msg = f"{called(node)} of constants cannot be computed: {error}"
            raise ConfigError(msg) from error
        return dict(zip(node.output, map(np.asarray, values), strict=True))

    def _tail(self, labels: set[str]) -> set[int]:
        """The nodes that make ``labels``, the outputs that are no floating numbers."""
        reached, nodes = set[str](), set[int]()
        for node in self.nodes:
            if reached.intersection(node.input) or self._ends(node, labels):
                reached.update(node.output)
                nodes.add(id(node))
        return nodes

    def _ends(self, node: Any, labels: set[str]) -> bool:
        """Whether what follows a node is labels alone."""
        if node.op_type not in COMPARISONS:
            return node.op_type in TAILS
        made = {name for n in self.after(node.output[0]) for name in n.output}
        return bool(made & labels) and not made & (self.outputs - labels)

    def class_names(self) -> tuple[Any, ...] | None:
        """The texts or numbers that stand for the classes in what makes labels; None without."""
        for node in self.cut:
            attributes = attributes_of(node)
            if node.op_type == "ZipMap":
                found = attributes.get("classlabels_strings") or attributes["classlabels_int64s"]
                return tuple(_text(v) if isinstance(v, bytes) else int(v) for v in found)
            table = self.constants.get(node.input[0])
            if node.op_type in ("Gather", "ArrayFeatureExtractor") and table is not None:
                texts = table.dtype.kind in "OSU"
                return tuple(_text(v) if texts else v.item() for v in table.reshape(-1))
        return None

    def readers(self, value: str) -> list[Any]:
        """The nodes that read a value."""
        return [n for n in self.nodes if value in n.input]

    def after(self, value: str) -> Iterator[Any]:
        """The nodes that depend on a value, in order."""
        reached = {value}
        for node in self.nodes:
            if reached.intersection(node.input):
                reached.update(node.output)
                yield node


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def loaded(source: Any) -> Any:
    """The model in a file, or the given one, with its functions inlined."""
    onnx = require("onnx", "onnx", "reading ONNX")
    inliner = require("onnx.inliner", "onnx", "reading ONNX")
    name = source if isinstance(source, str | Path) else "the ONNX model"
    if isinstance(source, str | Path):
        try:
            source = onnx.load(str(source), load_external_data=False)
        except OSError as error:
            msg = f"{source} cannot be read: {error.strerror or error}"
            raise DataError(msg) from None
        except Exception as error:
            msg = f"{source} is not an ONNX model: {error}"
            raise DataError(msg) from error
        try:
            onnx.load_external_data_for_model(source, str(Path(name).parent))
        except Exception as error:  # its validator has its own, others are ValueErrors
            msg = f"{name} keeps its weights in another file, which cannot be read: {error}"
            raise DataError(msg) from error
    if not isinstance(source, onnx.ModelProto):
        msg = f"from_onnx takes a path or an onnx.ModelProto; got {type(source).__name__}"
        raise ConfigError(msg)
    if not source.graph.node:
        msg = f"{name} has no nodes: is it an ONNX file?"
        raise DataError(msg)
    return inliner.inline_local_functions(source) if source.functions else source


def _initializers(graph: Any) -> dict[str, np.ndarray]:
    numpy_helper = require("onnx.numpy_helper", "onnx", "reading ONNX")
    return {t.name: np.asarray(numpy_helper.to_array(t)) for t in graph.initializer}


def _random(node: Any) -> bool:
    return node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))


def example_shape(graph: Graph, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of one example: the given one, or that of the input or of the first weights."""
    dims = graph.input_dims[1:]
    if given is not None:
        if len(given) != len(dims) or any(
            d not in (None, g) for d, g in zip(dims, given, strict=True)
        ):
            msg = f"the model's input has shape (N, {', '.join(map(str, dims))}); got {given}"
            raise ConfigError(msg)
        return given
    if dims == [None]:  # the first matrix product says how many
        for node in graph.nodes:
            W = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
            if node.op_type in ("Gemm", "MatMul") and W is not None:
                transposed = attributes_of(node).get("transB", 0)
                return (int(W.shape[1 if transposed else 0]),)
    if not dims or None in dims:
        msg = f"the shape of input {graph.input!r} is not fixed: give input_shape=, as (784,)"
        raise ConfigError(msg)
    return tuple(d for d in dims if d is not None)
