"""Several processes that train one model together: data-parallel training.

comm.py       what the processes tell one another, and a process alone
share.py      which rows of a batch are whose
across.py     sums over the processes, of arrays of any library
settings.py   how they work together: the section [parallel] of a config
joining.py    with which other processes this one was started
launcher.py   what the environment says of that
world.py      MPI as it was started, and how all end at once
mpi.py        the ranks that MPI connects
nccl.py       ranks with a GPU each, whose sums are taken there
gpus.py       which GPU is whose
watch.py      a call that waits for too long ends the job
probe.py      which engines are here
failure.py    how a job ends where a rank fails
host.py       what one rank makes for the others of its host
"""

from xpnet.parallel.comm import ALONE, Comm, Local
from xpnet.parallel.failure import end_together
from xpnet.parallel.gpus import own_device
from xpnet.parallel.host import agreed, shared_by_all, shared_by_host
from xpnet.parallel.joining import join
from xpnet.parallel.settings import Parallel
from xpnet.parallel.share import WHOLE, Share

__all__ = [
    "ALONE",
    "WHOLE",
    "Comm",
    "Local",
    "Parallel",
    "Share",
    "agreed",
    "end_together",
    "join",
    "own_device",
    "shared_by_all",
    "shared_by_host",
]
