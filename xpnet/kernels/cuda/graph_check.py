"""Graphs of launches, and whether they do what these do, one after another, to the last bit.

Both go from the same state. The copy that this takes is on the device, and so is the comparison:
a state may be too large for the host, or take seconds to get there.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from xpnet.kernels.cuda.buffers import blocks
from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.lanes import Call, Recorded
from xpnet.kernels.cuda.sources import WRITTEN
from xpnet.typing import Array

__all__ = ["Graphs", "copies_of", "fault_of_graph"]


class Graphs:
    """The graph of a program's calls, or several, with what the host has to do between them.

    Raises CaptureError.
    """

    def __init__(self, executor: Executor, calls: Sequence[Recorded]) -> None:
        parts = [(apart, list(some)) for apart, some in groupby(calls, lambda call: call.apart)]
        self._parts = [(None if apart else executor.capture(some), some) for apart, some in parts]
        self.count = sum(graph is not None for graph, _ in self._parts)

    def replay(self) -> None:
        for graph, calls in self._parts:
            if graph is not None:
                graph()
            else:
                for call in calls:
                    call.run()

    def try_out(self) -> str:
        """Replay them for the first time, when CUDA makes room for them; return what failed.

        The calls of a graph that cannot be launched are run instead: other ranks wait for the sums.
        """
        fault = ""
        for graph, calls in self._parts:
            try:
                if graph is not None:
                    graph()
                    continue
            except Exception as error:
                fault = f"the graph could not be launched: {type(error).__name__}: {error}"
            for call in calls:
                call.run()
        return fault


def copies_of(executor: Executor, state: Sequence[Array]) -> list[Array]:
    """Return room for a second state, for :func:`fault_of_graph`.

    Raises MemoryError where the device has none.
    """
    return [executor.empty(tuple(x.shape), str(x.dtype)) for x in state if x.size]


def fault_of_graph(
    executor: Executor,
    state: Sequence[Array],
    kept: Sequence[Array],
    try_out: Callable[[], str],
    eager: Call,
    restored: Call = lambda: None,
    threads: int = 256,
) -> str:
    """Take the same steps twice, by graph and by ``eager``; return why not to use the first.

    ``state`` is all that they change and begin with, in dtypes of 4 or 8 bytes, and ``kept`` are
    :func:`copies_of` it. ``try_out`` replays the graph, and says what fails;
    ``restored`` is called when the state has been set back, for what is made of it. ``eager`` runs
    last, so that the state and every other buffer are its own, whatever a bad graph wrote. Returns
    "" for a good graph. The host waits once, for one number.
    """
    state = [x for x in state if x.size]
    count = executor.place(np.zeros(1, "uint64"))
    for copy, x in zip(kept, state, strict=True):
        executor.copy(copy, x)

    def each_pair(kernel: str, *more: Array) -> None:
        for pair in zip(map(_words, state), map(_words, kept), strict=True):
            size = pair[0].size
            grid = (blocks(size, threads), 1)
            executor.launch(WRITTEN[kernel], grid, threads, *pair, *more, size)()

    fault = try_out()
    each_pair("exchanged")
    restored()
    eager()
    each_pair("differences", count)
    differ = int(executor.to_host(count)[0])
    if fault or not differ:
        return fault
    words = sum(_words(x).size for x in state)
    return (
        "the replayed graph and the eager step gave different numbers: "
        f"{differ:,} of {words:,} words of the state differ"
    )


def _words(x: Array) -> Array:
    """The same memory as 32-bit words."""
    return x.reshape((-1,)).view("uint32")
