"""What `xpnet backends` says of MPI and NCCL."""

import importlib.util
import types

import nccl_on_threads
import pytest

from xpnet.parallel import probe
from xpnet.parallel.probe import Engine, engines

FOUND = "4.1.2\nMPICH\n5.0.2\n"
NO_LIBRARY = (
    'Traceback:\n  File "x"\nRuntimeError: cannot load MPI library\nlibmpi.so: no such file'
)
HYDRA = "HYDRA build details:\n    Version: 5.0.2"
OPEN = "mpiexec (Open MPI) 5.0.11"


@pytest.mark.parametrize(
    ("here", "asked", "launcher", "its_version", "found"),
    [
        (False, None, None, None, Engine("mpi", None, (), "several processes need mpi4py and an "
            "MPI: pip install 'mpi4py>=4' mpich")),
        (True, (1, "", NO_LIBRARY), None, None, Engine("mpi", None, (),
            "mpi4py finds no MPI (cannot load MPI library): pip install mpich")),
        (True, (0, FOUND, ""), "/bin/mpiexec", HYDRA,
            Engine("mpi", "4.1.2", ("MPICH 5.0.2", "/bin/mpiexec"))),
        (True, (0, FOUND, ""), "/bin/mpiexec", OPEN,
            Engine("mpi", "4.1.2", ("MPICH 5.0.2", "/bin/mpiexec"), "/bin/mpiexec is of Open MPI, "
            "and mpi4py uses MPICH: start with the mpiexec of MPICH")),
        (True, (0, "4.1.2\nOpen MPI\n5.0.11\n", ""), "/bin/mpiexec", HYDRA,
            Engine("mpi", "4.1.2", ("Open MPI 5.0.11", "/bin/mpiexec"), "/bin/mpiexec is of "
            "another MPI, and mpi4py uses Open MPI: start with the mpiexec of Open MPI")),
        (True, (0, FOUND, ""), None, None, Engine("mpi", "4.1.2", ("MPICH 5.0.2",),
            "there is no mpiexec on the PATH that starts several processes: pip install mpich")),
    ],
)  # fmt: skip
def test_mpi(monkeypatch, here, asked, launcher, its_version, found):
    def run(words, **options):
        code, out, err = (0, its_version, "") if "--version" in words else asked
        return types.SimpleNamespace(returncode=code, stdout=out, stderr=err)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: here or None)
    monkeypatch.setattr(probe.subprocess, "run", run)
    monkeypatch.setattr(probe, "mpiexec", lambda: launcher)
    assert engines()[0] == found


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_nccl(monkeypatch, gpus):
    monkeypatch.setattr(probe, "visible_gpus", lambda: [bytes([i]) for i in range(gpus)])
    with nccl_on_threads.installed() as cupy:
        cupy.cuda.nccl.get_version = lambda: 23203
        uses = {0: (), 1: ("1 GPU",), 2: ("2 GPUs",)}[gpus]
        assert probe._nccl() == Engine("nccl", "2.32.3", uses)
        cupy.cuda.nccl.available = False
        note = "CuPy finds no NCCL: pip install nvidia-nccl-cu13"
        assert probe._nccl() == Engine("nccl", None, (), note)


@pytest.mark.long
def test_the_mpi_of_this_machine_is_found():
    pytest.importorskip("mpi4py", reason="mpi4py is asked for its MPI")
    mpi = engines()[0]
    assert mpi.version
    assert mpi.uses
    assert not mpi.note
