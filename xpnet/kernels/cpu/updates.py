"""Each update rule, and clipping, as one pass over the flat vector: the formulas of xpnet.optim.

Every rule updates p (P,) and its slots in place; ``c`` is the (step_size, eps, keep) of
Coefficients and ``decay`` the weight decay that is part of the gradient.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpnet.kernels.cpu.compiled import kernel
from xpnet.optim.optimizers import SGD, Adagrad, Adam, AdamW, Coefficients, Lion, Optimizer, RMSProp
from xpnet.typing import Array

__all__ = ["RULES", "clip", "make_update"]


@kernel
def clip(g, limit, norm):
    """Clip each component to ``limit``, then the vector to ``norm``; 0 means no such bound."""
    real = g.dtype.type
    if limit > 0:
        low, high = real(-limit), real(limit)
        for i in range(g.size):
            x = g[i]
            x = high if x > high else x  # a NaN stays a NaN
            g[i] = low if x < low else x
    if norm > 0:
        squares = real(0.0)
        for i in range(g.size):
            squares += g[i] * g[i]
        factor = real(norm) / (math.sqrt(squares) + real(1e-6))
        if not factor >= real(1.0):
            for i in range(g.size):
                g[i] *= factor


@kernel
def sgd(p, g, c, decay, v, momentum, nesterov):
    real = p.dtype.type
    step_size, decay, momentum = real(c[0]), real(decay), real(momentum)
    if v.size == 0:
        for i in range(p.size):
            p[i] -= step_size * (g[i] + decay * p[i])
    else:
        for i in range(p.size):
            step = g[i] + decay * p[i]
            v[i] = momentum * v[i] + step
            p[i] -= step_size * (step + momentum * v[i] if nesterov else v[i])


@kernel
def rmsprop(p, g, c, decay, r, m, v, alpha, eps, momentum):
    real = p.dtype.type
    step_size, decay, rest = real(c[0]), real(decay), real(1.0 - alpha)
    alpha, eps, momentum = real(alpha), real(eps), real(momentum)
    centered, has_momentum = m.size > 0, v.size > 0
    for i in range(p.size):
        x = g[i] + decay * p[i]
        r[i] = alpha * r[i] + rest * (x * x)
        variance = r[i]
        if centered:
            m[i] = alpha * m[i] + rest * x
            variance -= m[i] * m[i]
            variance = real(0.0) if variance < 0 else variance
        x /= math.sqrt(variance) + eps
        if has_momentum:
            v[i] = momentum * v[i] + x
            x = v[i]
        p[i] -= step_size * x


@kernel
def adagrad(p, g, c, decay, r, eps):
    real = p.dtype.type
    step_size, decay, eps = real(c[0]), real(decay), real(eps)
    for i in range(p.size):
        x = g[i] + decay * p[i]
        r[i] += x * x
        p[i] -= step_size * (x / (math.sqrt(r[i]) + eps))


@kernel
def adam(p, g, c, decay, m, v, beta1, beta2):
    real = p.dtype.type
    step_size, eps, keep, decay = real(c[0]), real(c[1]), real(c[2]), real(decay)
    rest1, rest2 = real(1.0 - beta1), real(1.0 - beta2)
    beta1, beta2 = real(beta1), real(beta2)
    for i in range(p.size):
        x = g[i] + decay * p[i]
        v[i] = beta2 * v[i] + rest2 * (x * x)
        m[i] = beta1 * m[i] + rest1 * x
        p[i] = keep * p[i] - step_size * (m[i] / (math.sqrt(v[i]) + eps))


@kernel
def lion(p, g, c, decay, m, beta1, beta2):
    real = p.dtype.type
    step_size, keep = real(c[0]), real(c[2])
    rest1, rest2 = real(1.0 - beta1), real(1.0 - beta2)
    beta1, beta2 = real(beta1), real(beta2)
    for i in range(p.size):
        x = g[i]
        p[i] = keep * p[i] - step_size * np.sign(beta1 * m[i] + rest1 * x)
        m[i] = beta2 * m[i] + rest2 * x


Slots = Mapping[str, Array]


def _sgd(o: SGD, slots: Slots, none: Array) -> tuple[Any, ...]:
    return slots.get("v", none), o.momentum, o.nesterov


def _rmsprop(o: RMSProp, slots: Slots, none: Array) -> tuple[Any, ...]:
    m, v = slots.get("m", none), slots.get("v", none)
    return slots["r"], m, v, o.alpha, o.eps, o.momentum


def _adagrad(o: Adagrad, slots: Slots, none: Array) -> tuple[Any, ...]:
    return slots["r"], o.eps


def _adam(o: Adam, slots: Slots, none: Array) -> tuple[Any, ...]:
    return slots["m"], slots["v"], o.beta1, o.beta2


def _lion(o: Lion, slots: Slots, none: Array) -> tuple[Any, ...]:
    return slots["m"], o.beta1, o.beta2


# rule -> kernel, what makes its last arguments, whether weight decay is part of the gradient
RULES: dict[type[Optimizer], tuple[Any, Callable[..., tuple[Any, ...]], bool]] = {
    SGD: (sgd, _sgd, True),
    RMSProp: (rmsprop, _rmsprop, True),
    Adagrad: (adagrad, _adagrad, True),
    Adam: (adam, _adam, True),
    AdamW: (adam, _adam, False),
    Lion: (lion, _lion, False),
}


def make_update(
    optimizer: Optimizer, params: Array, grad: Array, slots: tuple[Array, ...]
) -> Callable[[Coefficients], None]:
    """Return the update of these vectors, in place, as a function of the coefficients."""
    function, last, coupled = RULES[type(optimizer)]
    arguments = last(optimizer, dict(zip(optimizer.slots, slots, strict=True)), params[:0])
    decay = optimizer.weight_decay if coupled else 0.0

    def apply(c: Coefficients) -> None:
        function(params, grad, (c.step_size, c.eps, c.keep), decay, *arguments)

    return apply
