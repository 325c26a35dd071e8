"""Batches that are rows of a data set on the device, gathered by whoever wants them gathered."""

from dataclasses import dataclass

from array_api_compat import array_namespace

from xpnet.step.step import Batch
from xpnet.typing import Array

__all__ = ["AnyBatch", "Ordered", "Rows", "gathered"]


@dataclass(frozen=True, eq=False)
class Ordered:
    """All rows of a data set, and the order (N,) int32 in which they are taken, on one device.

    ``fixed`` says that nobody else has the data, who could write to it: what is made of it stays.
    """

    data: Batch
    order: Array
    fixed: bool = False


class Rows:
    """The batch of the rows ``order[first:last]``: a step may gather them itself, by addresses."""

    __slots__ = ("_batch", "first", "last", "of")

    def __init__(self, of: Ordered, first: int, last: int) -> None:
        self.of, self.first, self.last = of, first, last
        self._batch: Batch | None = None

    def gathered(self) -> Batch:
        """Return the batch itself."""
        if self._batch is None:
            indices, xp = self.of.order[self.first : self.last], array_namespace(self.of.order)
            taken = (None if a is None else xp.take(a, indices, axis=0) for a in self.of.data)
            self._batch = Batch(*taken)
        return self._batch


AnyBatch = Batch | Rows


def gathered(batch: AnyBatch) -> Batch:
    """Return a batch as it is, or gather it."""
    return batch.gathered() if isinstance(batch, Rows) else batch
