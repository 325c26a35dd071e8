"""The walk along an ONNX graph, from its input to its end, which collects the layers."""

from typing import Any

import numpy as np

from xpnet import nn
from xpnet.errors import ConfigError
from xpnet.interop.imported import Part
from xpnet.interop.onnx.graph import Graph, called
from xpnet.interop.onnx.layers import ARITHMETIC, Layers
from xpnet.interop.onnx.nodes import UnlikeError, attributes_of, refused, short
from xpnet.interop.onnx.parts import Parts
from xpnet.interop.onnx.spelt_out import spelt_out

__all__ = ["Chain"]


class Chain(Layers):
    """A graph that is one chain, and which of its nodes were taken."""

    def __init__(self, graph: Graph, input_shape: tuple[int, ...] | None) -> None:
        super().__init__(graph, input_shape)
        self.nodes = Parts(graph.nodes, graph.constants, graph.outputs)
        self.taken: set[int] = set()

    def walk(self) -> None:
        """Collect the parts; raises ConfigError with the first node that is not one."""
        while readers := self.graph.readers(self.value):
            if (found := spelt_out(self.graph, self.nodes, self.value, self.shape)) is not None:
                self._take(*found)
                continue
            if self._both_columns(readers):
                break
            if len(readers) > 1:
                names = " and ".join(map(called, readers))
                msg = f"two branches are not a chain, and not a formula that xpnet knows: {names}"
                raise refused(called(readers[0]), msg)
            if not self._grouped(readers[0]):
                self._take(readers[0])
        self._check_end()

    def _grouped(self, node: Any) -> bool:
        """Whether it begins a GroupNorm, of reshaped features.

        PyTorch's is InstanceNormalization of (N, G, J/G), and xpnet's own LayerNormalization of
        (N, 1, G, J/G), which normalises the last axis as well.
        """
        nodes = [node]
        for ops in (("InstanceNormalization", "LayerNormalization"), ("Reshape",)):
            following = self.graph.readers(nodes[-1].output[0])
            if node.op_type != "Reshape" or [n.op_type in ops for n in following] != [True]:
                return False
            nodes += following
        shape = self.graph.constants.get(node.input[1], np.zeros(0)).tolist()
        attributes = attributes_of(nodes[1])
        learned = [self.graph.constants.get(name) for name in nodes[1].input[1:]]
        alike = all(v is not None and (v == 1 - i).all() for i, v in enumerate(learned))
        last = attributes.get("axis", -1) in (-1, len(shape) - 1)
        J = self.shape[0] if len(self.shape) == 1 else 0
        if nodes[1].op_type == "InstanceNormalization":
            plain = len(shape) == 3 and shape[2] == -1
        else:
            plain = len(shape) == 4 and shape[1] == 1 and shape[2] * shape[3] == J and last
        back = self.graph.constants.get(nodes[2].input[1])
        if not J or not plain or not alike:
            return False
        if back is not None and (len(back) != 2 or back[1] not in (-1, J)):
            return False
        layer = nn.GroupNorm(groups=int(shape[-2]), eps=short(attributes.get("epsilon", 1e-5)))
        self._append(self.plain_norm(layer), nodes, nodes[2].output[0])
        return True

    def _check_end(self) -> None:
        left = [n for n in self.graph.nodes if id(n) not in self.taken]
        if left:
            raise refused(called(left[0]), "it is not on the way from the input to the end")
        if self.shift is not None:
            msg = "the last nodes add constants that no dense layer takes up: end with Gemm"
            raise ConfigError(msg)
        for node in self.graph.cut[:1]:
            self.notes.append(f"what follows {called(node)} makes labels, and is left out")

    def _both_columns(self, readers: list[Any]) -> bool:
        """Whether what follows is [1 - p, p], the two columns of a classifier of scikit-learn."""
        if len(readers) != 2 or [n.op_type for n in readers] != ["Sub", "Concat"]:
            return False
        one, both = readers
        first = self.graph.constants.get(one.input[0])
        if first is None or first.size != 1 or first.reshape(-1)[0] != 1:
            return False
        if list(both.input) != [one.output[0], self.value] or self.graph.readers(both.output[0]):
            return False
        self.taken |= {id(one), id(both)}
        self.notes.append("the column 1 - p of the other class is left out")
        return True

    def _append(self, part: Part | None, nodes: list[Any], end: str) -> None:
        """Go on to the value ``end``, over a layer or, for None, nothing."""
        if part is not None:
            if self.shift is not None and not isinstance(part.layer, nn.Dense | nn.Flatten):
                msg = "constants are added before it, which only a dense layer can take up"
                raise refused(called(nodes[0]), msg)
            try:
                self.shape = part.layer.build(self.shape)[1]
            except ConfigError as error:
                raise refused(called(nodes[0]), str(error)) from None
            self.parts.append(part)
        self.taken |= {id(n) for n in nodes}
        self.value = end

    def _take(self, node: Any, nodes: list[Any] | None = None) -> None:
        """Go on over a node, which takes the place of ``nodes``."""
        op, attributes = node.op_type, attributes_of(node)
        if node.input[0] != self.value and op not in (*ARITHMETIC, "Gather"):
            raise refused(called(node), "what comes from the input is not its first operand")
        read = [o for o in node.output[1:] if o and self.graph.readers(o)]
        used = read or [o for o in node.output[1:] if o in self.graph.outputs]
        if used:
            raise refused(called(node), f"its further output {used[0]!r} is used")
        try:
            part = self.read(node, attributes)
        except (UnlikeError, ConfigError) as error:
            if isinstance(error, ConfigError) and "has no layer in xpnet" in str(error):
                raise
            raise refused(called(node), str(error)) from None
        self._append(part, nodes or [node], node.output[0])
