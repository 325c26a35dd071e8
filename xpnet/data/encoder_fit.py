"""The fitting of an encoder to the training rows, in memory or one block after another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.data.columns import Columns, Kind, kinds_of
from xpnet.data.cycles import CYCLES, cycle
from xpnet.data.encoder import MAX_TABLE, Category, Encoder, filled
from xpnet.data.running_stats import RunningStats
from xpnet.data.scaling import Scaler, Scaling, fit_scaler, quartiles, scaler_of
from xpnet.errors import DataError
from xpnet.random import generator

__all__ = ["ONE_HOT", "EncoderStats", "fit_encoder"]

ONE_HOT = 32  # categories of up to so many values are one-hot
NUMBERS = ("number", "date")
# The rows whose medians and quartiles stand for those of all, where these are not in memory.
SAMPLE, SAMPLE_BYTES = 100_000, 2**27


class Fitted(NamedTuple):
    """What is known of the training rows, feature by feature."""

    gaps: np.ndarray  # bool (C,), which numbers have missing values
    fill: np.ndarray  # (numbers,) medians
    cycles: tuple[tuple[int, str], ...]
    counts: Mapping[int, np.ndarray]  # (levels + 1,) rows with each code of a category, and without
    scaler: Scaler  # of the numbers, which are filled


def numbers_of(columns: Columns, features: int) -> tuple[int, ...]:
    """Return the features that are scaled."""
    return tuple(j for j, kind in enumerate(kinds_of(columns, features)) if kind in NUMBERS)


def fit_encoder(
    x: np.ndarray, columns: Columns, scaling: Scaling, one_hot: int = ONE_HOT
) -> Encoder:
    """Fit an encoder to the training rows ``x`` (N, C) of a table in raw units.

    - Numbers: a missing value becomes the median, and all are scaled as ``scaling`` says
      (:func:`~xpnet.data.scaling.fit_scaler`). Where values are missing, an input says so.
    - Dates: their seconds likewise (with "standard" for "max" and "none", which would dwarf the
      other features), and sine and cosine of the cycles in which they vary (xpnet/data/cycles.py).
    - Categories and booleans: two values are -1 and 1, up to ``one_hot`` are one-hot, and more are
      codes for an embedding. Where values are missing, that is a value like any other. A value that
      ``x`` does not have is 0, in each of these.

    Raises DataError if a feature is too large for float64 statistics or nothing varies.
    """
    kinds, numbers = kinds_of(columns, x.shape[1]), numbers_of(columns, x.shape[1])
    gaps = np.zeros(x.shape[1], bool)
    fill = np.empty(len(numbers))
    for k, j in enumerate(numbers):
        present = x[:, j][~np.isnan(x[:, j])]
        gaps[j], fill[k] = len(present) < len(x), _median(present)
    whole = filled(x if len(numbers) == x.shape[1] else x[:, numbers], fill)
    fitted = Fitted(
        gaps,
        fill,
        varying_cycles(x, kinds),
        {
            j: code_counts(x[:, j], len(columns.levels[j]))
            for j in range(x.shape[1])
            if j not in numbers
        },
        scaler_for(kinds, scaling, lambda kind, some: _fit_some(kind, whole, some)),
    )
    return encoder_from(fitted, columns, one_hot)


def encoder_from(fitted: Fitted, columns: Columns, one_hot: int = ONE_HOT) -> Encoder:
    """Return the encoder for training rows of which this is known; see :func:`fit_encoder`."""
    features = len(fitted.gaps)
    shown = [columns.shown(j) for j in columns.features or range(features)]
    numbers = numbers_of(columns, features)
    found = [_category(shown[j], j, counts, one_hot) for j, counts in fitted.counts.items()]
    categories = sorted(filter(None, found), key=lambda c: c.way == "embedding")
    missing = tuple(j for j in numbers if fitted.gaps[j])
    names = [shown[j] for j in numbers] + [f"{shown[j]} missing" for j in missing]
    names += [f"{shown[j]}: {name} {f}" for j, name in fitted.cycles for f in ("sin", "cos")]
    names += [name for c in categories for name in _input_names(c, columns.levels[c.feature])]
    if not names:
        msg = "no column varies in the training rows: there is nothing to learn from"
        raise DataError(msg)
    return Encoder(
        features,
        numbers,
        fitted.fill,
        fitted.scaler,
        missing,
        fitted.cycles,
        tuple(categories),
        tuple(names),
    )


def _fit_some(scaling: Scaling, x: np.ndarray, some: np.ndarray) -> Scaler:
    if not x.shape[1]:
        return Scaler(np.zeros(0), np.ones(0))
    return fit_scaler(scaling, x if some.all() else x[:, some])


def _median(present: np.ndarray) -> float:
    """Return the median of the values that are there, 0 if there are none."""
    return float(np.median(present)) if len(present) else 0.0


def varying_cycles(x: np.ndarray, kinds: Sequence[Kind]) -> tuple[tuple[int, str], ...]:
    """Return the cycles in which dates vary, with their features."""
    return tuple(
        (j, name)
        for j, kind in enumerate(kinds)
        for name in (CYCLES if kind == "date" else ())
        if np.ptp(cycle(name, x[~np.isnan(x[:, j]), j : j + 1]), axis=0).max(initial=0) > 0
    )


def scaler_for(
    kinds: Sequence[Kind], scaling: Scaling, fit: Callable[[Scaling, np.ndarray], Scaler]
) -> Scaler:
    """Return the scaler of numbers and dates; ``fit`` fits one to some of them, by a mask."""
    of_dates = np.array([kind == "date" for kind in kinds if kind in NUMBERS], bool)
    if scaling not in ("max", "none") or not of_dates.any():
        return fit(scaling, np.ones(len(of_dates), bool))
    shift, scale = np.zeros(len(of_dates)), np.ones(len(of_dates))
    if not of_dates.all():
        shift[~of_dates], scale[~of_dates] = fit(scaling, ~of_dates)
    shift[of_dates], scale[of_dates] = fit("standard", of_dates)
    return Scaler(shift, scale)


def code_counts(column: np.ndarray, size: int) -> np.ndarray:
    """Return the numbers of rows (size + 1,) with each code, and with none."""
    gone = np.isnan(column)
    known = gone | (column >= 0)
    return np.bincount(np.where(gone, size, column)[known].astype(np.intp), minlength=size + 1)


def _category(name: str, feature: int, counts: np.ndarray, one_hot: int) -> Category | None:
    """Return how a category becomes inputs, or None if it has one value only."""
    codes = tuple(np.flatnonzero(counts).tolist())
    if len(codes) < 2:
        return None
    few = len(codes) <= one_hot and len(codes) * len(counts) <= MAX_TABLE
    way: Any = "two" if len(codes) == 2 else "one_hot" if few else "embedding"
    return Category(name, feature, len(counts) - 1, codes, way)


def _input_names(category: Category, levels: Sequence[str]) -> list[str]:
    name, size = category.name, len(levels)
    of = [f"{name} missing" if k == size else f"{name}={levels[k]}" for k in category.codes]
    return {"two": of[1:], "one_hot": of, "embedding": [name]}[category.way]


class EncoderStats:
    """What an encoder is fitted to, gathered from blocks of the training rows.

    All is exact but medians, quartiles and cycles, which are those of a sample.
    """

    def __init__(self, columns: Columns, seed: int) -> None:
        self._columns, self._rows = columns, 0
        self._stats, self._random = RunningStats(), generator(seed, "sample")
        features = len(columns.kinds)
        self._size = min(SAMPLE, SAMPLE_BYTES // (8 * features))
        self._sample, self._keys = np.empty((0, features)), np.empty(0)
        self._counts = {
            j: np.zeros(len(levels) + 1, np.int64)
            for j, levels in enumerate(columns.levels)
            if columns.kinds[j] not in NUMBERS
        }

    def add(self, x: np.ndarray) -> None:
        """Add a block of training rows (n, C)."""
        if not len(x):
            return
        self._rows += len(x)
        self._stats.add_present(x)
        for j, counts in self._counts.items():
            counts += code_counts(x[:, j], len(counts) - 1)
        # The rows with the smallest of random keys are a sample of all rows so far.
        keys = self._random.random(len(x))
        if len(self._keys) == self._size:
            smaller = keys < self._keys.max()
            keys, x = keys[smaller], x[smaller]
        if not len(keys):
            return
        self._sample, self._keys = np.concatenate([self._sample, x]), np.append(self._keys, keys)
        if len(self._keys) > self._size:
            kept = np.zeros(len(self._keys), bool)
            kept[np.argpartition(self._keys, self._size)[: self._size]] = True
            self._sample, self._keys = self._sample[kept], self._keys[kept]

    def unseen(self, encoder: Encoder) -> dict[str, int]:
        """Return how many rows have a value that ``encoder`` was not fitted to, by column."""
        known = {c.name: self._counts[c.feature][[*{*c.codes, c.size}]] for c in encoder.categories}
        found = {name: self._rows - int(counts.sum()) for name, counts in known.items()}
        return {name: rows for name, rows in found.items() if rows}

    @property
    def note(self) -> str:
        """What to say of a sample, if it is one."""
        if self._rows <= len(self._sample):
            return ""
        return f"medians are those of {len(self._sample):,} of {self._rows:,} training rows"

    def encoder(self, scaling: Scaling, one_hot: int = ONE_HOT) -> Encoder:
        """Return the encoder, as :func:`fit_encoder` does."""
        kinds, sample = self._columns.kinds, self._sample
        numbers = list(numbers_of(self._columns, len(kinds)))
        missing = np.broadcast_to(self._rows - self._stats.count, len(kinds))
        columns = [sample[:, j] for j in numbers]
        fill = np.array([_median(c[~np.isnan(c)]) for c in columns])
        stats = self._stats.filled(numbers, fill, missing[numbers])
        quarters = quartiles(filled(sample[:, numbers], fill))

        def fit(kind: Scaling, some: np.ndarray) -> Scaler:
            if not len(some):
                return Scaler(np.zeros(0), np.ones(0))
            chosen = np.flatnonzero(some)
            none = np.zeros(len(chosen))
            return scaler_of(kind, stats.filled(chosen, none, none), quarters[:, some])

        scaler = scaler_for(kinds, scaling, fit)
        gaps, cycles = missing > 0, varying_cycles(sample, kinds)
        return encoder_from(
            Fitted(gaps, fill, cycles, self._counts, scaler), self._columns, one_hot
        )
