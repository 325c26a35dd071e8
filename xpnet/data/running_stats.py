"""Mean, standard deviation and extremes of rows that arrive in blocks."""

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
        self.count: float = 0
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
            if self.count == 0:
                self.mean, self.squares, self.low, self.high = mean, squares, low, high
            else:
                total, difference = self.count + n, mean - self.mean
                self.mean = self.mean + difference * (n / total)
                between = difference**2 * (self.count * n / total)
                self.squares = self.squares + squares + between
                self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count += n

    @property
    def std(self) -> np.ndarray:
        """The standard deviation √(Σ (x - mean)² / N)."""
        return np.sqrt(self.squares / max(self.count, 1))


def _total(rows: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    if weight is None:
        return rows.sum(axis=0, dtype=np.float64)
    return np.tensordot(weight, rows, axes=(0, 0)).astype(np.float64)
