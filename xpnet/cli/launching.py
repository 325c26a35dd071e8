"""The command that starts the processes of an MPI."""

import importlib.util
import os
import shlex
import shutil
import sys

from xpnet.errors import BackendError
from xpnet.parallel.launcher import install_mpi, mpiexec

__all__ = ["launching", "this_python"]


def launching(given: str | None, option: str) -> list[str]:
    """Return its words, ``given`` at the command line or found; ``option`` is what needs them.

    Raises BackendError where there is none, or nothing that would connect the processes.
    """
    if importlib.util.find_spec("mpi4py") is None:
        msg = f"{option} needs mpi4py, and an MPI: {install_mpi()}"
        raise BackendError(msg)
    if given is not None:
        words = shlex.split(given)
        if words and shutil.which(words[0]):
            return words
        msg = f"--launcher: there is no program {words[0] if words else given!r}"
        raise BackendError(msg, command="name one such as mpiexec or srun, by its path if need be")
    found = mpiexec()
    if found is None:
        beside = os.path.dirname(sys.executable)
        msg = f"{option} needs mpiexec, which is neither in {beside!r} nor on PATH: pip "
        msg += "install mpich, or name what starts ranks by --launcher"
        raise BackendError(msg)
    return [found]


def this_python() -> list[str]:
    """Return the words that start another process of this Python, which imports what this does."""
    return [sys.executable, *([] if {"", os.getcwd()} & {*sys.path} else ["-P"])]
