"""What the callbacks for other programs share: the names of the numbers, and catching up."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xpnet.training.callbacks import Callback, EpochMetrics

__all__ = ["Tracker", "grouped", "numbers", "settings_of"]


PACE = ("lr", "seconds", "rows_per_second")


def numbers(record: EpochMetrics) -> dict[str, float]:
    """Return the numbers of an epoch's record by their names there, norms by kind and layer.

    >>> numbers({"epoch": 1, "step": 9, "loss": 2.0, "norms": {"0.dense": {"gradient": 0.5}}})
    {'loss': 2.0, 'gradient/0.dense': 0.5}
    """
    found = {k: v for k, v in record.items() if k not in ("epoch", "step", "norms")}
    for layer, norms in record.get("norms", {}).items():
        found |= {f"{norm}/{layer}": value for norm, value in norms.items()}
    return found


def grouped(values: Mapping[str, float]) -> dict[str, float]:
    """Return :func:`numbers` by names of which those begin alike that belong in one chart.

    >>> grouped({"lr": 0.1, "loss": 2.0, "val_loss": 3.0, "gradient/0.dense": 0.5})
    {'pace/lr': 0.1, 'loss/training': 2.0, 'loss/validation': 3.0, 'gradient/0.dense': 0.5}
    """

    def name_of(name: str) -> str:
        if name in PACE:
            return f"pace/{name}"
        part = "validation" if name.startswith("val_") else "training"
        return name if "/" in name else f"{name.removeprefix('val_')}/{part}"

    return {name_of(name): value for name, value in values.items()}


def settings_of(trainer: Any) -> dict[str, Any]:
    """Return the settings of a trainer without a config, as one flat table."""
    names = ("model", "loss", "optimizer", "schedule", "clip", "mixed")
    shown = {name: repr(getattr(trainer, name)) for name in names}
    plain = {
        name: getattr(trainer, name) for name in ("batch_size", "seed", "accumulate", "epochs")
    }
    return {**shown, **plain, "optimizer.lr": trainer.optimizer.lr}


class Tracker(Callback):
    """Base of the callbacks that hand the history to another program.

    ``settings`` is a flat table of what the training was made with, by default the trainer's own.
    ``report`` is called, once, with a line about what could not be handed over.
    """

    first_rank_only = True

    def __init__(
        self, settings: Mapping[str, Any] | None = None, report: Callable[[str], None] = print
    ) -> None:
        self.settings, self.report = settings, report
        self._warned = False

    @abstractmethod
    def finish(self, scores: Mapping[str, Any], files: Iterable[Path]) -> None:
        """Hand over the scores of the test, and files that belong to the run, after training."""

    def _say(self, problem: object) -> None:
        if not self._warned:
            self._warned = True
            text = " ".join(str(problem).split())
            self.report(
                f"{type(self).__name__}: {text}; training continues, and its history has all"
            )
