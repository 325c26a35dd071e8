"""Update rules on one flat vector of parameters.

Each rule is pure arithmetic on vectors (P,) that hold all parameters of a model at once: p the
parameters, g the gradient dC/dp, and the rule's own moments, its *slots*. t = 1, 2, ... counts the
updates and η is the learning rate of the current one::

    optimizer = Adam(0.001)
    slots = optimizer.init(params)
    for t in range(1, steps + 1):
        c = optimizer.coefficients(lr, t)
        params, slots = optimizer.update(params, grad, slots, c)

:meth:`Optimizer.update` consumes its arrays: it writes into them where the library allows that
(NumPy, CuPy, PyTorch) and replaces them where it does not (JAX). Use only what it returns.

Whatever changes from one update to the next is a Python float in :class:`Coefficients`, computed
on the host; the settings of the rule are constants. A compiled update therefore takes the
coefficients as arguments and is compiled once.

The rules are PyTorch's of the same name, and optax's for Lion. ``weight_decay`` λ acts on every
parameter: through the gradient, as that of (λ/2) Σ p² ("coupled"), or directly on the parameters
in AdamW and Lion ("decoupled").

>>> import numpy as np
>>> params, slots = SGD().update(np.array([1.0, 2.0]), np.array([1.0, -1.0]), (), Coefficients(0.5))
>>> params
array([0.5, 2.5])
"""

import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

from array_api_compat import array_namespace

from xpnet.errors import ConfigError
from xpnet.settings import Checked, Fraction, NonNegativeFloat, PositiveFloat
from xpnet.typing import Array

__all__ = [
    "OPTIMIZERS",
    "Adagrad",
    "Adam",
    "AdamW",
    "Coefficients",
    "Lion",
    "Optimizer",
    "RMSProp",
    "SGD",
]

Slots = tuple[Array, ...]
State = tuple[Array, Slots]


class Coefficients(NamedTuple):
    """The numbers of an update that change with t; a rule ignores those it does not use."""

    step_size: float  # the factor of the update, bias corrections included
    eps: float = 0.0  # added to the denominator
    keep: float = 1.0  # what decoupled weight decay leaves of the parameters, 1 - ηλ


