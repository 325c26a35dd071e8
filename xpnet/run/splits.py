"""The data that a config names: read, checked, split, and with its encoder fitted."""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import numpy as np

from xpnet.data import (
    NAMES,
    Columns,
    Dataset,
    Encoder,
    Scaler,
    Task,
    check,
    fingerprint,
    fit_encoder,
    fit_scaler,
    load_named,
    parts_of,
    rare_classes,
    read,
    read_parts,
    split,
)
from xpnet.data.files import naming
from xpnet.data.row_file import RowFile
from xpnet.data.wanted import Wanted
from xpnet.errors import ConfigError, DataError
from xpnet.run.by_rows import by_rows
from xpnet.run.config import Config, DataConfig
from xpnet.run.config_sources import load_config
from xpnet.run.preprocessing import (
    Preprocessing,
    Splits,
    columns_of,
    label_in,
    outputs_for,
    reading_settings,
    shares_of,
)
from xpnet.run.streamed_splits import is_streamed, open_whole, stream_splits, task_of
from xpnet.settings import did_you_mean

if TYPE_CHECKING:  # which imports this module
    from xpnet.run.origin import Origin

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Data", "load_splits", "make_splits", "read_data", "read_rows"]


class Data(NamedTuple):
    """What a config names, read but not yet split."""

    whole: Dataset | RowFile
    task: Task
    validation: Dataset | None = None  # the parts that the source, or data.test, has
    test: Dataset | None = None
    notes: tuple[str, ...] = ()  # on the classes of what a run starts from

    def rows(self, config: Config) -> int:
        """Return how many rows there are to train and to validate on."""
        rows = len(self.whole) if isinstance(self.whole, Dataset) else self.whole.shape[0]
        if self.test is None and config.data.test is None:
            rows = round(rows * (1 - config.data.test_fraction))
        return rows + (0 if self.validation is None else len(self.validation))


def _naming_the_file(
    function: Callable[Concatenate[Config, P], T],
) -> Callable[Concatenate[Config, P], T]:
    @functools.wraps(function)
    def named(config: Config, *args: P.args, **kwargs: P.kwargs) -> T:
        with nullcontext() if config.data.source in NAMES else naming(config.data.source):
            return function(config, *args, **kwargs)

    return named


def load_splits(config: Config, table: Any = None, origin: "Origin | None" = None) -> Splits:
    """Read, check and split the data of ``config``, and fit what encodes it to the training part.

    ``table`` stands for the source where that is in memory. Columns, classes and encoder are those
    of ``origin``, if a run starts from one. Raises DataError, naming the file and
    the place, for data that cannot be trained on.
    """
    data = read_data(config, table, origin)
    return make_splits(load_config(config, task=data.task), data, origin)


@_naming_the_file
def read_data(config: Config, table: Any = None, origin: "Origin | None" = None) -> Data:
    """Read the data of ``config``, or open it where its rows stay in their file.

    What a run starts from has the columns that are looked for, and perhaps the classes.
    """
    data = _read_data(config, table, origin)
    if origin is None:
        return data
    parts = (part for part in (data.whole, data.validation, data.test))
    whole, validation, test = (
        part if part is None else origin.dataset(cast(Dataset, part))[0] for part in parts
    )
    note = origin.dataset(cast(Dataset, data.whole))[1]
    return Data(cast(Dataset, whole), data.task, validation, test, (note,) if note else ())


def _read_data(config: Config, table: Any, origin: "Origin | None") -> Data:
    settings, like = config.data, None if origin is None else origin.columns
    if table is None and is_streamed(config):
        if origin is not None:
            msg = f"{settings.source} is to be streamed, and a run that starts from another one "
            msg += "reads its rows into memory"
            raise DataError(msg, python="data.stream='no'", command="--set data.stream=no")
        file = open_whole(config)
        return Data(file, task_of(config, file))
    if settings.source in NAMES and table is None:
        return _named(config)
    whole, validation, test = read_parts(
        _source(config) if table is None else table,
        label=_label(config, like),
        like=like,
        **reading_settings(config),
    )
    task: Task = "multilabel" if whole.multilabel else "regression"
    task = task if whole.classes is None else "classification"
    if settings.test is not None:
        if test is not None:
            msg = f"{settings.source} has a test part of its own: leave data.test out, or give "
            raise ConfigError(msg + "its training part alone")
        like = columns_of(whole)
        given = label_in(config, like)
        test = read_rows(settings.test, config, given, whole.classes, like, task)
    return Data(whole, task, validation, test)


