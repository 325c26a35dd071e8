"""Optimizers against scalar loops of the papers' formulas, against PyTorch, and against optax."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from xpnet.errors import ConfigError
from xpnet.optim.clipping import Clip, clip_by_norm, clip_by_value
from xpnet.optim.optimizers import (
    OPTIMIZERS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    Optimizer,
    RAdam,
    RMSProp,
)
from xpnet.settings import build_named

STEPS, P = 20, 7
LR = [0.05 * 0.9**t for t in range(STEPS)]


# The formulas, for one parameter p with the gradient g. `s` holds the state of the rule, initially
# 0; t counts from 1. They share no code with the package.


def scalar_sgd(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    s.v = o.momentum * s.v + (g if t == 1 else (1 - o.dampening) * g)
    if o.nesterov:
        return p - lr * (g + o.momentum * s.v)
    return p - lr * s.v


def scalar_rmsprop(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    s.r = o.alpha * s.r + (1 - o.alpha) * g**2
    s.m = o.alpha * s.m + (1 - o.alpha) * g
    variance = s.r - s.m**2 if o.centered else s.r
    s.v = o.momentum * s.v + g / (math.sqrt(variance) + o.eps)
    return p - lr * s.v


def scalar_adagrad(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    s.r += g**2
    root = math.sqrt(o.initial_accumulator + s.r)
    return p - lr / (1 + (t - 1) * o.lr_decay) * g / (root + o.eps)


def scalar_adam(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    s.m = o.beta1 * s.m + (1 - o.beta1) * g
    s.v = o.beta2 * s.v + (1 - o.beta2) * g**2
    m_hat = s.m / (1 - o.beta1**t)
    s.r = max(s.r, s.v)
    v_hat = (s.r if o.amsgrad else s.v) / (1 - o.beta2**t)
    return p - lr * m_hat / (math.sqrt(v_hat) + o.eps)


def scalar_adamw(o, s, p, g, lr, t):
    return scalar_adam(replace(o, weight_decay=0), s, p, g, lr, t) - lr * o.weight_decay * p


def scalar_lion(o, s, p, g, lr, t):
    u = o.beta1 * s.m + (1 - o.beta1) * g
    s.m = o.beta2 * s.m + (1 - o.beta2) * g
    return p - lr * ((u > 0) - (u < 0) + o.weight_decay * p)


def scalar_nadam(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    mu, after = (o.beta1 * (1 - 0.96 ** (i * o.momentum_decay) / 2) for i in (t, t + 1))
    s.product = (s.product if t > 1 else 1.0) * mu
    s.m = o.beta1 * s.m + (1 - o.beta1) * g
    s.v = o.beta2 * s.v + (1 - o.beta2) * g**2
    m_hat = after * s.m / (1 - s.product * after) + (1 - mu) * g / (1 - s.product)
    return p - lr * m_hat / (math.sqrt(s.v / (1 - o.beta2**t)) + o.eps)


def scalar_radam(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    s.m = o.beta1 * s.m + (1 - o.beta1) * g
    s.v = o.beta2 * s.v + (1 - o.beta2) * g**2
    m_hat = s.m / (1 - o.beta1**t)
    top = 2 / (1 - o.beta2) - 1
    rho = top - 2 * t * o.beta2**t / (1 - o.beta2**t)
    if rho <= 5:
        return p - lr * m_hat
    r = math.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
    return p - lr * m_hat * r * math.sqrt(1 - o.beta2**t) / (math.sqrt(s.v) + o.eps)


def scalar_adamax(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    s.m = o.beta1 * s.m + (1 - o.beta1) * g
    s.v = max(o.beta2 * s.v, abs(g) + o.eps)
    return p - lr / (1 - o.beta1**t) * s.m / s.v


def scalar_adadelta(o, s, p, g, lr, t):
    g = g + o.weight_decay * p
    s.r = o.rho * s.r + (1 - o.rho) * g**2
    step = math.sqrt(s.v + o.eps) / math.sqrt(s.r + o.eps) * g
    s.v = o.rho * s.v + (1 - o.rho) * step**2
    return p - lr * step


# class -> (the loop, PyTorch's class or None, PyTorch's names for our settings)
ORACLES = {
    SGD: (scalar_sgd, "SGD", {}),
    RMSProp: (scalar_rmsprop, "RMSprop", {}),
    Adagrad: (scalar_adagrad, "Adagrad", {"initial_accumulator": "initial_accumulator_value"}),
    Adam: (scalar_adam, "Adam", {}),
    AdamW: (scalar_adamw, "AdamW", {}),
    Lion: (scalar_lion, None, {}),
    NAdam: (scalar_nadam, "NAdam", {}),
    RAdam: (scalar_radam, "RAdam", {}),
    Adamax: (scalar_adamax, "Adamax", {}),
    Adadelta: (scalar_adadelta, "Adadelta", {}),
}

CASES = [
    SGD(),
    SGD(weight_decay=0.1),
    SGD(momentum=0.9, weight_decay=0.1),
    SGD(momentum=0.9, nesterov=True),
    SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
    RMSProp(),
    RMSProp(alpha=0.8, eps=1e-3, momentum=0.9),
    RMSProp(alpha=0.9, centered=True, weight_decay=0.1),
    RMSProp(alpha=0.9, centered=True, momentum=0.5, weight_decay=0.1),
    Adagrad(),
    Adagrad(lr_decay=0.1, eps=1e-3, initial_accumulator=0.5, weight_decay=0.1),
    Adam(),
    Adam(beta1=0.5, beta2=0.9, eps=1e-3, weight_decay=0.1),
    AdamW(),
    AdamW(beta1=0.5, beta2=0.9, eps=1e-3, weight_decay=0.3),
    Lion(weight_decay=0.0),
    Lion(beta1=0.8, beta2=0.9, weight_decay=0.3),
    SGD(momentum=0.9, dampening=0.3, weight_decay=0.1),
    Adam(amsgrad=True, beta2=0.5),
    AdamW(amsgrad=True, beta2=0.5),
    NAdam(),
    NAdam(beta1=0.5, beta2=0.9, eps=1e-3, momentum_decay=0.5, weight_decay=0.1),
    RAdam(),
    RAdam(beta1=0.5, beta2=0.9, eps=1e-3, weight_decay=0.1),
    Adamax(),
    Adamax(beta1=0.5, beta2=0.9, eps=1e-3, weight_decay=0.1),
    Adadelta(),
    Adadelta(rho=0.5, eps=1e-3, weight_decay=0.1),
]
CLIPS = [Clip(), Clip(norm=1.0), Clip(value=0.5)]
OF_GROUPS = ("decay", "freeze", "lr_factors", "ntk")  # for them see test_groups.py


@pytest.fixture
def problem(rng):
    """Parameters (P,) and the gradients (STEPS, P) of some steps, one component always 0."""
    gradients = rng.normal(size=(STEPS, P)) * np.logspace(-3, 1, P)
    gradients[:, 2] = 0.0
    return rng.normal(size=P), gradients


def train(backend, optimizer, problem, clip=None):
    """Return the parameters after each step, (STEPS, P) on the host, and the last slots."""
    params, history = backend.owned(problem[0]), []
    slots = optimizer.init(params)
    for t, (lr, gradient) in enumerate(zip(LR, problem[1], strict=True), start=1):
        grad = backend.owned(gradient)
        if clip is not None:
            grad = clip.apply(grad)
        c = optimizer.coefficients(lr, t)
        params, slots = optimizer.update(params, grad, slots, c)
        history.append(backend.to_host(params))
    return np.stack(history), slots


def train_by_loop(optimizer, problem):
    step = ORACLES[type(optimizer)][0]
    history = np.empty((STEPS, P))
    for i in range(P):
        p, s = float(problem[0][i]), SimpleNamespace(m=0.0, v=0.0, r=0.0)
        for t in range(1, STEPS + 1):
            p = step(optimizer, s, p, float(problem[1][t - 1, i]), LR[t - 1], t)
            history[t - 1, i] = p
    return history


def train_by_torch(optimizer, problem, clip):
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch's optimizer")
    _, name, renamed = ORACLES[type(optimizer)]
    settings = {k: v for k, v in vars(optimizer).items() if k not in OF_GROUPS}
    options = {renamed.get(k, k): v for k, v in settings.items()}
    if "beta1" in options:
        options["betas"] = (options.pop("beta1"), options.pop("beta2"))
    p = torch.tensor(problem[0], requires_grad=True)
    peer, history = getattr(torch.optim, name)([p], **options), []
    for lr, gradient in zip(LR, problem[1], strict=True):
        p.grad = torch.tensor(gradient)
        if clip.norm is not None:
            torch.nn.utils.clip_grad_norm_([p], clip.norm)
        if clip.value is not None:
            torch.nn.utils.clip_grad_value_([p], clip.value)
        peer.param_groups[0]["lr"] = lr
        peer.step()
        history.append(p.detach().numpy().copy())
    return np.stack(history)


def test_every_optimizer_of_the_table_has_an_oracle_and_a_case():
    assert set(OPTIMIZERS.values()) == set(ORACLES) == {type(case) for case in CASES}


@pytest.mark.parametrize("optimizer", CASES, ids=str)
def test_an_update_is_the_papers_formula_in_every_component(backend, optimizer, problem):
    history, _ = train(backend, optimizer, problem)
    np.testing.assert_allclose(history, train_by_loop(optimizer, problem), rtol=1e-10, atol=1e-12)


@pytest.fixture
def wide_torch():
    """PyTorch's scalars in float64: its NAdam keeps a product of them."""
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch's optimizer")
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(kept)


