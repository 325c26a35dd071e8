"""The names of `import xpnet`: what exists, what type checkers see, and what the modules define."""

import ast
import importlib
from pathlib import Path

import pytest

import xpnet


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
