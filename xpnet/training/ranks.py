"""What the ranks of a training ask one another, so that all of them do the same.

Every rank runs the whole of :meth:`Trainer.fit`, and takes its rows of each batch. Within a step
the sums over the ranks keep them together (:mod:`xpnet.step.data_parallel`). Beside it the loop
asks the object here, which for a process alone has nobody to ask.

    before the first step  all were given the same settings and the same data; same weights
    now and then           does one of them want to stop, or has found a number that is not finite?
    at an epoch's end      the record of rank 0, and once more the weights

To ask costs a small sum over the ranks. Within an epoch it is done after the first two steps of a
fit, and from there on about every 0.2 seconds, by the clock of rank 0; before that only after a
step at which a callback looks (:meth:`Callback.steps_between`). A callback that looks at every step
so stops all ranks after that very step, and a signal within about 0.2 seconds.
"""

import math
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from xpnet.errors import ConfigError, TrainingError, XpnetError, XpnetWarning
from xpnet.parallel import ALONE, WHOLE, Comm, Share, agreed
from xpnet.parallel.settings import Parallel
from xpnet.step import TrainState
from xpnet.training.callbacks import MANY, Callback, EpochMetrics, overridden, steps_between
from xpnet.training.engine import Engine
from xpnet.training.given import compare
from xpnet.training.threads import Threads, of_rank

__all__ = ["Alone", "NotFiniteError", "Several", "check_ranks", "ranks_of"]

T = TypeVar("T")
SECONDS = 0.2  # between two exchanges about a stop


class NotFiniteError(TrainingError):
    """What one rank has found by itself: all ranks together find out where it comes from."""

    def __init__(self, bad_step: int) -> None:
        self.bad_step = bad_step
        super().__init__(f"training is not finite in step {bad_step + 1}")

    def __reduce__(self) -> tuple[Any, ...]:
        return NotFiniteError, (self.bad_step,)


def check_ranks(comm: Any, parallel: Any, batch_size: int) -> tuple[Comm, Parallel]:
    """Return what a trainer is given of ranks; None is this process alone.

    Raises ConfigError for what is neither, and for more ranks than can share a batch.
    """
    if not isinstance(parallel, Parallel):
        msg = f"parallel must be a Parallel; got {parallel!r}"
        call, option = "xpnet.parallel.Parallel(reduce='ordered')", "--set parallel.reduce=ordered"
        raise ConfigError(msg, python=call, command=option)
    if comm is None and parallel.engine in ("mpi", "nccl"):
        msg = f"parallel names {parallel.engine}, and comm, the ranks, is not given"
        call = "pass comm=xpnet.parallel.join(parallel) as well"
        raise ConfigError(msg, python=call, command="start the ranks with --ranks N")
    if comm is not None and not isinstance(comm, Comm):
        msg = f"comm must be a Comm, or None for this process alone; got {comm!r}"
        raise ConfigError(msg, python="xpnet.parallel.join(parallel) returns one")
    comm = ALONE if comm is None else comm
    if comm.size > batch_size:
        msg = f"{comm.size} ranks cannot share batches of {batch_size} rows: start at most "
        msg += f"{batch_size} ranks, or raise batch_size"
        raise ConfigError(msg)
    if parallel.reduce == "ordered" and comm.size > parallel.parts:
        msg = f"with reduce 'ordered' a batch has {parallel.parts} parts, too few for {comm.size} "
        msg += f"ranks: start at most {parallel.parts}, or raise parts, which changes the bits"
        raise ConfigError(msg)
    return comm, parallel


