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
from xpnet.kernels.formulas import activation
from xpnet.kernels.printing import NUMBA, printed
from xpnet.nn import ACTIVATIONS
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
    with np.errstate(over="ignore", invalid="ignore"):
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
    "erf": (mp.erf, (2, 0)),
    "gelu": (lambda z: z * normal_cdf(z), (1, 1)),
    "gelu_tanh": (lambda z: z * sigma(2 * cubic(z)), (1, 1.5)),
    "hard_sigmoid": (lambda z: min(max(z / 6 + 0.5, mp.mpf(0)), mp.mpf(1)), (1, 0.25)),
    "hard_swish": (lambda z: z * min(max(z / 6 + 0.5, mp.mpf(0)), mp.mpf(1)), (1, 0.5)),
    "identity": (same, (0, 0)),
    "leaky_relu": (bent(lambda z: 0.01 * z, same), (1, 0)),
    "mish": (lambda z: z * tanh_softplus(z), (4, 0.001)),
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
    "mish": (mish_slope, (1, 20)),
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


@pytest.mark.long_but(library=["numpy", "torch"])
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


def looped(formula, dtype):
    """The formula as the CPU's kernels have it: printed, in a loop, compiled with their options."""
    numba = pytest.importorskip("numba", reason="it compiles the kernels")
    from xpnet.kernels.cpu.parts import OPTIONS

    code = printed(formula, NUMBA)
    lines = [f"{name} = {name}_[i]" for name in formula.inputs] + [*code.statements]
    body = "".join(f"        {line}\n" for line in [*lines, f"out[i] = {code.outputs[0]}"])
    arguments = ", ".join(f"{name}_" for name in formula.inputs)
    names = {"math": math, "real": np.dtype(dtype).type}
    names |= {f"k{i}": names["real"](x) for i, x in enumerate(code.numbers)}
    exec(f"def run(out, {arguments}):\n    for i in range(out.size):\n{body}", names)
    return numba.njit(**OPTIONS)(names["run"])


