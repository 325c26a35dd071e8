"""Which columns a model needs: how much worse it gets once a column is shuffled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Importance", "permutation_importance"]


@dataclass(frozen=True)
class Importance:
    """By how much the score falls, of the columns that were measured, the largest first."""

    columns: tuple[int, ...]  # by their place among the features
    mean: np.ndarray  # (C,)
    std: np.ndarray  # (C,) over the repeats
    baseline: float  # the score with nothing shuffled
    score: str  # "accuracy" or "R²"
    rows: int
    repeats: int
    total: int  # features in all
    sampled: bool  # whether the rows are some of more


def permutation_importance(
    predict: Callable[[np.ndarray], np.ndarray],
    score: Callable[[np.ndarray], float],
    x: np.ndarray,
    columns: Sequence[int],
    repeats: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (C,) of what shuffling each column costs of the score.

    ``predict`` takes rows like ``x`` (N, F), any number of them, and ``score`` the predictions of
    N. All columns are shuffled by the same ``repeats`` permutations, drawn from ``seed``.

    Breiman, "Random Forests", Machine Learning 2001; as scikit-learn's function of that name.
    """
    n, random = len(x), np.random.default_rng(seed)
    orders = [random.permutation(n) for _ in range(repeats)]
    baseline = score(predict(x))
    falls = np.empty((len(columns), repeats))
    rows = np.tile(x, (repeats, *(1,) * (x.ndim - 1)))
    for c, j in enumerate(columns):
        rows[:, j] = np.concatenate([x[order, j] for order in orders])
        answers = predict(rows)
        falls[c] = [baseline - score(answers[r * n : (r + 1) * n]) for r in range(repeats)]
        rows[:, j] = np.tile(x[:, j], repeats)
    return falls.mean(axis=1), falls.std(axis=1)
