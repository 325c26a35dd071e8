"""Causes are told once, with programs that show them; authors run the same as a test suite."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from toylib import library

from xpnet.check.parity import ModuleBackend, check_operations, load_module
from xpnet.check.parity.causes import causes, issue, page, reproduction
from xpnet.check.parity.operations import CHECKS
from xpnet.errors import BackendError

TESTS = Path(__file__).parent.parent


def outcomes(lib):
    return check_operations(ModuleBackend(lib))


def refuses(*args, **options):
    msg = "f() got an unexpected keyword argument 'axis'"
    raise TypeError(msg)


def test_a_cause_is_told_once_with_all_that_it_stops():
    lib = library(without=("log1p",), sum=refuses, max=refuses)
    found = causes(outcomes(lib))
    assert [cause.functions for cause in found] == [["sum", "max"], ["log1p"]]
    assert len(found[0].rows) == 7
    assert str(found[1]) == "log1p: missing"
    assert causes(outcomes(library())) == []


def test_an_issue_has_a_program_what_it_gives_and_what_the_standard_says():
    (cause,) = causes(outcomes(library(expm1=lambda x: np.exp(x) - 1 + 1e-3)))
    text = issue(cause, "mylib.core", "1.2", "float32")
    assert "mylib.core 1.2" in text
    assert "import mylib.core as xp" in text
    assert "print(xp.expm1(x))" in text
    assert "Expected: [1.0000005" in text
    assert ", float32\nThe standard" in text
    assert "API_specification/generated/array_api.expm1.html" in text


def test_an_issue_of_a_function_that_writes_to_its_operand_prints_the_operand():
    def relu(x, y):
        return np.maximum(x, y, out=x) if x.shape else np.maximum(x, y)

    (cause,) = causes(outcomes(library(maximum=relu)))
    text = issue(cause, "mylib", "1.2", "float32")
    assert "xp.maximum(x, 0.0)\nprint(x)\n```" in text
    assert "Expected: the operands as they were" in text


def test_an_index_has_one_of_two_dtypes():
    lib = library(argmax=lambda x, axis: np.argmax(x, axis=axis).astype(np.uint32))
    (cause,) = causes(outcomes(lib))
    text = issue(cause, "mylib", "1.2", "float32")
    assert "Got: uint32, not int32 or int64\nExpected: [2, 1, 1], int32 or int64" in text


def test_a_function_whose_keyword_is_missing_everywhere_is_one_cause():
    rows = [row for row in outcomes(library()) if row.case == "device=None"]
    assert len(rows) == 6
    failed = [row._replace(status="raises", detail=f"TypeError: {row.function}(x)") for row in rows]
    (cause,) = causes(failed)
    assert cause.functions == ["zeros", "ones", "full", "eye", "arange", "asarray"]
    of_eye = next(row for row in failed if row.function == "eye")
    assert len(causes([*failed, of_eye._replace(case="of a size")])) == 2  # not the keyword's


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_every_program_runs_with_the_library_alone(check):
    """On a library of the standard and no more, which shows that they ask for no more."""
    pytest.importorskip("array_api_strict", reason="no array-api-strict: pip install '.[test]'")
    backend = load_module("array_api_strict")
    program = reproduction(check(backend), "array_api_strict", "float32")
    with np.errstate(all="ignore"):
        exec(compile(program, "program", "exec"), {"print": lambda *values: None})
    assert page(check.function).startswith("https://data-apis.org/array-api/")


def test_arrays_that_cannot_be_copied_are_an_error_that_says_what_to_do():
    class Opaque:
        __array_namespace__ = None

    class Lazy(Opaque):
        def collect(self):
            return [1.0, 2.0]

    class Module:
        asarray = staticmethod(lambda x: Opaque())

    with pytest.raises(BackendError, match="to_numpy") as raised:
        ModuleBackend(Module()).to_host(Opaque())
    assert "compute" in raised.value.message
    assert "--to-numpy" in raised.value.at_command_line
    backend = ModuleBackend(Module(), to_numpy="collect")
    assert backend.to_host(Lazy()).tolist() == [1.0, 2.0]


def test_ndonnx_whose_arrays_are_lazy_is_no_fault_of_xpnets():
    pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[test]'")
    backend, asked = load_module("ndonnx"), {"exp", "sum", "take", "where"}
    rows = [check(backend) for check in CHECKS if check.function in asked]
    assert {row.function for row in rows if not row.bad} >= {"exp", "sum", "where"}
    assert all("bug in xpnet" not in row.detail for row in rows)


TOY = """
import numpy as np
from toylib import library
right, wrong = library(), library(exp=lambda x: np.exp(x) * 1.01)
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Run the suite as an author does, in a process of its own; return its exit code and text."""
    (tmp_path / "toy.py").write_text(TOY)
    paths = [str(tmp_path), str(TESTS), str(TESTS.parent)]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    for ours in ("PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(ours, raising=False)

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        # The entry point, for where xpnet is not installed but found on the path.
        plugin = "xpnet.check.pytest_plugin"
        if plugin not in {point.value for point in entry_points(group="pytest11")}:
            command += ["-p", plugin]
        command += ["--pyargs", "xpnet.check.conformance", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_suite_passes_on_a_library_that_is_right_and_names_it(suite):
    code, said = suite("--xp", "toy:right")
    assert code == 0, said
    assert "array library: backend toy:right version 0.0" in said
    assert int(said.rpartition(" passed")[0].split()[-1]) > len(CHECKS) + 40


@pytest.mark.long
def test_the_suite_fails_with_a_program_and_known_failures_are_strict(suite, tmp_path):
    only = ["-k", "test_operation and exp"]
    code, said = suite("--xp", "toy:wrong", *only)
    assert code == 1
    assert "from toy import wrong as xp" in said
    assert "1 failed" in said
    known = tmp_path / "xfails.txt"
    known.write_text("# reported upstream\ntest_operations.py::test_operation[exp]\n")
    code, said = suite("--xp", "toy:wrong", *only, "--xfails-file", str(known))
    assert code == 0, said
    assert "1 xfailed" in said
    code, said = suite("--xp", "toy:right", *only, "--xfails-file", str(known))
    assert code == 1
    assert "XPASS(strict)" in said
    known.write_text("test_operations.py::test_operation[nothing\n")
    code, said = suite("--xp", "toy:right", *only, "--skips-file", str(known))
    assert code == 1
    assert "no test is named test_operations.py::test_operation[nothing" in said


def test_the_suite_says_what_it_needs(suite):
    code, said = suite()
    assert code == 4
    assert "name the library under test: --xp MODULE" in said
    code, said = suite("--xp", "nowhere")
    assert code == 4
    assert "cannot import 'nowhere'" in said
