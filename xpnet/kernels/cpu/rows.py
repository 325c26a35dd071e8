"""Kernels written by hand, each for the reason in its docstring: their text is printed as it is.

They see one row of a program (memory.ROW): ``size``, ``vector``, ``number`` and the like read it,
``real`` is the dtype. A name in capitals is a choice that is made when the text is printed.
"""

# ruff: noqa: F821 - the names that compiled.HEADER and `chosen` define
# mypy: ignore-errors

import re

from xpnet.kernels.cpu.compiled import text_of
from xpnet.kernels.cpu.loops import Loop

__all__ = [
    "GIVE",
    "PRODUCT",
    "batch_norm_backward",
    "batch_norm_gradients",
    "batch_norm_output",
    "batch_norm_squares",
    "batch_norm_sums",
    "chosen",
    "dropout",
    "softmax_cross_entropy",
    "summed",
]


def product(row):
    """C = α A B + β C for contiguous C (M, N), A (M, K) and B (K, N). Arrays: A, B, C, (α, β).

    NumPy's BLAS does it; ``sizes`` are M, N, K, whether A or B is stored transposed, and its
    address.
    """
    M, N, K = size(row, 0), size(row, 1), size(row, 2)
    ta, tb, pair = size(row, 3), size(row, 4), doubles(row, 3)
    call_gemm(
        size(row, 5), TRANSPOSED if ta else PLAIN, TRANSPOSED if tb else PLAIN, M, N, K,
        real(pair[0]), address(row, 0), M if ta else K, address(row, 1), K if tb else N,
        real(pair[1]), address(row, 2), N,
    )  # fmt: skip


def dropout(row):
    """y = x m / (1 - p), m by position as in xpnet.ops.dropout. Arrays: x, y, keys.

    ``sizes`` are N, J, the threshold, and of the N rows where the first is in the batch and how far
    apart they are there. By hand: its integers are not of the array API.
    """
    N, J, threshold = size(row, 0), size(row, 1), size(row, 2)
    start, stride = size(row, 3), size(row, 4)
    x, y, keys = vector(row, 0), vector(row, 1), integers(row, 2)
    scale, zero = number(row, 0), real(0.0)
    first, second = np.uint32(keys[0]), np.uint32(keys[1])
    for n in range(N):
        at, begin = n * J, (start + n * stride) * J
        for j in range(J):
            h = mix(np.uint32(mix(np.uint32(begin + j) ^ first) + second))
            y[at + j] = x[at + j] * (scale if (h >> np.uint32(8)) >= threshold else zero)


def softmax_cross_entropy(row):
    """dz (N, K) from logits z (N, K), after adding the bias b; dz may be z. Adds to the sums.

    Arrays: z, b, dz, labels (N,) or rows (N, K), weight (N,), class weights (K,), sums.
    By hand: the printed one takes 1.6 (K = 10) to 2.6 (K = 1000) times as long, exp twice.
    """
    N, K = size(row, 0), size(row, 1)
    z, b, dz, sums = vector(row, 0), vector(row, 1), vector(row, 2), vector(row, 6)
    labels, rows = integers(row, 3), vector(row, 3)
    weight, class_weights = vector(row, 4), vector(row, 5)
    zero, one = real(0.0), real(1.0)
    kept, uniform, ignored = number(row, 0), number(row, 1), size(row, 2)
    loss, weights, count, correct, scored = zero, zero, zero, zero, zero
    if BIAS:
        for n in range(N):
            for k in range(K):
                z[n * K + k] += b[k]
    for n in range(N):
        at = n * K
        top = first_largest(z, at, K)
        peak, sum_exp = z[at + top], zero
        label = labels[n] if BY_LABEL else first_largest(rows, at, K)
        counted = zero if IGNORES and label == ignored else one
        factor = counted * weight[n] if WEIGHTED else counted
        sum_v, sum_vz, sum_y, sum_wy = zero, zero, zero, zero
        if ALONE:  # v is 0 for all but the label
            sum_v = factor if 0 <= label < K else zero
            sum_vz = sum_v * (z[at + label] - peak) if sum_v != 0 else zero
        else:
            for k in range(K):
                y = (one if k == label else zero) if BY_LABEL else rows[at + k]
                w = class_weights[k] if CLASS_WEIGHTS else one
                v = (kept * y + uniform) * w * factor
                sum_vz += v * (z[at + k] - peak) if v != 0 else zero  # 0 times -inf would be NaN
                sum_v += v
                sum_y += y
                sum_wy += w * y
        for k in range(K):
            dz[at + k] = math.exp(z[at + k] - peak)
            sum_exp += dz[at + k]
        scale = sum_v / sum_exp
        for k in range(K):
            dz[at + k] *= scale
        if not ALONE:
            for k in range(K):
                y = (one if k == label else zero) if BY_LABEL else rows[at + k]
                w = class_weights[k] if CLASS_WEIGHTS else one
                dz[at + k] -= (kept * y + uniform) * w * factor
        elif sum_v != 0:
            dz[at + label] -= sum_v
        loss += math.log(sum_exp) * sum_v - sum_vz
        weights += factor * sum_wy / (one if sum_y == 0 else sum_y) if CLASS_WEIGHTS else factor
        count += counted
        correct += factor if top == label else zero
        scored += factor
    sums[CORRECT] += correct
    sums[COUNT] += scored
    if DIVIDED:
        finish(dz, N * K, DIVISOR, loss, sums)
    else:
        add_up(DIVISOR, loss, sums)


