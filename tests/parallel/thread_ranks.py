"""Ranks that are threads of this process: for tests of what ranks do together, without MPI."""

import pickle
import threading

import numpy as np

from xpnet.parallel import Comm

SECONDS = 60  # for which a rank waits for the others


class ThreadComm(Comm):
    """One of several ranks in one process; sums are taken in the order of the ranks."""

    name = "threads"

    def __init__(self, rank, shared):
        self.rank, self.size = rank, len(shared.values)
        self.local_rank, self.local_size = self.rank, self.size
        self._shared = shared

    def _exchange(self, value):
        shared = self._shared
        shared.values[self.rank] = value
        shared.barrier.wait(SECONDS)
        values = list(shared.values)
        shared.barrier.wait(SECONDS)
        return values

    def bcast(self, value):
        return pickle.loads(self._exchange(pickle.dumps(value))[0])

    def allgather(self, value):
        return [pickle.loads(v) for v in self._exchange(pickle.dumps(value))]

    def allreduce(self, x):
        assert isinstance(x, np.ndarray)
        assert x.flags.c_contiguous
        assert x.ndim == 1
        given = self._exchange(x.copy())
        assert len({(v.shape, v.dtype) for v in given}) == 1, "the ranks sum different vectors"
        total = given[0].copy()
        for v in given[1:]:
            total += v
        x[...] = total

    def iallreduce(self, x):
        self.allreduce(x)
        return lambda: None

    def barrier(self):
        self._exchange(None)

    @property
    def host(self):
        return self

    def abort(self, code):
        self._shared.barrier.abort()
        raise SystemExit(code)


class _Shared:
    def __init__(self, size):
        self.values, self.barrier = [None] * size, threading.Barrier(size)


def on_ranks(size, function):
    """Call ``function(comm)`` on each of so many ranks at once; return what they return, by rank.

    Raises the first error of a rank that is not that another one has gone.
    """
    shared, results, errors = _Shared(size), [None] * size, [None] * size

    def run(rank):
        try:
            results[rank] = function(ThreadComm(rank, shared))
        except BaseException as error:
            errors[rank] = error
            shared.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = [e for e in errors if e is not None and not isinstance(e, threading.BrokenBarrierError)]
    for error in own or filter(None, errors):
        raise error
    return results
