"""Small tables drawn from large ones, with so many rows to test on that a difference shows.

A table of 200 rows has 50 to test on: ten splits differ by luck more than most peers do. These are
drawn from the training rows of MNIST, Fashion-MNIST and letter, of which none is a test row of
xpnet/bench/tables.py, and no setting of a recipe was chosen on them.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.bench.tables import TABLES, Split, Table, installed
from xpnet.data import read
from xpnet.errors import ConfigError

__all__ = ["SAMPLES", "Sample"]

TESTED = 1500  # rows
# Classes, rows to train on, share of labels that are wrong, features that are noise.
KINDS = (
    (2, 120, 0.0, 0),
    (2, 180, 0.0, 5),
    (2, 300, 0.2, 0),
    (2, 600, 0.25, 10),
    (3, 150, 0.0, 0),
    (3, 500, 0.1, 0),
    (6, 200, 0.0, 0),
    (6, 330, 0.15, 5),
)
# A file of images, and the side of the squares whose means are the features; 0: a table.
SOURCES = (
    ("mnist/train-images-idx3-ubyte.gz", 4),
    ("mnist/train-images-idx3-ubyte.gz", 7),
    ("fashion-mnist/train-images-idx3-ubyte.gz", 4),
    ("fashion-mnist/train-images-idx3-ubyte.gz", 7),
    (TABLES["letter"].source, 0),
)


@dataclass(frozen=True)
class Sample(Table):
    """A small table with classes of a large one; ``seed`` decides which classes and rows.

    Two classes of images are, for every other seed, two groups of four digits or garments.
    """

    side: int = 0
    classes: int = 2
    rows: int = 100
    wrong: float = 0.0
    noise: int = 0
    seed: int = 0

    def frame(self, folder: Path) -> tuple[Any, list[str]]:
        """Return a data frame, the rows to train on first, and the name of its label column."""
        return _drawn(self, folder)

    def splits(self, count: int, folder: Path) -> Iterator[Split]:
        """Yield ``count`` draws, of seeds 0, 1, ..., with 1,500 rows to test on if there are."""
        for seed in range(count):
            drawn = replace(self, seed=seed)
            rows = np.arange(len(drawn.frame(folder)[0]))
            yield Split(drawn, seed, rows[: self.rows], rows[self.rows :])


def _named(source: str, side: int, kind: tuple[int, int, float, int]) -> Sample:
    classes, rows, wrong, noise = kind
    parts = [f"{source.partition('/')[0]}{f' {28 // side}x{28 // side}' if side else ''}"]
    parts += [f"{classes} classes", f"{rows} rows"]
    parts += [f"{wrong:.0%} wrong"] if wrong else []
    parts += [f"{noise} of noise"] if noise else []
    return Sample(", ".join(parts), source, side=side,
                  classes=classes, rows=rows, wrong=wrong, noise=noise)  # fmt: skip


SAMPLES = {
    sample.name: sample
    for sample in (_named(*source, kind) for source in SOURCES for kind in KINDS)
}


@functools.lru_cache(maxsize=2)
def _drawn(sample: Sample, folder: Path) -> tuple[Any, list[str]]:
    pandas = installed("pandas")
    x, y = _source(sample.source, sample.side, folder)
    number = list(SAMPLES).index(sample.name)
    random = np.random.default_rng([sample.seed, number])
    names = random.permutation(np.unique(y))
    groups = np.array_split(names[: sample.classes], sample.classes)
    if sample.side and sample.classes == 2 and sample.seed % 2:
        groups = [names[:4], names[4:8]]
    label = np.full(len(y), -1)
    for k, group in enumerate(groups):
        label[np.isin(y, group)] = k
    rows = random.permutation(np.flatnonzero(label >= 0))[: sample.rows + TESTED]
    label, features = label[rows], x[rows]
    features = np.c_[features, random.normal(size=(len(rows), sample.noise))]
    wrong = random.random(len(rows)) < sample.wrong
    label[wrong] = random.integers(0, sample.classes, wrong.sum())
    frame = pandas.DataFrame(features, columns=[f"x{j}" for j in range(features.shape[1])])
    frame["label"] = [f"class {k}" for k in label]
    return frame, ["label"]


@functools.lru_cache(maxsize=len(SOURCES))
def _source(source: str, side: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, C) and labels (N,) of a large data set."""
    path = folder / source
    if not path.is_file():
        msg = f"no file {str(path)!r}: name the folder that holds it by --data"
        raise ConfigError(msg)
    data = read(path) if side else read(path, label=TABLES["letter"].label)
    assert data.y is not None
    if not side:
        most = TABLES["letter"].train_rows
        return data.x[:most].astype(float), data.y[:most]
    tiles = data.x.reshape(-1, 28 // side, side, 28 // side, side).mean((2, 4))
    return tiles.reshape(len(tiles), -1), data.y
