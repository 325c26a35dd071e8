"""What is trained, and the static buffers shared by all batch sizes."""

from typing import NamedTuple

import numpy as np

from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.padding import Padding
from xpnet.kernels.cuda.sources import MOST_NUMBERS, MOST_WORDS, given
from xpnet.kernels.operations import Place, Plan
from xpnet.nn import Sequential
from xpnet.nn.layout import Layout
from xpnet.nn.losses import Loss
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Optimizer
from xpnet.parallel import WHOLE, Comm, Share
from xpnet.step import Totals, TrainState
from xpnet.step.mixed_precision import CANDIDATES, Mixed
from xpnet.typing import Array

__all__ = ["LONG_ROW", "MOST_BLOCKS", "WARP", "Buffers", "Task", "arrays", "blocks", "many_blocks"]

MOST_BLOCKS = 1024
PACKS = 4  # that a thread takes in turn where there are more than that many blocks
WARP = 32  # threads
SUMS = 4  # of a loss: totals.cuh
LINE = 128  # bytes, at a multiple of which these begin behind the gradient
LONG_ROW = 1024  # entries from which a row has a block, not a warp


class Task(NamedTuple):
    """What is trained, and the plan of its step."""

    model: Sequential
    plan: Plan
    layout: Layout
    stats_layout: Layout
    loss: Loss
    optimizer: Optimizer
    clip: Clip
    threads: int  # in a block
    mixed: Mixed | None = None
    share: Share = WHOLE  # this rank's of each batch, and its micro-batches
    comm: Comm | None = None  # the ranks, where several share a batch
    padding: Padding | None = None

    @property
    def working_layout(self) -> Layout:
        """The layout of the parameters that layers read, and of their gradient."""
        return self.layout if self.padding is None else self.padding.layout

    @property
    def widths(self) -> list[int]:
        """The numbers in a row of each buffer."""
        return self.plan.widths if self.padding is None else self.padding.buffers

    def width(self, place: Place) -> int:
        """Return the numbers in a row of a place."""
        return place.width if self.padding is None else self.padding.places[place.name]

    @property
    def sets(self) -> int:
        """How many sets of coefficients a step is given: with a loss scale, to choose from."""
        return CANDIDATES if self.mixed is not None and self.mixed.scales else 1

    @property
    def numbers(self) -> int:
        """How many coefficients an update takes."""
        return len(self.optimizer.coefficients(self.optimizer.lr, 1))

    @property
    def bias_of_loss(self) -> int | None:
        """The layer whose bias the loss adds, if it also sums up the gradient of that."""
        op = self.plan.loss
        return op.bias if op.element is None and op.output.width <= WARP else None


class Buffers(NamedTuple):
    """The buffers shared by all batch sizes."""

    state: TrainState
    given: np.ndarray  # the numbers of one step or several, on the host
    kept: Array  # (MOST_WORDS,) the same, for all but the first
    grad: Array  # (P,) gradient of the sum of the losses, or of more with pads
    shared: Array | None  # what is summed over the ranks: the gradient, and SUMS at the end
    denominator: Array  # (1,) that it is divided by
    factor: Array  # (1,) for clipping by norm
    partial: Array  # (MOST_BLOCKS,) sums of squares
    turns: Array  # (1,) how many blocks of a launch have finished
    coefficients: Array  # (MOST_NUMBERS,) of the update
    step: Array
    cost_at: Array  # the address of this step's loss
    keys: Array  # (2 random layers,)
    working: Array | None  # the parameters rounded or with pads, as layers read them
    tensors: Array | None  # where the numbers of the flat vectors are among the pads
    good: Array | None  # (1,) whether the gradient is finite, if there is a loss scale
    stats_before: Array | None  # (S,) the statistics before a step that may be skipped
    staged: np.ndarray | None  # where `shared` is on the host, if that sums it

    @classmethod
    def around(cls, e: Executor, task: Task, state: TrainState) -> "Buffers":
        """Make the buffers around the first state, whose arrays become part of them."""
        real = e.dtype

        def own(x: Array, dtype: str = real) -> Array:
            if e.owns(x) and str(x.dtype) == dtype:
                return x
            copy = e.empty(tuple(x.shape), dtype)
            e.copy(copy, x)
            return copy

        t = state.totals
        totals = Totals(
            own(t.loss),
            own(t.denominator),
            own(t.correct),
            own(t.counted),
            own(t.bad_step, "int32"),
        )
        mixed = task.mixed
        scales = mixed is not None and mixed.scales
        scale = None if state.scale is None else own(state.scale)
        skipped = None if state.skipped is None else own(state.skipped, "int32")
        if skipped is None and scales:
            skipped = e.place(np.zeros((), "int32"))
        slots = tuple(map(own, state.slots))
        state = TrainState(own(state.params), own(state.stats), slots, totals, scale, skipped)
        (grad, shared), (working, tensors) = _gradient(e, task), _working_copy(e, task)
        through_host = shared is not None and task.comm and not task.comm.takes_device
        return cls(
            state,
            given(),
            e.empty((MOST_WORDS,), "uint64"),
            grad,
            shared,
            e.empty((1,), real),
            e.empty((1,), real),
            e.empty((MOST_BLOCKS,), real),
            e.place(np.zeros(1, "uint32")),
            e.empty((MOST_NUMBERS,), real),
            e.empty((1,), "int32"),
            e.empty((1,), "uint64"),
            e.empty((2 * task.model.n_random,), "int32"),
            working,
            tensors,
            e.empty((1,), "int32") if scales else None,
            e.empty(state.stats.shape, real) if scales and task.stats_layout.size else None,
            e.pinned(shared.shape, real) if shared is not None and through_host else None,
        )

    @property
    def sums(self) -> Array | None:
        """(SUMS,) those of the loss that go to the ranks with the gradient."""
        return None if self.shared is None else self.shared[-SUMS:]


def _gradient(e: Executor, task: Task) -> tuple[Array, Array | None]:
    """Make the gradient, and what is summed over ranks; pads are zero where nobody writes."""
    size = task.working_layout.size
    if task.comm is not None:
        line = LINE // np.dtype(e.dtype).itemsize
        shared = e.place(np.zeros(-(-size // line) * line + SUMS, e.dtype))
        return shared[:size], shared
    pads = task.padding is not None
    return e.place(np.zeros(size, e.dtype)) if pads else e.empty((size,), e.dtype), None


def _working_copy(e: Executor, task: Task) -> tuple[Array | None, Array | None]:
    """Make it, where there is one, and the table of what is padded there."""
    size, padding = task.working_layout.size, task.padding
    if padding is None:
        return e.empty((size,), e.stored) if task.mixed else None, None
    return e.place(np.zeros(size, e.stored)), e.place(padding.tensors)


def arrays(state: TrainState) -> list[Array]:
    """Return the arrays that a step writes to."""
    scale, skipped = ([] if x is None else [x] for x in (state.scale, state.skipped))
    return [state.params, state.stats, *state.slots, *scale, *state.totals, *skipped]


def blocks(size: int, threads: int) -> int:
    """Return how many blocks share ``size`` elements; threads stride over the rest."""
    return max(1, min(-(-size // threads), MOST_BLOCKS))


def many_blocks(packs: int, threads: int) -> int:
    """Return how many blocks share so many packs, none of which has sums.

    A kernel of many registers does not have MOST_BLOCKS at once on a GPU: of just these, the last
    would run alone. Of many short ones, the next begins wherever one ends.
    """
    return max(blocks(packs, threads), -(-packs // (PACKS * threads)))
