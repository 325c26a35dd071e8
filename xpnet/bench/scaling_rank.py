"""One rank of the measurement in :mod:`xpnet.bench.scaling`.

``python -m xpnet.bench.scaling_rank JOB``: the job is JSON on the command line, and rank 0 prints
what was measured as a line of JSON.
"""

import copy
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from xpnet.bench.networks import SEED, Network, parse_network
from xpnet.bench.setting import Setting
from xpnet.errors import BackendError
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.parallel import ALONE, Comm, Local, join
from xpnet.parallel.settings import Parallel
from xpnet.step import Batch, StepInputs
from xpnet.training.engine import Engine

__all__ = ["Apart", "Clock", "measure_job", "summed_bytes"]

T = TypeVar("T")
WARM_UP, MOST = 3, 2000  # steps
FIT = (1.125, 0.75, 0.375, 0.1875, 0.09375)  # of the batch: the shares of 1, 2 and 4 ranks are not
SIZES = tuple(4**k for k in range(5, 13))  # bytes of the sums that are measured alone
BITS_AFTER = 10  # steps


class Clock:
    """The seconds that are spent in the sums of a comm."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, comm: Comm) -> Comm:
        """Return the comm with its sums timed."""
        found = copy.copy(comm)
        begin = self._timed(comm.iallreduce)
        timed = {
            "allreduce": self._timed(comm.allreduce),
            "allgather": self._timed(comm.allgather),
            "iallreduce": lambda x: self._timed(begin(x)),
        }
        for name, call in timed.items():
            setattr(found, name, call)
        return found

    def _timed(self, call: Callable[..., T]) -> Callable[..., T]:
        def run(*given: Any) -> T:
            began = time.perf_counter()
            result = call(*given)
            self.seconds += time.perf_counter() - began
            return result

        return run


class Apart(Local):
    """A rank of so many that hears nothing of the others: its steps have all but the sum."""

    name = "apart"
    takes_device = False

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, rank, size

    def allgather(self, value: T) -> list[T]:
        return [value] * self.size


class Steps:
    """The steps of one engine on one batch of ``rows``, of which it has its share."""

    def __init__(
        self, network: Network, rows: int, comm: Comm, parallel: Parallel = Parallel()
    ) -> None:
        setting = Setting()
        backend, self._rule, self.rows = setting.backend("numpy"), network.rule(), rows
        self.engine = Engine(
            backend,
            network.model(),
            SoftmaxCrossEntropy(),
            self._rule,
            seed=SEED,
            comm=comm,
            parallel=parallel,
        )
        share = self.engine.share
        own = share.positions(rows)
        rng = np.random.default_rng(SEED)
        x = rng.normal(size=(rows, network.widths[0])).astype(setting.dtype)
        y = rng.integers(0, network.widths[-1], rows).astype(np.int32)
        self._shared = None if share.is_whole else rows
        self._batch, self._taken = Batch(backend.asarray(x[own]), backend.asarray(y[own])), 0

    def take(self) -> None:
        self._taken += 1
        numbers = self._rule.coefficients(self._rule.lr, self._taken)
        self.engine.train(self._batch, StepInputs(self._taken - 1, numbers, rows=self._shared))

    def timed(self, count: int) -> list[float]:
        """Return the microseconds of so many steps."""
        spent = []
        for _ in range(count):
            began = time.perf_counter()
            self.take()
            spent.append((time.perf_counter() - began) * 1e6)
        return spent

    def digest(self) -> str:
        """Return what tells bits of the parameters from others."""
        return hashlib.sha256(self.engine.host_state().params.tobytes()).hexdigest()

    def many(self, comm: Comm, seconds: float) -> int:
        """Return how many steps take so long, the same number on all ranks; warms up, too."""
        self.take()
        comm.barrier()
        (spent,) = self.timed(1)
        if comm.bcast(spent < seconds * 1e6):
            self.timed(WARM_UP)
            spent = statistics.median(self.timed(3))
        return comm.bcast(max(2, min(MOST, round(seconds * 1e6 / spent))))


def measure_job(job: dict[str, Any], comm: Comm) -> dict[str, Any] | None:
    """Measure on all ranks; rank 0 has the result."""
    seconds = job["seconds"]
    found: dict[str, Any] = {"ranks": comm.size, "networks": {}}
    for text in job["networks"]:
        network, N = parse_network(text), parse_network(text).batch_size
        of: dict[str, Any] = {"strong": _steps(network, N, comm, Parallel(), seconds)}
        if comm.size == 1:
            of["digest"] = _bits(network, comm)
        else:
            of["weak"] = _steps(network, N * comm.size, comm, Parallel(), seconds)
        if job["alone"]:
            # in turns; rank 0 of two, which hears nothing of the other, has the same rows
            comms = (ALONE, Apart(0, 2))
            pairs = [[_fitted(network, share, seconds, c) for c in comms] for share in FIT]
            of["fit"], of["fit_shared"] = zip(*pairs, strict=True)
        for name, options in job["variants"].items():
            of[name] = _steps(network, N, comm, Parallel(**options), seconds)
        found["networks"][text] = of
    if comm.size > 1:
        found["sums"] = [(size, _alone(comm, size, seconds / 4)) for size in SIZES]
    if job["alone"]:
        found["added"] = _added()
    return found if comm.rank == 0 else None


def _steps(
    network: Network, rows: int, comm: Comm, parallel: Parallel, seconds: float
) -> dict[str, Any]:
    """Steps with their sums, the same without, and such a sum alone."""
    clock = Clock()
    steps = Steps(network, rows, clock.on(comm), parallel)
    count = steps.many(comm, seconds)
    comm.barrier()
    clock.seconds, began = 0.0, time.perf_counter()
    each = steps.timed(count)
    whole = (time.perf_counter() - began) / count * 1e6
    of_ranks = comm.allgather((whole, clock.seconds / count * 1e6))
    if comm.size > 1 and len(set(comm.allgather(steps.digest()))) > 1:
        msg = f"{network}: the ranks have different parameters after the same steps"
        raise BackendError(msg)
    found: dict[str, Any] = {
        "rows": rows,
        "step": max(w for w, _ in of_ranks),
        "in_sums": statistics.mean(s for _, s in of_ranks),
        "each": [round(t, 1) for t in each],
        "note": steps.engine.step.note,
    }
    if comm.size > 1:
        del steps  # as large as the next
        apart = Steps(network, rows, Apart(comm.rank, comm.size), parallel)
        count = apart.many(comm, seconds / 2)
        comm.barrier()
        computing = statistics.mean(apart.timed(count))
        found["computing"] = max(comm.allgather(computing))
        found["sum_alone"] = _alone(comm, summed_bytes(network), seconds / 4)
    return found


def summed_bytes(network: Network) -> int:
    """Return the bytes of a step's sum: the gradient and four numbers, in float32."""
    widths = network.widths
    return 4 * (4 + sum((i + 1) * j for i, j in pairwise(widths)))


