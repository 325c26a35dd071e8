"""The names of `import xpnet`: one list, which the package, type checkers and the modules share."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import xpnet
from xpnet import ops

ROOT = Path(xpnet.__file__).parent


def listed():
    """(module, name, name it is imported as) of each name in the stub."""
    tree = ast.parse((ROOT / "__init__.pyi").read_text("ascii"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"xpnet.{node.module or ''}".rstrip("."), alias.name, alias.asname


LISTED = list(listed())
MODULES = {"ops", "schedules"}


@pytest.mark.parametrize("name", xpnet.__all__)
def test_a_public_name_can_be_imported(name):
    assert getattr(xpnet, name) is not None
    assert name in dir(xpnet)


def test_the_package_has_the_names_of_the_stub_and_its_version():
    names = [name for _, name, _ in LISTED]
    assert xpnet.__all__ == sorted([*names, "__version__"])
    assert dir(xpnet) == xpnet.__all__
    assert len(names) == len(set(names))
    assert all(name == exported for _, name, exported in LISTED)  # `as`: the stub exports it


@pytest.mark.parametrize(("module", "name"), [pair for *pair, _ in LISTED])
def test_a_public_name_is_in_the_all_of_its_module(module, name):
    if name in MODULES:
        assert inspect.ismodule(getattr(xpnet, name))
        return
    home = importlib.import_module(module)
    assert name in home.__all__
    assert getattr(xpnet, name) is getattr(home, name)


def test_schedules_is_a_module_whose_constant_is_not_the_initialiser():
    assert xpnet.schedules.Constant is not xpnet.Constant


def test_the_functions_are_not_their_modules():
    for name in ("explain", "gradcheck", "load", "parity", "train"):
        assert inspect.isfunction(getattr(xpnet, name)), name


def test_a_submodule_that_loads_first_hides_no_public_name():
    program = "import xpnet.check.gradcheck, xpnet.check.parity, xpnet.optim.schedules, xpnet; "
    program += "from xpnet import *; print(*(type(f).__name__ for f in (gradcheck, parity, ops)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["function", "function", "module"], done.stderr


def test_an_unknown_name_is_an_attribute_error():
    expected = r"^module 'xpnet' has no attribute 'Dens'; did you mean 'Dense'\?$"
    with pytest.raises(AttributeError, match=expected):
        xpnet.Dens  # noqa: B018
    with pytest.raises(AttributeError, match=r"^module 'xpnet' has no attribute '__path_to__'$"):
        xpnet.__path_to__  # noqa: B018
    assert not hasattr(xpnet, "load_run")


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
