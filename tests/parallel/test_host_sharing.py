"""What one rank makes is there for the others: once in memory, and its errors on all of them."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from real_ranks import run_script
from thread_ranks import ThreadComm, _Shared, on_ranks

from xpnet.data import Dataset
from xpnet.errors import DataError
from xpnet.parallel import ALONE, host, shared_by_all, shared_by_host


class Counted:
    """A function that counts its calls, and on how many ranks it was."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self):
        self.calls += 1
        return self.function()


def on_hosts(sizes, function):
    """Call ``function`` on ranks of several hosts, of so many ranks each."""
    hosts = [ThreadComm(r, shared) for n in sizes for shared in [_Shared(n)] for r in range(n)]

    class Hosted(ThreadComm):
        host = property(lambda self: hosts[self.rank])

    return on_ranks(len(hosts), lambda comm: function(Hosted(comm.rank, comm._shared)))


def some_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    fortran = np.asfortranarray(rng.normal(size=(4, 5)))
    train = Dataset(x, rng.integers(0, 2, 50), ("a", "b"), "t")
    return {"train": train, "empty": np.zeros((0, 3)), "f": fortran, "texts": np.array(["a", None])}


def check_same(found, expected):
    np.testing.assert_array_equal(found["train"].x, expected["train"].x)
    np.testing.assert_array_equal(found["train"].y, expected["train"].y)
    np.testing.assert_array_equal(found["f"], expected["f"])
    np.testing.assert_array_equal(found["texts"], expected["texts"])
    assert found["train"].classes == ("a", "b")
    assert found["empty"].shape == (0, 3)
    assert found["f"].flags.f_contiguous


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (1, 2), (1, 1)])
def test_each_host_reads_once(sizes):
    make = Counted(some_data)
    for found in on_hosts(sizes, lambda comm: shared_by_host(comm, make)):
        check_same(found, some_data())
    assert make.calls == len(sizes)


def test_a_process_alone_makes_it_without_a_copy():
    made = object()
    assert shared_by_host(ALONE, lambda: made) is made
    assert shared_by_all(ALONE, lambda: made) is made


def test_what_a_rank_writes_it_has_for_itself():
    def on_rank(comm):
        x = shared_by_host(comm, lambda: np.arange(5000.0))
        comm.barrier()
        x[comm.rank] = -1
        comm.barrier()
        return x

    for rank, x in enumerate(on_ranks(3, on_rank)):
        expected = np.arange(5000.0)
        expected[rank] = -1
        np.testing.assert_array_equal(x, expected)


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "MEMORY", str(tmp_path))
    there, write = [], host._Handed.write

    def failing(handed):
        there.append([*tmp_path.iterdir()])
        write(handed)
        msg = "it was written to"
        raise DataError(msg)

    on_ranks(2, lambda comm: shared_by_host(comm, some_data))
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(host._Handed, "write", failing)
    with pytest.raises(DataError, match="it was written to"):
        on_ranks(2, lambda comm: shared_by_host(comm, some_data))
    assert there == [[]]  # it had lost its name before


def test_no_file_is_left_where_another_host_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "MEMORY", str(tmp_path))

    def on_rank(comm):
        made = [np.ones(3)] if comm.rank == 0 else lambda: "what is not pickled"
        return shared_by_host(comm, lambda: made)

    with pytest.raises(Exception, match="pickle"):
        on_hosts((2, 2), on_rank)
    assert not [*tmp_path.iterdir()]


def test_the_file_is_in_memory_where_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "MEMORY", str(tmp_path))
    monkeypatch.setattr(host.tempfile, "tempdir", "/elsewhere")
    assert host._folder(100) == str(tmp_path)
    assert host._folder(2**80) == "/elsewhere"
    monkeypatch.setattr(host, "MEMORY", str(tmp_path / "none"))
    assert host._folder(100) == "/elsewhere"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is a disk that is always full")
def test_a_full_disk_is_said(monkeypatch):
    def full(prefix, dir):
        return os.open("/dev/full", os.O_WRONLY), f"{dir}/xpnet-full"

    monkeypatch.setattr(host.tempfile, "mkstemp", full)
    monkeypatch.setattr(host, "_opened", lambda path, stack: None)
    with pytest.raises(DataError, match=r"no room for 8,000 bytes .* TMPDIR"):
        on_ranks(2, lambda comm: shared_by_host(comm, lambda: np.ones(1000)))


