"""Several processes that train one model together: data-parallel training.

comm.py       what the processes tell one another, and a process alone
share.py      which rows of a batch are whose
across.py     sums over the processes, of arrays of any library
settings.py   how they work together: the section [parallel] of a config
joining.py    how this process was started, and with which others
launcher.py   what the environment says of that
mpi.py        the processes that MPI connects
watch.py      a call that waits for too long ends the job
"""

from xpnet.parallel.comm import ALONE, Comm, Local
from xpnet.parallel.joining import join
from xpnet.parallel.share import WHOLE, Share

__all__ = ["ALONE", "WHOLE", "Comm", "Local", "Share", "join"]
