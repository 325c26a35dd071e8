"""How long functions of a stream take on a GPU, for the choice between them."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any

from xpnet.errors import BackendError
from xpnet.kernels.cuda.blas import Run

__all__ = ["measured", "no_garbage_collection"]

WINDOW = 200e-6  # seconds that a timing is to last, if that needs no more than MOST calls
MOST = 50  # calls in a timing
ROUNDS = 5  # timings of each function, of which the shortest counts
SLOW = 1.5  # times the fastest: what takes longer is timed no more
BUDGET = 0.5  # seconds of the GPU, after which nothing more is tried


def measured(cupy: Any, stream: Any, runs: Sequence[Run]) -> list[float]:
    """Return the seconds that one call of each takes on ``stream``.

    They are infinite for one that fails, and for those that there was no time for. The calls of a
    timing are replayed as a graph, for on small arrays the host takes longer than the GPU. The
    functions take turns, for clocks drift.
    """
    times, replays, spent = [inf] * len(runs), {}, 0.0
    cupy.cuda.Device().synchronize()
    with stream:
        for i, run in enumerate(runs):
            call = partial(run, stream.ptr)
            try:
                call()  # loads the kernel
                took = _timed(cupy, call)
            except BackendError:
                continue
            calls = max(1, min(MOST, round(WINDOW / took)))
            replays[i] = _captured(stream, call, calls), calls
            if calls == 1:
                times[i] = took
            spent += 2 * took
            if spent > BUDGET:
                break
        for turn in range(ROUNDS):
            most = SLOW * min(times) if turn else inf
            for i, (replay, calls) in replays.items():
                if spent < BUDGET and times[i] <= most:
                    took = _timed(cupy, replay)
                    times[i] = min(times[i], took / calls)
                    spent += took
    return times


def _captured(stream: Any, call: Callable[[], None], calls: int) -> Callable[[], None]:
    """The calls as a graph."""
    with no_garbage_collection():
        stream.begin_capture()
        try:
            for _ in range(calls):
                call()
        finally:
            graph = stream.end_capture()
    return graph.launch


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Free nothing of a cycle: what is freed during a capture may call CUDA, which would end it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _timed(cupy: Any, call: Callable[[], None]) -> float:
    """The seconds on the GPU, of the current stream."""
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    call()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) / 1e3
