"""The instrumented pass is the step: its order, its arrays, and the names that it gives faults."""

import numpy as np
import pytest
from array_api_compat import array_namespace

from xpnet.backends import get_backend
from xpnet.errors import TrainingError
from xpnet.nn import BatchNorm, Dense, Dropout, Flatten, ReLU, Sequential
from xpnet.nn.initializers import Constant, Ones
from xpnet.nn.layout import initialize, layouts, merge
from xpnet.nn.losses import MeanSquaredError, SoftmaxCrossEntropy
from xpnet.optim.optimizers import SGD
from xpnet.step import Batch, StepInputs, dropout_keys, gradients, make_gradient
from xpnet.step.microbatch import accumulated
from xpnet.step.mixed_precision import Mixed
from xpnet.step.trace import Recorder, describe, trace
from xpnet.training.engine import Engine
from xpnet.training.trainer import Trainer

MODEL = Sequential([Flatten(), Dense(4), BatchNorm(), ReLU(), Dropout(0.3), Dense(3)])
MODEL = MODEL.build((2, 3))


def step_on(backend, rng, rows=6):
    """The parameters, the batch and the keys of a step of MODEL."""
    flats = [backend.asarray(v) for v in initialize(MODEL, 0)]
    split = (layout.split(flat) for layout, flat in zip(layouts(MODEL), flats, strict=True))
    x = backend.asarray(rng.normal(size=(rows, 2, 3)))
    batch = Batch(x, backend.asarray(np.arange(rows) % 3))
    return merge(*split), batch, dropout_keys(0, 0, MODEL.n_random)


@pytest.mark.long_where(backend=["jax"])
def test_the_order_is_that_of_the_computation(backend, rng):
    params, batch, keys = step_on(backend, rng)
    names = [
        (t.place.layer, t.name) for t in trace(MODEL, SoftmaxCrossEntropy(), params, batch, keys)
    ]
    forward = [(i, "output") for i in range(6)]
    assert names == [
        *((1, "W"), (1, "b"), (2, "gamma"), (2, "beta"), (2, "mean"), (2, "var")),
        *((5, "W"), (5, "b"), (0, "x"), *forward),
        *((None, "C"), (None, "doutput"), (None, "prediction"), (None, "correct")),
        *((5, "dW"), (5, "db"), (5, "dx"), (4, "dx"), (3, "dx")),
        *((2, "dgamma"), (2, "dbeta"), (2, "dx"), (1, "dW"), (1, "db")),
        *((2, "new mean"), (2, "new var")),
    ]


def test_its_arrays_are_those_of_the_step(backend, rng):
    params, batch, keys = step_on(backend, rng)
    loss = SoftmaxCrossEntropy()
    options = {"keys": keys, "input_gradient": True}
    sums, output, residuals, dx, grads = gradients(MODEL, loss, params, batch, **options)
    found = {
        (t.place.phase, t.place.layer, t.name): backend.to_host(t.array)
        for t in trace(MODEL, loss, params, batch, **options)
    }
    np.testing.assert_array_equal(found["forward", 5, "output"], backend.to_host(output))
    np.testing.assert_array_equal(found["backward", 0, "dx"], backend.to_host(dx))
    cost = backend.to_host(sums.loss / sums.denominator)
    np.testing.assert_array_equal(found["loss", None, "C"], cost)
    for i, layer in enumerate(grads):
        for name, gradient in layer.items():
            expected = backend.to_host(gradient)
            np.testing.assert_array_equal(found["backward", i, f"d{name}"], expected)
    for i, new in enumerate(MODEL.track(params, residuals)):
        for name, value in new.items():
            expected = backend.to_host(value)
            np.testing.assert_array_equal(found["track", i, f"new {name}"], expected)


def test_it_computes_no_more_than_was_asked_for(backend, rng):
    params, batch, keys = step_on(backend, rng)
    recorder = Recorder()
    for traced in trace(MODEL, SoftmaxCrossEntropy(), params, batch, keys, do=recorder):
        if traced.name == "output":
            break
    assert [call.place.layer for call in recorder.calls] == [0]


