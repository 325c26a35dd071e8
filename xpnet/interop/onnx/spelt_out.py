"""Find the operator that the nodes after a value spell out."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from xpnet.errors import ConfigError
from xpnet.interop.onnx.functions import Operator
from xpnet.interop.onnx.graph import Graph
from xpnet.interop.onnx.nodes import ACTIVATIONS, UnlikeError
from xpnet.interop.onnx.parts import Parts

__all__ = ["spelt_out"]

MOST = 40  # nodes after a value that may be its formula
EPS = 2.0**-22  # constants may be rounded to six digits


def spelt_out(
    graph: Graph, parts: Parts, value: str, shape: Sequence[int]
) -> tuple[Any, list[Any]] | None:
    """Return a node for the longest formula after a value, and the nodes whose place it takes.

    ``shape`` is that of an example of the value.
    """
    from onnx import helper

    readers = {id(node) for node in graph.readers(value)}
    for end in reversed(list(islice(graph.after(value), MOST))):
        for root, part in parts.ending(end):
            if root != value or not readers <= {id(node) for node in part}:
                continue
            operator = parts.operator(value, part, (None, *shape), EPS)
            if operator is not None and _has_a_layer(operator):
                op, attributes = operator
                named = helper.make_node(op, [value], end.output, name=end.name, **attributes)
                return named, part
    return None


def _has_a_layer(operator: Operator) -> bool:
    if operator.op_type in ACTIVATIONS:
        try:
            ACTIVATIONS[operator.op_type](operator.attributes)
        except (UnlikeError, ConfigError):
            return False
    return True
