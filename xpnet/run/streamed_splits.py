"""The splits of a file larger than memory: scanned once, and left in the file."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from xpnet.data import (
    NAMES,
    Columns,
    Encoder,
    Scaler,
    Scan,
    StreamedDataset,
    Task,
    open_rows,
    parts_of,
    scaler_of,
    scan,
    streamable,
)
from xpnet.data.files import MAX_BYTES
from xpnet.data.parts import Part
from xpnet.data.row_file import RowFile
from xpnet.data.running_stats import RunningStats
from xpnet.data.table_file import TableRows
from xpnet.data.wanted import Wanted
from xpnet.errors import ConfigError, DataError
from xpnet.run.config import Config
from xpnet.run.preprocessing import (
    Preprocessing,
    Splits,
    columns_of,
    label_in,
    outputs_for,
    reading_settings,
    shares_of,
)
from xpnet.training.memory import host_memory

__all__ = [
    "is_large",
    "is_streamed",
    "open_part",
    "open_whole",
    "stream_splits",
    "task_of",
    "with_stream",
]

# Which rows are in which part is as much of a run's data as the rows: no run goes on with a split
# that an earlier version would have made otherwise.
SPLIT = "split-2"
SHARE = 0.25  # of the host's memory, which also has to hold scaled copies of the rows


def is_streamed(config: Config) -> bool:
    """Say whether the rows of ``config`` stay in their file.

    ``data.stream = "auto"`` streams what takes more than a quarter of the memory that is free, or
    more than is read at once.
    Raises ConfigError for a named data set that is to be streamed.
    """
    settings = config.data
    if settings.source in NAMES:
        if settings.stream == "yes":
            msg = f"data.stream is for files; {settings.source} is small: set data.stream = 'auto'"
            raise ConfigError(msg)
        return False
    if settings.stream != "auto":
        return settings.stream == "yes"
    return is_large(settings.source)


def is_large(path: str | Path) -> bool:
    """Return whether a file is too large to read at once, and of a format that can be streamed."""
    most = min(MAX_BYTES, SHARE * host_memory())
    return streamable(path) and os.path.isfile(path) and os.path.getsize(path) > most


def open_part(
    path: str | Path, config: Config, preprocessing: Preprocessing, label: Any
) -> StreamedDataset:
    """Scan a file of the kind that a model was trained on; raises DataError."""
    file = _open(config, path, label, preprocessing.columns)
    found = _scan(config, path, file, [1.0], preprocessing.classes)
    part, stats = found.parts[0], found.stats[0]
    preprocessing.check_shape(path, part.feature_shape)
    _check_range(part.name, stats, preprocessing.encoder, config.dtype)
    if found.encoding:
        file.columns = preprocessing.noting_unseen(file.columns, found.encoding.unseen)
    return part


def with_stream(config: Config) -> Config:
    """Return ``config`` with "auto" decided, since a resumed run must decide the same."""
    if config.data.source in NAMES or not streamable(config.data.source):
        return config
    stream: Literal["yes", "no"] = "yes" if is_streamed(config) else "no"
    return replace(config, data=replace(config.data, stream=stream))


def open_whole(config: Config) -> RowFile:
    """Open the data of ``config``, whose rows stay in their file; raises ConfigError, DataError."""
    if config.data.missing_labels == "drop":
        msg = "data.missing_labels = 'drop' is for rows in memory: set data.stream = 'no', "
        msg += "or leave the rows without a label out of the file"
        raise ConfigError(msg)
    if config.data.columns.weight is not None:
        msg = "data.columns.weight is for rows in memory: set data.stream = 'no'"
        raise ConfigError(msg)
    return _open(config, config.data.source, label_in(config))


def task_of(config: Config, file: RowFile) -> Task:
    """Return the task of ``config``, or else what the first labels of a file are for."""
    if config.data.task != "auto":
        return config.data.task
    if isinstance(file, TableRows):  # which has seen all labels
        return file.task
    y = file.read(0, int(file.bounds[1])).y
    if y is None or y.dtype.kind != "f":
        return "classification"
    return "regression" if y.ndim > 1 or bool(np.any(y % 1 != 0)) else "classification"


def stream_splits(config: Config, file: RowFile) -> Splits:
    """Scan a file opened by :func:`open_whole` and fit the scaler to the training split.

    Raises DataError, naming the file and the place, for data that cannot be trained on.
    """
    settings, wanted = config.data, Wanted(label_in(config), array=config.data.array)
    given: dict[Part, tuple[str, Part]] = {
        part: (settings.source, part) for part in parts_of(settings.source, wanted)[1:]
    }
    if settings.test is not None:
        given["test"] = settings.test, "train"
    shares = shares_of(config, validation="validation" not in given, test="test" not in given)
    whole = _scan(config, config.data.source, file, list(shares.values()))
    classes = whole.parts[0].classes
    parts, stats = dict(zip(shares, whole.parts, strict=True)), [*whole.stats]
    prints = [whole.fingerprint, SPLIT] if len(shares) > 1 else [whole.fingerprint]
    for name, (path, part) in given.items():
        like = columns_of(whole.parts[0])
        rows = _open(config, path, label_in(config, like), like, part)
        other = _scan(config, path, rows, [1.0], classes)
        parts[name], stats = other.parts[0], [*stats, *other.stats]
        prints.append(other.fingerprint)
    train = parts["train"]
    _check_parts(parts)
    if config.data.stratify and len(shares) > 1 and whole.class_counts is not None:
        _check_classes(whole, shares, config.data.source)
    outputs = _outputs(config, train, whole.target_stats[0])
    regression = config.data.task == "regression"
    scaling, target_scaling = config.data.scaling, config.data.target_scaling
    encoder: Scaler | Encoder
    encoding = whole.encoding
    if encoding is None:
        encoder = scaler_of(scaling, whole.stats[0])
    else:
        encoder = encoding.encoder(scaling, config.data.columns.one_hot)
    notes = (encoding.note,) if encoding and encoding.note else ()
    columns = columns_of(train)
    preprocessing = Preprocessing(
        encoder,
        train.feature_shape,
        outputs,
        classes,
        columns,
        scaler_of(target_scaling, whole.target_stats[0]) if regression else None,
        _targets(columns) if classes is None else None,
    )
    if preprocessing.target_scaler is not None:
        for of_part in whole.target_stats:
            _check_scaled(config, preprocessing.target_scaler, of_part)
    for each, its in zip(parts.values(), stats, strict=True):
        _check_range(each.name, its, preprocessing.encoder, config.dtype)
    validation, test = (parts.get(name) for name in ("validation", "test"))
    return Splits(train, validation, test, preprocessing, "+".join(prints), config, notes)


def _open(
    config: Config,
    path: str | Path,
    label: Any,
    like: Columns | None = None,
    part: Part = "train",
) -> RowFile:
    return open_rows(path, label, like, part=part, **reading_settings(config))


def _scan(
    config: Config,
    path: str | Path,
    file: RowFile,
    shares: list[float],
    classes: tuple[str, ...] | None = None,
) -> Scan:
    return scan(
        file,
        shares,
        seed=config.seed,
        task=cast(Task, config.data.task),
        classes=classes,
        name=Path(path).name.partition(".")[0],
        window_bytes=config.data.buffer * 2**20 // 2,
        check=lambda y, place: config.loss.check_target(y, 1, place),
    )


def _check_parts(parts: dict[str, StreamedDataset]) -> None:
    """Check that every split has rows, all of one shape."""
    train = parts["train"]
    for name, part in parts.items():
        if len(part) == 0:
            msg = f"{part.name}: {sum(map(len, parts.values()))} rows leave none for {name}; "
            raise DataError(msg + "add rows, or leave that part out")
        if part.feature_shape != train.feature_shape:
            msg = f"{part.name}: features of shape {part.feature_shape}; "
            raise DataError(msg + f"expected {train.feature_shape}")


def _check_classes(whole: Scan, shares: Mapping[str, float], source: str) -> None:
    """Check that every part has its share of every class, as the rows of the file lie.

    It has if the file is shuffled or sorted by class. The bound is that of a random split, far out:
    6 standard deviations of the binomial distribution, and some rows for rare classes.
    """
    counts, names = cast(np.ndarray, whole.class_counts), whole.parts[0].classes or ()
    total = counts.sum(axis=0)
    for (part, share), its in zip(shares.items(), counts, strict=True):
        expected = share * total
        off = np.abs(its - expected) > 5 + 6 * np.sqrt(expected * (1 - share))
        for k in np.flatnonzero((its == 0) | off)[:1]:
            rows = "1 row" if total[k] == 1 else f"{total[k]} rows"
            msg = f"{source}: class {names[k]!r} has {rows}, {its[k]} of them for {part}, where "
            msg += (
                f"{expected[k]:.3g} are its share: add or shuffle rows, read them all into memory"
            )
            raise DataError(
                msg,
                python="data.stream='no'; data.stratify=False takes the split as it is",
                command="--set data.stream=no; --set data.stratify=no takes the split as it is",
            )


def _targets(columns: Columns | None) -> tuple[str, ...] | None:
    """Return the names of several target columns, if there are such."""
    labels = columns.labels if columns else ()
    return tuple(str(columns.shown(j)) for j in labels) if columns and labels[1:] else None


def _outputs(config: Config, train: StreamedDataset, targets: RunningStats) -> int:
    """Return how many outputs the model needs, once the loss has accepted the targets."""
    if not train.labelled:
        msg = f"{train.name} has no labels to train on"
        raise DataError(msg)
    columns = len(_targets(train.columns) or ()) or int(np.prod(targets.mean.shape))
    outputs = outputs_for(config.loss, train.name, train.classes, columns)
    if train.classes is not None:
        config.loss.check_target(np.arange(len(train.classes)), outputs)
    return outputs


def _check_scaled(config: Config, scaler: Scaler, targets: RunningStats) -> None:
    """Check that the loss takes the targets once they are scaled; the extremes tell of all."""
    extremes = np.stack([targets.low, targets.high])
    names = ("the smallest target, scaled", "the largest target, scaled")
    config.loss.check_target(scaler.apply(extremes, "float64"), 1, names.__getitem__)


def _check_range(name: str, stats: RunningStats, encoder: Scaler | Encoder, dtype: str) -> None:
    """Check the extremes only: scaling is monotone, so if they stay finite all rows do."""
    try:
        encoder.apply(np.stack([stats.low, stats.high]), dtype)
    except DataError as error:
        raise error.within(name) from None
