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

Whatever changes from one update to the next is a Python float in the rule's *coefficients*, a named
tuple computed on the host: :class:`Coefficients`, or one of its own. The settings of the rule are
constants. A compiled update therefore takes the coefficients as arguments and is compiled once.

The rules are PyTorch's of the same name, and optax's for Lion. ``weight_decay`` λ acts on every
parameter: through the gradient, as that of (λ/2) Σ p² ("coupled"), or directly on the parameters
in AdamW and Lion ("decoupled"). What a rule does otherwise for some layers of a model is in
:mod:`xpnet.optim.groups`.

>>> import numpy as np
>>> params, slots = SGD().update(np.array([1.0, 2.0]), np.array([1.0, -1.0]), (), Coefficients(0.5))
>>> params
array([0.5, 2.5])
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from array_api_compat import array_namespace

from xpnet.elementwise import sign
from xpnet.errors import ConfigError
from xpnet.registry import register
from xpnet.settings import Checked, Fraction, NonNegativeFloat, PositiveFloat
from xpnet.typing import Array

__all__ = [
    "OPTIMIZERS",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Coefficients",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSProp",
    "SGD",
]

Slots = tuple[Array, ...]
State = tuple[Array, Slots]


class Coefficients(NamedTuple):
    """The numbers of an update that change with t, for most rules.

    A rule ignores those it does not use.
    """

    step_size: float  # the factor of the update, bias corrections included
    eps: float = 0.0  # added to the denominator
    keep: float = 1.0  # what decoupled weight decay leaves of the parameters, 1 - ηλ


OPTIMIZERS: dict[str, type["Optimizer"]] = {}  # by the names that they are registered by


