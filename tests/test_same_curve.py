"""The same config and seed gives the same loss curve on every library."""

import math

import numpy as np
import pytest

from xpnet.callbacks import Callback
from xpnet.layers import GELU, BatchNorm, Dense, Dropout, LayerNorm, ReLU, Sequential
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.optimizers import AdamW
from xpnet.schedules import Cosine
from xpnet.trainer import Trainer

ROWS, STEPS = 210, 100  # 7 batches of 32 an epoch, the last one of 18


class Curve(Callback):
    """The mean loss of the epoch so far after each step."""

    def __init__(self):
        self.losses = []

    def on_step_end(self, trainer):
        self.losses.append(trainer.read()["loss"])


def curve(backend):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(ROWS, 12)), rng.integers(0, 5, size=ROWS)
    layers = [Dense(24), BatchNorm(), ReLU(), Dropout(0.2), Dense(16), LayerNorm(), GELU()]
    trainer = Trainer(
        Sequential([*layers, Dense(5)]),
        SoftmaxCrossEntropy(label_smoothing=0.05, class_weights=(1.0, 2.0, 0.5, 1.0, 1.5)),
        AdamW(0.005),
        backend=backend,
        batch_size=32,
        seed=3,
        schedule=Cosine(warmup=0.1),
    )
    recorded = Curve()
    epochs = math.ceil(STEPS / 7)
    trainer.fit((x, y, rng.uniform(0.5, 2.0, size=ROWS)), epochs=epochs, callbacks=[recorded])
    return np.asarray(recorded.losses[:STEPS]), trainer


@pytest.fixture(scope="module")
def reference():
    from xpnet.backends.numpy import NumpyBackend

    return {dtype: curve(NumpyBackend("cpu", dtype))[0] for dtype in ("float64", "float32")}


def test_the_loss_curve_is_the_reference_one_in_float64(backend, reference):
    losses, _ = curve(backend)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, reference["float64"], rtol=1e-10)


def test_the_loss_curve_is_the_reference_one_in_float32(backend32, reference):
    losses, trainer = curve(backend32)
    np.testing.assert_allclose(losses, reference["float32"], rtol=1e-4)
    np.testing.assert_allclose(losses, reference["float64"], rtol=1e-4)
    state = trainer.engine.state
    for array in (state.params, state.stats, *state.slots, *state.totals[:4]):
        assert array.dtype == backend32.dtype
