"""Errors: the message with its remedy, as a Python call and as a command line."""

import ast
import re
from pathlib import Path

import pytest

import xpnet
from xpnet.errors import BackendError, ConfigError, DataError, import_failure, require

ROOT = Path(xpnet.__file__).parent
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
    with pytest.raises(BackendError, match=r"a plot needs 'nowhere': pip install 'xpnet\[bench\]'"):
        require("nowhere.deep", "bench", "a plot")
    assert import_failure("json") is None
