"""Checkpoints while a training runs: when one is due, and which of them is the best."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from xpnet.errors import CheckpointError
from xpnet.optim.schedules import Mode
from xpnet.storage import CheckpointFolder
from xpnet.training.callbacks import MANY, EpochMetrics
from xpnet.training.monitoring import Monitoring, seen

__all__ = ["Checkpointing"]


class Checkpointing(Monitoring):
    """Save at the end of each epoch, every so many steps or seconds, and when stopped.

    ``meta`` and ``tensors`` go into every checkpoint beside the training's own. The best epoch by
    ``monitor`` and ``mode``, as of :class:`EarlyStopping`, is kept if there is a validation. Where
    epochs are short, an epoch that ends less than ``min_seconds`` after the last save is kept in
    memory only: the newest and the best of these are written with the next save, and at the end,
    also after an error.

    A save that fails (a full disk) is reported and the training continues: the earlier checkpoints
    stay, and the next save tries again, with the best that could not be saved as well.
    """

    saves = first_rank_only = True

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
        super().__init__(monitor, mode)
        self.folder, self.report = folder, report
        self.every_steps, self.every_seconds = every_steps, every_seconds
        self.min_seconds = min_seconds
        self.best = math.inf
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
            self.best = self.monitored(found[0])
        else:  # of another training, or in another folder
            self.best, self.best_step, self._unsaved_best = math.inf, None, None

    def steps_between(self, trainer: Any) -> int:
        every = self.every_steps
        return every - trainer.position.step % every if every else MANY

    def on_step_end(self, trainer: Any) -> None:
        due = self.every_steps and trainer.position.step % self.every_steps == 0
        if due or time.monotonic() - self.saved_at >= self.every_seconds:
            self.save(trainer)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        value = self.monitored(record)
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
