"""A portable formula, called with symbols instead of arrays, as an expression.

The formulas of xpnet.ops and of the update rules are Array API code without a branch on a value.
Called with :class:`Symbol` they compute nothing: each operation returns a symbol that remembers it.
What comes out is the formula of one element, which :mod:`xpnet.kernels.printing` writes as code::

    >>> from xpnet.ops.activations import sigmoid
    >>> print(traced(sigmoid, "z").outputs[0])
    (where((z >= 0.0), 1.0, exp((-abs(z)))) / (1.0 + exp((-abs(z)))))

Equal expressions are one symbol, so what a formula computes twice is computed once.
"""

import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

from xpnet.errors import UnsupportedError

__all__ = ["BOOLEAN", "Formula", "Symbol", "traced", "traced_by_rows"]

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
BOOLEAN = {*COMPARISONS, "not", "and", "or", "isnan", "isfinite", "isinf"}
UNARY = (
    "abs", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "erf", "sign", "floor",
    "isnan", "isfinite", "isinf",
)  # fmt: skip
# Array API functions of other names that are one of these operations.
SAME = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "maximum": "max",
    "minimum": "min", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "equal": "==", "not_equal": "!=", "logical_and": "and", "logical_or": "or",
}  # fmt: skip
FOLDED: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "neg": lambda a: -a,
}


class _Shape:
    """The shape of every array in a formula: it equals itself, and no kernel knows its numbers."""

    def __len__(self) -> int:
        return 2

    def _refuse(self, *_: Any) -> Any:
        msg = "it depends on the number of rows or columns"
        raise UnsupportedError(msg)

    __iter__ = __getitem__ = _refuse


class Symbol:
    """A number that an operation will have computed, with the interface of an array."""

    ndim = 2
    device = "kernel"

    def __init__(
        self, tracer: "_Tracer", operation: str, operands: tuple[Any, ...], level: str
    ) -> None:
        self.tracer, self.operation, self.operands = tracer, operation, operands
        self.level = level

    @property
    def shape(self) -> Any:
        """The same of all arrays in a formula."""
        return self.tracer.shape

    @property
    def dtype(self) -> str:
        """``"bool"`` of a comparison, else ``"real"``: the kernel decides how wide that is."""
        return "bool" if self.operation in BOOLEAN else "real"

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return self.tracer

    def __str__(self) -> str:
        if self.operation == "input":
            return str(self.operands[0])
        return self.written([str(x) for x in self.operands])

    def written(self, words: Sequence[str]) -> str:
        """Return the operation as text, of the texts of its operands."""
        if self.operation == "neg":
            return f"(-{words[0]})"
        if self.operation.isidentifier():
            return f"{self.operation}({', '.join(words)})"
        return f"({words[0]} {self.operation} {words[1]})"

    def __bool__(self) -> bool:
        msg = "it branches on a value: xp.where chooses for each element"
        raise UnsupportedError(msg)

    def _refuse(self, *_: Any) -> Any:
        msg = "it asks for the number in an array, which no kernel can hand to Python"
        raise UnsupportedError(msg)

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **_: Any) -> Any:
        operation = SAME.get(ufunc.__name__, "")
        if operation.isidentifier() or not operation:
            return self.__array__()
        return self.tracer.node(operation, *operands)  # of a NumPy float and a symbol

    def __array__(self, *_: Any, **__: Any) -> Any:
        msg = "it calls NumPy whatever the array is: array_namespace(x) is the library of x"
        raise UnsupportedError(msg)

    __float__ = __int__ = __index__ = __iter__ = __len__ = _refuse

    def __getitem__(self, key: Any) -> "Symbol":
        msg = "it takes entries of an array by index, so it is not element-wise"
        raise UnsupportedError(msg)

    def __pow__(self, power: Any) -> "Symbol":
        if power in (2, 3):
            square = self.tracer.node("*", self, self)
            return square if power == 2 else self.tracer.node("*", square, self)
        return self.tracer.node("pow", self, power)

    def __neg__(self) -> "Symbol":
        return self.tracer.node("neg", self)

    def __invert__(self) -> "Symbol":
        return self.tracer.node("not", self)

    __hash__ = object.__hash__


