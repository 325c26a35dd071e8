"""How a process was started, which GPU is whose, and what is refused; without MPI."""

import sys
import threading
import types

import nccl_on_threads
import pytest
from thread_ranks import on_ranks

from xpnet.errors import BackendError
from xpnet.parallel import ALONE, gpus, join, joining, nccl, own_device, world
from xpnet.parallel.launcher import VARIABLES, Launch, launched
from xpnet.parallel.settings import Parallel


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for _, *names in VARIABLES:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)


HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2"}
STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "16"}


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        (HYDRA, ("mpiexec", 1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, ("mpiexec of Open MPI", 0, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, None),  # sbatch, salloc
        (STEP, ("srun", 3, 8)),
        ({**STEP, "PMIX_RANK": "3"}, ("srun", 3, 8)),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", **HYDRA}, ("mpiexec", 1, 2)),  # inside of an srun
        ({"PMIX_RANK": "2"}, ("a launcher with PMIx", 2, None)),
        ({"PMI_RANK": "1"}, None),
    ],
)
def test_the_environment_says_how_a_process_was_started(variables, found):
    assert launched(variables) == found


def test_one_process_is_alone_and_starts_no_mpi(monkeypatch):
    monkeypatch.setattr(joining, "world", lambda *given: pytest.fail("MPI is started"))
    for engine in ("auto", "mpi", "nccl", "none"):
        assert join(Parallel(engine=engine)) is ALONE
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")
    assert join() is ALONE
    monkeypatch.setenv("PMI_SIZE", "2")
    assert join(Parallel(engine="none")) is ALONE


class Broken(types.ModuleType):
    """mpi4py without the library of an MPI, as it fails."""

    rc = types.SimpleNamespace()

    def __getattr__(self, name):
        msg = "cannot load MPI library\nlibmpi.so.12: cannot open shared object file"
        raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            {"mpi4py": None},
            "mpiexec has started 2 processes: to train together they need mpi4py and an MPI: "
            "pip install 'mpi4py>=4' mpich",
        ),
        (
            {"mpi4py": Broken("mpi4py")},
            "mpiexec has started 2 processes: to train together they need an MPI, and mpi4py finds "
            "none (cannot load MPI library): pip install mpich, or load the module of your "
            "cluster's MPI",
        ),
    ],
)
def test_without_mpi_several_processes_are_refused(monkeypatch, modules, message):
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name, value in HYDRA.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError) as error:
        join()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("launcher", "remedy"),
    [
        ("mpiexec", "that launcher is of another MPI: start them with "),
        ("srun", "connect them by srun --mpi=pmi2 or --mpi=pmix "),
    ],
)
def test_a_launcher_of_another_mpi_is_refused(monkeypatch, launcher, remedy):
    alone = types.SimpleNamespace(Get_size=lambda: 1)
    mpi = types.SimpleNamespace(
        Is_initialized=lambda: True, COMM_WORLD=alone, get_vendor=lambda: ("MPICH", (5, 0, 2))
    )
    monkeypatch.setattr(world, "load_mpi", lambda who: mpi)
    monkeypatch.setattr(world, "_started", [])
    with pytest.raises(BackendError) as error:
        world.world(Launch(launcher, 3, 8), 60)
    assert str(error.value).startswith(
        f"{launcher} has started 8 processes, but mpi4py's MPI, MPICH 5.0.2, sees 1: {remedy}"
    )


# of each rank of a host: the GPUs it sees -> the device it is given
@pytest.mark.parametrize(
    ("seen", "devices"),
    [
        ([b"ab", b"ab"], ["cuda:0", "cuda:1"]),
        ([b"a", b"b"], ["cuda:0", "cuda:0"]),  # as Slurm binds them
        ([b"ab", b"ab", b"ab"], ["cuda:0", "cuda:1", "cuda:0"]),
        ([b"", b""], ["cuda", "cuda"]),
    ],
)
def test_each_rank_of_a_host_has_a_gpu_of_its_own(monkeypatch, seen, devices):
    ranks_see(monkeypatch, seen)
    found = on_ranks(len(seen), lambda comm: [own_device(at(comm), d) for d in ("cuda", "cpu")])
    assert found == [[device, "cpu"] for device in devices]


def ranks_see(monkeypatch, seen):
    monkeypatch.setattr(gpus, "visible_gpus", lambda: [bytes([b]) for b in seen[at.own.rank]])


def at(comm):
    """The rank, which `visible_gpus` of this thread then knows."""
    at.own.rank = comm.rank
    return comm


at.own = threading.local()


@pytest.mark.parametrize(
    ("seen", "device", "available", "name", "said"),
    [
        ([b"ab", b"ab"], "auto", True, "nccl", "sums by NCCL"),
        ([b"ab", b"ab"], "cuda", True, "nccl", "sums by NCCL"),
        ([b"ab", b"ab"], "cuda:1", True, "threads", "ranks 1 and 0 share a GPU"),
        ([b"a", b"a"], "auto", True, "threads", "ranks 1 and 0 share a GPU"),
        ([b"a", b"b"], "auto", False, "threads", "CuPy finds no NCCL: pip install nvidia-nccl-cu"),
        ([b"", b""], "auto", True, "threads", ""),
        ([b"a", b""], "auto", True, "threads", "rank 1 sees no GPU"),
    ],
)
def test_ranks_with_a_gpu_each_sum_by_nccl(monkeypatch, seen, device, available, name, said):
    ranks_see(monkeypatch, seen)
    monkeypatch.setattr(nccl, "Watch", Unwatched)

    def rank(comm):
        made = joining._with_gpus(at(comm), Parallel(), device)
        note = made.note
        assert made.name == name
        assert joining._with_gpus(comm, Parallel(reduce="ordered"), device) is comm
        comm.note = ""
        try:
            joining._with_gpus(comm, Parallel(engine="nccl"), device)
        except BackendError as error:
            return note, str(error)
        return note, ""

    with nccl_on_threads.installed(available):
        found = on_ranks(2, rank)
    nccl.before_abort.clear()
    assert said in found[0][0]
    assert {error for _, error in found} == ({""} if name == "nccl" else {found[0][1]})
    assert (name == "nccl") != found[0][1].startswith("engine 'nccl' cannot be used: ")


class Unwatched:
    """A watch that looks at nothing."""

    def __init__(self, *given):
        pass

    def __call__(self, *what):
        return self

    __enter__ = __exit__ = __call__


@pytest.mark.parametrize(
    ("backend", "device", "takes"),
    [
        ("auto", "auto", True),
        ("cupy", "cuda:1", True),
        ("auto", "cpu", False),
        ("numpy", "auto", False),
        ("torch", "cuda", False),
    ],
)
def test_nccl_is_for_arrays_of_cupy(backend, device, takes):
    assert joining._takes_cupy(backend, device) is takes
