"""Initializers against the moments, bounds and norms that their papers state."""

import math

import numpy as np
import pytest

from xpnet.errors import ConfigError
from xpnet.nn.initializers import INITIALIZERS, Constant, Normal, Ones, Orthogonal, Zeros
from xpnet.random import generator

N_IN, N_OUT = 300, 200

# name -> the variance that the paper states
VARIANCE = {
    "glorot_uniform": 2 / (N_IN + N_OUT),
    "glorot_normal": 2 / (N_IN + N_OUT),
    "he_uniform": 2 / N_IN,
    "he_normal": 2 / N_IN,
    "lecun_uniform": 1 / N_IN,
    "lecun_normal": 1 / N_IN,
    "normal": 1.0,
}
FILLED = {"zeros": Zeros(), "ones": Ones(), "constant": Constant(-2.5)}
VALUE = {"zeros": 0.0, "ones": 1.0, "constant": -2.5}


def draw(name, shape=(N_IN, N_OUT), seed=0):
    return INITIALIZERS[name]().init(generator(seed, "init"), shape)


def test_every_initializer_of_the_table_is_tested_here():
    assert set(INITIALIZERS) == {*VARIANCE, *FILLED, "orthogonal"}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_the_same_position_gives_the_same_float64_array_and_another_seed_a_different_one(name):
    W = draw(name)
    assert W.dtype == np.float64
    assert W.shape == (N_IN, N_OUT)
    assert np.array_equal(W, draw(name))
    assert np.array_equal(W, draw(name, seed=1)) == (name in FILLED)


@pytest.mark.parametrize("name", VARIANCE)
def test_weights_have_mean_zero_and_the_variance_of_the_paper(name):
    W = draw(name)
    # Five standard deviations of each estimate from W.size draws, of a kurtosis of at most 3.
    assert abs(np.mean(W)) < 5 * math.sqrt(VARIANCE[name] / W.size)
    assert np.var(W) == pytest.approx(VARIANCE[name], rel=5 * math.sqrt(2 / W.size))


@pytest.mark.parametrize("name", VARIANCE)
def test_uniform_weights_fill_their_interval_and_normal_ones_have_tails(name):
    bound = math.sqrt(3 * VARIANCE[name])
    outside = np.mean(np.abs(draw(name)) > bound)
    if name.endswith("uniform"):
        assert outside == 0
        assert np.max(np.abs(draw(name))) > 0.999 * bound
    else:  # P(|x| > √3 σ) = 0.0833; and beyond 2 σ: not truncated
        assert outside == pytest.approx(math.erfc(math.sqrt(1.5)), rel=0.1)
        assert np.max(np.abs(draw(name))) > 3.5 * math.sqrt(VARIANCE[name])


@pytest.mark.parametrize("shape", [(30, 30), (50, 20), (20, 50), (1, 7)])
def test_an_orthogonal_matrix_has_orthonormal_rows_or_columns_times_the_gain(shape):
    W = Orthogonal(gain=1.5).init(generator(0, "init"), shape)
    assert W.shape == shape
    gram = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(gram, 2.25 * np.eye(min(shape)), rtol=0, atol=1e-13)


def test_orthogonal_matrices_favour_no_sign():
    rng = generator(0, "init")
    first = np.array([Orthogonal().init(rng, (3, 3)) for _ in range(2000)])
    # Haar: each entry has mean 0 and variance 1/3. LAPACK's own convention has W[0, 0] < 0 always.
    np.testing.assert_allclose(np.mean(first, axis=0), 0, rtol=0, atol=5 * math.sqrt(1 / 3 / 2000))
    np.testing.assert_allclose(np.var(first, axis=0), 1 / 3, rtol=0, atol=0.03)


@pytest.mark.parametrize("shape", [(4,), (2, 3), ()])
@pytest.mark.parametrize("name", FILLED)
def test_a_constant_fills_any_shape(name, shape):
    filled = FILLED[name].init(generator(0, "init"), shape)
    assert np.array_equal(filled, np.full(shape, VALUE[name]))


def test_normal_numbers_have_their_standard_deviation_in_any_shape():
    b = Normal(0.3).init(generator(0, "init"), (100_000,))
    assert np.std(b) == pytest.approx(0.3, rel=0.02)
    assert Normal().init(generator(0, "init"), ()).shape == ()


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 3)])
@pytest.mark.parametrize("name", [*(v for v in VARIANCE if v != "normal"), "orthogonal"])
def test_a_shape_without_fans_is_an_error_that_names_a_remedy(name, shape):
    with pytest.raises(ConfigError, match=r"needs a shape \(I, J\).*use Zeros, Ones or Constant"):
        draw(name, shape)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_constant_is_finite(value):
    with pytest.raises(ConfigError, match=r"Constant\.value must be"):
        Constant(value)
