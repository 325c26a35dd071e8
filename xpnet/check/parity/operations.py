"""Every function of the Array API that a training step uses, each called by itself.

``OPERATIONS`` is the only list; a test records what training really calls and fails if a function
is not in it. The expected value of a call is NumPy's in float64.
"""

import math
import operator
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from xpnet.backends import Backend, get_backend
from xpnet.typing import Array

__all__ = [
    "CHECKS",
    "INDEX",
    "OPERATIONS",
    "WRITES",
    "Check",
    "Operation",
    "Row",
    "check_operations",
    "reference",
    "said",
]

INF, NAN = np.inf, np.nan
WRITES = "writes to an operand"
INDEX = ("int32", "int64")  # the dtypes that the standard has for an index


class Row(NamedTuple):
    """The outcome of one call; ``status`` is "ok", or says what is wrong."""

    function: str
    case: str
    status: str
    detail: str = ""

    @property
    def bad(self) -> bool:
        """Whether training would be wrong, or impossible."""
        return self.status not in ("ok", "note")


class Operation(NamedTuple):
    """``call(xp, *operands)`` on arrays placed from the host ``operands``."""

    function: str  # as in the namespace, or an operator or attribute of the array
    case: str
    call: Callable[..., Any]
    operands: tuple[np.ndarray, ...]


A = np.array([[0.5, -1.25, 2.0, 0.0], [1.5, 3.0, -0.75, 1.0], [-2.0, 0.25, 0.125, -3.5]])  # (3, 4)
B = np.array([[1.0, -2.0], [0.5, 0.25], [3.0, -1.0], [-0.5, 2.0]])  # (4, 2)
ROW = np.array([10.0, 20.0, 30.0, 40.0])
SCALAR = np.array(2.5)
ENDS = np.array([[-INF, 1.0, INF, 2.0], [-INF, -3.0, -1.0, -2.0]])
TIES = np.array([[1.0, 7.0, 7.0, 0.0], [5.0, 1.0, 5.0, 5.0]])
I32 = np.array([3, 0, 2, 1], dtype=np.int32)
LARGE = np.array([2**30 + 7, -(2**29) - 3, 123456789, -1], dtype=np.int32)
FLAGS = np.array([True, False, True, False])


def _like(x: Array) -> dict[str, Any]:
    # That arrays have a device is asked for by itself: where they have none, the rest is seen, too.
    return {"dtype": x.dtype} | ({"device": device(x)} if hasattr(x, "device") else {})


def _op(function: str, case: str, call: Callable[..., Any], *operands: np.ndarray) -> Operation:
    return Operation(function, case, call, operands)


