"""The gradient of a batch whose rows are on several ranks: the gradient of the whole batch.

    C = Σ_r (Σ ℓ)_r / Σ_r D_r          dC = Σ_r d(Σ ℓ)_r / Σ_r D_r          over the ranks r

Numerators, denominator and counts are summed over the ranks in one vector, and divided after it. So
every rank has the loss and the gradient of the whole batch, and takes the same step. Batch
normalisation takes its means over the rows of all ranks
(:class:`xpnet.nn.normalization.SharedBatchNorm`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from array_api_compat import array_namespace, device

from xpnet.nn import Sequential
from xpnet.nn.losses import Loss, quotient
from xpnet.nn.normalization import BatchNorm, SharedBatchNorm
from xpnet.parallel.across import Across
from xpnet.parallel.share import Piece
from xpnet.step.step import Batch, BatchGradient, make_gradient
from xpnet.typing import Array

__all__ = ["make_shared_gradient", "shared_model"]


def shared_model(model: Sequential, across: Across) -> Sequential:
    """Return the model whose layers take their means over the rows of all ranks."""
    layers = (
        SharedBatchNorm(**vars(layer), total=across.total) if type(layer) is BatchNorm else layer
        for layer in model.layers
    )
    return replace(model, layers=tuple(layers))


def make_shared_gradient(
    model: Sequential,
    loss: Loss,
    across: Across,
    jit: Callable[[Callable], Callable] = lambda function: function,
) -> Callable[..., BatchGradient]:
    """Return :func:`~xpnet.step.make_gradient`'s function, of the batch that the ranks share.

    It is given this rank's rows, in the order of :meth:`xpnet.parallel.Share.positions`, and
    ``rows``, those of the whole batch. What it returns is the same on all ranks. ``jit`` compiles
    what is computed between two sums over the ranks.
    """
    shared = shared_model(model, across)
    meets = any(type(layer) is SharedBatchNorm for layer in shared.layers)
    gradient = make_gradient(shared, loss, divided=False)
    if not meets:
        gradient = jit(gradient)

    def shared_gradient(
        params: Array,
        stats: Array,
        batch: Batch,
        keys: Sequence[Any] = (),
        scale: Array | float = 1.0,
        *,
        rows: int,
    ) -> BatchGradient:
        # A power of two changes no bit, and keeps sums within the range of 16 bits as D would.
        over = 1.0 if loss.reduction == "sum" else 2.0 ** (rows - 1).bit_length()
        sums: list[list[Array]] = []  # of each part
        for pieces in across.share.pieces(rows):
            of_pieces = [
                partial(gradient, params, stats, _rows(batch, p), _keys(keys, p), scale / over)
                for p in pieces
            ]
            found = across.each(of_pieces, meeting=meets)
            new = [_summands(g) for g in found]
            sums = [[*map(_add, *pair)] for pair in zip(sums, new, strict=True)] if sums else new
            stats = found[0].stats
        cost, denominator, correct, counted, total = across.sums(sums)
        if loss.reduction == "sum":  # 1, however many parts it is of
            denominator = array_namespace(denominator).ones_like(denominator)
        total = quotient(total * over, denominator)
        return BatchGradient(cost, denominator, correct, counted, total, stats)

    return shared_gradient


def _rows(batch: Batch, piece: Piece) -> Batch:
    return Batch(*(None if a is None else a[piece.begin : piece.end, ...] for a in batch))


def _keys(keys: Sequence[Any], piece: Piece) -> list[Any]:
    return [(k[0], k[1], piece.first, piece.stride) for k in keys]


def _summands(g: BatchGradient) -> list[Array]:
    """What is summed, in the dtype of the loss."""
    xp, like = array_namespace(g.loss), g.loss
    numbers = (
        xp.asarray(x, dtype=like.dtype, device=device(like))
        for x in (g.loss, g.denominator, g.correct, g.counted)
    )
    return [*numbers, array_namespace(g.gradient).astype(g.gradient, like.dtype, copy=False)]


def _add(a: Array, b: Array) -> Array:
    return a + b
