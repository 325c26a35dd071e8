"""What conftest.py adds to pytest, tried on a few tests in a folder of their own."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_short(backend):
    pass

@pytest.mark.long
def test_long(backend):
    pass

@pytest.mark.long_but(n=[1])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_long_but(n):
    pass

@pytest.mark.long_where(n=[1])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_long_where(n):
    pass
"""
BACKENDS = ("numpy", "numpy-readonly")  # others take seconds to import
SHORT = LONG = len(BACKENDS) + 3


@pytest.fixture
def run(tmp_path):
    """Run pytest there; return its exit code and what it printed."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_few.py").write_text(TESTS)
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    environment["XPNET_TEST_BACKENDS"] = ",".join(BACKENDS)

    def pytest_with(*options):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    return pytest_with


def test_long_tests_are_left_out_and_counted(run):
    code, said = run()
    assert code == 0, said
    assert f"{LONG} not run: add --long" in said
    assert f"{SHORT} passed, {LONG} deselected" in said
    assert "\nnumpy: 1 tests ran" in said


@pytest.mark.long
def test_long_tests_run_where_they_are_asked_for(run):
    for options, passed in {
        ("--long",): SHORT + LONG,
        ("-m", "long"): LONG,
        ("-m", "not long"): SHORT,
        ("--long", "-k", "long_but"): 3,
    }.items():
        code, said = run(*options)
        assert code == 0, said
        assert f"{passed} passed" in said
        assert "add --long" not in said


def test_the_first_parameters_are_of_the_tests_that_are_asked_for(run):
    code, said = run("--first", "-v")
    assert code == 0, said
    assert "3 passed" in said
    assert "test_short[numpy] PASSED" in said
    assert "test_long_but[1] PASSED" in said
    assert "test_long_where[2] PASSED" in said


@pytest.mark.long
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "in parallel"])
def test_what_is_required_is_counted_in_every_process(run, workers):
    if workers:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    code, said = run(*workers, "--require-backend=numpy", "--require-backend=numpy-readonly")
    assert code == 0, said
    assert "\nnumpy: 1 tests ran\nnumpy-readonly: 1 tests ran\n" in said
    assert f"\n{LONG} not run: add --long" in said
    code, said = run(*workers, "--require-backend=numpy", "-k", "long_but")
    assert code == 1
    assert "\nrequired backends that did not run: numpy; tests that ran on a GPU: 0" in said
    code, said = run(*workers, "--min-gpu-tests=1", "-k", "readonly")
    assert code == 1
    assert "\nrequired backends that did not run: none; tests that ran on a GPU: 0" in said


def test_no_assertion_has_a_tolerance_that_it_does_not_state():
    """`assert_allclose` with atol alone keeps rtol = 1e-7, beside which 1e-15 tests nothing."""
    for path in Path(__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("assert_allclose"):
                stated = {keyword.arg for keyword in call.keywords}
                assert "atol" not in stated or stated & {"rtol", None}, f"{path}:{call.lineno}"
