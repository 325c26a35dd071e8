"""How a training step scales over processes: measured here, and modelled beside it.

The ranks are processes of an MPI on this machine, one thread each. Every number of ranks has its
turn in every round, beside a process without MPI that measures what the model is fitted to; the
medians over the rounds count. Where there are more ranks than cores they share these, which the
model knows.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from xpnet.backends.threads import cores
from xpnet.bench.collectives import Link
from xpnet.bench.networks import Network, parse_network
from xpnet.bench.scaling_model import (
    Compute,
    Predicted,
    Shared,
    Sums,
    fit_compute,
    fit_sums,
    over,
    predict,
    slowest,
)
from xpnet.bench.scaling_rank import summed_bytes
from xpnet.errors import BackendError

__all__ = ["RANKS", "SCALED", "VARIANTS", "Measured", "Point", "Scaling", "measure_scaling"]

RANKS = (1, 2, 4)
SCALED = tuple(
    map(
        parse_network,
        (
            "64-32-10:32:sgd",
            "784-512-256-10:128:adam",
            "784-2500-2000-1500-1000-500-10:256:adam",
        ),
    )
)
VARIANTS: dict[str, dict[str, Any]] = {
    "four buckets": {"buckets": 4},
    "in order": {"reduce": "ordered"},
}
KINDS = ("strong", "weak")
LIMIT = 900.0  # seconds of one round of one number of ranks
ALONE = 0  # as a number of ranks: a process without MPI


class Point(NamedTuple):
    """The medians of a step on some ranks, in microseconds."""

    ranks: int
    rows: int  # of the whole batch
    step: float
    in_sums: float  # of that, in sums, waiting for the others included
    computing: float  # of the slowest rank, the sums left out
    sum_alone: float  # of ranks that come to it together
    note: str

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.step * 1e6


@dataclass(frozen=True)
class Measured:
    """What was measured of one network, and what the model was fitted to."""

    network: Network
    size: int  # bytes of a sum
    points: Mapping[str, Mapping[int, Point]]  # "strong", "weak" or a variant -> ranks -> point
    alone: Compute  # of a step that nobody shares
    compute: Compute  # of a rank's part of one
    rounds: Sequence[Sequence[float]]  # microseconds of single steps of one process
    one_rank: float  # a step on one rank of an MPI, relative to one without, in the best rounds
    same_bits: bool  # of these two

    def efficiency(self, kind: str, n: int) -> float:
        """Return how near n ranks come to n times as much in the same time."""
        alone, point = self.points["strong"][1], self.points[kind][n]
        return point.rate / alone.rate / n

    def speed_up(self, kind: str, n: int) -> float:
        """Return how many times the rows per second of one rank."""
        return self.efficiency(kind, n) * n


@dataclass(frozen=True)
class Scaling:
    """The networks, and what their sums take."""

    networks: Sequence[Measured]
    sums: Mapping[int, Sums]  # by number of ranks
    sizes: Mapping[int, Sequence[tuple[int, float]]]  # what they are fitted to
    added: float  # GB/s that a process adds to a vector
    cores: int
    load: float | None  # processes that wanted a core before, on average; None on Windows

    def modelled(self, measured: Measured, n: int, *, weak: bool = False) -> Predicted:
        """Return the model of a step here, where more ranks than cores take turns on these."""
        turns = max(1.0, n / self.cores)

        def sums(n: int, size: float) -> float:
            return self.sums[n](n, size)

        step = Shared(
            measured.network.batch_size,
            measured.size,
            lambda rows: turns * measured.compute(rows),
            sums,
            slowest(measured.rounds),
            measured.alone,
        )
        return predict(step, n, weak=weak)

    def elsewhere(self, measured: Measured, link: Link, *, waiting: bool = False) -> Shared:
        """Return the step of hosts with such a core each, which are linked so.

        With ``waiting`` they are disturbed as this machine is while it measures.
        """
        return Shared(
            measured.network.batch_size,
            measured.size,
            measured.compute,
            over(link._replace(added=self.added)),
            slowest(measured.rounds) if waiting else lambda n: 1.0,
            measured.alone,
        )


def measure_scaling(
    networks: Sequence[Network],
    launcher: Sequence[str],
    python: Sequence[str] = (sys.executable,),
    *,
    ranks: Sequence[int] = RANKS,
    rounds: int = 5,
    seconds: float = 0.2,
    variants: Mapping[str, Mapping[str, Any]] = VARIANTS,
    report: Callable[[str], None] = lambda line: None,
) -> Scaling:
    """Measure the steps of the networks on so many ranks each.

    ``launcher`` are the words that start ranks, ``python`` those of which they are started.

    ``seconds`` is what one measurement of a round takes, at least two steps. Raises BackendError if
    ranks cannot be started, or fail.
    """
    ranks, load = sorted({1, *ranks}), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    side = max(n for n in ranks if n <= max(2, cores()))  # for variants: not more than cores
    found: dict[int, list[dict[str, Any]]] = {n: [] for n in (ALONE, *ranks)}
    for number in range(rounds):
        for n in found:
            report(f"round {number + 1} of {rounds}: {_named(n)}")
            job = {
                "networks": list(map(str, networks)),
                "seconds": seconds,
                "alone": n == ALONE,
                "variants": dict(variants) if n == side > 1 else {},
                "timeout": LIMIT,
            }
            start = [] if n == ALONE else [*launcher, "-n", str(n)]
            found[n].append(_run_job(job, n, [*start, *python]))
    sizes = {n: _sums(found[n]) for n in ranks if n > 1}
    return Scaling(
        [_measured(network, found) for network in networks],
        {n: fit_sums([(n, *point) for point in points]) for n, points in sizes.items()},
        sizes,
        statistics.median(r["added"] for r in found[ALONE]),
        cores(),
        load,
    )


def _named(n: int) -> str:
    return "without MPI" if n == ALONE else f"{n} rank{'s' * (n > 1)}"


def _run_job(job: Mapping[str, Any], n: int, start: Sequence[str]) -> dict[str, Any]:
    """What the ranks of a job measure; ``start`` are the words that start them."""
    command = [*start, "-m", "xpnet.bench.scaling_rank", json.dumps(job)]
    # A rank that computed with more threads than one would take the cores of the others.
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **threads},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        msg = f"cannot start {command[0]}: {error.strerror or error}"
        raise BackendError(msg) from None
    try:
        out, err = process.communicate(timeout=job["timeout"])
    except BaseException as error:  # whatever it is, no rank is left behind
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            msg = f"{_named(n)}: nothing was measured in {job['timeout']:g} s"
            raise BackendError(msg) from None
        raise
    lines = [line for line in out.splitlines() if line.startswith("measured ")]
    if process.returncode or not lines:
        msg = f"{_named(n)}: {_last(err) or _last(out) or 'no output'}"
        raise BackendError(msg)
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("measured "))
    return found


def _last(text: str) -> str:
    """The last error of a rank; without one, the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    errors = [
        line for line in lines if re.match(r"xpnet: |error: |[\w.]+(Error|Exception): ", line)
    ]
    return [*lines, *errors][-1] if lines else ""


