"""What a sum over n ranks takes: closed forms, and a simulation of each message, rank by rank.

The usual model: a message of m bytes takes α + m β, and adding up what it brings m γ; each rank
sends and receives at the same time, and no two messages are in each other's way. For B bytes and
n = 2^L ranks

    recursive doubling           L α + L B (β + γ)
    halving and doubling        2L α + 2 (n - 1)/n B β + (n - 1)/n B γ
    ring                 2 (n - 1) α + 2 (n - 1)/n B β + (n - 1)/n B γ

[R. Thakur, R. Rabenseifner, W. Gropp (2005): Optimization of collective communication operations in
MPICH. Int. J. High Performance Computing Applications 19(1), 49-66]. Where n is no power of two,
the first two send the rows of some ranks to their neighbours first, and the sum back at the end.
The closed forms and the simulation know nothing of each other: tests hold them to each other.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["ALGORITHMS", "Algorithm", "Link", "allreduce", "closed_form", "simulate"]

Simulation = tuple[np.ndarray, np.ndarray]


class Link(NamedTuple):
    """What a message takes between two ranks, one host each."""

    latency: float  # α: microseconds of a message without contents
    bandwidth: float  # 1/β: GB/s in each direction
    added: float = math.inf  # 1/γ: GB/s of a sum that a rank adds up
    source: str = ""

    def message(self, size: float, *, summed: bool = False) -> float:
        """Return the microseconds of a message of ``size`` bytes, and of adding it up."""
        spent = self.latency + size / self.bandwidth / 1e3
        return spent + size / self.added / 1e3 if summed else spent


class Algorithm(NamedTuple):
    """A way to have the sum of a vector on all ranks."""

    name: str
    cost: Callable[[Link, int, float], float]  # microseconds for n ranks and so many bytes
    simulated: Callable[["_Messages", int], np.ndarray]


def closed_form(name: str, link: Link, n: int, size: float) -> float:
    """Return the microseconds in which n ranks sum ``size`` bytes; 0 for one rank."""
    return 0.0 if n == 1 else ALGORITHMS[name].cost(link, n, size)


def allreduce(link: Link, n: int, size: float) -> float:
    """Return what the fastest of :data:`ALGORITHMS` takes, as an MPI library chooses by size."""
    return min(closed_form(name, link, n, size) for name in ALGORITHMS)


def simulate(
    name: str,
    link: Link,
    arrivals: np.ndarray,
    size: float,
    *,
    jitter: float = 0.0,
    seed: int = 0,
) -> Simulation:
    """Simulate a sum, message by message, over the ranks that come to it at ``arrivals`` (n,).

    Each message takes longer than its α by an exponentially distributed time whose mean is
    ``jitter`` microseconds. Returns when each rank has the sum (n,), and how many times each part
    of each rank's vector has each rank's summand (n, parts): all are n if the sum is right.
    """
    messages = _Messages(link, np.array(arrivals, float), size, jitter, seed)
    counts = np.ones((1, 1), int)
    if len(arrivals) > 1:
        counts = ALGORITHMS[name].simulated(messages, len(arrivals))
    return messages.at, counts


class _Messages:
    """When each rank is done with what it has sent and received."""

    def __init__(self, link: Link, at: np.ndarray, size: float, jitter: float, seed: int) -> None:
        self.at, self._link, self._size = at, link, size
        self._jitter, self._rng = jitter, np.random.default_rng(seed)

    def move(self, to: np.ndarray, source: np.ndarray, part: float, *, summed: bool) -> None:
        """All ranks ``to`` receive a part of the vector from ``source``, once both are there."""
        spent = self._link.message(part * self._size, summed=summed)
        late = self._rng.exponential(self._jitter, len(to)) if self._jitter else 0.0
        before = self.at.copy()
        self.at[to] = np.maximum(before[to], before[source]) + spent + late


def _exact(n: int) -> tuple[int, int]:
    """The largest power of two, as 2^L, up to n, and the ranks beyond it."""
    L = n.bit_length() - 1
    return L, n - 2**L


def _doubling_cost(link: Link, n: int, size: float) -> float:
    L, beyond = _exact(n)
    spent = L * link.message(size, summed=True)
    return spent + _folded_cost(link, size) if beyond else spent


def _halving_cost(link: Link, n: int, size: float) -> float:
    L, beyond = _exact(n)
    moved = size * (2**L - 1) / 2**L
    spent = 2 * L * link.latency + (2 * moved / link.bandwidth + moved / link.added) / 1e3
    return spent + _folded_cost(link, size) if beyond else spent


def _folded_cost(link: Link, size: float) -> float:
    return link.message(size, summed=True) + link.message(size)


def _ring_cost(link: Link, n: int, size: float) -> float:
    part = size / n
    return (n - 1) * (link.message(part, summed=True) + link.message(part))


def _folded(messages: _Messages, n: int, parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave a power of two: of each of the first pairs, one gives what it has to the other."""
    _, beyond = _exact(n)
    gone, kept = 2 * np.arange(beyond), 2 * np.arange(beyond) + 1
    counts = np.ones((n, parts), int)
    if beyond:
        messages.move(kept, gone, 1.0, summed=True)
        counts[kept] += counts[gone]
    return counts, np.concatenate([kept, np.arange(2 * beyond, n)]), gone


def _unfolded(messages: _Messages, counts: np.ndarray, gone: np.ndarray) -> np.ndarray:
    if len(gone):
        messages.move(gone, gone + 1, 1.0, summed=False)
        counts[gone] = counts[gone + 1]
    return counts


def _doubling(messages: _Messages, n: int) -> np.ndarray:
    counts, ranks, gone = _folded(messages, n, 1)
    for k in range(_exact(n)[0]):
        partners = ranks[np.arange(len(ranks)) ^ 2**k]
        messages.move(ranks, partners, 1.0, summed=True)
        counts[ranks] += counts[partners]
    return _unfolded(messages, counts, gone)


def _halving(messages: _Messages, n: int) -> np.ndarray:
    L = _exact(n)[0]
    counts, ranks, gone = _folded(messages, n, 2**L)
    i, mine = np.arange(2**L), np.ones((2**L, 2**L), bool)  # of each rank, the parts it sums
    for k in range(L):
        messages.move(ranks, ranks[i ^ 2**k], 0.5 ** (k + 1), summed=True)
        mine &= (i[None, :] >> k) % 2 == (i[:, None] >> k) % 2
        counts[ranks] += counts[ranks[i ^ 2**k]] * mine
    for k in reversed(range(L)):
        messages.move(ranks, ranks[i ^ 2**k], 0.5 ** (k + 1), summed=False)
        other = mine[i ^ 2**k]
        counts[ranks] = np.where(other, counts[ranks[i ^ 2**k]], counts[ranks])
        mine |= other
    return _unfolded(messages, counts, gone)


def _ring(messages: _Messages, n: int) -> np.ndarray:
    ranks, counts = np.arange(n), np.ones((n, n), int)
    before = ranks - 1  # the neighbour that each rank hears from
    for k in range(2 * (n - 1)):
        summed, part = k < n - 1, (before - k) % n
        messages.move(ranks, before, 1 / n, summed=summed)
        received = counts[before, part]
        counts[ranks, part] = counts[ranks, part] + received if summed else received
    return counts


ALGORITHMS = {
    a.name: a
    for a in (
        Algorithm("recursive doubling", _doubling_cost, _doubling),
        Algorithm("halving and doubling", _halving_cost, _halving),
        Algorithm("ring", _ring_cost, _ring),
    )
}
