"""The task of a fused step on a GPU: what it trains, where there are kernels for all of it."""

from xpnet.errors import UnsupportedError
from xpnet.kernels.cuda.batch_program import LIMIT
from xpnet.kernels.cuda.buffers import Task
from xpnet.kernels.cuda.padding import padding
from xpnet.kernels.cuda.sources import MOST_RANDOM
from xpnet.kernels.cuda.step_operations import REDUCTIONS
from xpnet.kernels.plan import make_plan
from xpnet.nn import Sequential
from xpnet.nn.layout import layouts
from xpnet.nn.losses import Loss
from xpnet.optim.clipping import Clip
from xpnet.optim.groups import Grouped
from xpnet.optim.optimizers import Optimizer
from xpnet.parallel import Share
from xpnet.parallel.across import Across
from xpnet.step.mixed_precision import Mixed

__all__ = ["make_task"]


def make_task(
    model: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    clip: Clip,
    mixed: Mixed | None,
    micro_batches: int,
    across: Across | None,
    threads: int,
    pack: int,
) -> Task:
    """Return the task; raises UnsupportedError with what has no kernel, and why."""
    layout, stats_layout = layouts(model)
    if len(model.output_shape) != 1 or not 0 < layout.size < LIMIT:
        msg = f"{layout.size} parameters and an output of shape {model.output_shape} have no kernel"
        raise UnsupportedError(msg)
    if model.n_random > MOST_RANDOM:
        msg = f"{model.n_random} layers that draw random numbers are too many for the kernels: "
        msg += f"at most {MOST_RANDOM}"
        raise UnsupportedError(msg)
    if isinstance(optimizer, Grouped):  # its updates are of parts of the vectors
        msg = "groups of parameters have no kernels on a GPU"
        raise UnsupportedError(msg)
    if loss.reduction not in REDUCTIONS:
        msg = f"the reduction {loss.reduction!r} has no kernel"
        raise UnsupportedError(msg)
    share, comm = Share(micro_batches=micro_batches), None
    ranks = buckets = 1
    if across is not None:
        share, comm, ranks = across.share, across.comm, across.comm.size
        if comm.on_stream:  # else the host waits for all of the gradient
            buckets = across.settings.buckets
    plan = make_plan(model, loss, optimizer, clip, divided=True, ranks=ranks, buckets=buckets)
    if plan.portable:
        msg = "; ".join(f"{name} has no kernel: {why}" for name, why in plan.portable)
        raise UnsupportedError(msg)
    padded = padding(plan, model, pack)
    if padded is not None and padded.layout.size >= LIMIT:
        padded = None
    return Task(
        model, plan, layout, stats_layout, loss, optimizer, clip, threads, mixed, share, comm,
        padded,
    )  # fmt: skip
