"""Embeddings of whole-number codes, and their adjoint.

The last m of the D inputs of an example are codes c_1, ..., c_m; the others pass as they are. Each
code has a table E_i of a row for each of its levels, and is replaced by the row of its level:

    y_n = [x_n1, ..., x_n(D-m), E_1[c_n1], ..., E_m[c_nm]]

Only the row that was read changes y, so that with dy cut into the same pieces

    dE_iv = Σ_n 1[c_ni = v] dy_ni        dx = [dy_n1, ..., dy_n(D-m), 0, ..., 0]

The sum is the product of a one-hot matrix with dy: the same at every call, as scattered additions
on a GPU are not. A code has no derivative, and its dx is 0.
"""

from collections.abc import Sequence

from array_api_compat import array_namespace, device

from xpnet.ops.cross_entropy import one_hot
from xpnet.typing import Array

__all__ = ["embedding", "embedding_backward", "embedding_codes", "summed_by_level"]

BLOCK = 2**22  # entries of a one-hot matrix at a time: 16 MiB in float32


def embedding_codes(x: Array, sizes: Sequence[int]) -> tuple[Array, ...]:
    """Return the codes in the last columns of x (N, D), int32 (N,) each.

    A code is the nearest whole number; one that is not in 0..size-1, or NaN, is 0, which stands
    for a value that is missing or was never seen.

    >>> import numpy as np
    >>> embedding_codes(np.array([[0.5, 2.0], [0.5, 3.0], [0.5, -1.0]]), [3])
    (array([2, 0, 0], dtype=int32),)
    """
    xp, first = array_namespace(x), x.shape[1] - len(sizes)
    codes = []
    for i, size in enumerate(sizes, first):
        c = xp.round(x[:, i])
        known = (c >= 0.0) & (c < float(size))
        codes.append(xp.astype(xp.where(known, c, 0.0), xp.int32))
    return tuple(codes)


def embedding(x: Array, tables: Sequence[Array], codes: Sequence[Array]) -> Array:
    """y (N, D - m + Σ J_i) for x (N, D), m tables (V_i, J_i) and :func:`embedding_codes`.

    >>> import numpy as np
    >>> x, E = np.array([[0.5, 1.0]]), np.array([[0.0, 0.0], [7.0, 8.0]])
    >>> embedding(x, [E], embedding_codes(x, [2]))
    array([[0.5, 7. , 8. ]])
    """
    xp, rest = array_namespace(x), x.shape[1] - len(tables)
    rows = (xp.take(E, c, axis=0) for E, c in zip(tables, codes, strict=True))
    return xp.concat([x[:, :rest], *rows], axis=1)


def embedding_backward(
    dy: Array, tables: Sequence[Array], codes: Sequence[Array], *, input_gradient: bool = True
) -> tuple[Array | None, list[Array]]:
    """Return dx (N, D), unless it is not needed, and dE_i (V_i, J_i) for dy = dC/dy."""
    xp, start = array_namespace(dy), dy.shape[1] - sum(E.shape[1] for E in tables)
    dx = None
    if input_gradient:
        zeros = xp.zeros((dy.shape[0], len(tables)), dtype=dy.dtype, device=device(dy))
        dx = xp.concat([dy[:, :start], zeros], axis=1)
    gradients = []
    for E, c in zip(tables, codes, strict=True):
        stop = start + E.shape[1]
        gradients.append(summed_by_level(dy[:, start:stop], c, E.shape[0]))
        start = stop
    return dx, gradients


def summed_by_level(dy: Array, codes: Array, size: int) -> Array:
    """dE_v = Σ_n 1[c_n = v] dy_n (size, J) for dy (N, J) and codes (N,), some levels at a time.

    >>> import numpy as np
    >>> summed_by_level(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1]), 3)
    array([[2.],
           [5.],
           [0.]])
    """
    xp, levels = array_namespace(dy), max(BLOCK // dy.shape[0], 1)
    blocks = []
    for first in range(0, size, levels):
        here = one_hot(codes - first, min(levels, size - first), dy)  # (N, levels)
        blocks.append(here.T @ dy)
    return blocks[0] if len(blocks) == 1 else xp.concat(blocks, axis=0)
