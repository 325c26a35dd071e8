"""The kernels for NumPy, compiled by Numba: the loops of xpnet/kernels/cuda on one core.

They run beside a BLAS that has the cores for itself: a second pool of threads would fight it. An
array of no elements stands for one that is not there, so that each kernel is compiled once for
each floating type.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from xpnet.kernels.cuda.executor import CaptureError
from xpnet.kernels.cuda.sources import signatures
from xpnet.typing import Array

__all__ = ["NumbaExecutor"]

Call = Callable[[], None]

# Sums may be taken in another order and products fused; NaN and infinity keep their meaning.
kernel = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})

IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, GELU, GELU_TANH, SILU, SOFTPLUS, ELU, SELU = range(11)
SQUARED_ERROR, HUBER, BINARY_CROSS_ENTROPY = range(3)
MEAN, MEAN_COUNT, SUM = range(3)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848, 1.0507009873554804935
CUBIC, SQRT_2_OVER_PI = 0.044715, math.sqrt(2.0 / math.pi)
INV_SQRT_2PI, SQRT_HALF = 1.0 / math.sqrt(2.0 * math.pi), math.sqrt(0.5)


@intrinsic
def store(typing_context, address, value):
    """Write a number to an address, of which the kernel has been told as an integer."""

    def generate(context, builder, signature, arguments):
        where, number = arguments
        pointer = context.get_value_type(signature.args[1]).as_pointer()
        builder.store(number, builder.inttoptr(where, pointer))
        return context.get_dummy_value()

    return types.void(types.uint64, value), generate


@kernel
def sigmoid(z):
    e = math.exp(-abs(z))
    return 1 / (1 + e) if z >= 0 else e / (1 + e)


@kernel
def softplus(z):
    tail = math.log1p(math.exp(-abs(z)))
    return tail if z < 0 else z + tail


@kernel
def elu(z, alpha):
    return z if z > 0 else alpha * math.expm1(z)


@kernel
def normal_cdf(z):
    return 0.5 * (1 + math.erf(z * SQRT_HALF))


@kernel
def activate(kind, z, p):
    if kind == LEAKY_RELU:
        return z if z > 0 else p * z
    if kind == SIGMOID:
        return sigmoid(z)
    if kind == TANH:
        return math.tanh(z)
    if kind == GELU:
        return z * normal_cdf(z)
    if kind == GELU_TANH:
        return 0.5 * z * (1 + math.tanh(SQRT_2_OVER_PI * (z + CUBIC * z * z * z)))
    if kind == SILU:
        return z * sigmoid(z)
    if kind == SOFTPLUS:
        return softplus(z)
    if kind == ELU:
        return elu(z, p)
    if kind == SELU:
        return SELU_SCALE * elu(z, SELU_ALPHA)
    return z


@kernel
def slope(kind, kept, p):
    """f'(z) from the output (SIGMOID, TANH) or the input (the others)."""
    if kind == LEAKY_RELU:
        return 1.0 if kept > 0 else p
    if kind == SIGMOID:
        return kept * (1 - kept)
    if kind == TANH:
        return 1 - kept * kept
    if kind == GELU:
        return normal_cdf(kept) + kept * INV_SQRT_2PI * math.exp(-0.5 * kept * kept)
    if kind == GELU_TANH:
        t = math.tanh(SQRT_2_OVER_PI * (kept + CUBIC * kept * kept * kept))
        du = SQRT_2_OVER_PI * (1 + 3 * CUBIC * kept * kept)
        return 0.5 * (1 + t) + 0.5 * kept * (1 - t * t) * du
    if kind == SILU:
        s = sigmoid(kept)
        return s * (1 + kept * (1 - s))
    if kind == SOFTPLUS:
        return sigmoid(kept)
    if kind == ELU:
        return 1.0 if kept > 0 else p * math.exp(kept)
    if kind == SELU:
        return SELU_SCALE * (1.0 if kept > 0 else SELU_ALPHA * math.exp(kept))
    return 1.0


