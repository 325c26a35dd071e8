"""Rows as a person wrote them: the values of a table as texts, and pixels as pictures."""

import math
from collections.abc import Sequence

import numpy as np

from xpnet.data.columns import Columns, Kind, kinds_of

__all__ = ["as_pictures", "as_written", "described", "picture_shape", "value_text"]

NAMED = ("category", "boolean")  # kinds whose values are numbers of levels
GAP = "–"  # a missing value
SMALLEST = 8  # pixels of a side, from which rows of numbers without names may be an image


def as_written(x: np.ndarray, columns: Columns | None) -> list[tuple[str, ...]]:
    """Return raw rows (N, C) of a data set as texts: names of categories, dates, numbers.

    A value of a category that training did not have is lost in them, and is "?".

    >>> as_written(np.array([[1.0, 0.25], [2.0, np.nan]]), None)
    [('1', '0.25'), ('2', '–')]
    """
    known = described(columns, x.shape[1])
    return [tuple(_short(v, *of) for v, of in zip(row.tolist(), known, strict=True)) for row in x]


def described(columns: Columns | None, count: int) -> list[tuple[Kind, Sequence[str]]]:
    """Return the kind and the levels of each of ``count`` features."""
    if columns is None:
        return [("number", ())] * count
    levels = columns.levels or ((),) * count
    return list(zip(kinds_of(columns, count), levels, strict=True))


def _short(value: float, kind: Kind, levels: Sequence[str]) -> str:
    if math.isnan(value):
        return GAP
    if kind == "date":
        return value_text(round(value), kind, levels).replace("T", " ")
    return value_text(value, kind, levels) if kind in NAMED else f"{value:.6g}"


def value_text(value: float, kind: Kind, levels: Sequence[str]) -> str:
    """Return a value as a file would have it: "" where it is missing, "?" of a level unknown.

    >>> value_text(1.0, "category", ("x", "y")), value_text(86400.0, "date", ())
    ('y', '1970-01-02')
    """
    if math.isnan(value):
        return ""
    if kind in NAMED:
        return levels[int(value)] if 0 <= value < len(levels) else "?"
    if kind == "date":
        moment = np.datetime64(round(value * 1e6), "us").astype("datetime64[s]")
        return str(moment).removesuffix("T00:00:00")
    return f"{value:.12g}"


def picture_shape(
    shape: Sequence[int], dtype: np.dtype, columns: Columns | None, *, named: bool = False
) -> tuple[int, ...] | None:
    """Return the shape (H, W) or (H, W, 3) of a row that is an image, or None.

    Rows of two axes, or of three with one or three channels, are images where both sides have 8
    pixels. A flat row is one if it is of a ``named`` data set, or of bytes without names, and its
    length is a square.

    >>> picture_shape((64,), np.dtype("uint8"), None)
    (8, 8)
    >>> picture_shape((9, 12, 1), np.dtype("float32"), None)
    (9, 12)
    """
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        unnamed = columns is None or columns.names is None
        square = side * side == shape[0] and side >= SMALLEST
        return (side, side) if square and (named or (unnamed and dtype == np.uint8)) else None
    if len(shape) not in (2, 3) or min(shape[:2]) < SMALLEST:
        return None
    if len(shape) == 2:
        return tuple(shape)
    return {1: tuple(shape[:2]), 3: tuple(shape)}.get(shape[2])


def as_pictures(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return rows (N, ...) as pixels (N, *shape) uint8, from 0 for the least to 255 for the most.

    Bytes that use their range stay as they are; others are stretched by what all rows have.
    """
    pixels = x.reshape(len(x), *shape)
    if pixels.dtype == np.uint8 and (not pixels.size or pixels.max() > 127):
        return pixels
    finite = np.nan_to_num(pixels.astype(np.float64))
    low, high = min(0.0, finite.min(initial=0.0)), finite.max(initial=0.0)
    return np.round(255 * (finite - low) / ((high - low) or 1.0)).astype(np.uint8)
