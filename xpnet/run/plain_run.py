"""A saved trainer as a run of rows of plain numbers, which is what the commands take.

It has no columns: features are taken as they are, by position. Classes are called 0, 1, ... unless
it was trained on labels of other names. A run that was trained by ``xpnet train`` knows more.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from xpnet.data import Columns, Scaler, Task
from xpnet.errors import ConfigError
from xpnet.run.config import IN_MEMORY, Config, DataConfig
from xpnet.run.preprocessing import Preprocessing
from xpnet.run.run_folder import RunFolder
from xpnet.run.trained_run import Run
from xpnet.storage import is_safetensors
from xpnet.training.saved import FILE
from xpnet.training.trainer import Trainer

__all__ = ["is_saved", "plain_run"]

TASKS: dict[str, Task] = {"class": "classification", "value": "regression", "binary": "multilabel"}


def is_saved(path: str | Path) -> bool:
    """Return whether a path is a run's folder, or a file of a run or a model, of any name."""
    path = Path(path)
    return (path / "config.toml").is_file() or any(map(is_safetensors, (path, path / FILE)))


def plain_run(path: str | Path, trainer: Trainer) -> Run:
    """Return the trainer of the file ``path`` as a run.

    Raises ConfigError for a model with embeddings, whose codes nobody can make from plain numbers.
    """
    model, outputs = trainer.model, trainer.model.output_shape[-1]
    shape = model.input_shape or ()
    if any(layer.exact for layer in model.layers):
        msg = f"{path} has an embedding, whose codes are made by a preprocessing that it lacks"
        raise ConfigError(msg, python="call predict of the Trainer with the codes")
    kind = trainer.loss.predicts
    count = 2 if kind == "binary" and outputs == 1 else outputs if kind == "class" else 0
    task: Task = "classification" if count else TASKS[kind]
    as_it_is = Scaler(np.zeros(()), np.ones(()))
    preprocessing = Preprocessing(
        as_it_is,
        shape,
        outputs,
        tuple(map(str, (trainer.classes or range(count)) if count else ())) or None,
        Columns(tuple(range(shape[0]))) if len(shape) == 1 else None,
        as_it_is if task == "regression" else None,
    )
    data = DataConfig(source=IN_MEMORY, task=task, scaling="none", row_numbers="keep")
    config = replace(Config(), loss=trainer.loss, data=data)
    return Run(RunFolder(path), config, trainer, preprocessing, None, None)
