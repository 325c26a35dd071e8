"""Fine-tuning: a run that starts from what another one, or a saved model, has learnt.

``[start] source`` names it. Of a run the columns, the encoding, the architecture and, where they
can be, the class names are taken over: weights mean something only for inputs that are encoded as
those were that they were trained on. A model that was saved without a run has the architecture
alone, and its rows are taken as they are. Whoever resumes the new run needs the source no more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.data import Columns, Dataset, Encoder, Scaler
from xpnet.errors import ConfigError
from xpnet.nn import LAYERS, Dense, Embedding, Layer
from xpnet.nn.losses import LOSSES, Loss
from xpnet.run.config import Config, ModelConfig, StartConfig, fitting_losses
from xpnet.run.preprocessing import Preprocessing
from xpnet.run.run_folder import RunFolder
from xpnet.run.trained_run import Run, load, load_run
from xpnet.storage import Checkpoint, CheckpointFolder
from xpnet.storage import load as read_checkpoint
from xpnet.training.saved import file_at
from xpnet.training.trainer import Trainer

__all__ = ["Origin", "find_origin", "given_keys", "origin_of"]

# What a run takes from the one that it starts from, beside the columns.
ENCODING = ("data.scaling", "data.target_scaling", "data.columns.one_hot")
OF_CLASSES = ("class_weights", "ignore_label", "pos_weight")  # settings of a loss


@dataclass(frozen=True)
class Origin:
    """What a run starts from."""

    name: str  # as it was given
    checkpoint: Checkpoint
    model: ModelConfig
    run: Run | None  # None for a model that was saved without one
    resumed: bool = False  # whether it is the run itself, which goes on

    @property
    def columns(self) -> Columns | None:
        """The columns that the rows need."""
        return None if self.run is None else self.run.preprocessing.columns

    def config(self, config: Config, given: Iterable[str]) -> Config:
        """Return ``config`` with the architecture and the encoding of the source.

        ``given`` are the settings that the user gave beside a file. Raises ConfigError for those
        that the source decides.
        """
        decided = ("model", *(ENCODING if self.run else ()))
        for key in () if self.resumed else given:
            if any(f"{key}.".startswith(f"{its}.") for its in decided):
                msg = f"{key} cannot be set: it is that of {self.name}, which this run starts from"
                raise ConfigError(msg)
        data, scales = config.data, any(key == "data.scaling" for key in given)
        if self.run is not None:
            its = self.run.config.data
            columns = replace(data.columns, one_hot=its.columns.one_hot)
            scaling: Any = {"scaling": its.scaling, "target_scaling": its.target_scaling}
            data = replace(data, columns=columns, **scaling)
        elif not scales:
            data = replace(data, scaling="none")
        return replace(config, model=self.model, data=data)

    def loss(self, config: Config, given: Iterable[str], classes: int) -> Loss:
        """Return the loss of the source where the task is the same and nobody chose another."""
        task, loss = config.data.task, config.loss
        if self.run is None or task == "auto" or self.run.config.data.task != task:
            return loss
        chosen = any(key.partition(".")[0] == "loss" for key in given)
        if chosen or loss != LOSSES[fitting_losses(task)[0]]():
            return loss
        its = self.run.config.loss
        if its.predicts == "binary" and task == "classification" and classes != 2:
            return loss
        own = {key: getattr(type(its), key) for key in OF_CLASSES if hasattr(its, key)}
        balanced = getattr(its, "class_weights", None) == "balanced"
        return replace(its, **own | ({"class_weights": "balanced"} if balanced else {}))

    def dataset(self, rows: Dataset) -> tuple[Dataset, str]:
        """Return rows with the classes of the source where it has them all, and a line on that.

        Raises DataError where the rows have another shape than the source takes.
        """
        if self.run is None:
            return rows, ""
        before = self.run.preprocessing
        before.check_shape(rows.name, rows.feature_shape)
        if rows.classes is None or rows.y is None or before.classes is None:
            return rows, ""
        if rows.classes == before.classes:
            return rows, f"classes of {self.name}: {len(before.classes)}"
        if not set(rows.classes) <= set(before.classes):
            new = [name for name in rows.classes if name not in before.classes]
            return rows, f"classes that {self.name} does not have: {', '.join(new[:10])}"
        place = np.array([before.classes.index(name) for name in rows.classes], np.int32)
        line = f"classes of {self.name}: {len(before.classes)}, of which the new rows have "
        line += str(len(rows.classes))
        return replace(rows, y=place[rows.y], classes=before.classes), line

    def new_head(self, preprocessing: Preprocessing) -> bool:
        """Return whether the outputs mean something else than those of the source."""
        if self.run is None:
            return False
        before = self.run.preprocessing
        return (before.task, before.classes, _targets(before)) != (
            preprocessing.task,
            preprocessing.classes,
            _targets(preprocessing),
        )

    def encoder(self) -> Scaler | Encoder | None:
        """The encoder of the source's run."""
        return None if self.run is None else self.run.preprocessing.encoder

    def target_scaler(self, preprocessing: Preprocessing) -> Scaler | None:
        """The scaler of the targets: that of the source where its outputs go on."""
        goes_on = self.run is not None and not self.new_head(preprocessing)
        return self.run.preprocessing.target_scaler if goes_on and self.run else None

    @property
    def line(self) -> str:
        """What is taken over, in words."""
        if self.run is None:
            line = f"start {self.name}: a model without a run, so rows are taken as they are, "
            return line + "with data.scaling = 'none', unless that is set"
        return f"start {self.name}: its columns, encoding and architecture are taken over"


