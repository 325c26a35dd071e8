"""Finite differences: the oracle that knows nothing of the formulas."""

import numpy as np


def numerical_gradient(f, x, eps=1e-6):
    """Central differences of a scalar function of one float64 array, entry by entry."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += eps
        down[index] -= eps
        gradient[index] = (f(up) - f(down)) / (2 * eps)
    return gradient


def numerical_jvp(f, x, v, eps=1e-6):
    """Central difference of an array function along v."""
    return (f(x + eps * v) - f(x - eps * v)) / (2 * eps)
