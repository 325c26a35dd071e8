"""A stand-in for NCCL between ranks that are threads, beneath the stand-in for CuPy of tests/.

What is put on a stream is done when that is waited for, and not before: a wait that is missing
gives wrong numbers. Vectors are known by their addresses. Names and constants are those of CuPy
14.2: cupy_backends/cuda/libs/nccl.pyx.
"""

import contextlib
import ctypes
import threading
import types

import cupy_on_numpy
import numpy as np

SECONDS = 10  # for which a rank waits for the others
TYPES = {2: np.int32, 4: np.int64, 7: np.float32, 8: np.float64}
NAMES = {"SUM": 0, "INT32": 2, "INT64": 4, "FLOAT32": 7, "FLOAT64": 8}
STREAMS = {}  # by their pointers


class NcclError(RuntimeError):
    pass


class Stream:
    capturing = False

    def __init__(self, non_blocking=False):
        self.work, self.ptr = [], id(self)
        STREAMS[self.ptr] = self

    def is_capturing(self):
        return self.capturing

    def wait_event(self, event):
        self.work.append(event.reach)

    def step(self):
        self.work.pop(0)()

    def synchronize(self):
        while self.work:
            self.step()


class Event:
    done = True

    def __init__(self, disable_timing=False):
        pass

    def record(self, stream):
        self.done, self.stream = False, stream
        stream.work.append(self._happen)

    def _happen(self):
        self.done = True

    def reach(self):
        while not self.done:
            self.stream.step()


class _Own(threading.local):
    def __init__(self):
        self.stream = Stream()


class NcclCommunicator:
    """The constructor meets the other ranks, as that of NCCL does."""

    groups = {}  # noqa: RUF012 - of all, by their keys
    aborted = 0
    fault = None  # the error that the next look finds

    def __init__(self, ndev, key, rank):
        assert isinstance(key, bytes)
        self.values, self.barrier = self.groups.setdefault(
            key, ([None] * ndev, threading.Barrier(ndev))
        )
        self.rank = rank
        self.barrier.wait(SECONDS)

    def allReduce(self, send, receive, count, kind, op, stream):
        assert send == receive
        assert op == NAMES["SUM"]
        size = np.dtype(TYPES[kind]).itemsize * count
        x = np.frombuffer((ctypes.c_char * size).from_address(send), TYPES[kind])
        STREAMS[stream].work.append(lambda: self._sum(x))

    def _sum(self, x):
        self.values[self.rank] = x.copy()
        self.barrier.wait(SECONDS)
        total = sum(self.values)
        self.barrier.wait(SECONDS)
        x[...] = total

    def check_async_error(self):
        if self.fault:
            raise NcclError(self.fault)

    def abort(self):
        NcclCommunicator.aborted += 1


@contextlib.contextmanager
def installed(available=True):
    """Let CuPy be the stand-in, with NCCL, streams and events, and addresses of its arrays."""
    own, keys = _Own(), []

    def unique_id():
        keys.append(len(keys))
        return b"%0128d" % len(keys)

    NcclCommunicator.groups, NcclCommunicator.aborted = {}, 0
    nccl = types.SimpleNamespace(
        available=available,
        get_unique_id=unique_id,
        NcclCommunicator=NcclCommunicator,
        **{f"NCCL_{name}": number for name, number in NAMES.items()},
    )
    address = property(lambda self: types.SimpleNamespace(ptr=self.host.ctypes.data))
    with cupy_on_numpy.installed() as cupy:
        cuda = cupy.cuda
        cuda.nccl, cuda.Stream, cuda.Event = nccl, Stream, Event
        cuda.get_current_stream = lambda: own.stream
        cupy_on_numpy.ndarray.data = address
        try:
            yield cupy
        finally:
            del cuda.nccl, cuda.Stream, cuda.Event, cuda.get_current_stream
            del cupy_on_numpy.ndarray.data
