"""``xpnet show RUN --plan``: a fused training step, operation by operation."""

from xpnet.cli.output import print_json, say
from xpnet.kernels.plan import make_plan
from xpnet.kernels.plan_table import plan_lines
from xpnet.training.trainer import Trainer

__all__ = ["show_plan"]


def show_plan(trainer: Trainer, *, as_json: bool) -> None:
    """Print each operation with its formula, the shapes that it writes and the bytes it moves."""
    engine = trainer.engine
    plan = make_plan(engine.model, engine.loss, engine.optimizer, trainer.clip, by_rows=True)
    N, itemsize = trainer.batch_size, engine.state.params.dtype.itemsize
    lines = plan_lines(plan, engine.model, N, itemsize)
    if as_json:
        print_json({"kind": "plan", "rows": N, "operations": lines, "portable": plan.portable})
        return
    say(f"A fused training step on {N} rows; bytes are read and written, each array once.")
    phase = ""
    for line in lines:
        if line.phase != phase:
            phase = line.phase
            say("", phase)
        portable = "" if line.fused else "  (portable: no kernel)"
        say(f"  {line.formula}", f"      {line.shapes}, {line.bytes:,} bytes{portable}")
    for name, why in plan.portable:
        say("", f"portable: {name}, because {why}")
