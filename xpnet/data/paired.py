"""Is the difference of two models luck? Tests of their errors on the same rows.

The question of both tests is how often two equally good models differ so much: then each row's pair
of errors might as well be exchanged, which flips the sign of its difference.
"""

import math
from collections.abc import Sequence

import numpy as np

from xpnet.random import generator

__all__ = ["holm", "mcnemar", "sign_flips"]

EXACT = 1_000  # rows up to which the binomial numbers are whole
FLIPS = 9_999  # of all signs
MANY = 20_000  # rows from which the sum of the flipped differences is taken for normal
BLOCK = 2**22  # signs at a time


def mcnemar(first: int, second: int) -> float:
    """Return the p of McNemar's exact test, two-sided: 2 P(k <= min), k ~ Binomial(n, 1/2).

    ``first`` and ``second`` are the rows that one model alone has wrong; the others say nothing.
    It is SciPy's ``binomtest(first, first + second)``, and sign flips of errors that are 0 or 1.

    >>> mcnemar(8, 2), mcnemar(0, 0)
    (0.109375, 1.0)
    """
    n, few = first + second, min(first, second)
    if n <= EXACT:
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)
    whole = math.lgamma(n + 1) - n * math.log(2)
    terms = (math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(few + 1))
    return min(1.0, 2 * math.fsum(terms))


def sign_flips(differences: np.ndarray, seed: int = 0) -> float:
    """Return the p of the paired permutation test, two-sided: how often |Σ ±d| >= |Σ d|.

    ``differences`` (N,) are of the errors of two models, row by row, times the rows' weights. The
    signs are drawn ``FLIPS`` times (SciPy's ``permutation_test(permutation_type="samples")``); of
    many rows the sum is normal, with the variance Σ d². Differences of 0 say nothing.
    """
    d = np.asarray(differences, np.float64)
    d = d[d != 0]
    if not d.size:
        return 1.0
    total = abs(float(d.sum()))
    if d.size > MANY:
        return math.erfc(total / math.sqrt(2 * float(d @ d)))
    rng, reached = generator(seed, "sample"), 0
    rows = max(1, BLOCK // d.size)
    for start in range(0, FLIPS, rows):
        flips = rng.integers(0, 2, (min(rows, FLIPS - start), d.size), np.int8)
        sums = np.abs(2 * (flips @ d) - d.sum())
        reached += int(np.count_nonzero(sums >= total * (1 - 1e-12)))
    return (1 + reached) / (1 + FLIPS)


def holm(p: Sequence[float]) -> list[float]:
    """Return the p of several tests, corrected by Holm's method: of k the smallest is times k.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, most = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = most
    return corrected
