"""The names of `import xpnet`: what exists, what type checkers see, and what the modules define."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import xpnet
from xpnet import ops


@pytest.mark.parametrize("name", xpnet.__all__)
def test_a_public_name_can_be_imported(name):
    assert getattr(xpnet, name) is not None


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(xpnet.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.module: {a.name for a in node.names} for node in block.body}
    assert seen == {module: set(names) for module, names in xpnet._PUBLIC.items()}


def test_every_public_name_is_in_its_modules_all():
    for module, names in xpnet._PUBLIC.items():
        assert set(names) <= set(importlib.import_module(module).__all__), module


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Dens'"):
        xpnet.Dens  # noqa: B018


def modules_of_ops():
    names = (m.name for m in pkgutil.iter_modules(ops.__path__, "xpnet.ops."))
    return [importlib.import_module(name) for name in names]


def test_ops_exports_every_formula_of_its_modules_once():
    names = [name for module in modules_of_ops() for name in module.__all__]
    assert ops.__all__ == sorted(names)
    assert len(names) == len(set(names))
    for module in modules_of_ops():
        for name in module.__all__:
            assert getattr(ops, name) is getattr(module, name)


def test_a_function_with_the_name_of_its_module_is_the_function():
    from xpnet.ops import cross_entropy, dense, dropout, softmax

    assert all(map(inspect.isfunction, (cross_entropy, dense, dropout, softmax)))
    importlib.import_module("xpnet.ops.softmax")
    assert ops.softmax is softmax
