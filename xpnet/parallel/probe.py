"""Which of the engines that connect ranks are here; MPI is not started to find out."""

import importlib.util
import subprocess
import sys
from typing import NamedTuple

from xpnet.errors import BackendError, first_line
from xpnet.parallel.gpus import visible_gpus
from xpnet.parallel.launcher import install_mpi, mpiexec
from xpnet.parallel.nccl import load_nccl

__all__ = ["Engine", "engines"]

# In a process of its own: a library of MPI that is broken may end it.
ASK = """
import mpi4py, warnings
warnings.simplefilter("ignore")
mpi4py.rc.initialize = False
from mpi4py import MPI
name, version = MPI.get_vendor()
print(mpi4py.__version__, name, ".".join(map(str, version)), sep="\\n")
"""


class Engine(NamedTuple):
    """What is known of one of them."""

    name: str
    version: str | None  # None where it cannot be used
    uses: tuple[str, ...]  # an MPI and its launcher, GPUs
    note: str = ""  # what is missing, and what to do


def engines() -> list[Engine]:
    """Return MPI and NCCL as they are here."""
    return [_mpi(), _nccl()]


def _mpi() -> Engine:
    if importlib.util.find_spec("mpi4py") is None:
        note = f"several processes need mpi4py and an MPI: {install_mpi()}"
        return Engine("mpi", None, (), note)
    asked = [sys.executable, "-c", ASK]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if "Error: " in line]
        reason = (reasons or ["it cannot be loaded"])[0].partition("Error: ")[2]
        return Engine("mpi", None, (), f"mpi4py finds no MPI ({reason}): pip install mpich")
    version, name, release = done.stdout.splitlines()
    launcher = mpiexec()
    if launcher is None:
        note = "there is no mpiexec on the PATH that starts several processes: pip install mpich"
        return Engine("mpi", version, (f"{name} {release}",), note)
    note = _misfit(launcher, name)
    return Engine("mpi", version, (f"{name} {release}", launcher), note)


def _misfit(launcher: str, name: str) -> str:
    """What is wrong with a launcher that belongs to another MPI; each rank would be alone."""
    try:
        asked = [launcher, "--version"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{launcher} cannot be run: {first_line(error)}"
    of_open = any(word in done.stdout for word in ("Open MPI", "OpenRTE", "PRRTE", "prte"))
    if of_open == (name == "Open MPI"):
        return ""
    owner = "Open MPI" if of_open else "another MPI"
    return f"{launcher} is of {owner}, and mpi4py uses {name}: start with the mpiexec of {name}"


def _nccl() -> Engine:
    try:
        number = load_nccl().get_version()
    except BackendError as error:
        return Engine("nccl", None, (), str(error))
    version = f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
    count = len(visible_gpus())
    return Engine("nccl", version, (f"{count} GPU{'s' * (count != 1)}",) if count else ())
