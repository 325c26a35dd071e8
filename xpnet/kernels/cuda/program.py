"""The work of one batch size on static buffers, put in line once."""

import math
from typing import Any, NamedTuple

import numpy as np

from xpnet.clipping import Clip
from xpnet.errors import DataError
from xpnet.kernels.cuda.executor import Call, Executor
from xpnet.kernels.cuda.rules import ELEMENTWISE, REDUCTIONS, ROWS, loss_setting, smoothing
from xpnet.kernels.cuda.rules import update as update_rule
from xpnet.kernels.cuda.stages import Affine, Stage
from xpnet.losses import CrossEntropy, Loss, SoftmaxCrossEntropy
from xpnet.mixed import Mixed
from xpnet.optimizers import Optimizer
from xpnet.params import Layout
from xpnet.step import Batch, Totals, TrainState
from xpnet.typing import Array

__all__ = ["LIMIT", "Buffers", "Program", "Task", "arrays"]

MOST_BLOCKS = 1024
WARP = 32
LIMIT = 2**31  # elements that an int counts


class Task(NamedTuple):
    """What is to be trained, as stages."""

    stages: list[Stage]
    widths: list[int]  # of the input and of each layer's output
    layout: Layout
    stats_layout: Layout
    loss: Loss
    optimizer: Optimizer
    clip: Clip
    n_random: int
    threads: int  # in a block
    mixed: Mixed | None = None


class Buffers(NamedTuple):
    """What all batch sizes share."""

    state: TrainState
    grad: Array  # (P,) of the sum of the losses
    denominator: Array  # (1,) by which that is divided
    factor: Array  # (1,) of clipping by norm
    partial: Array  # (MOST_BLOCKS,) sums of squares
    coefficients: Array  # (3,) lr, eps, keep
    step: Array
    cost_at: Array  # the address of this step's loss
    keys: list[Array]  # (2,) per random layer
    narrow: Array | None  # (P,) the parameters as layers use them in mixed precision
    good: Array | None  # (1,) whether the gradient is finite, where there is a loss scale
    stats_before: Array | None  # (S,) what they were before a step that may be left out

    @classmethod
    def around(cls, e: Executor, task: Task, state: TrainState) -> "Buffers":
        """Make the buffers; the arrays of the first state become part of them."""
        real = e.dtype

        def own(x: Array, dtype: str = real) -> Array:
            if e.owns(x) and str(x.dtype) == dtype:
                return x
            made = e.empty(tuple(x.shape), dtype)
            e.copy(made, x)
            return made

        t = state.totals
        totals = Totals(
            own(t.loss), own(t.denominator), own(t.hits), own(t.count), own(t.bad_step, "int32")
        )
        scale = None if state.scale is None else own(state.scale)
        slots = tuple(map(own, state.slots))
        state = TrainState(own(state.params), own(state.stats), slots, totals, scale)
        mixed = task.mixed
        scales = mixed is not None and mixed.scales
        return cls(
            state,
            e.empty(state.params.shape, real),
            e.empty((1,), real),
            e.empty((1,), real),
            e.empty((MOST_BLOCKS,), real),
            e.empty((3,), real),
            e.empty((1,), "int32"),
            e.empty((1,), "uint64"),
            [e.empty((2,), "int32") for _ in range(task.n_random)],
            e.empty(state.params.shape, e.stored) if mixed else None,
            e.empty((1,), "int32") if scales else None,
            e.empty(state.stats.shape, real) if scales and task.stats_layout.size else None,
        )


