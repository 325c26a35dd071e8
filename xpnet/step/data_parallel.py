"""The gradient of a batch whose rows are on several ranks: the gradient of the whole batch.

    C = Σ_r (Σ ℓ)_r / Σ_r D_r          dC = Σ_r d(Σ ℓ)_r / Σ_r D_r          over the ranks r

Numerators, denominator and counts are summed over the ranks in one vector, and divided after it. So
every rank has the loss and the gradient of the whole batch, and takes the same step, whatever the
shares weigh; one in which nothing counts adds zeros. Batch normalisation takes its means over the
rows of all ranks (:class:`xpnet.nn.normalization.SharedBatchNorm`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from array_api_compat import array_namespace, device

from xpnet.errors import ConfigError
from xpnet.nn import Layer, Sequential
from xpnet.nn.losses import Loss
from xpnet.parallel.across import Across
from xpnet.parallel.share import Piece
from xpnet.step.step import Batch, BatchGradient, make_gradient
from xpnet.typing import Array

__all__ = ["make_shared_gradient", "meetings", "rows_of", "shared_model"]


def shared_model(model: Sequential, across: Across) -> Sequential:
    """Return the model whose layers take their means over the rows of all ranks.

    Raises ConfigError for a layer that says no more than that it needs all rows.
    """
    return replace(model, layers=tuple(layer.shared(across.total) for layer in model.layers))


def meetings(model: Sequential, across: Across) -> list[Layer]:
    """Return the layers within which the ranks sum up something."""
    pairs = zip(model.layers, shared_model(model, across).layers, strict=True)
    return [layer for layer, shared in pairs if layer is not shared]


def make_shared_gradient(
    model: Sequential,
    loss: Loss,
    across: Across,
    jit: Callable[[Callable], Callable] = lambda function: function,
) -> Callable[..., BatchGradient]:
    """Return :func:`~xpnet.step.make_gradient`'s function, of the batch that the ranks share.

    It is given this rank's rows, in the order of :meth:`xpnet.parallel.Share.positions`, and
    ``rows``, the number of those of the whole batch. What it returns is the same on all ranks.
    ``jit`` compiles what is computed before and after the sum over the ranks; a model with
    :func:`meetings` has none. Raises ConfigError for a loss that depends on all rows.
    """
    if getattr(loss, "class_weights", None) == "balanced":
        msg = "class_weights are still to be counted, in all labels of the training"
        raise ConfigError(msg, python="give the loss one number for each class")
    summed, meeting = loss.reduction == "sum", bool(meetings(model, across))
    gradient = make_gradient(shared_model(model, across), loss, divided=False)

    @jit
    def of_piece(
        params: Array,
        stats: Array,
        batch: Batch,
        keys: Sequence[Any],
        scale: Any,
        over: Array | None,
    ) -> tuple[list[Array], Array]:
        g = gradient(params, stats, batch, keys, scale if over is None else scale / over)
        xp, like = array_namespace(g.loss), g.loss
        numbers = [
            xp.asarray(x, dtype=like.dtype, device=device(like))
            for x in (g.loss, g.denominator, g.correct, g.counted)
        ]
        total = array_namespace(g.gradient).astype(g.gradient, like.dtype, copy=False)
        return [*numbers, total if over is None else total * over], g.stats

    @jit
    def denominator_of(batch: Batch) -> Array:
        xp, like = array_namespace(batch.x), batch.x
        shape = (batch.x.shape[0], *model.output_shape)
        output = xp.ones(shape, dtype=like.dtype, device=device(like))
        return loss.sums(output, batch.y, batch.weight).denominator

    @jit
    def added(a: list[Array], b: list[Array]) -> list[Array]:
        return [x + y for x, y in zip(a, b, strict=True)]

    @jit
    def divided(summands: list[Array], params: Array) -> BatchGradient:
        cost, D, correct, counted, total = summands
        xp = array_namespace(D)
        if summed:  # 1, however many parts it is of
            D = xp.ones_like(D)
        total /= xp.where(D == 0.0, 1.0, D)
        # As make_gradient returns it: what is beyond a narrow dtype is beyond it here, too.
        total = array_namespace(total).astype(total, params.dtype, copy=False)
        return BatchGradient(cost, D, correct, counted, total, None)

    def denominators(batch: Batch, pieces: list[list[Piece]]) -> list[Array]:
        """D of each micro-batch, or 1 where that is 0."""
        parts = zip(*pieces, strict=True)
        own = [[denominator_of(rows_of(piece, batch)[0]) for piece in part] for part in parts]
        return [array_namespace(D).where(D == 0.0, 1.0, D) for D in across.sums(own)]

    def shared_gradient(
        params: Array,
        stats: Array,
        batch: Batch,
        keys: Sequence[Any] = (),
        scale: Array | float = 1.0,
        *,
        rows: int,
    ) -> BatchGradient:
        pieces = across.share.pieces(rows)
        overs: list[Array | None] = [None] * len(pieces)
        if params.dtype != batch.x.dtype and not summed:
            # Few bits of range: gradients within the layers have the size that they have alone.
            overs = [*denominators(batch, pieces)]
        sums: list[list[Array]] = []  # of each part
        for of_batch, over in zip(pieces, overs, strict=True):
            given = [(params, stats, *rows_of(piece, batch, keys)) for piece in of_batch]
            of_parts = [partial(of_piece, *g, scale, over) for g in given]
            found = across.each(of_parts, meeting=meeting)
            new, stats = [summands for summands, _ in found], found[0][1]
            sums = [added(*pair) for pair in zip(sums, new, strict=True)] if sums else new
        return divided(across.sums(sums), params)._replace(stats=stats)

    return shared_gradient


def rows_of(piece: Piece, batch: Batch, keys: Sequence[Any] = ()) -> tuple[Batch, list[Any]]:
    """Return a piece of this rank's rows, and its keys: they say which rows of the batch it is."""
    part = Batch(*(None if a is None else a[piece.begin : piece.end, ...] for a in batch))
    return part, [(k[0], k[1], piece.first, piece.stride) for k in keys]
