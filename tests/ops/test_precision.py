"""Every formula in float16, bfloat16, float32 and float64, over the whole range of each.

The truth of float64 is mpmath's, over numbers of every size; the truth of the narrower dtypes is
float64, over all bit patterns of 16 bits, and over numbers of every size for float32. A result must
be finite where the truth is, and

    |result - truth| <= ulps * (a unit in the last place of the truth) + absolute * ε

with ε the dtype's distance from 1 to the next number. What has an absolute error loses relative
accuracy where it is small, by cancellation: GELU's (1 + erf) left of 0, or 1 - a² where a
derivative is computed from the output a, which is what is kept.
"""

import math
from functools import cache

import array_api_compat
import ml_dtypes
import mpmath
import numpy as np
import pytest

import xpnet.ops as ops
from xpnet.ops.special import erf

mp = mpmath.mp.clone()
mp.dps = 60
DTYPES = {
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype("float32"),
    "float64": np.dtype("float64"),
}


def on(library, x):
    """The same numbers in an array of the library, with the same dtype."""
    if library == "torch":
        torch = pytest.importorskip("torch", reason="its float16 and bfloat16 are compared")
        wide = torch.tensor(x.astype("float64"))
        return wide.to(getattr(torch, x.dtype.name))
    if library == "jax":
        jax = pytest.importorskip("jax", reason="its float16 and bfloat16 are compared")
        jax.config.update("jax_enable_x64", True)
        return jax.numpy.asarray(x)
    return x


def host(x):
    """The numbers of any array, in float64."""
    if array_api_compat.is_torch_array(x):
        return x.double().numpy()
    return np.asarray(x).astype("float64")


@cache
def numbers(dtype):
    """All finite numbers of 16 bits; else both signs of every size, and more between -25 and 25."""
    dtype = DTYPES[dtype]
    if dtype.itemsize == 2:
        x = np.arange(2**16, dtype="uint16").view(dtype)
        with np.errstate(invalid="ignore"):  # of a NaN that signals
            return x[np.isfinite(x.astype("float64"))]
    info = np.finfo(dtype)
    sizes = np.exp2(np.linspace(math.log2(info.smallest_subnormal), math.log2(info.max), 401)[:-1])
    sizes = np.concatenate([sizes, [info.max, info.tiny, 0.0], np.linspace(0.0, 25.0, 301)])
    return np.concatenate([sizes, -sizes]).astype(dtype)


def assert_close(result, truth, dtype, ulps, absolute, *, flushed=False):
    """Hold a result to the bound above where the truth is a number of the dtype.

    Where subnormal numbers are ``flushed`` to 0, no unit is smaller than the least normal number.
    """
    info = ml_dtypes.finfo(DTYPES[dtype])
    least = info.smallest_normal if flushed else info.smallest_subnormal
    eps, largest, least = float(info.eps), float(info.max), float(least)
    fits = np.abs(truth) <= largest
    assert np.isfinite(result[fits]).all()
    ulp = np.maximum(np.ldexp(eps, np.frexp(truth)[1] - 1), least)
    with np.errstate(over="ignore"):
        error = np.where(fits, np.abs(result - truth), 0.0)
    beyond = np.where(fits, error - ulps * ulp - absolute * eps, -1.0)
    worst = beyond.argmax()
    assert beyond.max() <= 0.0, (
        f"{result.flat[worst]} for {truth.flat[worst]}: "
        f"{error.flat[worst] / ulp.flat[worst]:.4} ulp, {error.flat[worst] / eps:.4} ε"
    )


# ------------------------------------------------------------------- activations and derivatives


def sigma(z):
    return 1 / (1 + mp.exp(-z))


def normal_cdf(z):
    return mp.erfc(-min(max(z, -1e6), 1e6) / mp.sqrt(2)) / 2


def cubic(z):
    return mp.sqrt(2 / mp.pi) * (z + 0.044715 * z**3)


def gelu_tanh_slope(z):
    s, inner = sigma(2 * cubic(z)), mp.sqrt(2 / mp.pi) * (1 + 3 * 0.044715 * z**2)
    return s + 2 * z * s * sigma(-2 * cubic(z)) * inner


def tanh_softplus(z):
    """With w = exp(z) (exp(z) + 2), tanh(log(1 + exp z)) = w / (w + 2)."""
    return 1 / (1 + 2 / (mp.exp(z) * (mp.exp(z) + 2)))


def mish_slope(z):
    t = tanh_softplus(z)
    return t + z * t * (1 + t) * 2 / (mp.exp(z) * (mp.exp(z) + 2)) * sigma(z)


def bent(below, above):
    """Return a function of two pieces, ``above`` for z > 0."""
    return lambda z: above(z) if z > 0 else below(z)


def same(z):
    return z


def one(z):
    return mp.mpf(1)


