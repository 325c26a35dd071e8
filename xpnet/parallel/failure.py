"""How a job ends where a rank fails: its error on the terminal once, and no rank left waiting.

A rank that fails asks the others, on a communicator for nothing else, whether they fail, too. Those
that go on would wait for it: then it ends them.
"""

import atexit
import os
import sys
import time
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from xpnet.errors import BackendError
from xpnet.parallel.launcher import launched
from xpnet.parallel.world import World, abort, world

__all__ = ["end_together", "guard", "stay_apart", "who_has_left"]

SECONDS = 1.5  # for which a rank that fails waits for the others to fail
START = 60.0  # for which it waits for MPI to start
LEFT = 1  # tag of the message of a rank that ends

_guarded: list[World] = []
_apart: list[bool] = []  # not empty where each process trains by itself


def end_together(error: str, tell: Callable[[str], None], code: int) -> None:
    """End the job, or return where all ranks fail: the caller exits with ``code`` then.

    ``error`` is what happened; where it is the same on all ranks, rank 0 alone calls ``tell("")``.
    Else ``tell("rank 2: ")`` is called where it happened, to print that before the message.
    """
    launch = launched()
    if launch is None:
        tell("")
        return
    if _apart:
        tell(f"rank {launch.rank}: ")
        return

    def give_up(line: str) -> None:
        tell(f"rank {launch.rank}: ")
        sys.stderr.flush()
        os._exit(code)

    try:
        ranks = _guarded[0] if _guarded else world(launch, START, give_up)
    except BackendError:  # without MPI they are not connected: none waits for another
        if not launch.rank:
            tell("")
        return
    rank = ranks.ranks.Get_rank()
    together = _all_fail(ranks.ending, error)
    if together != "alike":
        tell(f"rank {rank}: ")
    elif rank == 0:
        tell("")
    if together == "no":
        abort(code)


def _all_fail(ending: Any, error: str) -> str:
    """Whether all ranks fail: "no", "alike" or with "different" errors."""
    from mpi4py import MPI

    number = zlib.crc32(error.encode("utf-8", "replace"))
    extremes = np.array([number, -number])
    request = ending.Iallreduce(MPI.IN_PLACE, extremes, MPI.MIN)
    limit = time.monotonic() + SECONDS
    while not request.Test():
        if time.monotonic() > limit:
            return "no"
        time.sleep(0.005)
    return "alike" if extremes[0] == -extremes[1] else "different"


def stay_apart() -> None:
    """Note that this process has nothing to do with those that were started with it."""
    _apart.append(True)


def guard(ranks: World) -> None:
    """See to it that no rank waits for this one, if it raises or ends before the others."""
    if _guarded:
        return
    _guarded.append(ranks)
    inner = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        def tell(prefix: str) -> None:
            sys.stderr.write(prefix)
            inner(kind, error, traceback)

        code = 130 if issubclass(kind, KeyboardInterrupt) else 1
        end_together(f"{kind.__name__}: {error}", tell, code)

    sys.excepthook = hook
    atexit.register(_leave, ranks)


def _leave(ranks: World) -> None:
    """Tell one rank that this one ends; who waits for all others learns it there.

    Where all end, each takes the messages that it was sent: MPI complains of those that are left.
    """
    from mpi4py import MPI

    if not MPI.Is_initialized() or MPI.Is_finalized():
        return
    ending, word = ranks.ending, np.array([ranks.ending.Get_rank()])
    reader = 0 if word[0] else 1
    sent = ending.Isend(word, reader, LEFT)
    others = ranks.leaving.Ibarrier()
    while not others.Test():  # as the end of MPI would wait, but without taking a core for it
        time.sleep(0.005)
    senders = {0: range(1, ending.Get_size()), 1: range(1)}.get(int(word[0]), ())
    for sender in senders:
        ending.Recv(np.empty_like(word), sender, LEFT)
    sent.Wait()


def who_has_left(ranks: World) -> int | None:
    """Return a rank that has ended, as far as this one has been told."""
    from mpi4py import MPI

    status = MPI.Status()
    if MPI.Query_thread() == MPI.THREAD_MULTIPLE and ranks.ending.Iprobe(tag=LEFT, status=status):
        return status.Get_source()
    return None