@kernel
def bias_activation(z, bias, a, kind, n, J, p):
    zero = z.dtype.type(0)
    for first in range(0, n, J):
        zn, an = z[first : first + J], a[first : first + J]
        if bias.size > 0:
            for j in range(J):
                zn[j] += bias[j]
        if kind == RELU:  # a loop of its own, which becomes vector instructions
            for j in range(J):
                an[j] = zero if zn[j] < zero else zn[j]
        elif kind == IDENTITY:
            for j in range(J):
                an[j] = zn[j]
        else:
            for j in range(J):
                an[j] = activate(kind, zn[j], p)


@kernel
def activation_backward(da, kept, db, kind, N, J, rows, p):
    zero = da.dtype.type(0)
    if db.size > 0:
        db[:] = zero
    for first in range(0, N * J, J):
        dn, kn = da[first : first + J], kept[first : first + J]
        if kind == RELU:
            for j in range(J):
                dn[j] = dn[j] if kn[j] > zero else zero
        elif kind != IDENTITY:
            for j in range(J):
                dn[j] *= slope(kind, kn[j], p)
        if db.size > 0:
            for j in range(J):
                db[j] += dn[j]


@kernel
def mix(h):
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))


@kernel
def dropout(x, y, keys, n, threshold, scale):
    first, second, zero = np.uint32(keys[0]), np.uint32(keys[1]), x.dtype.type(0)
    for i in range(n):
        h = mix(np.uint32(mix(np.uint32(i) ^ first) + second)) >> np.uint32(8)
        y[i] = x[i] * (scale if np.int32(h) >= threshold else zero)


@kernel
def softmax_cross_entropy(
    z, bias, dz, labels, rows, class_weights, weights, sums, N, K, kept, uniform, ignores, ignored
):
    sums[:] = 0
    for n in range(N):
        zn, dn = z[n * K : (n + 1) * K], dz[n * K : (n + 1) * K]
        label = labels[n] if labels.size > 0 else -1
        counted = 0.0 if labels.size > 0 and ignores != 0 and label == ignored else 1.0
        weight = weights[n] if weights.size > 0 else 1.0
        if bias.size > 0:
            for k in range(K):
                zn[k] += bias[k]
        top, wanted = 0, label
        for k in range(1, K):
            # argmax takes the first of the largest, and a NaN for the largest
            if zn[k] > zn[top] or (zn[k] != zn[k] and zn[top] == zn[top]):
                top = k
        if rows.size > 0:
            wanted = 0
            for k in range(1, K):
                if rows[n * K + k] > rows[n * K + wanted]:
                    wanted = k
        largest, sum_exp = zn[top], z.dtype.type(0)
        for k in range(K):
            sum_exp += math.exp(zn[k] - largest)
        log_sum = math.log(sum_exp)
        sum_v, sum_y, sum_wy, loss = 0.0, 0.0, 0.0, 0.0
        for k in range(K):
            y = rows[n * K + k] if rows.size > 0 else (1.0 if k == label else 0.0)
            v = (kept * y + uniform) * counted * weight
            sum_y += y
            if class_weights.size > 0:
                v *= class_weights[k]
                sum_wy += y * class_weights[k]
            log_a = zn[k] - largest - log_sum
            if v != 0:
                loss -= v * log_a
            sum_v += v
            dn[k] = log_a
        for k in range(K):
            y = rows[n * K + k] if rows.size > 0 else (1.0 if k == label else 0.0)
            v = (kept * y + uniform) * counted * weight
            if class_weights.size > 0:
                v *= class_weights[k]
            dn[k] = math.exp(dn[k]) * sum_v - v
        of_class = sum_wy / (1.0 if sum_y == 0 else sum_y) if class_weights.size > 0 else 1.0
        sums[0] += loss
        sums[1] += counted * of_class * weight
        sums[2] += counted if top == wanted else 0.0
        sums[3] += counted


