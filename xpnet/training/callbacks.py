"""Callbacks: what watches, saves or stops a training from outside its loop.

A callback sees the trainer between steps. It must not change the training state, but may ask it to
stop. Their order does not matter: those that save come after those that watch, and the end is told
in the reverse order of the beginning.

What a callback remembers follows from ``trainer.history`` where that is possible, for then it holds
for another training, after other settings and wherever a training was interrupted. What does not
goes into checkpoints as JSON data, by ``state`` and ``restore``.
"""

import math
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from xpnet.errors import CheckpointError, ConfigError, XpnetWarning
from xpnet.optim.schedules import MODES, Mode
from xpnet.settings import NonNegativeFloat, convert
from xpnet.storage import CheckpointFolder, History
from xpnet.training.signals import Signals

__all__ = [
    "Callback",
    "Checkpointing",
    "EarlyStopping",
    "HistoryFile",
    "StopOnSignal",
    "check_callbacks",
    "check_monitored",
    "early_stopping",
    "monitored",
    "named",
    "overridden",
    "watched",
]

EpochMetrics = dict[str, Any]

PATIENCE = 10  # epochs, where none is given: scikit-learn's n_iter_no_change


class Callback:
    """Base of the callbacks: every hook does nothing."""

    saves: ClassVar[bool] = False  # whether it saves a snapshot, in which the others must be

    def on_train_begin(self, trainer: Any) -> None:
        """Called before the first step, after a restore."""

    def on_step_end(self, trainer: Any) -> None:
        """Called after each step; nothing has waited for the device."""

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


def named(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback]]:
    """Yield each with its name in a checkpoint: its class, and from the second on a number.

    >>> [name for name, _ in named([EarlyStopping(3), Callback(), EarlyStopping(9)])]
    ['EarlyStopping', 'Callback', 'EarlyStopping 2']
    """
    seen: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} {seen[name]}", callback


def seen(record: EpochMetrics, what: str) -> float | None:
    """Return the value of that name, of the validation if there is one; None without it."""
    return record.get(f"val_{what}", record.get(what))


def watched(record: EpochMetrics, what: str) -> float:
    """Return :func:`seen`'s value; raises ConfigError where the epochs have none."""
    value = seen(record, what)
    if value is None:
        msg = f"there is no {what!r} to monitor; use 'loss', or 'accuracy' for a classification, "
        msg += "or a metric of your own: fit(..., metrics={name: function})"
        raise ConfigError(msg)
    return value


def monitored(record: EpochMetrics, what: str, mode: Mode | None = None) -> float:
    """Return :func:`watched`'s value so that lower is better; ``mode`` of a metric of one's own."""
    value = watched(record, what)
    return -value if MODES.get(what, mode) == "max" else value


def _refuse_val(what: Any) -> None:
    if isinstance(what, str) and what.startswith("val_"):
        msg = f"monitor {what!r} is written {what.removeprefix('val_')!r}: it is that of the "
        msg += "validation where there is one"
        raise ConfigError(msg)


def check_monitor(what: str, mode: Mode | None) -> None:
    """Raise ConfigError for a mode that is not that of the value, or one's own metric without."""
    _refuse_val(what)
    if mode not in (None, "min", "max"):
        msg = f"mode must be 'min' or 'max'; got {mode!r}"
        raise ConfigError(msg)
    if what in MODES and mode not in (None, MODES[what]):
        msg = f"{what} needs mode {MODES[what]!r}; got {mode!r}"
        raise ConfigError(msg)
    if what not in MODES and mode is None:
        msg = f"monitor must be 'loss' or 'accuracy', or a metric of your own; got {what!r}, which "
        msg += "needs a mode: 'max' where more is better, else 'min'"
        raise ConfigError(msg)


