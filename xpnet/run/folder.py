"""The folder of a run, and a trained run read back from it.

config.toml          the resolved config
run.json             versions, backend and device, the data's fingerprint, how it ended
history.jsonl        one record per epoch, appended while training
checkpoints/         the last few, and the best
report.json          the scores on the test part
"""

import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.backends import resolve
from xpnet.checkpoint import Checkpoint, CheckpointFolder, History, atomic_write_text
from xpnet.config import Config, to_toml
from xpnet.data import Dataset
from xpnet.errors import CheckpointError, XpnetError
from xpnet.run.examples import Preparation, read_rows
from xpnet.schema import build, did_you_mean
from xpnet.trainer import Trainer

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

    def exists(self) -> bool:
        """Whether a run has been begun here."""
        return self.config_path.exists() or self.checkpoint_path.exists()

    def config(self) -> Config:
        """Read the config; raises CheckpointError where there is none."""
        try:
            return build(Config, tomllib.loads(self.config_path.read_text("utf-8")))
        except FileNotFoundError:
            raise CheckpointError(self._absent()) from None
        except (ValueError, OSError) as error:
            msg = f"{self.config_path} cannot be read: {error}"
            raise CheckpointError(msg) from None

    def _absent(self) -> str:
        if not self.path.is_dir():
            parent = self.path.parent
            near = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
            hint = f"; {did_you_mean(self.path.name, near)}" if near else ""
            return f"no run folder {str(self.path)!r}{hint}"
        return f"{str(self.path)!r} is not a run folder: it has no config.toml"

    def write_config(self, config: Config) -> None:
        """Write the config durably."""
        atomic_write_text(self.config_path, to_toml(config))

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file durably."""
        atomic_write_text(path, json.dumps(value, indent=2) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file; empty where there is none yet."""
        try:
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            msg = f"{path} cannot be read: {error}"
            raise CheckpointError(msg) from None

    def history(self) -> list[dict[str, Any]]:
        """Return the epochs' records."""
        return History(self.history_path).read()

    def checkpoint(self, which: str = "auto") -> Checkpoint:
        """Read the "best" checkpoint, the "last", or the best if there is one ("auto")."""
        folder = CheckpointFolder(self.checkpoint_path)
        found = folder.best() if which in ("best", "auto") else None
        if found is None and which != "best":
            found = folder.newest()
        if found is None:
            torn = f": {folder.skipped[0]}" if folder.skipped else ""
            what = "best checkpoint" if which == "best" else "checkpoint"
            msg = f"no {what} in {self.checkpoint_path}{torn}"
            raise CheckpointError(msg)
        return found


@dataclass(frozen=True)
class Run:
    """A trained run, ready to evaluate and predict."""

    folder: RunFolder
    config: Config
    trainer: Trainer
    preparation: Preparation
    checkpoint: Checkpoint

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities (N, K) for raw rows x (N, ...), or values for a regression.

        A binary loss gives both classes their column.
        """
        rows = Dataset(x, None, None, "input")
        out = self.trainer.predict(self.preparation.feed(self.trainer.engine.backend, rows))
        if self.config.loss.predicts == "binary":
            out = np.concatenate([1.0 - out, out], axis=1)
        return out

    def read(self, path: str | Path, *, labelled: bool) -> Dataset:
        """Read a file of the kind that the run was trained on.

        Without ``labelled`` a label column is left out where the file has one.
        """
        label = self.config.data.label
        classes = self.preparation.classes
        if labelled:
            return read_rows(
                path, self.config, label="auto" if label is None else label, classes=classes
            )
        rows = read_rows(path, self.config, label=None, classes=None)
        if rows.feature_shape == self.preparation.feature_shape:
            return rows
        try:
            return replace(self.read(path, labelled=True), y=None)
        except XpnetError:
            return rows  # its shape is what will be reported


def make_trainer(config: Config, preparation: Preparation, backend: Any) -> Trainer:
    """Return the trainer that ``config`` describes, its model built."""
    model = config.model.model(preparation.feature_shape, preparation.outputs, config.loss)
    return Trainer(
        model,
        config.loss,
        config.optimizer,
        backend=backend,
        batch_size=1 if config.batch_size == "auto" else config.batch_size,
        seed=config.seed,
        schedule=config.schedule,
        clip=config.clip,
        compile=config.compile,
        accumulate=config.accumulate,
        mixed=config.mixed,
    )


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
    preparation = Preparation.of(checkpoint.meta["preparation"], checkpoint.tensors)
    chosen = resolve(backend or "auto", device or "auto", config.dtype).backend
    trainer = make_trainer(config, preparation, chosen)
    trainer.restore(checkpoint.tensors, checkpoint.meta)
    return Run(folder, config, trainer, preparation, checkpoint)
