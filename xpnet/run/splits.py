"""The data that a config names: read, checked, split, and with a scaler fitted."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.data import (
    NAMES,
    Columns,
    Dataset,
    Scaler,
    check,
    fingerprint,
    fit_scaler,
    load_named,
    read,
    split,
)
from xpnet.data.csv_file import Header
from xpnet.data.files import naming
from xpnet.errors import ConfigError, DataError
from xpnet.run.config import Config
from xpnet.run.preprocessing import (
    Preprocessing,
    Splits,
    columns_of,
    label_in,
    outputs_for,
    shares_of,
)
from xpnet.run.streamed_splits import is_streamed, stream_splits
from xpnet.settings import did_you_mean

__all__ = ["load_splits", "read_rows"]


def _naming_the_file(load: Callable[[Config], Splits]) -> Callable[[Config], Splits]:
    @functools.wraps(load)
    def named(config: Config) -> Splits:
        with nullcontext() if config.data.source in NAMES else naming(config.data.source):
            return load(config)

    return named


@_naming_the_file
def load_splits(config: Config) -> Splits:
    """Read, check and split the data of ``config``, and fit the scaler to the training part.

    Raises DataError, naming the file and the place, for data that cannot be trained on.
    """
    if is_streamed(config):
        return stream_splits(config)
    whole, test = _read(config)
    classes = whole.classes if config.data.task == "classification" else None
    columns = 1 if _labels(whole).ndim == 1 else _labels(whole).shape[1]
    outputs = outputs_for(config.loss, whole.name, whole.classes, columns)
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
    preprocessing = Preprocessing(
        fit_scaler(config.data.scaling, train.x),
        train.feature_shape,
        outputs,
        classes,
        columns_of(whole),
        fit_scaler(config.data.target_scaling, _labels(train)) if regression else None,
    )
    for part in (train, validation, held_out):
        if part is not None:  # scaling is monotone: if the extremes stay finite, so do all rows
            _check_range(part, preprocessing.scaler, config.dtype)
    prints = [fingerprint(part) for part in (whole, test) if part is not None]
    return Splits(train, validation, held_out, preprocessing, "+".join(prints))


def _check_range(part: Dataset, scaler: Scaler, dtype: str) -> None:
    try:
        scaler.apply(np.stack([part.x.min(axis=0), part.x.max(axis=0)]), dtype)
    except DataError as error:
        raise error.within(part.name) from None


def read_rows(
    path: str | Path,
    config: Config,
    label: str | int | None,
    classes: Any = None,
    like: Columns | None = None,
) -> Dataset:
    """Read a file as the data of ``config`` was read; ``label=None`` reads rows to predict.

    ``like`` are the columns of the run, for every file but the first.
    """
    settings = config.data
    headers: dict[str, Header] = {"auto": "auto", "yes": True, "no": False}
    return read(
        path,
        label=label,
        header=headers[settings.header],
        task=settings.task,
        classes=classes,
        like=like,
        missing_labels=settings.missing_labels,
        row_numbers=settings.row_numbers,
    )


def _read(config: Config) -> tuple[Dataset, Dataset | None]:
    settings = config.data
    if settings.source in NAMES:
        if settings.test is not None:
            msg = f"data.test is for files; {settings.source} has a test set of its own"
            raise ConfigError(msg)
        if settings.label is not None:
            msg = f"data.label is for files; {settings.source} has labels of its own"
            raise ConfigError(msg)
        return load_named(settings.source, settings.data_dir)
    path = Path(settings.source)
    if not path.suffix and not path.exists():
        msg = f"no data set or file {path.name!r}; {did_you_mean(path.name, NAMES)}"
        raise DataError(msg)
    whole = read_rows(path, config, label_in(config))
    if settings.test is None:
        return whole, None
    like = columns_of(whole)
    return whole, read_rows(settings.test, config, label_in(config, like), whole.classes, like)


def _split(
    config: Config, whole: Dataset, test: Dataset | None
) -> tuple[Dataset, Dataset | None, Dataset | None]:
    shares = shares_of(config, test=test is None)
    if len(shares) == 1:
        return whole, None, test
    fractions, stratify = list(shares.values()), config.data.stratify
    rows = split(_labels(whole), fractions, config.seed, stratify, whole.classes)
    parts = dict(zip(shares, (whole.take(r) for r in rows), strict=True))
    return parts["train"], parts.get("validation"), parts.get("test", test)


def _labels(dataset: Dataset) -> np.ndarray:
    if dataset.y is None:
        msg = f"{dataset.name} has no labels to train on"
        raise DataError(msg)
    return dataset.y