def _fitted(network: Network, share: float, seconds: float, comm: Comm) -> tuple[int, float]:
    """The rows of a step, and its microseconds."""
    rows = max(1, round(network.batch_size * share))
    steps = Steps(network, comm.size * rows, comm)
    return rows, statistics.mean(steps.timed(steps.many(ALONE, seconds)))


def _bits(network: Network, comm: Comm) -> str:
    steps = Steps(network, network.batch_size, comm)
    steps.timed(BITS_AFTER)
    return steps.digest()


def _alone(comm: Comm, size: int, seconds: float) -> float:
    """The microseconds of a sum of so many bytes, of ranks that come to it together."""
    x, spent, began = np.zeros(size // 4, np.float32), [], time.perf_counter()
    going = True
    while going:
        for _ in range(8):
            comm.barrier()
            at = time.perf_counter()
            comm.allreduce(x)
            spent.append((time.perf_counter() - at) * 1e6)
        going = comm.bcast(time.perf_counter() - began < seconds)
    return statistics.median(max(t) for t in zip(*comm.allgather(spent[8:] or spent), strict=True))


def _added() -> float:
    """GB/s that one process adds to a vector."""
    x, y = np.zeros(2**22, np.float32), np.ones(2**22, np.float32)
    spent = []
    for _ in range(9):
        began = time.perf_counter()
        x += y
        spent.append(time.perf_counter() - began)
    return y.nbytes / statistics.median(spent) / 1e9


def main(text: str) -> None:
    """Measure what the job says, and print it."""
    job = json.loads(text)
    comm = ALONE if job["alone"] else join(Parallel(engine="mpi", timeout=job["timeout"]))
    found = measure_job(job, comm)
    if found is not None:
        print(f"measured {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
