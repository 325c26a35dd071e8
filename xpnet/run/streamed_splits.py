"""The splits of a file larger than memory: scanned once, and left in the file."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from xpnet.data import (
    NAMES,
    Columns,
    Scaler,
    Scan,
    StreamedDataset,
    open_rows,
    scaler_of,
    scan,
    streamable,
)
from xpnet.data.files import MAX_BYTES
from xpnet.data.running_stats import RunningStats
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
from xpnet.training.memory import host_memory

__all__ = ["is_large", "is_streamed", "open_part", "stream_splits", "with_stream"]

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
    path: str | Path, config: Config, preprocessing: Preprocessing, label: str | int | None
) -> StreamedDataset:
    """Scan a file of the kind that a model was trained on; raises DataError."""
    found = _scan(config, path, label, [1.0], preprocessing.classes, preprocessing.columns)
    part, stats = found.parts[0], found.stats[0]
    preprocessing.check_shape(path, part.feature_shape)
    _check_range(part.name, stats, preprocessing.scaler, config.dtype)
    return part


def with_stream(config: Config) -> Config:
    """Return ``config`` with "auto" decided, since a resumed run must decide the same."""
    if config.data.source in NAMES or not streamable(config.data.source):
        return config
    stream: Literal["yes", "no"] = "yes" if is_streamed(config) else "no"
    return replace(config, data=replace(config.data, stream=stream))


def stream_splits(config: Config) -> Splits:
    """Scan the data of ``config`` and fit the scaler to the training split.

    Raises DataError, naming the file and the place, for data that cannot be trained on.
    """
    if config.data.missing_labels == "drop":
        msg = "data.missing_labels = 'drop' is for rows in memory: set data.stream = 'no', "
        msg += "or leave the rows without a label out of the file"
        raise ConfigError(msg)
    shares = shares_of(config, test=config.data.test is None)
    whole = _scan(config, config.data.source, label_in(config), list(shares.values()))
    classes = whole.parts[0].classes
    parts, stats = dict(zip(shares, whole.parts, strict=True)), [*whole.stats]
    prints = [whole.fingerprint, SPLIT] if len(shares) > 1 else [whole.fingerprint]
    if config.data.test is not None:
        like = columns_of(whole.parts[0])
        other = _scan(config, config.data.test, label_in(config, like), [1.0], classes, like)
        parts["test"], stats = other.parts[0], [*stats, *other.stats]
        prints.append(other.fingerprint)
    train = parts["train"]
    _check_parts(parts)
    if config.data.stratify and len(shares) > 1 and whole.class_counts is not None:
        _check_classes(whole, shares, config.data.source)
    outputs = _outputs(config, train, whole.target_stats[0])
    regression = config.data.task == "regression"
    scaling, target_scaling = config.data.scaling, config.data.target_scaling
    preprocessing = Preprocessing(
        scaler_of(scaling, whole.stats[0]),
        train.feature_shape,
        outputs,
        classes,
        columns_of(train),
        target_scaler=scaler_of(target_scaling, whole.target_stats[0]) if regression else None,
    )
    if preprocessing.target_scaler is not None:
        for of_part in whole.target_stats:
            _check_scaled(config, preprocessing.target_scaler, of_part)
    for part, its in zip(parts.values(), stats, strict=True):
        _check_range(part.name, its, preprocessing.scaler, config.dtype)
    validation, test = (parts.get(name) for name in ("validation", "test"))
    return Splits(train, validation, test, preprocessing, "+".join(prints))


def _scan(
    config: Config,
    path: str | Path,
    label: str | int | None,
    shares: list[float],
    classes: tuple[str, ...] | None = None,
    like: Columns | None = None,
) -> Scan:
    return scan(
        open_rows(path, label, like, config.data.row_numbers),
        shares,
        seed=config.seed,
        task=config.data.task,
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


def _outputs(config: Config, train: StreamedDataset, targets: RunningStats) -> int:
    """Return how many outputs the model needs, once the loss has accepted the targets."""
    if not train.labelled:
        msg = f"{train.name} has no labels to train on"
        raise DataError(msg)
    columns = int(np.prod(targets.mean.shape))
    outputs = outputs_for(config.loss, train.name, train.classes, columns)
    if train.classes is not None:
        config.loss.check_target(np.arange(len(train.classes)), outputs)
    return outputs


def _check_scaled(config: Config, scaler: Scaler, targets: RunningStats) -> None:
    """Check that the loss takes the targets once they are scaled; the extremes tell of all."""
    extremes = np.stack([targets.low, targets.high])
    names = ("the smallest target, scaled", "the largest target, scaled")
    config.loss.check_target(scaler.apply(extremes, "float64"), 1, names.__getitem__)


def _check_range(name: str, stats: RunningStats, scaler: Scaler, dtype: str) -> None:
    """Check the extremes only: scaling is monotone, so if they stay finite all rows do."""
    try:
        scaler.apply(np.stack([stats.low, stats.high]), dtype)
    except DataError as error:
        raise error.within(name) from None
