"""What the environment says of how a process was started, without MPI."""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import NamedTuple

from xpnet.errors import ConfigError, how_to_install

__all__ = ["Launch", "install_mpi", "launched", "mpiexec", "refuse_several"]

# Where a launcher writes the rank and the number of ranks, those that say most first.
VARIABLES = (
    ("mpiexec of Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpirun_rsh", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
)


class Launch(NamedTuple):
    """A process that a launcher has started together with others; None is not known."""

    launcher: str
    rank: int | None
    size: int | None

    @property
    def said(self) -> str:
        """Such as "mpiexec has started 8 processes, which"."""
        return f"{self.launcher} has started {self.size or 'several'} processes"


def refuse_several(what: str) -> None:
    """Raise ConfigError if a launcher has started several processes: ``what`` is done by one."""
    launch = launched()
    if launch is not None:
        msg = f"{what} is for one process, and {launch.said}: start it without a launcher; only a "
        raise ConfigError(msg + "training shares its work among several")


def launched(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Return how this process was started together with others; None where it was not.

    A script of ``sbatch`` and the shell of ``salloc`` are one process, whatever number of tasks
    they have been given; what ``srun`` starts has the number of tasks of its step beside that.

    >>> launched({"PMI_RANK": "1", "PMI_SIZE": "2"})
    Launch(launcher='mpiexec', rank=1, size=2)
    >>> launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})
    """
    found = _launch(environ)
    return None if found is None or found.size == 1 else found


def _launch(environ: Mapping[str, str]) -> Launch | None:
    """How a launcher has started this process, perhaps as the only one."""
    for launcher, rank, size in VARIABLES:
        if rank in environ and size in environ:
            return Launch(launcher, _number(environ[rank]), _number(environ[size]))
    if "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:
        tasks = _number(environ["SLURM_STEP_NUM_TASKS"])
        return Launch("srun", _number(environ["SLURM_PROCID"]), tasks)
    if "PMIX_RANK" in environ:
        return Launch("a launcher with PMIx", _number(environ["PMIX_RANK"]), None)
    return None


def mpiexec() -> str | None:
    """Return the program that starts ranks: the one beside this Python, else the PATH's."""
    beside = os.path.dirname(sys.executable)
    return shutil.which("mpiexec", path=beside) or shutil.which("mpiexec")


def install_mpi() -> str:
    """Return the command that installs what connects ranks, and an MPI for it."""
    return f"{how_to_install('mpi')} mpich"


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
