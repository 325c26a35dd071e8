"""Numba's kernels pass the very tests of the GPU's: another executor under the same step."""

import functools

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

from xpnet.layers import Dense, Dropout, ReLU
from xpnet.losses import SoftmaxCrossEntropy

pytest.importorskip("numba", reason="the kernels are compiled by Numba: pip install 'xpnet[fast]'")

from xpnet.kernels.cuda.step import FusedStep
from xpnet.kernels.numba import NumbaExecutor


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
