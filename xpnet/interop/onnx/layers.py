"""The layers of a network so far, and what one more ONNX node adds to them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet import nn
from xpnet.interop.imported import Part
from xpnet.interop.onnx.graph import Graph, example_shape
from xpnet.interop.onnx.nodes import ACTIVATIONS, FLOATS, UnlikeError, norm_part, short
from xpnet.nn.normalization import Norm

__all__ = ["ARITHMETIC", "Layers"]

NORMS = (
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    "SimplifiedLayerNormalization",
)
PLAIN = {"LayerNormalization": nn.LayerNorm, "RMSNormalization": nn.RMSNorm}
ARITHMETIC = ("Add", "Sub", "Mul", "Div")


class Layers:
    """The layers so far, the value that they end at, and the shape of an example of it."""

    def __init__(self, graph: Graph, input_shape: tuple[int, ...] | None) -> None:
        self.graph, self.parts, self.notes = graph, list[Part](), list[str]()
        self.value = graph.input
        self.input_shape = self.shape = example_shape(graph, input_shape)
        self.shift: np.ndarray | None = None  # added to the value, and not yet in a layer
        self.exponential = False  # whether the last value is e to the power of the last layer's
        self.open: Part | None = None  # a norm that came without factors, which may follow it

    def read(self, node: Any, a: dict[str, Any]) -> Part | None:
        """Return the layer that a node with attributes ``a`` is; None if it is no layer of its own.

        Raises UnlikeError or ConfigError, with why, where xpnet has no such layer.
        """
        op = node.op_type
        where = f"{node.name or node.output[0]} ({op})"
        if op in ACTIVATIONS:
            return Part(ACTIVATIONS[op](a), source=where)
        if op in NORMS:
            self._flat_only(op)
            given = [self._constant(node, i) for i in range(1, len(node.input)) if node.input[i]]
            op = "RMSNormalization" if op == "SimplifiedLayerNormalization" else op
            if not given:
                return self.plain_norm(PLAIN[op](eps=short(a["epsilon"])))
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
        if c.dtype == bool:
            msg = "its constants are true or false, not numbers"
            raise UnlikeError(msg)
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
        elif last is not None and last is self.open and "beta" in last.arrays:
            self._fill({**last.arrays, "beta": last.arrays["beta"] + _row(c, J)}, "beta")
        else:
            if c.ndim > len(self.shape):
                c = c.reshape(c.shape[1:])
            shift = np.broadcast_to(c, self.shape)
            self.shift = shift if self.shift is None else self.shift + shift

    def _scaled(self, c: np.ndarray) -> Part | None:
        if c.size == 1 and float(c.reshape(-1)[0]) == 1.0:
            return None
        s = _row(c, self.shape[-1])
        if self.parts and self.parts[-1] is self.open:
            self._fill({name: value * s for name, value in self.open.arrays.items()}, "gamma")
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

    def _fill(self, arrays: dict[str, np.ndarray], known: str) -> None:
        """Give the norm that came without factors what followed it."""
        last = self.parts[-1]
        frozen = tuple(name for name in last.frozen if name != known)
        self.parts[-1] = self.open = Part(last.layer, arrays, frozen, last.source)

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

    def plain_norm(self, layer: Norm) -> Part:
        """A normalisation without factors of its own, which those that follow may become."""
        J = self.shape[-1]
        names = ("gamma",) if isinstance(layer, nn.RMSNorm) else ("gamma", "beta")
        dtype = next((a.dtype for p in self.parts for a in p.arrays.values()), np.dtype("float32"))
        arrays = {n: np.full(J, 1.0 if n == "gamma" else 0.0, dtype) for n in names}
        self.open = Part(layer, arrays, names)
        return self.open


def _row(c: np.ndarray, J: int) -> np.ndarray:
    """Constants as one per feature; raises UnlikeError where they differ along other axes."""
    if c.size == 1:
        return np.full(J, c.reshape(-1)[0], c.dtype)
    if c.size != J or c.shape[-1] != J:
        msg = f"constants of shape {c.shape} are not one per feature, of {J}"
        raise UnlikeError(msg)
    return c.reshape(-1)
