"""Splitting rows into parts at random, each with its share of every class."""

import math
from collections.abc import Sequence

import numpy as np

from xpnet.errors import ConfigError, DataError
from xpnet.random import generator

__all__ = ["split"]


def split(
    y: np.ndarray, fractions: Sequence[float], seed: int, stratify: bool = True
) -> tuple[np.ndarray, ...]:
    """Return the rows of each part, sorted, as int32 arrays that together hold every row once.

    Class indices y (N,) are stratified: each class is divided by ``fractions``, rounded by
    largest remainder, with at least one row in each part. What rounding gives or takes is carried
    to the next class, from the rarest to the commonest, so that the sizes of the parts come out
    right as well. Targets of a regression, which are floats, are divided as one class.

    Raises ConfigError for fractions that are not positive or do not add up to 1; DataError where a
    class (or all rows) cannot be in every part.

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
        msg = f"{len(y)} rows cannot be split into {len(shares)} parts of a row or more"
        raise DataError(msg)
    shuffled = generator(seed, "split").permutation(len(y))
    groups = _by_class(y, shuffled, len(shares)) if stratified else [shuffled]
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    carry = np.zeros(len(shares))
    for rows in groups:
        quota = shares * len(rows) + carry
        counts = _apportion(quota, len(rows))
        carry = quota - counts
        for part, chosen in zip(parts, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            part.append(chosen)
    return tuple(np.sort(np.concatenate(part)).astype(np.int32) for part in parts)


def _by_class(y: np.ndarray, order: np.ndarray, n_parts: int) -> list[np.ndarray]:
    """Return the rows of each class, in the order given, from the rarest class on."""
    classes, sizes = np.unique(y, return_counts=True)
    if sizes.min() < n_parts:
        rarest = int(sizes.argmin())
        msg = (
            f"class {classes[rarest]} has {sizes[rarest]} rows, too few for one in each of "
            f"{n_parts} parts; add rows or pass stratify=False"
        )
        raise DataError(msg)
    by_class = np.split(order[np.argsort(y[order], kind="stable")], np.cumsum(sizes)[:-1])
    return sorted(by_class, key=len)


def _apportion(quota: np.ndarray, total: int) -> np.ndarray:
    """Round ``quota`` to whole numbers of at least 1 that add up to ``total``."""
    counts = np.maximum(np.floor(quota).astype(np.int64), 1)
    while counts.sum() < total:
        counts[np.argmax(quota - counts)] += 1
    while counts.sum() > total:
        surplus = np.where(counts > 1, counts - quota, -np.inf)
        counts[np.argmax(surplus)] -= 1
    return counts