@_naming_the_file
def make_splits(config: Config, data: Data, origin: "Origin | None" = None) -> Splits:
    """Split and check what was read, and fit what encodes it to the training part.

    What a run starts from has its encoder already, and that of a regression's targets. What the
    number of rows decides is a number in the ``config`` of the result.
    """
    config = by_rows(config, data.rows(config))
    if not isinstance(data.whole, Dataset):
        return stream_splits(config, data.whole)
    whole, given = data.whole, (data.validation, data.test)
    labels, classes = _labels(whole), whole.classes
    columns = 1 if labels.ndim == 1 else labels.shape[1]
    outputs = outputs_for(config.loss, whole.name, classes, columns)
    is_table = bool(whole.columns and whole.columns.kinds)
    encoder = None if origin is None else origin.encoder()
    for part in (whole, *given):
        if part is not None:
            check(
                part,
                n_classes=len(classes) if classes else None,
                feature_shape=whole.feature_shape,
                missing=is_table,
            )
            config.loss.check_target(_labels(part), outputs)
    train, validation, test, notes = _split(config, whole, *given)
    settings = config.data
    if encoder is None:
        encoder = _encoder(settings, train) if is_table else fit_scaler(settings.scaling, train.x)
    preprocessing = Preprocessing(
        encoder,
        train.feature_shape,
        outputs,
        classes,
        columns_of(whole),
        fit_scaler(settings.target_scaling, _labels(train)) if data.task == "regression" else None,
        whole.targets,
    )
    if origin is not None and (scaler := origin.target_scaler(preprocessing)) is not None:
        preprocessing = replace(preprocessing, target_scaler=scaler)
    for part in (train, validation, test):
        if part is not None:  # scaling is monotone: if the extremes stay finite, so do all rows
            _check_range(part, preprocessing.encoder, config.dtype)
    prints = [fingerprint(part) for part in (whole, *given) if part is not None]
    return Splits(
        train, validation, test, preprocessing, "+".join(prints), config, (*data.notes, *notes)
    )


def _label(config: Config, like: Columns | None) -> Any:
    """Where the labels are: as the settings say, or else in the column of ``like``."""
    return label_in(config, None if config.data.label is not None else like)


def _encoder(settings: DataConfig, train: Dataset) -> Encoder:
    assert train.columns is not None
    return fit_encoder(train.x, train.columns, settings.scaling, settings.columns.one_hot)


def _check_range(part: Dataset, encoder: Scaler | Encoder, dtype: str) -> None:
    try:
        encoder.apply(np.stack([np.fmin.reduce(part.x), np.fmax.reduce(part.x)]), dtype)
    except DataError as error:
        raise error.within(part.name) from None


def read_rows(
    source: Any,
    config: Config,
    label: Any,
    classes: Sequence[str] | None = None,
    like: Columns | None = None,
    task: Task | None = None,
    *,
    scored: bool = False,
) -> Dataset:
    """Read another file, or a table in memory, as the data of ``config`` was read.

    ``label=None`` reads rows to predict. ``like`` are the columns of the run, ``task`` its task
    where that of ``config`` is open. Rows that are ``scored`` are those of the test part, where
    the file has one.
    """
    settings = reading_settings(config) | ({} if task is None else {"task": task})
    if scored and "test" in parts_of(source, Wanted(label, like, array=config.data.array)):
        settings["part"] = "test"
    return read(source, label=label, classes=classes, like=like, **settings)


def _named(config: Config) -> Data:
    settings = config.data
    for name, own in (("test", "a test set"), ("label", "labels")):
        if getattr(settings, name) is not None:
            msg = f"data.{name} is for files; {settings.source} has {own} of its own"
            raise ConfigError(msg)
    whole, test = load_named(settings.source, settings.data_dir)
    return Data(whole, "classification", test=test)


def _source(config: Config) -> Path:
    path = Path(config.data.source)
    if not path.suffix and not path.exists():
        msg = f"no data set or file {path.name!r}; {did_you_mean(path.name, NAMES)}"
        raise DataError(msg)
    return path


def _split(
    config: Config, whole: Dataset, validation: Dataset | None, test: Dataset | None
) -> tuple[Dataset, Dataset | None, Dataset | None, tuple[str, ...]]:
    """Return the parts, of which the source may have some itself, and what to say about them."""
    shares = shares_of(config, validation=validation is None, test=test is None)
    if len(shares) == 1:
        return whole, validation, test, ()
    fractions, stratify = list(shares.values()), config.data.stratify
    rows = split(_labels(whole), fractions, config.seed, stratify, whole.classes)
    parts = dict(zip(shares, (whole.take(r) for r in rows), strict=True))
    notes = rare_classes(_labels(whole), len(shares), whole.classes) if stratify else ()
    return parts["train"], parts.get("validation", validation), parts.get("test", test), notes


def _labels(dataset: Dataset) -> np.ndarray:
    if dataset.y is None:
        msg = f"{dataset.name} has no labels to train on"
        raise DataError(msg)
    return dataset.y
