"""The source code of the functions that run, so that what is shown is always what is executed."""

import ast
import contextlib
import inspect
import textwrap
from collections.abc import Callable, Iterator

from xpnet.explanation.model import Code

__all__ = ["IN_CODE", "code_of", "formula_code"]

IN_CODE = "The class gives no formula in index letters: it is the code that is shown."


def code_of(function: Callable, *targets: str) -> Code:
    """Return the statements of a function, without its docstring and its choice of namespace.

    With ``targets``, return only the statements that assign one of these names ("return" for return
    statements), also those inside ``if``.

    >>> from xpnet.ops.dense import dense_backward
    >>> code_of(dense_backward, "dW").text
    'dW = x.T @ dz  # (I, J)'
    """
    lines, first = inspect.getsourcelines(function)
    text = textwrap.dedent("".join(lines))
    body = ast.parse(text).body[0]
    rows = text.splitlines()
    kept: list[str] = []
    begin = 0
    for statement in _statements(body, targets):
        begin = begin or statement.lineno
        kept += rows[statement.lineno - 1 : statement.end_lineno]
    module = inspect.getmodule(function)
    path = (module.__name__ if module else "").replace(".", "/") + ".py"
    if inspect.getsourcefile(function).endswith("__init__.py"):  # type: ignore[union-attr]
        path = path.removesuffix(".py") + "/__init__.py"
    name = function.__qualname__
    return Code(name, path, first + begin - 1, textwrap.dedent("\n".join(kept)))


def formula_code(cls: type, *methods: str) -> Code:
    """Return the code of the first method that ``cls`` has, or of the function that it calls.

    The latter where the call is all that the method does.

    >>> from xpnet.nn import LeakyReLU
    >>> formula_code(LeakyReLU, "value").function
    'leaky_relu'
    """
    function = next(getattr(cls, method) for method in methods if hasattr(cls, method))
    (statement, *others) = _statements(_tree(function), ())
    call = statement.value if isinstance(statement, ast.Return) else None
    if isinstance(call, ast.Call) and not others:
        with contextlib.suppress(NameError, AttributeError):
            called = eval(ast.unparse(call.func), function.__globals__)
            function = called if inspect.isfunction(called) else function
    return code_of(function)


def _tree(function: Callable) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]


def _statements(function: ast.stmt, targets: tuple[str, ...]) -> Iterator[ast.stmt]:
    if not targets:
        skipped = 1 if ast.get_docstring(function) else 0  # type: ignore[arg-type]
        for statement in function.body[skipped:]:  # type: ignore[attr-defined]
            if "array_namespace" not in ast.dump(statement):
                yield statement
        return
    for node in ast.walk(function):
        names = [n.id for n in getattr(node, "targets", []) if isinstance(n, ast.Name)]
        if isinstance(node, ast.Return):
            names = ["return"]
        if isinstance(node, ast.stmt) and any(name in targets for name in names):
            yield node
