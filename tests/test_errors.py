"""Errors: the message with its remedy, as a Python call and as a command line."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import xpnet
from xpnet import errors
from xpnet.errors import (
    BackendError,
    ConfigError,
    DataError,
    how_to_install,
    import_failure,
    require,
)

ROOT = Path(xpnet.__file__).parent
ERRORS = ROOT / "errors.py"
CALL, OPTION = re.compile(r"\b[a-z_]+="), re.compile(r"--set ")


def test_a_remedy_follows_its_message_in_the_words_of_the_interface():
    error = DataError("no header", python="pass header=False", command="--set data.header=no")
    assert str(error) == "no header: pass header=False"
    assert error.at_command_line == "no header: --set data.header=no"
    assert str(DataError("no rows")) == DataError("no rows").at_command_line == "no rows"


@pytest.mark.parametrize("remedy", [{"python": "split it"}, {"command": "split it"}])
def test_one_remedy_serves_both_interfaces(remedy):
    error = DataError("too large", **remedy)
    assert str(error) == error.at_command_line == "too large: split it"


def test_a_question_is_followed_by_its_remedy_without_a_colon():
    assert str(DataError("a regression?", python="pass task=")) == "a regression? pass task="


def test_an_error_keeps_its_class_and_both_remedies_within_a_location():
    error = ConfigError("no", python="p", command="c").within("a.csv").within("run")
    assert (type(error), str(error)) == (ConfigError, "run: a.csv: no: p")
    assert error.at_command_line == "run: a.csv: no: c"


def required():
    """The module and the extra of each call of `require` that names both."""
    return [
        [getattr(argument, "value", None) for argument in node.args[:2]]  # None: one of several
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require" and path != ERRORS
        if all(isinstance(argument, ast.Constant) for argument in node.args[:2])
    ]


def remedies():
    """Yield where an error is made with remedies, and their source by keyword."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if found.keys() & {"python", "command"}:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", found


def test_a_remedy_for_one_interface_has_its_counterpart_for_the_other():
    one_sided = [
        where
        for where, remedy in remedies()
        if (CALL.search(remedy.get("python", "")) and "command" not in remedy)
        or (OPTION.search(remedy.get("command", "")) and "python" not in remedy)
    ]
    assert one_sided == []
    assert len(list(remedies())) > 5


@pytest.mark.parametrize("error", ["OSError('no file')", "RuntimeError('odd')", "import nowhere"])
def test_a_library_that_is_broken_is_as_good_as_missing(error, tmp_path, monkeypatch):
    text = error if error.startswith("import") else f"raise {error}"
    (tmp_path / "broken_library.py").write_text(f"{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    says = r"broken_library, which cannot be imported \((OS|Runtime|ModuleNotFound)Error: .*again"
    assert re.match(says, import_failure("broken_library"))
    with pytest.raises(BackendError, match=f"a plot needs {says}"):
        require("broken_library", "bench", "a plot")
    with pytest.raises(BackendError, match="a plot needs 'nowhere': pip install 'numba>="):
        require("nowhere.deep", "fast", "a plot")
    assert import_failure("json") is None


def test_an_extra_is_installed_by_the_requirements_that_the_wheel_states():
    """Which pip can read, and which no index has to know xpnet for."""
    requirements = pytest.importorskip("packaging.requirements", reason="no packaging")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    extras = project["optional-dependencies"]
    for extra, lines in extras.items():
        pip, install, *said = shlex.split(how_to_install(extra))
        assert (pip, install) == ("pip", "install")
        assert [*map(requirements.Requirement, said)] == [*map(requirements.Requirement, lines)]
    assert len(extras) > 10


def test_without_a_checkout_the_metadata_of_the_wheel_is_asked(monkeypatch):
    lines = ["numpy>=2.1", "numba>=0.61; extra == 'fast'", 'cupy-cuda13x[ctk]>=14; extra == "cupy"']
    monkeypatch.setattr(errors, "__file__", "/nowhere/xpnet/errors.py")
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    errors._requirements.cache_clear()
    try:
        assert how_to_install("fast") == "pip install 'numba>=0.61'"
        assert how_to_install("cupy") == "pip install 'cupy-cuda13x[ctk]>=14'"
        assert how_to_install("numpy") == "pip install 'numpy>=2.1'"
        assert "pyproject.toml" in how_to_install("nowhere")
    finally:
        errors._requirements.cache_clear()


def test_nothing_says_that_an_index_has_xpnet():
    """Until one has: `errors.how_to_install` is then the one sentence to change."""
    of_an_index = re.compile(
        r"(pip|uv|pipx|poetry)\b[^\n]*\b(install|add)\s[^\n]*(?<![./\w-])xpnet\b"
    )
    files = [p for p in ROOT.rglob("*") if p.suffix in (".py", ".pyi", ".md", ".html", ".toml")]
    said = [p.name for p in files if of_an_index.search(p.read_text("utf-8"))]
    assert said == []
    assert of_an_index.search("pip install 'xpnet[onnx]'")
    assert not of_an_index.search("pip install ./xpnet-0.1.0-py3-none-any.whl")


@pytest.mark.parametrize("extra", sorted({call[1] for call in required()}))
def test_what_a_module_requires_is_an_extra_or_a_package_of_one(extra):
    assert how_to_install(extra).startswith("pip install '")
