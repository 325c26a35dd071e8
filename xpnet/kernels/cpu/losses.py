"""Losses with their gradients: xpnet.nn.losses, the bias of the last layer and the totals fused.

``sums`` (SUMS,) has the four totals of xpnet.step.Totals and then C, the loss of this batch.
"""

import math

import numpy as np

from xpnet.kernels.cpu.compiled import kernel
from xpnet.kernels.cpu.elements import sigmoid, softplus
from xpnet.nn.losses import BinaryCrossEntropy, Huber, Loss, MeanSquaredError

__all__ = ["ELEMENTWISE", "REDUCTIONS", "SUMS", "elementwise_loss", "softmax_cross_entropy"]

REDUCTIONS = {"mean": 0, "mean_count": 1, "sum": 2}
ELEMENTWISE: dict[type[Loss], int] = {MeanSquaredError: 0, Huber: 1, BinaryCrossEntropy: 2}
MEAN, MEAN_COUNT = REDUCTIONS["mean"], REDUCTIONS["mean_count"]
HUBER, BINARY_CROSS_ENTROPY = ELEMENTWISE[Huber], ELEMENTWISE[BinaryCrossEntropy]
LOSS, DENOMINATOR, CORRECT, COUNT, COST, SUMS = range(6)


@kernel
def _add_bias(z, b):
    if len(b) > 0:
        for n in range(z.shape[0]):
            for k in range(z.shape[1]):
                z[n, k] += b[k]


@kernel
def _first_largest(x):
    """argmax: the first of equals, and a NaN is the largest."""
    best = 0
    for k in range(1, len(x)):
        if x[best] == x[best] and not x[k] <= x[best]:
            best = k
    return best


@kernel
def _finish(dz, reduction, loss, weights, count, sums):
    """Add Σ ℓ and D to the totals, set C, and divide dz by D."""
    one = dz.dtype.type(1.0)
    D = weights if reduction == MEAN else count if reduction == MEAN_COUNT else one
    sums[LOSS] += loss
    sums[DENOMINATOR] += D
    D = one if D == 0 else D
    sums[COST] = loss / D
    if D != 1.0:
        for n in range(dz.shape[0]):
            for k in range(dz.shape[1]):
                dz[n, k] /= D


@kernel
def softmax_cross_entropy(
    z, b, dz, labels, rows, class_weights, weight, ignores, ignored, smoothing, reduction, sums
):
    """dz (N, K) from logits z (N, K), after adding the bias b (K,); dz may be z.

    Targets are ``labels`` (N,) or ``rows`` (N, K); ``class_weights`` is (K,), ``weight`` (N,).
    An array that does not apply is empty.
    """
    N, K = z.shape
    real = z.dtype.type
    zero, one = real(0.0), real(1.0)
    kept, uniform = real(1.0 - smoothing), real(smoothing / K)
    loss, weights, correct, count = zero, zero, zero, zero
    _add_bias(z, b)
    by_label, weighted = len(rows) == 0, len(class_weights) > 0
    alone = by_label and not weighted and uniform == zero  # v is 0 for all but the label
    for n in range(N):
        top = _first_largest(z[n])
        peak, sum_exp = z[n, top], zero
        label = labels[n] if by_label else _first_largest(rows[n])
        counted = zero if by_label and ignores and label == ignored else one
        factor = counted * weight[n] if len(weight) > 0 else counted
        sum_v, sum_vz, sum_y, sum_wy = zero, zero, zero, zero
        if alone:
            sum_v = factor if 0 <= label < K else zero
            sum_vz = sum_v * (z[n, label] - peak) if sum_v != 0 else zero
        else:
            for k in range(K):
                y = (one if k == label else zero) if by_label else rows[n, k]
                w = class_weights[k] if weighted else one
                v = (kept * y + uniform) * w * factor
                sum_vz += v * (z[n, k] - peak) if v != 0 else zero  # 0 times -inf would be NaN
                sum_v += v
                sum_y += y
                sum_wy += w * y
        for k in range(K):
            dz[n, k] = math.exp(z[n, k] - peak)
            sum_exp += dz[n, k]
        scale = sum_v / sum_exp
        for k in range(K):
            dz[n, k] *= scale
        if not alone:
            for k in range(K):
                y = (one if k == label else zero) if by_label else rows[n, k]
                w = class_weights[k] if weighted else one
                dz[n, k] -= (kept * y + uniform) * w * factor
        elif sum_v != 0:
            dz[n, label] -= sum_v
        loss += math.log(sum_exp) * sum_v - sum_vz
        weights += factor * sum_wy / (one if sum_y == 0 else sum_y) if weighted else factor
        correct += counted if top == label else zero
        count += counted
    sums[CORRECT] += correct
    sums[COUNT] += count
    _finish(dz, reduction, loss, weights, count, sums)


@kernel
def _element(kind, z, y, p):
    """e and de/dz; p is the delta of Huber's loss or the positive weight of the binary one."""
    real = type(z)
    half, one, two = real(0.5), real(1.0), real(2.0)
    if kind == BINARY_CROSS_ENTROPY:
        e = p * y * softplus(-z) + (one - y) * softplus(z)
        return e, (one - y) * sigmoid(z) - p * y * sigmoid(-z)
    r = z - y
    if kind == HUBER:
        size = abs(r)
        inner = p if size > p else size
        return inner * (size - half * inner), -p if r < -p else inner if r > p else r
    return r * r, two * r


@kernel
def elementwise_loss(kind, z, b, dz, y, weight, p, reduction, sums):
    """dz (N, J) from outputs z (N, J), after adding the bias b (J,); dz may be z.

    Targets y are (N, J); ``weight`` (N,) may be empty.
    """
    N, J = z.shape
    real = z.dtype.type
    zero, one, p = real(0.0), real(1.0), real(p)
    loss, weights, correct = zero, zero, zero
    _add_bias(z, b)
    for n in range(N):
        s = weight[n] if len(weight) > 0 else one
        for j in range(J):
            e, de = _element(kind, z[n, j], y[n, j], p)
            correct += one if (z[n, j] > zero) == (y[n, j] > real(0.5)) else zero
            loss += e * s
            dz[n, j] = de * s
        weights += s * real(J)
    count = real(np.float64(N) * J)
    if kind == BINARY_CROSS_ENTROPY:
        sums[CORRECT] += correct
        sums[COUNT] += count
    _finish(dz, reduction, loss, weights, count, sums)
