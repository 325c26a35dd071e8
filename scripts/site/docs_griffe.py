"""Hands the docstrings of xpnet to the site's builder as Markdown with formulas."""

import ast
from pathlib import Path
from typing import Any

import griffe
from docs_formulas import to_markdown

ROOT = Path(__file__).resolve().parents[2]


def public_names() -> dict[str, str]:
    """Return the public names of xpnet with the modules that they are from, such as ``nn``.

    They are those of ``__init__.pyi``, in its order, without what is no object to describe.
    """
    tree = ast.parse((ROOT / "xpnet/__init__.pyi").read_text("utf-8"))
    return {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def formulas() -> dict[str, str]:
    """Return the functions of ``xpnet.ops`` with their full names."""
    return {
        node.name: f"xpnet.ops.{path.stem}.{node.name}"
        for path in sorted((ROOT / "xpnet/ops").glob("[a-z]*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


PUBLIC = public_names()
OPS = formulas()


def link(name: str) -> str:
    """Return a link to the description of a name, or the name where there is none."""
    first, _, member = name.removeprefix("xpnet.").partition(".")
    if first in PUBLIC and (not member or member.islower()):
        return f"[`{name.removeprefix('xpnet.')}`][xpnet.{first}]"
    last = name.rpartition(".")[2]
    if name in (last, f"xpnet.ops.{last}", OPS.get(last)) and last in OPS:
        return f"[`{last}`][{OPS[last]}]"
    return f"`{name}`"


class Formulas(griffe.Extension):
    """Converts each docstring, once it is read, and knows that ``register`` makes dataclasses."""

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if any(str(one.value).startswith("register(") for one in cls.decorators):
            name = griffe.ExprName("dataclasses.dataclass")
            cls.decorators.append(griffe.Decorator(name, lineno=None, endlineno=None))

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            inside = obj.parameters if isinstance(obj, griffe.Function) else obj.members
            names = [one.name for one in inside] if obj.is_function else list(inside)
            long = {name for name in names if len(name) > 1}
            obj.docstring.value = to_markdown(obj.docstring.value, long, link)