OPERATIONS: tuple[Operation, ...] = (
    # creation
    _op("asarray", "a tuple of floats", lambda xp, x: xp.asarray((1.0, 2.5), **_like(x)), A),
    _op("asarray", "copy=True", lambda xp, x: operator.imul(xp.asarray(x, copy=True), 2.0), A),
    _op("zeros", "0-d", lambda xp, x: xp.zeros((), **_like(x)), A),
    _op("ones", "of a shape", lambda xp, x: xp.ones((3,), **_like(x)), A),
    _op("full", "int32, 0-d", lambda xp, i: xp.full((), -1, **_like(i)), I32),
    _op("eye", "of a size", lambda xp, x: xp.eye(3, **_like(x)), A),
    _op("arange", "int32", lambda xp, i: xp.arange(5, **_like(i)), I32),
    _op("arange", "int32, from 2", lambda xp, i: xp.arange(2, 5, **_like(i)), I32),
    _op("zeros", "device=None", lambda xp, x: xp.zeros((2,), dtype=x.dtype, device=None), A),
    _op("ones", "device=None", lambda xp, x: xp.ones((2,), dtype=x.dtype, device=None), A),
    _op("full", "device=None", lambda xp, i: xp.full((), 3, dtype=i.dtype, device=None), I32),
    _op("eye", "device=None", lambda xp, x: xp.eye(3, dtype=x.dtype, device=None), A),
    _op("arange", "device=None", lambda xp, i: xp.arange(5, dtype=i.dtype, device=None), I32),
    _op("asarray", "device=None", lambda xp, x: xp.asarray(2.5, dtype=x.dtype, device=None), A),
    _op("zeros_like", "", lambda xp, x: xp.zeros_like(x), A),
    _op("ones_like", "", lambda xp, x: xp.ones_like(x), A),
    _op("full_like", "with a float", lambda xp, x: xp.full_like(x, 0.25), A),
    # element by element
    _op("abs", "", lambda xp, x: xp.abs(x), A),
    _op("sqrt", "", lambda xp, x: xp.sqrt(x), np.abs(A)),
    _op("exp", "", lambda xp, x: xp.exp(x), A),
    _op("exp", "of -inf and of a very negative number", lambda xp, x: xp.exp(x), ENDS[1] * 1e3),
    _op("expm1", "near 0", lambda xp, x: xp.expm1(x), np.array([1e-6, -1e-3, -2.0, 0.0])),
    _op("log", "", lambda xp, x: xp.log(x), np.abs(A) + 0.125),
    _op("log", "of 0 and of inf", lambda xp, x: xp.log(x), np.array([0.0, 1.0, INF])),
    _op("log1p", "near 0", lambda xp, x: xp.log1p(x), np.array([1e-6, 0.0, 2.0])),
    _op("tanh", "", lambda xp, x: xp.tanh(x), A),
    _op("tanh", "of large numbers", lambda xp, x: xp.tanh(x), np.array([-100.0, 100.0])),
    _op("round", "halves to even", lambda xp, x: xp.round(x), np.array([0.5, 1.5, -2.5, 2.6])),
    _op("isfinite", "", lambda xp, x: xp.isfinite(x), np.array([1.0, INF, -INF, NAN])),
    _op("isfinite", "0-d", lambda xp, x: xp.isfinite(x), SCALAR),
    _op("maximum", "with a Python float", lambda xp, x: xp.maximum(x, 0.0), A),
    _op("minimum", "with a Python float", lambda xp, x: xp.minimum(x, 0.5), A),
    _op("minimum", "0-d with a Python float", lambda xp, x: xp.minimum(1.0 / x, 1.0), SCALAR),
    _op("where", "of two arrays", lambda xp, x, y: xp.where(x > 0.0, x, y), A, A[::-1]),
    _op("where", "array, Python float", lambda xp, x: xp.where(x > 0.0, x, 0.0), A),
    _op("where", "Python float, array", lambda xp, x: xp.where(x > 0.0, 1.0, x), A),
    _op("where", "0-d int32, Python int", lambda xp, x, i: xp.where(x > 9.0, i[0], 5), SCALAR, I32),
    _op(
        "where", "broadcast", lambda xp, x, y: xp.where(x[:, None] > 0.0, x[:, None], y), A[0], ROW
    ),
    # types
    _op("astype", "bool to float", lambda xp, x, c: xp.astype(c, x.dtype), A, FLAGS),
    _op("astype", "copy=False", lambda xp, x: xp.astype(x, x.dtype, copy=False), A),
    _op("astype", "int32 to float", lambda xp, x, i: xp.astype(i, x.dtype), A, I32),
    _op(
        "result_type", "", lambda xp, x: x[int(xp.result_type(x.dtype, xp.float32) == x.dtype)], ROW
    ),
    _op("isdtype", "", lambda xp, i: i[int(xp.isdtype(i.dtype, "integral"))], I32),
    # reductions and searching
    _op("sum", "all", lambda xp, x: xp.sum(x), A),
    _op("sum", "axis=0", lambda xp, x: xp.sum(x, axis=0), A),
    _op("sum", "axis=-1, keepdims", lambda xp, x: xp.sum(x, axis=-1, keepdims=True), A),
    _op("sum", "axis=(0,)", lambda xp, x: xp.sum(x, axis=(0,)), A),
    _op("mean", "axis=-1, keepdims", lambda xp, x: xp.mean(x, axis=-1, keepdims=True), A),
    _op("mean", "axis=(0,), keepdims", lambda xp, x: xp.mean(x, axis=(0,), keepdims=True), A),
    _op("max", "axis=-1, keepdims", lambda xp, x: xp.max(x, axis=-1, keepdims=True), A),
    _op("max", "axis=0, keepdims", lambda xp, x: xp.max(x, axis=0, keepdims=True), A),
    _op("max", "with infinities", lambda xp, x: xp.max(x, axis=-1, keepdims=True), ENDS),
    _op("argmax", "axis=-1", lambda xp, x: xp.argmax(x, axis=-1), A),
    _op("argmax", "with infinities", lambda xp, x: xp.argmax(x, axis=-1), ENDS),
    _op("argmax", "the first of equals", lambda xp, x: xp.argmax(x, axis=-1), TIES),
    _op("all", "0-d", lambda xp, x: xp.all(xp.isfinite(x)), A),
    _op("linalg.vector_norm", "0-d", lambda xp, x: xp.linalg.vector_norm(x), ROW),
    # shape and order
    _op("reshape", "", lambda xp, x: xp.reshape(x, (2, 6)), A),
    _op("reshape", "(-1,), of a transpose", lambda xp, x: xp.reshape(x.T, (-1,)), A),
    _op("reshape", "of a slice", lambda xp, x: xp.reshape(x[1:5], (2, 2)), np.arange(6.0)),
    _op("concat", "", lambda xp, x, y: xp.concat([x, y]), A[0], ROW),
    _op("stack", "0-d arrays", lambda xp, x: xp.stack([x[0], x[1]]), ROW),
    _op("take", "int32 indices, axis=0", lambda xp, x, i: xp.take(x, i[1:], axis=0), A, I32),
    _op(
        "x.device",
        "is the array's own",
        lambda xp, x: xp.ones((2,), dtype=x.dtype, device=x.device),
        A,
    ),
    _op("x.T", "", lambda xp, x: x.T, A),
    _op("x[i:j]", "", lambda xp, x: x[1:3], ROW),
    _op("x[i:j, ...]", "", lambda xp, x: x[1:3, ...], A),
    _op("x[:, None]", "", lambda xp, x: x[:, None], ROW),
    _op("x[None, :]", "", lambda xp, x: x[None, :], ROW),
    # operators
    _op("@", "", lambda xp, x, y: x @ y, A, B),
    _op("@", "of transposes", lambda xp, x, y: y.T @ x.T, A, B),
    _op("+", "broadcast", lambda xp, x, y: x + y, A, ROW),
    _op("+", "Python float", lambda xp, x: 1.0 + x + 0.5, A),
    _op("-", "broadcast", lambda xp, x, y: x - y[:, None], A, ROW[:3]),
    _op("-", "Python float", lambda xp, x: 1.0 - x - 0.5, A),
    _op("-", "unary", lambda xp, x: -x, A),
    _op("*", "0-d with an array", lambda xp, x, y: x * y, A, SCALAR),
    _op("*", "Python float", lambda xp, x: 2.0 * x * 0.1, A),
    _op("/", "array by 0-d", lambda xp, x, y: x / y, A, SCALAR),
    _op("/", "Python float", lambda xp, x: 1.0 / (x / 3.0), ROW),
    _op("/", "0 by 1", lambda xp, x: (0.0 * x) / 1.0, A),
    _op("+=", "an array just made", lambda xp, x, y: operator.iadd(1.0 * x, y), A, ROW),
    _op("-=", "an array just made", lambda xp, x, y: operator.isub(1.0 * x, y), A, ROW),
    _op("*=", "an array just made", lambda xp, x, y: operator.imul(1.0 * x, y), A, ROW),
    _op("/=", "an array just made", lambda xp, x, y: operator.itruediv(1.0 * x, y), A, ROW),
    _op("+=", "Python float", lambda xp, x: operator.iadd(1.0 * x, 1e-8), A),
    _op("*=", "Python float", lambda xp, x: operator.imul(1.0 * x, 0.9), A),
    _op("*=", "0-d", lambda xp, x, y: operator.imul(1.0 * x, y), A, SCALAR),
    _op(">", "", lambda xp, x: x > 0.0, A),
    _op(">=", "0-d int32", lambda xp, i: i[0] >= 0, I32),
    _op(">=", "int32", lambda xp, i: i >= 2, I32),
    _op("<", "", lambda xp, x: x < 0.5, A),
    _op("<=", "", lambda xp, x: x <= 0.5, A),
    _op("==", "broadcast int32", lambda xp, i: i[:, None] == i[None, :], I32),
    _op("==", "Python float", lambda xp, x: x == 0.0, A),
    _op("!=", "NaN with itself", lambda xp, x: x != x, np.array([1.0, NAN])),
    _op("!=", "int32", lambda xp, i: i != 2, I32),
    _op("&", "bool, 0-d", lambda xp, x: (x > 0.0) & (x < 9.0), SCALAR),
    _op("~", "bool", lambda xp, c: ~c, FLAGS),
    _op("|", "bool, 0-d", lambda xp, x: (x > 0.0) | (x > 9.0), SCALAR),
    # the dropout mask's integers
    _op("*", "int32 wraps around", lambda xp, i: i * 0x7FEB352D, LARGE),
    _op("+", "int32 wraps around", lambda xp, i: i + 0x7FFFFFFF, LARGE),
    _op("^", "int32", lambda xp, i: i ^ -1640531527, LARGE),
    _op(">>", "int32 keeps the sign", lambda xp, i: i >> 16, LARGE),
    _op("&", "int32", lambda xp, i: i & 0xFFFFFF, LARGE),
)