class EarlyStopping(Callback):
    """Stop once the watched value has not fallen by ``min_delta`` for ``patience`` epochs.

    ``monitor`` is "loss" or "accuracy", of the validation where there is one, or a metric of one's
    own, with ``mode`` "max" where more of it is better, else "min". What it waits for follows from
    the history: a training that was stopped so stays stopped when it is resumed, also with other
    settings if these would have stopped it, and another training begins anew.

    With ``restore_best`` a copy of the weights of the best epoch is kept on the device, and put
    back when the training is over, be it by this or after its last epoch. Training further then
    goes on from these weights, where it otherwise goes on as if it had not ended. An interrupted
    training keeps its last weights, to be resumed. Of epochs before this callback's own there are
    no weights: if one of them is the best, the last stay, with a warning (XpnetWarning).
    """

    def __init__(
        self,
        patience: int,
        monitor: str = "loss",
        min_delta: float = 0.0,
        *,
        mode: Mode | None = None,
        restore_best: bool = False,
    ) -> None:
        patience = convert(int, patience, "patience")
        _refuse_val(monitor)
        if patience < 1 or (monitor not in MODES and mode is None):
            msg = "patience must be >= 1 and monitor 'loss' or 'accuracy', or a metric of your own "
            msg += f"with mode 'min' or 'max'; got {patience} and {monitor!r}"
            raise ConfigError(msg)
        check_monitor(monitor, mode)
        self.patience, self.monitor = patience, monitor
        self.min_delta = convert(NonNegativeFloat, min_delta, "min_delta")
        self.mode = mode
        self.restore_best = restore_best
        self.best, self.waited = math.inf, 0
        self._kept: tuple[int, Any] | None = None  # the step of the best epoch, and its weights

    def on_train_begin(self, trainer: Any) -> None:
        self.best, self.waited = math.inf, 0
        for record in trainer.history:
            if seen(record, self.monitor) is not None:
                self._observe(record)
        self._stop_if_due(trainer)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self._observe(record)
        if self.restore_best and self._best_step(trainer) == record["step"]:
            self._kept = record["step"], trainer.engine.weights()
        self._stop_if_due(trainer)

    def on_train_end(self, trainer: Any) -> None:
        over = trainer.position.epoch >= trainer.epochs or trainer.stopped == self._reason
        if not self.restore_best or trainer.failed is not None or not over:
            return
        best = self._best_step(trainer)
        if self._kept is not None and self._kept[0] == best:
            trainer.engine.set_weights(self._kept[1])
        elif trainer.position.step != best:
            msg = f"the best {self.monitor} was that of an earlier training, whose weights are not "
            msg += "in memory: the last weights stay"
            warnings.warn(msg, XpnetWarning, stacklevel=2)

    def _observe(self, record: EpochMetrics) -> None:
        value = monitored(record, self.monitor, self.mode)
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    def _best_step(self, trainer: Any) -> int:
        """The step after the first of the epochs with the best value, whatever ``min_delta``."""

        def badness(record: EpochMetrics) -> tuple[bool, float]:
            value = monitored(record, self.monitor, self.mode)
            return math.isnan(value), value

        having = [r for r in trainer.history if seen(r, self.monitor) is not None]
        return min(having, key=badness)["step"] if having else trainer.position.step

    @property
    def _reason(self) -> str:
        return f"no better {self.monitor} for {self.waited} epochs"

    def _stop_if_due(self, trainer: Any) -> None:
        if self.waited >= self.patience:
            trainer.stop(self._reason)


def early_stopping(asked: Any, *, validated: bool) -> list[Callback]:
    """Return what ``early_stopping=`` of a fit asks for: one that is given, or of a patience.

    Raises ConfigError for anything else, and for a patience without a validation to watch.
    """
    if asked is None or asked is False:
        return []
    if isinstance(asked, EarlyStopping):
        return [asked]
    if not isinstance(asked, Integral):
        msg = f"early_stopping must be True, a number of epochs or an EarlyStopping; got {asked!r}"
        raise ConfigError(msg)
    patience = PATIENCE if asked is True else int(asked)
    if not validated:
        msg = "early_stopping watches the loss of a validation, and there is none"
        remedy = "pass validation_fraction=0.1 or validation=..., or early_stopping="
        raise ConfigError(msg, python=f"{remedy}EarlyStopping({patience}) for the training's own")
    return [EarlyStopping(patience, restore_best=True)]


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


def check_monitored(callbacks: Iterable[Callback], known: Iterable[str]) -> None:
    """Raise ConfigError for a callback that monitors what the epochs will not have."""
    having: EpochMetrics = dict.fromkeys(known, 0.0)
    for callback in callbacks:
        if isinstance(callback, EarlyStopping | Checkpointing):
            watched(having, callback.monitor)


class HistoryFile(Callback):
    """Append each epoch's record to a JSON Lines file.

    At the beginning the file is made to say what the training remembers. What cannot be written (a
    full disk) is reported, and written with a later epoch.
    """

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


