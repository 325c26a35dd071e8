"""Tests of paired errors, beside SciPy's."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from xpnet.data.paired import EXACT, MANY, holm, mcnemar, sign_flips

stats = pytest.importorskip("scipy.stats", reason="no SciPy: pip install 'xpnet[sklearn]'")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *[(0, 0), (0, 1), (1, 1), (8, 2), (2, 8), (10, 0), (499, 501), (0, 60), (700, 800)],
        *[(EXACT, 0), (EXACT, 1), (30_000, 29_000), (200_000, 201_000)],
    ],
)
def test_mcnemar_is_the_binomial_test_of_the_rows_that_one_alone_has_wrong(first, second):
    n = first + second
    expected = stats.binomtest(first, n).pvalue if n else 1.0
    assert_allclose(mcnemar(first, second), expected, rtol=1e-8)


def test_sign_flips_are_the_permutation_test_of_all_signs():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3, 1.0):
        d = rng.normal(shift, 1, 12)
        exact = stats.permutation_test(
            (d,), np.sum, permutation_type="samples", n_resamples=math.inf
        ).pvalue
        spread = math.sqrt(exact * (1 - exact) / 9999)
        assert abs(sign_flips(d) - exact) <= 4 * spread + 1e-4


def test_sign_flips_of_many_rows_are_those_of_fewer():
    d = np.random.default_rng(1).normal(0.012, 1, MANY + 1)
    assert_allclose(sign_flips(d), stats.ttest_1samp(d, 0).pvalue, rtol=0.01)
    few = np.sort(d)[:: len(d) // 3000]
    assert_allclose(sign_flips(few), stats.ttest_1samp(few, 0).pvalue, rtol=0.05, atol=0.01)


def test_sign_flips_of_right_and_wrong_are_mcnemars():
    a, b = np.zeros(50), np.zeros(50)
    a[:9], b[9:11] = 1, 1
    assert_allclose(sign_flips(a - b), mcnemar(9, 2), rtol=0, atol=0.01)


def test_rows_without_a_difference_say_nothing():
    d = np.random.default_rng(2).normal(0.5, 1, 20)
    assert sign_flips(np.concatenate([d, np.zeros(500)])) == sign_flips(d)
    assert sign_flips(np.zeros(5)) == 1.0


def test_two_equally_good_models_differ_as_often_as_p_says():
    rng, below = np.random.default_rng(3), 0
    for _ in range(400):
        a, b = rng.random((2, 200)) < 0.1
        below += mcnemar(int((a & ~b).sum()), int((b & ~a).sum())) < 0.05
    assert below <= 20 + 3 * math.sqrt(20)  # exact tests are careful: not more than 5 in 100


def test_holm_is_the_closed_test_of_bonferroni():
    rng = np.random.default_rng(4)
    for _ in range(20):
        p = list(rng.random(5) ** 3)
        # a hypothesis falls if every intersection that it is in falls by Bonferroni
        closed = [
            max(
                min(1.0, len(s) * min(p[j] for j in s))
                for s in ([j for j in range(5) if m >> j & 1] for m in range(1, 32))
                if i in s
            )
            for i in range(5)
        ]
        assert_allclose(holm(p), closed, rtol=1e-12)
    assert holm([]) == []