# Names that are not called, but looked up in the namespace.
DTYPES = ("int32", "float32", "float64")
TOLERANCE = {"float32": (1e-5, 1e-6), "float64": (1e-12, 1e-14)}  # relative, absolute


class Check(NamedTuple):
    """One outcome to ask for: ``check(backend)``."""

    function: str
    case: str
    outcome: Callable[[Backend], Row]

    def __call__(self, backend: Backend) -> Row:
        with np.errstate(all="ignore"):
            return self.outcome(backend)

    def __str__(self) -> str:
        return f"{self.function}-{self.case}" if self.case else self.function


def check_operations(backend: Backend, seconds: float = math.inf) -> list[Row]:
    """Ask for each of ``CHECKS`` on ``backend`` and return the outcomes; an error is one of them.

    Those that are left after so many ``seconds`` are not tried, which their outcome says.
    """
    until, rows = time.monotonic() + seconds, []
    for check in CHECKS:
        if time.monotonic() < until:
            rows.append(check(backend))
        else:
            why = f"not tried: {seconds:g} seconds are over"
            rows.append(Row(check.function, check.case, "note", why))
    return rows


def _dtype(backend: Backend, name: str) -> Row:
    found = hasattr(backend.xp, name)
    optional = name == "float64"
    status = "ok" if found else "note" if optional else "missing"
    return Row(name, "dtype", status, "" if found else "no such dtype")