@dataclass(frozen=True)
class Optimizer(Checked, ABC):
    """Base class of the update rules; ``lr`` is the learning rate that a schedule starts from."""

    lr: PositiveFloat = 0.01
    _: KW_ONLY
    weight_decay: NonNegativeFloat = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the vectors that the rule keeps between updates."""
        return ()

    def init(self, params: Array) -> Slots:
        """Return the slots before the first update: zeros with the shape and dtype of params."""
        xp = array_namespace(params)
        return tuple(xp.zeros_like(params) for _ in self.slots)

    def coefficients(self, lr: float, t: int) -> Coefficients:
        """Return the coefficients of update t = 1, 2, ... at the learning rate ``lr``."""
        return Coefficients(lr)

    @abstractmethod
    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        """Return the parameters and slots after one update; consumes all the vectors (P,)."""

    def _coupled(self, params: Array, grad: Array) -> Array:
        """g + λp, the gradient of C + (λ/2) Σ p²; consumes ``grad``."""
        if self.weight_decay:
            grad += self.weight_decay * params
        return grad


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: plain, with momentum μ, or with Nesterov's momentum.

        g += λp
        v = μv + g
        p -= ηv            or, Nesterov's,            p -= η(g + μv)

    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep
    learning", ICML 2013; η multiplies v here, as in PyTorch, and is not accumulated in it.
    """

    lr: PositiveFloat = 0.01
    _: KW_ONLY
    momentum: Fraction = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            msg = "SGD.nesterov needs a momentum; got momentum = 0: set momentum, say to 0.9"
            raise ConfigError(msg)

    @property
    def slots(self) -> tuple[str, ...]:
        """The velocity v, if there is momentum."""
        return ("v",) if self.momentum else ()

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        step = self._coupled(params, grad)
        if self.momentum:
            (v,) = slots
            v *= self.momentum
            v += step
            slots = (v,)
            step = step + self.momentum * v if self.nesterov else v
        params -= c.step_size * step
        return params, slots


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """The gradient divided by its running root mean square; α is the decay rate of r.

        g += λp
        r = αr + (1 - α) g²
        m = αm + (1 - α) g         if centered: the variance r - m² replaces r below
        v = μv + g / (√r + ε)
        p -= ηv

    Tieleman and Hinton, "Lecture 6.5: rmsprop", COURSERA: Neural Networks for Machine Learning,
    2012; centered and with momentum: Graves, "Generating sequences with recurrent neural
    networks", arXiv:1308.0850, equations 38 to 41. ε is outside the root, as in PyTorch.
    """

    lr: PositiveFloat = 0.01
    _: KW_ONLY
    alpha: Fraction = 0.99
    eps: PositiveFloat = 1e-8
    momentum: Fraction = 0.0
    centered: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The mean square r, the mean m if centered, the velocity v if there is momentum."""
        return ("r",) + ("m",) * self.centered + ("v",) * bool(self.momentum)

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        xp = array_namespace(params)
        grad = self._coupled(params, grad)
        new = dict(zip(self.slots, slots, strict=True))
        variance = new["r"] = _average(new["r"], grad * grad, self.alpha)
        if self.centered:
            m = new["m"] = _average(new["m"], 1.0 * grad, self.alpha)
            # Rounding can take a variance of nearly 0 below 0, and its root to NaN.
            variance = xp.maximum(variance - m * m, 0.0)
        step = _over_root(grad, variance, self.eps)
        if self.momentum:
            new["v"] *= self.momentum
            new["v"] += step
            step = new["v"]
        params -= c.step_size * step
        return params, tuple(new.values())


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """The gradient divided by the root of the sum r of all squared gradients so far.

        g += λp
        r += g²                                  r_0 = initial_accumulator
        p -= η_t g / (√r + ε)                    η_t = η / (1 + (t - 1) lr_decay)

    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12, 2011 (the diagonal version).
    """

    lr: PositiveFloat = 0.01
    _: KW_ONLY
    lr_decay: NonNegativeFloat = 0.0
    eps: PositiveFloat = 1e-10
    initial_accumulator: NonNegativeFloat = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        """The sum of squares r."""
        return ("r",)

    def init(self, params: Array) -> Slots:
        """Return r filled with ``initial_accumulator``."""
        xp = array_namespace(params)
        return (xp.full_like(params, self.initial_accumulator),)

    def coefficients(self, lr: float, t: int) -> Coefficients:
        """Return η_t."""
        return Coefficients(lr / (1.0 + (t - 1) * self.lr_decay))

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        (r,) = slots
        grad = self._coupled(params, grad)
        r += grad * grad
        params -= c.step_size * _over_root(grad, r, self.eps)
        return params, (r,)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moment estimation: running means m of g and v of g², corrected for bias.

        g += λp
        m = β1 m + (1 - β1) g                    m̂ = m / (1 - β1^t)
        v = β2 v + (1 - β2) g²                   v̂ = v / (1 - β2^t)
        p -= η m̂ / (√v̂ + ε)

    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, Algorithm 1, in the
    order of the end of their section 2, which saves two passes over the vector:
    p -= η_t m / (√v + ε_t), with η_t = η √(1 - β2^t) / (1 - β1^t) and ε_t = ε √(1 - β2^t).
    """

    lr: PositiveFloat = 0.001
    _: KW_ONLY
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: PositiveFloat = 1e-8

    @property
    def slots(self) -> tuple[str, ...]:
        """The moments m and v."""
        return ("m", "v")

    def coefficients(self, lr: float, t: int) -> Coefficients:
        """Return η_t and ε_t."""
        root = math.sqrt(1.0 - self.beta2**t)
        return Coefficients(lr * root / (1.0 - self.beta1**t), self.eps * root)

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        return self._step(params, self._coupled(params, grad), slots, c)

    def _step(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        m, v = slots
        v = _average(v, grad * grad, self.beta2)
        m = _average(m, grad, self.beta1)
        params -= c.step_size * _over_root(m, v, c.eps)
        return params, (m, v)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay decoupled from the gradient, so that v does not divide it.

        p *= 1 - ηλ
        then Adam's update with λ = 0

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, Algorithm 2.
    """

    _: KW_ONLY
    weight_decay: NonNegativeFloat = 0.01

    def coefficients(self, lr: float, t: int) -> Coefficients:
        """Return η_t, ε_t and 1 - ηλ."""
        return super().coefficients(lr, t)._replace(keep=1.0 - lr * self.weight_decay)

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        params *= c.keep
        return self._step(params, grad, slots, c)


@dataclass(frozen=True)
class Lion(Optimizer):
    """A step of η in every coordinate, with the sign of an average of the momentum m and g.

        u = sign(β1 m + (1 - β1) g)
        p -= η(u + λp)
        m = β2 m + (1 - β2) g

    Chen, Liang, Huang et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023,
    Algorithm 2. They advise a learning rate 3 to 10 times smaller than Adam's.
    """

    lr: PositiveFloat = 0.0001
    _: KW_ONLY
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    weight_decay: NonNegativeFloat = 0.001

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum m."""
        return ("m",)

    def coefficients(self, lr: float, t: int) -> Coefficients:
        """Return η and 1 - ηλ."""
        return Coefficients(lr, keep=1.0 - lr * self.weight_decay)

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        xp = array_namespace(params)
        (m,) = slots
        u = self.beta1 * m
        u += (1.0 - self.beta1) * grad
        params *= c.keep
        params -= c.step_size * xp.sign(u)
        return params, (_average(m, grad, self.beta2),)


def _average(mean: Array, x: Array, beta: float) -> Array:
    """Consume both vectors; return the running mean, beta mean + (1 - beta) x."""
    mean *= beta
    x *= 1.0 - beta
    mean += x
    return mean


def _over_root(x: Array, r: Array, eps: float) -> Array:
    """Return x / (√r + eps); consumes neither."""
    root = array_namespace(r).sqrt(r)
    root += eps
    return x / root


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSProp,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "lion": Lion,
}
