"""What is wrong with a library, each distinct cause once, as text that its authors can use.

A library without a ``device`` keyword fails in every function that makes an array; that is one
cause. Each comes with the operations that it stops, a program of a few lines that shows it with the
library alone, and the page of the standard that says what is right.
"""

import ast
import functools
import inspect
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from xpnet.check.parity import operations
from xpnet.check.parity.operations import INDEX, OPERATIONS, WRITES, Operation, Row

__all__ = ["Cause", "causes", "issue", "page", "reproduction"]

STANDARD = "https://data-apis.org/array-api/latest/API_specification"
METHODS = {
    **{"x.device": "device", "x.T": "T", "x[i:j]": "__getitem__", "x[i:j, ...]": "__getitem__"},
    **{"x[:, None]": "__getitem__", "x[None, :]": "__getitem__", "@": "__matmul__"},
    **{"+": "__add__", "-": "__sub__", "*": "__mul__", "/": "__truediv__"},
    **{"+=": "__add__", "-=": "__sub__", "*=": "__mul__", "/=": "__truediv__"},
    **{">": "__gt__", ">=": "__ge__", "<": "__lt__", "<=": "__le__", "==": "__eq__"},
    **{"!=": "__ne__", "&": "__and__", "|": "__or__", "^": "__xor__", "~": "__invert__"},
    ">>": "__rshift__",
}
NO_DEVICE = "device=None"


class Cause(NamedTuple):
    """One thing that is wrong, and the calls that it makes fail."""

    status: str
    detail: str
    rows: tuple[Row, ...]

    @property
    def functions(self) -> list[str]:
        """The functions and operators that it stops, each once."""
        return list(dict.fromkeys(row.function for row in self.rows))

    def __str__(self) -> str:
        where = ", ".join(self.functions)
        text = f"{where}: {self.status}"
        return f"{text}: {self.detail}" if self.detail and self.status != "missing" else text


def causes(rows: Iterable[Row]) -> list[Cause]:
    """Group the outcomes that are wrong by what they have in common."""
    bad = [row for row in rows if row.bad]
    others = {_key(row) for row in bad if row.case != NO_DEVICE}
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in bad:
        # What each function that makes arrays says of the keyword is one cause.
        lone = row.case == NO_DEVICE and row.status == "raises" and _key(row) not in others
        found.setdefault((NO_DEVICE,) if lone else _key(row), []).append(row)
    made = [Cause(some[0].status, some[0].detail, tuple(some)) for some in found.values()]
    return sorted(made, key=lambda cause: -len(cause.rows))


def _key(row: Row) -> tuple[str, ...]:
    if row.status != "raises":
        return row.function, row.status, row.detail if row.status == "wrong dtype" else ""
    # The same complaint of another function, or about another number, is the same.
    text = re.sub(r"[\w.]+\(\)", "f()", row.detail)
    text = re.sub(r"[\d.]+", "#", re.sub(r"'[\w.]*array[\w.]*'|dtype\([^)]*\)", "'...'", text))
    lone = row.function if "unexpected keyword" not in text and "(" in text[:60] else ""
    return "raises", lone, text[:90]


@functools.cache
def _sources() -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    """The body of each operation's call, and its arguments, as they are written."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(operations))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_op":
            function, case, call = node.args[:3]
            assert isinstance(function, ast.Constant)
            assert isinstance(case, ast.Constant)
            assert isinstance(call, ast.Lambda)
            names = tuple(argument.arg for argument in call.args.args[1:])
            found[str(function.value), str(case.value)] = ast.unparse(call.body), names
    return found


def reproduction(row: Row, module: str, dtype: str, computes: str = "") -> str:
    """Return a program that shows an outcome with the library ``module`` alone.

    ``computes`` names the method that gives the numbers of a lazy library's array.
    """
    operation = next(
        (o for o in OPERATIONS if (o.function, o.case) == (row.function, row.case)), None
    )
    package, _, attribute = module.partition(":")
    named = f"from {package} import {attribute} as xp" if attribute else f"import {package} as xp"
    if row.function == "__array_namespace__":  # which arrays have, not the namespace
        return f"{named}\n\nprint(xp.asarray([1.0]).__array_namespace__())"
    if operation is None:
        return f"{named}\n\nprint(xp.{row.function})"
    body, names = _sources()[row.function, row.case]
    body = re.sub(r"\*\*_like\((\w)\)", r"dtype=\1.dtype, device=\1.device", body)
    body = re.sub(r"device\((\w)\)", r"\1.device", body)
    made = [
        f"{name} = xp.asarray({_written(operand)}, dtype=xp.{_dtype(operand, dtype)})"
        for name, operand in zip(names, operation.operands, strict=True)
    ]
    shown = [f"result = {body}", f"print(result.{computes}())"] if computes else [f"print({body})"]
    if row.status == WRITES:
        shown = [body, f"print({', '.join(names)})"]
    lines = [named, "", *made, *shown]
    text = "\n".join(lines)
    imports = ["from math import inf, nan"] if re.search(r"\b(inf|nan)\b", text) else []
    imports += ["import operator"] if "operator." in text else []
    return "\n".join([*imports, text])


def _written(operand: np.ndarray) -> str:
    return str(operand.tolist())


def _dtype(operand: np.ndarray, dtype: str) -> str:
    return {"f": dtype, "b": "bool"}.get(operand.dtype.kind, operand.dtype.name)


def page(function: str) -> str:
    """Return the address of the standard's page on a function, an operator or a dtype."""
    if function == "__array_namespace__" or function in METHODS:
        method = METHODS.get(function, function)
        return f"{STANDARD}/generated/array_api.array.{method}.html"
    if function in ("int32", "float32", "float64"):
        return f"{STANDARD}/data_types.html"
    if function.startswith("linalg."):
        return f"{STANDARD}/extensions/generated/array_api.{function}.html"
    return f"{STANDARD}/generated/array_api.{function}.html"


def issue(cause: Cause, module: str, version: str, dtype: str, computes: str = "") -> str:
    """Return the text of an issue for the library's tracker, in Markdown."""
    row = cause.rows[0]
    expected = _expected(row, dtype)
    lines = [
        f"### {cause.functions[0]}: {cause.status}",
        "",
        f"{module} {version}, {row.function} ({row.case or 'as below'}).",
        "",
        "```python",
        reproduction(row, module, dtype, computes),
        "```",
        "",
        f"Got: {row.detail or row.status}",
        *([f"Expected: {expected}"] if expected else []),
        f"The standard: {page(row.function)}",
    ]
    if len(cause.rows) > 1:
        others = dict.fromkeys(f"{r.function} ({r.case})" for r in cause.rows[1:])
        lines += ["", f"The same stops {', '.join(others)}."]
    return "\n".join(lines) + "\n"


def _expected(row: Row, dtype: str) -> str:
    operation: Operation | None = next(
        (o for o in OPERATIONS if (o.function, o.case) == (row.function, row.case)), None
    )
    if operation is None:
        return ""
    if row.status == WRITES:
        return "the operands as they were"
    with np.errstate(all="ignore"):
        value = np.asarray(operation.call(operations.reference(), *operation.operands))
    named = {"f": dtype, "b": "bool"}.get(value.dtype.kind, value.dtype.name)
    return f"{value.tolist()}, {' or '.join(INDEX) if named == 'int64' else named}"
