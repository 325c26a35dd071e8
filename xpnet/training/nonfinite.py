"""The first array of a step that is not finite."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from array_api_compat import array_namespace

from xpnet.nn import Sequential
from xpnet.nn.layout import merge
from xpnet.step import Batch, StepInputs
from xpnet.step.data_parallel import meetings, rows_of, shared_model
from xpnet.step.trace import Traced, describe, trace
from xpnet.typing import Array

if TYPE_CHECKING:
    from xpnet.training.engine import Engine

__all__ = ["first_nonfinite"]


def first_nonfinite(engine: "Engine", batch: Batch, inputs: StepInputs) -> str | None:
    """Name the first array that is not finite in the step that ``engine`` would take.

    With ``inputs.rows`` the batch is this rank's part of one that all ranks look at together.
    """
    found = None
    across, rows = engine.request.across, inputs.rows
    params, narrow = _parameters(engine, batch)
    search = partial(_found, engine, params, narrow)
    if across is None or rows is None:
        parts = engine.request.accumulate
        return next(search(engine.model, batch, inputs.keys, parts=parts), (0, None))[1]
    model, meeting = shared_model(engine.model, across), bool(meetings(engine.model, across))
    for part, pieces in enumerate(across.share.pieces(rows)):
        # To its end on every rank: what one has found, others go on to sum with it.
        of_pieces: list[Callable[[], list[tuple[int, str]]]] = [
            partial(list, search(model, *rows_of(piece, batch, inputs.keys), part=part))
            for piece in pieces
        ]
        own = [first for found in across.each(of_pieces, meeting=meeting) for first in found[:1]]
        found = min((f for of_rank in across.comm.allgather(own) for f in of_rank), default=None)
        if found is not None:
            return found[1]
    return None


def _parameters(engine: "Engine", batch: Batch) -> tuple[Array, Any]:
    """The parameters as the step's layers have them, and the narrow dtype if there is one."""
    params, r = engine.state.params, engine.request
    # What is not finite before it is narrowed is found as it is.
    finite = r.mixed is not None and engine.is_finite(params) and engine.is_finite(batch.x)
    if r.mixed is not None and r.across is not None:
        finite = all(r.across.comm.allgather(finite))
    if r.mixed is None or not finite:
        return params, None
    narrow = getattr(engine.backend.xp, r.mixed.dtype, None)
    return params if narrow is None else array_namespace(params).astype(params, narrow), narrow


def _found(
    engine: "Engine",
    params: Array,
    narrow: Any,
    model: Sequential,
    batch: Batch,
    keys: Sequence[Any],
    *,
    parts: int = 1,
    part: int = 0,
) -> Iterator[tuple[int, str]]:
    """Yield the number and the name of each array that is not finite, in order."""
    r, state = engine.request, engine.state
    tensors = merge(engine.params_layout.split(params), engine.stats_layout.split(state.stats))
    scale = 1.0 if state.scale is None else state.scale[0]
    scaled = r.mixed is not None and r.mixed.scales
    steps = trace(model, engine.loss, tensors, batch, keys, scale=scale, parts=parts)
    for number, traced in enumerate(steps):
        if scaled and (traced.place.phase == "backward" or traced.name == "doutput"):
            continue
        if not engine.is_finite(traced.array):
            yield number, _named(engine, traced, narrow, traced.place.part + part)


def _named(engine: "Engine", traced: Traced, narrow: Any, part: int) -> str:
    r = engine.request
    within = f" in {r.mixed.dtype}" if r.mixed and traced.array.dtype == narrow else ""
    of_part = f", micro-batch {part + 1}" if r.accumulate > 1 else ""
    return f"{describe(traced)}{within}{of_part}"
