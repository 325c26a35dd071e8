"""Imports point one way: which room of the package may import which, read from the source.

A room is a folder of xpnet; the modules at the top are the room "base". A room may import the rooms
on its line in ``MAY_IMPORT`` and all that those may import. Imports inside functions count; those
for type checkers alone do not.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

import xpnet

ROOT = Path(xpnet.__file__).parent

# room -> the rooms it imports beside all that those import
MAY_IMPORT = {
    "base": "",
    "ops": "base",
    "nn": "ops",
    "optim": "base",
    "parallel": "base",
    "step": "nn optim parallel",
    "kernels": "step",
    "backends": "base",
    "data": "parallel",
    "storage": "base",
    "page": "base",
    "report": "page",
    "training": "kernels backends data storage",
    "tracking": "report training",
    "run": "tracking",
    "check": "run",
    "explanation": "check",
    "bench": "run sklearn",
    "interop": "run",
    "search": "run",
    "sklearn": "training",
    "cli": "explanation bench interop search",
    "examples": "data",
}
BASE = (
    "cache",
    "elementwise",
    "errors",
    "escape",
    "prefetch",
    "random",
    "registry",
    "settings",
    "split_vector",
    "typing",
)
# The package itself names the others, at their first use; `python -m xpnet` is the command line.
FRONT = ("xpnet", "__main__")

# what is not in the standard library -> the rooms that import it
MAY_USE = {
    "PIL": "data page",
    "IPython": "tracking",
    "numpy": (
        "backends base bench check data explanation interop kernels page "
        "parallel report run search sklearn storage training"
    ),
    "array_api_compat": (
        "backends base check data examples explanation nn ops optim parallel run sklearn "
        "step training"
    ),
    "array_api_strict": "backends",
    "cupy": "backends kernels parallel",
    "cupyx": "backends kernels",
    "cuda": "kernels",
    "mpi4py": "parallel",
    "jax": "backends bench check",
    "keras": "bench",
    "lazy_loader": "xpnet",
    "llvmlite": "kernels",
    "numba": "kernels",
    "ndonnx": "interop",
    "onnx": "bench interop",
    "onnxruntime": "bench interop",
    "optax": "bench",
    "scipy": "sklearn",
    "sklearn": "bench sklearn",
    "spox": "interop",
    "torch": "backends bench check interop",
    "click": "cli",
    "jinja2": "page",
    "markupsafe": "explanation page report tracking",
    "matplotlib": "bench report",
    "platformdirs": "base",
    "mlflow": "tracking",
    "optuna": "search",
    "pooch": "data",
    "pyarrow": "cli data",
    "pytest": "check",
    "rich": "cli explanation training",
    "safetensors": "interop storage",
    "threadpoolctl": "backends",
    "tensorboard": "run tracking",
    "tomli_w": "run",
}

# These take long to import, or need not be there: they are imported inside functions only. Numba
# decorates, so its modules import it at once, and are themselves imported inside functions.
LAZY = {
    *("PIL", "jinja2", "markupsafe"),
    *(
        "IPython",
        "array_api_strict",
        "cupy",
        "cupyx",
        "cuda",
        "jax",
        "llvmlite",
        "matplotlib",
        "numba",
    ),
    *(
        "jinja2",
        "keras",
        "markupsafe",
        "ndonnx",
        "onnx",
        "onnxruntime",
        "optax",
        "optuna",
        "platformdirs",
        "pooch",
        "pyarrow",
    ),
    *("mlflow", "mpi4py", "rich", "scipy", "sklearn", "tensorboard", "threadpoolctl", "torch"),
}
COMPILED = "xpnet.kernels.cpu"
# Estimators inherit from those of scikit-learn: who imports this room has asked for it.
ESTIMATORS = "xpnet.sklearn"


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(("xpnet", *parts)).removesuffix(".__init__"), path


def room_of(module):
    """The room that a module of xpnet belongs to."""
    name = [*module.split("."), "xpnet"][1] if module != "xpnet" else "xpnet"
    return "base" if name in BASE else name


def statements(tree):
    """The nodes of a module, but not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def imported(node, known):
    """The modules that one node imports, also by ``import_module`` and ``require``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "absolute imports only"
        full = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in known else node.module for name in full]
    if isinstance(node, ast.Call) and node.args:
        called = ast.unparse(node.func).rpartition(".")[2]
        name = node.args[0]
        if called in ("import_module", "require") and isinstance(name, ast.Constant):
            return [name.value]
    return []


def read(path, known):
    tree = ast.parse(path.read_text("utf-8"))
    return {name for node in statements(tree) for name in imported(node, known)}


def edges():
    """(module, what it imports) for every module of the package."""
    known = dict(modules())
    return {(module, name) for module, path in known.items() for name in read(path, known)}


EDGES = edges()
ROOMS = {room_of(module) for module, _ in modules()} - set(FRONT)
INSIDE = {
    (room_of(a), room_of(b))
    for a, b in EDGES
    if b.partition(".")[0] == "xpnet" and room_of(a) != room_of(b) and b != "xpnet"
}
OUTSIDE = {
    (room_of(a), b.partition(".")[0])
    for a, b in EDGES
    if b.partition(".")[0] not in {"xpnet", *sys.stdlib_module_names}
}


def reach(room):
    """The rooms below a room."""
    direct = MAY_IMPORT[room].split()
    return {*direct}.union(*map(reach, direct))


def test_the_documentation_prints_this_map():
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    lines = re.findall(r"(?m)^([a-z]+) {2,}\S.* -> (.+)$", page)
    assert {room: below.replace("nothing", "") for room, below in lines} == MAY_IMPORT


def test_every_folder_is_a_room_of_the_map():
    assert set(MAY_IMPORT) == ROOMS


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_rooms_below_it(room):
    found = {b for a, b in INSIDE if a == room}
    assert found <= reach(room), f"{room} may not import {sorted(found - reach(room))}"


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_the_map_has_no_arrow_that_is_not_there(room):
    direct = set(MAY_IMPORT[room].split())
    unused = direct - {b for a, b in INSIDE if a == room}
    assert not unused, f"{room} does not import {sorted(unused)}: take it off its line"
    implied = {b for a in direct for b in reach(a)}
    assert not direct & implied, f"{room} may import {sorted(direct & implied)} as it is"


def test_only_the_command_line_and_the_examples_ask_for_the_package_itself():
    assert {room_of(a) for a, b in EDGES if b == "xpnet"} <= {"cli", "examples", *FRONT}


def test_softmax_by_hand_borrows_nothing_from_the_library():
    by_hand = {b for a, b in EDGES if a == "xpnet.examples.softmax_by_hand"}
    assert not {name for name in by_hand if name.partition(".")[0] == "xpnet"}


@pytest.mark.parametrize("library", sorted({b for _, b in OUTSIDE} | set(MAY_USE)))
def test_a_library_is_used_where_it_may(library):
    found = {a for a, b in OUTSIDE if b == library}
    assert found == set(MAY_USE.get(library, "").split())


def test_the_mathematics_names_no_array_library():
    portable = {"ops", "nn", "optim", "step"}
    assert {b for a, b in OUTSIDE if a in portable} == {"array_api_compat"}


def imported_at_once(path, known):
    body = ast.parse(path.read_text("utf-8")).body
    return {name for node in body for name in imported(node, known)}


@pytest.mark.parametrize("module", [module for module, _ in modules()])
def test_a_module_loads_nothing_heavy_when_it_is_imported(module):
    known = dict(modules())
    found = imported_at_once(known[module], known)
    if not module.startswith((COMPILED, ESTIMATORS)):
        assert not {name.partition(".")[0] for name in found} & LAZY
        assert not {name for name in found if name.startswith((COMPILED, ESTIMATORS))}


def test_modules_do_not_import_each_other_in_a_circle():
    known = dict(modules())
    graph = {module: imported_at_once(path, known) - {module} for module, path in known.items()}
    while graph:
        free = {module for module, names in graph.items() if not names & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {module: names for module, names in graph.items() if module not in free}
