"""What the number of rows decides, where a config leaves it open: "auto".

Steps decide, not epochs: few rows are passed through often, in small batches, and the more rows
there are, the less they have to be protected from being learned by heart. Of a classification with
fewer than a thousand rows all are trained on, and the weights after the last step are kept: its
schedule ends at a rate near 0. A regression needs the validation part, to keep its best weights,
and more dropout. The figures were chosen on held-out parts of training rows of the tables in
scripts/reports/bench-tables.md; no setting was the best for all of the small ones.
"""

import math
from dataclasses import replace
from typing import NamedTuple

from xpnet.run.config import Config

__all__ = ["Sizes", "by_rows", "sizes_for"]

MOST_STEPS = 15_000  # with more rows there are fewer epochs
FEWEST_EPOCHS = 3


class Sizes(NamedTuple):
    """The settings for fewer than ``below`` rows."""

    below: float
    batch_size: int
    epochs: int
    dropout: float
    validation_fraction: float


CLASSES = (
    Sizes(500, 32, 100, 0.3, 0.0),
    Sizes(1_000, 64, 100, 0.3, 0.0),
    Sizes(5_000, 64, 50, 0.3, 0.1),
    Sizes(50_000, 64, 50, 0.1, 0.1),
    Sizes(math.inf, 256, 50, 0.1, 0.1),
)
NUMBERS = (
    Sizes(1_000, 32, 100, 0.4, 0.15),
    Sizes(5_000, 64, 50, 0.4, 0.15),
    Sizes(50_000, 64, 50, 0.2, 0.1),
    Sizes(math.inf, 256, 50, 0.2, 0.1),
)


def sizes_for(rows: int, task: str = "classification") -> Sizes:
    """Return the settings for so many rows to train and to validate on.

    >>> sizes_for(150).batch_size, sizes_for(16_000).epochs, sizes_for(10_000_000).epochs
    (32, 50, 3)
    """
    table = NUMBERS if task == "regression" else CLASSES
    sizes = next(sizes for sizes in table if rows < sizes.below)
    most = max(FEWEST_EPOCHS, MOST_STEPS * sizes.batch_size // max(rows, 1))
    return sizes._replace(epochs=min(sizes.epochs, most))


def by_rows(config: Config, rows: int) -> Config:
    """Return ``config`` with numbers for what is "auto" in it, given the rows without a test part.

    A batch is not smaller than its micro-batches, and a batch size "largest" stays open.
    """
    data, model = config.data, config.model
    sizes = sizes_for(rows, data.task)
    if config.batch_size == "auto":
        config = replace(config, batch_size=max(sizes.batch_size, config.accumulate))
    if config.epochs == "auto":
        config = replace(config, epochs=sizes.epochs)
    if data.validation_fraction == "auto":
        data = replace(data, validation_fraction=sizes.validation_fraction)
    if model.dropout == "auto":
        model = replace(model, dropout=sizes.dropout)
    return replace(config, data=data, model=model)
