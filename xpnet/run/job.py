"""The stages of a training into a run folder: lock, restore, fit, record, score."""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

from xpnet.backends import Resolved
from xpnet.backends.backend import installed_version
from xpnet.errors import CheckpointError, DataError
from xpnet.parallel import ALONE, Comm, shared_by_all
from xpnet.run.config import Config, parse_duration
from xpnet.run.preprocessing import Splits
from xpnet.run.reporting import scored_and_shown
from xpnet.run.run_folder import RunFolder
from xpnet.run.scores import scores
from xpnet.run.trackers import trackers
from xpnet.run.trained_run import Run, trainer_at
from xpnet.settings import dump
from xpnet.storage import Checkpoint, CheckpointFolder, RunLock, preflight
from xpnet.tracking.tracker import Tracker
from xpnet.training.callbacks import Callback, HistoryFile, StopOnSignal
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.early_stopping import EarlyStopping
from xpnet.training.norms import Norms
from xpnet.training.trainer import Trainer

__all__ = ["Job"]

MOST_WARNINGS = 50  # lines in run.json


@dataclass(frozen=True)
class Job:
    """The stages of a training, and what they share."""

    config: Config
    folder: RunFolder
    chosen: Resolved
    splits: Splits
    trainer: Trainer
    tell: Callable[[str], None]
    tell_trouble: Callable[[str], None]
    comm: Comm = ALONE  # rank 0 of which reads and writes
    of_ranks: Mapping[str, Any] = field(default_factory=dict)  # for run.json
    warned: list[str] = field(default_factory=list)  # what was warned of, for run.json
    trackers: list[Tracker] = field(default_factory=list)  # since fit

    def warn(self, line: str) -> None:
        """Tell of trouble, and remember it."""
        self.warned.append(line)
        self.tell_trouble(line)

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Create the folder, check that it has room, and lock it."""
        with ExitStack() as held:
            shared_by_all(self.comm, lambda: held.enter_context(self._only_writer()))
            yield

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        size = self.trainer.engine.nbytes
        held = sum(p.stat().st_size for p in self.checkpoints.steps().values() if p.is_file())
        # What is kept, the best, and one more while it is written; a resumed run has some already.
        preflight(self.folder.path, max(6 * size - held, 2 * size), size)
        with RunLock(self.folder.path) as lock:
            if lock.taken_over:
                self.warn(lock.taken_over)
            yield

    @property
    def checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(self.folder.checkpoint_path, self.config.checkpoint.keep)

    def restore(self) -> None:
        """Restore the newest intact checkpoint, if there is one."""
        found = shared_by_all(self.comm, self._newest)
        if found is not None:
            self.trainer.restore(found.tensors, found.meta)

    def _newest(self) -> Checkpoint | None:
        checkpoints = self.checkpoints
        found = checkpoints.newest()
        for message in checkpoints.skipped:
            self.warn(f"skipped: {message}")
        if found is None:
            if checkpoints.skipped:
                msg = f"no checkpoint in {checkpoints.path} can be read; "
                msg += "move the folder away to start again"
                raise CheckpointError(msg)
            return None
        if found.meta.get("fingerprint") != self.splits.fingerprint:
            msg = "the data has changed since this run began: resume with the same data, "
            msg += "or train into another folder"
            raise DataError(msg)
        return found

    def fit(self, watching: list[Callback]) -> bool:
        """Train, and record how it went; return whether a signal ended it."""
        signals, saving = StopOnSignal(), self.checkpointing()
        history = HistoryFile(self.folder.history_path, self.warn)
        loader, backend, data = (
            self.splits.preprocessing.loader,
            self.chosen.backend,
            self.config.data,
        )
        checks = self.splits.validation

        def check_saved() -> None:
            if unsaved := saving.failure or history.failure:
                msg = (
                    f"{unsaved}; the end of this training was not saved: free some space and resume"
                )
                raise CheckpointError(msg)

        norms = [Norms(self.warn)] if self.config.tracking.norms else []
        with self.recorded() as recording:
            writing = [*recording, history, saving] if self.comm.rank == 0 else []
            self.trainer.fit(
                loader(backend, self.splits.train, data.placement, data.augment, comm=self.comm),
                epochs=cast(int, self.config.epochs),
                validation=None if checks is None else loader(backend, checks, comm=self.comm),
                callbacks=[*watching, *norms, *writing, *self.early_stopping(), signals],
            )
            shared_by_all(self.comm, check_saved)
        received = any(s is not None for s in self.comm.allgather(signals.received))
        return self.trainer.stopped is not None and received

    @contextmanager
    def recorded(self) -> Iterator[list[Callback]]:
        """Write the config and run.json, at the end once more; yield what records on the way."""
        if self.comm.rank > 0:
            yield []
            return
        record = self.record()
        self.trackers.extend(trackers(self.config, self.folder, record, self.warn))
        self.folder.write_config(self.config)
        self.folder.write_json(self.folder.run_path, {**record, "status": "training"})
        began, status = time.monotonic(), "finished"
        try:
            yield [*self.trackers]
            status = self.trainer.stopped or status
        except BaseException as error:
            status = f"failed: {error}"
            raise
        finally:
            record["step"] = self.trainer.engine.step.note
            if (threads := self.trainer.chosen_threads) is not None:
                record |= {"threads": threads.number, "threads_reason": threads.why}
            seconds = round(record["seconds"] + time.monotonic() - began, 3)
            try:
                record |= {"seconds": seconds, "status": status, **self.warnings(record)}
                self.folder.write_json(self.folder.run_path, record)
            except CheckpointError as error:  # a full disk must not hide how it ended
                self.warn(str(error))

    def save(self) -> None:
        """Save the state before the first step."""
        self.folder.write_config(self.config)
        tensors, meta = self.trainer.snapshot()
        tensors |= self.splits.preprocessing.tensors()
        self.checkpoints.save(self.trainer.position.step, tensors, {**meta, **self.meta()})

    def meta(self) -> dict[str, Any]:
        """What a checkpoint has beside the training."""
        return {
            "preparation": self.splits.preprocessing.meta(),
            "fingerprint": self.splits.fingerprint,
            "config": dump(self.config),
        }

    def early_stopping(self) -> list[Callback]:
        """The early stopping, if it is on."""
        stopping = self.config.early_stopping
        if not stopping.patience:
            return []
        return [EarlyStopping(stopping.patience, stopping.monitor, stopping.min_delta)]

    def checkpointing(self) -> Checkpointing:
        """The callback that saves the training, with all that using it later takes."""
        saving, preprocessing = self.config.checkpoint, self.splits.preprocessing
        return Checkpointing(
            self.checkpoints,
            every_steps=saving.every_steps,
            every_seconds=parse_duration(saving.every) if saving.every else math.inf,
            min_seconds=saving.min_seconds,
            monitor=self.config.early_stopping.monitor,
            meta=self.meta(),
            tensors=preprocessing.tensors(),
            report=self.warn,
        )

    def record(self) -> dict[str, Any]:
        """The content of run.json; a resumed run keeps the time when it was started."""
        earlier = self.folder.read_json(self.folder.run_path)
        splits = self.splits
        return {
            **self.chosen.backend.describe(),
            "reason": self.chosen.reason,
            **self.of_ranks,
            "xpnet": installed_version(("xpnet",), "xpnet"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "seed": self.config.seed,
            "parameters": self.trainer.engine.params_layout.size,
            "train_rows": len(splits.train),
            "validation_rows": len(splits.validation or ()),
            "test_rows": len(splits.test or ()),
            "fingerprint": splits.fingerprint,
            "started": earlier.get("started", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"),
            "seconds": before if isinstance(before := earlier.get("seconds"), float) else 0.0,
            **({"mlflow": run} if isinstance(run := earlier.get("mlflow"), dict) else {}),
            **({"warnings": said} if isinstance(said := earlier.get("warnings"), list) else {}),
        }

    def warnings(self, record: dict[str, Any]) -> dict[str, list[str]]:
        """What training warned of, here and before it was resumed: the last lines, if any."""
        lines = [*record.get("warnings", ()), *self.warned][-MOST_WARNINGS:]
        return {"warnings": lines} if lines else {}

    def trained(self, *, interrupted: bool, scored: Literal["test", "validation"] = "test") -> Run:
        """Return the run as it will be loaded, scored on that part where there is one.

        The page shows the test part, so a run that is scored on the other has none. Rank 0 scores
        it, and the others have its weights and scores.
        """
        runs: list[Run] = []

        def by_rank_0() -> Run:
            runs.append(self._scored(self._kept(interrupted=interrupted), scored))
            return replace(runs[0], trainer=cast(Trainer, None))  # which need not be sent

        run = shared_by_all(self.comm, by_rank_0)
        if runs:
            return runs[0]
        its = run.checkpoint
        return replace(run, trainer=self.trainer if its is None else self._trainer_of(its))

    def _kept(self, *, interrupted: bool) -> Run:
        """The run with what its folder has: the best weights, or of an interrupted one the last."""
        checkpoint = self.checkpoints.newest() if interrupted else self.folder.checkpoint()
        trainer = self.trainer
        if checkpoint is not None:
            older = checkpoint.meta["position"] != trainer.position._asdict() and not interrupted
            # Of several ranks, each evaluates by itself from here on.
            trainer = self._trainer_of(checkpoint) if older or self.of_ranks else trainer
        return Run(
            self.folder,
            self.config,
            trainer,
            self.splits.preprocessing,
            self.splits.fingerprint,
            checkpoint,
            self.trainer.stopped,
            interrupted,
        )

    def _trainer_of(self, checkpoint: Checkpoint) -> Trainer:
        return trainer_at(checkpoint, self.config, self.splits.preprocessing, self.chosen.backend)

    def _scored(self, run: Run, scored: Literal["test", "validation"]) -> Run:
        """The run with its scores, which the trackers are told, too."""
        if run.interrupted or run.checkpoint is None:
            return run
        for message in self.folder.skipped:
            self.warn(f"skipped: {message}")
        if scored == "validation":
            part = self.splits.validation
            found: Mapping[str, Any] = {} if part is None else scores(run, part)
            run = replace(run, validation=found)
        else:
            run = scored_and_shown(run, self.splits, self.tell, self.warn)
            found = run.test
        self.track(found)
        return run

    def track(self, result: Mapping[str, Any]) -> None:
        """Hand scores and files over to the trackers, once all of them are there."""
        folder, best = self.folder, self.checkpoints.best_path
        files = [folder.config_path, folder.history_path, folder.report_path]
        files += [folder.page_path, best]
        for tracker in self.trackers:
            tracker.finish(result, files)
