"""How many threads a training computes with on a CPU, found by measuring it.

The threads of a BLAS library spin while they wait for each other. On a free machine that is the
fastest way to wait; beside other busy processes each waits for one that is not running, and two
threads may be ten times slower than one. So no number is right for every network and machine: steps
are taken with 1, 2, 4, ... threads in turn, and the fewest that are within ``TOLERANCE`` of the
fastest are kept. In order of precedence:

    asked        ``threads=2``, ``--threads 2``
    environment  what a user has set by OMP_NUM_THREADS and its like is not measured against
    resumed      the number in the checkpoint: another sums in another order, so bits depend on it
    measured     once in a process for each kind of network: to train it again gives the same bits

Several ranks divide the cores of their host among them instead of resuming or measuring a number,
and where sums are "ordered" there is one thread: with two, BLAS gives other bits.

Two processes may measure differently and so differ in the last bits; ``threads`` pins the number.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

from xpnet.backends import Backend
from xpnet.backends.threads import cores
from xpnet.errors import BackendError, ConfigError
from xpnet.parallel import Comm
from xpnet.settings import PositiveInt, convert
from xpnet.step import Batch, StepInputs
from xpnet.training.engine import Engine

__all__ = [
    "VARIABLES",
    "Threads",
    "ThreadsSetting",
    "ONE",
    "candidates",
    "checked",
    "choose",
    "limited",
    "of_rank",
    "settled",
]

ThreadsSetting = PositiveInt | Literal["auto"]

# What the libraries read when they are loaded.
VARIABLES = tuple(f"{name}_THREADS" for name in ("OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "OMP_NUM"))
LONGEST = 0.3  # seconds of measuring, where a round of single steps does not take longer
SHARE = 0.05  # of the training
ROUNDS = 5  # in each of which every number has its turn
TOLERANCE = 1.05  # times the fastest: what more threads must gain to be worth their cores


class Threads(NamedTuple):
    """A number of threads and its reason; None leaves them to the library."""

    number: int | None
    why: str
    measured: bool = False

    def __str__(self) -> str:
        return f"{self.number or 'of the library'}: {self.why}"


ONE = Threads(1, "sums of the same bits on any number of ranks")


def checked(threads: Any) -> Any:
    """Return the setting ``threads``; raises ConfigError if it is not "auto" or 1 to the cores."""
    threads = convert(ThreadsSetting, threads, "threads")
    if threads != "auto" and threads > (most := cores()):
        msg = f"threads must be at most {most}, the cores that this process may use; got {threads}"
        raise ConfigError(msg, python="use threads='auto'", command="use --threads auto")
    return threads


def settled(
    backend: Backend,
    threads: int | Literal["auto"],
    recorded: Mapping[str, int],
    default: Threads | None = None,
) -> Threads | None:
    """Return what is known without measuring, or ``default``.

    ``recorded`` has the number of the training that is resumed, by the name of its backend. Raises
    BackendError for a number that is asked of a backend that cannot change it.
    """
    threads, pool = checked(threads), backend.threads()
    if pool is None:
        if threads != "auto":
            msg = f"backend {backend.name!r} on {backend.device_name} cannot change its threads"
            raise BackendError(msg, python="use threads='auto'", command="use --threads auto")
        return Threads(None, f"{backend.name} on {backend.device_name} cannot change them")
    if threads != "auto":
        return Threads(threads, "as asked for")
    if (name := next(filter(os.environ.get, VARIABLES), None)) is not None:
        return Threads(pool.given, f"set by {name}")
    # A checkpoint of a larger machine may have more than there are here; other bits it has anyway.
    if 1 <= recorded.get(backend.name, 0) <= cores():
        return Threads(recorded[backend.name], "as before the training was resumed")
    return default


def of_rank(comm: Comm) -> Threads:
    """Return the threads of one of several ranks, all of which call this: its part of the cores.

    Measured they are not: each rank would take other steps, and steps are taken together.
    """
    cores_here = getattr(os, "sched_getaffinity", lambda process: range(cores()))(0)
    here = platform.node(), sorted(cores_here)  # a launcher may have bound each to its own
    ranks = comm.allgather(here).count(here)
    number = max(1, cores() // ranks)
    return Threads(number, f"{cores()} cores for {ranks} ranks of this host")


def limited(backend: Backend, chosen: Threads | None) -> AbstractContextManager[None]:
    """Within it ``backend`` computes on its device, with the chosen number of threads."""
    pool = backend.threads()
    if pool is None or chosen is None or chosen.number is None:
        return backend.active()
    return pool.limited(chosen.number)  # of a CPU


_measured: dict[tuple, Threads] = {}  # in this process, by the kind of network


def choose(engine: Engine, batch: Batch, inputs: StepInputs, steps: int) -> Threads:
    """Return the number of threads for a training of that many ``steps`` like this one.

    The steps that are taken to measure it are forgotten: the engine's state is as it was.
    """
    pool = engine.backend.threads()
    if pool is None or engine.step.kind == "jit":
        return Threads(None, "a compiled step is compiled for as many as the library has")
    shapes = tuple(entry.shape for entry in engine.params_layout.entries)
    how = (engine.step.kind, engine.request.accumulate, engine.request.mixed)
    key = (repr(engine.backend), shapes, batch.x.shape, how, pool.given)
    if key not in _measured:
        numbers = candidates(pool.given)
        if len(numbers) == 1:
            return Threads(1, "the library has no more")
        with engine.rehearsal():
            _measured[key] = _measure(numbers, _stepper(engine, batch, inputs), pool.limited, steps)
    return _measured[key]


def candidates(most: int) -> list[int]:
    """Return the numbers to try: 1, 2, 4, ... and ``most``.

    >>> candidates(6)
    [1, 2, 4, 6]
    """
    return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]


def _stepper(engine: Engine, batch: Batch, inputs: StepInputs) -> Callable[[], None]:
    def step() -> None:  # not Engine.train, which those who watch a training may wrap
        engine.state, _ = engine.step.train(engine.state, batch, inputs)
        engine.backend.synchronize(engine.state.params)

    return step


def _measure(
    numbers: Sequence[int],
    step: Callable[[], None],
    limit: Callable[[int], AbstractContextManager[None]],
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Threads:
    """Take ``step`` with each of the ``numbers`` in turn, for a small share of all ``steps``."""
    with limit(1):
        step()  # compiles, and touches its buffers for the first time
        whole = steps * _seconds_a_step(step, 0.0, clock)
    if whole < LONGEST:
        return Threads(1, "the training is too short to measure others")
    if steps < len(numbers) / SHARE:
        return Threads(numbers[-1], "the training has too few steps to measure others")
    began, allowed = clock(), min(LONGEST, SHARE * whole)
    turn = allowed / ROUNDS / len(numbers)
    times: dict[int, list[float]] = {number: [] for number in numbers}
    while len(times[1]) < ROUNDS and (not times[1] or clock() < began + allowed):
        for number in numbers:
            with limit(number):
                times[number].append(_seconds_a_step(step, turn, clock))
    medians = {number: statistics.median(found) for number, found in times.items()}
    best = min(n for n in numbers if medians[n] <= TOLERANCE * min(medians.values()))
    found = ", ".join(f"{1e6 * t:,.0f} with {n}" for n, t in medians.items())
    return Threads(best, f"measured in {clock() - began:.2f} s, µs a step: {found}", measured=True)


def _seconds_a_step(step: Callable[[], None], turn: float, clock: Callable[[], float]) -> float:
    """The mean of a turn, as what makes a busy machine slow are the few steps that wait."""
    began, count, now = clock(), 0, 0.0
    while count == 0 or now < began + turn:
        step()
        count, now = count + 1, clock()
    return (now - began) / count