def _namespace(backend: Backend) -> Row:
    name, case = "__array_namespace__", "of an array just placed"
    try:
        x = backend.asarray(A)
    except Exception as error:  # a library under test may raise anything
        return Row(name, case, "raises", said(error))
    try:
        found = array_namespace(x)
    except Exception:
        return Row(name, case, "raises", _own_words(x))
    if found is backend.xp:
        return Row(name, case, "ok")
    detail = f"it returns {getattr(found, '__name__', found)}; the formulas run on this one"
    return Row(name, case, "note", detail)


def _own_words(x: Any) -> str:
    """What the array says when it is asked for its namespace."""
    try:
        return f"{x.__array_namespace__()!r} is no namespace"
    except Exception as error:  # a library under test may raise anything
        return said(error)


def _check(backend: Backend, operation: Operation) -> Row:
    function, case, call, operands = operation
    if not _has(backend.xp, function):
        if function.startswith("linalg."):  # which training can do without
            return Row(
                function,
                case,
                "note",
                "an extension of the standard that the library does not have",
            )
        return Row(function, case, "missing", "not in the namespace")
    try:
        placed = [backend.asarray(np.array(x)) for x in operands]
        before = [backend.to_host(x) for x in placed]
        result = backend.bound(call)(backend.xp, *placed)
        actual = np.asarray(backend.to_host(result))
        after = [backend.to_host(x) for x in placed]
    except Exception as error:  # a library under test may raise anything
        return Row(function, case, "raises", said(error))
    for x, y in zip(before, after, strict=True):
        if not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
            return Row(function, case, WRITES, f"{x.tolist()} became {y.tolist()}")
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in before]
    expected = np.asarray(call(reference(), *wide))
    status, detail = _judge(actual, expected, backend.dtype_name)
    return Row(function, case, status, detail)


def reference() -> Any:
    """Return the namespace that says what is right: NumPy's."""
    return get_backend("numpy").xp


def _judge(actual: np.ndarray, expected: np.ndarray, dtype: str) -> tuple[str, str]:
    if actual.shape != expected.shape:
        return "wrong shape", f"{actual.shape}, not {expected.shape}"
    kinds = {"f": dtype, "b": "bool", "i": expected.dtype.name}
    name = kinds[expected.dtype.kind]
    # The standard leaves the dtype of an index open.
    is_index = expected.dtype == np.int64
    names = INDEX if is_index else (name,)
    if actual.dtype.name not in names:
        return "wrong dtype", f"{actual.dtype.name}, not {' or '.join(names)}"
    relative, absolute = TOLERANCE[dtype]
    close = np.isclose(actual, expected, relative, absolute, equal_nan=True)
    if close.all():
        return "ok", ""
    at = tuple(int(i) for i in np.unravel_index(int((~close).argmax()), close.shape))
    return "wrong value", f"{list(at)} is {actual[at]:.9g}, not {expected[at]:.9g}"


def _has(xp: Any, function: str) -> bool:
    """Whether the namespace has the function; operators and attributes are simply tried."""
    if not function.replace(".", "").replace("_", "").isalnum() or function[:2] == "x.":
        return True
    for name in function.split("."):
        if not hasattr(xp, name):
            return False
        xp = getattr(xp, name)
    return True


def said(error: BaseException) -> str:
    """Return what a library under test said when it raised, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


CHECKS: tuple[Check, ...] = (
    Check("__array_namespace__", "of an array just placed", _namespace),
    *(Check(name, "dtype", partial(_dtype, name=name)) for name in DTYPES),
    *(Check(o.function, o.case, partial(_check, operation=o)) for o in OPERATIONS),
)
