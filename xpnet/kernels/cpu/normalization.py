"""Layer and batch normalisation, forward and backward: xpnet.ops.normalization in a few passes.

x, y and x̂ (R, J) are contiguous, R being the rows over which batch normalisation averages. In
backward, with sums over the rows, the derivation there becomes

    dβ = Σ dy    dγ = Σ dy x̂    batch: dx = γ (dy - dβ/R - x̂ dγ/R) / √(v + ε)
"""

import math

from xpnet.kernels.cpu.compiled import kernel

__all__ = ["batch_norm", "batch_norm_backward", "layer_norm", "layer_norm_backward", "track"]


@kernel
def batch_norm(x, x_hat, y, gamma, beta, inv_std, mean, var, eps):
    """y = γ x̂ + β with mean and variance of each column, written to ``mean`` and ``var`` (J,)."""
    R, J = x.shape
    mean[:] = x.dtype.type(0.0)
    var[:] = x.dtype.type(0.0)
    for n in range(R):
        for j in range(J):
            mean[j] += x[n, j]
    for j in range(J):
        mean[j] /= R
    for n in range(R):
        for j in range(J):
            centred = x[n, j] - mean[j]
            x_hat[n, j] = centred
            var[j] += centred * centred
    for j in range(J):
        var[j] /= R
        inv_std[j] = x.dtype.type(1.0) / math.sqrt(var[j] + eps)
    for n in range(R):
        for j in range(J):
            h = x_hat[n, j] * inv_std[j]
            x_hat[n, j] = h
            y[n, j] = h * gamma[j] + beta[j]


@kernel
def track(running, mean, var, R, momentum):
    """Move the running mean and variance (2 J,) towards the batch's mean and unbiased variance."""
    real, J = running.dtype.type, len(mean)
    kept, unbiased = real(1.0) - momentum, real(R) / real(max(R - 1, 1))
    for j in range(J):
        running[j] = kept * running[j] + momentum * mean[j]
        running[J + j] = kept * running[J + j] + momentum * (var[j] * unbiased)


@kernel
def layer_norm(x, x_hat, y, gamma, beta, inv_std, eps):
    """y = γ x̂ + β with mean and variance of each row."""
    R, J = x.shape
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    for n in range(R):
        mean, var = zero, zero
        for j in range(J):
            mean += x[n, j]
        mean /= J
        for j in range(J):
            centred = x[n, j] - mean
            x_hat[n, j] = centred
            var += centred * centred
        inv_std[n] = one / math.sqrt(var / J + eps)
        for j in range(J):
            h = x_hat[n, j] * inv_std[n]
            x_hat[n, j] = h
            y[n, j] = h * gamma[j] + beta[j]


@kernel
def _affine_gradients(dy, x_hat, dgamma, dbeta):
    R, J = dy.shape
    dgamma[:] = dy.dtype.type(0.0)
    dbeta[:] = dy.dtype.type(0.0)
    for n in range(R):
        for j in range(J):
            dgamma[j] += dy[n, j] * x_hat[n, j]
            dbeta[j] += dy[n, j]


@kernel
def batch_norm_backward(dy, x_hat, gamma, inv_std, dgamma, dbeta):
    """Turn dy into dx in place, and write dγ and dβ (J,)."""
    R, J = dy.shape
    _affine_gradients(dy, x_hat, dgamma, dbeta)
    for n in range(R):
        for j in range(J):
            along = dbeta[j] + x_hat[n, j] * dgamma[j]
            dy[n, j] = gamma[j] * inv_std[j] * (dy[n, j] - along / R)


@kernel
def layer_norm_backward(dy, x_hat, gamma, inv_std, dgamma, dbeta):
    """Turn dy into dx in place, and write dγ and dβ (J,)."""
    R, J = dy.shape
    zero = dy.dtype.type(0.0)
    _affine_gradients(dy, x_hat, dgamma, dbeta)
    for n in range(R):
        along_mean, along_x_hat = zero, zero
        for j in range(J):
            g = dy[n, j] * gamma[j]
            along_mean += g
            along_x_hat += g * x_hat[n, j]
        for j in range(J):
            g = dy[n, j] * gamma[j]
            dy[n, j] = (g - along_mean / J - x_hat[n, j] * (along_x_hat / J)) * inv_std[n]
