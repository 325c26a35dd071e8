"""Numba's kernels pass the very tests of the GPU's: another executor under the same step."""

import functools
import tracemalloc

import numpy as np
import pytest
import test_cuda_step as gpu
from test_cuda_step import (
    CLIPS,
    OPTIMIZERS,
    class_batches,
    compare,
    dtype,  # noqa: F401 - a fixture
    executor,  # noqa: F401
    folder,  # noqa: F401
    test_a_batch_that_is_all_ignored_changes_nothing,  # noqa: F401
    test_a_nan_goes_through_every_activation_and_names_its_step,  # noqa: F401
    test_an_impossible_class_and_huge_logits_are_as_in_the_portable_loss,  # noqa: F401
    test_any_number_of_classes,  # noqa: F401
    test_element_wise_losses,  # noqa: F401
    test_every_layer_takes_the_portable_steps,  # noqa: F401
    test_images_are_flattened,  # noqa: F401
    test_softmax_cross_entropy_in_every_form,  # noqa: F401
    test_values_far_from_zero_neither_overflow_nor_lose_a_nan,  # noqa: F401
    test_whole_number_targets_are_numbers_to_a_loss_of_values,  # noqa: F401
)

from xpnet.backends import get_backend
from xpnet.backends.numpy import NumpyBackend
from xpnet.engine import Engine
from xpnet.layers import BatchNorm, Dense, Dropout, ReLU, Sequential
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.optimizers import SGD, Adam
from xpnet.step import Batch, StepInputs
from xpnet.trainer import Trainer

pytest.importorskip("numba", reason="the kernels are compiled by Numba: pip install 'xpnet[fast]'")

from xpnet.kernels.numba import NumbaExecutor
from xpnet.kernels.cuda.step import FusedStep


class UnderTest(NumbaExecutor):
    """As the tests make one."""

    def __init__(self, *args):  # the dtype, and a folder that it has no use for
        super().__init__(args[0])

    def check_guards(self):
        """Its arrays have no guards; NumPy and Numba look after their bounds."""


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(gpu, "CpuExecutor", UnderTest)
    monkeypatch.setattr(gpu, "FusedStep", functools.partial(FusedStep, graph=False))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_every_rule_for_20_steps(optimizer, clip, kind, rng):
    rows = [12, 12, 12, 12, 5] * 4
    layers = [Dense(7), ReLU(), Dropout(0.3), Dense(5)]
    loss = SoftmaxCrossEntropy(label_smoothing=0.1)
    batches = class_batches(rng, kind, rows)
    compare(UnderTest(kind), layers, (6,), batches, loss, OPTIMIZERS[optimizer], CLIPS[clip])


def engine(backend, layers, optimizer, shape, **options):
    model = Sequential(layers).build(shape)
    return Engine(backend, model, SoftmaxCrossEntropy(), optimizer, **options)


def test_numpy_takes_the_fused_step_and_says_so(rng):
    fused = engine(get_backend("numpy"), [Dense(3)], SGD(), (4,))
    assert fused.step_note == "fused kernels compiled by Numba"
    assert engine(get_backend("numpy"), [Dense(3)], SGD(), (4,), compile=False).step_note == (
        "portable"
    )


def test_a_layer_without_a_kernel_takes_the_portable_step(rng):
    portable = engine(get_backend("numpy"), [Dense(3), BatchNorm()], SGD(), (4,))
    assert portable.step_note == "portable"


def test_without_numba_everything_still_runs(monkeypatch, rng):
    monkeypatch.setattr("xpnet.backends.numpy.installed_version", lambda *_: None)
    trainer = Trainer([Dense(3)], backend=NumpyBackend())
    trainer.fit((rng.normal(size=(20, 4)), rng.integers(0, 3, 20)), epochs=1)
    assert trainer.engine.step_note == "portable"


def test_a_training_of_either_kind_learns_the_same(rng):
    x, y = rng.normal(size=(100, 6)), rng.integers(0, 4, 100)
    params = []
    for compiled in (None, False):
        trainer = Trainer(
            [Dense(16), ReLU(), Dropout(0.2), Dense(4)],
            optimizer=Adam(0.01),
            backend=NumpyBackend("cpu", "float64"),
            batch_size=16,
            compile=compiled,
        )
        trainer.fit((x, y), epochs=3, validation=(x, y))
        params.append(trainer.params)
    for name, value in params[0].items():
        np.testing.assert_allclose(value, params[1][name], rtol=1e-8, atol=1e-12)


def test_a_steady_step_allocates_no_array(rng):
    """What tracemalloc sees of a step is Python's own small objects, not a buffer."""
    fused = engine(get_backend("numpy"), [Dense(256), ReLU(), Dense(10)], Adam(), (300,))
    x = rng.normal(size=(64, 300)).astype("float32")
    batch = Batch(x, rng.integers(0, 10, 64).astype("int32"))
    coefficients = fused.optimizer.coefficients(0.01, 1)

    def steps(n):
        for step in range(n):
            fused.train(batch, StepInputs(step, coefficients))

    steps(5)
    tracemalloc.start()
    try:
        steps(5)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        steps(50)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    smallest = 64 * 10 * 4  # the gradient of the logits, the smallest buffer of a batch
    assert peak - before < smallest + 8192  # and now and then the buffer of 1024 losses
    assert after - before < smallest + 8192
