"""CONTRIBUTING.md is true: its lists are the files that name an item of the kind."""

import re
from pathlib import Path

import pytest

import xpnet
from xpnet.cli.main import COMMANDS
from xpnet.nn import LAYERS
from xpnet.nn.initializers import INITIALIZERS
from xpnet.nn.losses import LOSSES
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.optim.schedules import SCHEDULES

ROOT = Path(__file__).parents[1]
if not (ROOT / "xpnet").is_dir():
    pytest.skip("the source of xpnet is not beside the tests", allow_module_level=True)

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
RECIPES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))

# Heading of a recipe -> how a file names its model, and how a row in a table of the tests begins.
MODELS = {
    "An activation, such as SiLU": (r"\b(SiLU|SILU|silu(_backward)?)\b", r'("silu"|SiLU)[:(]'),
    "A loss, such as Huber": (r"\b(Huber|HUBER|huber(_backward)?)\b", r'("huber"|Huber)[:(]'),
    "An update rule, such as Lion": (r"\b(Lion|lion)\b", r'("lion"|Lion)[:(]'),
    "A schedule, such as OneCycle": (r"\b(OneCycle|one_cycle)\b", r'("one_cycle"|OneCycle)[:(]'),
    "An initializer, such as LeCunNormal": (
        r"\b(LeCunNormal|lecun_normal)\b",
        r'("lecun_normal"|LeCunNormal)[:(]',
    ),
    "A backend, such as array-api-strict": (
        r"\b(array[-_]api[-_]strict|StrictBackend)\b",
        r'"array[-_]api[-_]strict":',
    ),
    "A table format, such as ARFF": (r"(?i:arff)", r'"a\.arff":'),
    "A command, such as init": (r'xpnet init\b|xpnet\("init"|"init": "[Ww]rite', r'\("init"'),
}

LISTS = ("xpnet/docs/backends.md", "xpnet/docs/data.md")  # of the backends, of the formats


def texts(*places):
    """(path from the root, text) of every file of the project in these places."""
    for place in places:
        start = ROOT / place
        for path in sorted(start.rglob("*") if start.is_dir() else [start]):
            name = path.relative_to(ROOT)
            # Kernels are compiled from the formulas; a recipe names what it uses, as a config does,
            # and so does a page, but for those that list what there is.
            left_out = {"__pycache__", "kernels", "recipes", "docs"} & {*name.parts}
            left_out = left_out and name.as_posix() not in LISTS
            if path.is_file() and not left_out and path.suffix != ".npz":
                yield name.as_posix(), path.read_text("utf-8")


SOURCE = dict(texts("xpnet", "docker", ".ci/run", "README.md", "pyproject.toml"))
TESTS = {name: text for name, text in texts("tests") if name != "tests/test_contributing.py"}


def paths(text):
    """The paths that a text names, in backquotes."""
    return set(re.findall(r"`((?:xpnet|tests|docker|\.ci)/[^` *]+|[\w.]+\.(?:md|toml))`", text))


def bullets(kind):
    """The list of a recipe, without what is said before it."""
    return RECIPES[kind][RECIPES[kind].index("\n- ") :]


def test_every_recipe_has_a_model():
    assert set(RECIPES) == set(MODELS)


@pytest.mark.parametrize("kind", MODELS)
def test_a_recipe_lists_every_file_that_names_its_model(kind):
    listed = {path for path in paths(bullets(kind)) if not path.startswith("tests/")}
    naming = {name for name, text in SOURCE.items() if re.search(MODELS[kind][0], text)}
    assert listed == naming


@pytest.mark.parametrize("kind", MODELS)
def test_a_recipe_lists_every_test_that_has_a_row_for_its_model(kind):
    name, row = MODELS[kind]
    listed = {path for path in paths(bullets(kind)) if path.startswith("tests/")}
    naming = {path for path, text in TESTS.items() if re.search(name, text)}
    rows = {path for path, text in TESTS.items() if re.search(rf"(?m)^\s+{row}", text)}
    assert rows <= listed <= naming
    assert listed


@pytest.mark.parametrize("path", sorted(paths(PAGE)))
def test_a_path_of_the_page_exists(path):
    assert (ROOT / path).exists()


def test_what_the_recipes_call_public_is_public():
    tables = LAYERS, LOSSES, OPTIMIZERS, INITIALIZERS
    assert {cls.__name__ for table in tables for cls in table.values()} <= set(xpnet.__all__)
    assert all(hasattr(xpnet.schedules, cls.__name__) for cls in SCHEDULES.values())


def test_the_rest_of_the_page_is_true():
    assert 'markers = [\n  "long: ' in SOURCE["pyproject.toml"]
    assert '"--long"' in TESTS["tests/conftest.py"]
    assert all(f"xpnet {name}" in SOURCE["README.md"] for name in COMMANDS)
