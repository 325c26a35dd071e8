"""What several kernels have in common. Numba compiles these anew into each kernel that calls them.

None is cached by itself: a kernel's bits would depend on whether it was.
"""

import numpy as np
from numba import njit

__all__ = [
    "CORRECT",
    "COST",
    "COUNT",
    "DENOMINATOR",
    "LOSS",
    "OPTIONS",
    "SUMS",
    "add_up",
    "finish",
    "first_largest",
    "give",
    "mix",
]

# What a loss adds up: the totals of xpnet.step.Totals, and then C, the loss of this batch.
LOSS, DENOMINATOR, CORRECT, COUNT, COST, SUMS = range(6)

# Sums may be reordered and products fused, but a NaN or an infinity stays what it is.
OPTIONS = {"error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
part = njit(**OPTIONS)


@part
def give(gradient, out, J, pair):
    """out = β out + α gradient; with β = 0 ``out`` may be uninitialised."""
    real = type(gradient[0])
    alpha, beta = real(pair[0]), real(pair[1])
    for j in range(J):
        old = real(0.0) if beta == real(0.0) else beta * out[j]
        out[j] = old + alpha * gradient[j]


@part
def first_largest(x, start, K):
    """argmax of K entries: the first of equals, and a NaN is the largest."""
    best = 0
    for k in range(1, K):
        top = x[start + best]
        if top == top and not x[start + k] <= top:
            best = k
    return best


@part
def add_up(D, loss, sums):
    """Add Σ ℓ and D to the sums."""
    sums[LOSS] += loss
    sums[DENOMINATOR] += D


@part
def finish(dz, size, D, loss, sums):
    """Add Σ ℓ and D to the totals, set C, and divide dz by D."""
    one = type(D)(1.0)
    add_up(D, loss, sums)
    D = one if D == 0 else D
    sums[COST] = loss / D
    if one != D:
        for i in range(size):
            dz[i] /= D


@part
def mix(h):
    """The mixer of xpnet.ops.dropout on unsigned integers: the same bits."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))
