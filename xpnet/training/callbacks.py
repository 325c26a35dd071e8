"""Callbacks: what watches, saves or stops a training from outside its loop.

A callback sees the trainer between steps. It must not change the training state, but may ask it to
stop. Where several ranks train together it is called on each of them, and must not do what another
rank would have to take part in, unless it does so on every rank: see the attribute
``first_rank_only``. Their order does not matter: those that save come after those that watch, and
the end is told in the reverse order of the beginning.

What a callback remembers follows from ``trainer.history`` where that is possible, for then it holds
for another training, after other settings and wherever a training was interrupted. What does not
goes into checkpoints as JSON data, by ``state`` and ``restore``.
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from xpnet.errors import CheckpointError, ConfigError
from xpnet.storage import History
from xpnet.training.signals import Signals

__all__ = [
    "MANY",
    "Callback",
    "EpochMetrics",
    "HistoryFile",
    "StopOnSignal",
    "check_callbacks",
    "common",
    "named",
    "overridden",
    "steps_between",
]

EpochMetrics = dict[str, Any]
MANY = 2**31  # steps


class Callback:
    """Base of the callbacks: every hook does nothing."""

    saves: ClassVar[bool] = False  # whether it saves a snapshot, in which the others must be
    # Whether it writes or prints, and so is called on the first of several ranks alone.
    first_rank_only: ClassVar[bool] = False
    # Whether every one of several ranks must have it, as they do something together in it.
    on_all_ranks: ClassVar[bool] = False

    def on_train_begin(self, trainer: Any) -> None:
        """Called before the first step, after a restore."""

    def on_step_end(self, trainer: Any) -> None:
        """Called after each step; nothing has waited for the device."""

    def steps_between(self, trainer: Any) -> int:
        """Return how many steps may be taken at once before :meth:`on_step_end` is called: 1.

        A callback that looks at every step needs no more. One that looks at a step now and then, or
        by the clock, says how far off its next one is, :data:`MANY` if that is no certain step: a
        GPU may be given several short steps at once. It is asked before each.
        """
        return 1

    def on_record(self, trainer: Any, record: EpochMetrics) -> None:
        """Called while the entry of an epoch is made: what is added to it, all others will see."""

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        """Called after an epoch and its validation; ``record`` is its entry in the history."""

    def on_train_end(self, trainer: Any) -> None:
        """Called after the last step, also when stopped early or by an error."""

    def state(self) -> Mapping[str, Any]:
        """Return what a checkpoint must keep of this callback: JSON data."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""


def overridden(callbacks: Iterable[Callback], hook: str) -> list[Callable]:
    """Return the bound hooks that are overridden: a step is too short to call empty ones."""
    base = getattr(Callback, hook)
    return [getattr(c, hook) for c in callbacks if getattr(type(c), hook) is not base]


def steps_between(callback: Callback, trainer: Any) -> int:
    """Return what the callback says, unless it is said of another class's ``on_step_end``."""
    for cls in type(callback).__mro__:
        if "steps_between" in vars(cls):
            break
        if "on_step_end" in vars(cls):
            return 1
    return callback.steps_between(trainer)


def common(callbacks: Iterable[Callback]) -> list[str]:
    """Return the names of the callbacks that every one of several ranks must have."""
    return [type(c).__name__ for c in callbacks if c.on_all_ranks]


def named(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback]]:
    """Yield each with its name in a checkpoint: its class, and from the second on a number.

    >>> [name for name, _ in named([Callback(), StopOnSignal(), Callback()])]
    ['Callback', 'StopOnSignal', 'Callback 2']
    """
    seen: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} {seen[name]}", callback


def check_callbacks(callbacks: Any) -> list[Callback]:
    """Return callbacks as a list; raises ConfigError for anything else."""
    several = isinstance(callbacks, Iterable) and not isinstance(callbacks, str)
    found = [*callbacks] if several else [callbacks]
    wrong = [c for c in found if not (several and isinstance(c, Callback))]
    if wrong:
        msg = f"callbacks must be a list of Callback objects; got {wrong[0]!r}"
        alone = isinstance(wrong[0], Callback)
        raise ConfigError(msg, python="put it in a list" if alone else "")
    return found


class HistoryFile(Callback):
    """Append each epoch's record to a JSON Lines file.

    At the beginning the file is made to say what the training remembers. What cannot be written (a
    full disk) is reported, and written with a later epoch.
    """

    first_rank_only = True

    def __init__(self, path: str | Path, report: Callable[[str], None] = print) -> None:
        self.history, self.report = History(path), report
        self.written = 0
        self.failure: str | None = None

    def on_train_begin(self, trainer: Any) -> None:
        self.history.rewrite(trainer.history)
        self.written = len(trainer.history)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self._catch_up(trainer)

    def on_train_end(self, trainer: Any) -> None:
        if self.failure:
            self._catch_up(trainer)

    def _catch_up(self, trainer: Any) -> None:
        self.failure = None
        if not self.history.path.exists():  # it was moved away
            self.written = 0
        try:
            for record in trainer.history[self.written :]:
                self.history.append(record)
                self.written += 1
        except CheckpointError as error:
            self.failure = str(error)
            self.report(f"history not written, training continues: {error}")


class StopOnSignal(Callback):
    """Turn the first SIGINT, SIGTERM or SIGHUP into a stop after the current step or epoch.

    A second one ends the process at once. It watches until the last step is saved.
    """

    def __init__(self) -> None:
        self.signals = Signals()

    @property
    def received(self) -> signal.Signals | None:
        """The first signal received, if any."""
        return self.signals.received

    def on_train_begin(self, trainer: Any) -> None:
        self.signals.begin()

    def steps_between(self, trainer: Any) -> int:
        return MANY  # as a signal waits for the end of a step

    def on_step_end(self, trainer: Any) -> None:
        if self.signals.received is not None:
            trainer.stop(f"interrupted by {self.signals.received.name}")

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self.on_step_end(trainer)  # it may have come during the validation

    def on_train_end(self, trainer: Any) -> None:
        self.signals.end()