@pytest.mark.long_but(name=["gelu_tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SLOPES)
def test_a_kernel_of_the_cpu_keeps_to_the_same_bounds(name, dtype):
    """Its options let the compiler reorder sums and fuse products."""
    formulas, z = activation(ACTIVATIONS[name]()), numbers(dtype)
    a, dz = np.empty_like(z), np.empty_like(z)
    looped(formulas.value, dtype)(a, z)
    looped(formulas.derivative, dtype)(dz, np.ones_like(z), a if formulas.keeps_output else z)
    with np.errstate(all="ignore"):
        assert_close(a, value(name, z.astype("float64")), dtype, *VALUES[name][1])
        assert_close(dz, slope(name, z.astype("float64")), dtype, *SLOPES[name][1])


# ---------------------------------------------------------------------------- losses of elements


def at(function, **options):
    return lambda z, y: function(z, y, **options)


def log1p_exp(z):
    return VALUES["softplus"][0](z)


def huber(r):
    return r * r / 2 if abs(r) <= 1 else abs(r) - 0.5


def margin(z, y):
    return max(1 - z if y > 0 else 1 + z, mp.mpf(0))


def sign(y):
    return 1 if y > 0 else -1


RATES = {"log_input": False, "eps": 1e-3}  # the usual 1e-8 is 0 in float16
NUMBERS, CLASSES, COUNTS = (0.0, -1.5, 300.0), (0.0, 1.0, 0.25), (0.0, 3.0)
# The function, the truth, targets, and the bound.
ELEMENTS = {
    "squared_error": (ops.squared_error, lambda z, y: (z - y) ** 2, NUMBERS, (3, 0)),
    "squared_error_backward": (
        ops.squared_error_backward, lambda z, y: 2 * (z - y), NUMBERS, (1, 0)
    ),
    "huber": (ops.huber, lambda z, y: huber(z - y), NUMBERS, (3, 0)),
    "huber_backward": (ops.huber_backward, lambda z, y: min(max(z - y, -1), 1), NUMBERS, (1, 0)),
    "binary_cross_entropy": (
        ops.binary_cross_entropy,
        lambda z, y: y * log1p_exp(-z) + (1 - y) * log1p_exp(z), CLASSES, (5, 0),
    ),
    "binary_cross_entropy_backward": (
        ops.binary_cross_entropy_backward,
        lambda z, y: (1 - y) * sigma(z) - y * sigma(-z), CLASSES, (3, 1),
    ),
    "hinge": (ops.hinge, margin, CLASSES, (1, 0)),
    "hinge_backward": (
        ops.hinge_backward, lambda z, y: -sign(y) if margin(z, y) > 0 else 0, CLASSES, (0, 0)
    ),
    "squared_hinge": (ops.squared_hinge, lambda z, y: margin(z, y) ** 2, CLASSES, (3, 0)),
    "squared_hinge_backward": (
        ops.squared_hinge_backward, lambda z, y: -2 * sign(y) * margin(z, y), CLASSES, (1, 0)
    ),
    "poisson": (ops.poisson, lambda z, y: mp.exp(z) - y * z, COUNTS, (3, 8)),
    "poisson_backward": (ops.poisson_backward, lambda z, y: mp.exp(z) - y, COUNTS, (3, 3)),
    "poisson of rates": (
        at(ops.poisson, **RATES), lambda z, y: z - y * mp.log(z + 1e-3), COUNTS, (3, 8)
    ),
    "poisson of rates, backward": (
        at(ops.poisson_backward, **RATES), lambda z, y: 1 - y / (z + 1e-3), COUNTS, (3, 3)
    ),
}  # fmt: skip


def outputs(name, dtype):
    z = numbers(dtype)
    return z[z >= 0] if "rates" in name else z


def rounded(x):
    """The float64 of a number of mpmath, infinite where it is too large."""
    return float(x) if abs(x) < 1.7e308 else math.inf


@pytest.mark.parametrize("name", ELEMENTS)
def test_a_loss_in_float64_is_mpmaths(name):
    function, formula, targets, bound = ELEMENTS[name]
    z = outputs(name, "float64")
    for y in targets:
        truth = np.array([rounded(formula(mp.mpf(float(v)), mp.mpf(y))) for v in z])
        with np.errstate(all="ignore"):
            assert_close(function(z, np.full_like(z, y)), truth, "float64", *bound)


@pytest.mark.parametrize(("library", "dtype"), PLACES[:5])
@pytest.mark.parametrize("name", ELEMENTS)
def test_a_loss_in_a_narrower_dtype_is_float64_rounded(name, library, dtype):
    function, _, targets, bound = ELEMENTS[name]
    z = outputs(name, dtype)
    for target in targets:
        y = np.full_like(z, target)
        with np.errstate(all="ignore"):
            result = function(on(library, z), on(library, y))
            truth = function(z.astype("float64"), y.astype("float64"))
        assert str(result.dtype).endswith(dtype)
        assert_close(host(result), truth, dtype, *bound)


# ------------------------------------------------------------------------------- sums along rows


def logits(dtype, rng):
    """Rows of three logits whose differences are numbers of the dtype."""
    z = numbers(dtype) / DTYPES[dtype].type(2)
    return np.stack([z, rng.permutation(z), np.zeros_like(z)], axis=1)


def cross_entropy_of_last(z):
    v = array_api_compat.array_namespace(z).zeros_like(z)
    v[:, 2] = 1.0
    losses, log_a = ops.softmax_cross_entropy(z, v)
    return losses, ops.softmax_cross_entropy_backward(log_a, v)


ROWS = {
    "softmax": (ops.softmax, (3, 1)),
    "log_softmax": (ops.log_softmax, (2, 2)),
    "cross entropy": (lambda z: cross_entropy_of_last(z)[0], (2, 2)),
    "cross entropy, backward": (lambda z: cross_entropy_of_last(z)[1], (3, 2)),
}


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_in_float64_is_mpmaths(name, rng):
    z = logits("float64", rng)
    truth = np.empty_like(z)
    for row, out in zip(z, truth, strict=True):
        exact = [mp.mpf(float(v)) - mp.mpf(float(row.max())) for v in row]
        log_sum = mp.log(sum(mp.exp(v) for v in exact))
        out[:] = [float(v - log_sum if "log" in name else mp.exp(v - log_sum)) for v in exact]
    with np.errstate(all="ignore"):
        assert_close(ROWS[name][0](z), truth, "float64", *ROWS[name][1])


@pytest.mark.parametrize(("library", "dtype"), PLACES[:5])
@pytest.mark.parametrize("name", ROWS)
def test_softmax_in_a_narrower_dtype_is_float64_rounded(name, library, dtype, rng):
    function, bound = ROWS[name]
    z = logits(dtype, rng)
    with np.errstate(all="ignore"):
        result = function(on(library, z))
        assert str(result.dtype).endswith(dtype)
        assert_close(host(result), function(z.astype("float64")), dtype, *bound)


NORMS = {
    "layer": (lambda x: ops.normalize(x, -1, 1e-5)[:2], ops.normalize_backward),
    "batch": (lambda x: ops.normalize(x, 0, 1e-5)[:2], ops.normalize_backward),
    "rms": (lambda x: ops.rms_normalize(x, 1e-5), ops.rms_normalize_backward),
}
# The largest numbers of which squares have room: of 16 bits all, since they are widened.
ROOM = {"float16": 6e4, "bfloat16": 1e18, "float32": 1e18}


@pytest.mark.parametrize(("library", "dtype"), PLACES)
@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_has_room_for_its_squares(name, library, dtype, rng):
    """In float16 those of 256 had none: v was infinite and the result silently 0."""
    forward, backward = NORMS[name]
    axis = () if name == "rms" else (0 if name == "batch" else -1,)
    for scale in np.geomspace(1e-6, ROOM[dtype], 30):
        x = (rng.uniform(-1, 1, size=(16, 8)) * scale).astype(DTYPES[dtype])
        g = rng.normal(size=x.shape).astype(DTYPES[dtype])
        expected = forward(x.astype("float64"))
        truth = backward(g.astype("float64"), *expected, *axis)
        x_hat, inverse = forward(on(library, x))
        dx = backward(on(library, g), x_hat, inverse, *axis)
        assert str(x_hat.dtype).endswith(dtype)
        assert str(dx.dtype).endswith(dtype)
        assert_close(host(x_hat), expected[0], dtype, 1, 4)
        # dx has the size of 1/√v, and the error of x̂, which is kept rounded.
        size = float(np.max(expected[1]))
        assert_close(host(dx) / size, truth / size, dtype, 1, 16)
