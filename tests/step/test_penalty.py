"""The penalty of make_gradient: ½ α Σ W² within the losses, divided by D as they are."""

import pickle

import numpy as np
import pytest
from conftest import make_backend

from xpnet.backends import get_backend
from xpnet.errors import BackendError
from xpnet.nn import BatchNorm, Dense, ReLU, Sequential
from xpnet.nn.layout import layouts
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import SGD
from xpnet.step import Batch, StepInputs, make_gradient
from xpnet.step.mixed_precision import Mixed
from xpnet.training.engine import Engine

ALPHA = 0.3
MODEL = Sequential([Dense(5), BatchNorm(), ReLU(), Dense(3)]).build((4,))


def example(backend, rng, weight=None):
    x, y = rng.normal(size=(6, 4)), np.array([0, 2, 1, 1, 0, 2], dtype="int32")
    arrays = [x, y] if weight is None else [x, y, np.asarray(weight)]
    return Batch(*map(backend.owned, arrays))


@pytest.mark.parametrize("weight", [None, [0.0, 1.0, 2.0, 0.5, 1.0, 3.0]])
def test_the_penalty_is_added_to_the_losses_and_to_the_gradient_of_weights(backend, rng, weight):
    batch = example(backend, rng, weight)
    loss = SoftmaxCrossEntropy()
    engine = Engine(backend, MODEL, loss, SGD(), step="portable")
    params, stats = engine.weights()
    plain = make_gradient(MODEL, loss)(params, stats, batch)
    whole = make_gradient(MODEL, loss, ALPHA)(params, stats, batch)

    flat, layout = backend.to_host(params), layouts(MODEL)[0]
    decays = np.zeros(layout.size)
    for entry in layout.entries:  # W alone: neither b nor the scale and shift of a normalisation
        decays[entry.start : entry.stop] = entry.variable == "W"
    D = 6.0 if weight is None else sum(weight)
    squares = (decays * flat**2).sum()
    added = backend.to_host(whole.gradient) - backend.to_host(plain.gradient)
    np.testing.assert_allclose(added, ALPHA * decays * flat / D, rtol=1e-7, atol=1e-12)
    assert float(whole.denominator) == pytest.approx(D)
    assert float(whole.loss) - float(plain.loss) == pytest.approx(0.5 * ALPHA * squares)


def test_the_gradient_is_the_slope_of_the_penalized_loss(rng):
    backend, loss = make_backend("numpy"), SoftmaxCrossEntropy()
    model = Sequential([Dense(3)]).build((4,))
    gradient, batch = make_gradient(model, loss, ALPHA), example(backend, rng, np.arange(6.0))
    flat, stats = rng.normal(size=15), np.zeros(0)

    def value(flat):
        found = gradient(flat, stats, batch)
        return found.loss / found.denominator

    slopes = [(value(flat + s) - value(flat - s)) / 2e-6 for s in 1e-6 * np.eye(15)]
    np.testing.assert_allclose(gradient(flat, stats, batch).gradient, slopes, rtol=1e-7, atol=1e-8)


def test_a_batch_in_which_nothing_counts_has_no_penalty(rng):
    backend, loss = make_backend("numpy"), SoftmaxCrossEntropy()
    engine = Engine(backend, MODEL, loss, SGD(), step="portable")
    found = make_gradient(MODEL, loss, ALPHA)(*engine.weights(), example(backend, rng, np.zeros(6)))
    assert float(found.loss) == 0.0
    assert not found.gradient.any()


def test_an_engine_takes_penalized_steps_also_from_a_pickle(rng):
    backend, loss = get_backend("numpy", "cpu", "float64"), SoftmaxCrossEntropy()
    batch = example(make_backend("numpy"), rng)
    made = Engine(backend, MODEL, loss, SGD(1.0), alpha=ALPHA, step="auto")
    copied = pickle.loads(pickle.dumps(made))
    without = Engine(backend, MODEL, loss, SGD(1.0), step="portable")
    expected = backend.to_host(made.state.params)
    gradient = make_gradient(MODEL, loss, ALPHA)(*made.weights(), batch).gradient
    for engine in (made, copied, without):
        engine.train(batch, StepInputs(0, engine.coefficients(1.0, 1)))
    assert made.step.note == "portable: the penalty alpha has no kernels"
    np.testing.assert_allclose(made.state.params, expected - gradient)
    np.testing.assert_array_equal(copied.state.params, made.state.params)
    assert abs(without.state.params - made.state.params).max() > 1e-3


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"mixed": Mixed("float16")}])
def test_a_penalty_in_parts_is_refused(options):
    backend = make_backend("numpy")
    with pytest.raises(
        BackendError, match=r"goes with neither accumulate nor mixed, nor .*processes: use the"
    ):
        Engine(backend, MODEL, SoftmaxCrossEntropy(), SGD(), alpha=ALPHA, **options)


def test_a_penalty_has_no_fused_step():
    with pytest.raises(BackendError, match=r"no fused step .*penalty alpha has no kernels"):
        Engine(
            make_backend("numpy"), MODEL, SoftmaxCrossEntropy(), SGD(), alpha=ALPHA, step="fused"
        )
