"""The functions of the Array API, of symbols: ndonnx's, where shapes may have a length to come."""

import math
from typing import Any

import numpy as np

from xpnet.errors import BackendError
from xpnet.interop.onnx.symbols import Count, Symbol, library, plain
from xpnet.ops.special import rational_erf

__all__ = ["Namespace"]


class Namespace:
    """The functions of ndonnx, of symbols and of shapes with a :class:`Count`."""

    def __init__(self, ndx: Any, rows: Count | None) -> None:
        self._ndx, self._rows = ndx, rows
        self.__name__ = "ndonnx of symbols"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ndx, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*args: Any, **options: Any) -> Any:
            rows = next(filter(None, map(_rows_in, (*args, *options.values()))), self._rows)
            given = {k: plain(v) for k, v in options.items() if k != "device"}
            return _symbols(found(*map(plain, args), **given), rows)

        return call

    @property
    def linalg(self) -> Any:
        return self

    def vector_norm(self, x: Symbol) -> Symbol:
        return self.sqrt(self.sum(self.square(x)))

    # ndonnx asks each of these for NaN, or for lengths that ONNX's own operators know.
    def mean(self, x: Symbol, *, axis: Any = None, keepdims: bool = False) -> Symbol:
        return self._reduced("reduce_mean", x, axis, keepdims=keepdims)

    def max(self, x: Symbol, *, axis: Any = None, keepdims: bool = False) -> Symbol:
        return self._reduced("reduce_max", x, axis, keepdims=keepdims)

    def argmax(self, x: Symbol, *, axis: int, keepdims: bool = False) -> Symbol:
        import spox.opset.ai.onnx.v21 as op

        found = op.arg_max(x.array.unwrap_spox(), axis=axis % x.ndim, keepdims=int(keepdims))
        return Symbol(self._ndx.asarray(found), x.rows)

    def _reduced(self, name: str, x: Symbol, axis: Any, *, keepdims: bool) -> Symbol:
        import spox.opset.ai.onnx.v21 as op

        axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        at = op.const(np.array([a % x.ndim for a in axes], np.int64))
        found = getattr(op, name)(x.array.unwrap_spox(), at, keepdims=int(keepdims))
        return Symbol(self._ndx.asarray(found), x.rows)

    def cos(self, x: Any) -> Symbol:
        # Older versions of onnxruntime have it in float32 alone, and sin in float64, too.
        return self.sin(x + math.pi / 2)

    def hypot(self, a: Symbol, b: Symbol) -> Symbol:
        # ndonnx has none. The larger one is taken out, so that no square overflows.
        a, b = self.abs(a), self.abs(b)
        larger = self.maximum(a, b)
        ratio = self.minimum(a, b) / self.where(larger == 0.0, 1.0, larger)
        return larger * self.sqrt(1.0 + ratio * ratio)

    def erf(self, x: Symbol) -> Symbol:
        # ONNX has it, the standard and so ndonnx not; onnxruntime has it in float32.
        if x.dtype == self._ndx.float64:
            return rational_erf(x)
        import spox.opset.ai.onnx.v21 as op

        return Symbol(self._ndx.asarray(op.erf(x.array.unwrap_spox())), x.rows)

    def take(self, x: Symbol, indices: Symbol, *, axis: int) -> Symbol:
        # The standard takes any integers, ndonnx int64 alone.
        at = self._ndx.astype(indices.array, self._ndx.int64)
        return Symbol(self._ndx.take(x.array, at, axis=axis), x.rows or indices.rows)

    def reshape(self, x: Symbol, shape: Any, **options: Any) -> Symbol:
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        known = tuple(-1 if isinstance(n, Count) else n for n in lengths)
        return Symbol(self._ndx.reshape(x.array, known), x.rows)

    def arange(self, start: Any, stop: Any = None, step: Any = 1, **options: Any) -> Symbol:
        options.pop("device", None)
        ends = [start] if stop is None else [start, stop]
        if not any(isinstance(end, Count) for end in ends):
            return Symbol(self._ndx.arange(*ends, **({} if stop is None else {"step": step}),
                                           **options), self._rows)  # fmt: skip
        first, last = (0, *ends)[-2:]
        dtype = options.get("dtype") or self._ndx.int64
        last = last.value if isinstance(last, Count) else self._ndx.asarray(last)
        if isinstance(first, Count):
            msg = "an exported step cannot count from a row that depends on the batch"
            raise BackendError(msg)
        zero = self._ndx.asarray(first, dtype=self._ndx.int64)
        made = self._ndx.arange(zero, last, dtype=self._ndx.int64)
        return Symbol(self._ndx.astype(made, dtype), self._rows)

    def full(self, shape: Any, value: Any, *, dtype: Any = None, device: Any = None) -> Symbol:
        lengths = (shape,) if isinstance(shape, int | Count) else tuple(shape)
        value = self._ndx.asarray(plain(value))
        value = value if dtype is None else self._ndx.astype(value, dtype)
        if not any(isinstance(n, Count) for n in lengths):
            return Symbol(self._ndx.broadcast_to(value, lengths), self._rows)
        # As many as there are rows: a column of an array that has them, if there is one.
        parts = [n.value if isinstance(n, Count) else self._ndx.asarray(n) for n in lengths]
        parts = [self._ndx.reshape(self._ndx.astype(n, self._ndx.int64), (1,)) for n in parts]
        return Symbol(self._ndx.broadcast_to(value, self._ndx.concat(parts)), self._rows)

    def zeros(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Symbol:
        return self.full(shape, 0.0, dtype=dtype)

    def ones(self, shape: Any, *, dtype: Any = None, device: Any = None) -> Symbol:
        return self.full(shape, 1.0, dtype=dtype)


def _rows_in(x: Any) -> Count | None:
    if isinstance(x, list | tuple):
        return next(filter(None, map(_rows_in, x)), None)
    return x.rows if isinstance(x, Symbol) else None


def _symbols(x: Any, rows: Count | None) -> Any:
    if isinstance(x, list | tuple):
        parts = [_symbols(part, rows) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return Symbol(x, rows) if isinstance(x, library().Array) else x