def _operator(operation: str) -> tuple[Callable, Callable]:
    def forward(self: Symbol, other: Any) -> Symbol:
        return self.tracer.node(operation, self, other)

    def reflected(self: Symbol, other: Any) -> Symbol:
        return self.tracer.node(operation, other, self)

    return forward, reflected


for _name, _operation in {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}.items():
    for _prefix, _method in zip(("__", "__r"), _operator(_operation), strict=True):
        setattr(Symbol, f"{_prefix}{_name}__", _method)
for _name, _operation in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
                          "and": "and", "or": "or"}.items():  # fmt: skip
    setattr(Symbol, f"__{_name}__", _operator(_operation)[0])


DTYPES = {"bool": "bool", "float32": "real", "float64": "real"}
# What a symbol has one of: each "element", each "row", each "column", or one "number" in all.
LEVELS = {"row_sum": "row", "row_max": "row", "total": "column"}


def _joined(operands: tuple[Any, ...]) -> str:
    """The level of what is computed from operands."""
    levels = {x.level for x in operands if isinstance(x, Symbol)} - {"number"}
    if len(levels) > 1:  # a row and a column meet in an element
        return "element"
    return levels.pop() if levels else "number"


class _Tracer:
    """The array namespace of symbols, and all symbols of one formula in the order of computing."""

    __name__ = "xpnet.kernels.tracing"  # by which array-api-compat tells namespaces apart
    pi, e, inf, nan = math.pi, math.e, math.inf, math.nan

    def __init__(self, shape: Any, *, by_rows: bool = False) -> None:
        self.shape, self.by_rows = shape, by_rows
        self._known: dict[tuple, Symbol] = {}

    def node(self, operation: str, *operands: Any) -> Any:
        """Return the symbol of an operation, or the number if all operands are numbers."""
        operands = tuple(x if isinstance(x, Symbol) else _number(x) for x in operands)
        if operation in FOLDED and not any(isinstance(x, Symbol) for x in operands):
            return FOLDED[operation](*operands)
        key = (operation, *(id(x) if isinstance(x, Symbol) else ("number", x) for x in operands))
        if key not in self._known:
            level = LEVELS.get(operation) or _joined(operands)
            self._known[key] = Symbol(self, operation, operands, level)
        return self._known[key]

    def input(self, name: str, level: str = "element") -> Symbol:
        """Return the symbol of an input."""
        return self._known.setdefault(("input", name), Symbol(self, "input", (name,), level))

    def __getattr__(self, name: str) -> Any:
        operation = SAME.get(name, name)
        if operation in UNARY or name in SAME:
            return lambda *operands: self.node(operation, *operands)
        if name in DTYPES:
            return DTYPES[name]
        if name.startswith("__"):
            raise AttributeError(name)
        msg = f"it calls {name}, which is not a function of one element"
        raise UnsupportedError(msg)

    def where(self, condition: Symbol, a: Any, b: Any) -> Any:
        return self.node("where", condition, a, b)

    def sum(self, x: Symbol, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Symbol:
        if axis is None and not isinstance(self.shape, _Shape):
            return x  # a total over all elements: the loop adds up
        if self.by_rows and axis in (0, (0,)) and not keepdims:
            return self.node("total", x)
        return self._reduced("row_sum", "sum", x, axis, keepdims)

    def max(self, x: Symbol, *, axis: Any = None, keepdims: bool = False) -> Symbol:
        return self._reduced("row_max", "max", x, axis, keepdims)

    def mean(self, x: Symbol, *, axis: Any = None, keepdims: bool = False) -> Symbol:
        return self._reduced("row_sum", "mean", x, axis, keepdims) / self.input("width", "row")

    def _reduced(self, operation: str, name: str, x: Symbol, axis: Any, keepdims: bool) -> Any:
        if not self.by_rows:
            msg = f"it calls {name}, which is not a function of one element"
            raise UnsupportedError(msg)
        if axis not in (-1, (-1,)) or not keepdims or x.level != "element":
            msg = f"it calls {name} with axis={axis}, keepdims={keepdims}; kernels work along rows"
            raise UnsupportedError(msg)
        return self.node(operation, x)

    def square(self, x: Symbol) -> Symbol:
        return x**2

    def negative(self, x: Symbol) -> Symbol:
        return -x

    def positive(self, x: Symbol) -> Symbol:
        return x

    def pow(self, x: Symbol, power: Any) -> Symbol:
        return x**power

    def logical_not(self, x: Symbol) -> Symbol:
        return ~x

    def clip(self, x: Any, min: Any = None, max: Any = None) -> Any:
        if min is not None:
            x = self.node("max", x, min)
        return x if max is None else self.node("min", x, max)

    def astype(self, x: Any, dtype: str, *, copy: Any = True) -> Any:
        if dtype == "real" and isinstance(x, Symbol) and x.dtype == "bool":
            return self.where(x, 1.0, 0.0)
        if dtype != getattr(x, "dtype", dtype):
            msg = f"it converts to {dtype}"
            raise UnsupportedError(msg)
        return x

    def result_type(self, *_: Any) -> str:
        return "real"

    def asarray(self, x: Any, *, dtype: Any = None, device: Any = None, copy: Any = None) -> Any:
        return x

    def zeros_like(self, x: Any, **_: Any) -> float:
        return 0.0

    def ones_like(self, x: Any, **_: Any) -> float:
        return 1.0

    def full_like(self, x: Any, value: float, **_: Any) -> float:
        return float(value)


def _number(x: Any) -> float:
    if isinstance(x, int | float):
        return float(x)
    msg = f"it computes with {type(x).__name__}, which is no number and no array of the formula"
    raise UnsupportedError(msg)


class Formula(NamedTuple):
    """What some outputs are, in terms of inputs that are read by name."""

    inputs: tuple[str, ...]
    outputs: tuple[Any, ...]  # symbols, or numbers

    def order(self, known: Container[int] = ()) -> list[Symbol]:
        """Return all operations that the outputs need, each after its operands.

        Those whose id is in ``known`` count as inputs: what they need is left out.
        """
        found: dict[int, Symbol] = {}
        for output in self.outputs:
            _visit(output, found, known)
        return list(found.values())

    def used(self) -> set[str]:
        """Return the names of the inputs that the outputs depend on."""
        return {s.operands[0] for s in self.order() if s.operation == "input"}


def _visit(x: Any, found: dict[int, Symbol], known: Container[int]) -> None:
    if isinstance(x, Symbol) and id(x) not in found:
        for operand in () if id(x) in known else x.operands:
            _visit(operand, found, known)
        found[id(x)] = x


def traced(function: Callable[..., Any], *inputs: str, total: bool = False) -> Formula:
    """Return the formula that ``function`` computes of one element of each input.

    With ``total`` it returns sums over all elements, and the formula is what is added up. Raises
    UnsupportedError, saying which operation stands in the way, where it is not element-wise
    arithmetic.
    """
    tracer = _Tracer(() if total else _Shape())
    return _followed(function, [tracer.input(name) for name in inputs])


def traced_by_rows(function: Callable[..., Any], **levels: str) -> Formula:
    """Return the formula of a function that also adds up, or takes the largest, along rows.

    ``levels`` says of each input what it has one of: each "element", "row" or "column". Sums over
    the rows are possible outputs. Raises UnsupportedError.
    """
    tracer = _Tracer(_Shape(), by_rows=True)
    return _followed(function, [tracer.input(name, level) for name, level in levels.items()])


def _followed(function: Callable[..., Any], inputs: list[Symbol]) -> Formula:
    try:
        result = function(*inputs)
    except UnsupportedError:
        raise
    except Exception as error:  # a formula of the user's own may do anything
        msg = f"it cannot be followed ({type(error).__name__}: {error})"
        raise UnsupportedError(msg) from error
    return Formula(tuple(str(x) for x in inputs), tuple(_flat(result)))


def _flat(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple | list):
        for part in result:
            yield from _flat(part)
    else:
        yield result if isinstance(result, Symbol) else _number(result)
