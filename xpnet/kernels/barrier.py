"""Where in a plan the gradient of a batch that ranks share is summed over them."""

from collections.abc import Iterable

from xpnet.kernels.operations import AllReduce, Operation
from xpnet.nn import Sequential
from xpnet.nn.layout import layouts

__all__ = ["with_sums"]


def with_sums(
    backward: Iterable[Operation], model: Sequential, ranks: int, buckets: int
) -> list[Operation]:
    """Return the backward operations, and each sum after the last one that writes what it is of.

    There are up to so many ``buckets``, of whole layers.
    """
    result, waiting = list[Operation](), _buckets(model, ranks, buckets)
    for operation in backward:
        if operation.layer < waiting[0].first:  # type: ignore[union-attr]
            result.append(waiting.pop(0))
        result.append(operation)
    return [*result, *waiting]


def _buckets(model: Sequential, ranks: int, most: int) -> list[AllReduce]:
    """The sums over the ranks of the whole gradient, in the order of backward.

    They are of whole layers, each of one or as near to one size as layers allow; what is before the
    first trained layer is zero everywhere.
    """
    entries = [e for e in layouts(model)[0].entries if e.layer >= model.first_trained]
    starts: dict[int, int] = {}  # of the first tensor of each layer
    for e in entries:
        starts.setdefault(e.layer, e.start)
    first, *inner = starts
    begin, end, last = starts[first], entries[-1].stop, len(model.layers)

    def nearest(at: float) -> int:
        return min(inner, key=lambda layer: abs(starts[layer] - at))

    if most < len(starts):
        inner = [nearest(begin + (end - begin) * i / most) for i in range(1, most)]
    found = list[AllReduce]()
    for layer in sorted({first, *inner}, reverse=True):
        found.append(AllReduce(ranks, layer, last, starts[layer], end, sums=not found))
        last, end = layer, starts[layer]
    return found
