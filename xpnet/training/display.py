"""What a trainer prints of itself."""

from typing import Any

from xpnet.data.columns import listed
from xpnet.nn.summary import Table
from xpnet.optim.clipping import Clip
from xpnet.parallel import Comm
from xpnet.parallel.settings import Parallel

__all__ = ["facts"]


def facts(trainer: Any, placed: str, step: str | None) -> Table:
    """Return what trains, where and how far: ``placed`` says where, ``step`` what takes the steps.

    ``step`` is None before it is chosen.
    """
    classes = trainer.classes
    epoch, batch, taken = trainer.position
    parts = f" in {trainer.accumulate} micro-batches" if trainer.accumulate > 1 else ""
    part = f", {batch} batches of the next" if batch else ""
    threads = trainer.chosen_threads
    rows = [
        ("loss", repr(trainer.loss)),
        ("optimizer", repr(trainer.optimizer)),
        ("schedule", repr(trainer.schedule)),
        *([] if trainer.clip == Clip() else [("clip", repr(trainer.clip))]),
        *([] if trainer.mixed is None else [("mixed", repr(trainer.mixed))]),
        *([] if classes is None else [("classes", listed([*map(repr, classes)]))]),
        ("batch", f"{trainer.batch_size} rows{parts}"),
        ("runs on", placed),
        ("step", step or f"{trainer.step}, chosen when the model is built"),
        *_ranks(trainer.comm, trainer.parallel),
        *([] if threads is None else [("threads", str(threads))]),
        ("trained", f"{epoch} epochs{part}; {taken} steps"),
    ]
    return Table([rows], "<<")


def _ranks(comm: Comm, parallel: Parallel) -> list[tuple[str, str]]:
    rows = []
    if comm.size > 1:
        how = comm.note or f"{comm.size} ranks, connected by {comm.name}"
        rows.append(("ranks", f"{how}; this is rank {comm.rank}"))
    if parallel != Parallel():
        rows.append(("parallel", repr(parallel)))
    return rows
