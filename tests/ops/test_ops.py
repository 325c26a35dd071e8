"""Each formula against explicit loops, finite differences, and the standard library."""

import itertools
import math

import numpy as np
import pytest

from xpnet.nn import ACTIVATIONS, CELU, PReLU
from xpnet.ops.cross_entropy import cross_entropy_backward, one_hot, smooth
from xpnet.ops.dense import dense, dense_backward
from xpnet.ops.dropout import position_hash
from xpnet.ops.softmax import log_softmax, softmax, softmax_backward, softmax_jacobian
from xpnet.ops.special import erf

N, I, J = 3, 4, 5  # noqa: E741


def test_dC_dW_is_the_componentwise_chain_rule(backend, rng):
    """Five plain loops over i, j, n, k, s, for an arbitrary dC/da; here J = K."""
    x, W, b = rng.normal(size=(N, I)), rng.normal(size=(I, J)), rng.normal(size=J)
    da = rng.normal(size=(N, J))
    z = x @ W + b
    a = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected = np.zeros((I, J))
    for i, j, n, k, s in itertools.product(range(I), range(J), range(N), range(J), range(J)):
        jacobian = a[n, k] * ((k == s) - a[n, s])
        expected[i, j] += da[n, k] * jacobian * (x[n, i] if s == j else 0.0)

    x, W, b, da = map(backend.asarray, (x, W, b, da))
    dz = softmax_backward(da, softmax(dense(x, W, b)))
    dx, dW, db = dense_backward(dz, x, W)
    np.testing.assert_allclose(backend.to_host(dW), expected, rtol=1e-12)
    assert dx.shape == (N, I)
    assert db.shape == (J,)


def test_the_softmax_jacobian_times_a_vector_is_the_product_form(backend, rng):
    z, da = rng.normal(size=(N, J)), rng.normal(size=(N, J))
    a = softmax(backend.asarray(z))
    jacobian = backend.to_host(softmax_jacobian(a))
    product = backend.to_host(softmax_backward(backend.asarray(da), a))
    np.testing.assert_allclose(np.einsum("nk,nks->ns", da, jacobian), product, rtol=0, atol=1e-15)


def test_the_softmax_jacobian_is_the_numerical_one(rng):
    z, eps = rng.normal(size=(1, J)), 1e-6
    numeric = np.empty((J, J))
    for s in range(J):
        step = eps * np.eye(J)[s]
        numeric[:, s] = (softmax(z + step) - softmax(z - step))[0] / (2 * eps)
    np.testing.assert_allclose(softmax_jacobian(softmax(z))[0], numeric, rtol=0, atol=1e-9)


def test_rows_far_apart_each_have_their_own_shift(backend):
    z = backend.asarray(np.array([[0.0, 0.0], [2000.0, 0.0]]))
    assert backend.to_host(softmax(z)).tolist() == [[0.5, 0.5], [1.0, 0.0]]
    log_a = backend.to_host(log_softmax(z))
    np.testing.assert_allclose(log_a, [[-math.log(2)] * 2, [0.0, -2000.0]], rtol=1e-15)


def test_the_element_wise_product_with_the_diagonal_is_wrong_for_softmax(rng):
    """The mistake behind the question: it is far off, not a rounding error."""
    z, da = rng.normal(size=(N, J)), rng.normal(size=(N, J))
    a = softmax(z)
    wrong = da * a * (1 - a)
    assert np.abs(wrong - softmax_backward(da, a)).max() > 0.05


