"""The examples that a config asks for: read, checked, split and with a scaler fitted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.backends import Backend
from xpnet.config import Config, Placement
from xpnet.data import (
    NAMES,
    Dataset,
    Scaler,
    check,
    fingerprint,
    fit_scaler,
    load_named,
    read,
    split,
)
from xpnet.data.text import Header
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.feed import Feed
from xpnet.losses import Loss
from xpnet.schema import did_you_mean

__all__ = ["Examples", "Preparation", "load_examples"]

RESIDENT: dict[Placement, bool | None] = {"auto": None, "device": True, "host": False}


@dataclass(frozen=True)
class Preparation:
    """How rows are turned into a model's input and its output into answers.

    It is fitted to the training part and saved with the model, so that a prediction needs nothing
    but the run and raw rows.
    """

    scaler: Scaler
    feature_shape: tuple[int, ...]
    outputs: int  # columns of the model's output
    classes: tuple[str, ...] | None = None  # None for regression
    feature_names: tuple[str, ...] | None = None
    target_scaler: Scaler | None = None  # of a regression

    def feed(self, backend: Backend, dataset: Dataset, placement: Placement = "auto") -> Feed:
        """Return the rows of a data set on their way to ``backend``, scaled.

        Raises DataError where they have another shape than the rows trained on, or a bad value.
        """
        check(
            dataset,
            n_classes=len(self.classes) if self.classes and dataset.y is not None else None,
            feature_shape=self.feature_shape,
        )
        dtype, y = backend.dtype_name, dataset.y
        if y is not None and self.target_scaler is not None:
            y = self.target_scaler.apply(y, "float64")
        return Feed(
            backend,
            dataset.x,
            y,
            resident=RESIDENT[placement],
            transform=lambda rows: self.scaler.apply(rows, dtype),
        )

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
        """The part of it that is arrays; the rest is :meth:`meta`."""
        targets = self.target_scaler.tensors() if self.target_scaler else {}
        return {**self.scaler.tensors(), **{f"target_{k}": v for k, v in targets.items()}}

    def meta(self) -> dict[str, Any]:
        """The part of it that is JSON data."""
        return {
            "feature_shape": list(self.feature_shape),
            "outputs": self.outputs,
            "classes": self.classes and list(self.classes),
            "feature_names": self.feature_names and list(self.feature_names),
        }

    @classmethod
    def of(cls, meta: dict[str, Any], tensors: dict[str, np.ndarray]) -> "Preparation":
        """Make it from what a checkpoint holds; raises CheckpointError where that cannot be."""
        shape, outputs = meta["feature_shape"], meta["outputs"]
        counts = isinstance(shape, list) and all(type(n) is int for n in [*shape, outputs])
        if not counts or not shape or min([*shape, outputs]) < 1:
            msg = f"the checkpoint's model cannot be: features {shape!r}, outputs {outputs!r}"
            raise CheckpointError(msg)
        wanted = {"classes": max(2, outputs), "feature_names": shape[0]}
        for key, count in wanted.items():
            if meta[key] is not None and not _is_names(meta[key], count):
                msg = f"the checkpoint's {key} must be {count} texts; got {meta[key]!r}"
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
class Examples:
    """The parts of a data set; ``fingerprint`` is of the whole of it, before the split."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    preparation: Preparation
    fingerprint: str


def load_examples(config: Config) -> Examples:
    """Read, check and split the data of ``config``, and fit the scaler to the training part.

    Raises DataError, naming the file and the place, for data that cannot be trained on.
    """
    whole, test = _read(config)
    classes = whole.classes if config.data.task == "classification" else None
    outputs = _outputs(config.loss, whole)
    for part in (whole, test):
        if part is not None:
            check(
                part,
                n_classes=len(classes) if classes else None,
                feature_shape=whole.feature_shape,
            )
            config.loss.check_target(_labels(part), outputs)
    train, validation, held_out = _split(config, whole, test)
    regression = config.data.task == "regression"
    preparation = Preparation(
        fit_scaler(config.data.scaling, train.x),
        train.feature_shape,
        outputs,
        classes,
        whole.feature_names,
        fit_scaler(config.data.target_scaling, _labels(train)) if regression else None,
    )
    for part in (train, validation, held_out):
        if part is not None:  # the scaling is monotone: what the extremes survive, all rows do
            _check_range(part, preparation.scaler, config.dtype)
    prints = [fingerprint(part) for part in (whole, test) if part is not None]
    return Examples(train, validation, held_out, preparation, "+".join(prints))


