"""The workload of a prediction: a network and a number of rows in host memory."""

import functools
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xpnet.bench.contender import Unit
from xpnet.bench.networks import SEED, STANDARD, Network
from xpnet.errors import ConfigError
from xpnet.nn import Sequential
from xpnet.nn.layout import initialize, layouts
from xpnet.training.memory import host_memory

__all__ = ["Prediction", "parse_prediction", "standard_predictions"]

MANY = 1_000_000  # rows
SHARE = 0.25  # of the free memory that these rows may take
OPERATIONS = 2e12  # that their prediction may take: some 20 seconds of two cores


@dataclass(frozen=True)
class Prediction:
    """The class probabilities of rows (N, I), by a network of dense layers with ReLU."""

    what: ClassVar[str] = "prediction"
    title: ClassVar[str] = "network, rows"
    base: ClassVar[str] = "xpnet numpy"
    warm_up: ClassVar[int] = 1
    unit: ClassVar[Unit] = Unit("µs", 1.0)
    score: ClassVar[str] = ""

    widths: tuple[int, ...]
    rows: int

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.widths))}:{self.rows}"

    def facts(self) -> dict[str, Any]:
        """Return the row."""
        return {"network": str(self)}

    def model(self) -> Sequential:
        """Return the built model."""
        return Network(self.widths, 1, "sgd").model()

    def weights(self, dtype: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return W (I, J) and b (J,) of each dense layer, as xpnet's own model begins with them."""
        model = self.model()
        split = layouts(model)[0].split(initialize(model, SEED)[0].astype(dtype))
        return [(layer["W"], layer["b"]) for layer in split if layer]

    def x(self, dtype: str) -> np.ndarray:
        """Return standard normal rows (N, I), the same array for all contenders."""
        return _drawn(self.rows, self.widths[0], dtype)


@functools.lru_cache(maxsize=1)
def _drawn(rows: int, columns: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal((rows, columns), np.dtype(dtype))


def parse_prediction(text: str) -> Prediction:
    """Parse WIDTHS:ROWS; raises ConfigError.

    >>> parse_prediction("64-32-10:1")
    Prediction(widths=(64, 32, 10), rows=1)
    """
    match = re.fullmatch(r"([1-9]\d{0,8}(?:-[1-9]\d{0,8})+):([1-9]\d{0,8})", text)
    if not match:
        msg = "with --predict, --rows must be WIDTHS:ROWS, each below 10^9, such as 784-512-10:1; "
        msg += f"got {text!r}"
        raise ConfigError(msg)
    return Prediction(tuple(map(int, match[1].split("-"))), int(match[2]))


def standard_predictions() -> list[Prediction]:
    """Return one row and a million for each of the standard networks.

    The million is divided by ten until it fits a quarter of the free memory, and until it does not
    take minutes.
    """
    free, found = host_memory(), []
    for widths in dict.fromkeys(network.widths for network in STANDARD):
        work, many = Network(widths, 1, "sgd").forward_flops(), MANY
        while many > 1 and (many * widths[0] * 4 > SHARE * free or many * work > OPERATIONS):
            many //= 10
        found += [Prediction(widths, 1), Prediction(widths, many)]
    return found