@pytest.mark.usefixtures("wide_torch")
@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("optimizer", [o for o in CASES if type(o) is not Lion], ids=str)
def test_an_update_is_that_of_pytorch(backend, optimizer, clip, problem):
    history, _ = train(backend, optimizer, problem, clip)
    expected = train_by_torch(optimizer, problem, clip)
    np.testing.assert_allclose(history, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", [o for o in CASES if type(o) is Lion], ids=str)
def test_lion_is_that_of_optax(backend, optimizer, problem):
    optax = pytest.importorskip("optax", reason="the oracle is optax's Lion")
    import jax

    jax.config.update("jax_enable_x64", True)
    make = optax.inject_hyperparams(optax.lion)
    peer = make(LR[0], b1=optimizer.beta1, b2=optimizer.beta2, weight_decay=optimizer.weight_decay)
    params = jax.numpy.asarray(problem[0])
    state, expected = peer.init(params), []
    for lr, gradient in zip(LR, problem[1], strict=True):
        state.hyperparams["learning_rate"] = jax.numpy.asarray(lr)
        updates, state = peer.update(jax.numpy.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        expected.append(np.asarray(params))
    history, _ = train(backend, optimizer, problem)
    np.testing.assert_allclose(history, np.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", CASES, ids=str)
def test_float32_stays_float32_and_near_the_float64_result(backend32, optimizer, problem):
    params = backend32.owned(problem[0])
    slots = optimizer.init(params)
    assert len(slots) == len(optimizer.slots)
    for t, gradient in enumerate(problem[1], start=1):
        grad = Clip(norm=50.0, value=40.0).apply(backend32.owned(gradient))
        assert grad.dtype == backend32.dtype
        c = optimizer.coefficients(LR[t - 1], t)
        params, slots = optimizer.update(params, grad, slots, c)
        for vector in (params, *slots):
            assert vector.dtype == backend32.dtype
            assert tuple(vector.shape) == (P,)
    # Loose, because a rule that divides by a small root magnifies rounding errors.
    expected = train_by_loop(optimizer, problem)[-1]
    np.testing.assert_allclose(backend32.to_host(params), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("optimizer", CASES, ids=str)
def test_coefficients_are_python_floats_at_any_step(optimizer):
    for t in (1, 2, 1000, 10**9):
        assert all(type(c) is float and math.isfinite(c) for c in optimizer.coefficients(0.1, t))


@pytest.mark.parametrize("optimizer", CASES, ids=str)
def test_numpy_updates_parameters_and_slots_in_place(optimizer, problem):
    params = problem[0].copy()
    slots = optimizer.init(params)
    c = optimizer.coefficients(0.1, 1)
    new_params, new_slots = optimizer.update(params, problem[1][0].copy(), slots, c)
    assert new_params is params
    assert all(new is old for new, old in zip(new_slots, slots, strict=True))


@pytest.mark.parametrize("optimizer", CASES, ids=str)
def test_a_step_compiled_by_jax_is_compiled_once_and_stays_float32(optimizer, problem):
    jax = pytest.importorskip("jax", reason="the test compiles with jax.jit")
    traces = []

    @jax.jit
    def update(params, grad, slots, c):
        traces.append(1)
        return optimizer.update(params, grad, slots, c)

    params = jax.numpy.asarray(problem[0], dtype="float32")
    slots = optimizer.init(params)
    for t, gradient in enumerate(problem[1], start=1):
        grad = jax.numpy.asarray(gradient, dtype="float32")
        params, slots = update(params, grad, slots, optimizer.coefficients(LR[t - 1], t))
    assert len(traces) == 1
    assert {str(x.dtype) for x in (params, *slots)} == {"float32"}


def test_a_centered_rmsprop_stays_finite_where_the_gradient_is_constant(backend32):
    # r - m² is then 0 up to rounding: PyTorch 2.13 gives NaN here.
    optimizer = RMSProp(alpha=0.5, centered=True)
    params = backend32.owned(np.zeros(P))
    slots = optimizer.init(params)
    for t in range(1, 60):
        grad = backend32.owned(np.linspace(0.1, 0.7, P))
        params, slots = optimizer.update(params, grad, slots, optimizer.coefficients(1e-9, t))
    assert np.all(np.isfinite(backend32.to_host(params)))


def test_adagrad_starts_from_its_initial_accumulator(backend):
    (r,) = Adagrad(initial_accumulator=0.25).init(backend.asarray(np.ones(P)))
    assert np.array_equal(backend.to_host(r), np.full(P, 0.25))


@pytest.mark.parametrize("norm", [0.5, 5.0, 50.0])
def test_clipping_by_norm_keeps_the_direction_and_bounds_the_length(backend, norm):
    gradient = np.array([3.0, -4.0, 12.0])  # of norm 13
    clipped = backend.to_host(clip_by_norm(backend.owned(gradient), norm))
    scale = min(1.0, norm / (13.0 + 1e-6))
    np.testing.assert_allclose(clipped, scale * gradient, rtol=1e-14)
    assert np.linalg.norm(clipped) <= norm


def test_clipping_leaves_a_zero_gradient_zero(backend):
    for clip in CLIPS:
        assert np.all(backend.to_host(clip.apply(backend.owned(np.zeros(P)))) == 0)


def test_clipping_by_value_bounds_each_component(backend):
    clipped = clip_by_value(backend.owned(np.array([-3.0, -0.5, 0.0, 0.5, 3.0])), 1.0)
    assert backend.to_host(clipped).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_clip_bounds_the_components_before_the_norm(backend):
    clipped = Clip(norm=1.0, value=2.0).apply(backend.owned(np.array([1.0, 100.0])))
    expected = np.array([1.0, 2.0]) / (math.sqrt(5.0) + 1e-6)
    np.testing.assert_allclose(backend.to_host(clipped), expected, rtol=1e-14)


def test_the_table_builds_every_optimizer_by_its_name():
    for name, cls in OPTIMIZERS.items():
        made = build_named(OPTIMIZERS, {"name": name, "lr": 1}, "optimizer")
        assert isinstance(made, Optimizer)
        assert type(made) is cls
        assert made == cls(1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0), "SGD.lr must be > 0; got 0"),
        (lambda: SGD(nesterov=True), "SGD.nesterov needs a momentum"),
        (lambda: SGD(dampening=0.1), "SGD.dampening is for momentum without nesterov"),
        (lambda: SGD(momentum=1.0), "SGD.momentum must be >= 0 and < 1; got 1.0"),
        (lambda: Adam(beta2=1), "Adam.beta2 must be >= 0 and < 1; got 1"),
        (lambda: AdamW(weight_decay=-1), "AdamW.weight_decay must be >= 0; got -1"),
        (lambda: Adagrad(eps=0), "Adagrad.eps must be > 0; got 0"),
        (lambda: Clip(norm=0), "Clip.norm must be > 0; got 0"),
    ],
)
def test_a_wrong_setting_is_named(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
