"""The same config and seed gives the same losses, step by step, on every library."""

import numpy as np
import pytest
from conftest import make_backend

from xpnet.nn import GELU, BatchNorm, Dense, Dropout, LayerNorm, ReLU, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Adam
from xpnet.optim.schedules import Cosine
from xpnet.training.trainer import Trainer

N, I, K = 90, 8, 4  # noqa: E741
BATCH, EPOCHS = 20, 20  # five steps each, the last of 10 rows: 100 steps
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


def examples():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(N, I))
    y = np.argmax(x[:, :K] + 0.3 * rng.normal(size=(N, K)), axis=1)
    return x, y, rng.uniform(0.5, 2.0, size=N)


def trainer_on(backend, step="auto"):
    layers = [Dense(16), BatchNorm(), ReLU(), Dropout(0.2), Dense(12), LayerNorm(), GELU()]
    return Trainer(
        Sequential([*layers, Dense(K)]).build((I,)),
        SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 0.5, 1.5), label_smoothing=0.05),
        Adam(0.01, weight_decay=1e-4),
        backend=backend,
        batch_size=BATCH,
        seed=3,
        schedule=Cosine(warmup=0.1),
        clip=Clip(norm=2.0),
        step=step,
    )


def curve(backend, step="auto"):
    """Train on a backend; return the trainer and the loss of each step."""
    trainer = trainer_on(backend, step)
    train, costs = trainer.engine.train, []

    def noted(batch, inputs):
        costs.append(train(batch, inputs))
        return costs[-1]

    trainer.engine.train = noted
    trainer.fit(examples(), epochs=EPOCHS)
    return trainer, np.array([backend.to_host(cost) for cost in costs])


@pytest.fixture(scope="module")
def reference():
    """The losses of the portable formulas on NumPy, by dtype."""
    backends = {dtype: make_backend("numpy", dtype) for dtype in TOLERANCE}
    return {dtype: curve(backend, step="portable")[1] for dtype, backend in backends.items()}


def test_the_reference_learns(reference):
    for losses in reference.values():
        assert losses.shape == (EPOCHS * 5,)
        assert losses[-5:].mean() < 0.5 * losses[:5].mean()


@pytest.mark.long_where(backend=["jax", "array-api-strict"])
def test_float64_losses_are_numpys(backend, reference):
    check(backend, reference)


@pytest.mark.long_where(backend32=["jax"])
def test_float32_losses_are_numpys_and_nothing_becomes_float64(backend32, reference):
    if backend32.name == "jax":  # otherwise nothing could become float64
        import jax

        jax.config.update("jax_enable_x64", True)
    check(backend32, reference)


def check(backend, reference):
    dtype = backend.dtype_name
    trainer, losses = curve(backend)
    for written in {dtype, "float64"}:
        np.testing.assert_allclose(losses, reference[written], rtol=TOLERANCE[dtype], atol=0)
    params, stats, slots, totals, *_ = trainer.engine.state
    floats = [params, stats, *slots, *totals[:-1]]
    assert all(array.dtype == backend.dtype for array in floats)
    assert totals.bad_step.dtype == backend.xp.int32
    assert losses.dtype == dtype