def _targets(preprocessing: Preprocessing) -> tuple[str, ...] | None:
    """The names of the labels, without which nobody can tell whether they are others."""
    columns = preprocessing.columns
    if preprocessing.classes is not None or columns is None or not columns.names:
        return None
    return tuple(columns.names[j] for j in columns.labels) or None


def find_origin(start: StartConfig | None, folder: RunFolder, *, resume: bool) -> Origin | None:
    """Return what a run starts from, None for random weights.

    A run that is resumed has all of it in its own checkpoints. Raises CheckpointError for what
    cannot be read, ConfigError for a model that cannot be gone on with.
    """
    if start is None:
        return None
    if resume and CheckpointFolder(folder.checkpoint_path).newest() is not None:
        return origin_of(load_run(folder, backend="numpy", device="cpu", which="last"))
    found: Any = load(start.source, backend="numpy", device="cpu", which=start.which)
    if isinstance(found, Trainer):
        checkpoint = read_checkpoint(file_at(Path(start.source)))
        return Origin(start.source, checkpoint, _architecture(found, start.source), None)
    assert found.checkpoint is not None
    return Origin(start.source, found.checkpoint, found.config.model, found)


def origin_of(run: Run) -> Origin | None:
    """Return what reads a run's own data as it was read for training, if it started from another.

    The run has all of it by now.
    """
    if run.config.start is None or run.checkpoint is None:
        return None
    return Origin(str(run.folder.path), run.checkpoint, run.config.model, run, resumed=True)


def _architecture(trainer: Trainer, name: str) -> ModelConfig:
    """The hidden layers of a model, to which a run adds the output layer."""
    layers, ends = list(trainer.model.layers), {LAYERS["softmax"], LAYERS["log_softmax"]}
    while layers and type(layers[-1]) in {*ends, LAYERS["sigmoid"], LAYERS["identity"]}:
        layers.pop()
    head: Layer | None = layers[-1] if layers else None
    if not isinstance(head, Dense) or not head.bias:
        msg = f"{name} does not end in a dense layer with a bias, as the model of a run does"
        raise ConfigError(msg, python="start a Trainer from it: Trainer.start_from")
    if any(isinstance(layer, Embedding) for layer in layers):
        msg = f"{name} has an embedding, whose codes only its own preprocessing knows"
        raise ConfigError(msg, python="start a Trainer from it: Trainer.start_from")
    return ModelConfig(layers=tuple(layers[:-1]), output_initializer=head.initializer)


def given_keys(settings: Iterable[str] | Mapping[str, Any]) -> list[str]:
    """Return the keys of settings as :func:`~xpnet.run.train` takes them."""
    return [text.partition("=")[0].strip() for text in settings]
