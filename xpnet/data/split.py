"""Random splits of rows into parts, stratified by class."""

import math
from collections.abc import Sequence

import numpy as np

from xpnet.data.columns import listed
from xpnet.errors import ConfigError, DataError
from xpnet.random import generator

__all__ = ["rare_classes", "split"]


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
    A class with fewer rows than parts stays in the first part, the training rows:
    :func:`rare_classes` names such. Regression targets, which are floats, are split as one class.

    Raises ConfigError for fractions that are not positive or do not add up to 1; DataError if
    there are too few rows, in all or of every class. ``classes`` name them in the message.

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
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    groups = [shuffled]
    if stratified:
        rare, groups = _by_class(y, shuffled, len(shares), classes)
        parts[0] += rare
    carry = np.zeros(len(shares))
    for rows in groups:
        quota = shares * len(rows) + carry
        counts = _apportion(quota, len(rows))
        carry = quota - counts
        for part, chosen in zip(parts, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            part.append(chosen)
    return tuple(np.sort(np.concatenate(part)).astype(np.int32) for part in parts)


def rare_classes(
    y: np.ndarray, n_parts: int, classes: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return a line that names the classes with too few rows for ``n_parts`` parts, if there are.

    >>> rare_classes(np.array([0, 0, 0, 1]), 2, ("rose", "tulip"))
    ("too few rows to divide, so they are all in the training rows: 'tulip' (1)",)
    """
    if y.dtype.kind not in "iu" or y.ndim != 1:
        return ()
    indices, sizes = np.unique(y, return_counts=True)
    few = [(int(k), n) for k, n in zip(indices, sizes, strict=True) if n < n_parts]
    named = [f"{_name(k, classes)} ({n})" for k, n in few]
    said = "too few rows to divide, so they are all in the training rows: "
    return (said + listed(named),) if named else ()


def _name(index: int, classes: Sequence[str] | None) -> str:
    return f"class {index}" if classes is None else repr(classes[index])


def _by_class(
    y: np.ndarray, order: np.ndarray, n_parts: int, classes: Sequence[str] | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the rows of each class, in the given order, from the rarest class on.

    Classes with fewer rows than parts come apart from the others.
    """
    indices, sizes = np.unique(y, return_counts=True)
    by_class = np.split(order[np.argsort(y[order], kind="stable")], np.cumsum(sizes)[:-1])
    by_class = sorted(by_class, key=len)
    rare = [rows for rows in by_class if len(rows) < n_parts]
    if len(rare) == len(by_class):
        few = int(sizes.argmax())
        msg = f"no class has a row for each of {n_parts} parts: the most frequent is "
        msg += f"{_name(int(indices[few]), classes)} with {sizes[few]}"
        raise DataError(
            msg,
            python="add rows, or pass stratify=False",
            command="add rows, or --set data.stratify=false",
        )
    return rare, by_class[len(rare) :]


def _apportion(quota: np.ndarray, total: int) -> np.ndarray:
    """Round ``quota`` to whole numbers of at least 1 that add up to ``total``."""
    counts = np.maximum(np.floor(quota).astype(np.int64), 1)
    while counts.sum() < total:
        counts[np.argmax(quota - counts)] += 1
    while counts.sum() > total:
        surplus = np.where(counts > 1, counts - quota, -np.inf)
        counts[np.argmax(surplus)] -= 1
    return counts
