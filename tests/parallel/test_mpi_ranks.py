"""MpiComm between processes: what the ranks tell one another, and how a job ends."""

import os
import subprocess
import sys
import textwrap

import pytest
from real_ranks import run, run_script

pytestmark = pytest.mark.long


def test_what_ranks_tell_one_another():
    done = run_script(
        2,
        """
        from xpnet.errors import BackendError
        from xpnet.parallel import gpus, mpi
        from xpnet.parallel.settings import Parallel
        for mpi.PIECE in (1 << 28, 3):  # the most numbers or bytes of one call of MPI
            x = np.arange(5.0) * (comm.rank + 1)
            comm.allreduce(x)
            assert x.tolist() == [0, 3, 6, 9, 12]
            wait = comm.iallreduce(x)
            wait()
            assert x.tolist() == [0, 6, 12, 18, 24]
            for dtype in ("float32", "int32", "int64"):
                x = np.arange(4, dtype=dtype)
                comm.allreduce(x)
                assert x.tolist() == [0, 2, 4, 6]
            comm.allreduce(np.zeros(0, np.float32))
            for x in (np.zeros(2, np.float16), np.zeros((2, 2)), [1.0]):
                try:
                    comm.allreduce(x)
                except BackendError as error:
                    assert "MPI sums " in str(error)
                else:
                    raise AssertionError(x)
            given = comm.bcast({"a": np.arange(3) + comm.rank} if comm.rank == 0 else None)
            assert given["a"].tolist() == [0, 1, 2]
            given["a"][0] = 3
            long = comm.bcast([np.arange(9), "é" * 999, np.zeros(0), comm.rank])
            assert (long[0][8], len(long[1]), long[2].size, long[3]) == (8, 999, 0, 0)
            assert comm.allgather("é" * 999 * comm.rank) == ["", "é" * 999]
            rows = comm.allgather(np.full((comm.rank + 1, 3), comm.rank, np.float32))
            assert [r.tolist() for r in rows] == [[[0] * 3], [[1] * 3] * 2]
            rows[1][:] = 5  # they are this rank's own
            two = comm.allgather((np.arange(3.0), np.zeros(0), np.full(comm.rank, 7)))
            assert [[len(a) for a in of] for of in two] == [[3, 0, 0], [3, 0, 1]]
            assert two[1][2][0] == 7 and two[0][0].tolist() == [0, 1, 2]
            assert comm.allgather("é" * comm.rank) == ["", "é"]
            assert (comm.local_rank, comm.local_size) == (comm.rank, 2)
            assert comm.host.bcast(comm.rank) == 0
            assert comm.note.startswith("2 ranks on this host, connected by ")
            assert join() is comm
        gpus.visible_gpus = list
        for device, error in (("cpu", "CuPy on GPUs, and the"), ("auto", "sees no GPU")):
            try:
                join(Parallel(engine="nccl"), device=device)
            except BackendError as refused:
                assert error in str(refused)
            else:
                raise AssertionError(device)
        comm.barrier()
        print("well")
        """,
    )
    assert (done.code, done.lines, done.err) == (0, ["well"] * 2, "")


WAITS = "comm.allreduce(np.zeros(235_146, np.float32))\n"


def ends(size, text, **options):
    """How a job ends within ten seconds, and the lines on standard error."""
    done = run_script(size, text, seconds=10, **options)
    return done.code, done.err.splitlines()


def test_an_error_of_one_rank_ends_the_others_and_is_told_with_its_rank():
    code, lines = ends(2, f"if comm.rank == 1: raise ValueError('no such thing')\n{WAITS}")
    assert code == 1
    assert lines[0].startswith("rank 1: Traceback")
    assert lines[-1] == "ValueError: no such thing"
    assert sum("Error" in line for line in lines) == 1


def test_a_gpu_that_hangs_does_not_keep_the_job():
    text = f"""
    import time
    from xpnet.parallel import world
    world.before_abort.append(lambda: time.sleep(60))
    if comm.rank == 1: raise ValueError('no such thing')
    {WAITS}"""
    code, lines = ends(2, text)
    assert (code, lines[-1]) == (1, "ValueError: no such thing")


def test_an_error_of_all_ranks_is_told_once_and_without_the_launcher():
    code, lines = ends(3, f"{WAITS}raise ValueError('no such thing')")
    assert code == 1
    assert [line for line in lines if not line.startswith(" ")] == [
        "Traceback (most recent call last):",
        "ValueError: no such thing",
    ]


def test_different_errors_of_all_ranks_are_told_with_their_ranks():
    code, lines = ends(2, "raise ValueError(f'of {comm.rank}')")
    assert code == 1
    assert {"ValueError: of 0", "ValueError: of 1"} <= set(lines)
    assert sum(line.startswith(("rank 0: ", "rank 1: ")) for line in lines) == 2


@pytest.mark.parametrize(("rank", "code"), [(0, 0), (1, 7)])
def test_a_rank_that_leaves_is_not_waited_for(rank, code):
    found, lines = ends(2, f"if comm.rank == {rank}: raise SystemExit({code})\n{WAITS}")
    assert found == 1
    (line,) = lines
    assert line.startswith(f"xpnet: rank {1 - rank} has waited ")
    assert "in a sum of 235,146 numbers (<string>:5): " in line
    assert line.endswith(f": rank {rank} has ended")


def test_a_rank_that_is_killed_ends_the_job():
    text = f"import os, signal\nif comm.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n{WAITS}"
    code, _ = ends(2, text)
    assert code in (9, 137)


def test_a_call_that_waits_too_long_ends_the_job():
    text = """
    import time
    from xpnet.parallel.settings import Parallel
    comm = join(Parallel(timeout=1))
    if comm.rank == 1: time.sleep(60)
    comm.barrier()
    """
    code, (line,) = ends(2, text)
    assert code == 1
    assert "xpnet: rank 0 has waited 1 s for the other ranks in a barrier (<string>:" in line
    assert line.endswith("take another path; parallel.timeout = 2 allows more")


def test_a_rank_that_never_joins_is_not_waited_for():
    script = """
    import os, time
    from xpnet.parallel import join
    from xpnet.parallel.launcher import launched
    from xpnet.parallel.settings import Parallel
    if launched().rank == 1: time.sleep(60)
    join(Parallel(timeout=1))
    """
    done = run(2, "-c", textwrap.dedent(script), seconds=10)
    assert done.code == 1
    assert "xpnet: rank 0 has waited 1 s for the other ranks in the start of MPI (" in done.err


@pytest.mark.parametrize("apart", [False, True])
def test_an_error_before_the_ranks_meet_is_told(apart):
    """The other one is never heard of: it has ended, or trains by itself."""
    script = f"""
    import os, sys
    from xpnet.parallel import failure, join
    from xpnet.parallel.launcher import launched
    from xpnet.parallel.settings import Parallel
    failure.START = 1
    if {apart}: join(Parallel(engine="none"))
    if launched().rank == 0: sys.exit()
    failure.end_together("no", lambda who: print(who + "no such file", file=sys.stderr), 2)
    sys.exit(2)
    """
    done = run(2, "-c", textwrap.dedent(script), seconds=10)
    assert (done.code, done.err) == (2, "rank 1: no such file\n")


def test_processes_that_mpi_does_not_connect_are_refused():
    """As under the launcher of another MPI: each of them would train alone."""
    variables = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "8"}
    script = "from xpnet.parallel import join; join()"
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert "mpiexec of Open MPI has started 8 processes, but mpi4py's MPI, " in last
    assert ", sees 1: that launcher is of another MPI: start them with " in last
