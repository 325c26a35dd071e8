"""Activations and dropout, forward and backward: xpnet.ops, with the bias and its gradient fused.

Matrices (N, J) are contiguous, and results may overwrite their inputs.
"""

import math

import numpy as np

from xpnet.kernels.cpu.compiled import kernel
from xpnet.nn import (
    ELU,
    GELU,
    SELU,
    Activation,
    GELUTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from xpnet.ops.activations import SELU_ALPHA, SELU_SCALE

__all__ = ["KINDS", "activation", "activation_backward", "column_sums", "dropout"]

# `_f` and `_df` know an activation by its index here.
KINDS: tuple[type[Activation], ...] = (
    Identity, ReLU, LeakyReLU, Sigmoid, Tanh, GELU, GELUTanh, SiLU, Softplus, ELU, SELU,
)  # fmt: skip
IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, GELU_ERF, GELU_TANH, SILU, SOFTPLUS, ELU_, SELU_ = range(
    len(KINDS)
)
ROOT_HALF, ROOT_2_PI = math.sqrt(0.5), math.sqrt(2.0 / math.pi)
ROOT_1_2PI = 1.0 / math.sqrt(2.0 * math.pi)


@kernel
def sigmoid(z):
    one = type(z)(1.0)
    e = math.exp(-abs(z))
    return (one if z >= 0 else e) / (one + e)


@kernel
def softplus(z):
    e = math.log1p(math.exp(-abs(z)))
    return e if z <= 0 else z + e  # a NaN takes the second branch


@kernel
def _f(kind, z, s):
    """a = f(z); ``s`` is the activation's setting."""
    real = type(z)
    half, one = real(0.5), real(1.0)
    if kind == LEAKY_RELU:
        return z if z > 0 else s * z
    if kind == SIGMOID:
        return sigmoid(z)
    if kind == TANH:
        return math.tanh(z)
    if kind == GELU_ERF:
        return z * (half * (one + math.erf(z * real(ROOT_HALF))))
    if kind == GELU_TANH:
        return half * z * (one + math.tanh(real(ROOT_2_PI) * (z + real(0.044715) * z * z * z)))
    if kind == SILU:
        return z * sigmoid(z)
    if kind == SOFTPLUS:
        return softplus(z)
    if kind == ELU_:
        return z if z > 0 else s * math.expm1(z)
    if kind == SELU_:
        return real(SELU_SCALE) * (z if z > 0 else real(SELU_ALPHA) * math.expm1(z))
    return z


@kernel
def _df(kind, x, s):
    """f' from what the activation keeps: a for sigmoid and tanh, z for the others."""
    real = type(x)
    half, one = real(0.5), real(1.0)
    if kind == LEAKY_RELU:
        return one if x > 0 else s
    if kind == SIGMOID:
        return x * (one - x)
    if kind == TANH:
        return one - x * x
    if kind == GELU_ERF:
        density = math.exp(-half * x * x) * real(ROOT_1_2PI)
        return half * (one + math.erf(x * real(ROOT_HALF))) + x * density
    if kind == GELU_TANH:
        t = math.tanh(real(ROOT_2_PI) * (x + real(0.044715) * x * x * x))
        slope = real(ROOT_2_PI) * (one + real(3.0 * 0.044715) * x * x)
        return half * (one + t) + half * x * (one - t * t) * slope
    if kind == SILU:
        a = sigmoid(x)
        return a * (one + x * (one - a))
    if kind == SOFTPLUS:
        return sigmoid(x)
    if kind == ELU_:
        return one if x > 0 else s * math.exp(x)
    if kind == SELU_:
        return real(SELU_SCALE) * (one if x > 0 else real(SELU_ALPHA) * math.exp(x))
    return one


@kernel
def activation(kind, z, b, a, s):
    """z += b unless b (J,) is empty, and a = f(z). For ReLU and Identity a is z."""
    N, J = z.shape
    zero = z.dtype.type(0.0)
    if kind == RELU and len(b) > 0:
        for n in range(N):
            for j in range(J):
                v = z[n, j] + b[j]
                z[n, j] = zero if v <= zero else v  # a NaN stays a NaN
        return
    if len(b) > 0:
        for n in range(N):
            for j in range(J):
                z[n, j] += b[j]
    if kind == RELU:
        for n in range(N):
            for j in range(J):
                v = z[n, j]
                z[n, j] = zero if v <= zero else v
    elif kind != IDENTITY:
        for n in range(N):
            for j in range(J):
                a[n, j] = _f(kind, z[n, j], s)


@kernel
def activation_backward(kind, dy, kept, db, s):
    """dy *= f', in place, and db = Σ_n dy_n unless db (J,) is empty."""
    N, J = dy.shape
    zero = dy.dtype.type(0.0)
    if kind == RELU and len(db) > 0:
        db[:] = zero
        for n in range(N):
            for j in range(J):
                v = dy[n, j] if kept[n, j] > zero else zero
                dy[n, j] = v
                db[j] += v
        return
    if kind == RELU:
        for n in range(N):
            for j in range(J):
                dy[n, j] = dy[n, j] if kept[n, j] > zero else zero
    elif kind != IDENTITY:
        for n in range(N):
            for j in range(J):
                dy[n, j] *= _df(kind, kept[n, j], s)
    if len(db) > 0:
        column_sums(dy, db)


@kernel
def column_sums(dy, db):
    """db_j = Σ_n dy_nj."""
    N, J = dy.shape
    db[:] = dy.dtype.type(0.0)
    for n in range(N):
        for j in range(J):
            db[j] += dy[n, j]


@kernel
def _mix(h):
    """The mixer of xpnet.ops.dropout on unsigned integers: the same bits."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))


@kernel
def dropout(x, y, keys, threshold, scale):
    """y = x m / (1 - p), m by position as in xpnet.ops.dropout; all flat, y may be x."""
    first, second = np.uint32(keys[0]), np.uint32(keys[1])
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        h = _mix(np.uint32(_mix(np.uint32(i) ^ first) + second))
        y[i] = x[i] * (scale if (h >> np.uint32(8)) >= threshold else zero)
