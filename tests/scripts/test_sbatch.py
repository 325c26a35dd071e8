"""scripts/xpnet.sbatch without Slurm, with stubs of srun and of what it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("the script is for POSIX", allow_module_level=True)
SCRIPT = Path(__file__).parents[2] / "scripts" / "xpnet.sbatch"
# Starts the processes that -n asks for, as srun does: here the first one only.
SRUN = """#!/bin/sh
echo "srun $*" >>"$CALLS"
while [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done
exec "$@"
"""


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """submitted(words) runs the script as Slurm would; returns how it ended, and srun's calls."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    for name, text in {
        "srun": SRUN,
        "xpnet": f'#!/bin/sh\nexec "{sys.executable}" -m xpnet "$@"\n',
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("XPNET_SRUN", "srun --mpi=pmix")

    def submit(*words):
        command = ["bash", str(SCRIPT), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done, calls.read_text().splitlines() if calls.exists() else []

    return submit


def test_it_says_what_it_needs(submitted):
    done, calls = submitted("runs/one")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("usage: sbatch")


@pytest.mark.long
def test_it_starts_the_ranks_of_its_tasks_and_goes_on_where_it_was(submitted, tmp_path):
    pytest.importorskip("mpi4py", reason="ranks need MPI")
    out, more = tmp_path / "run", ("digits", "--set=epochs=1", "--set=report=false")
    done, calls = submitted(out, *more)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 1
    assert calls[0].startswith("srun --mpi=pmix --kill-on-bad-exit=1 -n 8 ")
    assert "no checkpoint to resume from yet: starting" in done.stdout
    done, _ = submitted(out, *more)
    assert "all 1 epochs are done" in done.stdout, done.stdout + done.stderr
