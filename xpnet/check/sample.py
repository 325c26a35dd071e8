"""A few rows to try a config on: real ones if they are on this machine, else synthetic ones."""

from typing import NamedTuple

import numpy as np

from xpnet.backends import get_backend
from xpnet.data import NAMES, load_named
from xpnet.errors import DataError
from xpnet.nn import Sequential
from xpnet.random import generator
from xpnet.run.by_rows import by_rows
from xpnet.run.config import Config
from xpnet.run.preprocessing import model_of

__all__ = ["Sample", "sample_rows"]

ROWS = 60_000  # of what is not on every machine
SHAPES = {"digits": (64,), "mnist": (28, 28), "fashion-mnist": (28, 28)}


class Sample(NamedTuple):
    """A built model and N examples for it, on the host."""

    config: Config  # with its task decided
    model: Sequential
    x: np.ndarray  # (N, ...) float64, scaled
    y: np.ndarray  # (N,) int32, or scaled targets of a regression
    source: str  # where the rows come from, for the report


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
    from xpnet.run import load_splits

    splits = load_splits(config)
    data, preprocessing = splits.train, splits.preprocessing
    some = data.take(np.arange(min(rows, len(data))))
    loader = preprocessing.loader(get_backend("numpy", dtype="float64"), some)
    batch = next(iter(loader.batches(len(some))))
    model = model_of(splits.config, preprocessing)
    return Sample(splits.config, model, batch.x, batch.y, data.name)


def _synthetic(config: Config, rows: int) -> Sample:
    shape, n_classes = SHAPES[config.data.source], 10
    rng = generator(config.seed, "sample")
    x = rng.standard_normal((rows, *shape))
    y = rng.integers(n_classes, size=rows).astype(np.int32)
    config = by_rows(config, ROWS)
    model = config.model.model(shape, n_classes, config.loss)
    source = f"synthetic rows ({config.data.source} is not on this machine)"
    return Sample(config, model, x, y, source)
