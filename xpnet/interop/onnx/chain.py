"""The walk along an ONNX graph, from its input to its end, which collects the layers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet import nn
from xpnet.errors import ConfigError
from xpnet.interop.imported import Part
from xpnet.interop.onnx.graph import FLOATS, Graph, called, example_shape
from xpnet.interop.onnx.nodes import ACTIVATIONS, UnlikeError, norm_part, refused, short
from xpnet.interop.onnx.spelt_out import spelt_out
from xpnet.nn.normalization import Norm

__all__ = ["Chain"]

NORMS = (
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    "SimplifiedLayerNormalization",
)
ARITHMETIC = ("Add", "Sub", "Mul", "Div")


class Chain:
    """The layers so far, and the value and the example shape that they end at."""

    def __init__(self, graph: Graph, input_shape: tuple[int, ...] | None) -> None:
        self.graph, self.parts, self.notes = graph, list[Part](), list[str]()
        self.value = graph.input
        self.input_shape = self.shape = example_shape(graph, input_shape)
        self.shift: np.ndarray | None = None  # added to the value, and not yet in a layer
        self.plain = False  # whether the last norm came without factors, which may follow it
        self.exponential = False  # whether the last value is e to the power of the last layer's
        self.taken: set[int] = set()

    # -- the walk ---------------------------------------------------------------------------------

    def walk(self) -> None:
        """Collect the parts; raises ConfigError with the first node that is not one."""
        while readers := self.graph.readers(self.value):
            if (found := spelt_out(self.graph, self.value)) is not None:
                layer, nodes, end = found
                self._append(self._spelt_out(layer), nodes, end)
                self.plain = isinstance(layer, Norm)
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
        attributes = self.graph.attributes(nodes[1])
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
        self._append(self._spelt_out(layer), nodes, nodes[2].output[0])
        self.plain = True
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
        self.plain = False
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

    def _take(self, node: Any) -> None:
        op, attributes = node.op_type, dict(self.graph.attributes(node))
        if node.input[0] != self.value and op not in (*ARITHMETIC, "Gather"):
            raise refused(called(node), "what comes from the input is not its first operand")
        read = [o for o in node.output[1:] if o and self.graph.readers(o)]
        used = read or [o for o in node.output[1:] if o in self.graph.outputs]
        if used:
            raise refused(called(node), f"its further output {used[0]!r} is used")
        try:
            part = self._part(node, op, attributes)
        except (UnlikeError, ConfigError) as error:
            if isinstance(error, ConfigError) and "has no layer in xpnet" in str(error):
                raise
            raise refused(called(node), str(error)) from None
        plain = self.plain and part is None and op in ARITHMETIC
        self._append(part, [node], node.output[0])
        self.plain = plain

    def _part(self, node: Any, op: str, a: dict[str, Any]) -> Part | None:
        where = f"{node.name or node.output[0]} ({op})"
        if op in ACTIVATIONS:
            return Part(ACTIVATIONS[op](a), source=where)
        if op in NORMS:
            self._flat_only(op)
            given = [self._constant(node, i) for i in range(1, len(node.input)) if node.input[i]]
            op = "RMSNormalization" if op == "SimplifiedLayerNormalization" else op
            return norm_part(op, a, given, self.shape[-1])
        reader: Callable[[Any, dict[str, Any]], Part | None] | None
        reader = getattr(self, f"_{op.lower()}", None)
        if reader is None:
            if op in ARITHMETIC:
                return self._arithmetic(node, op)
            msg = "it is not one of the operators that make a dense network"
            raise UnlikeError(msg)
        return reader(node, a)

    def _constant(self, node: Any, i: int) -> np.ndarray:
        name = node.input[i]
        if name not in self.graph.constants:
            msg = f"its operand {name!r} is not constant"
            raise UnlikeError(msg)
        return self.graph.constants[name]

    def _flat_only(self, op: str) -> None:
        if len(self.shape) != 1 and op in ("BatchNormalization", "GroupNormalization"):
            msg = f"its features are the second axis, and examples have shape {self.shape}"
            raise UnlikeError(msg)

    # -- dense layers -----------------------------------------------------------------------------

    def _dense(self, W: np.ndarray, b: np.ndarray | None) -> Part:
        if W.ndim != 2:
            msg = f"its weights have shape {W.shape}, not two axes"
            raise UnlikeError(msg)
        if len(self.shape) == 1 and W.shape[0] != self.shape[0]:
            msg = f"it takes {W.shape[0]} inputs; got {self.shape[0]}"
            raise UnlikeError(msg)
        if self.shift is not None:
            moved = np.asarray(self.shift.reshape(-1).astype(np.float64) @ W.astype(np.float64))
            b = (moved if b is None else b + moved).astype(W.dtype)
            self.shift = None
            self.notes.append("constants added to the inputs are part of the next dense layer's b")
        arrays = {"W": W} if b is None else {"W": W, "b": b}
        return Part(nn.Dense(W.shape[1], bias=b is not None), arrays)

    def _gemm(self, node: Any, a: dict[str, Any]) -> Part:
        if a.get("transA", 0):
            msg = "transA transposes the batch"
            raise UnlikeError(msg)
        W = self._constant(node, 1)
        W = (W.T if a.get("transB", 0) else W) * np.asarray(a.get("alpha", 1.0), W.dtype)
        b = None
        if len(node.input) > 2 and node.input[2]:
            given = self._constant(node, 2) * np.asarray(a.get("beta", 1.0), W.dtype)
            b = _row(given, W.shape[-1])
        return self._dense(np.ascontiguousarray(W), b)

    def _matmul(self, node: Any, a: dict[str, Any]) -> Part:
        return self._dense(self._constant(node, 1), None)

    # -- constants added and multiplied -----------------------------------------------------------

    def _arithmetic(self, node: Any, op: str) -> Part | None:
        first = node.input[0] == self.value
        c = self._constant(node, 1 if first else 0)
        if op == "Div":
            if not first:
                msg = "a constant is divided by its input"
                raise UnlikeError(msg)
            return self._scaled(1.0 / c)
        if op == "Mul":
            return self._scaled(c)
        if op == "Sub" and not first:
            self._scaled(np.asarray(-1.0, c.dtype))
            self._added(c)
            return None
        self._added(-c if op == "Sub" else c)
        return None

    def _added(self, c: np.ndarray) -> None:
        last = self.parts[-1] if self.parts else None
        J = self.shape[-1]
        if last is not None and self.shift is None and isinstance(last.layer, nn.Dense):
            W, b = last.arrays["W"], last.arrays.get("b")
            b = _row(c, J) if b is None else b + _row(c, J)
            self.parts[-1] = Part(nn.Dense(J), {"W": W, "b": b}, last.frozen, last.source)
        elif last is not None and self.plain and "beta" in last.arrays:
            arrays = {**last.arrays, "beta": last.arrays["beta"] + _row(c, J)}
            frozen = tuple(n for n in last.frozen if n != "beta")
            self.parts[-1] = Part(last.layer, arrays, frozen, last.source)
        else:
            if c.ndim > len(self.shape):
                c = c.reshape(c.shape[1:])
            shift = np.broadcast_to(c, self.shape)
            self.shift = shift if self.shift is None else self.shift + shift

    def _scaled(self, c: np.ndarray) -> Part | None:
        if c.size == 1 and float(c.reshape(-1)[0]) == 1.0:
            return None
        s = _row(c, self.shape[-1])
        if self.plain and self.parts and "gamma" in self.parts[-1].arrays:
            last = self.parts[-1]
            arrays = {k: v * s if k in ("gamma", "beta") else v for k, v in last.arrays.items()}
            frozen = tuple(n for n in last.frozen if n != "gamma")
            self.parts[-1] = Part(last.layer, arrays, frozen, last.source)
            return None
        shift, self.shift = self.shift, None
        if shift is not None:
            self.shift = shift * s
        fixed: tuple[str, ...] = ()
        if not any(isinstance(p.layer, nn.Dense) for p in self.parts):
            fixed = ("s",)
            self.notes.append("the factors of the inputs are a feature_scale, which stays as it is")
        self.parts.append(Part(nn.FeatureScale(), {"s": s}, fixed))
        return None

    # -- shapes and what passes -------------------------------------------------------------------

    def _flatten(self, node: Any, a: dict[str, Any]) -> Part:
        if a.get("axis", 1) not in (1, -len(self.shape)):
            msg = f"axis must be 1; got {a['axis']}"
            raise UnlikeError(msg)
        return Part(nn.Flatten())

    def _reshape(self, node: Any, a: dict[str, Any]) -> Part | None:
        target = self.graph.constants.get(node.input[1])
        if target is None and node.input[1] not in self.graph.sizes:
            msg = "its shape depends on the input's numbers"
            raise UnlikeError(msg)
        wanted = None if target is None else [int(n) for n in target]
        if wanted is None or (len(wanted) == 2 and wanted[1] in (-1, math.prod(self.shape))):
            return None if len(self.shape) == 1 else Part(nn.Flatten())
        if wanted[1:] == list(self.shape):
            return None
        msg = f"it makes shape {wanted} of {self.shape}; xpnet only flattens"
        raise UnlikeError(msg)

    def _softmax(self, node: Any, a: dict[str, Any]) -> Part:
        self._last_axis(a)
        return Part(nn.Softmax())

    def _logsoftmax(self, node: Any, a: dict[str, Any]) -> Part:
        self._last_axis(a)
        return Part(nn.LogSoftmax())

    def _last_axis(self, a: dict[str, Any]) -> None:
        axis = a.get("axis", -1 if self.graph.opset >= 13 else 1)
        if axis not in (-1, len(self.shape)):
            msg = f"its axis is {axis}, not the last"
            raise UnlikeError(msg)

    def _prelu(self, node: Any, a: dict[str, Any]) -> Part:
        slope = self._constant(node, 1)
        if slope.size == 1:
            return Part(nn.PReLU(), {"alpha": slope.reshape(-1)})
        return Part(nn.PReLU(per="feature"), {"alpha": _row(slope, self.shape[-1])})

    def _clip(self, node: Any, a: dict[str, Any]) -> Part:
        names = [*node.input[1:], "", ""][:2]
        low, high = (self._constant(node, i + 1) if n else None for i, n in enumerate(names))
        low = a.get("min", None if low is None else float(low))
        high = a.get("max", None if high is None else float(high))
        if low == 0.0 and (high is None or high > 1e30):
            return Part(nn.ReLU())
        msg = f"it clips to {low} and {high}"
        raise UnlikeError(msg)

    def _dropout(self, node: Any, a: dict[str, Any]) -> Part | None:
        rate = a.get("ratio", 0.5)
        if len(node.input) > 1 and node.input[1]:
            rate = float(self._constant(node, 1))
        if len(node.input) > 2 and node.input[2] and self._constant(node, 2).any():
            msg = "it is in training mode: export the model in evaluation mode"
            raise UnlikeError(msg)
        return Part(nn.Dropout(float(str(np.float32(rate)))))

    def _identity(self, node: Any, a: dict[str, Any]) -> None:
        return None

    def _cast(self, node: Any, a: dict[str, Any]) -> None:
        if a["to"] not in FLOATS:
            msg = "it rounds to whole numbers"
            raise UnlikeError(msg)

    def _squeeze(self, node: Any, a: dict[str, Any]) -> None:
        if self.graph.readers(node.output[0]):
            msg = "only the last node may take an axis away; flatten instead"
            raise UnlikeError(msg)
        self.notes.append("the last squeeze is left out: predictions have shape (N, 1)")

    def _exp(self, node: Any, a: dict[str, Any]) -> None:
        if self.graph.readers(node.output[0]):
            msg = "only the last node may be an exponential, which is part of a loss"
            raise UnlikeError(msg)
        self.exponential = True

    def _scaler(self, node: Any, a: dict[str, Any]) -> Part | None:
        dtype = np.float32
        self._added(-np.asarray(a.get("offset", [0.0]), dtype))
        return self._scaled(np.asarray(a.get("scale", [1.0]), dtype))

    def _spelt_out(self, layer: nn.Layer) -> Part:
        if not isinstance(layer, Norm):
            return Part(layer)
        J = self.shape[-1]
        names = ("gamma",) if isinstance(layer, nn.RMSNorm) else ("gamma", "beta")
        dtype = next((a.dtype for p in self.parts for a in p.arrays.values()), np.dtype("float32"))
        arrays = {n: np.full(J, 1.0 if n == "gamma" else 0.0, dtype) for n in names}
        return Part(layer, arrays, names)


def _row(c: np.ndarray, J: int) -> np.ndarray:
    """Constants as one per feature; raises UnlikeError where they differ along other axes."""
    if c.size == 1:
        return np.full(J, c.reshape(-1)[0], c.dtype)
    if c.size != J or c.shape[-1] != J:
        msg = f"constants of shape {c.shape} are not one per feature, of {J}"
        raise UnlikeError(msg)
    return c.reshape(-1)
