"""The subject of an explanation with rows of data: of a run, a recipe, or given ones."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.backends import get_backend
from xpnet.check.sample import drawn_for, sample_rows
from xpnet.data import Columns, Dataset, StreamedDataset
from xpnet.data.tables.memory import numbers_in, speaks_arrow
from xpnet.errors import ConfigError, DataError
from xpnet.explanation.chosen import LOOKED_AT, Answered, Choice, Sample, answered, choose
from xpnet.explanation.example import Named, example_of, named_by, rows_in_words
from xpnet.explanation.subject import Subject, first_weights, labels_in
from xpnet.nn.layout import layouts, merge
from xpnet.nn.losses import Loss
from xpnet.run import Run
from xpnet.run.config import IN_MEMORY
from xpnet.run.config_sources import load_config
from xpnet.run.preprocessing import Preprocessing
from xpnet.run.trained_run import load_run
from xpnet.training.class_labels import looked_up
from xpnet.training.trainer import Trainer

__all__ = ["given_rows", "of_config", "of_run", "of_trainer"]

FEW = 1000  # rows of a recipe that are looked at
AT_ONCE = 256  # rows


def of_config(
    source: str,
    batch: int = 1,
    sample: Sample | None = 0,
    loss: str | None = None,
    activation: str | None = None,
    label: int | None = None,
    seed: int | None = None,
) -> Subject:
    """Return the model of a recipe or TOML file with its initial weights, and rows of its data.

    Raises ConfigError or DataError.
    """
    named = {"loss": loss, "model.activation": activation, "seed": seed}
    config = load_config(source, [f"{k}={v}" for k, v in named.items() if v is not None])
    sample = 0 if sample is None else sample
    rows = sample_rows(config, FEW if isinstance(sample, str) else sample + batch)
    config, of = rows.config, f"the loss of {source}"
    params = first_weights(rows.model, config.seed)
    y = rows.y.astype(np.int32 if config.loss.predicts == "class" else np.float64)

    def look() -> Answered:
        output = rows.model.forward(params, rows.x)[0]
        return answered(config.loss, output, y, named_by(rows.preprocessing).answers)

    choice = _chosen(batch, sample, len(rows.x), rows.source, of, look)
    chosen = choice.rows
    y = _relabelled(config.loss, y[chosen], rows.model.output_shape[0], label, of)
    example = None
    if rows.raw is not None:
        example = example_of(
            rows.raw.take(chosen), config.loss, rows.model.forward(params, rows.x[chosen])[0],
            named_by(rows.preprocessing), choice, label,
            f"the first {len(rows.x):,}" if choice.why else "",
        )  # fmt: skip
    return Subject(
        f"{source}: {rows_in_words(choice, 'row')}",
        rows.model,
        config.loss,
        params,
        rows.x[chosen],
        y,
        f"initial weights of seed {config.seed}",
        (rows.preprocessing and rows.preprocessing.classes) or (),
        seed=config.seed,
        rows=rows.source,
        example=example,
    )


def of_run(
    run: str | Path | Run,
    batch: int | None = None,
    sample: Sample | None = None,
    label: int | None = None,
    *,
    part: Dataset | StreamedDataset | None = None,
) -> Subject:
    """Return a trained model and rows of its test data, which training did not see.

    ``run`` is its path, or itself, on any backend; ``part`` are labelled rows in the place of the
    test data, all of which are explained unless ``batch`` or ``sample`` choose among them.

    Raises CheckpointError, ConfigError or DataError.
    """
    run = run if isinstance(run, Run) else load_run(run, backend="numpy", device="cpu")
    held_out, part = part is None, _test_part(run) if part is None else part
    preprocessing, loss, engine = run.preprocessing, run.config.loss, run.trainer.engine
    state = engine.host_state()
    split = engine.params_layout.split(state.params), layouts(engine.model)[1].split(state.stats)
    params = [{k: v.astype(np.float64) for k, v in layer.items()} for layer in merge(*split)]

    def forward(x: np.ndarray) -> np.ndarray:
        return engine.model.forward(params, x)[0]

    what = f"the test data of {part.name}" if held_out else part.name
    choice = _chosen(
        batch, sample, len(part), what, "the run's loss",
        lambda: _look(part, preprocessing, loss, forward), whole=not held_out,
    )  # fmt: skip
    some = part.take(choice.rows)
    x = preprocessing.encoder.apply(some.x, "float64")
    y = _relabelled(loss, np.asarray(some.y), preprocessing.outputs, label, "the run's loss")
    y = preprocessing.scaled_targets(y)
    of = f"{len(part):,}" if not choice.why or len(part) <= LOOKED_AT else (
        f"the first {LOOKED_AT:,} of {len(part):,}"
    )  # fmt: skip
    whose = "the test data" if held_out else what
    return Subject(
        f"A trained run: {rows_in_words(choice, 'sample')} of {whose}",
        engine.model,
        loss,
        params,
        x,
        y if loss.predicts == "class" else y.astype(np.float64).reshape(len(y), -1),
        f"trained, {run.checkpoint.path.name if run.checkpoint else run.folder.path.name}",
        preprocessing.classes or (),
        train=False,
        seed=run.config.seed,
        rows=f"{part.name}, held out" if held_out else part.name,
        example=example_of(some, loss, forward(x), named_by(preprocessing), choice, label, of),
    )


def of_trainer(
    trainer: Trainer,
    batch: int | None = None,
    label: int | None = None,
    *,
    sample: Sample | None = None,
    x: Any = None,
    y: Any = None,
) -> Subject:
    """Return a trainer's network with its weights, and rows ``x`` with ``y``, or synthetic ones.

    ``x`` (N, ...) and ``y`` are as :meth:`Trainer.evaluate` takes them; all of them are explained
    unless ``batch`` or ``sample`` choose among them. Raises TrainingError where the sizes are not
    known, ConfigError, DataError.
    """
    model, loss, seed = trainer.model, trainer.loss, trainer.seed
    if x is not None:
        loader = trainer._labelled((x, y))  # builds the model
        host = trainer.engine.backend.to_host
        x, y = host(loader.arrays["x"]).astype(np.float64), host(loader.arrays["y"])
        y = y.astype(np.int32 if loss.predicts == "class" and y.ndim == 1 else np.float64)
        y = y if loss.predicts == "class" else y.reshape(len(y), -1)
        model = trainer.model
    params = trainer.params
    layers: list[dict[str, np.ndarray]] = [{} for _ in model.layers]
    for layout in layouts(model):
        for e in layout.entries:
            layers[e.layer][e.variable] = params[e.name].astype(np.float64)
    if x is None:
        x, labels, K = drawn_for(trainer, batch or 1)
        y, title = labels_in(loss, labels, K, label), f"A trainer's network and a batch of {len(x)}"
        return Subject(title, model, loss, layers, x, y, "the trainer's", train=False, seed=seed)
    given, named = Dataset(x, y, None, "given"), Named.of(trainer)
    if columns := trainer._columns:
        given = replace(given, columns=Columns(tuple(range(len(columns))), names=columns))
    choice = _chosen(
        batch, sample, len(x), "the rows given", "the trainer's loss",
        lambda: answered(loss, model.forward(layers, x)[0], y, named.answers), whole=True,
    )  # fmt: skip
    y = _relabelled(loss, y[choice.rows], model.output_shape[-1], label, "the trainer's loss")
    some = given.take(choice.rows)
    title = f"A trainer's network: {rows_in_words(choice, 'sample')} of the rows given"
    example = example_of(
        some, loss, model.forward(layers, some.x)[0], named, choice, label, f"{len(x):,}"
    )
    return Subject(
        title, model, loss, layers, some.x, y, "the trainer's", named.classes, train=False,
        seed=seed, rows="given", example=example,
    )  # fmt: skip


def given_rows(run: Run, x: Any, y: Any = None) -> Dataset | StreamedDataset:
    """Return labelled rows for a run: a file, a table with its label, or arrays ``x`` and ``y``.

    Raises DataError for what does not fit the run.
    """
    preprocessing, named = run.preprocessing, isinstance(x, str | Path) or speaks_arrow(x)
    if y is None and not named:
        msg = f"rows that are a {type(x).__name__} need their labels"
        raise DataError(msg, python="pass y, too, or a table with its label")
    if y is None:
        return run.read(x, labelled=True)
    if named:
        msg = "y is for rows that are arrays; a file or a table has its label in a column"
        raise DataError(msg, python="omit y")
    rows, labels = numbers_in(x, "x"), np.asarray(y)
    if preprocessing.classes is not None:
        labels = looked_up(labels.astype(str), preprocessing.classes).astype(np.int32)
    else:
        labels = labels.astype(np.float64)
    if rows.shape[1:] != preprocessing.feature_shape:
        preprocessing.check_shape("x", rows.shape[1:])
    return Dataset(
        rows, labels, preprocessing.classes, "rows given", preprocessing.columns,
        multilabel=preprocessing.task == "multilabel",
    )  # fmt: skip


def _test_part(run: Run) -> Dataset | StreamedDataset:
    if run.config.data.source == IN_MEMORY:
        msg = f"{run.folder.path} was trained on a table in memory or on arrays, which it does not "
        raise DataError(
            msg + "keep",
            python="pass labelled rows, explain(run, x=table) or explain(run, x=..., y=...)",
            command="give a FILE of labelled rows after it",
        )
    try:
        return run.test_part()
    except DataError as error:
        remedy = "pass labelled rows, explain(run, x=table)"
        command = "give a FILE of labelled rows after it"
        message = error.message.removesuffix(": give a FILE to evaluate on")
        raise DataError(message, python=remedy, command=command) from error


def _chosen(
    batch: int | None,
    sample: Sample | None,
    count: int,
    where: str,
    of: str,
    look: Callable[[], Answered],
    *,
    whole: bool = False,
) -> Choice:
    """Return the rows that ``sample`` names of ``count`` rows; ``whole`` are all by default.

    What the model says of them is asked for where it decides.
    """
    if batch is None:
        batch, sample = (count, 0) if whole and sample is None else (1, sample)
    if isinstance(sample, int):
        _check_sample(sample, count, where)
        return Choice(np.arange(sample, min(sample + batch, count)), "")
    return choose(look(), sample, batch, of)


def _look(
    part: Dataset | StreamedDataset,
    preprocessing: Preprocessing,
    loss: Loss,
    forward: Callable[[np.ndarray], np.ndarray],
) -> Answered:
    """Return what the model says of the first rows of a part."""
    loader = preprocessing.loader(get_backend("numpy", "cpu", "float64"), part)

    def parts() -> Iterator[Answered]:
        batches = islice(loader.batches(AT_ONCE), math.ceil(LOOKED_AT / AT_ONCE))
        for x, y, _ in batches:
            yield answered(loss, forward(x), y, preprocessing.answers)

    found = Answered.joined(parts())
    return Answered(*(values[:LOOKED_AT] for values in found))


def _relabelled(
    loss: Loss, y: np.ndarray, n_classes: int, label: int | None, whose: str
) -> np.ndarray:
    """Return targets that come with the data, with ``label`` in the first row.

    Raises ConfigError for a label where they are not classes.
    """
    if loss.predicts == "class" and y.ndim == 1:
        return labels_in(loss, y, n_classes, label)
    if label in (0, 1) and loss.predicts == "binary" and y.size == len(y):
        y = y.copy()
        y[0] = label
        return y
    if label is not None:
        what = {"class": "rows of weights", "binary": "0 or 1", "value": "a value"}[loss.predicts]
        msg = f"{whose} predicts {what}, not a class"
        raise ConfigError(msg, python="omit label", command="omit --label")
    return y


def _check_sample(sample: int, count: int, where: str) -> None:
    if not 0 <= sample < count:
        msg = f"sample must be a row from 0 to {count - 1} of {where}; got {sample}"
        raise ConfigError(msg)
