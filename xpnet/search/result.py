"""The result of a sweep."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xpnet.run.overrides import as_setting
from xpnet.run.trained_run import Run
from xpnet.search.folder import SweepFolder
from xpnet.search.metric import Metric, changes_loss
from xpnet.search.space import Parameter, settings_of
from xpnet.search.trials import Trial, folder_of

__all__ = ["Sweep", "best_of"]


def best_of(trials: Iterable[Trial], metric: Metric, space: Iterable[Parameter]) -> Trial | None:
    """Return the trial with the best score, None where none finished.

    Of equal scores, as few rows often give, it is the one of the lowest loss where the losses of
    trials can be compared, else the first.
    """
    sign, fair = -1 if metric.maximize else 1, not changes_loss(space)

    def rank(trial: Trial) -> tuple[float, float, int]:
        loss = trial.loss if fair and trial.loss is not None else math.inf
        return sign * (trial.value or 0.0), loss, trial.number

    return min((t for t in trials if t.value is not None), key=rank, default=None)


@dataclass(frozen=True)
class Sweep:
    """A search that has ended, or was interrupted."""

    folder: SweepFolder
    metric: Metric
    space: tuple[Parameter, ...]
    trials: tuple[Trial, ...]
    importance: Mapping[str, float] = field(default_factory=dict)  # of each setting, adding up to 1
    run: Run | None = None  # the best, with its scores on the test part in `run.test`
    stopped: str | None = None  # why before the last trial, if so
    interrupted: bool = False  # by a signal
    plain: Trial | None = None  # the trial with the run's own settings, if there is one
    retrained: bool = False  # whether the best was trained again, on the validation part as well

    @property
    def best(self) -> Trial | None:
        """The trial with the best score; see :func:`best_of`."""
        return best_of(self.trials, self.metric, self.space)

    def settings(self, trial: Trial) -> dict[str, Any]:
        """Return the settings of a trial that were searched."""
        return settings_of(self.space, trial.values)

    def words(self, trial: Trial) -> list[str]:
        """Return them as KEY=VALUE texts."""
        return [as_setting(key, value) for key, value in self.settings(trial).items()]

    def trial_folder(self, trial: Trial) -> Path:
        """Return the run folder of a trial."""
        return folder_of(self.folder.path, trial.number)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page of the sweep, by default report.html in its folder; return where it is.

        Raises CheckpointError where it cannot be written.
        """
        from xpnet.search.report import write_page

        return write_page(self, self.folder.page_path if path is None else Path(path))

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data: the content of sweep.json."""
        best = self.best
        return {
            "monitor": self.metric.name,
            "direction": "maximize" if self.metric.maximize else "minimize",
            "best": None if best is None else self._trial(best),
            "test": dict(self.run.test) if self.run else {},
            "retrained": self.retrained,
            "stopped": self.stopped,
            "importance": dict(self.importance),
            "trials": [self._trial(trial) for trial in self.trials],
        }

    def _trial(self, trial: Trial) -> dict[str, Any]:
        return {
            "number": trial.number,
            "state": trial.state,
            "value": trial.value,
            "loss": trial.loss,
            "last": trial.last,
            "epochs": max(trial.curve, default=0),
            "seconds": trial.seconds,
            "reason": trial.reason,
            "settings": self.settings(trial),
        }