def _sums(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """The median of each size over the rounds."""
    each = zip(*(r["sums"] for r in rounds), strict=True)
    return [(of[0][0], statistics.median(spent for _, spent in of)) for of in each]


def _measured(network: Network, found: Mapping[int, list[dict[str, Any]]]) -> Measured:
    of = {n: [r["networks"][str(network)] for r in rounds] for n, rounds in found.items()}
    points: dict[str, dict[int, Point]] = {}
    for n, rounds in of.items():
        for kind in rounds[0].keys() - {"fit", "fit_shared", "digest"}:
            points.setdefault(kind, {})[n] = _point(n, [r[kind] for r in rounds])
    points["weak"] = {1: points["strong"][1], **points.get("weak", {})}
    alone, compute = (_fit(r[name] for r in of[ALONE]) for name in ("fit", "fit_shared"))
    return Measured(
        network,
        summed_bytes(network),
        points,
        alone,
        compute,
        [r["strong"]["each"] for r in of[ALONE]],
        _undisturbed(of[1]) / _undisturbed(of[ALONE]),
        len({r["digest"] for n in (ALONE, 1) for r in of[n]}) == 1,
    )


def _undisturbed(rounds: Sequence[Mapping[str, Any]]) -> float:
    """The microseconds of most steps in the best round."""
    return min(statistics.median(r["strong"]["each"]) for r in rounds)


def _fit(rounds: Iterable[Sequence[tuple[int, float]]]) -> Compute:
    """The fit to the medians over the rounds."""
    each = zip(*rounds, strict=True)
    return fit_compute([(of[0][0], statistics.median(t for _, t in of)) for of in each])


def _point(n: int, rounds: Sequence[Mapping[str, Any]]) -> Point:
    def median(name: str, without: float) -> float:
        return statistics.median(r.get(name, without) for r in rounds)

    step = median("step", 0.0)
    return Point(
        n,
        rounds[0]["rows"],
        step,
        median("in_sums", 0.0),
        median("computing", step),
        median("sum_alone", 0.0),
        rounds[0]["note"],
    )
