"""MpiComm between processes: what the ranks tell one another, and how a job ends."""

import pytest
from real_ranks import run_script

pytestmark = pytest.mark.long


def test_what_ranks_tell_one_another():
    done = run_script(
        2,
        """
        x = np.arange(5.0) * (comm.rank + 1)
        comm.allreduce(x)
        assert x.tolist() == [0, 3, 6, 9, 12]
        wait = comm.iallreduce(x)
        wait()
        assert x.tolist() == [0, 6, 12, 18, 24]
        comm.allreduce(np.zeros(0, np.float32))
        given = comm.bcast({"a": np.arange(3) + comm.rank} if comm.rank == 0 else None)
        assert given["a"].tolist() == [0, 1, 2]
        rows = comm.allgather(np.full((comm.rank + 1, 3), comm.rank, np.float32))
        assert [r.tolist() for r in rows] == [[[0] * 3], [[1] * 3] * 2]
        rows[1][:] = 5  # they are this rank's own
        assert comm.allgather("é" * comm.rank) == ["", "é"]
        assert (comm.local_rank, comm.local_size) == (comm.rank, 2)
        assert comm.host.bcast(comm.rank) == 0
        comm.barrier()
        print("well")
        """,
    )
    assert (done.code, done.lines, done.err) == (0, ["well"] * 2, "")
