"""Every backward is the exact adjoint of its own forward."""

import numpy as np
import pytest
from numeric import numerical_jvp

from xpnet.errors import ConfigError
from xpnet.nn import (
    ELU,
    LAYERS,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GroupNorm,
    Layer,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    RMSNorm,
    Sequential,
    Softmax,
)
from xpnet.nn.layout import initialize, layouts, merge
from xpnet.step import dropout_keys

N = 6
# One row per layer or variant; if one is missing here, the test below the table fails.
CASES = {
    "dense": Dense(3),
    "dense without bias": Dense(3, bias=False),
    "dropout": Dropout(0.4),
    "layer_norm": LayerNorm(),
    "batch_norm": BatchNorm(),
    "flatten": Flatten(),
    "leaky_relu of slope 0.3": LeakyReLU(0.3),
    "elu of alpha 0.7": ELU(0.7),
    "group_norm of 2 groups": GroupNorm(groups=2),
    "prelu per feature": PReLU(per="feature"),
    "softmax over rows": Softmax(axis=0),
    "log_softmax over rows": LogSoftmax(axis=0),
    "embedding": Embedding((3, 5), width=2),
    "embedding of all inputs": Embedding((2, 3, 4, 5)),
    **{
        name: cls() for name, cls in LAYERS.items() if name not in ("dense", "embedding", "flatten")
    },
}
KEYS = ((123, -456),)


def built(layer, shape, rng):
    """A one-layer model with random parameters, all float64 on the host."""
    model = Sequential([layer]).build(shape)
    params_layout, stats_layout = layouts(model)
    params = rng.normal(size=params_layout.size)
    stats = rng.uniform(0.5, 2.0, size=stats_layout.size)
    return model, params, stats


def test_the_table_has_every_layer():
    assert {type(layer) for layer in CASES.values()} == set(LAYERS.values())


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_backward_is_the_adjoint_of_the_numerical_jacobian(backend, case, train, rng):
    """<dy, J v> = <Jᵀ dy, v>, the left side by central differences on the host."""
    shape = (2, 4) if case == "flatten" else (4,)
    model, params, stats = built(CASES[case], shape, rng)
    params_layout, stats_layout = layouts(model)
    x, vx = rng.normal(size=(N, *shape)), rng.normal(size=(N, *shape))
    vp = rng.normal(size=params.shape)

    def forward(x, params):
        variables = merge(params_layout.split(params), stats_layout.split(stats))
        return model.forward(variables, x, train=train, keys=KEYS)[0]

    dy = rng.normal(size=forward(x, params).shape)
    jv = numerical_jvp(lambda t: forward(x + t * vx, params + t * vp), 0.0, 1.0)

    # Read-only where the backend is, through the residuals too.
    place = backend.asarray
    variables = merge(params_layout.split(place(params)), stats_layout.split(place(stats)))
    _, residuals = model.forward(variables, place(x), train=train, keys=KEYS)
    dx, grads = model.backward(variables, [frozen(r) for r in residuals], place(dy))
    grad = params_layout.join(grads, place(params))
    right = np.sum(backend.to_host(dx) * vx) + np.sum(backend.to_host(grad) * vp)
    assert np.sum(dy * jv) == pytest.approx(right, rel=1e-7, abs=1e-8)


def frozen(residuals):
    """Make NumPy residuals read-only: backward may not write to what forward kept."""
    if isinstance(residuals, np.ndarray):
        residuals = residuals.view()
        residuals.flags.writeable = False
    if isinstance(residuals, tuple):
        return tuple(frozen(r) for r in residuals)
    return residuals


