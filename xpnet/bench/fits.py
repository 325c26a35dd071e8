"""The workload of a whole fit: data, hidden layers, and how they are trained."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from xpnet.bench.contender import Unit
from xpnet.data import NAMES, Dataset, StreamedDataset
from xpnet.data.metrics import RegressionScores
from xpnet.errors import ConfigError
from xpnet.optim.optimizers import OPTIMIZERS, Optimizer
from xpnet.run.config import Config
from xpnet.run.config_sources import load_config
from xpnet.run.splits import load_splits
from xpnet.settings import did_you_mean

__all__ = ["STANDARD_FITS", "Examples", "Fit", "parse_fit"]

FORM = "DATA:HIDDEN:BATCH:OPTIMIZER:EPOCHS"
STANDARD_FITS = ("digits:256-128:32:adam:20",)


class Examples(NamedTuple):
    """Scaled rows (N, I) to train on and to test on, with classes int32 (N,) or targets (N, J)."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    outputs: int


@dataclass(frozen=True)
class Fit:
    """A training from new weights to a model that predicts.

    Dense layers with ReLU, softmax cross-entropy or the mean squared error, and an optimizer with
    xpnet's default learning rate. ``settings`` are those of a config's data, as KEY=VALUE. Reading,
    splitting and scaling the data is not part of it, and the same for all.
    """

    what: ClassVar[str] = "fit"
    title: ClassVar[str] = "data, hidden layers, batch, optimizer, epochs"
    base: ClassVar[str] = "xpnet numpy"
    warm_up: ClassVar[int] = 1
    unit: ClassVar[Unit] = Unit("s", 1e6)

    data: str
    hidden: tuple[int, ...]
    batch_size: int
    optimizer: str
    epochs: int
    settings: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        hidden = "-".join(map(str, self.hidden))
        return f"{self.data}:{hidden}:{self.batch_size}:{self.optimizer}:{self.epochs}"

    def facts(self) -> dict[str, Any]:
        """Return the row, the network with all its widths, and how many rows there are."""
        widths = (self.examples().x.shape[1], *self.hidden, self.examples().outputs)
        sizes = {"train": len(self.examples().x), "test": len(self.examples().x_test)}
        return {"fit": str(self), "network": "-".join(map(str, widths)), "rows": sizes}

    @property
    def score(self) -> str:
        """What a score on the test rows is."""
        return "accuracy" if self.classifies else "R²"

    @property
    def classifies(self) -> bool:
        """Whether the targets are classes."""
        return self.config.data.task == "classification"

    @property
    def rule(self) -> Optimizer:
        """The optimizer, with its default learning rate."""
        return OPTIMIZERS[self.optimizer]()

    @functools.cached_property
    def config(self) -> Config:
        """The config of the data; named images are divided by their largest value."""
        scaling = "max" if self.data in NAMES else "standard"
        own = [f"data.source={self.data}", f"data.scaling={scaling}", "data.validation_fraction=0"]
        own.append("data.task=classification")
        regression = any(s.replace(" ", "") == "data.task=regression" for s in self.settings)
        own += ["loss=mean_squared_error"] if regression else []
        return load_config(Config(), [*own, *self.settings])

    def examples(self, dtype: str = "float32") -> Examples:
        """Return the rows; raises DataError."""
        return _examples(self, dtype)

    def scored(self, predicted: np.ndarray) -> float:
        """Return the accuracy of probabilities or logits, or R² of values, for the test rows."""
        y = self.examples().y_test
        if self.classifies:
            return float((predicted.argmax(axis=1) == y).mean())
        scores = RegressionScores()
        scores.add(y, predicted)
        return scores.result()["r2"]


@functools.lru_cache(maxsize=2)
def _examples(fit: Fit, dtype: str) -> Examples:
    splits = load_splits(fit.config)
    train, test = (_in_memory(part) for part in (splits.train, splits.test))
    parts: list[np.ndarray] = []
    for part in (train, test):
        x = splits.preprocessing.encoder.apply(part.x, dtype)
        y = part.y
        if not fit.classifies:
            y = splits.preprocessing.scaled_targets(y).astype(dtype).reshape(len(y), -1)
        parts += [x.reshape(len(x), -1), y]
    x, y, x_test, y_test = parts
    return Examples(x, y, x_test, y_test, splits.preprocessing.outputs)


def _in_memory(part: Dataset | StreamedDataset | None) -> Any:
    if isinstance(part, Dataset):
        return part
    msg = "--fit needs rows in memory to train on and to test on: use --set data.stream=no and "
    msg += "--set data.test_fraction=0.2"
    raise ConfigError(msg)


def parse_fit(text: str, settings: Sequence[str] = ()) -> Fit:
    """Parse DATA:HIDDEN:BATCH:OPTIMIZER:EPOCHS; raises ConfigError.

    DATA is a named data set or a file.

    >>> parse_fit("mnist:512-256:128:adam:1")
    Fit(data='mnist', hidden=(512, 256), batch_size=128, optimizer='adam', epochs=1)
    """
    size = r"[1-9]\d{0,8}"
    match = re.fullmatch(rf"(.+):({size}(?:-{size})*):({size}):(\w+):({size})", text)
    if not match:
        msg = f"with --fit, --rows must be {FORM}, such as digits:256-128:32:adam:20; got {text!r}"
        raise ConfigError(msg)
    if match[4] not in OPTIMIZERS:
        msg = f"unknown optimizer {match[4]!r}; {did_you_mean(match[4], OPTIMIZERS)}"
        raise ConfigError(msg)
    for setting in settings:
        if not setting.strip().startswith("data."):
            msg = f"with --fit, --set is for data.KEY=VALUE; the rest is in --rows; got {setting!r}"
            raise ConfigError(msg)
    hidden = tuple(map(int, match[2].split("-")))
    return Fit(match[1], hidden, int(match[3]), match[4], int(match[5]), tuple(settings))
