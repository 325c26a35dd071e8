"""The trials of a sweep one after another, or several at a time."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from xpnet.errors import TrainingError
from xpnet.run.overrides import as_setting
from xpnet.search.folder import SweepFolder
from xpnet.search.plan import Sweeping
from xpnet.search.result import best_of
from xpnet.search.space import Value, settings_of
from xpnet.search.study import Study
from xpnet.search.trials import Base, Outcome, Trial, folder_of, run_trial
from xpnet.search.workers import Task, run_parallel
from xpnet.training.progress import clock
from xpnet.training.signals import Signals

__all__ = ["Loop", "Status"]

ALIKE = 3  # trials that fail in the same way before the others are given up


class Status(NamedTuple):
    """How far a sweep is: trials that have ended, of all, and the best so far.

    ``running`` are the number, the epoch, the epochs and the value of the trial that told last.
    """

    done: int
    total: int
    title: str
    best: float | None
    running: tuple[int, int, int, float] | None
    left: float | None  # seconds, where they can be guessed


class Loop:
    """Asks the study for trials, has them trained, and tells it how they ended.

    ``own`` are the values that the run's own settings have, which a trial's line leaves out.
    """

    def __init__(
        self,
        folder: SweepFolder,
        sweeping: Sweeping,
        base: Base,
        study: Study,
        own: Mapping[str, Value],
        report: Callable[[str], None],
        warn: Callable[[str], None],
        progress: Callable[[Status], None] | None,
    ) -> None:
        self.folder, self.sweeping, self.base = folder, sweeping, base
        self.study, self.own = study, own
        self.report, self.warn, self.progress = report, warn, progress
        self.total = sweeping.trials or 0
        before = study.trials()
        self.resumed = study.running()
        again = {t.number for t in self.resumed}
        self.done = [t for t in before if t.number not in again]
        self.asked = len(before)
        self.warned: set[str] = set()
        self.reasons: list[str] = []  # of the failures of this call, one after another
        self.spent = study.seconds
        self.began = time.monotonic()
        self.first = len(self.done)
        self.stopped: str | None = None
        self.interrupted: str | None = None
        self.signals = Signals()

    @property
    def headline(self) -> str:
        """What is going to be searched, in a line."""
        sweeping, title = self.sweeping, self.base.metric.title
        pruned = "" if sweeping.pruner == "none" else f", pruned by {sweeping.pruner}"
        line = f"sweep of {self.total} trials by {sweeping.sampler}{pruned}; "
        line += f"{'highest' if self.base.metric.maximize else 'lowest'} {title} is best"
        if self.asked:
            line += f"; {len(self.done)} are done"
            line += f", {len(self.resumed)} had begun" if self.resumed else ""
        return line

    def run(self) -> tuple[str | None, bool]:
        """Run all trials; return why it stopped before that, and whether a signal came."""
        self.signals.begin()
        try:
            if self.sweeping.parallel == 1:
                self._one_by_one()
            else:
                run_parallel(
                    self.sweeping.parallel,
                    self.base,
                    self._following,
                    self._prune,
                    self._ended,
                    self._stopping,
                )
        finally:
            self.signals.end()
            self.study.seconds = self._seconds
        if (signal := self.signals.received) is not None:
            return f"interrupted by {signal.name}", True
        return self.interrupted or self.stopped, self.interrupted is not None

    def _one_by_one(self) -> None:
        while not self._stopping() and (task := self._following()) is not None:
            trial = task.trial
            outcome = run_trial(
                self.base,
                task.folder,
                task.settings,
                resume=task.resume,
                prune=lambda *told, trial=trial: self._prune(trial, *told),
                stopping=self._stopping,
            )
            self._ended(trial, outcome)
            if outcome.state == "interrupted":
                return

    def _stopping(self) -> bool:
        return self.signals.received is not None

    @property
    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.began

    def _following(self) -> Task | None:
        """The next trial, first of those that had begun; None where all are done."""
        if self.resumed:
            return self._task(self.resumed.pop(0), resume=True)
        if self.asked >= self.total:
            return None
        if self.asked and self._seconds >= self.sweeping.seconds:
            self.stopped = f"the time of {self.sweeping.time} is over"
            return None
        self.asked += 1
        return self._task(self.study.ask(), resume=False)

    def _task(self, trial: Trial, *, resume: bool) -> Task:
        settings = settings_of(self.study.space, trial.values)
        words = [as_setting(key, value) for key, value in settings.items()]
        return Task(trial, folder_of(self.folder.path, trial.number), words, resume)

    def _prune(self, trial: Trial, epoch: int, epochs: int, value: float) -> bool:
        self._tell(trial, epoch, epochs, value)
        return self.study.report(trial.number, epoch, value)

    def _ended(self, trial: Trial, outcome: Outcome) -> None:
        for line in outcome.warnings:
            if line not in self.warned:
                self.warned.add(line)
                self.warn(f"trial {trial.number}: {line}")
        if outcome.state == "interrupted":
            self.interrupted = outcome.reason
            return
        self.study.tell(trial.number, outcome)
        self.study.seconds = self._seconds
        ended = next(t for t in self.study.trials() if t.number == trial.number)
        self.done.append(ended)
        self.report(self._line(ended))
        self._tell(None)
        self._check_failures(outcome)

    def _check_failures(self, outcome: Outcome) -> None:
        """Raise TrainingError where everything fails, and in one way."""
        self.reasons.append(outcome.reason if outcome.state == "failed" else "")
        alike = {*self.reasons[:ALIKE]}
        if len(self.reasons) == ALIKE and len(alike) == 1 and alike != {""}:
            msg = f"the first {ALIKE} trials failed alike: {alike.pop()}"
            raise TrainingError(msg)

    def _best(self) -> Trial | None:
        return best_of(self.done, self.base.metric, self.study.space)

    def _line(self, trial: Trial) -> str:
        width, title = len(str(self.total - 1)), self.base.metric.title
        line = f"trial {trial.number:>{width}}  {len(self.done):>{width}}/{self.total}  "
        if trial.value is not None:
            line += f"{title} {trial.value:.4f}"
        elif trial.state == "pruned":
            line += trial.reason + ("" if trial.last is None else f", {trial.last:.4f}")
        else:
            line += f"{trial.state}: {trial.reason}"
        best = self._best()
        if best is not None:
            mine = best.number == trial.number
            line += "  best" if mine else f"  best {best.value:.4f} (trial {best.number})"
        new = {k: v for k, v in trial.values.items() if self.own.get(k) != v}
        settings = settings_of(self.study.space, new)
        words = "  ".join(as_setting(key, value) for key, value in settings.items())
        took = clock(trial.seconds) if trial.seconds >= 60 else f"{trial.seconds:.1f} s"
        return f"{line}  {took}  {words or 'the settings as they are'}"

    def _tell(self, trial: Trial | None, *told: float) -> None:
        if self.progress is None:
            return
        ended = len(self.done) - self.first
        pace = (time.monotonic() - self.began) / ended if ended else None
        left = None if pace is None else pace * (self.total - len(self.done))
        best = self._best()
        running = None if trial is None else (trial.number, int(told[0]), int(told[1]), told[2])
        self.progress(
            Status(
                len(self.done),
                self.total,
                self.base.metric.title,
                None if best is None else best.value,
                running,
                left,
            )
        )
