"""The loop that runs a program: rows of numbers, each an operation on one batch.

A program is a model as compiled code sees it. One function, compiled once per dtype, runs that of
any model without returning to Python. Activations and their gradients are in one flat vector
``work``, at the offsets in each row.
"""

from xpnet.kernels.cpu.blas import gemm
from xpnet.kernels.cpu.compiled import kernel
from xpnet.kernels.cpu.elements import activation, activation_backward, dropout
from xpnet.kernels.cpu.losses import elementwise_loss, softmax_cross_entropy
from xpnet.kernels.cpu.normalization import (
    batch_norm,
    batch_norm_backward,
    layer_norm,
    layer_norm_backward,
    track,
)

__all__ = [
    "ACTIVATION",
    "ACTIVATION_BACKWARD",
    "AFFINE",
    "AFFINE_BACKWARD",
    "COLUMNS",
    "BATCH",
    "DROPOUT",
    "ELEMENTWISE_LOSS",
    "LAYER",
    "NORM",
    "NORM_BACKWARD",
    "NOWHERE",
    "SOFTMAX_LOSS",
    "run",
]

# Operations, the first column of a row.
(
    AFFINE, ACTIVATION, DROPOUT, AFFINE_BACKWARD, ACTIVATION_BACKWARD, SOFTMAX_LOSS,
    ELEMENTWISE_LOSS, NORM, NORM_BACKWARD,
) = range(9)  # fmt: skip
# The other columns: the kind of activation or loss; features I in and J out; the offsets of x, z,
# y = f(z), the parameters W and b, dy, dx and db. Dropout's kind is its threshold.
OP, KIND, I_, J_, X, Z, Y, W, B, DY, DX, DB, COLUMNS = range(13)
KEY = I_  # of dropout
# Of a normalisation: R rows, γ and β as W and b, x̂ as z; the offsets of 1/√(v + ε), of two vectors
# (J,) for sums and of the running statistics. Its kind says over what it averages.
R_, INV_STD, SUMS, STATS = I_, DX, DB, DY
LAYER, BATCH = range(2)
REDUCTION, IGNORES, IGNORED = X, Y, W  # of a loss
NOWHERE = -1


@kernel
def _matrix(work, start, N, J):
    return work[start : start + N * J].reshape(N, J)


@kernel
def _bias(params, row):
    return params[row[B] : row[B] + row[J_]] if row[B] >= 0 else params[:0]


@kernel
def _address(work, x, start):
    """The address of an operation's input: in ``work``, or the batch itself."""
    return work.ctypes.data + start * work.itemsize if start >= 0 else x.ctypes.data


@kernel
def _affine(row, N, work, params, x, product):
    one, zero = work.dtype.type(1.0), work.dtype.type(0.0)
    at_z, at_W = work.ctypes.data + row[Z] * work.itemsize, params.ctypes.data
    at_W += row[W] * work.itemsize
    sizes = (N, row[J_], row[I_])
    gemm(product, False, False, sizes, one, _address(work, x, row[X]), at_W, zero, at_z)


@kernel
def _give(gradient, start, target, alpha, beta):
    """target = β target + α gradient, from ``start`` on; with β = 0 target may be uninitialised."""
    zero = target.dtype.type(0.0)
    for j in range(len(gradient)):
        old = zero if beta == zero else beta * target[start + j]
        target[start + j] = old + alpha * gradient[j]


@kernel
def _affine_backward(row, s, N, work, params, target, alpha, beta, x, product):
    """dx = dy Wᵀ if needed; then W' = β W' + α xᵀ dy and likewise for b, in ``target``."""
    one, zero = work.dtype.type(1.0), work.dtype.type(0.0)
    I, J, size = row[I_], row[J_], work.itemsize  # noqa: E741
    dy = _matrix(work, row[DY], N, J)
    db = work[:0] if row[B] < 0 else work[row[DB] : row[DB] + J]
    activation_backward(row[KIND], dy, _matrix(work, row[Y], N, J), db, s)
    at_dy, at_W = work.ctypes.data + row[DY] * size, params.ctypes.data + row[W] * size
    if row[DX] >= 0:
        at_dx = work.ctypes.data + row[DX] * size
        gemm(product, False, True, (N, I, J), one, at_dy, at_W, zero, at_dx)
    at_dW = target.ctypes.data + row[W] * size
    at_x = _address(work, x, row[X])
    gemm(product, True, False, (I, J, N), alpha, at_x, at_dy, beta, at_dW)
    _give(db, row[B], target, alpha, beta)


