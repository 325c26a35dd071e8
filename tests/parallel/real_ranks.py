"""Ranks that are processes, connected by MPI: a script on n of them, within a time limit.

They are those of the MPI that xpnet itself would find, or of the mpiexec that the variable
XPNET_TEST_MPIEXEC names (mpi4py's variable MPI4PY_LIBMPI is its library then).
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import xpnet
from xpnet.parallel import launcher

SECONDS = 60
# What Open MPI's mpiexec says of a job that fails, beside what the ranks say.
BANNER = re.compile(r"-{74}\n.*?\n-{74}\n|\[warn\] Epoll [^\n]*\n|\0\n?", re.DOTALL)


class Done(NamedTuple):
    """How a job has ended; ``code`` is that of mpiexec."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()


def mpiexec():
    """What starts ranks; without it, or without mpi4py, the test is skipped."""
    pytest.importorskip("mpi4py", reason="mpi4py connects the ranks")
    found = os.environ.get("XPNET_TEST_MPIEXEC") or launcher.mpiexec()
    if found is None:
        pytest.skip("no mpiexec: pip install mpich")
    return found


def start(size, *words, env=None, cwd=None, options=()):
    """Start ``python *words`` on so many ranks; the Popen is the leader of a group of its own.

    ``size`` None is a process without mpiexec, such as one that starts it.
    """
    launch = [] if size is None else [mpiexec(), *options, "-n", str(size)]
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # lines are whole
    path = os.pathsep.join([str(Path(xpnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*launch, sys.executable, *map(str, words)],
        env={**inherited, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(job, seconds=SECONDS):
    """Return how a started job ends; one that does not is killed, and fails with its output."""
    try:
        out, err = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGTERM)  # which ends what it has started, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        pytest.fail(f"the ranks have not ended in {seconds} s\n{out}\n{err}")
    return Done(job.returncode, out, BANNER.sub("", err))


def run(size, *words, seconds=SECONDS, **options):
    """Run ``python *words`` on so many ranks: ``run(2, "-m", "xpnet", "train")``."""
    return finish(start(size, *words, **options), seconds)


def run_script(size, text, *words, seconds=SECONDS, **options):
    """Run a script, given as text, on so many ranks; ``comm`` and ``np`` are there."""
    head = "import numpy as np\nfrom xpnet.parallel import join\ncomm = join()\n"
    return run(size, "-c", head + textwrap.dedent(text), *words, seconds=seconds, **options)
