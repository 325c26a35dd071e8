"""The folder of a run, and a trained run read back from it.

config.toml          the resolved config
run.json             versions, backend and device, the data's fingerprint, how it ended
history.jsonl        one record per epoch, appended while training
checkpoints/         the last few, and the best
report.json          the scores on the test part
"""

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.backends import resolve
from xpnet.data import Dataset, StreamedDataset
from xpnet.errors import CheckpointError, DataError
from xpnet.run.config import Config, to_toml
from xpnet.run.preprocessing import Preprocessing
from xpnet.run.splits import load_splits, read_rows
from xpnet.run.streamed_splits import is_large, open_part
from xpnet.settings import build, did_you_mean
from xpnet.storage import Checkpoint, CheckpointFolder, History, atomic_write_text
from xpnet.storage.safe_open import MAX_JSON, MAX_TOML, read_regular
from xpnet.training.trainer import Trainer

__all__ = ["Run", "RunFolder", "load_run", "make_trainer"]


class RunFolder:
    """Names and files of a run folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.toml"
        self.run_path = self.path / "run.json"
        self.history_path = self.path / "history.jsonl"
        self.checkpoint_path = self.path / "checkpoints"
        self.report_path = self.path / "report.json"
        self.skipped: list[str] = []  # messages of the last :meth:`checkpoint`

    def exists(self) -> bool:
        """Whether a run has been begun here, or there are files that one would write over."""
        ours = (self.config_path, self.run_path, self.history_path, self.report_path)
        return any(map(os.path.lexists, (*ours, self.checkpoint_path)))

    def config(self) -> Config:
        """Read the config; raises CheckpointError where there is none."""
        try:
            text = read_regular(self.config_path, MAX_TOML).decode("utf-8")
            if not text.strip("\0 \n"):  # not a run of nothing but defaults: a file that was lost
                msg = "it is empty"
                raise ValueError(msg)
            return build(Config, tomllib.loads(text))
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(self._absent()) from None
        except (ValueError, OSError, RecursionError) as error:
            msg = f"{self.config_path} cannot be read: {_why(error)}"
            raise CheckpointError(msg) from None

    def _absent(self) -> str:
        if self.path.is_dir():
            return f"{str(self.path)!r} is not a run folder: it has no config.toml"
        parent = self.path.parent
        folders = parent.iterdir() if parent.is_dir() else ()
        near = [p.name for p in folders if (p / "config.toml").is_file()]
        hint = f"; {did_you_mean(self.path.name, near)}" if near else ""
        return f"no run folder {str(self.path)!r}{hint}"

    def write_config(self, config: Config) -> None:
        """Write the config durably."""
        atomic_write_text(self.config_path, to_toml(config))

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file durably."""
        atomic_write_text(path, json.dumps(value, indent=2) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file; empty where there is none yet."""
        try:
            value = json.loads(read_regular(path, MAX_JSON))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError, RecursionError) as error:
            msg = f"{path} cannot be read: {_why(error)}"
            raise CheckpointError(msg) from None
        if not isinstance(value, dict):
            msg = f"{path} is not a JSON object; repair or remove it"
            raise CheckpointError(msg)
        return value

    def history(self) -> list[dict[str, Any]]:
        """Return the epochs' records."""
        return History(self.history_path).read()

    def checkpoint(self, which: str = "auto") -> Checkpoint:
        """Read the "best" checkpoint, the "last", or the best if there is one ("auto").

        "auto" and "last" pass over files that are torn, and leave a message in ``skipped``.
        """
        folder = CheckpointFolder(self.checkpoint_path)
        found, self.skipped = None, []
        if which in ("best", "auto"):
            try:
                found = folder.best()
            except CheckpointError as error:
                self.skipped.append(str(error))
        if found is None and which != "best":
            found = folder.newest()
            self.skipped += folder.skipped
        if found is None:
            torn = f": {self.skipped[0]}" if self.skipped else ""
            what = "best checkpoint" if which == "best" else "checkpoint"
            msg = f"no {what} in {self.checkpoint_path}{torn}"
            raise CheckpointError(msg)
        return found


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True)
class Run:
    """A trained run, ready to evaluate and predict."""

    folder: RunFolder
    config: Config
    trainer: Trainer
    preprocessing: Preprocessing
    checkpoint: Checkpoint

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities (N, K) for raw rows x (N, ...), or values for a regression."""
        loader = self.preprocessing.loader(
            self.trainer.engine.backend, Dataset(x, None, None, "input")
        )
        return self.preprocessing.answers(self.trainer.predict(loader))

    def predictions(self, dataset: Dataset | StreamedDataset) -> Iterator[np.ndarray]:
        """Yield what :meth:`predict` returns: at once for rows in memory, else by batches."""
        if isinstance(dataset, Dataset):
            yield self.predict(dataset.x)
            return
        loader = self.preprocessing.loader(self.trainer.engine.backend, dataset)
        yield from map(self.preprocessing.answers, self.trainer.predictions(loader))

    def test_part(self) -> Dataset | StreamedDataset:
        """Return the rows that training held out, of the data that it was trained on.

        Raises DataError where there are none, or where the data has changed since: the split
        would be another one, and rows trained on would be tested on.
        """
        splits = load_splits(self.config)
        if splits.fingerprint != self.checkpoint.meta.get("fingerprint"):
            msg = f"{splits.train.name} has changed since the run was trained on it: "
            msg += "give a FILE to evaluate on"
            raise DataError(msg)
        if splits.test is None:
            msg = f"{self.folder.path} was trained with data.test_fraction = 0: "
            msg += "give a FILE to evaluate on"
            raise DataError(msg)
        return splits.test

    def read(self, path: str | Path, *, labelled: bool) -> Dataset | StreamedDataset:
        """Read a file of the kind that the run was trained on.

        Where both have a header the columns are found by their names, in any order. Without
        ``labelled`` a column of labels is left out where the file has one. The rows of a large
        file stay in it, where that can be; without ``labelled`` it must not have a label then.
        """
        label = "auto" if self.config.data.label is None else self.config.data.label
        classes = self.preprocessing.classes
        if is_large(path):
            return open_part(path, self.config, self.preprocessing, label if labelled else None)
        if labelled:
            try:
                return self._rows(path, label, classes)
            except DataError:
                if not self._lacks_labels(path):
                    raise
                msg = f"{path}: has no labels to compare with, only the features"
                raise DataError(msg) from None
        try:
            return self._rows(path, None, None)
        except DataError as error:
            try:
                return replace(self._rows(path, label, None), y=None)
            except DataError:
                raise error from None

    def _rows(self, path: str | Path, label: str | int | None, classes: Any) -> Dataset:
        rows = read_rows(path, self.config, label=label, classes=classes)
        rows = rows.select(self.preprocessing.feature_names)
        self.preprocessing.check_shape(path, rows.feature_shape)
        return rows

    def _lacks_labels(self, path: str | Path) -> bool:
        try:
            rows = read_rows(path, self.config, label=None, classes=None)
        except DataError:
            return False
        return rows.feature_shape == self.preprocessing.feature_shape


def make_trainer(config: Config, preprocessing: Preprocessing, backend: Any) -> Trainer:
    """Return the trainer that ``config`` describes, its model built."""
    model = config.model.model(preprocessing.feature_shape, preprocessing.outputs, config.loss)
    return Trainer(
        model,
        config.loss,
        config.optimizer,
        backend=backend,
        batch_size=1 if config.batch_size == "auto" else config.batch_size,
        seed=config.seed,
        schedule=config.schedule,
        clip=config.clip,
        step=config.step,
        accumulate=config.accumulate,
        mixed=config.mixed,
    )


def _check_classes(config: Config, preprocessing: Preprocessing) -> None:
    """Raise CheckpointError where the model's outputs cannot be those of the config's loss."""
    predicts, classes, outputs = config.loss.predicts, preprocessing.classes, preprocessing.outputs
    fits = {
        "class": classes is not None and outputs == len(classes),
        "binary": classes is not None and outputs == 1,
        "value": classes is None,
    }
    if not fits[predicts]:
        found = "no classes" if classes is None else f"{len(classes)} classes"
        msg = f"the checkpoint's model, {outputs} outputs for {found}, does not fit the run's loss"
        raise CheckpointError(msg)


def load_run(
    path: str | Path,
    *,
    backend: str | None = None,
    device: str | None = None,
    which: str = "auto",
) -> Run:
    """Read a run folder; ``backend`` and ``device`` default to what is here, not to the run's.

    ``which`` is "best", "last" or "auto": the best where training had a validation.
    Raises CheckpointError where the folder is no run or nothing in it can be read.
    """
    folder = RunFolder(path)
    config = folder.config()
    checkpoint = folder.checkpoint(which)
    chosen = resolve(backend or "auto", device or "auto", config.dtype).backend
    try:
        preprocessing = Preprocessing.of(checkpoint.meta["preparation"], checkpoint.tensors)
        _check_classes(config, preprocessing)
        # Mixed precision is for training; not every backend has its dtypes.
        trainer = make_trainer(replace(config, mixed=None), preprocessing, chosen)
        trainer.restore(checkpoint.tensors, checkpoint.meta)
    except (LookupError, TypeError, AttributeError) as error:
        msg = f"{checkpoint.path} was not saved by a run: {error}"
        raise CheckpointError(msg) from error
    return Run(folder, config, trainer, preprocessing, checkpoint)
