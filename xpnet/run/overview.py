"""What there is to see of a run without its weights: how far it is, how good, and what it took.

Its files are read as they are, also while a training writes them, and nothing is locked.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xpnet.errors import CheckpointError, XpnetError
from xpnet.report.learning import NOT_METRICS
from xpnet.run.config import Config
from xpnet.run.run_folder import RunFolder
from xpnet.storage import writer_of
from xpnet.storage.durable import storage_errors
from xpnet.storage.plain_json import decoded
from xpnet.training.monitoring import best_epoch

__all__ = [
    "MAIN",
    "Overview",
    "Score",
    "folders_of_runs",
    "is_folder_of_runs",
    "main_score",
    "measured",
    "number",
    "overview",
    "runs_in",
    "text",
]

Status = Literal["finished", "training", "interrupted", "failed", "torn"]

# What a run is judged by: the first of these that it has; "mse" is better where it is lower.
MAIN = ("accuracy", "r2", "mse")


class Score(NamedTuple):
    """The score that a run is judged by."""

    name: str
    value: float

    @property
    def better(self) -> float:
        """A number that is higher where the run is better."""
        return -self.value if self.name == "mse" else self.value


@dataclass(frozen=True)
class Overview:
    """A run as its files tell it; ``note`` says why it is not finished, or what is torn."""

    path: Path
    status: Status
    note: str = ""
    config: Config | None = None
    record: dict[str, Any] = field(default_factory=dict)  # run.json
    report: dict[str, Any] = field(default_factory=dict)  # of the test part, once it is finished
    history: list[dict[str, Any]] = field(default_factory=list)  # the last epochs, or all
    epochs: int = 0  # that are done
    size: int = 0  # bytes of its files

    @property
    def score(self) -> Score | None:
        """The main score on the test part; None without one."""
        return main_score(self.report)

    @property
    def best(self) -> dict[str, Any] | None:
        """The record of the best epoch by the validation, of those read; None without one."""
        monitor = "loss" if self.config is None else self.config.early_stopping.monitor
        return best_epoch(self.history, monitor)

    @property
    def seconds(self) -> float | None:
        """How long it took; while it trains, and after a kill, the time of its epochs."""
        written = number(self.record.get("seconds"))
        if self.record.get("status") != "training":
            return written
        epochs = (number(record.get("seconds")) for record in self.history)
        return max(written or 0.0, sum(filter(None, epochs)))

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table of runs; None for what is not known."""
        config, best, score = self.config, self.best, self.score
        return {
            "path": str(self.path),
            "status": self.status,
            "note": self.note or None,
            "data": None if config is None else config.data.source,
            "task": None if config is None else config.data.task,
            "score": None if score is None else score._asdict(),
            "loss": number(self.report.get("loss")),
            "epochs": self.epochs,
            "epochs_asked": None if config is None else config.epochs,
            "best_epoch": None if best is None else best.get("epoch"),
            "parameters": self.record.get("parameters"),
            "started": text(self.record.get("started")),
            "seconds": self.seconds,
            "bytes": self.size,
        }


def number(value: Any) -> float | None:
    """Return a value of a JSON file if it is a number, NaN and infinities included; else None."""
    value = decoded(value)
    return float(value) if isinstance(value, int | float) and type(value) is not bool else None


def text(value: Any) -> str | None:
    """Return a value of a JSON file if it is a text; else None."""
    return value if isinstance(value, str) else None


def measured(history: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the loss and the metrics of some epochs, without "val_"."""
    names = dict.fromkeys(key.removeprefix("val_") for record in history for key in record)
    known = [
        n for n in names if any(number(r.get(n, r.get(f"val_{n}"))) is not None for r in history)
    ]
    return sorted((n for n in known if n not in NOT_METRICS), key=lambda name: name != "loss")


def main_score(report: dict[str, Any]) -> Score | None:
    """Return what a run is judged by, from its scores.

    >>> main_score({"loss": 0.1, "accuracy": 0.9})
    Score(name='accuracy', value=0.9)
    """
    found = ((name, number(report.get(name))) for name in MAIN)
    return next((Score(name, value) for name, value in found if value is not None), None)


def overview(path: str | Path, last: int | None = None) -> Overview:
    """Return what the files of a run tell; a damaged one makes it "torn", and is no error.

    Of the epochs it has the ``last`` so many, by default all.

    Raises CheckpointError where there is no run folder.
    """
    folder = RunFolder(path)
    if not folder.exists():
        folder.config()  # raises, with the names of those that are there
    try:
        config: Config | None = folder.config()
        record = folder.read_json(folder.run_path)
        report = folder.read_json(folder.report_path)
        history, epochs = _epochs(folder, last)
    except XpnetError as error:
        why = error.at_command_line
        return Overview(folder.path, "torn", why, size=_size(folder.path))
    status, note = _status(folder, record)
    # The scores of a run that is being resumed are those of its earlier end.
    report = report if status == "finished" else {}
    seen = Overview(folder.path, status, note, config, record, report, history, epochs)
    return replace(seen, size=_size(folder.path))


def _epochs(folder: RunFolder, last: int | None) -> tuple[list[dict[str, Any]], int]:
    if last is not None:
        return folder.last_epochs(last)
    history = folder.history()
    return history, len(history)


def _status(folder: RunFolder, record: dict[str, Any]) -> tuple[Status, str]:
    said = text(record.get("status"))
    if said is None:
        writer = writer_of(folder.path)
        lacks = "its run.json does not say how it ended" if record else "it has no run.json"
        return ("torn", lacks) if writer is None else ("training", writer)
    if said == "training":
        writer = writer_of(folder.path)
        ended = "its process ended without a word"
        return ("interrupted", ended) if writer is None else ("training", writer)
    if said.startswith("failed"):
        return "failed", said.removeprefix("failed").removeprefix(": ")
    if said.startswith("interrupted"):
        return "interrupted", said
    if not folder.checkpoint_path.is_dir() or not any(folder.checkpoint_path.iterdir()):
        return "torn", "it has no checkpoint"
    return "finished", "" if said == "finished" else said


def _size(path: Path) -> int:
    """The bytes of the files in a folder; those that are deleted meanwhile count for nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def is_folder_of_runs(path: str | Path) -> bool:
    """Return whether a path is a folder that is no run, but has runs in it."""
    path = Path(path)
    return path.is_dir() and not RunFolder(path).exists() and any(_folders(path))


def folders_of_runs(path: str | Path) -> list[Path]:
    """Return the folders of runs in a folder, such as those of sweeps."""
    with storage_errors("list", Path(path)):
        return sorted(filter(is_folder_of_runs, Path(path).iterdir()))


def runs_in(path: str | Path) -> list[Overview]:
    """Return the runs in the subfolders of a folder, the oldest first, and those that are torn.

    Raises CheckpointError where the folder cannot be read or has none.
    """
    path = Path(path)
    found = [overview(inner) for inner in _folders(path)]
    if not found:
        msg = f"{str(path)!r} has no runs in it"
        raise CheckpointError(msg)
    return sorted(found, key=lambda run: (text(run.record.get("started")) or "", str(run.path)))


def _folders(path: Path) -> Iterable[Path]:
    with storage_errors("list", path):
        inner = sorted(path.iterdir())
    return (each for each in inner if each.is_dir() and RunFolder(each).exists())