class Alone:
    """The ranks of a training, as its loop asks them: here a process alone.

    ``is_first`` is whether this is rank 0; ``validation`` is this rank's share of the batches of a
    validation; ``together`` is whether all ranks are where this one is.
    """

    is_first, together = True, True

    def __init__(self, comm: Comm, validation: Share) -> None:
        self.comm, self.validation = comm, validation

    def threads(self) -> Threads | None:
        """Return how many threads this rank computes with, unless that is to be measured."""
        return None

    def callbacks(self, callbacks: list[Callback]) -> list[Callback]:
        """Return those that run on this rank."""
        return callbacks

    def all_of(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, or raise on all ranks what it raises on one, with its rank.

        It may take long, and does not ask the others.
        """
        return work()

    def compare(self, given: Callable[[], Mapping[str, Any]]) -> None:
        """Raise ConfigError or DataError, on all ranks, where they were given different things."""

    def same_state(self, engine: Engine, state: TrainState) -> TrainState:
        """Return the host state that all ranks go on with, of that of this rank."""
        return state

    def read(self, trainer: Any) -> EpochMetrics:
        """Return :meth:`Trainer.read`, where all ranks come to it."""
        return trainer.read()

    def first_bad(self, bad_step: int) -> int:
        """Return the first step that is not finite on any rank, or -1."""
        return bad_step

    def agree(self, trainer: Any) -> bool:
        """Return whether training stops, as one of the ranks is to, before or after an epoch."""
        return trainer.stopped is not None

    def steps_left(self, step: int) -> int:
        """Return how many steps after ``step`` the ranks ask each other again."""
        return MANY

    def after_step(self, trainer: Any, hooks: Sequence[Callable]) -> bool:
        """Call the hooks of a step; return whether training stops here, within an epoch."""
        for hook in hooks:
            hook(trainer)
        return trainer.stopped is not None and trainer.position.batch < trainer.steps_per_epoch

    def batches(self, parts: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        """Return host arrays of the validation's batches, of this rank's shares of them."""
        return parts


class Several(Alone):
    """One of several ranks."""

    together = False

    def __init__(self, comm: Comm, validation: Share) -> None:
        super().__init__(comm, validation)
        self.is_first = comm.rank == 0
        self._next = 0  # the step after which the ranks ask each other
        self._pace = math.inf  # seconds a step
        self._since = 0, 0.0  # the step of the last exchange, and when it was
        self._found = False  # whether a callback has found what is not finite
        self._warned = False

    def threads(self) -> Threads:
        return of_rank(self.comm)

    def callbacks(self, callbacks: list[Callback]) -> list[Callback]:
        return [c for c in callbacks if self.is_first or not c.first_rank_only]

    def all_of(self, work: Callable[[], T]) -> T:
        def attempt() -> tuple[Any, XpnetError | None]:
            try:
                return work(), None
            except XpnetError as error:
                return None, error

        value, failure = agreed(self.comm, attempt)
        failures = self.comm.allgather(failure)
        failed = [rank for rank, error in enumerate(failures) if error is not None]
        if failed:
            if failure is not None and len({*map(str, failures)}) == 1:
                raise failure
            where = f"rank {failed[0]}"
            raise failures[failed[0]].within(where)
        return value

    def compare(self, given: Callable[[], Mapping[str, Any]]) -> None:
        compare(self.comm.allgather(given()))

    def same_state(self, engine: Engine, state: TrainState) -> TrainState:
        sums = self.comm.allgather(_checksum(state))
        others = [rank for rank, found in enumerate(sums) if found != sums[0]]
        if not others:
            return state
        state = self.comm.bcast(state)
        if not self.is_first:
            engine.set_state(state)
        elif not self._warned:
            names = ", ".join(map(str, others))
            msg = f"the weights of rank {names} were not those of rank 0, with which all go on: "
            msg += "different processors round differently, or weights were set on one rank alone"
            warnings.warn(msg, XpnetWarning, stacklevel=2)
        self._warned = True
        return state

    def read(self, trainer: Any) -> EpochMetrics:
        self.together = True
        try:
            return trainer.read()
        finally:
            self.together = False

    def first_bad(self, bad_step: int) -> int:
        if not self.together:
            return bad_step
        found = [each for each in self.comm.allgather(bad_step) if each >= 0]
        return min(found, default=-1)

    def agree(self, trainer: Any) -> bool:
        step = trainer.position.step
        looking = [c for c in trainer.callbacks if overridden([c], "on_step_end")]
        wish = min((steps_between(c, trainer) for c in looking), default=MANY)
        if self.is_first:
            wish = min(wish, max(1, int(SECONDS / self._pace)))
        stops, found, wishes = self._asked(trainer.stopped is not None, self._found, max(1, wish))
        self._next, self._found = step + int(wishes.min()), False
        if stops.any():
            reasons = self.comm.allgather(trainer.stopped)
            trainer.stop(next(why for why in reasons if why is not None))
        # What rank 0 reads or saves by itself at the end of a training is finite after this.
        within = 0 < trainer.position.batch < trainer.steps_per_epoch
        if within and (stops.any() or found.any()):
            self.read(trainer)
        # Another thread may have this rank stop since it was asked: that is for the next time.
        stop = bool(stops.any())
        if stop or trainer.position.epoch >= trainer.epochs:
            self.same_state(trainer.engine, trainer.engine.host_state())
        self._since = step, time.perf_counter()
        return stop

    def _asked(self, *own: int) -> np.ndarray:
        """The numbers (n, ranks) of all ranks, of the n of this one: one small sum."""
        numbers = np.zeros((len(own), self.comm.size), np.int64)
        numbers[:, self.comm.rank] = own
        self.comm.allreduce(numbers.reshape(-1))
        return numbers

    def steps_left(self, step: int) -> int:
        return self._next - step

    def after_step(self, trainer: Any, hooks: Sequence[Callable]) -> bool:
        for hook in hooks:
            try:
                hook(trainer)
            except NotFiniteError:
                self._found = True
        _, batch, step = trainer.position
        if step < self._next or batch == trainer.steps_per_epoch:  # where all ask each other
            return False
        steps, seconds = step - self._since[0], time.perf_counter() - self._since[1]
        self._pace = max(seconds, 1e-9) / steps
        return self.agree(trainer)

    def batches(self, parts: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        if self.validation.is_whole:
            return parts
        of_ranks = self.comm.allgather(list(parts))
        return [_in_order(self.validation, of_batch) for of_batch in zip(*of_ranks, strict=True)]


def ranks_of(comm: Comm, parallel: Parallel) -> Alone:
    """Return what the loop of a training asks of the ranks."""
    if comm.size == 1:
        return Alone(comm, WHOLE)
    ordered = parallel.reduce == "ordered"  # sums of a validation have bits, too
    return Several(comm, WHOLE if ordered else Share(comm.rank, comm.size))


def _in_order(share: Share, parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The arrays of a batch, of those that each rank has of it; None stays None."""
    rows = sum(len(part[0]) for part in parts)
    at = np.concatenate([replace(share, rank=r).positions(rows) for r in range(share.size)])
    found = []
    for of_ranks in zip(*parts, strict=True):
        joined = None if of_ranks[0] is None else np.concatenate(of_ranks)
        if joined is not None:
            whole = np.empty_like(joined)
            whole[at] = joined
            joined = whole
        found.append(joined)
    return tuple(found)


def _checksum(state: TrainState) -> int:
    """A number that differs where one bit of the weights or moments does."""
    found = 0
    for array in (state.params, state.stats, *state.slots):
        found = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, found)
    return found
