"""Steps of a batch that ranks share: what one GPU can show of them.

    python -m gpu.ranks FILE

Of two ranks the other one adds nothing here, so that to the last bit the step must be the one of a
process alone: with the sums of an NCCL of one rank in its graph, in one or several buckets, and
through the host between two graphs. The difference in time is what a barrier costs. If mpi4py is
installed, two processes also train on the one GPU, and must come to what one process comes to.
"""

import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gpu.commands import SMALL, called
from gpu.keeping import Kept
from gpu.subject import SHRINK, SUBJECTS, Subject, taken
from xpnet.kernels.cuda.buffers import arrays
from xpnet.parallel import Local, Share
from xpnet.parallel.across import Across
from xpnet.parallel.settings import Parallel
from xpnet.storage import CheckpointFolder, load

NAMES = ("Adam, softmax of 10", "layer norm, dropout", "clip by norm", "bfloat16")
WARM, TIMED = 6, 4 if SHRINK > 1 else 300  # steps
BUCKETS = 3
BOUND = 1e-3  # between the parameters of two ranks and of one process, relative to the largest
SECONDS = 15.0


class Host(Local):
    """Two ranks whose sums the host takes, and of which the other one adds nothing."""

    size, takes_device = 2, False


class Stream(Host):
    """The same as calls of the stream: a stand-in for NCCL in a rehearsal."""

    takes_device = on_stream = True


def nccl() -> Any:
    """Return NCCL with one rank, which says that it has two."""
    if SHRINK > 1:
        return Stream()
    from xpnet.parallel import ALONE
    from xpnet.parallel.nccl import NcclComm

    comm = NcclComm(ALONE, 0, timeout=SECONDS, end=lambda line: sys.exit(f"NCCL: {line}"))
    comm.size = 2
    return comm


def steps(subject: Subject, comm: Any, buckets: int) -> tuple[list[bytes], float, str]:
    """Take steps; return the bits of the state after the first, microseconds per step, the note."""
    across = None
    if comm is not None:
        across = Across(comm, Share(), np.asarray, np.asarray, settings=Parallel(buckets=buckets))
    ready = taken(subject, across=across)
    for _ in range(WARM):
        state = ready.take()
    bits = [ready.executor.to_host(x).tobytes() for x in arrays(state)]
    began = time.perf_counter()
    for _ in range(TIMED):
        state = ready.take()
    ready.executor.to_host(state.totals.loss)
    return bits, 1e6 * (time.perf_counter() - began) / TIMED, ready.step.note


def compared(kept: Kept) -> None:
    """Compare each way of summing with the step of a process alone."""
    found: dict[str, dict[str, Any]] = {}
    ways = {"nccl": (nccl, 1), f"nccl, {BUCKETS} buckets": (nccl, BUCKETS), "host": (Host, 1)}
    for name in NAMES:
        wanted, alone, note = steps(SUBJECTS[name], None, 1)
        found[name] = {"alone": {"microseconds": alone, "step": note}}
        for way, (make, buckets) in ways.items():
            try:
                bits, microseconds, note = steps(SUBJECTS[name], make(), buckets)
            except Exception as error:  # continue with the next one
                kept.miss(f"{name}, {way}: {type(error).__name__}: {error}")
                continue
            unlike = sum(a != b for a, b in zip(bits, wanted, strict=True))
            found[name][way] = {"microseconds": microseconds, "step": note, "different": unlike}
            kept.put(steps=found)
            print(f"{name}, {way}: {microseconds:.1f} us, alone {alone:.1f} us; {note}", flush=True)
            if unlike:
                kept.miss(f"{name}, {way}: {unlike} arrays of the state have other bits")
            if "CUDA graph" not in note:
                kept.miss(f"{name}, {way}: the step is no graph: {note}")


def parameters(run: str) -> np.ndarray:
    """Return the parameters of a run's last checkpoint."""
    last = list(CheckpointFolder(Path(run) / "checkpoints").steps().values())[-1]
    named = load(last).tensors
    return np.concatenate([x.ravel() for k, x in named.items() if k.startswith("params/")])


def two_processes(kept: Kept) -> None:
    """Train on the GPU alone, and in two processes that MPI connects."""
    if find_spec("mpi4py") is None or SHRINK > 1:
        kept.put(mpi="not tried: mpi4py is not installed, or this is a rehearsal")
        return
    given = ("train", "digits", "--device", "cuda", "--set", "epochs=3", "--set", "report=no")
    two = ("--ranks", "2", "--set", "parallel.engine=mpi")
    with tempfile.TemporaryDirectory() as folder:
        try:
            one, both = f"{folder}/one", f"{folder}/both"
            said = [
                called(*given, *SMALL, "--out", one),
                called(*given, *SMALL, *two, "--out", both),
            ]
            a, b = parameters(one), parameters(both)
        except Exception as error:  # what a command says is in it
            kept.miss(f"two processes: {type(error).__name__}: {error}")
            return
    difference = float(np.abs(a - b).max() / np.abs(a).max())
    kept.put(mpi=said[1].splitlines(), difference=difference)
    print(f"two processes: the parameters differ by at most {difference:.1e}", flush=True)
    kept.within("parameters of two processes and of one", difference, BOUND)


def main(file: str) -> int:
    """Try every way."""
    kept = Kept(file)
    compared(kept)
    two_processes(kept)
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
