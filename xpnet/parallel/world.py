"""MPI as this process has it: started, checked, and ended with all others."""

import contextlib
import ctypes
import faulthandler
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Never

from xpnet.errors import BackendError, first_line
from xpnet.parallel.launcher import Launch, install_mpi
from xpnet.parallel.watch import Watch

__all__ = ["World", "abort", "before_abort", "give_up", "library", "load_mpi", "world"]


class World(NamedTuple):
    """xpnet's own duplicates of the communicator of all ranks."""

    ranks: Any
    ending: Any  # on which they tell one another that they fail, or end
    leaving: Any  # on which they wait for one another at their end


_started: list[World] = []
before_abort: list[Callable[[], object]] = []  # such as to stop what waits on a GPU


def world(launch: Launch, timeout: float, give_up: Callable[[str], None] | None = None) -> World:
    """Start MPI, where the program has not yet, and return its ranks.

    All ranks call it; one that waits ``timeout`` seconds for that ends, by ``give_up`` with a line
    for the terminal. Raises BackendError where MPI is missing, or where its ranks are not what the
    launcher has started.
    """
    if _started:
        return _started[0]
    mpi = load_mpi(launch.said)
    if not mpi.Is_initialized():
        watch = Watch(timeout, give_up or partial(_stop, launch.rank))
        with watch("the start of MPI"):
            _initialize(mpi)
        watch.stop()
    found = mpi.COMM_WORLD.Get_size()
    if launch.size not in (None, found):
        msg = f"{launch.said}, but mpi4py's MPI, {library(mpi)}, sees {found}: {_remedy(launch)}"
        raise BackendError(msg)
    _started.append(World(*(mpi.COMM_WORLD.Dup() for _ in World._fields)))
    return _started[0]


def load_mpi(who: str) -> Any:
    """Return mpi4py's MPI, without starting it; raises BackendError where there is none."""
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a launcher of another MPI: world() refuses it
            from mpi4py import MPI
    except ModuleNotFoundError:
        msg = f"{who}: to train together they need mpi4py and an MPI: {install_mpi()}"
        raise BackendError(msg) from None
    except Exception as error:  # whatever its library raises while it loads
        msg = (
            f"{who}: to train together they need an MPI, and mpi4py finds none "
            f"({first_line(error)}): pip install mpich, or load the module of your cluster's MPI"
        )
        raise BackendError(msg) from error
    return MPI


def _initialize(mpi: Any) -> None:
    """Start MPI; unlike mpi4py's own call this one lets other threads run, such as the watch."""
    try:
        start = ctypes.CDLL(mpi.__file__).MPI_Init_thread
    except (OSError, AttributeError):
        mpi.Init_thread()
        return
    start(None, None, mpi.THREAD_MULTIPLE, ctypes.byref(ctypes.c_int()))
    for comm in (mpi.COMM_WORLD, mpi.COMM_SELF):
        comm.Set_errhandler(mpi.ERRORS_RETURN)  # mpi4py raises them


def library(mpi: Any) -> str:
    """Return the name and the version of MPI, such as "MPICH 5.0.2"."""
    name, version = mpi.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def _remedy(launch: Launch) -> str:
    if launch.launcher == "srun":
        return "connect them by srun --mpi=pmi2 or --mpi=pmix (srun --mpi=list has what is there)"
    own = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or "its own mpiexec"
    how = f"start them with {own}, or install mpi4py for the launcher's MPI"
    return f"that launcher is of another MPI: {how}"


def _stop(rank: int | None, line: str) -> Never:
    _say(rank, line)
    os._exit(1)


def give_up(rank: int, line: str) -> Never:
    """Say on the terminal what this rank waits for, and end the job."""
    time.sleep(min(rank / 50, 2.0))  # all that wait say so, the first ones first, before all end
    _say(rank, line)
    time.sleep(0.5)
    abort(1)


def _say(rank: int | None, line: str) -> None:
    sys.stderr.write(f"xpnet: rank {rank} {line}\n")
    sys.stderr.flush()


def abort(code: int) -> Never:
    """End all processes of the job at once; what has been written is out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, or None
            stream.flush()
    nowhere = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    # Where MPI itself hangs: a thread that is none of Python's, which MPI may not let run.
    faulthandler.dump_traceback_later(5.0, exit=True, file=nowhere)
    stopping = threading.Thread(target=_stop_gpus, daemon=True)
    stopping.start()
    stopping.join(1.0)
    from mpi4py import MPI

    os.dup2(nowhere.fileno(), 2)  # what MPI says of this says nothing
    MPI.COMM_WORLD.Abort(code)
    os._exit(code)


def _stop_gpus() -> None:
    for stop in before_abort:
        with contextlib.suppress(Exception):  # all ends in any case
            stop()
