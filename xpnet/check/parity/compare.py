"""The difference of an array from the expected one, and the largest that passes."""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["TOLERANCES", "Difference", "difference"]

# Largest relative difference that passes, by the dtype under test.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4}


class Difference(NamedTuple):
    """The entry with the largest error."""

    error: float  # relative
    place: tuple[int, ...]
    actual: float
    expected: float


def difference(actual: Any, expected: Any, floor: float = 0.0) -> Difference:
    """Return the largest |actual - expected| of two host arrays of one shape.

    It is relative to the expected entry, or to the root mean square of the array or ``floor`` if
    that is larger: the rounding error of a sum is proportional to its terms, not to the result.
    Equal infinities agree, and so do NaNs; compared with a number, both have an infinite error.

    >>> difference(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
    Difference(error=0.25, place=(1,), actual=2.5, expected=2.0)
    """
    actual = np.asarray(actual, dtype=np.float64)
    expected = np.asarray(expected, dtype=np.float64)
    if expected.size == 0:
        return Difference(0.0, (), 0.0, 0.0)
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        size = np.abs(expected)
        scale = max(float(np.sqrt(np.mean(np.square(size)))), floor, np.finfo(np.float64).tiny)
        scale = scale if np.isfinite(scale) else 1.0
        errors = np.where(same, 0.0, np.abs(actual - expected) / np.maximum(size, scale))
        errors = np.where(np.isnan(errors), np.inf, errors)
    place = np.unravel_index(int(errors.argmax()), errors.shape)
    at = tuple(int(i) for i in place)
    return Difference(float(errors[at]), at, float(actual[at]), float(expected[at]))
