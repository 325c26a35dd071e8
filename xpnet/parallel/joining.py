"""How this process was started, and with which others it trains."""

from functools import cache

from xpnet.parallel.comm import ALONE, Comm
from xpnet.parallel.failure import guard, who_has_left
from xpnet.parallel.launcher import Launch, launched
from xpnet.parallel.settings import Parallel
from xpnet.parallel.world import world

__all__ = ["join"]


def join(settings: Parallel | None = None, *, backend: str = "auto", device: str = "auto") -> Comm:
    """Return the processes that were started together with this one, as its :class:`Comm`.

    All of them call it. Without a launcher, or with ``engine="none"``, it is :data:`ALONE`. The
    ``backend`` and the ``device`` are what the training is asked for: where each rank has a GPU of
    its own for CuPy, sums are taken by NCCL. Raises BackendError where a launcher has started
    several processes that cannot be connected, or for ``engine="nccl"`` without it.
    """
    settings, launch = settings or Parallel(), launched()
    if settings.engine == "none" or launch is None or launch.size == 1:
        return ALONE
    return _joined(settings, backend, device, launch)


@cache
def _joined(settings: Parallel, backend: str, device: str, launch: Launch) -> Comm:
    from xpnet.parallel.mpi import MpiComm

    ranks = world(launch, settings.timeout)
    if ranks.ranks.Get_size() == 1:
        return ALONE
    guard(ranks)

    def why() -> str:
        left = who_has_left(ranks)
        return "" if left is None else f"rank {left} has ended"

    timeout, cuda_aware = settings.timeout, settings.cuda_aware
    return MpiComm(ranks.ranks, timeout=timeout, cuda_aware=cuda_aware, why=why)