def test_softmax_then_cross_entropy_gives_a_minus_y(backend, rng):
    z, labels = rng.normal(size=(N, J)), np.array([0, 3, 4])
    a = softmax(backend.asarray(z))
    y = one_hot(backend.asarray(labels), J, a)
    dz = backend.to_host(softmax_backward(cross_entropy_backward(a, y), a))
    np.testing.assert_allclose(dz, backend.to_host(a) - np.eye(J)[labels], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_one_hot_of_labels_narrower_than_the_number_of_classes(backend, dtype):
    labels = np.array([0, 44, 127 if dtype == "int8" else 255 if dtype == "uint8" else 299])
    placed = backend.asarray(labels.astype(dtype), dtype)
    y = one_hot(placed, 70_000, backend.asarray(np.zeros(1)))
    np.testing.assert_array_equal(backend.to_host(y), (np.arange(70_000) == labels[:, None]))


SCALAR = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, 0.0),
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": math.tanh,
    "gelu": lambda z: z * 0.5 * math.erfc(-z / math.sqrt(2)),
    "gelu_tanh": lambda z: (
        0.5 * z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    ),
    "silu": lambda z: z / (1 + math.exp(-z)),
    "softplus": lambda z: math.log1p(math.exp(z)),
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "selu": lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * math.expm1(z)),
    "celu": lambda z: z if z > 0 else math.expm1(z),
    "mish": lambda z: z * math.tanh(math.log1p(math.exp(z))),
    "hard_sigmoid": lambda z: min(max(z + 3, 0), 6) / 6,
    "hard_swish": lambda z: z * min(max(z + 3, 0), 6) / 6,
    "softsign": lambda z: z / (1 + abs(z)),
    "prelu": lambda z: z if z > 0 else 0.25 * z,
}
ELEMENTWISE = sorted(set(ACTIVATIONS) - {"softmax", "log_softmax"})


def with_parameters(layer, backend, features):
    """The built layer, and its first parameters on the backend."""
    layer, _ = layer.build((features,))
    rng = np.random.default_rng(0)
    first = {k: v.initializer.init(rng, v.shape) for k, v in layer.variables().items()}
    return layer, {k: backend.asarray(v) for k, v in first.items()}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_activation_is_its_scalar_formula(backend, name):
    z = np.linspace(-6.0, 6.0, 49)
    layer, params = with_parameters(ACTIVATIONS[name](), backend, 49)
    a = backend.to_host(layer.forward(params, backend.asarray(z))[0])
    np.testing.assert_allclose(a, [SCALAR[name](v) for v in z], rtol=1e-12, atol=1e-14)


# Where there is no derivative: what each takes for it, at which z.
KINKS = {
    "relu": {0.0: 0.0},
    "leaky_relu": {0.0: 0.01},
    "prelu": {0.0: 0.25},
    "hard_sigmoid": {-3.0: 0.0, 3.0: 0.0},
    "hard_swish": {-3.0: 0.0, 3.0: 1.0},
}


@pytest.mark.parametrize("name", KINKS)
def test_at_a_kink_the_derivative_is_the_one_that_the_page_says(backend, name):
    z = backend.asarray(np.array([list(KINKS[name])]))
    layer, params = with_parameters(ACTIVATIONS[name](), backend, z.shape[1])
    _, kept = layer.forward(params, z)
    dz, _ = layer.backward(params, kept, backend.asarray(np.ones(z.shape)))
    assert backend.to_host(dz)[0].tolist() == list(KINKS[name].values())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_and_its_adjoint_are_finite_at_extreme_inputs(backend32, name):
    z = np.array([[-1e4, -100.0, 0.0, 100.0, 1e4]])
    layer, params = with_parameters(ACTIVATIONS[name](), backend32, 5)
    a, residuals = layer.forward(params, backend32.asarray(z))
    dz, _ = layer.backward(params, residuals, backend32.asarray(np.ones_like(z)))
    for result in (a, dz):
        assert result.dtype == backend32.dtype
        assert np.isfinite(backend32.to_host(result)).all()


TORCH = {
    "celu": ("celu", ACTIVATIONS["celu"](), {}),
    "celu of alpha 0.5": ("celu", CELU(0.5), {"alpha": 0.5}),
    "mish": ("mish", ACTIVATIONS["mish"](), {}),
    "hard sigmoid": ("hardsigmoid", ACTIVATIONS["hard_sigmoid"](), {}),
    "hard swish": ("hardswish", ACTIVATIONS["hard_swish"](), {}),
    "softsign": ("softsign", ACTIVATIONS["softsign"](), {}),
}