def _check_range(part: Dataset, scaler: Scaler, dtype: str) -> None:
    try:
        scaler.apply(np.stack([part.x.min(axis=0), part.x.max(axis=0)]), dtype)
    except DataError as error:
        msg = f"{part.name}: {error}"
        raise DataError(msg) from None


def read_rows(
    path: str | Path, config: Config, *, label: str | int | None, classes: Any
) -> Dataset:
    """Read a file as the data of ``config`` was read; ``label=None`` reads rows to predict."""
    settings = config.data
    headers: dict[str, Header] = {"auto": "auto", "yes": True, "no": False}
    header = headers[settings.header]
    return read(path, label=label, header=header, task=settings.task, classes=classes)


def _read(config: Config) -> tuple[Dataset, Dataset | None]:
    settings = config.data
    if settings.source in NAMES:
        if settings.test is not None:
            msg = f"data.test is for files; {settings.source} brings its own"
            raise ConfigError(msg)
        return load_named(settings.source, settings.data_dir)
    path = Path(settings.source)
    if not path.suffix and not path.exists():
        msg = f"no data set or file {path.name!r}; {did_you_mean(path.name, NAMES)}"
        raise DataError(msg)
    label = "auto" if settings.label is None else settings.label
    whole = read_rows(path, config, label=label, classes=None)
    if settings.test is None:
        return whole, None
    test = read_rows(settings.test, config, label=label, classes=whole.classes)
    return whole, test.select(whole.feature_names)


def _split(
    config: Config, whole: Dataset, test: Dataset | None
) -> tuple[Dataset, Dataset | None, Dataset | None]:
    settings = config.data
    shares = {"validation": settings.validation_fraction}
    if test is None:
        shares["test"] = settings.test_fraction
    shares = {name: share for name, share in shares.items() if share}
    train_share = 1.0 - sum(shares.values())
    if train_share <= 0:
        msg = f"data.test_fraction and data.validation_fraction leave {train_share:g} to train on"
        raise ConfigError(msg)
    if not shares:
        return whole, None, test
    rows = split(_labels(whole), [train_share, *shares.values()], config.seed, settings.stratify)
    parts = dict(zip(["train", *shares], (whole.take(r) for r in rows), strict=True))
    return parts["train"], parts.get("validation"), parts.get("test", test)


def _outputs(loss: Loss, whole: Dataset) -> int:
    """The columns that the model's output needs for this loss and these targets."""
    if whole.classes is None:
        return 1 if _labels(whole).ndim == 1 else _labels(whole).shape[1]
    count = len(whole.classes)
    if count < 2:
        msg = f"{whole.name}: all rows are of class {whole.classes[0]!r}; there is nothing to learn"
        raise DataError(msg)
    ignored = getattr(loss, "ignore_label", None)
    if ignored is not None and not 0 <= ignored < count:
        msg = f"loss.ignore_label is {ignored}, but the classes of {whole.name} are numbered 0 to "
        msg += f"{count - 1}, in the order {', '.join(whole.classes[:10])}"
        raise ConfigError(msg)
    if loss.predicts != "binary":
        return count
    if count != 2:
        msg = f"binary_cross_entropy is for two classes; {whole.name} has {count}: "
        msg += "use softmax_cross_entropy"
        raise ConfigError(msg)
    return 1


def _labels(dataset: Dataset) -> np.ndarray:
    if dataset.y is None:
        msg = f"{dataset.name} has no labels to train on"
        raise DataError(msg)
    return dataset.y
