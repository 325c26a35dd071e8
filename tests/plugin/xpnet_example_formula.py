"""The smallest formula of a third party: an activation."""

import xpnet

__all__ = ["Cube"]


@xpnet.register("cube")
class Cube(xpnet.Activation):
    """a = z³."""

    def value(self, z):
        """Return z³."""
        return z * z * z

    def backward_value(self, da, z):
        """Return 3 z² da."""
        return da * 3.0 * z * z
