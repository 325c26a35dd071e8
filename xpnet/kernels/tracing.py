"""A portable formula, called with symbols instead of arrays, as an expression.

The formulas of xpnet.ops and of the update rules are Array API code without a branch on a value.
Called with :class:`Symbol` they compute nothing: each operation returns a symbol that remembers it.
What comes out is the formula of one element, which :mod:`xpnet.kernels.printing` writes as code::

    >>> from xpnet.ops.activations import silu
    >>> print(traced(silu, "z").outputs[0])
    (z * (where((z >= 0.0), 1.0, exp((-abs(z)))) / (1.0 + exp((-abs(z))))))

Equal expressions are one symbol, so what a formula computes twice is computed once.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from xpnet.errors import UnsupportedError

__all__ = ["BOOLEAN", "Formula", "Symbol", "traced"]

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

    def __init__(self, tracer: "_Tracer", operation: str, operands: tuple[Any, ...]) -> None:
        self.tracer, self.operation, self.operands = tracer, operation, operands

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
        words = [str(x) for x in self.operands]
        if self.operation == "neg":
            return f"(-{words[0]})"
        if self.operation.isalnum():
            return f"{self.operation}({', '.join(words)})"
        return f"({words[0]} {self.operation} {words[1]})"

    def __bool__(self) -> bool:
        msg = "it branches on a value: xp.where chooses for each element"
        raise UnsupportedError(msg)

    def _refuse(self, *_: Any) -> Any:
        msg = "it asks for the number in an array, which no kernel can hand to Python"
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


class _Tracer:
    """The array namespace of symbols, and all symbols of one formula in the order of computing."""

    __name__ = "xpnet.kernels.tracing"  # by which array-api-compat tells namespaces apart
    bool, float32, float64 = "bool", "real", "real"
    pi, e, inf, nan = math.pi, math.e, math.inf, math.nan

    def __init__(self, shape: Any) -> None:
        self.shape, self._known = shape, {}  # type: ignore[var-annotated]

    def node(self, operation: str, *operands: Any) -> Any:
        """Return the symbol of an operation, or the number if all operands are numbers."""
        operands = tuple(x if isinstance(x, Symbol) else _number(x) for x in operands)
        if operation in FOLDED and not any(isinstance(x, Symbol) for x in operands):
            return FOLDED[operation](*operands)
        key = (operation, *(id(x) if isinstance(x, Symbol) else ("number", x) for x in operands))
        if key not in self._known:
            self._known[key] = Symbol(self, operation, operands)
        return self._known[key]

    def node_of(self, name: str) -> Symbol:
        """Return the symbol of an input."""
        return self._known.setdefault(("input", name), Symbol(self, "input", (name,)))

    def __getattr__(self, name: str) -> Any:
        operation = SAME.get(name, name)
        if operation in UNARY or name in SAME:
            return lambda *operands: self.node(operation, *operands)
        msg = f"it calls {name}, which has no form for one element"
        raise UnsupportedError(msg)

    def where(self, condition: Symbol, a: Any, b: Any) -> Any:
        return self.node("where", condition, a, b)

    def sum(self, x: Symbol) -> Symbol:
        if isinstance(self.shape, _Shape):
            msg = "it adds up elements (sum), so it is not element-wise"
            raise UnsupportedError(msg)
        return x

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

    def order(self) -> list[Symbol]:
        """Return all operations that the outputs need, each after its operands."""
        found: dict[int, Symbol] = {}
        for output in self.outputs:
            _visit(output, found)
        return list(found.values())

    def used(self) -> set[str]:
        """Return the names of the inputs that the outputs depend on."""
        return {s.operands[0] for s in self.order() if s.operation == "input"}


def _visit(x: Any, found: dict[int, Symbol]) -> None:
    if isinstance(x, Symbol) and id(x) not in found:
        for operand in x.operands:
            _visit(operand, found)
        found[id(x)] = x


def traced(function: Callable[..., Any], *inputs: str, total: bool = False) -> Formula:
    """Return the formula that ``function`` computes of one element of each input.

    With ``total`` it returns sums over all elements, and the formula is what is added up. Raises
    UnsupportedError, saying which operation stands in the way, where it is not element-wise
    arithmetic.
    """
    tracer = _Tracer(() if total else _Shape())
    try:
        result = function(*(tracer.node_of(name) for name in inputs))
    except UnsupportedError:
        raise
    except Exception as error:  # a formula of the user's own may do anything
        msg = f"it cannot be followed ({type(error).__name__}: {error})"
        raise UnsupportedError(msg) from error
    return Formula(inputs, tuple(_flat(result)))


def _flat(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple | list):
        for part in result:
            yield from _flat(part)
    else:
        yield result if isinstance(result, Symbol) else _number(result)