class Checkpointing(Callback):
    """Save at the end of each epoch, every so many steps or seconds, and when stopped.

    ``meta`` and ``tensors`` go into every checkpoint beside the training's own. The best epoch by
    ``monitor`` and ``mode``, as of :class:`EarlyStopping`, is kept if there is a validation. Where
    epochs are short, an epoch that ends less than ``min_seconds`` after the last save is kept in
    memory only: the newest and the best of these are written with the next save, and at the end,
    also after an error.

    A save that fails (a full disk) is reported and the training continues: the earlier checkpoints
    stay, and the next save tries again, with the best that could not be saved as well.
    """

    saves = True

    def __init__(
        self,
        folder: CheckpointFolder,
        *,
        every_steps: int = 0,
        every_seconds: float = math.inf,
        min_seconds: float = 0.0,
        monitor: str = "loss",
        mode: Mode | None = None,
        meta: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Any] | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.report = folder, report
        self.every_steps, self.every_seconds = every_steps, every_seconds
        self.min_seconds = min_seconds
        check_monitor(monitor, mode)
        self.monitor, self.mode, self.best = monitor, mode, math.inf
        self.best_step: int | None = None
        self.meta, self.tensors = dict(meta or {}), dict(tensors or {})
        self.saved: Any = None  # position
        self.saved_at = time.monotonic()
        self.failure: str | None = None
        self._unsaved: _Snapshot | None = None  # the newest
        self._unsaved_best: _Snapshot | None = None

    def on_train_begin(self, trainer: Any) -> None:
        self.saved, self.saved_at = trainer.position, time.monotonic()
        self._unsaved = None
        self.folder.make()
        if self.best_step is not None:  # the process may have died between saving and linking it
            try:
                self.folder.name_best(self.best_step)
            except CheckpointError as error:
                self.report(f"the best checkpoint could not be linked: {error}")
        self._take_up(trainer.history)

    def _take_up(self, history: Iterable[EpochMetrics]) -> None:
        """Set what the best checkpoint has of the value to monitor, if there is one."""
        having = (record for record in history if seen(record, self.monitor) is not None)
        found = [record for record in having if record["step"] == self.best_step]
        if found and (self._unsaved_best or self.folder.best_path.exists()):
            self.best = monitored(found[0], self.monitor, self.mode)
        else:  # of another training, or in another folder
            self.best, self.best_step, self._unsaved_best = math.inf, None, None

    def on_step_end(self, trainer: Any) -> None:
        due = self.every_steps and trainer.position.step % self.every_steps == 0
        if due or time.monotonic() - self.saved_at >= self.every_seconds:
            self.save(trainer)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        value = monitored(record, self.monitor, self.mode)
        best = "val_loss" in record and value < self.best
        if best:  # before the snapshot, so that it records it
            self.best, self.best_step = value, trainer.position.step
        self._keep(trainer, best=best)
        if time.monotonic() - self.saved_at >= self.min_seconds:
            self._write()

    def on_train_end(self, trainer: Any) -> None:
        # After an error the state may be its cause; what was kept before it is not.
        if trainer.failed is None and trainer.position != self.saved:
            self.save(trainer)
        elif self._unsaved is not None:
            self._write()

    def save(self, trainer: Any) -> bool:
        """Save a checkpoint now; return whether it is on disk."""
        self._keep(trainer)
        return self._write()

    def _keep(self, trainer: Any, *, best: bool = False) -> None:
        if self._unsaved is None or self._unsaved.position != trainer.position:
            trainer.read()  # raises rather than save a state that is not finite
            tensors, meta = trainer.snapshot()
            whole = {**tensors, **self.tensors}, {**self.meta, **meta}
            self._unsaved = _Snapshot(trainer.position, *whole)
        if best:
            self._unsaved_best = self._unsaved

    def _write(self) -> bool:
        """Write the best and the newest snapshot, unless they are on disk."""
        now, best = self._unsaved, self._unsaved_best
        try:
            if best is not None:
                self.folder.save(best.position.step, best.tensors, best.meta, best=True)
                self._unsaved_best = None
            if now is not None and now is not best:
                self.folder.save(now.position.step, now.tensors, now.meta)
        except CheckpointError as error:
            self.failure = str(error)
            self.report(f"checkpoint not saved, training continues: {error}")
        else:
            self.failure, self._unsaved = None, None
            self.saved = self.saved if now is None else now.position
        self.saved_at = time.monotonic()
        return self.failure is None

    def state(self) -> Mapping[str, Any]:
        return {"best_step": self.best_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        step = state.get("best_step")
        self.best_step = None if step is None else int(step)


class _Snapshot(NamedTuple):
    """A checkpoint that is still to be written."""

    position: Any
    tensors: dict[str, Any]
    meta: dict[str, Any]


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

    def on_step_end(self, trainer: Any) -> None:
        if self.signals.received is not None:
            trainer.stop(f"interrupted by {self.signals.received.name}")

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self.on_step_end(trainer)  # it may have come during the validation

    def on_train_end(self, trainer: Any) -> None:
        self.signals.end()