@kernel
def _vector(flat, start, size):
    return flat[start : start + size]


@kernel
def _norm(row, eps, momentum, work, params, stats):
    R, J = row[R_], row[J_]
    x, x_hat = _matrix(work, row[X], R, J), _matrix(work, row[Z], R, J)
    y, sums = _matrix(work, row[Y], R, J), _vector(work, row[SUMS], 2 * J)
    gamma, b = _vector(params, row[W], J), _vector(params, row[B], J)
    if row[KIND] == LAYER:
        layer_norm(x, x_hat, y, gamma, b, _vector(work, row[INV_STD], R), eps)
        return
    mean, var = sums[:J], sums[J:]
    batch_norm(x, x_hat, y, gamma, b, _vector(work, row[INV_STD], J), mean, var, eps)
    track(_vector(stats, row[STATS], 2 * J), mean, var, R, momentum)


@kernel
def _norm_backward(row, work, params, target, alpha, beta):
    R, J = row[R_], row[J_]
    dy, x_hat = _matrix(work, row[DY], R, J), _matrix(work, row[Z], R, J)
    gamma, sums = _vector(params, row[W], J), _vector(work, row[SUMS], 2 * J)
    dgamma, dbeta = sums[:J], sums[J:]
    if row[KIND] == LAYER:
        inv_std = _vector(work, row[INV_STD], R)
        layer_norm_backward(dy, x_hat, gamma, inv_std, dgamma, dbeta)
    else:
        inv_std = _vector(work, row[INV_STD], J)
        batch_norm_backward(dy, x_hat, gamma, inv_std, dgamma, dbeta)
    _give(dgamma, row[W], target, alpha, beta)
    _give(dbeta, row[B], target, alpha, beta)


@kernel
def run(
    program, settings, first, last, N, work, params, stats, target, alpha, beta, x, labels, rows,
    weight, class_weights, keys, sums, product,
):  # fmt: skip
    """Run rows ``first`` to ``last`` of ``program`` on a batch x (N, I).

    The parameters' gradient goes to ``target`` (P,): target = β target + α gradient, which may be
    the parameters themselves, as each layer's are written after their last use. ``settings`` has
    two numbers per row.
    """
    real = work.dtype.type
    alpha, beta = real(alpha), real(beta)
    for i in range(first, last):
        row = program[i]
        op, J, s = row[OP], row[J_], real(settings[i, 0])
        if op == AFFINE:
            _affine(row, N, work, params, x, product)
            if row[KIND] >= 0:
                z, y = _matrix(work, row[Z], N, J), _matrix(work, row[Y], N, J)
                activation(row[KIND], z, _bias(params, row), y, s)
        elif op == ACTIVATION:
            z, y = _matrix(work, row[Z], N, J), _matrix(work, row[Y], N, J)
            if row[X] != row[Z]:
                z[:] = _matrix(work, row[X], N, J)
            activation(row[KIND], z, params[:0], y, s)
        elif op == DROPOUT:
            a, y1 = work[row[X] : row[X] + N * J], work[row[Y] : row[Y] + N * J]
            dropout(a, y1, keys[row[KEY]], row[KIND], s)
        elif op == AFFINE_BACKWARD:
            _affine_backward(row, s, N, work, params, target, alpha, beta, x, product)
        elif op == ACTIVATION_BACKWARD:
            dy, kept = _matrix(work, row[DY], N, J), _matrix(work, row[Y], N, J)
            activation_backward(row[KIND], dy, kept, work[:0], s)
        elif op == NORM:
            _norm(row, s, real(settings[i, 1]), work, params, stats)
        elif op == NORM_BACKWARD:
            _norm_backward(row, work, params, target, alpha, beta)
        elif op == SOFTMAX_LOSS:
            z, dz = _matrix(work, row[Z], N, J), _matrix(work, row[DY], N, J)
            softmax_cross_entropy(
                z, _bias(params, row), dz, labels, rows, class_weights, weight,
                row[IGNORES] == 1, row[IGNORED], settings[i, 0], row[REDUCTION], sums,
            )  # fmt: skip
        elif op == ELEMENTWISE_LOSS:
            z, dz = _matrix(work, row[Z], N, J), _matrix(work, row[DY], N, J)
            elementwise_loss(
                row[KIND], z, _bias(params, row), dz, rows, weight, s, row[REDUCTION], sums
            )
