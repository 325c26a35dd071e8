"""Arrays without values, for which the portable formulas record ONNX nodes: ndonnx's, and a batch.

ndonnx is an Array API library whose arrays are lazy. It does not know how many rows a batch will
have, and says None; the formulas compute with that number, and make shapes of it. Here it is a
:class:`Count`, a number that the graph computes::

    x = symbol((None, 64), "float32")
    x.shape                         # (Count, 64)
    xp = array_namespace(x)
    xp.ones((x.shape[0],))          # as many as there will be rows
"""

import math
import operator
from collections.abc import Callable, Mapping
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.backends.backend import installed_version
from xpnet.errors import BackendError
from xpnet.ops.special import rational_erf

if TYPE_CHECKING:
    import onnx

__all__ = ["Count", "Symbol", "built", "mapped", "scalar", "symbol"]


class Count:
    """A number that depends on how many rows N a batch will have, such as N - 1 or 64 N.

    ``value`` is the lazy 0-d array of it, ``times`` its factor if it is a multiple of N. A
    comparison with a number answers for a large batch: the formulas ask for ``max(N - 1, 1)``.
    """

    def __init__(self, value: Any, times: int | None = None) -> None:
        self.value, self.times = value, times

    def __mul__(self, other: Any) -> "Count":
        if isinstance(other, Count):
            return Count(self.value * other.value)
        times = None if self.times is None else self.times * other
        return self if other == 1 else Count(self.value * other, times)

    __rmul__ = __mul__

    def __add__(self, other: int) -> "Count":
        return self if other == 0 else Count(self.value + other)

    __radd__ = __add__

    def __sub__(self, other: int) -> "Count":
        return Count(self.value - other)

    def __truediv__(self, other: Any) -> "Count":
        ndx = _ndonnx()
        x, y = (c.value if isinstance(c, Count) else ndx.asarray(c) for c in (self, other))
        return Count(ndx.astype(x, ndx.float64) / ndx.astype(y, ndx.float64))

    def __rfloordiv__(self, other: int) -> int:
        return other  # how many rows fit is asked to save memory: all do

    def __lt__(self, other: float) -> bool:
        return False

    def __gt__(self, other: float) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Count) or self.times is None:
            return self is other
        return self.times == other.times

    __hash__ = object.__hash__


class Symbol:
    """A lazy array of ndonnx whose unknown lengths are those of the batch."""

    def __init__(self, array: Any, rows: Count | None = None) -> None:
        self.array, self.rows = array, rows

    @property
    def shape(self) -> tuple[Any, ...]:
        """The lengths, of which the first may be that of the batch.

        Raises BackendError where another is not known: it would be taken for the batch's.
        """
        first, rest = self.array.shape[:1], self.array.shape[1:]
        if None in rest:
            msg = f"the exported step has an array of shape {self.array.shape}, of which only the "
            msg += "first length may depend on the batch: reshape it in the layer"
            raise BackendError(msg)
        return (*(self.rows if n is None else n for n in first), *rest)

    @property
    def ndim(self) -> int:
        return len(self.array.shape)

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def device(self) -> None:
        return None

    @property
    def T(self) -> "Symbol":  # noqa: N802 # the standard's name
        return Symbol(self.array.T, self.rows)

    @property
    def mT(self) -> "Symbol":  # noqa: N802 # the standard's name
        return Symbol(self.array.mT, self.rows)

    def __getitem__(self, key: Any) -> "Symbol":
        found = self.array[_plain(key)]
        return Symbol(_known(found, _lengths(self.array.shape, key)), self.rows)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return _Namespace(_ndonnx(), self.rows)

    def __bool__(self) -> bool:
        msg = "an exported step cannot branch on what is in an array: use xp.where"
        raise BackendError(msg)

    def __matmul__(self, other: "Symbol") -> "Symbol":
        import spox.opset.ai.onnx.v21 as op

        # ndonnx guards it against empty arrays with 200 nodes, which take half a second to record.
        x, y = self.array, other.array
        found = _ndonnx().asarray(op.matmul(x.unwrap_spox(), y.unwrap_spox()))
        return Symbol(_known(found, (*x.shape[:-1], *y.shape[-1:])), self.rows or other.rows)

    def __rshift__(self, other: Any) -> "Symbol":
        """Shift int32 by 0 to 31 bits as unsigned, then extend the sign.

        ONNX shifts unsigned integers alone; ndonnx divides instead, which takes thrice as long.
        """
        ndx = _ndonnx()
        if self.array.dtype != ndx.int32 or type(other) is not int:
            return self._binary(operator.rshift, other)
        shifted = ndx.astype(ndx.astype(self.array, ndx.uint32) >> other, ndx.int32)
        if not other:
            return self
        sign = 1 << (31 - other)
        return Symbol((shifted ^ sign) - sign, self.rows)

    __hash__ = object.__hash__

    def _binary(self, function: Callable, other: Any) -> Any:
        if not isinstance(other, OPERANDS):
            return NotImplemented
        rows = self.rows or getattr(other, "rows", None)
        return Symbol(function(self.array, _operand(self, other)), rows)

    def _reflected(self, function: Callable, other: Any) -> Any:
        if not isinstance(other, OPERANDS):
            return NotImplemented
        return Symbol(function(_operand(self, other), self.array), self.rows)

    def _unary(self, function: Callable) -> Any:
        return Symbol(function(self.array), self.rows)


