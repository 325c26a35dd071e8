"""Interleaved rounds, medians, and conditions on them."""

import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from xpnet.bench.contender import Contender, Make, Workload
from xpnet.bench.networks import LIMIT
from xpnet.errors import BackendError, ConfigError, first_line

__all__ = ["Expectation", "Row", "Timing", "measure", "time_steps"]

SLICE = 0.05  # seconds that one contender runs before the next one's turn
# Seconds between turns. A BLAS library's threads spin for some 30 ms before they sleep (OpenBLAS's
# THREAD_TIMEOUT), on the cores that the next contender needs.
PAUSE = 0.05
LONG = 1.0  # seconds: a step that takes longer needs no other one to wake its threads


class Timing(NamedTuple):
    """Microseconds per step over the rounds, and the median of the scores."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    note: str
    faults: float | None = None  # page faults per step
    score: float | None = None


class Row(NamedTuple):
    """One workload's timings."""

    workload: Any
    timings: dict[str, Timing]
    absent: dict[str, str]  # contender -> why it could not run
    profiles: Mapping[str, Mapping[str, float]] = {}  # contender -> part -> microseconds
    moved: Mapping[str, Mapping[str, int]] = {}  # contender -> kernel -> bytes read and written

    def ratio(self, name: str, to: str | None = None) -> float:
        """Return the time of ``name``'s step as a multiple of that of ``to``, or of the base."""
        return self.timings[name].median / self.timings[to or self.workload.base].median

    def rate(self, name: str) -> float:
        """Return the TFLOP/s of the step's matrix products."""
        return self.workload.flops() / self.timings[name].median / 1e6


def measure(
    workload: Workload,
    makes: Mapping[str, Make],
    *,
    rounds: int = 9,
    report: Callable[[str], None] = lambda line: None,
) -> Row:
    """Time the step of a workload for each contender, in turn, ``rounds`` times.

    Contenders that cannot run are listed in the row's ``absent``. Raises BackendError if the base,
    such as the GEMM limit, is among them: all ratios are relative to it.
    """
    ready: dict[str, Contender] = {}
    absent: dict[str, str] = {}
    spent = {}
    for name, make in makes.items():
        report(f"{workload}: warming up {name}")
        try:
            contender = make(workload)
            time_steps(contender, workload.warm_up)
            spent[name] = time_steps(contender, 1)
        except Exception as error:  # another library may raise anything; time the rest
            if name == workload.base:
                raise
            absent[name] = _reason(error)
            continue
        ready[name] = contender
    repeats = {name: max(1, round(SLICE / max(seconds, 1e-6))) for name, seconds in spent.items()}
    times: dict[str, list[float]] = {name: [] for name in ready}
    scores: dict[str, list[float]] = {name: [] for name in ready}
    faults = dict.fromkeys(ready, 0)
    for number in range(rounds):
        report(f"{workload}: round {number + 1} of {rounds}")
        for name, contender in ready.items():
            time.sleep(PAUSE)
            if spent[name] < LONG:  # wakes its threads and loads its parameters into the cache
                time_steps(contender, 1)
            before = page_faults() or 0
            times[name].append(time_steps(contender, repeats[name]) / repeats[name] * 1e6)
            faults[name] += (page_faults() or 0) - before
            if contender.score is not None:
                scores[name].append(contender.score())
    timings = {name: _timing(values, ready[name].note()) for name, values in times.items()}
    for name, timing in timings.items():
        per_step = None if page_faults() is None else faults[name] / (rounds * repeats[name])
        score = statistics.median(scores[name]) if scores[name] else None
        timings[name] = timing._replace(faults=per_step, score=score)
    return Row(workload, timings, absent)


def _reason(error: Exception) -> str:
    line = first_line(error)
    return line if isinstance(error, BackendError) else f"{type(error).__name__}: {line}"


def page_faults() -> int | None:
    """Return the minor page faults of this process so far; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def time_steps(contender: Contender, count: int) -> float:
    """Return the seconds of ``count`` steps, including the wait for the device."""
    contender.wait()
    began = time.perf_counter()
    for _ in range(count):
        contender.step()
    contender.wait()
    return time.perf_counter() - began


def _timing(values: list[float], note: str) -> Timing:
    if len(values) == 1:
        return Timing(values[0], values[0], values[0], note)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, low, high, note)


class Expectation(NamedTuple):
    """A condition on xpnet's ratio to another contender, such as ``ratio<=1.15``.

    ``ratio`` alone is the ratio to the base, such as the GEMM limit; ``ratio/PyTorch eager<1``
    names another contender. A row may come first: ``64-32-10:32:sgd ratio<=2``.
    """

    row: str | None
    other: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str, base: str = LIMIT) -> "Expectation":
        """Parse a condition; raises ConfigError.

        >>> Expectation.parse("ratio<=1.15")
        Expectation(row=None, other='GEMM limit', sign='<=', bound=1.15)
        """
        pattern = r"(?:(\S+:\S+)\s+)?ratio(?:/([^<>]+?))?\s*(<=|<)\s*(\d+(?:\.\d+)?)"
        match = re.fullmatch(pattern, text.strip())
        if not match:
            msg = "--expect takes [ROW] ratio[/CONTENDER]<=NUMBER, such as ratio<=1.15; "
            raise ConfigError(msg + f"got {text!r}")
        return cls(match[1], match[2] or base, match[3], float(match[4]))

    def failure(self, row: Row, name: str) -> str | None:
        """Return how ``row`` fails the condition; None if it holds."""
        if self.row not in (None, str(row.workload)):
            return None
        if name not in row.timings or self.other not in row.timings:
            return f"{row.workload}: {self.other if name in row.timings else name} was not timed"
        ratio = row.ratio(name, self.other)
        holds = ratio <= self.bound if self.sign == "<=" else ratio < self.bound
        if holds:
            return None
        return (
            f"{row.workload}: {name} takes {ratio:.2f} times {self.other}; "
            f"expected {self.sign} {self.bound:g}"
        )
