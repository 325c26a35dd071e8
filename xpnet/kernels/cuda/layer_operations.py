"""The launches of the operations of layers, forward and backward: one function for each."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from xpnet.kernels.cuda.batch_program import Program
from xpnet.kernels.cuda.buffers import LONG_ROW, MOST_BLOCKS, WARP, Task
from xpnet.kernels.cuda.printed import activation, derivative
from xpnet.kernels.operations import (
    Affine,
    AffineBackward,
    Drop,
    Map,
    MapBackward,
    Norm,
    NormBackward,
    Place,
    SoftmaxBackward,
    SoftmaxForward,
)
from xpnet.nn import BatchNorm, Dropout, LayerNorm, LogSoftmax, ReLU
from xpnet.typing import Array

__all__ = ["RECORD", "Patches", "affine_and_map", "differentiates", "patches"]

ROWS = 256  # of a patch of 32 columns, at least: eight for each warp of a block
BLOCKS = 264  # of a launch by patches, at most: two on each multiprocessor of an H100
TILE = 128  # rows and columns of a product that a multiprocessor computes at once
MOST_TILES = 1024  # of a product that leaves multiprocessors idle for a noticeable time
WIDE_FROM = 2**18  # elements of a matrix from which a lane has several columns


class Patches(NamedTuple):
    """How a matrix is divided for sums over its rows: common.cuh."""

    grid: tuple[int, int]
    rows: int  # of a patch

    @property
    def splits(self) -> int:
        """How many patches lie one below another."""
        return self.grid[1]


def patches(N: int, J: int, wide: int = 1) -> Patches:
    """Divide a matrix (N, J), a lane having ``wide`` columns.

    >>> patches(128, 70), patches(300, 70)
    (Patches(grid=(3, 1), rows=128), Patches(grid=(3, 2), rows=150))
    """
    columns = -(-J // (WARP * wide))
    splits = max(1, min(-(-N * wide // ROWS), BLOCKS // columns))
    rows = max(1, -(-N // splits))
    return Patches((columns, max(1, -(-N // rows))), rows)


def affine(work: Program, op: Affine) -> None:
    work.product(work.at(op.x), work.parameter(op.layer, "W"), work.at(op.z))


def affine_and_map(work: Program, op: Affine, then: Map) -> None:
    """Add a bias and apply ReLU within the product, where that is faster; another f stays apart."""
    affine(work, op)
    map_(work, then)
    relu = then.f is not None
    in_place = then.a.buffer == op.z.buffer == then.x.buffer
    if then.bias is not None and in_place and (not relu or type(work.layer(then.layer)) is ReLU):
        W, bias = work.parameter(op.layer, "W"), work.parameter(then.bias, "b")
        work.affine(work.at(op.x), W, bias, work.at(op.z), relu=relu)


def affine_backward(work: Program, op: AffineBackward) -> None:
    """The product for dW has a lane of its own beside the one for dx, unless both are large."""
    dz, dW = work.at(op.dz), work.gradient(op.layer, "W")
    dx = None if op.dx is None else work.at(op.dx)
    beside = dx is not None and min(map(_tiles, (dW, dx))) <= MOST_TILES
    lane = work.beside if beside else 0
    work.product(work.at(op.x).T, dz, dW, add=work.add, lane=lane)
    if dx is not None:
        work.product(dz, work.parameter(op.layer, "W").T, dx)


def _tiles(out: Array) -> int:
    return math.prod(-(-n // TILE) for n in out.shape)


def map_(work: Program, op: Map) -> None:
    x, bias = work.at(op.x), None if op.bias is None else work.parameter(op.bias, "b")
    a = None if op.a.buffer == op.x.buffer else work.at(op.a)
    N, J = x.shape
    packs = N * J // work.wide if work.packed(J, x, bias, a) else N * J
    grid = work.many_blocks(packs)
    work.launch(activation("bias_activation", op.f), grid, x, bias, a, N, J)


def differentiates(task: Task, op: MapBackward) -> bool:
    """Whether anything is left to do: the loss may have summed up the gradient of the bias."""
    return op.f is not None or op.bias not in (None, task.bias_of_loss)


def map_backward(work: Program, op: MapBackward) -> None:
    """Turn da into dz and sum it into db: in one launch, or two over several blocks of rows."""
    if not differentiates(work.task, op):
        return
    da, db = work.at(op.da), None if op.bias is None else work.gradient(op.bias, "b")
    kept = None if op.f is None else work.at(op.kept)
    N, J = da.shape
    wide = N * J >= WIDE_FROM and work.packed(J, da, kept)
    cut = patches(N, J, work.wide if wide else 1)
    split = db is not None and cut.splits > 1
    sums, add = db, work.add
    if split:  # of this layer alone, so that none waits until those of another are added up
        sums, add = work.sums(f"columns of layer {op.bias}", (cut.splits, J)), 0
    work.launch_patches(
        derivative("activation_backward", op.f), cut.grid, da, kept, sums, add, N, J, cut.rows, wide
    )
    if split:
        work.launch(
            "column_sums", work.blocks(J), sums, db, cut.splits, J, work.add, lane=work.beside
        )


def drop(work: Program, op: Drop) -> None:
    """Drop, or in backward compute the same mask again."""
    layer, x = work.layer(op.layer), work.at(op.x)
    assert isinstance(layer, Dropout)
    (N, width), J = x.shape, op.x.width
    threshold, scale = round(layer.rate * 2**24), 1.0 / (1.0 - layer.rate)
    grid = work.many_blocks(-(-N * width // work.wide))
    kernel, sizes = ("dropout", (N * J,)) if width == J else ("dropout_with_pads", (N, width))
    work.launch(kernel, grid, x, work.at(op.y), work.keys(op.index), *sizes, threshold, scale,
                work.piece.first * J, J, (work.piece.stride - 1) * J)  # fmt: skip


# -- along rows or columns ------------------------------------------------------------------------
# These see rows of the last axis: all axes before it, also those of images, are R rows. Where those
# of J numbers have pads, they are of `width`.


def _rows(x: Array, J: int) -> Array:
    return x.reshape((math.prod(x.shape) // J, J))


def _width(work: Program, place: Place) -> int:
    return work.task.width(place) // (place.width // place.shape[-1])


def _statistics(work: Program, op: Norm | NormBackward, n: int) -> list[Array]:
    return [work.sums(f"{name} of layer {op.layer}", (n,)) for name in ("mean", "inv_std")]


def norm(work: Program, op: Norm) -> None:
    layer, J, width = work.layer(op.layer), op.x.shape[-1], _width(work, op.x)
    x, y, a = (_rows(work.at(place), width) for place in (op.x, op.y, op.a))
    R = x.shape[0]
    parameters = [work.parameter(op.layer, name) for name in ("gamma", "beta")]
    if isinstance(layer, LayerNorm):
        given = (x, y, a, *parameters, *_statistics(work, op, R), R, J, width, layer.eps)
        grid, block = _of_rows(work, R, J)
        work.launch(activation("layer_norm", op.f), grid, *given, block)
        return
    assert isinstance(layer, BatchNorm)
    cut, partial, m = patches(R, width), None, layer.momentum
    whole, rows = R, cut.rows
    if op.ranks > 1:
        whole = rows = work.whole_rows * (op.x.width // J)
        partial = _moments_of_ranks(work, x, cut, whole)
    elif cut.splits > 1:
        partial = _moments_of_patches(work, x, cut)
    running = [work.statistic(op.layer, name) for name in ("mean", "var")]
    unbiased = whole / max(whole - 1, 1)
    work.launch_patches(
        activation("batch_norm", op.f), cut.grid, x, y, a, *parameters,
        *_statistics(work, op, width), partial, *running, J, R, width, cut.rows, whole, rows,
        layer.eps, 1.0 - m, m, unbiased,
    )  # fmt: skip


def _moments_of_patches(work: Program, x: Array, cut: Patches) -> Array:
    """The means and deviations (splits, 2, J) of patches."""
    partial = work.sums("moments", (cut.splits, 2, x.shape[1]))
    work.launch_patches("column_moments", cut.grid, x, partial, *x.shape, cut.rows)
    return partial


def _moments_of_ranks(work: Program, x: Array, cut: Patches, whole: int) -> Array:
    """The mean and the deviations (2, J) of the rows of all ranks."""
    R, J = x.shape
    partial = _moments_of_patches(work, x, cut) if R else None
    own, moments = work.sums("moments of this rank", (2, J)), work.sums("moments of all", (2, J))
    sums, grid = work.sums("sums of ranks", (2, J)), work.blocks(J)
    work.launch("rank_means", grid, partial, own, sums[0], R, J, cut.rows)
    work.sum_over_ranks(sums[0])
    work.launch("rank_deviations", grid, own, sums[0], moments, R, J, whole)
    work.sum_over_ranks(moments[1])
    return moments


def norm_backward(work: Program, op: NormBackward) -> None:
    J, width = op.x.shape[-1], _width(work, op.x)
    da, kept, x = (_rows(work.at(place), width) for place in (op.da, op.kept, op.x))
    by_row, cut, partial = isinstance(work.layer(op.layer), LayerNorm), patches(*x.shape), None
    R, splits, whole = x.shape[0], cut.splits, x.shape[0]
    statistics = _statistics(work, op, R if by_row else width)
    if R and (by_row or cut.splits > 1 or op.ranks > 1):
        partial = work.sums("norm gradients", (cut.splits, 2, width))
        work.launch_patches(
            derivative("norm_gradients", op.f), cut.grid, da, kept, x, *statistics, partial, by_row,
            R, width, cut.rows,
        )  # fmt: skip
    sums: list[Array | None] = [work.gradient(op.layer, name) for name in ("gamma", "beta")]
    if op.ranks > 1:
        whole = work.whole_rows * (op.x.width // J)
        own, splits = partial, cut.splits if R else 0
        partial = work.sums("sums of ranks", (2, width))
        work.launch(
            "rank_gradients", work.blocks(width), own, partial, *sums, work.add, splits, width
        )
        work.sum_over_ranks(partial.reshape(-1))
        sums, splits = [None, None], 1
    given = (da, kept, x, work.parameter(op.layer, "gamma"), *statistics, partial, *sums, work.add,
             op.input_gradient, R, width)  # fmt: skip
    if by_row:
        grid, block = _of_rows(work, R, J)
        grid = grid if op.input_gradient else work.blocks(width)
        work.launch(derivative("layer_norm_backward", op.f), grid, *given, J, cut.splits, block)
    else:
        kernel = derivative("batch_norm_backward", op.f)
        work.launch_patches(kernel, cut.grid, *given, cut.rows, splits, whole)


def softmax(work: Program, op: SoftmaxForward) -> None:
    _softmax(work, op.layer, "softmax", work.at(op.z), work.at(op.a), op.z.shape[-1])


def softmax_backward(work: Program, op: SoftmaxBackward) -> None:
    _softmax(work, op.layer, "softmax_backward", work.at(op.da), work.at(op.a), op.a.shape[-1])


def _softmax(work: Program, layer: int, kernel: str, x: Array, a: Array, J: int) -> None:
    x, a = _rows(x, J), _rows(a, J)
    logarithm = isinstance(work.layer(layer), LogSoftmax)
    grid, block = _of_rows(work, *x.shape)
    work.launch(kernel, grid, x, a, *x.shape, logarithm, block)


def _of_rows(work: Program, R: int, J: int) -> tuple[int, bool]:
    """The blocks for so many rows, and whether each takes a row, or each of its warps."""
    block = J > LONG_ROW
    return (min(R, MOST_BLOCKS) if block else work.blocks(R * WARP)), block


RECORD: dict[type, Callable[[Program, Any], None]] = {
    Affine: affine, AffineBackward: affine_backward, Map: map_, MapBackward: map_backward,
    Drop: drop, Norm: norm, NormBackward: norm_backward, SoftmaxForward: softmax,
    SoftmaxBackward: softmax_backward,
}  # fmt: skip
