"""A file of somebody else's: an activation, a loss and an update rule, each of them one class."""

from typing import NamedTuple

from array_api_compat import array_namespace

import xpnet
from xpnet.ops import sigmoid, softplus


@xpnet.register("own_mish")
class OwnMish(xpnet.Activation):
    """a = z tanh(softplus(sharpness z))."""

    sharpness: float = 1.0
    formula = "z_nj tanh(softplus(β z_nj))", "t_nj + β z_nj (1 - t_nj²) σ(β z_nj)"

    def value(self, z):
        xp = array_namespace(z)
        return z * xp.tanh(softplus(self.sharpness * z))

    def backward_value(self, da, z):
        xp = array_namespace(z)
        inner = self.sharpness * z
        t = xp.tanh(softplus(inner))
        return da * (t + inner * (1.0 - t * t) * sigmoid(inner))


@xpnet.register("own_hinge")
class OwnHinge(xpnet.ElementwiseLoss):
    """e = max(margin - s z, 0), s = 1 where y > 0.5, else -1."""

    margin: float = 1.0
    predicts = "binary"

    def value(self, z, y):
        xp = array_namespace(z)
        return xp.maximum(self.margin - xp.where(y > 0.5, z, -z), 0.0)

    def backward_value(self, z, y):
        xp = array_namespace(z)
        inside = xp.where(y > 0.5, z, -z) < self.margin
        return xp.where(inside, 1.0 - 2.0 * y, 0.0)

    def predict(self, output):
        return sigmoid(output)


class Numbers(NamedTuple):
    """What changes from one update to the next."""

    rate: float
    fresh: float


@xpnet.register("own_adadelta")
class OwnAdadelta(xpnet.Optimizer):
    """Adadelta whose averages are corrected for their start at 0."""

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-3

    @property
    def slots(self):
        return ("r", "d")

    def coefficients(self, lr, t):
        return Numbers(lr, 1.0 / (1.0 - self.rho**t))

    def update(self, params, grad, slots, c):
        xp = array_namespace(params)
        r, d = slots
        r *= self.rho
        r += (1.0 - self.rho) * grad * grad
        step = grad * xp.sqrt(c.fresh * d + self.eps) / xp.sqrt(c.fresh * r + self.eps)
        d *= self.rho
        d += (1.0 - self.rho) * step * step
        params -= c.rate * step
        return params, (r, d)
