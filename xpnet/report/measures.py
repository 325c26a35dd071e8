"""Measures of a ranking and of a share, as scikit-learn and SciPy define them."""

import math

import numpy as np

__all__ = ["area", "average_precision", "precision_recall", "roc", "wilson"]


def _ranked(
    true: np.ndarray, scores: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of true and of false rows at or above each distinct score, descending."""
    order = np.argsort(-scores, kind="stable")
    scores, yes = scores[order], true[order].astype(np.float64)
    weight = np.ones(len(yes)) if weight is None else weight[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    return np.cumsum(yes * weight)[last], np.cumsum((1 - yes) * weight)[last]


def roc(
    true: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the false and true positive rates (T,) of every threshold, from 0 to 1.

    ``true`` (N,) says which rows are positive, ``scores`` (N,) rank them. NaN where there is no
    negative, or no positive row.

    >>> roc(np.array([True, False]), np.array([0.9, 0.1]))
    (array([0., 0., 1.]), array([0., 1., 1.]))
    """
    hits, alarms = _ranked(true, scores, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.append(0.0, alarms) / alarms[-1], np.append(0.0, hits) / hits[-1]


def area(x: np.ndarray, y: np.ndarray) -> float:
    """Return the area under a curve through (T,) points, by trapezoids.

    >>> area(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    0.5
    """
    return float(np.trapezoid(y, x))


def precision_recall(
    true: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall (T,) of every threshold, the highest first.

    Before the first threshold nothing is predicted: that point, of recall 0 and precision 1 by
    convention, comes first. NaN without a positive row.
    """
    hits, alarms = _ranked(true, scores, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / (hits + alarms), hits / hits[-1]
    return np.append(1.0, precision), np.append(0.0, recall)


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return Σ (recall_t - recall_t-1) precision_t, which is the area without interpolation.

    >>> average_precision(np.array([1.0, 1.0, 0.5]), np.array([0.0, 1.0, 1.0]))
    1.0
    """
    return float(np.sum(np.diff(recall) * precision[1:]))


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, ``right`` of ``rows``.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    >>> low, high = wilson(90, 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    z = 1.959963984540054
    share, square = right / rows, z * z / rows
    middle = share + square / 2
    half = z * math.sqrt(share * (1 - share) / rows + square / (4 * rows))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