@pytest.mark.long_where(backend=["jax"])
def test_micro_batches_are_those_of_the_accumulated_step(backend, rng):
    params, batch, keys = step_on(backend, rng, rows=7)
    loss, new = SoftmaxCrossEntropy(), {}
    for place, name, array in trace(MODEL, loss, params, batch, keys, parts=3):
        if name == "x":
            assert array.shape[0] == [2, 2, 3][place.part]
        if place.phase == "variables" and name == "mean" and place.part:
            # statistics go on from where the micro-batch before left them
            np.testing.assert_array_equal(backend.to_host(array), new[name, place.part - 1])
        if place.phase == "track":
            new[name.removeprefix("new "), place.part] = backend.to_host(array)
    assert {part for _, part in new} == {0, 1, 2}


@pytest.mark.long_where(backend=["jax"])
def test_parts_add_up_to_the_gradient_of_the_accumulated_step(backend, rng):
    params, batch, keys = step_on(backend, rng, rows=7)
    batch, loss = batch._replace(weight=backend.asarray(np.arange(7.0))), SoftmaxCrossEntropy()
    flats = [backend.asarray(v) for v in initialize(MODEL, 0)]
    g = accumulated(make_gradient(MODEL, loss), 3)(*flats, batch, keys)
    expected = layouts(MODEL)[0].split(backend.to_host(g.gradient))[5]["W"]
    weights = np.split(np.arange(7.0), [2, 4])
    found = 0.0
    for place, name, array in trace(MODEL, loss, params, batch, keys, parts=3):
        if (place.layer, name) == (5, "dW"):
            found += weights[place.part].sum() / 21.0 * backend.to_host(array)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.long_where(backend32=["jax"])
def test_narrow_arrays_and_scaled_gradients_are_those_of_the_step(backend32, rng):
    if backend32.name == "array-api-strict":
        pytest.skip("it has no float16")
    narrow, scale = backend32.dtype_named("float16"), backend32.asarray(np.array(256.0))
    params, batch, keys = step_on(backend32, rng)
    xp = array_namespace(batch.x)
    params = [{k: xp.astype(v, narrow) for k, v in p.items()} for p in params]
    options = {"keys": keys, "scale": scale}
    *_, grads = gradients(MODEL, SoftmaxCrossEntropy(), params, batch, **options)
    found = {
        (t.place.layer, t.name): t.array
        for t in trace(MODEL, SoftmaxCrossEntropy(), params, batch, **options)
    }
    assert found[0, "x"].dtype == found[5, "output"].dtype == grads[5]["W"].dtype
    assert found[None, "doutput"].dtype == batch.x.dtype != found[0, "x"].dtype
    for i, layer in enumerate(grads):
        for name, gradient in layer.items():
            expected = backend32.to_host(gradient)
            np.testing.assert_array_equal(backend32.to_host(found[i, f"d{name}"]), expected)


def test_a_scale_multiplies_every_gradient(backend, rng):
    """One that is an entry of an array, too: of NumPy's float64, that is a float."""
    params, batch, keys = step_on(backend, rng)
    *_, once = gradients(MODEL, SoftmaxCrossEntropy(), params, batch, keys=keys)
    scale = backend.asarray(np.array([8.0, 0.0]))[0]
    *_, scaled = gradients(MODEL, SoftmaxCrossEntropy(), params, batch, keys=keys, scale=scale)
    expected = 8.0 * backend.to_host(once[5]["W"])
    np.testing.assert_array_equal(backend.to_host(scaled[5]["W"]), expected)