LAMBDA, ALPHA = mp.mpf(ops.activations.SELU_SCALE), mp.mpf(ops.activations.SELU_ALPHA)
# The truth, and the bound: (ulps, absolute).
VALUES = {
    "celu": (bent(mp.expm1, same), (2, 0)),
    "elu": (bent(mp.expm1, same), (2, 0)),
    "erf": (mp.erf, (2, 0.001)),
    "gelu": (lambda z: z * normal_cdf(z), (1, 1)),
    "gelu_tanh": (lambda z: z * sigma(2 * cubic(z)), (1, 1.5)),
    "hard_sigmoid": (lambda z: min(max(z / 6 + 0.5, mp.mpf(0)), mp.mpf(1)), (1, 0.25)),
    "hard_swish": (lambda z: z * min(max(z / 6 + 0.5, mp.mpf(0)), mp.mpf(1)), (1, 0.5)),
    "identity": (same, (0, 0)),
    "leaky_relu": (bent(lambda z: 0.01 * z, same), (1, 0)),
    "mish": (lambda z: z * tanh_softplus(z), (3, 0.001)),
    "relu": (bent(lambda z: mp.mpf(0), same), (0, 0)),
    "selu": (bent(lambda z: LAMBDA * ALPHA * mp.expm1(z), lambda z: LAMBDA * z), (3, 0)),
    "sigmoid": (sigma, (3, 0)),
    "silu": (lambda z: z * sigma(z), (3, 0.001)),
    "softplus": (lambda z: mp.log1p(mp.exp(z)) if z < 0 else z + mp.log1p(mp.exp(-z)), (3, 0)),
    "softsign": (lambda z: z / (1 + abs(z)), (2, 0)),
    "tanh": (mp.tanh, (2, 0)),
}
SLOPES = {
    "celu": (bent(mp.exp, one), (2, 0)),
    "elu": (bent(mp.exp, one), (2, 0)),
    "gelu": (lambda z: normal_cdf(z) + z * mp.npdf(z), (2, 0.5)),
    "gelu_tanh": (gelu_tanh_slope, (1, 10)),
    "hard_sigmoid": (lambda z: one(z) / 6 if abs(z) < 3 else mp.mpf(0), (1, 0)),
    "hard_swish": (
        bent(
            lambda z: z / 3 + 0.5 if z > -3 else mp.mpf(0),
            lambda z: z / 3 + 0.5 if z < 3 else one(z),
        ),
        (1, 0.5),
    ),
    "identity": (one, (0, 0)),
    "leaky_relu": (bent(lambda z: mp.mpf(0.01), one), (1, 0)),
    "mish": (mish_slope, (1, 10)),
    "relu": (bent(lambda z: mp.mpf(0), one), (0, 0)),
    "selu": (bent(lambda z: LAMBDA * ALPHA * mp.exp(z), lambda z: LAMBDA), (3, 0)),
    "sigmoid": (lambda z: sigma(z) * sigma(-z), (1, 1)),
    "silu": (lambda z: sigma(z) * (1 + z * sigma(-z)), (1, 12)),
    "softplus": (sigma, (3, 0)),
    "softsign": (lambda z: 1 / (1 + abs(z)) ** 2, (4, 0)),
    "tanh": (lambda z: 4 * sigma(2 * z) * sigma(-2 * z), (1, 1.5)),
}
KEEP_OUTPUT = ("identity", "relu", "sigmoid", "tanh")


def value(name, z):
    return erf(z) if name == "erf" else getattr(ops, name)(z)


def slope(name, z):
    one = array_api_compat.array_namespace(z).ones_like(z)
    return getattr(ops, f"{name}_backward")(one, value(name, z) if name in KEEP_OUTPUT else z)


@cache
def truth_of(formula):
    """The formula's value at all numbers of float64, by mpmath."""
    return np.array([float(formula(mp.mpf(float(z)))) for z in numbers("float64")])


CASES = [
    pytest.param(computed, name, *row, id=f"{computed.__name__}-{name}")
    for computed, table in ((value, VALUES), (slope, SLOPES))
    for name, row in table.items()
]


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(("computed", "name", "formula", "bound"), CASES)
def test_float64_is_mpmaths(computed, name, formula, bound, library):
    with np.errstate(all="ignore"):
        result = host(computed(name, on(library, numbers("float64"))))
        assert_close(result, truth_of(formula), "float64", *bound)


PLACES = [
    ("numpy", "float16"), ("numpy", "float32"), ("torch", "float16"), ("torch", "bfloat16"),
    ("torch", "float32"), ("jax", "float16"), ("jax", "bfloat16"),
]  # fmt: skip


@pytest.mark.parametrize(("library", "dtype"), PLACES)
@pytest.mark.parametrize(("computed", "name", "formula", "bound"), CASES)
def test_a_narrower_dtype_is_float64_rounded(computed, name, formula, bound, library, dtype):
    z, flushed = numbers(dtype), library == "jax" and dtype == "bfloat16"
    if flushed:  # XLA computes in float32, and takes its subnormal numbers for 0
        z = z[(np.abs(z) >= ml_dtypes.finfo(z.dtype).smallest_normal) | (z == 0)]
    with np.errstate(all="ignore"):
        result = computed(name, on(library, z))
        truth = computed(name, z.astype("float64"))
        assert str(result.dtype).endswith(dtype)
        assert_close(host(result), truth, dtype, *bound, flushed=flushed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("computed", "name", "formula", "bound"), CASES)
def test_infinity_gives_the_limit_or_nan_and_nan_stays_nan(computed, name, formula, bound, dtype):
    z = np.array([np.inf, -np.inf, np.nan]).astype(DTYPES[dtype])
    library = "torch" if dtype == "bfloat16" else "numpy"
    with np.errstate(all="ignore"):
        result = host(computed(name, on(library, z)))
        limit = computed(name, np.array([1e300, -1e300]))
    limit = np.where(np.abs(limit) > 1e297, np.copysign(np.inf, limit), limit)
    for x, expected in zip(result, limit, strict=False):
        assert math.isnan(x) or x == pytest.approx(
            expected, rel=float(ml_dtypes.finfo(z.dtype).eps)
        )
    if computed is value:
        assert math.isnan(result[2])