class Program:
    """The work of one batch size, put in line once: what a stage may do (stages.Work)."""

    def __init__(self, executor: Executor, task: Task, buffers: Buffers, batch: Batch) -> None:
        self.executor, self.task, self.buffers = executor, task, buffers
        self.calls: list[Call] = []
        N, widest = batch.x.shape[0], max(task.widths)
        if N * widest >= LIMIT:
            msg = f"a batch of {N} rows of {widest} is too large for the kernels; use less"
            raise DataError(msg)
        self._scratch = [self.empty((N * widest,)) for _ in range(2)]
        used = buffers.state.params if buffers.narrow is None else buffers.narrow
        self._tensors = task.layout.split(used)
        self._gradients = task.layout.split(buffers.grad)
        self._statistics = task.stats_layout.split(buffers.state.stats)
        self.x = self.sums((N, task.widths[0]))
        self.weight = None if batch.weight is None else self.sums((N,))
        self._differentiate(N, task.widths[-1], batch)
        self._update()

    # -- what a stage asks for ----------------------------------------------------------------

    def empty(self, shape: tuple[int, ...]) -> Array:
        """What a layer stores."""
        return self.executor.empty(shape, self.executor.stored)

    def sums(self, shape: tuple[int, ...]) -> Array:
        """What is summed up, in the dtype of the parameters."""
        return self.executor.empty(shape, self.executor.dtype)

    def scratch(self, shape: tuple[int, ...]) -> Array:
        """One of two buffers in turn: a gradient lives until the next one is made."""
        self._scratch.reverse()
        return self._scratch[0][: math.prod(shape)].reshape(shape)

    def parameter(self, layer: int, name: str) -> Array | None:
        return self._tensors[layer].get(name)

    def gradient(self, layer: int, name: str) -> Array | None:
        return self._gradients[layer].get(name)

    def statistic(self, layer: int, name: str) -> Array:
        return self._statistics[layer][name]

    @property
    def add(self) -> int:
        """Whether gradients are added to what is there."""
        return 0

    def keys(self, index: int) -> Array:
        return self.buffers.keys[index]

    def product(self, a: Array, b: Array, out: Array) -> None:
        self.calls.append(self.executor.product(a, b, out))

    def blocks(self, size: int) -> int:
        """How many blocks share ``size`` elements; each strides over what is left."""
        return max(1, min(-(-size // self.task.threads), MOST_BLOCKS))

    def launch(self, kernel: str, grid: int | tuple[int, int], *given: Any) -> None:
        grid = grid if isinstance(grid, tuple) else (grid, 1)
        self.calls.append(self.executor.launch(kernel, grid, self.task.threads, *given))

    def launch_patches(self, kernel: str, grid: tuple[int, int], *given: Any) -> None:
        """Launch blocks of more threads: there are few, and each has many rows to add up."""
        threads = min(4 * self.task.threads, 1024)
        self.calls.append(self.executor.launch(kernel, grid, threads, *given))

    # -- the step -----------------------------------------------------------------------------

    def _differentiate(self, N: int, K: int, batch: Batch) -> None:
        b, output, residuals = self.buffers, self._narrowed(), []
        if b.stats_before is not None:
            S = b.stats_before.shape[0]
            self.launch("copied", self.blocks(S), b.state.stats, b.stats_before, S, None)
        for stage in self.task.stages:
            output, residual = stage.forward(self, output)
            residuals.append(residual)
        self.y = self._target(output, batch)
        gradient: Array | None = self._loss(output, N, K)
        for stage, residual in zip(reversed(self.task.stages), reversed(residuals), strict=True):
            gradient = stage.backward(self, residual, gradient)
            if gradient is None:
                return

    def _narrowed(self) -> Array:
        """The batch as the first layer takes it; the parameters are rounded, too."""
        if self.buffers.narrow is None:
            return self.x
        narrow = self.empty(self.x.shape)
        for wide, own in ((self.x, narrow), (self.buffers.state.params, self.buffers.narrow)):
            size = math.prod(wide.shape)
            self.launch("narrowed", self.blocks(size), wide, own, size)
        return narrow

    def _target(self, output: Array, batch: Batch) -> Array:
        """The slot for targets; the portable loss explains shapes that are wrong."""
        self.task.loss.sums(self.sums(output.shape), batch.y, batch.weight)
        labels = isinstance(self.task.loss, ROWS) and len(batch.y.shape) == 1
        shape = batch.y.shape if labels else output.shape
        return self.executor.empty(shape, "int32" if labels else self.executor.dtype)

    def _loss(self, z: Array, N: int, K: int) -> Array:
        """Put the loss in line, and return where its gradient dz will be."""
        loss, b, totals = self.task.loss, self.buffers, self.buffers.state.totals
        last, bias = self.task.stages[-1], None
        if isinstance(last, Affine) and last.fused and last.layer is not None:
            bias, dz = self.parameter(last.layer, "b"), z
        else:
            dz = self.scratch((N, K))  # the last activation may keep z
        if isinstance(loss, ROWS):
            blocks = self.blocks(N * WARP)  # a warp per row
            partial = self.sums((4, blocks))
            self._softmax(loss, (z, bias, dz), blocks, partial)
        else:
            blocks = self.blocks(N * K)
            partial = self.sums((4, blocks))
            self.launch("elementwise_loss", blocks, z, bias, dz, self.y, self.weight, partial,
                        ELEMENTWISE[type(loss)], N, K, loss_setting(loss),
                        *self._scaling(N * K))  # fmt: skip
        has_hits = int(loss.predicts != "value")
        count = N if isinstance(loss, ROWS) else N * K
        self.launch("finish_loss", 1, partial, blocks, REDUCTIONS[loss.reduction], has_hits,
                    b.denominator, *totals, b.step, b.cost_at, *self._scaling(count),
                    b.good)  # fmt: skip
        return dz

    def _scaling(self, count: int) -> tuple[Array | None, float]:
        """By what the gradient is multiplied to fit 16 bits, beside ``count`` terms in the loss."""
        return self.buffers.state.scale, 1.0 if self.task.loss.reduction == "sum" else 1.0 / count

    def _softmax(
        self, loss: SoftmaxCrossEntropy | CrossEntropy, outputs: tuple, blocks: int, partial: Array
    ) -> None:
        N, K = outputs[0].shape
        labels, rows = (self.y, None) if len(self.y.shape) == 1 else (None, self.y)
        weights = None
        if loss.class_weights is not None:
            weights = self.executor.place(np.array(loss.class_weights, self.executor.dtype))
        ignored = loss.ignore_label
        self.launch("softmax_cross_entropy", blocks, *outputs, labels, rows, weights,
                    self.weight, partial, N, K, *smoothing(loss, K), int(ignored is not None),
                    ignored or 0, int(isinstance(loss, CrossEntropy)),
                    *self._scaling(N))  # fmt: skip

    def _update(self) -> None:
        b, clip, optimizer = self.buffers, self.task.clip, self.task.optimizer
        size, limit, factor = b.grad.shape[0], clip.value or 0.0, None
        blocks = self.blocks(size)
        if b.good is not None:
            self.launch("find_overflow", blocks, b.grad, b.good, size)
        if clip.norm is not None:
            factor = b.factor
            self.launch("squared_norm", blocks, b.grad, b.denominator, limit, b.partial, size)
            self.launch("clip_factor", 1, b.partial, blocks, clip.norm, factor)
        kernel, last, decay = update_rule(optimizer, b.state.slots)
        self.launch(kernel, blocks, b.state.params, b.grad, b.denominator, limit, factor, decay,
                    b.good, b.coefficients, size, *last)  # fmt: skip
        if b.stats_before is not None:
            S = b.stats_before.shape[0]
            self.launch("copied", self.blocks(S), b.stats_before, b.state.stats, S, b.good)
        if self.task.mixed is not None and b.good is not None:
            self.launch("next_scale", 1, b.state.scale, b.good, self.task.mixed.growth)

    # -- running it ---------------------------------------------------------------------------

    def fill(self, batch: Batch) -> None:
        """Copy a batch into the slots."""
        copy = self.executor.copy
        copy(self.x, batch.x.reshape(self.x.shape))
        copy(self.y, batch.y.reshape(self.y.shape))
        if self.weight is not None:
            copy(self.weight, batch.weight)

    def run(self) -> None:
        """Do the work, one launch after the other."""
        for call in self.calls:
            call()


def arrays(state: TrainState) -> list[Array]:
    """Return what a step writes into."""
    scale = [] if state.scale is None else [state.scale]
    return [state.params, state.stats, *state.slots, *scale, *state.totals]