def summed(row):
    """Add the sums of a batch over all ranks to the totals, set C, and D for its gradient.

    Arrays: the sums (4,), the totals (SUMS,), D (1,). By hand: it is of numbers, not of arrays.
    """
    sums, totals, divisor = vector(row, 0), vector(row, 1), vector(row, 2)
    D, one = DIVISOR, real(1.0)
    totals[CORRECT] += sums[CORRECT]
    totals[COUNT] += sums[COUNT]
    divisor[0] = one if D == 0 else D
    finish(divisor, 0, D, sums[LOSS], totals)


def batch_norm_sums(row):
    """The sum of each column of x (R, J), and R: (2 J + 1,). Arrays: x, sums.

    By hand, as all of a batch normalisation: its sums are over the rows, along which memory is not
    contiguous. Between its kernels ranks that share the batch add up their sums: the number of all
    rows is then ROWS, else R.
    """
    R, J = size(row, 0), size(row, 1)
    x, sums = vector(row, 0), vector(row, 1)
    for j in range(J):
        sums[j] = real(0.0)
    sums[J] = real(R)
    for n in range(R):
        for j in range(J):
            sums[j] += x[n * J + j]


def batch_norm_squares(row):
    """The means, x minus them, and the sums of the squares of that. Arrays: x, x_hat, sums."""
    R, J = size(row, 0), size(row, 1)
    x, x_hat, sums = vector(row, 0), vector(row, 1), vector(row, 2)
    for j in range(J):
        sums[j] /= ROWS
        sums[J + 1 + j] = real(0.0)
    for n in range(R):
        for j in range(J):
            centred = x[n * J + j] - sums[j]
            x_hat[n * J + j] = centred
            sums[J + 1 + j] += centred * centred


def batch_norm_output(row):
    """x̂ and y = γ x̂ + β; moves the running mean and variance.

    Arrays: x_hat, y, gamma, beta, inv_std (J,), sums, running (2 J,).
    """
    R, J = size(row, 0), size(row, 1)
    x_hat, y = vector(row, 0), vector(row, 1)
    gamma, beta, inv_std = vector(row, 2), vector(row, 3), vector(row, 4)
    sums, running = vector(row, 5), vector(row, 6)
    eps, momentum = number(row, 0), number(row, 1)
    for j in range(J):
        sums[J + 1 + j] /= ROWS
        inv_std[j] = real(1.0) / math.sqrt(sums[J + 1 + j] + eps)
    for n in range(R):
        for j in range(J):
            h = x_hat[n * J + j] * inv_std[j]
            x_hat[n * J + j] = h
            y[n * J + j] = h * gamma[j] + beta[j]
    kept, unbiased = real(1.0) - momentum, real(ROWS) / real(max(ROWS - 1, 1))
    for j in range(J):
        running[j] = kept * running[j] + momentum * sums[j]
        running[J + j] = kept * running[J + j] + momentum * (sums[J + 1 + j] * unbiased)


def batch_norm_gradients(row):
    """dγ = Σ dy x̂ and dβ = Σ dy, over the rows. Arrays: dy, x_hat, dγ, dβ."""
    R, J = size(row, 0), size(row, 1)
    dy, x_hat, dgamma, dbeta = vector(row, 0), vector(row, 1), vector(row, 2), vector(row, 3)
    for j in range(J):
        dgamma[j] = dbeta[j] = real(0.0)
    for n in range(R):
        for j in range(J):
            dgamma[j] += dy[n * J + j] * x_hat[n * J + j]
            dbeta[j] += dy[n * J + j]


def batch_norm_backward(row):
    """Turn dy into dx in place. Arrays: dy, x_hat, gamma, inv_std, dγ, dβ, sums.

    With sums over the rows, the derivation of xpnet.ops.normalization becomes
    dx = γ (dy - dβ/R - x̂ dγ/R) / √(v + ε).
    """
    R, J = size(row, 0), size(row, 1)
    dy, x_hat, gamma, inv_std = vector(row, 0), vector(row, 1), vector(row, 2), vector(row, 3)
    dgamma, dbeta, sums = vector(row, 4), vector(row, 5), vector(row, 6)  # noqa: F841 - for ROWS
    for n in range(R):
        for j in range(J):
            along = dbeta[j] + x_hat[n * J + j] * dgamma[j]
            dy[n * J + j] = gamma[j] * inv_std[j] * (dy[n * J + j] - along / ROWS)


def give_both(row):
    """Give dγ and dβ. Arrays: dγ, dβ, out γ, out β, (α, β)."""
    J, pair = size(row, 1), doubles(row, 4)
    give(vector(row, 0), vector(row, 2), J, pair)
    give(vector(row, 1), vector(row, 3), J, pair)


def chosen(kernel, numbers=(), **choices) -> Loop:
    """Return the text of a kernel in which each name in capitals is what ``choices`` says."""
    text = text_of(kernel).replace(f"def {kernel.__name__}(", "def kernel(", 1)
    for name, choice in choices.items():
        text = re.sub(rf"\b{name}\b", str(choice), text)
    return Loop(text, numbers)


PRODUCT, GIVE = chosen(product), chosen(give_both)
