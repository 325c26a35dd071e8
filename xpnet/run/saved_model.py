"""A model that was saved without a run, for the commands that take one.

It has no columns and no preprocessing: its rows are plain numbers in the shape of its inputs, and
are taken as they are. Classes have the labels that the trainer was fitted to, or else are numbered.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from xpnet.data import Columns, Scaler, Task
from xpnet.errors import DataError
from xpnet.run.config import IN_MEMORY, Config, DataConfig
from xpnet.run.preprocessing import Preprocessing
from xpnet.run.run_folder import RunFolder
from xpnet.run.trained_run import Run, load
from xpnet.storage import is_safetensors
from xpnet.training.saved import FILE
from xpnet.training.trainer import Trainer

__all__ = ["is_saved", "load_as_run", "run_of_trainer"]

AS_THEY_ARE = Scaler(np.zeros(()), np.ones(()))


@dataclass(frozen=True)
class _ModelRun(Run):
    def test_part(self) -> NoReturn:
        msg = f"{self.folder.path} was saved without a run, so it has no test part"
        raise DataError(msg, python="pass labelled rows", command="give a FILE to evaluate on")


def is_saved(path: str | Path) -> bool:
    """Return whether a path is that of a run's folder, or of a file with a run or a model."""
    path = Path(path)
    return (path / "config.toml").is_file() or any(map(is_safetensors, (path, path / FILE)))


def load_as_run(
    path: str | Path,
    *,
    backend: str | None = None,
    device: str | None = None,
    which: str = "auto",
) -> Run:
    """Load a run, or a model that was saved without one as a run of plain numbers.

    Arguments and errors are those of :func:`xpnet.load`.
    """
    found: Any = load(path, backend=backend, device=device, which=which)
    return run_of_trainer(found, path) if isinstance(found, Trainer) else found


def run_of_trainer(trainer: Trainer, path: str | Path) -> Run:
    """Return a trainer whose sizes are known as a run, which takes its rows as they are.

    ``path`` is where it was saved. Raises TrainingError where the sizes are not known.
    """
    model, loss = trainer.engine.model, trainer.loss
    shape, outputs = model.input_shape or (), model.output_shape[-1]
    task, classes = _task(trainer, outputs)
    columns = Columns(tuple(range(shape[0]))) if len(shape) == 1 else None
    scaler = AS_THEY_ARE if task == "regression" else None
    preprocessing = Preprocessing(AS_THEY_ARE, shape, outputs, classes, columns, scaler)
    plain = DataConfig(source=IN_MEMORY, task=task, scaling="none", target_scaling="none")
    dtype: Any = trainer.engine.backend.dtype_name
    config = Config(data=plain, loss=loss, optimizer=trainer.optimizer, dtype=dtype)
    config = replace(config, schedule=trainer.schedule, clip=trainer.clip, seed=trainer.seed)
    return _ModelRun(RunFolder(path), config, trainer, preprocessing, None, None)


def _task(trainer: Trainer, outputs: int) -> tuple[Task, tuple[str, ...] | None]:
    """What the outputs are, and the names of the classes where they are that."""
    if trainer.loss.predicts == "value":
        return "regression", None
    if trainer.loss.predicts == "binary" and outputs > 1:
        return "multilabel", None
    named = getattr(trainer, "classes", None) or range(max(2, outputs))
    return "classification", tuple(map(str, named))