@kernel
def elementwise_loss(z, bias, dz, y, weights, sums, kind, N, J, p):
    sums[:] = 0
    for i in range(N * J):
        value = z[i] + bias[i % J] if bias.size > 0 else z[i]
        weight = weights[i // J] if weights.size > 0 else z.dtype.type(1)
        if kind == BINARY_CROSS_ENTROPY:
            e = p * y[i] * softplus(-value) + (1 - y[i]) * softplus(value)
            de = (1 - y[i]) * sigmoid(value) - p * y[i] * sigmoid(-value)
        else:
            r = value - y[i]
            size = abs(r)
            if kind == HUBER:
                inner = p if size > p else size
                e = inner * (size - 0.5 * inner)
                de = min(max(r, -p), p) if r == r else r
            else:
                e, de = r * r, 2 * r
        dz[i] = de * weight
        sums[0] += e * weight
        sums[1] += weight
        sums[2] += 1.0 if (value > 0) == (y[i] > 0.5) else 0.0
        sums[3] += 1.0


@kernel
def finish_loss(
    sums, blocks, reduction, has_hits, denominator, loss, D, hits, count, bad_step, step, cost_at
):
    d = sums.dtype.type(1)
    if reduction != SUM:
        d = sums[1] if reduction == MEAN else sums[3]
    loss[0] += sums[0]
    D[0] += d
    if has_hits != 0:
        hits[0] += sums[2]
        count[0] += sums[3]
    if not math.isfinite(sums[0]) and bad_step[0] < 0:
        bad_step[0] = step[0]
    denominator[0] = sums.dtype.type(1) if d == 0 else d
    store(cost_at[0], sums.dtype.type(sums[0] / denominator[0]))


@kernel
def squared_norm(g, denominator, limit, partial_sums, n):
    total, scale = g.dtype.type(0), g.dtype.type(1) / denominator[0]
    for i in range(n):
        x = g[i] * scale
        if limit > 0:
            x = min(max(x, -limit), limit)
        total += x * x
    partial_sums[0] = total


@kernel
def clip_factor(partial_sums, blocks, max_norm, factor):
    f = max_norm / (math.sqrt(partial_sums[0]) + 1e-6)
    factor[0] = 1.0 if f > 1 else f


@kernel
def finish_gradient(p, g, denominator, limit, factor, decay, n):
    """The gradient of the loss from that of the sum, where it is clipped or decays."""
    one = g.dtype.type(1)
    scale = one / denominator[0]
    more = factor[0] if factor.size > 0 else one
    for i in range(n):
        x = g[i] * scale
        if limit > 0:
            x = min(max(x, -limit), limit) if x == x else x
        g[i] = x * more + decay * p[i]
    denominator[0] = one


@kernel
def sgd(p, g, denominator, c, n, v, momentum, nesterov):
    lr, scale = c[0], g.dtype.type(1) / denominator[0]
    if v.size == 0:
        lr *= scale
        for i in range(n):
            p[i] -= lr * g[i]
    else:
        for i in range(n):
            gi = g[i] * scale
            v[i] = momentum * v[i] + gi
            p[i] -= lr * (gi + momentum * v[i] if nesterov != 0 else v[i])


@kernel
def rmsprop(p, g, denominator, c, n, r, m, v, alpha, rest, eps, momentum):
    zero = g.dtype.type(0)
    lr, scale = c[0], g.dtype.type(1) / denominator[0]
    for i in range(n):
        gi = g[i] * scale
        r[i] = alpha * r[i] + rest * (gi * gi)
        variance = r[i]
        if m.size > 0:
            m[i] = alpha * m[i] + rest * gi
            variance -= m[i] * m[i]
            variance = max(variance, zero) if variance == variance else variance
        step = gi / (math.sqrt(variance) + eps)
        if v.size > 0:
            v[i] = momentum * v[i] + step
            step = v[i]
        p[i] -= lr * step


@kernel
def adagrad(p, g, denominator, c, n, r, eps):
    lr, scale = c[0], g.dtype.type(1) / denominator[0]
    for i in range(n):
        gi = g[i] * scale
        r[i] += gi * gi
        p[i] -= lr * (gi / (math.sqrt(r[i]) + eps))


@kernel
def adam(p, g, denominator, c, n, m, v, beta1, rest1, beta2, rest2):
    lr, eps, keep = c[0], c[1], c[2]
    scale = g.dtype.type(1) / denominator[0]
    for i in range(n):
        gi = g[i] * scale
        v[i] = beta2 * v[i] + rest2 * (gi * gi)
        m[i] = beta1 * m[i] + rest1 * gi
        p[i] = keep * p[i] - lr * (m[i] / (math.sqrt(v[i]) + eps))


@kernel
def lion(p, g, denominator, c, n, m, beta1, rest1, beta2, rest2):
    lr, keep = c[0], c[2]
    scale, one = g.dtype.type(1) / denominator[0], g.dtype.type(1)
    for i in range(n):
        gi = g[i] * scale
        u = beta1 * m[i] + rest1 * gi
        sign = one if u > 0 else (-one if u < 0 else u)
        p[i] = keep * p[i] - lr * sign
        m[i] = beta2 * m[i] + rest2 * gi


@kernel
def column_sums(x, out, S, J):
    out[:] = 0
    for s in range(S):
        xs = x[s * J : (s + 1) * J]
        for j in range(J):
            out[j] += xs[j]


UPDATES = {"sgd": sgd, "rmsprop": rmsprop, "adagrad": adagrad, "adam": adam, "lion": lion}
KERNELS = {
    "bias_activation": bias_activation,
    "activation_backward": activation_backward,
    "column_sums": column_sums,
    "dropout": dropout,
    "softmax_cross_entropy": softmax_cross_entropy,
    "elementwise_loss": elementwise_loss,
    "finish_loss": finish_loss,
    "squared_norm": squared_norm,
    "clip_factor": clip_factor,
    **UPDATES,
}


class NumbaExecutor:
    """NumPy arrays, Numba kernels, and products by NumPy's BLAS into static buffers."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._absent = {name: np.empty(0, name) for name in ("int32", "uint64", dtype)}

    def active(self) -> AbstractContextManager:
        return nullcontext()

    def owns(self, x: Any) -> bool:
        return isinstance(x, np.ndarray) and x.flags.c_contiguous and x.flags.writeable

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        # Zeros, so that what looks at a buffer before the first step sees numbers.
        return np.zeros(shape, dtype)

    def place(self, host: np.ndarray) -> Array:
        return host

    def to_host(self, x: Array) -> np.ndarray:
        return np.array(x)

    def address(self, x: Array) -> int:
        return x.__array_interface__["data"][0]

    def copy(self, target: Array, x: Array) -> None:
        np.copyto(target, x)

    def launch(self, kernel: str, grid: tuple[int, int], block: int, *given: Any) -> Call:
        if kernel == "set_step":
            return partial(_set_step, *given)
        if kernel == "set_keys":
            return partial(_set_keys, *given)
        parameters = signatures()[kernel]
        arrays = [self._argument(p, x) for p, x in zip(parameters, given, strict=True)]
        if kernel not in UPDATES:
            return partial(KERNELS[kernel], *arrays)
        p, g, denominator, limit, factor, decay, c, n, *last = arrays
        update = partial(UPDATES[kernel], p, g, denominator, c, n, *last)
        if limit == 0 and factor.size == 0 and decay == 0:
            return update
        finish = partial(finish_gradient, p, g, denominator, limit, factor, decay, n)

        def both() -> None:
            finish()
            update()

        return both

    def _argument(self, parameter: Any, x: Any) -> Any:
        dtype = self.dtype if parameter.dtype == "real" else parameter.dtype
        if not parameter.pointer:
            return np.dtype(dtype).type(x) if dtype == self.dtype else int(x)
        return self._absent[dtype] if x is None else x.reshape(-1)

    def product(self, a: Array, b: Array, out: Array) -> Call:
        return partial(np.matmul, a, b, out=out)

    def capture(self, work: Call) -> Call:
        msg = "there are no graphs on a CPU"
        raise CaptureError(msg)


def _set_step(  # the kernel's arguments
    c: Array, step: Array, cost_at: Array, lr: float, eps: float, keep: float, now: Any, cost: int
) -> None:
    c[0], c[1], c[2] = lr, eps, keep
    step[0], cost_at[0] = now, cost


def _set_keys(keys: Array, first: int, second: int) -> None:
    keys[0], keys[1] = first, second
