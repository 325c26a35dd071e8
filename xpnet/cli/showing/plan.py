"""``xpnet show RUN --plan``: a fused training step, operation by operation."""

from xpnet.cli.output import print_json, say
from xpnet.errors import ConfigError
from xpnet.kernels.plan import make_plan
from xpnet.kernels.plan_table import plan_lines
from xpnet.parallel import Share
from xpnet.training.trainer import Trainer

__all__ = ["show_plan"]


def show_plan(trainer: Trainer, ranks: int, *, as_json: bool) -> None:
    """Print each operation with its formula, the shapes that it writes and the bytes it moves.

    Where several ranks share a batch it is the step of rank 0. Raises ConfigError if their sums
    have no fused step.
    """
    engine, settings = trainer.engine, trainer.engine.parallel
    if ranks > 1 and settings.reduce == "ordered":
        msg = "with parallel.reduce = 'ordered' ranks have no fused step: it is the portable one"
        raise ConfigError(msg)
    plan = make_plan(
        engine.model, engine.loss, engine.optimizer, trainer.clip, by_rows=True, ranks=ranks,
        buckets=settings.buckets,
    )  # fmt: skip
    N, itemsize = (
        len(Share(0, ranks).positions(trainer.batch_size)),
        engine.state.params.dtype.itemsize,
    )
    lines = plan_lines(plan, engine.model, N, itemsize)
    if as_json:
        document = {"kind": "plan", "rows": N, "ranks": ranks}
        print_json({**document, "operations": lines, "portable": plan.portable})
        return
    rows = f"{N}" if ranks == 1 else f"{N} of {trainer.batch_size}"
    say(f"A fused training step on {rows} rows; bytes are read and written, each array once.")
    phase = ""
    for line in lines:
        if line.phase != phase:
            phase = line.phase
            say("", phase)
        portable = "" if line.fused else "  (portable: no kernel)"
        say(f"  {line.formula}", f"      {line.shapes}, {line.bytes:,} bytes{portable}")
    for name, why in plan.portable:
        say("", f"portable: {name}, because {why}")
