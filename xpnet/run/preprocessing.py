"""What a run keeps of its data: the splits, and how rows become a model's input."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from array_api_compat import array_namespace

from xpnet.backends import Backend
from xpnet.data import Augment, Columns, Dataset, Encoder, Scaler, StreamedDataset, check
from xpnet.data.encoder import encoder_of
from xpnet.data.read import Task
from xpnet.data.tables import Header
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.nn import Sequential
from xpnet.nn.losses import Loss
from xpnet.parallel import ALONE, Comm, agreed
from xpnet.registry import name_of
from xpnet.run.config import Column, Config, Placement
from xpnet.training.loader import Loader
from xpnet.training.streamed_loader import StreamedLoader
from xpnet.typing import Array

__all__ = [
    "Preprocessing",
    "Splits",
    "columns_of",
    "label_in",
    "outputs_for",
    "shares_of",
]

RESIDENT: dict[Placement, bool | None] = {"auto": None, "device": True, "host": False}


@dataclass(frozen=True)
class Preprocessing:
    """How rows become a model's input, and its output becomes predictions.

    It is fitted to the training part and saved with the model, so that a prediction needs nothing
    but the run and raw rows.
    """

    encoder: Scaler | Encoder  # of arrays, or of the columns of a table
    feature_shape: tuple[int, ...]  # of the rows, before they are encoded
    outputs: int  # columns of the model's output
    classes: tuple[str, ...] | None = None  # None for a regression, and for several labels
    columns: Columns | None = None  # None where rows are more than columns, as images are
    target_scaler: Scaler | None = None  # of a regression
    targets: tuple[str, ...] | None = None  # the names of several target columns

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the features, in their order, if the file had any."""
        return None if self.columns is None else self.columns.feature_names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a row of the model's input."""
        return (
            self.encoder.output_shape if isinstance(self.encoder, Encoder) else self.feature_shape
        )

    @property
    def embeddings(self) -> tuple[int, ...]:
        """How many values each of the last inputs has, which are codes of categories."""
        return self.encoder.embeddings if isinstance(self.encoder, Encoder) else ()

    @property
    def task(self) -> Task:
        """What the model predicts: a class, numbers, or yes or no for each of several labels."""
        if self.classes is not None:
            return "classification"
        return "multilabel" if self.target_scaler is None else "regression"

    def loader(
        self,
        backend: Backend,
        dataset: Dataset | StreamedDataset,
        placement: Placement = "auto",
        augment: Augment = Augment(),
        comm: Comm = ALONE,
    ) -> Loader:
        """Return a loader of the rows of a data set, scaled, on ``backend``.

        All ranks of ``comm`` call this at once; those of a host share what is scaled. Raises
        DataError where the rows have another shape than those trained on, or a bad value.
        """
        if isinstance(dataset, StreamedDataset):
            return StreamedLoader(
                backend,
                dataset,
                transform=lambda rows: self.encoder.apply(rows, backend.dtype_name),
                target_transform=self.scaled_targets,
                augment=augment,
            )
        checking = partial(
            check,
            dataset,
            n_classes=len(self.classes) if self.classes and dataset.y is not None else None,
            feature_shape=self.feature_shape,
            missing=isinstance(self.encoder, Encoder),
        )
        agreed(comm, checking if comm.local_rank == 0 else None)
        return Loader(
            backend,
            dataset.x,
            None if dataset.y is None else self.scaled_targets(dataset.y),
            dataset.weight,
            resident=RESIDENT[placement],
            transform=lambda rows: self.encoder.apply(rows, backend.dtype_name),
            augment=augment,
            comm=comm,
        )

    def scaled_targets(self, y: np.ndarray) -> np.ndarray:
        """Return targets in the units that the model is trained in: scaled for a regression."""
        return y if self.target_scaler is None else self.target_scaler.apply(y, "float64")

    def check_shape(self, path: str | Path, shape: tuple[int, ...]) -> None:
        """Raise DataError if the rows of a file do not have the shape of the training rows."""
        if shape != self.feature_shape:
            msg = (
                f"{path}: features have shape {shape}; the run was trained on {self.feature_shape}"
            )
            raise DataError(msg)

    def noting_unseen(
        self, columns: Columns | None, count: Callable[[Encoder], dict[str, int]]
    ) -> Columns | None:
        """Return columns with a note of how many rows have a value that training did not have.

        ``count`` returns these numbers by column.
        """
        if columns is None or not isinstance(self.encoder, Encoder):
            return columns
        rows = [f"{name} ({n:,})" for name, n in count(self.encoder).items()]
        said = "values that training did not have, taken for none of those it had: "
        return columns.noting(said + ", ".join(rows)) if rows else columns

    def answers(self, out: Array) -> Array:
        """Turn the model's predictions into probabilities (N, K), or values in the data's units.

        A binary loss gives both classes their column. ``out`` is an array of any library; values
        are in float64.
        """
        xp = array_namespace(out)
        if self.target_scaler is not None:
            shift, scale = map(xp.asarray, self.target_scaler)
            return xp.astype(out, xp.float64) * scale + shift
        if self.classes is not None and self.outputs == 1:
            return xp.concat([1.0 - out, out], axis=1)
        return out

    def ranked(self, output: Array) -> Array:
        """Turn the model's output, of classes, into numbers (N, K) of which the largest wins.

        Unlike probabilities they do not round to 0 and 1. A binary loss predicts class 1 above 0.
        """
        xp = array_namespace(output)
        return output if self.outputs > 1 else xp.concat([xp.zeros_like(output), output], axis=1)

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays; the rest is :meth:`meta`."""
        targets = self.target_scaler.tensors() if self.target_scaler else {}
        return {**self.encoder.tensors(), **{f"target_{k}": v for k, v in targets.items()}}

    def meta(self) -> dict[str, Any]:
        """Its JSON data; the rest is :meth:`tensors`."""
        return {
            "feature_shape": list(self.feature_shape),
            "outputs": self.outputs,
            "classes": self.classes and list(self.classes),
            "columns": self.columns and self.columns.meta(),
            "targets": self.targets and list(self.targets),
            "encoder": self.encoder.meta() if isinstance(self.encoder, Encoder) else None,
        }

    @classmethod
    def of(cls, meta: dict[str, Any], tensors: dict[str, np.ndarray]) -> "Preprocessing":
        """Build it from a checkpoint's content; raises CheckpointError if that is invalid."""
        shape, outputs = meta["feature_shape"], meta["outputs"]
        counts = isinstance(shape, list) and all(type(n) is int for n in [*shape, outputs])
        if not counts or not shape or min([*shape, outputs]) < 1:
            msg = f"the checkpoint's model is invalid: features {shape!r}, outputs {outputs!r}"
            raise CheckpointError(msg)
        count = max(2, outputs)
        if meta["classes"] is not None and not _is_names(meta["classes"], count):
            msg = f"the checkpoint's classes must be {count} strings; got {meta['classes']!r}"
            raise CheckpointError(msg)
        names = meta.get("targets")
        if names is not None and not _is_names(names, outputs):
            msg = f"the checkpoint's targets must be {outputs} strings; got {names!r}"
            raise CheckpointError(msg)
        scaler = {k.removeprefix("target_"): v for k, v in tensors.items() if k[:7] == "target_"}
        encoder = meta.get("encoder")
        return cls(
            Scaler.from_tensors(tensors) if encoder is None else encoder_of(encoder, tensors),
            tuple(shape),
            outputs,
            meta["classes"] and tuple(meta["classes"]),
            _columns(meta, tuple(shape)),
            Scaler.from_tensors(scaler) if scaler else None,
            names and tuple(names),
        )


