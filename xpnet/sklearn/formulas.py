"""Losses and update rules in scikit-learn's convention, where that is not xpnet's own.

A loss of several outputs is their sum, and its mean is over the rows; half of the squared error is
taken; SGD's learning rate is inside the velocity; Adam's ε stands beside the uncorrected root.
"""

import dataclasses
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

from array_api_compat import array_namespace

from xpnet.nn.losses import (
    BinaryCrossEntropy,
    ElementwiseLoss,
    Loss,
    MeanSquaredError,
    Poisson,
    SoftmaxCrossEntropy,
    Sums,
)
from xpnet.optim.optimizers import OPTIMIZERS, Adam, Coefficients, Optimizer, Slots, State
from xpnet.settings import PositiveFloat, Range
from xpnet.typing import Array

__all__ = [
    "HatAdam",
    "LossOfLabels",
    "PoissonDeviance",
    "ScaledSGD",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "rule_of",
]


class _ByRow(ElementwiseLoss):
    """A loss per element whose D is the sum of the rows' weights, not of the elements'."""

    def sums(self, output: Array, target: Array, weight: Array | None = None) -> Sums:
        found = super().sums(output, target, weight)
        return found._replace(denominator=found.denominator / float(output.shape[-1]))


class LossOfLabels(_ByRow, BinaryCrossEntropy):
    """Binary cross-entropy of logits (N, J), summed over the labels: scikit-learn's log_loss."""


class SquaredError(_ByRow, MeanSquaredError):
    """C = 1/(2D) Σ_nj s_n (z_nj - y_nj)², D = Σ_n s_n."""

    def value(self, z: Array, y: Array) -> Array:
        return 0.5 * super().value(z, y)

    def backward_value(self, z: Array, y: Array) -> Array:
        return 0.5 * super().backward_value(z, y)


class PoissonDeviance(_ByRow, Poisson):
    """Half of the Poisson deviance, exp z - y z + y log y - y: 0 where the rate is y."""

    def value(self, z: Array, y: Array) -> Array:
        xp = array_namespace(z)
        return super().value(z, y) + y * xp.log(xp.where(y > 0.0, y, 1.0)) - y


@dataclass(frozen=True)
class ScaledSGD(Optimizer):
    """SGD with momentum, the learning rate inside the velocity, as in scikit-learn.

        v = μv - ηg
        p += v                     or, Nesterov's,            p += μv - ηg

    At a constant η it is :class:`~xpnet.optim.optimizers.SGD`; where η changes, what the velocity
    has of earlier gradients keeps the rate that they came with.
    """

    lr: PositiveFloat = 0.001
    _: KW_ONLY
    momentum: Annotated[float, Range(ge=0, le=1)] = 0.9
    nesterov: bool = True

    @property
    def slots(self) -> tuple[str, ...]:
        """The velocity v, if there is momentum."""
        return ("v",) if self.momentum else ()

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        move = -c.step_size * grad
        if self.momentum:
            v = self.momentum * slots[0] + move
            slots = (v,)
            move = self.momentum * v + move if self.nesterov else v
        return params + move, slots


class HatAdam(Adam):
    """Adam with the ε̂ of the end of section 2 of its paper: p -= η_t m / (√v + ε̂).

    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015; scikit-learn's.
    """

    def coefficients(self, lr: float, t: int) -> Coefficients:
        return super().coefficients(lr, t)._replace(eps=self.eps)


# The rules whose β1, β2 and ε are beta_1, beta_2 and epsilon.
ADAMS = ("adam", "adamw", "nadam", "radam", "adamax")


def rule_of(estimator: Any) -> Optimizer:
    """Return the update rule of an estimator's solver, with the parameters that it has."""
    name, lr = estimator.solver, estimator.learning_rate_init
    if name == "sgd":
        momentum, nesterov = estimator.momentum, bool(estimator.nesterovs_momentum)
        return ScaledSGD(lr, momentum=momentum, nesterov=nesterov)
    moments: dict[str, Any] = {}
    if name in ADAMS:
        moments = {"beta1": estimator.beta_1, "beta2": estimator.beta_2, "eps": estimator.epsilon}
    rule: Any = HatAdam if name == "adam" else OPTIMIZERS[name]
    return dataclasses.replace(rule(lr), **moments)


def loss_of(name: str) -> Loss:
    """Return the loss of a regression by scikit-learn's name."""
    return {"squared_error": SquaredError, "poisson": PoissonDeviance}[name]()
