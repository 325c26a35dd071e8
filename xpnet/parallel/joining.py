"""How this process was started, and with which others it trains."""

from functools import cache, partial

from xpnet.errors import BackendError
from xpnet.parallel.comm import ALONE, Comm
from xpnet.parallel.failure import guard, stay_apart, who_has_left
from xpnet.parallel.gpus import OwnGpu, own_gpu
from xpnet.parallel.launcher import Launch, launched
from xpnet.parallel.nccl import NcclComm, load_nccl
from xpnet.parallel.settings import Parallel
from xpnet.parallel.world import give_up, library, world

__all__ = ["join"]


def join(settings: Parallel | None = None, *, backend: str = "auto", device: str = "auto") -> Comm:
    """Return the processes that were started together with this one, as its :class:`Comm`.

    All of them call it. Without a launcher, or with ``engine="none"``, it is :data:`ALONE`. The
    ``backend`` and the ``device`` are what the training is asked for: where each rank has a GPU of
    its own for CuPy, sums are taken by NCCL. Raises BackendError where a launcher has started
    several processes that cannot be connected, or for ``engine="nccl"`` without it.
    """
    settings, launch = settings or Parallel(), launched()
    if launch is None:
        return ALONE
    if settings.engine == "none":
        stay_apart()
        return ALONE
    return _joined(settings, backend, device, launch)


@cache
def _joined(settings: Parallel, backend: str, device: str, launch: Launch) -> Comm:
    ranks = world(launch, settings.timeout)
    if ranks.ranks.Get_size() == 1:
        return ALONE
    guard(ranks)
    from mpi4py import MPI

    from xpnet.parallel.mpi import MpiComm

    def why() -> str:
        left = who_has_left(ranks)
        return "" if left is None else f"rank {left} has ended"

    on_gpus = _takes_cupy(backend, device)
    end, aware = partial(give_up, ranks.ranks.Get_rank()), settings.cuda_aware and on_gpus
    comm = MpiComm(ranks.ranks, timeout=settings.timeout, end=end, cuda_aware=aware, why=why)
    hosts = comm.hosts()
    on = f"on {hosts} hosts" if hosts > 1 else "on this host"
    comm.note = f"{comm.size} ranks {on}, connected by {library(MPI)}"
    if settings.engine == "nccl" and not on_gpus:
        msg = "engine 'nccl' sums arrays of CuPy on GPUs, and the training is by backend "
        raise BackendError(msg + f"{backend} on device {device}")
    if settings.engine == "mpi" or not on_gpus:
        return comm
    return _with_gpus(comm, settings, device)


def _takes_cupy(backend: str, device: str) -> bool:
    """Whether the training's arrays are CuPy's, where there is a GPU."""
    return backend in ("auto", "cupy") and (device == "auto" or device.startswith("cuda"))


def _with_gpus(comm: Comm, settings: Parallel, device: str) -> Comm:
    """The ranks connected by NCCL where that can be; where it cannot, ``comm`` says why."""
    gpu = own_gpu(comm, device.replace("auto", "cuda"))
    found = comm.allgather((_why_not_nccl(comm, gpu, settings), gpu is not None))
    reason = next((reason for reason, _ in found if reason), "")
    if reason and settings.engine == "nccl":
        msg = f"engine 'nccl' cannot be used: {reason}"
        raise BackendError(msg)
    if reason:
        if any(has_one for _, has_one in found):
            how = "by their addresses" if comm.takes_device else "through the host"
            comm.note += f"; arrays on GPUs are summed {how}: {reason}"
        return comm
    assert gpu is not None
    together = NcclComm(comm, gpu.number, timeout=settings.timeout, end=partial(give_up, comm.rank))
    together.note = f"{comm.note}, sums by NCCL"
    return together


def _why_not_nccl(comm: Comm, gpu: OwnGpu | None, settings: Parallel) -> str:
    """Why this rank cannot sum by NCCL, or ""."""
    if settings.reduce == "ordered":
        return "reduce 'ordered' gathers what is summed"
    if gpu is None:
        return f"rank {comm.rank} sees no GPU"
    if gpu.shared_with is not None:
        return f"ranks {gpu.shared_with} and {comm.rank} share a GPU"
    try:
        load_nccl()
    except BackendError as error:
        return error.message
    return ""