def _columns(meta: dict[str, Any], shape: tuple[int, ...]) -> Columns | None:
    """Return the columns in a checkpoint; those of an earlier version know features alone."""
    if "columns" not in meta:
        names = meta["feature_names"]
        meta = {"features": [*range(shape[0])], "names": names, "label": None, "left_out": ()}
        columns = Columns.of(meta | {"guess": "", "notes": (), "arrays": None})
    elif meta["columns"] is None:
        return None
    else:
        columns = Columns.of(meta["columns"])
    if columns.features and (len(columns.features),) != shape:
        msg = f"the checkpoint's columns are {len(columns.features)} features; "
        raise CheckpointError(msg + f"its model takes {shape}")
    return columns


def model_of(config: Config, preprocessing: Preprocessing) -> Sequential:
    """Return the built model of a config for the inputs and outputs of its data."""
    inputs, outputs = preprocessing.input_shape, preprocessing.outputs
    return config.model.model(inputs, outputs, config.loss, preprocessing.embeddings)


def columns_of(dataset: Dataset | StreamedDataset) -> Columns | None:
    """Return the columns to keep with a run; each feature of an array of rows is one."""
    columns, shape = dataset.columns, dataset.feature_shape
    if len(shape) == 1 and not (columns and columns.features):
        return replace(columns or Columns(()), features=tuple(range(shape[0])))
    return columns


