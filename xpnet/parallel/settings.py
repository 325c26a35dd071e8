"""How the processes of a training work together."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from xpnet.settings import Checked, PositiveFloat, PositiveInt

__all__ = ["Engine", "Parallel", "Reduce"]

Engine = Literal["auto", "mpi", "nccl", "none"]
Reduce = Literal["sum", "ordered"]


@dataclass(frozen=True)
class Parallel(Checked):
    """How the gradient of a batch is summed over the ranks that share it.

    ``engine`` "auto" is NCCL where each rank has a GPU of its own, else MPI; "none" trains in this
    process alone. ``reduce`` "sum" adds up as the engine does it fastest; with "ordered" the batch
    has ``parts`` parts, whatever the number of ranks, which are summed in their order: every number
    of ranks, up to ``parts``, gives the same bits.
    """

    BARE: ClassVar[str] = "engine"

    engine: Engine = "auto"
    reduce: Reduce = "sum"
    parts: PositiveInt = 8  # of a batch, for reduce = "ordered"
    buckets: PositiveInt = 1  # in which the gradient is summed, from the last layer to the first
    cuda_aware: bool = False  # whether MPI takes addresses on the GPU
    timeout: PositiveFloat = 600.0  # seconds for which a rank waits for the others
