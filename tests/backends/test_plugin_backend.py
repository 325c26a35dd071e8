"""A package of someone else's adds a backend, or a formula, by an entry point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the example package installed in it, from its source, offline."""
    target = tmp_path_factory.mktemp("site")
    source = Path(__file__).parents[1] / "plugin"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(installed, *args):
    return subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_backend_trains_by_its_name(installed):
    program = """
import numpy as np
from xpnet import Dense, Trainer
from xpnet.backends import backend_names

assert {"example", "broken"} <= set(backend_names())
trainer = Trainer([Dense(2)], backend="example")
history = trainer.fit((np.eye(4), np.array([0, 1, 0, 1])), epochs=2)
print(trainer.backend, trainer.backend.placed > 0, len(history))
"""
    done = run(installed, "-c", program)
    assert done.stdout == "ExampleBackend(device='cpu', dtype='float32') True 2\n", done.stderr


def test_the_command_line_takes_it(installed, tmp_path):
    out = str(tmp_path / "run")
    options = ["--backend", "example", "--out", out, "--set", "epochs=1", "--quiet"]
    done = run(installed, "-m", "xpnet", "train", *options)
    assert done.stdout.startswith("test accuracy "), done.stderr


@pytest.mark.long
def test_an_installed_formula_is_known_by_its_name(installed, tmp_path):
    settings = ["epochs=1", "model.activation=cube", "model.hidden=[4]"]
    options = [a for s in settings for a in ("--set", s)]
    out = str(tmp_path / "run")
    done = run(installed, "-m", "xpnet", "train", "--out", out, *options, "--quiet")
    assert done.stdout.startswith("test accuracy "), done.stderr
    path = tmp_path / "my.toml"
    assert run(installed, "-m", "xpnet", "init", str(path)).returncode == 0
    assert "cube" in path.read_text()


def test_one_that_cannot_be_loaded_says_so_in_one_line(installed):
    done = run(installed, "-m", "xpnet", "train", "--backend", "broken")
    assert done.returncode == 2
    assert done.stderr.startswith("error: backend 'broken' (xpnet_example_backend:NotThere)")
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_both_are_listed(installed):
    listed = run(installed, "-m", "xpnet", "backends").stdout
    assert "\nexample " in listed
    assert "cannot be loaded" in listed
