"""NcclComm on a stand-in for NCCL between threads: order on streams, what is refused, the watch."""

import gc
import threading
import time
import weakref
from unittest.mock import MagicMock

import nccl_on_threads
import numpy as np
import pytest
from cupy_on_numpy import Device
from thread_ranks import on_ranks

from xpnet.errors import BackendError
from xpnet.parallel import nccl
from xpnet.parallel.nccl import NcclComm, load_nccl
from xpnet.parallel.watch import Watch


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    watches = []

    def watch(*given):
        watches.append(Watch(*given))
        return watches[-1]

    monkeypatch.setattr(nccl, "Watch", watch)
    with nccl_on_threads.installed() as cupy:
        yield cupy
        nccl.before_abort.clear()
        for each in watches:
            each.stop()


def test_sums_are_put_on_the_current_stream(cupy):
    def rank(others):
        comm = NcclComm(others, others.rank, timeout=60, end=pytest.fail)
        with Device(others.rank):
            assert (comm.rank, comm.size, comm.takes_device) == (others.rank, 2, True)
            stream = cupy.cuda.get_current_stream()
            x = cupy.asarray(np.arange(3, dtype=np.float32))
            stream.work.append(lambda: x.host.__iadd__(comm.rank))
            comm.allreduce(x)
            assert x.host.tolist() == [0, 1, 2], "the host waits for nothing"
            stream.synchronize()
            assert x.host.tolist() == [1, 3, 5]
            host = np.ones(2)
            comm.allreduce(host)
            wait = comm.iallreduce(host)
            wait()
            assert host.tolist() == [4, 4]
            comm.barrier()
            assert comm.bcast(comm.rank) == comm.host.bcast(0) == 0
            assert comm.allgather(comm.rank) == [0, 1]

    on_ranks(2, rank)


@pytest.mark.parametrize("early", [False, True])
def test_a_sum_beside_the_current_stream_has_what_was_computed_and_is_waited_for(cupy, early):
    def rank(others):
        comm = NcclComm(others, others.rank, timeout=60, end=pytest.fail)
        with Device(others.rank):
            stream = cupy.cuda.get_current_stream()
            x, seen = cupy.asarray(np.zeros(2, np.float64)), []
            stream.work.append(lambda: x.host.__iadd__(comm.rank + 1))
            wait = comm.iallreduce(x)
            stream.work.append(lambda: seen.append("between"))
            wait()
            stream.work.append(lambda: seen.extend(x.host))
            for first in (comm._beside, stream)[:: 1 if early else -1]:
                first.synchronize()
            assert seen == ["between", 3, 3]

    on_ranks(2, rank)


def test_what_it_cannot_sum_is_refused(cupy):
    def rank(others):
        comm = NcclComm(others, 0, timeout=60, end=pytest.fail)
        for x in (cupy.asarray(np.zeros((2, 2), np.float32)), cupy.asarray(np.zeros(2, np.int8))):
            with pytest.raises(BackendError, match="NCCL sums vectors of CuPy of float32, "):
                comm.allreduce(x)

    on_ranks(1, rank)


@pytest.mark.parametrize("fault", ["", "NCCL_ERROR_REMOTE_ERROR"])
def test_a_sum_that_is_not_done_or_that_fails_ends_the_job(cupy, monkeypatch, fault):
    told, ended = [], threading.Event()

    def end(line):
        told.append(line)
        ended.set()

    def rank(others):
        comm = NcclComm(others, 0, timeout=0.05 if not fault else 60, end=end)
        x = cupy.asarray(np.zeros(2, np.float32))
        comm.allreduce(x)
        cupy.cuda.get_current_stream().synchronize()
        time.sleep(0.1)
        assert not told, "a sum that is done is not waited for"
        monkeypatch.setattr(nccl_on_threads.NcclCommunicator, "fault", fault)
        comm.allreduce(x)
        assert ended.wait(10)

    on_ranks(1, rank)
    said = "lost the other ranks in a sum on the GPU: NCCL_ERROR" if fault else "waited 0.05 s "
    assert told[0].startswith(f"has {said}")
    assert len(nccl.before_abort) == 1


def test_a_graph_that_is_captured_has_the_sum_and_no_event_of_the_watch(cupy, monkeypatch):
    def rank(others):
        comm = NcclComm(others, 0, timeout=60, end=pytest.fail)
        stream = cupy.cuda.get_current_stream()
        monkeypatch.setattr(type(stream), "capturing", True)
        comm.allreduce(cupy.asarray(np.zeros(2, np.float32)))
        assert len(stream.work) == 1
        comm.launched()
        assert len(stream.work) == 2

    on_ranks(1, rank)


def test_the_ranks_of_nccl_are_never_destroyed(cupy, monkeypatch):
    """NCCL would wait for graphs that Python destroys later, and the program would not end."""
    monkeypatch.setattr(nccl, "Watch", lambda *given: MagicMock())

    def rank(others):
        return weakref.ref(NcclComm(others, 0, timeout=60, end=pytest.fail)._ranks)

    (found,) = on_ranks(1, rank)
    nccl.before_abort.clear()
    gc.collect()
    assert found() is not None


def test_without_nccl_it_says_how_to_install_it(cupy):
    cupy.cuda.nccl.available = False
    with pytest.raises(BackendError, match="CuPy finds no NCCL: pip install nvidia-nccl-cu13"):
        load_nccl()
