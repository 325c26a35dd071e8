"""The gradient of a batch taken in parts: the memory of one part, the step of the whole."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from xpnet.nn.losses import quotient
from xpnet.parallel.share import micro_batch_rows
from xpnet.step.step import Batch, BatchGradient
from xpnet.typing import Array

__all__ = ["accumulated", "micro_batches"]


def accumulated(
    gradient: Callable[..., BatchGradient], parts: int, *, summed: bool = False
) -> Callable[..., BatchGradient]:
    """Return the gradient function that goes through a batch in ``parts`` near-equal parts.

    With C_i = Σ_i ℓ / D_i the parts' losses, the whole one is C = Σ_i D_i C_i / Σ_i D_i, and so is
    its gradient; with the reduction "sum" (``summed``), C = Σ_i C_i. The result equals the whole
    batch's up to rounding, dropout included; only batch normalisation sees the parts, one after
    the other.
    """

    def gradient_of_parts(
        params: Array,
        stats: Array,
        batch: Batch,
        keys: Sequence[Any] = (),
        scale: Array | float = 1.0,
    ) -> BatchGradient:
        total: BatchGradient | None = None
        for part, part_keys in micro_batches(batch, parts, keys):
            g = gradient(params, stats, part, part_keys, scale)
            stats = g.stats
            if not summed:
                g = g._replace(gradient=g.gradient * g.denominator)
            total = g if total is None else _sum(total, g)
        assert total is not None
        if summed:
            return total._replace(denominator=g.denominator)
        return total._replace(gradient=quotient(total.gradient, total.denominator))

    return gradient_of_parts


def micro_batches(
    batch: Batch, parts: int, keys: Sequence[Any] = ()
) -> Iterator[tuple[Batch, Sequence[Any]]]:
    """Yield ``batch`` in ``parts`` near-equal micro-batches, each with the keys of its layers.

    The keys say from which row on a mask is drawn, so that dropout is that of the whole batch. A
    batch of fewer rows has a micro-batch for each of them, and one without rows is whole.
    """
    rows = batch.x.shape[0]
    if parts == 1 or rows == 0:
        yield batch, keys
        return
    for first, last in micro_batch_rows(rows, parts):
        weight = None if batch.weight is None else batch.weight[first:last]
        part = Batch(batch.x[first:last, ...], batch.y[first:last, ...], weight)
        yield part, [(k[0], k[1], first) for k in keys]


def _sum(a: BatchGradient, b: BatchGradient) -> BatchGradient:
    return BatchGradient(
        a.loss + b.loss,
        a.denominator + b.denominator,
        a.correct + b.correct,
        a.counted + b.counted,
        a.gradient + b.gradient,
        b.stats,
    )
