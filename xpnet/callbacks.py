"""What may look at, save or stop a training from outside the loop.

A callback sees the trainer between steps. It must not change the training state, but may ask it to
stop. Its own memory, where it has one, goes into checkpoints as JSON data by ``state`` and
``restore``.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from xpnet.checkpoint import CheckpointFolder, History
from xpnet.errors import CheckpointError

if TYPE_CHECKING:
    from xpnet.trainer import Trainer

__all__ = ["Callback", "Checkpointing", "EarlyStopping", "HistoryFile", "StopOnSignal", "monitored"]

Record = dict[str, Any]


class Callback:
    """Base of the callbacks: every hook does nothing."""

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Before the first step, after a restore."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After each step; nothing has waited for the device."""

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """After an epoch and its validation; ``record`` is what the history keeps of it."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """After the last step, also when stopped early or by an error."""

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint must keep of this callback."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""


def monitored(record: Record, what: str) -> float:
    """Return the value to watch: of the validation where there is one, lower always better."""
    value = record[f"val_{what}"] if f"val_{what}" in record else record[what]
    return -value if what == "accuracy" else value


class EarlyStopping(Callback):
    """Stop once the watched value has not fallen by ``min_delta`` for ``patience`` epochs.

    ``monitor`` is "loss" or "accuracy", of the validation where there is one.
    """

    def __init__(self, patience: int, monitor: str = "loss", min_delta: float = 0.0) -> None:
        self.patience, self.monitor, self.min_delta = patience, monitor, min_delta
        self.best, self.waited = math.inf, 0

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        value = monitored(record, self.monitor)
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited >= self.patience:
            trainer.stop(f"no better {self.monitor} for {self.waited} epochs")

    def state(self) -> Mapping[str, Any]:
        return {"best": None if math.isinf(self.best) else self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]


class HistoryFile(Callback):
    """Append each epoch's record to a JSON Lines file; on resume, drop what is repeated."""

    def __init__(self, path: str | Path) -> None:
        self.history = History(path)

    def on_train_begin(self, trainer: "Trainer") -> None:
        self.history.truncate_after(trainer.position.step)

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        self.history.append(record)


class Checkpointing(Callback):
    """Save at the end of each epoch, every so many steps or seconds, and when stopped.

    ``meta`` and ``tensors`` go into every checkpoint beside the training's own. The best epoch by
    ``monitor`` is kept where there is a validation. A save that fails (a full disk) is reported
    and the training goes on: the earlier checkpoints stay, and the next occasion tries again.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        *,
        every_steps: int = 0,
        every_seconds: float = math.inf,
        monitor: str = "loss",
        meta: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Any] | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.report = folder, report
        self.every_steps, self.every_seconds = every_steps, every_seconds
        self.monitor, self.best = monitor, math.inf
        self.meta, self.tensors = dict(meta or {}), dict(tensors or {})
        self.saved_step, self.saved_at = -1, time.monotonic()
        self.failure: str | None = None

    def on_train_begin(self, trainer: "Trainer") -> None:
        self.saved_step, self.saved_at = trainer.position.step, time.monotonic()

    def on_step_end(self, trainer: "Trainer") -> None:
        due = self.every_steps and trainer.position.step % self.every_steps == 0
        if due or time.monotonic() - self.saved_at >= self.every_seconds:
            self.save(trainer)

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        value = monitored(record, self.monitor)
        before, best = self.best, "val_loss" in record and value < self.best
        if best:
            self.best = value  # before the save, so that the checkpoint knows of itself
        if not self.save(trainer, best=best):
            self.best = before

    def on_train_end(self, trainer: "Trainer") -> None:
        # After an error the state may be what caused it; what is on disk is not.
        if trainer.failed is None and trainer.position.step != self.saved_step:
            self.save(trainer)

    def save(self, trainer: "Trainer", *, best: bool = False) -> bool:
        """Write a checkpoint of this moment; say whether it is on disk."""
        trainer.read()  # raises rather than save a state that is not finite
        tensors, meta = trainer.snapshot()
        try:
            self.folder.save(
                trainer.position.step,
                {**tensors, **self.tensors},
                {**self.meta, **meta},
                best=best,
            )
        except CheckpointError as error:
            self.failure = str(error)
            self.report(f"checkpoint not saved, training goes on: {error}")
        else:
            self.failure, self.saved_step = None, trainer.position.step
        self.saved_at = time.monotonic()
        return self.failure is None

    def state(self) -> Mapping[str, Any]:
        return {"best": None if math.isinf(self.best) else self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = math.inf if state["best"] is None else state["best"]


class StopOnSignal(Callback):
    """Turn the first SIGINT or SIGTERM into a stop after the current step; a second one kills.

    Put it before :class:`Checkpointing`, which then saves that step.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_begin(self, trainer: "Trainer") -> None:
        self._before = {s: signal.signal(s, self._handle) for s in self.SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        for s in self.SIGNALS:
            signal.signal(s, signal.SIG_DFL)

    def on_step_end(self, trainer: "Trainer") -> None:
        if self.received is not None:
            trainer.stop(f"interrupted by {self.received.name}")

    def on_train_end(self, trainer: "Trainer") -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