@dataclass(frozen=True)
class Optimizer(Checked, ABC):
    """Base class of the update rules; ``lr`` is the learning rate that a schedule starts from.

    The last four settings divide a model's parameters into groups, for which
    :func:`xpnet.optim.groups.grouped` makes the rule; without it they do nothing.
    """

    table: ClassVar[dict[str, type["Optimizer"]]] = OPTIMIZERS

    lr: PositiveFloat = 0.01
    _: KW_ONLY
    weight_decay: NonNegativeFloat = 0.0
    decay: Literal["all", "weights"] = "all"  # weights: what has two or more dimensions
    freeze: tuple[str, ...] = ()  # layers that stay as they are
    # Layer -> the factor of its learning rate. A dict has no hash.
    lr_factors: Mapping[str, PositiveFloat] = field(default_factory=dict, hash=False)
    ntk: bool = False  # the learning rate of a layer's W (I, J) is divided by √I

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the vectors that the rule keeps between updates."""
        return ()

    def init(self, params: Array) -> Slots:
        """Return the slots before the first update: zeros with the shape and dtype of params."""
        xp = array_namespace(params)
        return tuple(xp.zeros_like(params) for _ in self.slots)

    def coefficients(self, lr: float, t: int) -> Any:
        """Return a named tuple of the floats of update t = 1, 2, ... at the learning rate ``lr``.

        It is a function of its arguments and the settings alone: training resumes at any t.
        """
        return Coefficients(lr)

    @abstractmethod
    def update(self, params: Array, grad: Array, slots: Slots, c: Any) -> State:
        """Return the parameters and slots after one update; consumes all the vectors (P,).

        ``c`` are the :meth:`coefficients`. Element-wise, by the Array API alone and without a
        Python branch on what is in an array, an update is also compiled.
        """

    def _coupled(self, params: Array, grad: Array) -> Array:
        """g + λp, the gradient of C + (λ/2) Σ p²; consumes ``grad``."""
        if self.weight_decay:
            grad += self.weight_decay * params
        return grad


class DampedCoefficients(NamedTuple):
    """The numbers of an update of SGD with dampening."""

    step_size: float
    fresh: float  # the share of the gradient that the velocity takes


@register("sgd")
class SGD(Optimizer):
    """Stochastic gradient descent: plain, with momentum μ, or with Nesterov's momentum.

        g += λp
        v = μv + g
        p -= ηv            or, Nesterov's,            p -= η(g + μv)

    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep
    learning", ICML 2013; η multiplies v here, as in PyTorch, and is not accumulated in it. With
    ``dampening`` τ, PyTorch's as well, v = μv + (1 - τ) g from the second update on.
    """

    lr: PositiveFloat = 0.01
    _: KW_ONLY
    momentum: Fraction = 0.0
    nesterov: bool = False
    dampening: Fraction = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dampening and (self.nesterov or not self.momentum):
            msg = f"SGD.dampening is for momentum without nesterov; got {self!r}: set dampening = 0"
            raise ConfigError(msg)
        if self.nesterov and not self.momentum:
            msg = "SGD.nesterov needs a momentum; got momentum = 0: set momentum, say to 0.9"
            raise ConfigError(msg)

    @property
    def slots(self) -> tuple[str, ...]:
        """The velocity v, if there is momentum."""
        return ("v",) if self.momentum else ()

    def coefficients(self, lr: float, t: int) -> Any:
        """Return η and, with dampening, the factor of the gradient."""
        if not self.dampening:
            return Coefficients(lr)
        return DampedCoefficients(lr, 1.0 if t == 1 else 1.0 - self.dampening)

    def update(self, params: Array, grad: Array, slots: Slots, c: Any) -> State:
        step = self._coupled(params, grad)
        if self.dampening:
            step *= c.fresh
        if self.momentum:
            (v,) = slots
            v *= self.momentum
            v += step
            slots = (v,)
            step = step + self.momentum * v if self.nesterov else v
        params -= c.step_size * step
        return params, slots


@register("rmsprop")
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


@register("adagrad")
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


@register("adam")
class Adam(Optimizer):
    """Adaptive moment estimation: running means m of g and v of g², corrected for bias.

        g += λp
        m = β1 m + (1 - β1) g                    m̂ = m / (1 - β1^t)
        v = β2 v + (1 - β2) g²                   v̂ = v / (1 - β2^t)
        p -= η m̂ / (√v̂ + ε)

    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, Algorithm 1, in the
    order of the end of their section 2, which saves two passes over the vector:
    p -= η_t m / (√v + ε_t), with η_t = η √(1 - β2^t) / (1 - β1^t) and ε_t = ε √(1 - β2^t).

    With ``amsgrad``, the largest v so far stands for v in the last line, so that the step size of
    a parameter never grows again: Reddi, Kale and Kumar, "On the convergence of Adam and beyond",
    ICLR 2018, Algorithm 2, with the bias corrections that PyTorch adds.
    """

    lr: PositiveFloat = 0.001
    _: KW_ONLY
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: PositiveFloat = 1e-8
    amsgrad: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The moments m and v and, for AMSGrad, the largest v."""
        return ("m", "v", "peak") if self.amsgrad else ("m", "v")

    def coefficients(self, lr: float, t: int) -> Coefficients:
        """Return η_t and ε_t."""
        root = math.sqrt(1.0 - self.beta2**t)
        return Coefficients(lr * root / (1.0 - self.beta1**t), self.eps * root)

    def update(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        return self._step(params, self._coupled(params, grad), slots, c)

    def _step(self, params: Array, grad: Array, slots: Slots, c: Coefficients) -> State:
        m, v, *peak = slots
        v = _average(v, grad * grad, self.beta2)
        m = _average(m, grad, self.beta1)
        if self.amsgrad:
            peak = [_larger(peak[0], v)]
        params -= c.step_size * _over_root(m, peak[0] if self.amsgrad else v, c.eps)
        return params, (m, v, *peak)


@register("adamw")
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


@register("lion")
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
        (m,) = slots
        u = self.beta1 * m
        u += (1.0 - self.beta1) * grad
        params *= c.keep
        params -= c.step_size * sign(u)
        return params, (_average(m, grad, self.beta2),)


class NesterovCoefficients(NamedTuple):
    """The numbers of an update of NAdam."""

    of_gradient: float  # the factor of g
    of_mean: float  # the factor of m
    eps: float


@register("nadam")
class NAdam(Optimizer):
    """Adam with Nesterov's momentum, whose decay rate μ grows towards β1.

        g += λp
        m = β1 m + (1 - β1) g
        v = β2 v + (1 - β2) g²                             v̂ = v / (1 - β2^t)
        μ_t = β1 (1 - 0.96^(t ψ) / 2)                      M_t = μ_1 μ_2 ... μ_t
        p -= η ((1 - μ_t) / (1 - M_t) g + μ_(t+1) / (1 - M_(t+1)) m) / (√v̂ + ε)

    Dozat, "Incorporating Nesterov momentum into Adam", ICLR 2016 workshop, Algorithm 2, with the
    schedule of μ that its section 3 and PyTorch have; ψ is ``momentum_decay``.
    """

    lr: PositiveFloat = 0.002
    _: KW_ONLY
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: PositiveFloat = 1e-8
    momentum_decay: NonNegativeFloat = 0.004

    @property
    def slots(self) -> tuple[str, ...]:
        """The moments m and v."""
        return ("m", "v")

    def coefficients(self, lr: float, t: int) -> NesterovCoefficients:
        """Return the factors of g and m, with √(1 - β2^t) in them, and ε times that root."""
        now, after = (_nesterov_momentum(self.beta1, self.momentum_decay, i) for i in (t, t + 1))
        products = _momentum_products(self.beta1, self.momentum_decay)
        product = products[min(t, len(products)) - 1]
        step = lr * (root := math.sqrt(1.0 - self.beta2**t))
        of_mean = step * after / (1.0 - product * after)
        return NesterovCoefficients(step * (1.0 - now) / (1.0 - product), of_mean, self.eps * root)

    def update(self, params: Array, grad: Array, slots: Slots, c: Any) -> State:
        m, v = slots
        grad = self._coupled(params, grad)
        v = _average(v, grad * grad, self.beta2)
        m = _average(m, 1.0 * grad, self.beta1)
        grad *= c.of_gradient
        grad += c.of_mean * m
        params -= _over_root(grad, v, c.eps)
        return params, (m, v)


def _nesterov_momentum(beta1: float, decay: float, t: int) -> float:
    return beta1 * (1.0 - 0.5 * 0.96 ** (t * decay))


@functools.cache
def _momentum_products(beta1: float, decay: float) -> tuple[float, ...]:
    """M_1, M_2, ... down to where 1 - M is 1: about 400 of them for β1 = 0.9."""
    products = [_nesterov_momentum(beta1, decay, 1)]
    while products[-1] > 2.0**-60:
        products.append(products[-1] * _nesterov_momentum(beta1, decay, len(products) + 1))
    return tuple(products)


class RectifiedCoefficients(NamedTuple):
    """The numbers of an update of RAdam: one of the two is 0."""

    plain: float  # the factor of m
    adaptive: float  # the factor of m / (√v + ε)


@register("radam")
class RAdam(Optimizer):
    """Adam whose step is rectified, and not divided by √v̂ before that is known well enough.

        g += λp
        m = β1 m + (1 - β1) g                    m̂ = m / (1 - β1^t)
        v = β2 v + (1 - β2) g²                   ρ = ρ∞ - 2 t β2^t / (1 - β2^t)
        p -= η m̂ r √(1 - β2^t) / (√v + ε)        where ρ > 5, else p -= η m̂

    with ρ∞ = 2 / (1 - β2) - 1 and r² = ((ρ - 4)(ρ - 2) ρ∞) / ((ρ∞ - 4)(ρ∞ - 2) ρ). Liu, Jiang, He
    et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020, Algorithm 2; ε
    and the bound of 5 (theirs is 4) are PyTorch's.
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

    def coefficients(self, lr: float, t: int) -> RectifiedCoefficients:
        """Return the factors of m and of m / (√v + ε)."""
        step, power = lr / (1.0 - self.beta1**t), self.beta2**t
        longest = 2.0 / (1.0 - self.beta2) - 1.0
        length = longest - 2.0 * t * power / (1.0 - power)
        if length <= 5.0:
            return RectifiedCoefficients(step, 0.0)
        over = (length - 4.0) * (length - 2.0) * longest
        r = math.sqrt(over / ((longest - 4.0) * (longest - 2.0) * length))
        return RectifiedCoefficients(0.0, step * r * math.sqrt(1.0 - power))

    def update(self, params: Array, grad: Array, slots: Slots, c: Any) -> State:
        m, v = slots
        grad = self._coupled(params, grad)
        v = _average(v, grad * grad, self.beta2)
        m = _average(m, grad, self.beta1)
        params -= c.plain * m + c.adaptive * _over_root(m, v, self.eps)
        return params, (m, v)


@register("adamax")
class Adamax(Optimizer):
    """Adam with the largest of the decaying |g| in place of √v̂.

        g += λp
        m = β1 m + (1 - β1) g
        u = max(β2 u, |g| + ε)
        p -= η / (1 - β1^t) m / u

    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, Algorithm 2; ε is
    PyTorch's, and keeps u above 0.
    """

    lr: PositiveFloat = 0.002
    _: KW_ONLY
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: PositiveFloat = 1e-8

    @property
    def slots(self) -> tuple[str, ...]:
        """The moment m and the largest size u."""
        return ("m", "u")

    def coefficients(self, lr: float, t: int) -> Coefficients:
        """Return η / (1 - β1^t)."""
        return Coefficients(lr / (1.0 - self.beta1**t))

    def update(self, params: Array, grad: Array, slots: Slots, c: Any) -> State:
        xp = array_namespace(params)
        m, u = slots
        grad = self._coupled(params, grad)
        u *= self.beta2
        u = _larger(u, xp.abs(grad) + self.eps)
        m = _average(m, grad, self.beta1)
        params -= c.step_size * (m / u)
        return params, (m, u)


@register("adadelta")
class Adadelta(Optimizer):
    """The gradient in units of the parameter: divided by its root mean square, times the steps'.

        g += λp
        r = ρr + (1 - ρ) g²
        s = g √(d + ε) / √(r + ε)
        d = ρd + (1 - ρ) s²
        p -= ηs

    Zeiler, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701, Algorithm 1, where η is
    1, PyTorch's default.
    """

    lr: PositiveFloat = 1.0
    _: KW_ONLY
    rho: Fraction = 0.9
    eps: PositiveFloat = 1e-6

    @property
    def slots(self) -> tuple[str, ...]:
        """The mean squares r of the gradients and d of the steps."""
        return ("r", "d")

    def update(self, params: Array, grad: Array, slots: Slots, c: Any) -> State:
        xp = array_namespace(params)
        r, d = slots
        grad = self._coupled(params, grad)
        r = _average(r, grad * grad, self.rho)
        step = grad * (xp.sqrt(d + self.eps) / xp.sqrt(r + self.eps))
        d = _average(d, step * step, self.rho)
        params -= c.step_size * step
        return params, (r, d)


def _average(mean: Array, x: Array, beta: float) -> Array:
    """Consume both vectors; return the running mean, beta mean + (1 - beta) x."""
    mean *= beta
    x *= 1.0 - beta
    mean += x
    return mean


def _larger(x: Array, y: Array) -> Array:
    """Consume x; return the larger of x and y. The standard has no maximum that writes into x."""
    x += array_namespace(x).maximum(y - x, 0.0)
    return x


def _over_root(x: Array, r: Array, eps: float) -> Array:
    """Return x / (√r + eps); consumes neither."""
    root = array_namespace(r).sqrt(r)
    root += eps
    return x / root
