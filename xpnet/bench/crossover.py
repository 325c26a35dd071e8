"""From which width and batch a GPU takes a step sooner than the CPU."""

from collections.abc import Iterator

from xpnet.backends import backend_class
from xpnet.bench.measure import measure
from xpnet.bench.networks import Network
from xpnet.errors import BackendError

__all__ = ["find_crossover"]

WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
BATCHES = (32, 128, 512, 2048)
CPU, GPU = "xpnet numpy", "xpnet cupy"


def find_crossover(dtype: str, rounds: int) -> Iterator[str]:
    """Yield a line for each batch size: the first width at which cuda wins.

    Raises BackendError where there is no GPU to compare with.
    """
    probe = backend_class("cupy").probe()
    if not probe.devices:
        msg = f"there is nothing to cross over to: {probe.note}"
        raise BackendError(msg)
    for batch_size in BATCHES:
        for width in WIDTHS:
            network = Network((width, width, width, 10), batch_size, "adam")
            row = measure(network, (CPU, GPU), dtype=dtype, rounds=rounds)
            ratio = row.ratio(GPU, CPU)
            if ratio < 1:
                yield (
                    f"batch {batch_size}: cuda overtakes cpu at width {width} "
                    f"({1 / ratio:.1f} times as fast)"
                )
                break
        else:
            yield f"batch {batch_size}: cpu is faster up to width {WIDTHS[-1]}"
