"""A few rows to try a config on: real ones if they are on this machine, else synthetic ones."""

from typing import NamedTuple

import numpy as np

from xpnet.backends import get_backend
from xpnet.data import NAMES, Dataset, load_named
from xpnet.errors import DataError
from xpnet.nn import Embedding, Sequential
from xpnet.random import generator
from xpnet.run import Run, load_splits
from xpnet.run.by_rows import by_rows
from xpnet.run.config import Config
from xpnet.run.preprocessing import Preprocessing, model_of
from xpnet.training.trainer import Trainer

__all__ = ["Sample", "drawn", "drawn_for", "sample_rows", "saved_rows"]

ROWS = 60_000  # of what is not on every machine
SHAPES = {"digits": (64,), "mnist": (28, 28), "fashion-mnist": (28, 28)}


class Sample(NamedTuple):
    """A built model and N examples for it, on the host."""

    config: Config  # with its task decided
    model: Sequential
    x: np.ndarray  # (N, ...) float64, scaled
    y: np.ndarray  # (N,) int32, or scaled targets of a regression
    source: str  # where the rows come from, for the report
    raw: Dataset | None = None  # the same rows as they were read; None of synthetic ones
    preprocessing: Preprocessing | None = None


def sample_rows(config: Config, rows: int) -> Sample:
    """Return the model of ``config`` and its first ``rows`` training examples.

    Nothing is downloaded: for a named data set that is not on this machine, they are synthetic
    rows of the same shape, standard normal with random labels. Raises DataError for a file that
    cannot be trained on.
    """
    source, folder = config.data.source, config.data.data_dir
    if source in NAMES:
        try:
            load_named(source, folder, download=False)
        except DataError:
            if folder is not None:
                raise
            return _synthetic(config, rows)
    splits = load_splits(config)
    data, preprocessing = splits.train, splits.preprocessing
    some = data.take(np.arange(min(rows, len(data))))
    loader = preprocessing.loader(get_backend("numpy", dtype="float64"), some)
    batch = next(iter(loader.batches(len(some))))
    model = model_of(splits.config, preprocessing)
    return Sample(splits.config, model, batch.x, batch.y, data.name, some, preprocessing)


def saved_rows(source: Trainer | Run, rows: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return ``rows`` examples for a trained model, x (N, ...) float64 and y, and whose they are.

    Those of a run are the first of its test part; those of a Trainer are synthetic. Raises
    DataError for a run that has no test part, or whose data is elsewhere.
    """
    if isinstance(source, Run):
        part = source.test_part()
        some = part.take(np.arange(min(rows, len(part))))
        loader = source.preprocessing.loader(get_backend("numpy", dtype="float64"), some)
        batch = next(iter(loader.batches(len(some))))
        return batch.x, batch.y, f"{part.name}, held out"
    x, labels, outputs = drawn_for(source, rows)
    y = labels if source.loss.predicts == "class" else np.eye(outputs)[labels]
    return x, y, "synthetic rows"


def drawn_for(trainer: Trainer, rows: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return examples that :func:`drawn` makes for a model, labels and how many outputs it has.

    What an embedding looks up is one of its codes.
    """
    model, outputs = trainer.model, trainer.model.output_shape[-1]
    x, labels = drawn(trainer.seed, rows, model.input_shape or (), outputs)
    if isinstance(first := model.layers[0], Embedding):
        rng = generator(trainer.seed, "sample", 1)
        x[:, -len(first.sizes) :] = rng.integers(first.sizes, size=(rows, len(first.sizes)))
    return x, labels, outputs


def drawn(
    seed: int, rows: int, shape: tuple[int, ...], n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normal examples (N, ...), float64, with random labels (N,), int32."""
    rng = generator(seed, "sample")
    x = rng.standard_normal((rows, *shape))
    return x, rng.integers(n_classes, size=rows).astype(np.int32)


def _synthetic(config: Config, rows: int) -> Sample:
    shape, n_classes = SHAPES[config.data.source], 10
    x, y = drawn(config.seed, rows, shape, n_classes)
    config = by_rows(config, ROWS)
    model = config.model.model(shape, n_classes, config.loss)
    source = f"synthetic rows ({config.data.source} is not on this machine)"
    return Sample(config, model, x, y, source)
