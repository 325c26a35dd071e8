"""Random splits of rows into parts, stratified by class."""

import math
from collections.abc import Sequence

import numpy as np

from xpnet.data.columns import number
from xpnet.data.labels import REGRESSION
from xpnet.errors import ConfigError, DataError
from xpnet.random import generator

__all__ = ["split"]

MANY = 20  # that many classes, all of them numbers, may be regression targets


def split(
    y: np.ndarray,
    fractions: Sequence[float],
    seed: int,
    stratify: bool = True,
    classes: Sequence[str] | None = None,
) -> tuple[np.ndarray, ...]:
    """Return the rows of each part, sorted, as int32 arrays that together hold every row once.

    Class indices y (N,) are stratified: each class is split by ``fractions``, rounded by largest
    remainder, with at least one row in each part. Rounding errors are carried over to the next
    class, from the rarest to the most frequent, so that the sizes of the parts are right as well.
    Regression targets, which are floats, are split as one class.

    Raises ConfigError for fractions that are not positive or do not add up to 1; DataError if
    there are too few rows, of a class or in all. The message names the class as in ``classes``.

    >>> train, test = split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), (0.75, 0.25), seed=0)
    >>> len(train), len(test)
    (6, 2)
    """
    shares = np.asarray(fractions, np.float64)
    if not (shares.ndim == 1 and (shares > 0).all() and math.isclose(shares.sum(), 1.0)):
        msg = f"fractions must be positive and add up to 1; got {tuple(fractions)}"
        raise ConfigError(msg)
    stratified = stratify and y.dtype.kind in "iu" and y.ndim == 1
    if len(y) < len(shares):
        msg = f"{len(y)} rows cannot be split into {len(shares)} parts of at least one row"
        raise DataError(msg)
    shuffled = generator(seed, "split").permutation(len(y))
    groups = _by_class(y, shuffled, len(shares), classes) if stratified else [shuffled]
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    carry = np.zeros(len(shares))
    for rows in groups:
        quota = shares * len(rows) + carry
        counts = _apportion(quota, len(rows))
        carry = quota - counts
        for part, chosen in zip(parts, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            part.append(chosen)
    return tuple(np.sort(np.concatenate(part)).astype(np.int32) for part in parts)


def _by_class(
    y: np.ndarray, order: np.ndarray, n_parts: int, classes: Sequence[str] | None
) -> list[np.ndarray]:
    """Return the rows of each class, in the given order, from the rarest class on."""
    indices, sizes = np.unique(y, return_counts=True)
    if sizes.min() < n_parts:
        rarest = int(sizes.argmin())
        raise _too_few(int(indices[rarest]), int(sizes[rarest]), n_parts, classes)
    by_class = np.split(order[np.argsort(y[order], kind="stable")], np.cumsum(sizes)[:-1])
    return sorted(by_class, key=len)


def _too_few(index: int, size: int, n_parts: int, classes: Sequence[str] | None) -> DataError:
    """Return the error for a class of ``size`` rows; many numbers may not be classes at all."""
    name = index if classes is None else repr(classes[index])
    rows = "1 row" if size == 1 else f"{size} rows"
    msg = f"class {name} has {rows}, too few for one in each of {n_parts} parts"
    add = {
        "python": "add rows, or pass stratify=False",
        "command": "add rows, or --set data.stratify=false",
    }
    if classes is None or len(classes) < MANY or any(number(c) is None for c in classes):
        return DataError(msg, **add)
    msg += f"; the {len(classes)} classes are all numbers: is this a regression?"
    return DataError(msg, **{key: f"{REGRESSION[key]}; if not, {add[key]}" for key in add})


def _apportion(quota: np.ndarray, total: int) -> np.ndarray:
    """Round ``quota`` to whole numbers of at least 1 that add up to ``total``."""
    counts = np.maximum(np.floor(quota).astype(np.int64), 1)
    while counts.sum() < total:
        counts[np.argmax(quota - counts)] += 1
    while counts.sum() > total:
        surplus = np.where(counts > 1, counts - quota, -np.inf)
        counts[np.argmax(surplus)] -= 1
    return counts
