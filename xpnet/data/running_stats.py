"""Mean, standard deviation and extremes of rows that arrive in blocks."""

from typing import Any

import numpy as np

__all__ = ["RunningStats"]


class RunningStats:
    """Count, mean, sum of squared deviations, minimum and maximum of rows (N, ...), by feature.

    With weights, a row counts as often as its weight says. Blocks are merged; E[x²] - E[x]² would
    suffer from cancellation:

        Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", The American
        Statistician 37 (1983), equation 2.1.

    >>> stats = RunningStats()
    >>> for block in ([[1.0, 7.0], [3.0, 7.0]], [[8.0, 7.0]]):
    ...     stats.add(np.array(block))
    >>> stats.mean, stats.std, stats.low
    (array([4., 7.]), array([2.94392029, 0.        ]), array([1., 7.]))
    """

    def __init__(self) -> None:
        self.count: Any = 0  # of each feature where values are missing
        self.mean = self.squares = self.low = self.high = np.zeros(())

    def add(self, rows: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Add a block of rows (n, ...) and, if they have some, their weights (n,).

        Values too large for float64 give infinity or NaN.
        """
        if (n := len(rows) if weight is None else float(weight.sum())) == 0:
            return
        low, high = (f(axis=0).astype(np.float64) for f in (rows.min, rows.max))
        with np.errstate(over="ignore", invalid="ignore"):
            mean = _total(rows, weight) / n
            deviation = rows - mean
            squares = _total(np.square(deviation, out=deviation), weight)
            self._merge(n, mean, squares, low, high)

    def add_present(self, rows: np.ndarray) -> None:
        """Add a block of rows (n, C) of which NaN is a missing value, which does not count."""
        gaps = np.isnan(rows)
        if not gaps.any():
            self.add(rows)
            return
        n = len(rows) - gaps.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            mean = np.where(gaps, 0.0, rows).sum(axis=0) / np.maximum(n, 1)
            squares = np.square(np.where(gaps, 0.0, rows - mean)).sum(axis=0)
            low, high = np.fmin.reduce(rows), np.fmax.reduce(rows)
            self._merge(n, mean, squares, low.astype(np.float64), high.astype(np.float64))

    def filled(self, chosen: Any, values: np.ndarray, counts: np.ndarray) -> "RunningStats":
        """Return the statistics of the features ``chosen``, some of whose values were missing.

        ``counts`` of them are to be replaced by these ``values``.
        """
        stats = RunningStats()
        for name, value in vars(self).items():
            setattr(stats, name, np.broadcast_to(value, self.mean.shape)[chosen])
        seen = np.where(counts > 0, values, np.nan)
        stats._merge(counts, values, np.zeros(len(values)), seen, seen)
        return stats

    def _merge(
        self, n: Any, mean: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        """Add the statistics of a block; its count ``n`` is one number or that of each feature."""
        if np.all(self.count == 0):
            self.count, self.mean, self.squares, self.low, self.high = n, mean, squares, low, high
            return
        total, difference = self.count + n, mean - self.mean
        divisor, extremes = total, (np.minimum(self.low, low), np.maximum(self.high, high))
        if isinstance(total, np.ndarray):  # a feature may have no values yet
            divisor, extremes = (
                np.maximum(total, 1),
                (np.fmin(self.low, low), np.fmax(self.high, high)),
            )
        self.mean = self.mean + difference * (n / divisor)
        between = difference**2 * (self.count * n / divisor)
        self.squares = self.squares + squares + between
        self.low, self.high = extremes
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """The standard deviation √(Σ (x - mean)² / N)."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


def _total(rows: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    if weight is None:
        return rows.sum(axis=0, dtype=np.float64)
    return np.tensordot(weight, rows, axes=(0, 0)).astype(np.float64)
