"""What a run keeps of its data: the splits, and how rows become a model's input."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.backends import Backend
from xpnet.data import Augment, Dataset, Scaler, StreamedDataset, check
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.nn.losses import Loss
from xpnet.registry import name_of
from xpnet.run.config import Config, Placement
from xpnet.training.loader import Loader, StreamedLoader

__all__ = ["Splits", "Preprocessing", "outputs_for", "shares_of"]

RESIDENT: dict[Placement, bool | None] = {"auto": None, "device": True, "host": False}


@dataclass(frozen=True)
class Preprocessing:
    """How rows become a model's input, and its output becomes predictions.

    It is fitted to the training part and saved with the model, so that a prediction needs nothing
    but the run and raw rows.
    """

    scaler: Scaler
    feature_shape: tuple[int, ...]
    outputs: int  # columns of the model's output
    classes: tuple[str, ...] | None = None  # None for regression
    feature_names: tuple[str, ...] | None = None
    target_scaler: Scaler | None = None  # of a regression

    def loader(
        self,
        backend: Backend,
        dataset: Dataset | StreamedDataset,
        placement: Placement = "auto",
        augment: Augment = Augment(),
    ) -> Loader:
        """Return a loader of the rows of a data set, scaled, on ``backend``.

        Raises DataError where they have another shape than the rows trained on, or a bad value.
        """
        if isinstance(dataset, StreamedDataset):
            return StreamedLoader(
                backend,
                dataset,
                transform=lambda rows: self.scaler.apply(rows, backend.dtype_name),
                target_transform=self.scaled_targets,
                augment=augment,
            )
        check(
            dataset,
            n_classes=len(self.classes) if self.classes and dataset.y is not None else None,
            feature_shape=self.feature_shape,
        )
        return Loader(
            backend,
            dataset.x,
            None if dataset.y is None else self.scaled_targets(dataset.y),
            resident=RESIDENT[placement],
            transform=lambda rows: self.scaler.apply(rows, backend.dtype_name),
            augment=augment,
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

    def answers(self, out: np.ndarray) -> np.ndarray:
        """Turn the model's predictions into probabilities (N, K), or values in the data's units.

        A binary loss gives both classes their column.
        """
        if self.target_scaler is not None:
            shift, scale = self.target_scaler
            return out.astype(np.float64) * scale + shift
        if self.classes is not None and self.outputs == 1:
            return np.concatenate([1.0 - out, out], axis=1)
        return out

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays; the rest is :meth:`meta`."""
        targets = self.target_scaler.tensors() if self.target_scaler else {}
        return {**self.scaler.tensors(), **{f"target_{k}": v for k, v in targets.items()}}

    def meta(self) -> dict[str, Any]:
        """Its JSON data; the rest is :meth:`tensors`."""
        return {
            "feature_shape": list(self.feature_shape),
            "outputs": self.outputs,
            "classes": self.classes and list(self.classes),
            "feature_names": self.feature_names and list(self.feature_names),
        }

    @classmethod
    def of(cls, meta: dict[str, Any], tensors: dict[str, np.ndarray]) -> "Preprocessing":
        """Build it from a checkpoint's content; raises CheckpointError if that is invalid."""
        shape, outputs = meta["feature_shape"], meta["outputs"]
        counts = isinstance(shape, list) and all(type(n) is int for n in [*shape, outputs])
        if not counts or not shape or min([*shape, outputs]) < 1:
            msg = f"the checkpoint's model is invalid: features {shape!r}, outputs {outputs!r}"
            raise CheckpointError(msg)
        wanted = {"classes": max(2, outputs), "feature_names": shape[0]}
        for key, count in wanted.items():
            if meta[key] is not None and not _is_names(meta[key], count):
                msg = f"the checkpoint's {key} must be {count} strings; got {meta[key]!r}"
                raise CheckpointError(msg)
        targets = {k.removeprefix("target_"): v for k, v in tensors.items() if k[:7] == "target_"}
        return cls(
            Scaler.from_tensors(tensors),
            tuple(shape),
            outputs,
            meta["classes"] and tuple(meta["classes"]),
            meta["feature_names"] and tuple(meta["feature_names"]),
            Scaler.from_tensors(targets) if targets else None,
        )


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


def shares_of(config: Config, *, test: bool) -> dict[str, float]:
    """Return the share of each split, "train" first; with ``test``, one is held out for testing."""
    settings = config.data
    shares = {"validation": settings.validation_fraction}
    if test:
        shares["test"] = settings.test_fraction
    shares = {name: share for name, share in shares.items() if share}
    train = 1.0 - sum(shares.values())
    if train <= 0:
        msg = "data.test_fraction and data.validation_fraction leave "
        msg += f"{train:g} of the rows to train on"
        raise ConfigError(msg)
    return {"train": train, **shares}