@pytest.mark.parametrize(
    ("name", "phase", "words"),
    [
        ("W", "variables", "parameter W of layer 1 (dense)"),
        ("x", "forward", "the input batch"),
        ("output", "forward", "the output of layer 1 (dense)"),
        ("C", "loss", "the loss (SoftmaxCrossEntropy)"),
        ("doutput", "loss", "the gradient of the loss (SoftmaxCrossEntropy)"),
        ("dW", "backward", "the gradient of W of layer 1 (dense)"),
        ("dx", "backward", "the input gradient of layer 3 (relu)"),
        ("new var", "track", "the new var of layer 2 (batch_norm)"),
    ],
)
def test_every_array_has_a_name_in_words(backend, rng, name, phase, words):
    params, batch, keys = step_on(backend, rng)
    traced = trace(MODEL, SoftmaxCrossEntropy(), params, batch, keys)
    found = [describe(t) for t in traced if (t.name, t.place.phase) == (name, phase)]
    assert words in found


# -- what it finds in a training -------------------------------------------------------------------


def failure(layers, x, y, lr=0.01, **settings):
    loss = MeanSquaredError() if y.dtype.kind == "f" else SoftmaxCrossEntropy()
    trainer = Trainer(layers, loss, SGD(lr), batch_size=len(x), **settings)
    with pytest.raises(TrainingError) as caught:
        trainer.fit((x, y), epochs=2)
    return str(caught.value)


def big_rows(factor):
    return factor * np.ones((8, 64), np.float32), np.arange(8) % 3


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_an_overflowing_float16_layer_is_named(backend):
    """In float32 it does not overflow: what is repeated is the step that was taken."""
    if backend != "numpy":
        pytest.importorskip(backend, reason="the library computes the step")
    x, y = big_rows(6e4)  # below float16's 65504, but a sum of 64 of them is not
    layers = [Dense(4, initializer=Ones()), ReLU(), Dense(3)]
    message = failure(layers, x, y, backend=backend, mixed=Mixed("float16"))
    assert "epoch 1, step 1 on; first in the output of layer 0 (dense) in float16" in message


def test_a_batch_beyond_float16_is_named():
    x, y = big_rows(1e5)
    message = failure([Dense(3)], x, y, backend="numpy", mixed=Mixed("float16"))
    assert "first in the input batch in float16" in message


def test_a_micro_batch_is_named():
    x, y = big_rows(1.0)
    x[5] = np.finfo(np.float32).max
    layers = [Dense(4, initializer=Ones()), Dense(3)]
    message = failure(layers, x, y, backend="numpy", accumulate=4)
    assert "first in the output of layer 0 (dense), micro-batch 3" in message


def test_what_is_not_finite_in_float32_is_not_blamed_on_float16():
    x, y = big_rows(1.0)
    settings = {"backend": "numpy", "mixed": Mixed("float16")}
    assert "first in parameter W of layer 0 (dense): " in failure(
        [Dense(3)], x, y, 1e39, **settings
    )
    x[5] = np.inf
    assert "first in the input batch: " in failure([Dense(3)], x, y, **settings)


def test_a_gradient_that_training_does_not_compute_is_not_blamed():
    """dx of the first layer overflows in every step; the update of the first one ends it."""
    x, y = np.full((8, 1), 1e-21, np.float32), np.full(8, -5e18, np.float32)
    layers = [Dense(1, initializer=Constant(1e21))]
    message = failure(layers, x, y, 1e39, backend="numpy")
    assert "step 2 on; first in parameter W of layer 0 (dense)" in message


@pytest.mark.parametrize("scale", [2.0**30, 3e38])
def test_a_scaled_gradient_that_overflows_is_no_fault(scale):
    """In float16, or before it is narrowed: the step is skipped, and the scale halved."""
    model, loss = Sequential([Dense(1)]).build((4,)), MeanSquaredError()
    mixed = Mixed("float16", initial_scale=scale)
    engine = Engine(get_backend("numpy"), model, loss, SGD(0.01), mixed=mixed)
    batch = Batch(np.ones((8, 4), np.float32), np.full(8, 100.0, np.float32))
    with np.errstate(all="ignore"):
        assert engine.first_nonfinite(batch, StepInputs(0, SGD().coefficients(0.01, 1))) is None
