"""From which width and batch one contender takes a step sooner than another: a GPU than the CPU."""

from collections.abc import Iterator
from typing import NamedTuple

from xpnet.bench.contender import Make
from xpnet.bench.measure import measure
from xpnet.bench.networks import Network
from xpnet.errors import BackendError

__all__ = ["Crossing", "find_crossover"]

WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
BATCHES = (32, 128, 512, 2048)


class Crossing(NamedTuple):
    """Where the second of two contenders overtakes the first, for one batch size."""

    batch: int
    width: int | None  # the first width at which it does; None where it does at none
    times: float  # how many times as fast it is there, or at the last width

    def sentence(self, first: str, second: str) -> str:
        """Say so."""
        if self.width is None:
            return f"batch {self.batch}: {first} is faster up to width {WIDTHS[-1]}"
        return (
            f"batch {self.batch}: {second} overtakes {first} at width {self.width} "
            f"({self.times:.1f} times as fast)"
        )


def find_crossover(first: Make, second: Make, rounds: int) -> Iterator[Crossing]:
    """Yield a crossing for each batch size; raises BackendError where one is not there."""
    for batch_size in BATCHES:
        for width in WIDTHS:
            network = Network((width, width, width, 10), batch_size, "adam")
            row = measure(network, {"first": first, "second": second}, rounds=rounds)
            for why in row.absent.values():
                msg = f"there is nothing to cross over to: {why}"
                raise BackendError(msg)
            times = row.ratio("first", "second")
            if times > 1:
                yield Crossing(batch_size, width, times)
                break
        else:
            yield Crossing(batch_size, None, times)