@pytest.mark.long_where(backend32=["jax"])
@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32(backend32, case, rng):
    shape = (2, 4) if case == "flatten" else (4,)
    model, params, stats = built(CASES[case], shape, rng)
    params_layout, stats_layout = layouts(model)
    place = backend32.asarray
    variables = merge(params_layout.split(place(params)), stats_layout.split(place(stats)))
    for train in (True, False):
        y, residuals = model.forward(variables, place(np.ones((N, *shape))), train=train, keys=KEYS)
        dx, grads = model.backward(variables, residuals, y)
        tracked = model.track(variables, residuals) if train else [{}]
        for array in (y, dx, *grads[0].values(), *tracked[0].values()):
            assert array.dtype == backend32.dtype


def test_batch_norm_tracks_what_torch_tracks(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    theirs = torch.nn.BatchNorm1d(4, dtype=torch.float64)
    model = Sequential([BatchNorm()]).build((4,))
    params_layout, stats_layout = layouts(model)
    params, stats = initialize(model, seed=0)
    for _ in range(3):
        x = rng.normal(size=(N, 4))
        variables = merge(params_layout.split(params), stats_layout.split(stats))
        y, residuals = model.forward(variables, x, train=True)
        stats = stats_layout.join(model.track(variables, residuals), stats)
        np.testing.assert_allclose(y, theirs(torch.tensor(x)).detach(), rtol=1e-12)
    named = stats_layout.named(stats)
    np.testing.assert_allclose(named["0.batch_norm.mean"], theirs.running_mean, rtol=1e-12)
    np.testing.assert_allclose(named["0.batch_norm.var"], theirs.running_var, rtol=1e-12)
    variables = merge(params_layout.split(params), stats_layout.split(stats))
    y, _ = model.forward(variables, x)
    np.testing.assert_allclose(y, theirs.eval()(torch.tensor(x)).detach(), rtol=1e-12)


def test_batch_norm_trains_on_a_batch_of_one():
    model = Sequential([BatchNorm()]).build((3,))
    params, stats = initialize(model, seed=0)
    variables = merge(
        *(lay.split(v) for lay, v in zip(layouts(model), (params, stats), strict=True))
    )
    _, residuals = model.forward(variables, np.ones((1, 3)), train=True)
    assert all(np.isfinite(v).all() for v in model.track(variables, residuals)[0].values())


def test_layer_norm_agrees_with_torch(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    x = rng.normal(size=(N, 4))
    y, _ = LayerNorm().forward({"gamma": np.ones(4), "beta": np.zeros(4)}, x)
    expected = torch.nn.functional.layer_norm(torch.tensor(x), (4,))
    np.testing.assert_allclose(y, expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(N, 6), (N, 5, 6)])
def test_rms_norm_and_group_norm_agree_with_torch(backend, shape, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    F = torch.nn.functional
    x, gamma, beta = rng.normal(size=shape), rng.normal(size=6), rng.normal(size=6)
    xt, gt, bt = map(torch.tensor, (x, gamma, beta))
    first = torch.movedim(xt, -1, 1)  # PyTorch's channels
    params = {"gamma": backend.asarray(gamma), "beta": backend.asarray(beta)}
    for layer, expected in (
        (RMSNorm(eps=1e-3), F.rms_norm(xt, (6,), gt, eps=1e-3)),
        (GroupNorm(groups=3), torch.movedim(F.group_norm(first, 3, gt, bt, 1e-5), 1, -1)),
    ):
        y, _ = layer.build(shape[1:])[0].forward(params, backend.asarray(x))
        np.testing.assert_allclose(backend.to_host(y), expected, rtol=1e-11, atol=1e-14)


def test_groups_that_do_not_divide_the_features_are_refused():
    with pytest.raises(ConfigError, match="5 features cannot be divided into 2 groups"):
        GroupNorm(groups=2).build((5,))


def test_dropout_keeps_the_expectation_and_does_nothing_in_evaluation(backend):
    x = backend.asarray(np.ones((200, 500)))
    y, _ = Dropout(0.3).forward({}, x, train=True, keys=(1, 2))
    host = backend.to_host(y)
    assert set(np.unique(host)) == {0.0, 1 / 0.7}
    assert host.mean() == pytest.approx(1.0, abs=0.01)
    assert Dropout(0.3).forward({}, x)[0] is x


def test_dropout_draws_differ_between_steps_and_layers_and_repeat_by_position():
    keys = [dropout_keys(0, step, 3) for step in range(50)]
    assert len({pair for step in keys for pair in step}) == 150
    assert dropout_keys(0, 7, 3) == keys[7]
    assert dropout_keys(0, 3, 1) != dropout_keys(0, 3 + 256, 1)  # drawn 256 steps at once
    assert all(-(2**31) <= k < 2**31 for step in keys for pair in step for k in pair)


def test_a_first_layer_may_skip_its_input_gradient(backend, rng):
    model = Sequential([Flatten(), Dense(5), ReLU(), Dense(2)]).build((2, 3))
    params = [
        {k: backend.asarray(v) for k, v in layer.items()}
        for layer in layouts(model)[0].split(initialize(model, 0)[0])
    ]
    y, residuals = model.forward(params, backend.asarray(rng.normal(size=(N, 2, 3))))
    dx, grads = model.backward(params, residuals, y)
    none, same = model.backward(params, residuals, y, input_gradient=False)
    assert none is None
    assert (
        Sequential(model.layers[1:]).backward(params[1:], residuals[1:], y, input_gradient=False)[0]
        is None
    )  # nor where the first layer is the one that has parameters
    last, dy = model.layers[-1], y
    assert last.backward(params[-1], residuals[-1], dy, input_gradient=False)[0] is None
    assert dx.shape == (N, 2, 3)
    for ours, theirs in zip(grads, same, strict=True):
        for name in ours:
            assert np.array_equal(backend.to_host(ours[name]), backend.to_host(theirs[name]))


def test_sizes_are_inferred_and_the_model_prints_as_its_own_constructor():
    model = Sequential([Flatten(), Dense(5), LayerNorm(), ReLU(), Dense(2)]).build((2, 3))
    assert model.shapes() == [(6,), (5,), (5,), (5,), (2,)]
    assert [e.name for e in layouts(model)[0].entries] == [
        "1.dense.W",
        "1.dense.b",
        "2.layer_norm.gamma",
        "2.layer_norm.beta",
        "4.dense.W",
        "4.dense.b",
    ]
    assert eval(repr(Sequential([ReLU(), Softmax(axis=1)]))) == Sequential(
        [ReLU(), Softmax(axis=1)]
    )


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([Dense(3)], (2, 2), r"layer 0 \(dense\): .* put Flatten before it"),
        (
            [Dense(3), ReLU(), Dense(2, inputs=4)],
            (2,),
            r"layer 2 \(dense\): .* takes 4 inputs; got 3",
        ),
        ([LayerNorm(features=5)], (2,), "takes 5 features; got 2"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_layer(layers, shape, message):
    with pytest.raises(ConfigError, match=message):
        Sequential(layers).build(shape)


def test_each_tensor_has_its_own_random_position():
    """Changing one layer leaves the initial weights of the others as they were."""
    small = Sequential([Dense(4), ReLU(), Dense(3)]).build((2,))
    large = Sequential([Dense(4), ReLU(), Dense(3, bias=False)]).build((2,))
    first, second = (layouts(m)[0].named(initialize(m, 7)[0]) for m in (small, large))
    for name in second:
        assert np.array_equal(first[name], second[name])
    assert not np.array_equal(initialize(small, 8)[0], initialize(small, 7)[0])
    alike = Sequential([Dense(3), Dense(3)]).build((3,))
    named = layouts(alike)[0].named(initialize(alike, 7)[0])
    assert not np.array_equal(named["0.dense.W"], named["1.dense.W"])


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_a_layer_that_lacks_a_method_cannot_be_made(method):
    methods = {"forward": ReLU.forward, "backward": ReLU.backward}
    del methods[method]
    with pytest.raises(TypeError, match=rf"abstract class Half .*\b{method}\b"):
        type("Half", (Layer,), methods)()