OPERANDS = (Symbol, Count, bool, int, float, np.generic, np.ndarray)


def _operators() -> None:
    names = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
    for name in (*names, "and", "or", "xor", "lshift"):
        function = getattr(operator, f"__{name}__")
        setattr(Symbol, f"__{name}__", partialmethod(Symbol._binary, function))
        setattr(Symbol, f"__r{name}__", partialmethod(Symbol._reflected, function))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        function = getattr(operator, f"__{name}__")
        setattr(Symbol, f"__{name}__", partialmethod(Symbol._binary, function))
    for name in ("neg", "pos", "abs", "invert"):
        function = getattr(operator, f"__{name}__")
        setattr(Symbol, f"__{name}__", partialmethod(Symbol._unary, function))


_operators()


def _operand(like: Symbol, other: Any) -> Any:
    """The other operand; a number that the graph computes is as weak as one of Python's."""
    if isinstance(other, Count):
        return _ndonnx().astype(other.value, like.dtype)
    return _plain(other)


class _Namespace:
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
            plain = {k: _plain(v) for k, v in options.items() if k != "device"}
            return _symbols(found(*map(_plain, args), **plain), rows)

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
        value = self._ndx.asarray(_plain(value))
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


def symbol(shape: tuple[int | str, ...], dtype: str) -> Symbol:
    """Return an input of the graph; the length "N" is that of the batch."""
    ndx = _ndonnx()
    array = ndx.argument(shape=shape, dtype=getattr(ndx, dtype))
    rows = None
    if "N" in shape:
        rows = Count(array.dynamic_shape[shape.index("N")], 1)
    return Symbol(array, rows)


def built(inputs: Mapping[str, Symbol], outputs: Mapping[str, Symbol]) -> "onnx.ModelProto":
    """Return the graph that was recorded between these inputs and outputs."""
    made = _ndonnx().build(
        {name: x.array for name, x in inputs.items()},
        {name: x.array for name, x in outputs.items()},
    )
    del made.metadata_props[:]  # ndonnx's, of inputs that become weights
    made.producer_name = "xpnet"
    made.producer_version = installed_version(("xpnet",), "xpnet") or ""
    for output in made.graph.output:  # ndonnx names no length
        lengths = output.type.tensor_type.shape.dim
        rows = outputs[output.name].rows
        if rows is not None and len(lengths) and not lengths[0].HasField("dim_value"):
            lengths[0].dim_param = "N"
    return made


def mapped(texts: Symbol, table: Mapping[str, int], default: int) -> Symbol:
    """Return the number, int64, that a table has for each text."""
    import spox.opset.ai.onnx.ml.v3 as op

    # ndonnx's static_map writes the fourth version, which runtimes of 2023 do not have.
    found = op.label_encoder(
        texts.array.unwrap_spox(),
        keys_strings=table.keys(),
        values_int64s=table.values(),
        default_int64=default,
    )
    return Symbol(_ndonnx().asarray(found), texts.rows)


def scalar(array: Any) -> Symbol:
    """Return a constant of the graph."""
    return Symbol(_ndonnx().asarray(array))


def _ndonnx() -> Any:
    try:
        import ndonnx
    except ImportError as error:
        msg = f"exporting needs ndonnx, which cannot be imported: {error}"
        raise BackendError(msg, command="pip install 'xpnet[onnx]'") from None
    return ndonnx


def _lengths(shape: tuple[int | None, ...], key: Any) -> tuple[int | None, ...]:
    """The shape of x[key] for x of this shape, the batch's length as None."""
    rows = 7919  # no other length
    given = tuple(rows if n is None else n for n in shape)
    found = np.broadcast_to(np.zeros(()), given)[key].shape
    return tuple(None if n == rows else n for n in found)


def _known(found: Any, shape: tuple[int | None, ...]) -> Any:
    """A lazy array with the shape that it has; ndonnx loses lengths in slices and products."""
    if None not in found.shape[1:]:
        return found
    return _ndonnx().reshape(found, tuple(-1 if n is None else n for n in shape))


def _plain(x: Any) -> Any:
    if isinstance(x, Symbol):
        return x.array
    if isinstance(x, list | tuple):
        return type(x)(map(_plain, x)) if not hasattr(x, "_fields") else x
    return x


def _rows_in(x: Any) -> Count | None:
    if isinstance(x, list | tuple):
        return next(filter(None, map(_rows_in, x)), None)
    return x.rows if isinstance(x, Symbol) else None


def _symbols(x: Any, rows: Count | None) -> Any:
    if isinstance(x, list | tuple):
        parts = [_symbols(part, rows) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return Symbol(x, rows) if isinstance(x, _ndonnx().Array) else x
