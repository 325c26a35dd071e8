"""One trial of a sweep: a run of its own, scored on the validation part."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from xpnet.errors import CheckpointError, TrainingError, XpnetError
from xpnet.run import train
from xpnet.search.metric import Metric
from xpnet.search.space import Value
from xpnet.storage import RunLock
from xpnet.training.callbacks import MANY, Callback, EpochMetrics

__all__ = ["Base", "Outcome", "State", "Trial", "folder_of", "run_trial"]

State = Literal["running", "finished", "pruned", "diverged", "failed", "interrupted"]

WAIT = 30.0  # seconds for another process to let go of a trial that is resumed


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep.

    ``value`` is its score on the validation part, None unless it finished. ``values`` are the
    settings that were searched, choices as their text in TOML; ``curve`` has the monitored value by
    epoch, and ``loss`` is that of the validation part, which decides between equal values.
    """

    number: int
    state: State
    value: float | None
    values: Mapping[str, Value]
    curve: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""  # why it failed, or where it was pruned
    loss: float | None = None

    @property
    def last(self) -> float | None:
        """The last value of its curve."""
        return [*self.curve.values()][-1] if self.curve else None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: State
    value: float | None = None
    seconds: float = 0.0
    reason: str = ""
    warnings: tuple[str, ...] = ()
    loss: float | None = None


@dataclass(frozen=True)
class Base:
    """What all trials share: the arguments of their training, and what they are compared by."""

    source: Any  # a recipe, the path of a file, or a table in memory
    recipe: str | None
    settings: tuple[str, ...]
    start_from: str | None
    metric: Metric
    plugins: tuple[str, ...] = ()  # files that register formulas


def folder_of(sweep: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return sweep / "trials" / f"{number:03}"


def run_trial(
    base: Base,
    folder: Path,
    settings: list[str],
    *,
    resume: bool,
    prune: Callable[[int, int, float], bool],
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train one trial into ``folder`` and score it.

    ``prune`` is asked with each epoch, the number of epochs and the value; ``stopping`` with each
    step, and ends a training that can be resumed. Raises CheckpointError where nothing can be
    written.
    """
    began, warned = time.monotonic(), list[str]()
    watch = _Watch(base.metric, prune, stopping)
    if resume:
        _wait_for(folder)

    def ended(state: State, value: float | None = None, reason: str = "") -> Outcome:
        return Outcome(state, value, time.monotonic() - began, reason, tuple(warned))

    try:
        run = train(
            base.source,
            folder,
            recipe=base.recipe,
            settings=[*base.settings, *settings],
            start_from=base.start_from,
            resume=resume,
            progress=False,
            callbacks=[watch],
            scored="validation",
            report=lambda line: None,
            warn=warned.append,
        )
    except CheckpointError:
        raise
    except TrainingError as error:
        return ended("diverged", None, error.message)
    except XpnetError as error:
        return ended("failed", None, error.at_command_line)
    except MemoryError as error:
        return ended("failed", None, f"out of memory: {error}".rstrip(": "))
    except Exception as error:  # whatever a library raises must not end the other trials
        return ended("failed", None, f"{type(error).__name__}: {error}")
    if run.interrupted or run.stopped == INTERRUPTED:
        return ended("interrupted", None, run.stopped or INTERRUPTED)
    if watch.reason and run.stopped == watch.reason:
        return ended("pruned", None, watch.reason)
    return _scored(run.validation, base.metric, ended)


INTERRUPTED = "the sweep was interrupted"


def _scored(scores: Mapping[str, Any], metric: Metric, ended: Callable[..., Outcome]) -> Outcome:
    value = scores.get(metric.name)
    if value is None:
        return ended("failed", None, f"the validation part has no {metric.name}")
    if not abs(value) < float("inf"):
        return ended("diverged", None, f"{metric.title} is {value}")
    return replace(ended("finished", float(value)), loss=float(scores["loss"]))


def _wait_for(folder: Path) -> None:
    """Wait until the process that had the trial has saved it and ended."""
    deadline = time.monotonic() + WAIT
    while folder.is_dir():
        try:
            with RunLock(folder):
                return
        except CheckpointError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class _Watch(Callback):
    """Tells each epoch's value, and stops the training that is to be pruned."""

    def __init__(
        self,
        metric: Metric,
        prune: Callable[[int, int, float], bool],
        stopping: Callable[[], bool],
    ) -> None:
        self.metric, self.prune, self.stopping = metric, prune, stopping
        self.reason = ""

    def steps_between(self, trainer: Any) -> int:
        return MANY

    def on_step_end(self, trainer: Any) -> None:
        if self.stopping():
            trainer.stop(INTERRUPTED)

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        epoch = record["epoch"]
        value = self.metric.watched(record)
        if self.prune(epoch, trainer.epochs, value) and epoch < trainer.epochs:
            self.reason = f"pruned at epoch {epoch}"
            trainer.stop(self.reason)
