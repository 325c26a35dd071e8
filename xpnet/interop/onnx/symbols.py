"""Arrays without values, for which the portable formulas record ONNX nodes: ndonnx's, and a batch.

ndonnx is an Array API library whose arrays are lazy. It does not know how many rows a batch will
have, and says None; the formulas compute with that number, and make shapes of it. Here it is a
:class:`Count`, a number that the graph computes::

    x = symbol((None, 64), "float32")
    x.shape                         # (Count, 64)
    xp = array_namespace(x)
    xp.ones((x.shape[0],))          # as many as there will be rows
"""

import operator
from collections.abc import Callable, Mapping
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.backends.backend import installed_version
from xpnet.errors import BackendError, how_to_install

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Count",
    "Symbol",
    "built",
    "entry",
    "library",
    "mapped",
    "plain",
    "scalar",
    "symbol",
]


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
        ndx = library()
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
        found = self.array[plain(key)]
        return Symbol(_known(found, _lengths(self.array.shape, key)), self.rows)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        from xpnet.interop.onnx.namespace import Namespace

        return Namespace(library(), self.rows)

    def __bool__(self) -> bool:
        msg = "an exported step cannot branch on what is in an array: use xp.where"
        raise BackendError(msg)

    def __matmul__(self, other: "Symbol") -> "Symbol":
        import spox.opset.ai.onnx.v21 as op

        # ndonnx guards it against empty arrays with 200 nodes, which take half a second to record.
        x, y = self.array, other.array
        found = library().asarray(op.matmul(x.unwrap_spox(), y.unwrap_spox()))
        return Symbol(_known(found, (*x.shape[:-1], *y.shape[-1:])), self.rows or other.rows)

    def __rshift__(self, other: Any) -> "Symbol":
        """Shift int32 by 0 to 31 bits as unsigned, then extend the sign.

        ONNX shifts unsigned integers alone; ndonnx divides instead, which takes thrice as long.
        """
        ndx = library()
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
        return library().astype(other.value, like.dtype)
    return plain(other)


def symbol(shape: tuple[int | str, ...], dtype: str) -> Symbol:
    """Return an input of the graph; the length "N" is that of the batch."""
    ndx = library()
    array = ndx.argument(shape=shape, dtype=getattr(ndx, dtype))
    rows = None
    if "N" in shape:
        rows = Count(array.dynamic_shape[shape.index("N")], 1)
    return Symbol(array, rows)


def built(inputs: Mapping[str, Symbol], outputs: Mapping[str, Symbol]) -> "onnx.ModelProto":
    """Return the graph that was recorded between these inputs and outputs."""
    made = library().build(
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
    return Symbol(library().asarray(found), texts.rows)


def entry(table: np.ndarray, at: Symbol) -> Symbol:
    """Return what a table (T,) has at an index (), int64; beyond it the runtime has an error."""
    import spox.opset.ai.onnx.v21 as op

    # The standard takes by indices (I,): for one, ndonnx reshapes it, and what it has taken.
    found = op.gather(op.const(table), at.array.unwrap_spox())
    return Symbol(library().asarray(found))


def scalar(array: Any) -> Symbol:
    """Return a constant of the graph."""
    return Symbol(library().asarray(array))


def library() -> Any:
    """Return ndonnx. Raises BackendError where it is not installed."""
    try:
        import ndonnx
    except ImportError as error:
        msg = f"exporting needs ndonnx, which cannot be imported: {error}"
        raise BackendError(msg, command=how_to_install("onnx")) from None
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
    return library().reshape(found, tuple(-1 if n is None else n for n in shape))


def plain(x: Any) -> Any:
    """Return ndonnx's array of a symbol, also within lists and tuples; all else as it is."""
    if isinstance(x, Symbol):
        return x.array
    if isinstance(x, list | tuple):
        return type(x)(map(plain, x)) if not hasattr(x, "_fields") else x
    return x