def test_a_rank_that_does_not_see_the_file_reads_itself(monkeypatch):
    make = Counted(some_data)
    monkeypatch.setattr(host, "_opened", lambda path, stack: None)
    for found in on_ranks(2, lambda comm: shared_by_host(comm, make)):
        check_same(found, some_data())
    assert make.calls > 1


@pytest.mark.parametrize("share", [shared_by_host, shared_by_all])
def test_an_error_is_the_same_on_all_ranks(share):
    def make():
        msg = "t.csv: line 3: bad"
        raise DataError(msg, python="x=1", command="--x 1")

    def on_rank(comm):
        with pytest.raises(DataError) as caught:
            share(comm, make)
        return str(caught.value), caught.value.at_command_line

    assert on_ranks(3, on_rank) == [("t.csv: line 3: bad: x=1", "t.csv: line 3: bad: --x 1")] * 3


def test_an_error_of_one_host_is_one_of_all():
    def on_rank(comm):
        def make():
            if comm.rank:
                msg = "no such file"
                raise DataError(msg)

        with pytest.raises(DataError, match="no such file"):
            shared_by_host(comm, make)

    on_hosts((2, 2), on_rank)


def test_an_error_that_cannot_be_pickled_is_told():
    class LocalError(Exception):
        pass

    def make():
        msg = "lost"
        raise LocalError(msg)

    def on_rank(comm):
        expected = LocalError if comm.rank == 0 else RuntimeError
        with pytest.raises(expected, match="lost"):
            shared_by_all(comm, make)

    on_ranks(2, on_rank)


def test_what_all_ranks_have_is_made_by_the_first_alone():
    make = Counted(lambda: {"columns": 3})
    assert on_hosts((2, 1), lambda comm: shared_by_all(comm, make)) == [{"columns": 3}] * 3
    assert make.calls == 1


def test_a_rank_that_works_says_so(monkeypatch):
    monkeypatch.setattr(host, "BEAT", 0.02)
    rounds = []

    class Recording(ThreadComm):
        def allgather(self, value):
            found = super().allgather(value)
            rounds.append(any(isinstance(v, host._Said) and v.busy for v in found))
            return found

    def slow():
        time.sleep(0.3)
        return 7

    def on_rank(comm):
        return shared_by_all(Recording(comm.rank, comm._shared), slow)

    before = threading.active_count()
    assert on_ranks(2, on_rank) == [7, 7]
    assert sum(rounds) >= 2 * 5
    assert threading.active_count() == before


def test_work_that_is_interrupted_says_no_more():
    class Alone(ThreadComm):
        def allgather(self, value):
            pytest.fail("it has left")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.agreed(Alone(0, _Shared(2)), interrupted)
    time.sleep(3 * host.QUICK)


@pytest.mark.long
def test_processes_have_the_same_pages(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((400_000, 10)))
    done = run_script(
        3,
        """
        import sys, re
        from xpnet.parallel import shared_by_host
        x = shared_by_host(comm, lambda: np.load(sys.argv[1]))
        x.sum()
        comm.barrier()
        address = x.__array_interface__["data"][0]
        maps = open("/proc/self/smaps").read().splitlines()
        heads = [i for i, line in enumerate(maps) if re.match("[0-9a-f]+-[0-9a-f]+ ", line)]
        for i in heads:
            low, high = (int(v, 16) for v in maps[i].split()[0].split("-"))
            if low <= address < high:
                sizes = dict(line.split(":") for line in maps[i + 1 : i + 20] if "kB" in line)
                dirty = int(sizes["Private_Dirty"].split()[0])
                shared = sum(int(sizes[k].split()[0]) for k in ("Shared_Clean", "Shared_Dirty"))
                print(comm.rank, shared > 30_000, dirty < 1_000, "deleted" in maps[i], flush=True)
        comm.barrier()
        """,
        tmp_path / "x.npy",
    )
    assert sorted(done.lines) == [f"{rank} True True True" for rank in range(3)], done.err


@pytest.mark.long
def test_processes_wait_for_longer_than_the_time_out():
    done = run_script(
        2,
        """
        import time
        from xpnet.parallel import shared_by_all
        from xpnet.parallel.settings import Parallel
        comm = join(Parallel(timeout=1.0))
        def make():
            time.sleep(2.2)
            return "made"
        print(comm.rank, shared_by_all(comm, make), flush=True)
        """,
    )
    assert sorted(done.lines) == ["0 made", "1 made"], done.err
