"""Whether a graph does what its launches do, one after another: no bit of the state may differ.

Both go from the same state. The copy that this takes is on the device, and so is the comparison:
a state may be too large for the host, or take seconds to get there.
"""

from collections.abc import Sequence

import numpy as np

from xpnet.kernels.cuda.buffers import blocks
from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.lanes import Call
from xpnet.kernels.cuda.sources import WRITTEN
from xpnet.typing import Array

__all__ = ["fault_of_graph"]


def fault_of_graph(
    executor: Executor,
    state: Sequence[Array],
    replay: Call,
    eager: Call,
    restored: Call = lambda: None,
    threads: int = 256,
) -> str:
    """Take the same steps twice, by ``replay`` and by ``eager``; return why not to use the first.

    ``state`` is all that they change and begin with, in dtypes of 4 or 8 bytes; ``restored`` is
    called when it has been set back, for what is made of it. ``eager`` runs last, so that the
    state and every other buffer are its own, whatever a bad graph wrote. Returns "" for a good
    graph. The host waits once, for one number.

    Raises MemoryError where the device has no room for a second state; nothing has run then.
    """
    state = [x for x in state if x.size]
    kept = [executor.empty(tuple(x.shape), str(x.dtype)) for x in state]
    count = executor.place(np.zeros(1, "uint64"))
    for copy, x in zip(kept, state, strict=True):
        executor.copy(copy, x)

    def each_pair(kernel: str, *more: Array) -> None:
        for pair in zip(map(_words, state), map(_words, kept), strict=True):
            size = pair[0].size
            grid = (blocks(size, threads), 1)
            executor.launch(WRITTEN[kernel], grid, threads, *pair, *more, size)()

    try:
        replay()
    except Exception as error:  # CUDA makes room for a graph when it is first launched
        for copy, x in zip(kept, state, strict=True):
            executor.copy(x, copy)
        restored()
        eager()
        return f"the graph could not be launched: {type(error).__name__}: {error}"
    each_pair("exchanged")
    restored()
    eager()
    each_pair("differences", count)
    differ = int(executor.to_host(count)[0])
    if not differ:
        return ""
    words = sum(_words(x).size for x in state)
    return (
        "the replayed graph and the eager step gave different numbers: "
        f"{differ:,} of {words:,} words of the state differ"
    )


def _words(x: Array) -> Array:
    """The same memory as 32-bit words."""
    return x.reshape((-1,)).view("uint32")
