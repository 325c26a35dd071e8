"""The width from which one contender, such as a GPU, is faster than another, such as the CPU."""

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
    """The width at which the second of two contenders overtakes the first, at one batch size."""

    batch: int
    width: int | None  # the smallest width at which the second is faster; None if there is none
    times: float  # how many times as fast the second is at that width, or at the largest one

    def sentence(self, first: str, second: str) -> str:
        """Return the result as one line for the contenders' names."""
        if self.width is None:
            return f"batch {self.batch}: {first} is faster up to width {WIDTHS[-1]}"
        return (
            f"batch {self.batch}: {second} overtakes {first} at width {self.width} "
            f"({self.times:.1f} times as fast)"
        )


def find_crossover(first: Make, second: Make, rounds: int) -> Iterator[Crossing]:
    """Yield a crossing for each batch size; raises BackendError if a contender cannot run."""
    for batch_size in BATCHES:
        for width in WIDTHS:
            network = Network((width, width, width, 10), batch_size, "adam")
            row = measure(network, {"first": first, "second": second}, rounds=rounds)
            for name, reason in row.absent.items():
                msg = f"cannot find a crossover: the {name} contender cannot run: {reason}"
                raise BackendError(msg)
            times = row.ratio("first", "second")
            if times > 1:
                yield Crossing(batch_size, width, times)
                break
        else:
            yield Crossing(batch_size, None, times)
