"""xpnet runs from a checkout, or from its folder alone, that is on the path and not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xpnet

PACKAGE = Path(xpnet.__file__).parent

# An installation beside the checkout has metadata: here xpnet has none.
HIDDEN = """
import importlib.metadata, sys
found = importlib.metadata.Distribution.from_name
def from_name(name):
    if name == "xpnet":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.Distribution.from_name = from_name
from xpnet.cli.main import main
for command in ["train", "digits", *sys.argv[1:]], ["evaluate", sys.argv[2]]:
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, (command, end.code)
import xpnet
print("version", xpnet.__version__)
print("from", xpnet.__file__)
"""


@pytest.mark.long_but(where=["checkout"])
@pytest.mark.parametrize("where", ["checkout", "folder"])
def test_a_run_is_trained_and_evaluated_without_metadata(where, tmp_path):
    path = PACKAGE.parent
    if where == "folder":
        path = tmp_path / "path"
        path.mkdir()
        (path / "xpnet").symlink_to(PACKAGE)
    run = tmp_path / "run"
    settings = ("epochs=1", "model.hidden=[4]", "step=portable", "threads=1", "report=no")
    sets = [f"--set={s}" for s in settings]
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, "--out", str(run), *sets],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"version {xpnet.__version__}\nfrom {path / 'xpnet' / '__init__.py'}\n" in done.stdout
    recorded = json.loads((run / "run.json").read_text("utf-8"))
    assert recorded["xpnet"] == xpnet.__version__
    assert "Traceback" not in done.stderr