def label_in(config: Config, columns: Columns | None = None) -> Column | tuple[Column, ...]:
    """Return where a file has its labels: in the column of the run, where that is known."""
    given = "auto" if config.data.label is None else config.data.label
    return given if columns is None or not columns.labels else "auto"


def _is_names(value: Any, count: int) -> bool:
    texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return texts and len(value) == count


@dataclass(frozen=True)
class Splits:
    """The splits of a data set; ``fingerprint`` identifies the whole of it, before the split."""

    train: Dataset | StreamedDataset
    validation: Dataset | StreamedDataset | None
    test: Dataset | StreamedDataset | None
    preprocessing: Preprocessing
    fingerprint: str
    config: Config  # with its task decided
    notes: tuple[str, ...] = ()  # what was decided, in words


HEADERS: dict[str, Header] = {"auto": "auto", "yes": True, "no": False}


def reading_settings(config: Config) -> dict[str, Any]:
    """Return how the files of a run are read, as arguments of :func:`xpnet.data.read`."""
    settings, columns = config.data, config.data.columns
    return {
        "header": HEADERS[settings.header],
        "text": settings.text,
        "task": settings.task,
        "missing_labels": settings.missing_labels,
        "row_numbers": settings.row_numbers,
        "ignore": columns.ignore,
        "numeric": columns.numeric,
        "category": columns.category,
        "weight": columns.weight,
        "array": settings.array,
        "image_size": settings.image_size,
    }


def outputs_for(loss: Loss, name: str, classes: tuple[str, ...] | None, columns: int) -> int:
    """Return how many outputs the model needs for this loss and these classes or target columns.

    Raises DataError or ConfigError if the loss does not fit them.
    """
    if classes is None:
        return columns
    count = len(classes)
    if count < 2:
        msg = f"{name}: all rows belong to class {classes[0]!r}; there is nothing to learn"
        raise DataError(msg)
    ignored = getattr(loss, "ignore_label", None)
    if ignored is not None and not 0 <= ignored < count:
        msg = f"loss.ignore_label is {ignored}, but the classes of {name} are numbered 0 to "
        msg += f"{count - 1}, in the order {', '.join(classes[:10])}"
        raise ConfigError(msg)
    if loss.predicts != "binary":
        return count
    if count != 2:
        msg = f"{name_of(loss)} is for two classes; {name} has {count}: "
        msg += "use softmax_cross_entropy"
        raise ConfigError(msg)
    return 1


def shares_of(config: Config, *, validation: bool = True, test: bool) -> dict[str, float]:
    """Return the share of each split, "train" first, and of those that are to be held out."""
    settings = config.data
    shares = {"validation": cast(float, settings.validation_fraction)} if validation else {}
    if test:
        shares["test"] = settings.test_fraction
    shares = {name: share for name, share in shares.items() if share}
    train = 1.0 - sum(shares.values())
    if train <= 0:
        msg = "data.test_fraction and data.validation_fraction leave "
        msg += f"{train:g} of the rows to train on"
        raise ConfigError(msg)
    return {"train": train, **shares}