@pytest.mark.parametrize("case", TORCH)
def test_an_activation_and_its_gradient_are_pytorchs(backend, case, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    name, layer, options = TORCH[case]
    z, da = rng.normal(scale=4.0, size=(50, 3)), rng.normal(size=(50, 3))
    zt = torch.tensor(z, requires_grad=True)
    expected = getattr(torch.nn.functional, name)(zt, **options)
    expected.backward(torch.tensor(da))
    a = layer.value(backend.asarray(z))
    dz = layer.backward_value(backend.asarray(da), backend.asarray(z))
    np.testing.assert_allclose(backend.to_host(a), expected.detach(), rtol=1e-12, atol=1e-15)
    rtol = 1e-7 if name == "hardsigmoid" else 1e-11  # PyTorch's 1/6 is of float32 there
    np.testing.assert_allclose(backend.to_host(dz), zt.grad, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("per", ["layer", "feature"])
def test_prelu_and_the_gradient_of_its_slope_are_pytorchs(backend, per, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    z, da = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    theirs = torch.nn.PReLU(3 if per == "feature" else 1, init=0.1, dtype=torch.float64)
    zt = torch.tensor(z, requires_grad=True)
    expected = theirs(zt)
    expected.backward(torch.tensor(da))
    layer, params = with_parameters(PReLU(0.1, per=per), backend, 3)
    a, kept = layer.forward(params, backend.asarray(z))
    dz, grads = layer.backward(params, kept, backend.asarray(da))
    np.testing.assert_allclose(backend.to_host(a), expected.detach(), rtol=1e-14)
    np.testing.assert_allclose(backend.to_host(dz), zt.grad, rtol=1e-14)
    np.testing.assert_allclose(backend.to_host(grads["alpha"]), theirs.weight.grad, rtol=1e-12)


def test_erf_agrees_with_the_c_library(backend):
    x = np.concatenate([np.linspace(-6.5, 6.5, 4001), [0.0, -0.0, 30.0, -1e300]])
    expected = [math.erf(v) for v in x]
    np.testing.assert_allclose(
        backend.to_host(erf(backend.asarray(x))), expected, rtol=0, atol=3e-16
    )


def test_erf_keeps_infinities_and_nan():
    assert erf(np.array([np.inf, -np.inf])).tolist() == [1.0, -1.0]
    assert math.isnan(erf(np.array([np.nan]))[0])


def test_the_dropout_hash_is_the_same_on_every_backend(backend32):
    xp, device = backend32.xp, backend32.device
    got = backend32.to_host(
        position_hash(xp.arange(1000, dtype=xp.int32, device=device), (12345, -99))
    )
    # The same mixer, in Python integers of any size.
    mask = 2**32 - 1

    def mix(h):
        h = ((h ^ (h >> 16)) * 0x7FEB352D) & mask
        h = ((h ^ (h >> 15)) * 0x846CA68B) & mask
        return h ^ (h >> 16)

    expected = [mix((mix(i ^ 12345) - 99) & mask) >> 8 for i in range(1000)]
    assert got.tolist() == expected


def test_the_dropout_hash_is_uniform_and_uncorrelated():
    import array_api_compat.numpy as xp

    draws = [
        position_hash(xp.arange(100_000, dtype=xp.int32), (k, 7 * k)) / 2**24 for k in range(4)
    ]
    for u in draws:
        counts = np.histogram(u, bins=50, range=(0, 1))[0]
        chi2 = ((counts - 2000) ** 2 / 2000).sum()
        assert 15 < chi2 < 100  # 49 degrees of freedom
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.02
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.02


def test_smoothing_spreads_a_share_of_every_row_evenly_over_all_classes():
    y = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.1]])
    np.testing.assert_allclose(smooth(y, 0.3), [[0.8, 0.1, 0.1], [0.24, 0.31, 0.17]])
