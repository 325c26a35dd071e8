"""The mistakes of scripts/mutants still apply, and what becomes of them is told truly."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
SOURCE = "def double(x):\n    return x + x\n\n\ndef unused():\n    return 1\n"
TESTS = "import xpnet.toy\n\n\ndef test_double():\n    assert xpnet.toy.double(3) == 6\n"


@pytest.fixture(scope="module")
def mutants():
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("mutants")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def root(tmp_path):
    """A checkout of one function and one test."""
    for name, text in {"xpnet/toy.py": SOURCE, "tests/test_toy.py": TESTS}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "xpnet" / "__init__.py").touch()
    return tmp_path


def mistake(mutants, old, new, **more):
    given = {"room": "toy", "file": "xpnet/toy.py", "why": "planted", "tests": "tests/test_toy.py"}
    return mutants.Mistake(**{**given, "old": old, "new": new, **more})


def test_every_mistake_of_the_table_applies(mutants):
    table = mutants.read_table()
    assert mutants.problems(table) == []
    assert len(table) >= 250
    assert len({(m.file, m.old, m.new) for m in table}) == len(table)


def test_a_text_that_is_missing_or_there_twice_is_refused_by_name(mutants, root):
    found = mutants.problems(
        [
            mistake(mutants, "x + x", "x * x"),
            mistake(mutants, "x - x", "x * x"),
            mistake(mutants, "return", "yield"),
            mistake(mutants, "x + x", "x +"),
            mistake(mutants, "x + x", "x", file="xpnet/gone.py"),
        ],
        root,
    )
    assert [problem.split(": ")[-1][:16] for problem in found] == [
        "its old text is ", "its old text is ", "invalid syntax (", "its old text is ",
    ]  # fmt: skip
    assert found[0].startswith(
        "xpnet/toy.py: 'x - x' -> 'x * x' (planted): its old text is there 0"
    )


@pytest.mark.long
def test_what_becomes_of_mistakes(mutants, root, capsys):
    table = [
        mistake(mutants, "x + x", "x * x"),
        mistake(mutants, "x + x", "x - x"),  # of the same size, in the same second
        mistake(mutants, "x + x", '__import__("os").abort()'),
        mistake(mutants, "return 1", "return 2"),
        mistake(mutants, "return 1", "return 3", equivalent="nobody asks"),
        mistake(mutants, "x + x", "3 * x", equivalent="it is said"),
        mistake(mutants, "x + x", "3 * x", tests="tests/test_toy.py -k no_such_test"),
    ]
    outcomes = mutants.try_all(table, root, 1)
    whats = ["noticed", "noticed", "noticed", "survived", "equivalent", "harmful", "broken"]
    assert [outcome.what for outcome in outcomes] == whats
    assert [outcome.mistake for outcome in outcomes] == table
    assert "survived: xpnet/toy.py: 'return 1' -> 'return 2'" in capsys.readouterr().out
    assert (root / "xpnet" / "toy.py").read_text() == SOURCE
    counts = {"planted": 7, "noticed": 3, "equivalent": 1, "not noticed": 3}
    assert mutants.counts(outcomes) == {"toy": counts, "all": counts}


@pytest.mark.long
def test_tests_that_hang_notice_a_mistake_only_if_the_table_says_so(mutants, root, monkeypatch):
    monkeypatch.setattr(mutants, "PATIENCE", 1.0)
    monkeypatch.setattr(mutants, "FACTOR", 1.0)
    endless = "x + x\n    while True: pass"
    table = [mistake(mutants, "return x + x", f"x = {endless}", hangs=h) for h in (False, True)]
    assert [outcome.what for outcome in mutants.try_all(table, root, 1)] == ["hung", "noticed"]


def test_a_report_has_the_counts_and_what_was_not_noticed(mutants):
    outcomes = [
        mutants.Outcome(mistake(mutants, "x + x", "x * x"), "noticed"),
        mutants.Outcome(
            mistake(mutants, "return 1", "return 2", equivalent="unused"), "equivalent"
        ),
        mutants.Outcome(mistake(mutants, "return 1", "return 3"), "survived"),
    ]
    text = mutants.markdown(outcomes, "scripts/mutants -j 2", 2.0)
    assert "By `scripts/mutants -j 2` on " in text
    assert "| toy | 3 | 1 | 1 | 1 |" in text
    assert "## They change nothing\n\n- `xpnet/toy.py`: planted: unused\n" in text
    assert "## Not noticed\n\n- `xpnet/toy.py`: planted: survived\n" in text


def test_the_command_names_its_options(mutants):
    command = [str(SCRIPTS / "mutants"), "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(option in told for option in ("--only", "--sample", "--seed", "--report"))


def test_a_changed_kernel_is_compiled_anew(mutants, monkeypatch, tmp_path):
    """Its name in the cache is a hash of its text, and of what it calls."""
    pytest.importorskip("numba", reason="it compiles the kernels")
    from xpnet.kernels.cpu import compiled

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    texts = ["def kernel(row):\n    pass\n", "def kernel(row):\n    return\n"]
    names = {compiled._module(text).__name__ for text in texts}
    monkeypatch.setattr(compiled, "_surroundings", lambda: "another mixer")
    names.add(compiled._module(texts[0]).__name__)
    assert len(names) == 3
