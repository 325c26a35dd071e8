"""Activations, losses and rules of a user's own are fused on a GPU like the library's.

They are defined here and nowhere else, as portable formulas.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
from array_api_compat import array_namespace
from cuda_on_cpu import CpuExecutor
from test_cuda_step import compare, inputs

from xpnet.errors import UnsupportedError
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.nn import Activation, BatchNorm, Dense, Sequential
from xpnet.nn.losses import ElementwiseLoss, Huber, SoftmaxCrossEntropy
from xpnet.ops.activations import sigmoid, softplus
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Optimizer
from xpnet.settings import PositiveFloat
from xpnet.step import Batch


def mish(z):
    """z tanh(softplus(z)): Misra, "Mish", arXiv:1908.08681."""
    return z * array_namespace(z).tanh(softplus(z))


def mish_backward(da, z):
    t = array_namespace(z).tanh(softplus(z))
    return da * (t + z * (1.0 - t * t) * sigmoid(z))


@dataclass(frozen=True)
class Mish(Activation):
    value, backward_value = staticmethod(mish), staticmethod(mish_backward)


class Rates(NamedTuple):
    """The coefficients of an update, by other names than the library's."""

    lr: float
    warmth: float


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Zeiler, "ADADELTA", arXiv:1212.5701, with a warmth that changes from update to update."""

    rho: PositiveFloat = 0.9
    eps: PositiveFloat = 1e-6

    @property
    def slots(self):
        return ("square", "change")

    def coefficients(self, lr, t):
        return Rates(lr, t / (t + 1.0))

    def update(self, params, grad, slots, c):
        sqrt, (square, change) = array_namespace(grad).sqrt, slots
        grad = self._coupled(params, grad)
        square = self.rho * square + (1.0 - self.rho) * grad * grad
        step = sqrt(change + self.eps) / sqrt(square + self.eps) * grad * c.warmth
        change = self.rho * change + (1.0 - self.rho) * step * step
        return params - c.lr * step, (square, change)


@dataclass(frozen=True)
class Hinge(ElementwiseLoss):
    """max(0, margin - t z) with t = 2y - 1 in {-1, 1}."""

    margin: PositiveFloat = 1.0
    predicts: ClassVar = "binary"

    def slack(self, z, y):
        return self.margin - (2.0 * y - 1.0) * z

    def value(self, z, y):
        return array_namespace(z).maximum(self.slack(z, y), 0.0)

    def backward_value(self, z, y):
        return array_namespace(z).where(self.slack(z, y) > 0.0, 1.0 - 2.0 * y, 0.0)


@pytest.fixture(params=["float32", "float64"])
def executor(request, folder):
    return CpuExecutor(request.param, folder)


@pytest.fixture
def batches(executor, rng):
    dtype, rows = executor.dtype, [12, 12, 12, 12, 5]
    return [
        Batch(
            rng.normal(size=(N, 6)).astype(dtype),
            rng.integers(0, 2, size=(N, 3)).astype(dtype),
            rng.uniform(0.5, 2.0, size=N).astype(dtype),
        )
        for N in rows
    ]


def test_they_train_as_in_the_portable_step(executor, batches):
    layers, rule = [Dense(8), Mish(), Dense(3)], Adadelta(0.1, weight_decay=0.1)
    step, state = compare(executor, layers, (6,), batches, Hinge(), rule, Clip(norm=0.5, value=0.1))
    assert step.note.startswith("CUDA graph of ")
    weights = sum(float(b.weight.sum()) for b in batches)
    assert float(state.totals.counted) == pytest.approx(3 * weights, rel=1e-6)
    assert 0 < float(state.totals.correct) < float(state.totals.counted)


def test_an_activation_after_a_norm_and_one_alone(executor, batches):
    layers = [Mish(), Dense(8), BatchNorm(), Mish(), Dense(3)]
    compare(executor, layers, (6,), batches, Huber(), SGD(0.01))


@pytest.mark.long_where(executor=["float32"])
def test_a_setting_does_not_compile_the_kernel_again(executor, batches):
    for margin in (0.5, 1.7):
        compare(executor, [Dense(3)], (6,), batches, Hinge(margin=margin), Adadelta(0.3 * margin))
    names = [n for n in executor.kernels.functions if n.startswith("elementwise_loss_")]
    compare(executor, [Dense(3)], (6,), batches, Hinge(margin=1.9), Adadelta(0.3, rho=0.7))
    assert names == [n for n in executor.kernels.functions if n.startswith("elementwise_loss_")]


MISTAKES = {
    "a sign in the derivative": ("(real)1.0 - (v1 * v1)", "(real)1.0 + (v1 * v1)"),
    "a slot that is not updated": ("slot[1] = next2;", "slot[1] = 0 * next2;"),
    "a comparison": ("(v1 > (real)0.0)", "(v1 < (real)0.0)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_printed_text_is_noticed(mistake, folder, batches):
    planted = CpuExecutor("float64", folder, planted=MISTAKES[mistake])
    batches = [Batch(*(x.astype("float64") for x in b)) for b in batches]
    with pytest.raises(AssertionError, match="Mismatch"):
        compare(planted, [Dense(8), Mish(), Dense(3)], (6,), batches, Hinge(), Adadelta(0.1))
    assert planted.kernels.has_bug


def branching(z):
    return z if (z > 0.0).all() else 0.0 * z


def of_the_mean(z):
    return z - array_namespace(z).mean(z)


def by_hand(z):
    return np.sinh(z)


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (branching, "it cannot be followed|it branches on a value"),
        (of_the_mean, "it calls mean"),
        (by_hand, "it calls NumPy"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_the_reason(f, why, folder):
    functions = {"value": staticmethod(f), "backward_value": staticmethod(lambda da, z: da)}
    layer = type("Mine", (Activation,), functions)
    model = Sequential([Dense(3), layer(), Dense(2)]).build((4,))
    with pytest.raises(UnsupportedError, match=f"Mine has no kernel: ({why})"):
        FusedStep(CpuExecutor("float64", folder), model, SoftmaxCrossEntropy(), SGD())


def test_more_coefficients_than_a_kernel_takes_are_refused(folder):
    Many = NamedTuple("Many", [(f"c{i}", float) for i in range(9)])

    class Mine(SGD):
        def coefficients(self, lr, t):
            return Many(*[lr] * 9)

        def update(self, params, grad, slots, c):
            return params - sum(c) * grad, slots

    model = Sequential([Dense(3)]).build((4,))
    with pytest.raises(UnsupportedError, match="Mine has no kernel: it has 9 coefficients"):
        FusedStep(CpuExecutor("float64", folder), model, SoftmaxCrossEntropy(), Mine())
    assert len(inputs(0, model, Mine()).coefficients) == 9
