"""Imports only point upwards: which part of the package may import which, read from the source.

A part is a module of xpnet, or one of its packages with all that is in it. A new one is one line in
``MAY_IMPORT``, below everything that it imports. Imports inside functions count; those for type
checkers alone do not.
"""

import ast
import sys
from pathlib import Path

import pytest

import xpnet

ROOT = Path(xpnet.__file__).parent

# part -> the parts it imports, all of them above it; "*" may import any part above it
MAY_IMPORT = {
    "errors": "",
    "regular": "",
    "signals": "",
    "steady": "",
    "text": "",
    "typing": "",
    "random": "",
    "moments": "",
    "metrics": "moments",
    "schema": "errors",
    # the mathematics
    "ops": "typing",
    "initializers": "errors schema typing",
    "layers": "errors initializers ops schema typing",
    "losses": "errors ops schema typing",
    "optimizers": "errors schema typing",
    "schedules": "schema",
    "clipping": "schema typing",
    "params": "errors layers random typing",
    "step": "clipping layers losses optimizers params random typing",
    "accumulate": "losses step typing",
    "mixed": "clipping losses optimizers schema step typing",
    "diagnose": "layers losses step typing",
    # the libraries
    "kernels": "clipping errors layers losses mixed ops optimizers params step typing",
    "backends": "errors kernels schema typing",
    # training
    "data": "errors moments random schema typing",
    "checkpoint": "errors regular",
    "engine": "accumulate backends clipping diagnose errors layers losses mixed optimizers params "
    "step typing",
    "feed": "backends data errors step typing",
    "memory": "backends errors layers optimizers params",
    "callbacks": "checkpoint errors signals",
    "resume": "errors schedules",
    "trainer": "backends callbacks clipping data engine errors feed layers losses memory mixed "
    "optimizers resume schedules schema step",
    # a run
    "config": "clipping data errors initializers layers losses mixed optimizers regular "
    "schedules schema",
    "progress": "callbacks",
    "run": "*",
    # the tools
    "trial": "*",
    "gradcheck": "*",
    "parity": "*",
    "explain": "*",
    "interop": "*",
    "bench": "*",
    # the ways in
    "commands": "*",
    "cli": "* xpnet",
    "__main__": "cli",
    "xpnet": "schedules",  # the public names are imported at their first use
}

# what is not in the standard library -> the parts that may import it
MAY_USE = {
    "numpy": "random moments metrics kernels backends data checkpoint engine feed trainer run "
    "trial gradcheck parity explain interop bench",
    "array_api_compat": "ops initializers layers losses optimizers clipping params step mixed "
    "diagnose backends engine parity explain",
    "array_api_strict": "backends",
    "cupy": "backends kernels",
    "cupyx": "kernels",
    "cuda": "kernels",
    "jax": "backends interop",
    "llvmlite": "kernels",
    "numba": "kernels",
    "optax": "interop",
    "sklearn": "interop",
    "torch": "backends interop",
    "click": "commands cli",
    "matplotlib": "bench",
    "pooch": "data",
    "pyarrow": "data",
    "rich": "commands explain progress",
    "safetensors": "checkpoint",
    "tomli_w": "config",
}

# These take long to import, or need not be there: they are imported inside functions only. Numba
# decorates, so its modules import it at once, and are themselves imported inside functions.
LAZY = {
    *("array_api_strict", "cupy", "cupyx", "cuda", "jax", "llvmlite", "matplotlib", "numba"),
    *("optax", "pooch", "pyarrow", "rich", "sklearn", "torch"),
}
COMPILED = "xpnet.kernels.cpu"


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(("xpnet", *parts)).removesuffix(".__init__"), path


def part_of(module):
    """The part that a module of xpnet belongs to."""
    return [*module.split("."), "xpnet"][1] if module != "xpnet" else "xpnet"


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
PARTS = {part_of(module) for module, _ in modules()}
INSIDE = {
    (part_of(a), part_of(b))
    for a, b in EDGES
    if b.partition(".")[0] == "xpnet" and part_of(a) != part_of(b)
}
OUTSIDE = {
    (part_of(a), b.partition(".")[0])
    for a, b in EDGES
    if b.partition(".")[0] not in {"xpnet", *sys.stdlib_module_names}
}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_imports_what_it_may(part):
    assert part in MAY_IMPORT, f"{part} is new: give it a line in MAY_IMPORT"
    allowed = set(MAY_IMPORT[part].split())
    if "*" in allowed:
        names = list(MAY_IMPORT)
        allowed |= set(names[: names.index(part)])
    found = {b for a, b in INSIDE if a == part}
    assert found <= allowed, f"{part} may not import {sorted(found - allowed)}"


@pytest.mark.parametrize("part", [p for p, names in MAY_IMPORT.items() if "*" not in names])
def test_a_part_may_import_no_more_than_it_does(part):
    unused = set(MAY_IMPORT[part].split()) - {b for a, b in INSIDE if a == part}
    assert not unused, f"{part} does not import {sorted(unused)}: take it off the line"


def test_imports_only_point_upwards():
    names = list(MAY_IMPORT)
    for i, part in enumerate(names):
        below = set(MAY_IMPORT[part].split()) - {"*"} - set(names[:i])
        assert below <= {"xpnet"}, part  # the version, which the command line prints


@pytest.mark.parametrize("library", sorted({b for _, b in OUTSIDE} | set(MAY_USE)))
def test_a_library_is_used_where_it_may(library):
    found = {a for a, b in OUTSIDE if b == library}
    assert found == set(MAY_USE.get(library, "").split())


def test_the_mathematics_names_no_array_library():
    portable = "ops layers losses optimizers schedules clipping params step accumulate mixed"
    assert not {(a, b) for a, b in OUTSIDE if a in portable.split()} - {
        (part, "array_api_compat") for part in portable.split()
    }


def imported_at_once(path, known):
    body = ast.parse(path.read_text("utf-8")).body
    return {name for node in body for name in imported(node, known)}


@pytest.mark.parametrize("module", [module for module, _ in modules()])
def test_a_module_loads_nothing_heavy_when_it_is_imported(module):
    known = dict(modules())
    found = imported_at_once(known[module], known)
    if not module.startswith(COMPILED):
        assert not {name.partition(".")[0] for name in found} & LAZY
        assert not {name for name in found if name.startswith(COMPILED)}


def test_modules_do_not_import_each_other_in_a_circle():
    known = dict(modules())
    graph = {module: imported_at_once(path, known) - {module} for module, path in known.items()}
    while graph:
        free = {module for module, names in graph.items() if not names & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {module: names for module, names in graph.items() if module not in free}
