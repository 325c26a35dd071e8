"""A model of a step that n ranks share: computing, summing, and waiting for the slowest.

    T(n) = E[max of n] c(ceil(N/n)) + s(n, B)        c(rows) = a + b rows

a is what every rank does whatever its rows (the update, and what a step takes at all), b each row's
part, both fitted to steps of one process that takes its share and hears of no other; s is the sum
of B bytes over n ranks, fitted to sums alone or from :mod:`xpnet.bench.collectives`; E[max of n] is
how much longer the slowest of n ranks takes, of step times as measured. None of them comes from the
steps that T is checked with.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from xpnet.bench.collectives import Link, allreduce
from xpnet.bench.model import Machine, modelled
from xpnet.bench.networks import Network
from xpnet.bench.setting import Setting

__all__ = [
    "ETHERNET",
    "INFINIBAND",
    "LIMITS",
    "Compute",
    "Predicted",
    "Shared",
    "Sums",
    "expected_max",
    "fit_compute",
    "fit_sums",
    "halves_at",
    "least_rows",
    "nccl",
    "on_gpu",
    "over",
    "predict",
    "slowest",
]

# What others have measured or say, mostly by OSU's benchmarks.
INFINIBAND = Link(
    1.0,
    21.3,
    source="InfiniBand is HDR, 200 Gb/s: 21.3 GB/s between two ConnectX-6 cards "
    "(openucx/ucx#8851), and about 1 µs (open-mpi/ompi#5808)",
)
ETHERNET = Link(
    9.9,
    5.8,
    source="Ethernet is a cloud's, 100 Gb/s with EFA on hpc6a: 9.9 µs, 4 MiB in 726 µs "
    "(aws/aws-parallelcluster#6449)",
)

MOST_ROWS = 2**19  # of a rank

# Why n ranks are not n times as fast: letter in a table -> what takes the most of what is lost.
LIMITS = {
    "a": "what every rank does, whatever its rows",
    "r": "more ranks than rows",
    "w": "waiting for the slowest rank",
    "l": "latency of the sum",
    "b": "bytes of the sum",
}


@dataclass(frozen=True)
class Compute:
    """Microseconds of a step without its sum, by the rows that a rank has of the batch."""

    fixed: float
    per_row: float

    def __call__(self, rows: int) -> float:
        return self.fixed + self.per_row * rows


@dataclass(frozen=True)
class Sums:
    """Microseconds of a sum over n ranks, α log2 n + 2 (n - 1)/n B β, as fitted."""

    latency: float
    per_byte: float

    def __call__(self, n: int, size: float) -> float:
        return self.latency * math.log2(n) + 2 * (n - 1) / n * size * self.per_byte


class Shared(NamedTuple):
    """A step that ranks share, as the model knows it.

    ``alone`` is what a step takes that nobody shares, where that is another one.
    """

    rows: int  # of the batch; where it grows with the ranks, of each rank
    size: float  # bytes that are summed
    compute: Callable[[int], float]
    sums: Callable[[int, float], float]  # microseconds for n ranks and so many bytes
    slowest: Callable[[int], float] = lambda n: 1.0  # of n ranks, relative to one
    alone: Callable[[int], float] | None = None


class Predicted(NamedTuple):
    """Microseconds of a step on n ranks, and what becomes of them."""

    n: int
    rows: int  # of the whole batch
    compute: float  # of the rank with most rows, were it always as fast
    waiting: float  # beyond that, for the slowest
    latency: float
    moving: float  # what the sum takes beyond its latency
    lost: dict[str, float]  # microseconds beyond a perfect n-th of one rank's, by letter
    efficiency: float  # 1 where n ranks do n times as much in the same time

    @property
    def microseconds(self) -> float:
        """The whole step."""
        return self.compute + self.waiting + self.latency + self.moving

    @property
    def limit(self) -> str:
        """The letter of what takes the most of what is lost; "" where nothing is."""
        worst = max(self.lost, key=lambda letter: self.lost[letter])
        return worst if self.lost[worst] > 1e-9 * self.microseconds else ""

    @property
    def idle(self) -> int:
        """The ranks that have no row."""
        return max(0, self.n - self.rows)


def predict(step: Shared, n: int, *, weak: bool = False) -> Predicted:
    """Return the model of a step on n ranks.

    The batch is the same for every n (strong scaling), or with ``weak`` the rows of each rank are.
    """
    rows = step.rows * n if weak else step.rows
    whole = (step.alone or step.compute)(step.rows)
    compute = step.compute(-(-rows // n)) if n > 1 else whole
    waiting = max(0.0, step.slowest(n) - 1.0) * compute
    latency = step.sums(n, 0) if n > 1 else 0.0
    moving = step.sums(n, step.size) - latency if n > 1 else 0.0
    perfect = whole if weak else whole / n
    lost = {
        "r" if n > rows else "a": compute - perfect,
        "w": waiting,
        "l": latency,
        "b": moving,
    }
    efficiency = perfect / (compute + waiting + latency + moving)
    return Predicted(n, rows, compute, waiting, latency, moving, lost, efficiency)


def halves_at(step: Shared, ranks: Sequence[int], *, weak: bool = False) -> int | None:
    """Return the first number of ranks whose efficiency is below a half; None if none is."""
    found = (n for n in ranks if predict(step, n, weak=weak).efficiency < 0.5)
    return next(found, None)


def least_rows(step: Shared, n: int, efficiency: float) -> int | None:
    """Return how many rows each of n ranks needs at least; None beyond :data:`MOST_ROWS`."""

    def enough(rows: int) -> bool:
        return predict(step._replace(rows=rows), n, weak=True).efficiency >= efficiency

    high = 1
    while not enough(high):
        high *= 2
        if high > MOST_ROWS:
            return None
    low = high // 2  # not enough
    while high - low > max(1, high // 64):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def fit_compute(points: Sequence[tuple[int, float]]) -> Compute:
    """Fit a + b rows to (rows, microseconds), neither negative, by relative least squares."""
    return Compute(*_fitted([((1.0, rows), spent) for rows, spent in points]))


def fit_sums(points: Sequence[tuple[int, float, float]]) -> Sums:
    """Fit α and β of :class:`Sums` to (n, bytes, microseconds), as :func:`fit_compute`."""
    return Sums(*_fitted([((math.log2(n), 2 * (n - 1) / n * B), spent) for n, B, spent in points]))


def _fitted(points: Sequence[tuple[tuple[float, float], float]]) -> tuple[float, float]:
    """The two factors, at least 0, with the least sum of squared relative errors."""
    terms = np.array([t for t, _ in points]) / np.array([[spent] for _, spent in points])
    ones = np.ones(len(points))
    found = np.linalg.lstsq(terms, ones, rcond=None)[0]
    if (found < 0).any():  # the other one alone
        each = [float(c @ ones / (c @ c)) for c in terms.T]
        errors = [float(((c * f - 1) ** 2).sum()) for c, f in zip(terms.T, each, strict=True)]
        found = np.array([each[0], 0.0] if errors[0] <= errors[1] else [0.0, each[1]])
    return float(found[0]), float(found[1])


def expected_max(samples: Sequence[float] | np.ndarray, n: int) -> float:
    """Return the mean of the largest of n draws from ``samples``, with replacement.

    Of m sorted samples, the i-th is the largest with probability (i/m)^n - ((i - 1)/m)^n.

    >>> expected_max([1.0, 3.0], 1), expected_max([1.0, 3.0], 2)
    (2.0, 2.5)
    """
    x = np.sort(samples)
    below = (np.arange(len(x) + 1) / len(x)) ** n
    return float(x @ np.diff(below))


def slowest(rounds: Sequence[Sequence[float]]) -> Callable[[int], float]:
    """Return how much longer the slowest of n ranks takes, from the step times of some rounds.

    It is the median over the rounds, so that what befell one of them does not count.
    """

    def factor(n: int) -> float:
        return float(np.median([expected_max(r, n) / np.mean(r) for r in rounds]))

    return factor


# NCCL's own model of its collectives, one GPU per host: microseconds of a call and of a hop, and
# the share of the bandwidth (NVIDIA/nccl at 01afd20, src/graph/tuning.cc): LL, LL128 and Simple.
TREES = ((4.4, 5.0, 0.9 / 3.8), (4.4, 8.5, 0.9 * 0.915), (0.0, 50.0, 0.9))
RINGS = ((3.6, 2.7, 0.25), (10.0, 4.0, 0.7), (8.4, 9.6, 1.0))


def nccl(link: Link, n: int, size: float) -> float:
    """Return the microseconds of NCCL's fastest sum over n GPUs, each on a host of its own.

    Its latencies are of InfiniBand; a network that is slower has so much more at each hop.
    """
    more = max(0.0, link.latency - INFINIBAND.latency)
    wire = size / link.bandwidth / 1e3
    depth = math.ceil(math.log2(n))
    trees = (base + 2 * depth * (hop + more) + 2 * wire / share for base, hop, share in TREES)
    rings = (base + 2 * (n - 1) * (hop + more + wire / n / share) for base, hop, share in RINGS)
    return min(*trees, *rings)


def over(link: Link) -> Callable[[int, float], float]:
    """Return the sums of an MPI over hosts that are linked so."""
    return lambda n, size: allreduce(link, n, size)


def on_gpu(
    network: Network, setting: Setting, machine: Machine, measured: float
) -> Callable[[int], float]:
    """Return the microseconds by rows, from those measured for the network's whole batch.

    Other numbers of rows are to that as the launches and bytes of :mod:`xpnet.bench.model` say.
    """

    @cache
    def of(rows: int) -> float:
        return modelled(replace(network, batch_size=max(1, rows)), setting, machine).microseconds

    whole = of(network.batch_size)
    return lambda rows: measured * of(rows) / whole
