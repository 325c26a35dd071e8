"""How this process was started, and with which others it trains."""

from typing import Any

from xpnet.errors import BackendError, first_line, how_to_install
from xpnet.parallel.comm import ALONE, Comm
from xpnet.parallel.launcher import Launch, launched
from xpnet.parallel.settings import Parallel

__all__ = ["join"]

_world: list[Any] = []  # the communicator of this process, once it has one


def join(settings: Parallel | None = None, *, backend: str = "auto", device: str = "auto") -> Comm:
    """Return the processes that were started together with this one, as its :class:`Comm`.

    All of them call it. Without a launcher, or with ``engine="none"``, it is :data:`ALONE`. The
    ``device`` is the one that the training is asked for. Raises BackendError where a launcher has
    started several processes that cannot be connected.
    """
    settings = settings or Parallel()
    launch = launched()
    if settings.engine == "none" or launch is None or launch.size == 1:
        return ALONE
    comm = world(launch)
    if comm.Get_size() == 1:
        return ALONE
    from xpnet.parallel.mpi import MpiComm

    return MpiComm(comm, timeout=settings.timeout, cuda_aware=settings.cuda_aware)


def world(launch: Launch) -> Any:
    """Return xpnet's own duplicate of MPI's world; start MPI where it is not yet.

    Raises BackendError where this is not what the launcher has started.
    """
    if not _world:
        _world.append(_connect(launch).Dup())
    return _world[0]


def _connect(launch: Launch) -> Any:
    try:
        from mpi4py import MPI
    except ModuleNotFoundError:
        msg = f"{launch.said} needs mpi4py and an MPI: {how_to_install('mpi')} mpich"
        raise BackendError(msg) from None
    except Exception as error:
        msg = (
            f"{launch.said} needs an MPI that mpi4py can load ({first_line(error)}): "
            "pip install mpich, or load your cluster's module of an MPI"
        )
        raise BackendError(msg) from error
    found = MPI.COMM_WORLD.Get_size()
    if launch.size not in (None, found):
        library = MPI.Get_library_version().partition("\n")[0].strip("\0 ")
        msg = (
            f"{launch.said}, but mpi4py's MPI ({library}) sees {found}: the launcher belongs to "
            f"another MPI: start them with the mpiexec of this one"
        )
        raise BackendError(msg)
    return MPI.COMM_WORLD
