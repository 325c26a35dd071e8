"""The work of one batch size on static buffers, recorded once."""

import math
from typing import Any

import numpy as np

from xpnet.errors import DataError
from xpnet.kernels.cuda.buffers import Buffers, Task, blocks
from xpnet.kernels.cuda.executor import Call, Executor
from xpnet.kernels.cuda.rules import (
    ELEMENTWISE,
    REDUCTIONS,
    ROWS,
    loss_setting,
    smoothing,
    update_kernel,
)
from xpnet.kernels.cuda.stages import Affine
from xpnet.kernels.cuda.work import WARP
from xpnet.nn.losses import CrossEntropy, SoftmaxCrossEntropy
from xpnet.step import Batch
from xpnet.step.microbatch import micro_batch_rows
from xpnet.typing import Array

__all__ = ["LIMIT", "Program"]

LIMIT = 2**31  # elements, which an int can no longer count


class Program:
    """The work of one batch size, recorded once; it is the work.Work of the stages.

    Micro-batches are computed in turn, in the same buffers, and their gradients added up.
    """

    def __init__(self, executor: Executor, task: Task, buffers: Buffers, batch: Batch) -> None:
        self.executor, self.task, self.buffers = executor, task, buffers
        self.calls: list[Call] = []
        N, widest, output = batch.x.shape[0], max(task.widths), task.widths[-1]
        if N * widest >= LIMIT:
            msg = f"a batch of {N} rows of {widest} is too large for the kernels: "
            msg += f"use a batch of at most {(LIMIT - 1) // widest} rows"
            raise DataError(msg)
        self.N, self.first, self.add = N, 0, 0
        parts = micro_batch_rows(N, task.micro_batches)
        self._most = max(last - first for first, last in parts)
        self._static: list[Array] = []
        self._scratch = [self._empty((self._most * widest,)) for _ in range(2)]
        params = buffers.state.params if buffers.narrow is None else buffers.narrow
        self._tensors = task.layout.split(params)
        self._gradients = task.layout.split(buffers.grad)
        self._statistics = task.stats_layout.split(buffers.state.stats)
        self.x, self.y = self._empty((N, task.widths[0])), self._target(batch, (N, output))
        self.weight = None if batch.weight is None else executor.empty((N,), executor.dtype)
        self._class_weights = self._placed_class_weights()
        self._count = N * (1 if isinstance(task.loss, ROWS) else output)  # of terms in the loss
        partial = sum(self._loss_grid(last - first) for first, last in parts)
        self._partial, self._loss_blocks = executor.empty((partial, 4), executor.dtype), 0
        end = task.stages[-1]
        fused = isinstance(end, Affine) and end.fused and isinstance(task.loss, ROWS)
        self.loss_sums_bias = fused and output <= WARP
        self._columns = None
        if self.loss_sums_bias:
            self._columns = executor.empty((partial, output), executor.dtype)
        self._begin()
        for first, last in parts:
            self._differentiate(first, last)
        self._update()

    # -- what a stage uses --------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...]) -> Array:
        """A buffer for what a layer stores."""
        return self._reused(shape, self.executor.stored)

    def sums(self, shape: tuple[int, ...]) -> Array:
        """A buffer for sums, in the dtype of the parameters."""
        return self._reused(shape, self.executor.dtype)

    def _empty(self, shape: tuple[int, ...]) -> Array:
        return self.executor.empty(shape, self.executor.stored)

    def _reused(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The buffer that the previous micro-batch had at this point, if it is large enough.

        Micro-batches differ by at most one row, so one extra row is enough for all of them.
        """
        size, i = math.prod(shape), self._next
        self._next += 1
        if i == len(self._static) or self._static[i].shape[0] < size:
            extra = -(-size // self._rows) if self._rows < self._most else 0
            self._static[i : i + 1] = [self.executor.empty((size + extra,), dtype)]
        return self._static[i][:size].reshape(shape)

    def scratch(self, shape: tuple[int, ...]) -> Array:
        """Two buffers in alternation: a gradient stays valid while the next one is computed."""
        self._scratch.reverse()
        return self._scratch[0][: math.prod(shape)].reshape(shape)

    def parameter(self, layer: int, name: str) -> Array | None:
        return self._tensors[layer].get(name)

    def gradient(self, layer: int, name: str) -> Array | None:
        return self._gradients[layer].get(name)

    def statistic(self, layer: int, name: str) -> Array:
        return self._statistics[layer][name]

    def keys(self, index: int) -> Array:
        return self.buffers.keys[2 * index : 2 * index + 2]

    def product(self, a: Array, b: Array, out: Array, add: int = 0) -> None:
        self.calls.append(self.executor.product(a, b, out, add=bool(add)))

    def blocks(self, size: int) -> int:
        return blocks(size, self.task.threads)

    def launch(self, kernel: str, grid: int | tuple[int, int], *given: Any) -> None:
        grid = grid if isinstance(grid, tuple) else (grid, 1)
        self.calls.append(self.executor.launch(kernel, grid, self.task.threads, *given))

    def launch_patches(self, kernel: str, grid: tuple[int, int], *given: Any) -> None:
        """Launch blocks with more threads: there are few blocks, each with many rows to add up."""
        threads = min(4 * self.task.threads, 1024)
        self.calls.append(self.executor.launch(kernel, grid, threads, *given))

    # -- the step -----------------------------------------------------------------------------

    def _target(self, batch: Batch, output: tuple[int, int]) -> Array:
        """The slot for targets; the portable loss raises the error for shapes that do not fit."""
        e, loss = self.executor, self.task.loss
        loss.sums(e.empty(output, e.dtype), batch.y, batch.weight)
        labels = isinstance(loss, ROWS) and len(batch.y.shape) == 1
        return e.empty(batch.y.shape if labels else output, "int32" if labels else e.dtype)

    def _placed_class_weights(self) -> Array | None:
        weights = getattr(self.task.loss, "class_weights", None)
        if weights is None:
            return None
        return self.executor.place(np.array(weights, self.executor.dtype))

    def _begin(self) -> None:
        """Record what precedes the micro-batches; prepare the launch that is never in a graph."""
        b, e, labels = self.buffers, self.executor, str(self.y.dtype) == "int32"
        x_size, y_size = math.prod(self.x.shape), math.prod(self.y.shape)
        real = np.dtype(e.dtype)
        self._slot_dtypes = (real, np.dtype(self.y.dtype), real)  # others are converted first
        targets = (self.y, None) if labels else (None, self.y)
        self._begin_step = e.launch(
            "begin_step", (self.blocks(x_size), 1), self.task.threads, b.now, b.coefficients,
            b.step, b.cost_at, b.keys, b.keys.shape[0], self.x, x_size, *targets, y_size,
            self.weight, self.N,
        )  # fmt: skip
        if b.stats_before is not None:
            S = b.stats_before.shape[0]
            self.launch("copied", self.blocks(S), b.state.stats, b.stats_before, S, None)

    def _differentiate(self, first: int, last: int) -> None:
        """Record forward, loss and backward of the rows ``first`` to ``last``."""
        self.first, self.add, self._rows, self._next = first, int(first > 0), last - first, 0
        output, residuals = self.x[first:last], []
        for stage in self.task.stages:
            output, residual = stage.forward(self, output)
            residuals.append(residual)
        gradient: Array | None = self._loss(output, first, last)
        for stage, residual in zip(reversed(self.task.stages), reversed(residuals), strict=True):
            gradient = stage.backward(self, residual, gradient)
            if gradient is None:
                return

    def _loss(self, z: Array, first: int, last: int) -> Array:
        """Record the loss; return the buffer of its gradient dz."""
        loss, stage, bias = self.task.loss, self.task.stages[-1], None
        N, K = z.shape
        dbias = None
        if isinstance(stage, Affine) and stage.fused and stage.layer is not None:
            bias, dz = self.parameter(stage.layer, "b"), z
            dbias = self.gradient(stage.layer, "b") if self.loss_sums_bias else None
        else:
            dz = self.scratch((N, K))  # backward of the last activation may need z
        y, weight = self.y[first:last], None if self.weight is None else self.weight[first:last]
        if isinstance(loss, SoftmaxCrossEntropy | CrossEntropy):
            ignored = loss.ignore_label
            targets = (y, None) if len(y.shape) == 1 else (None, y)
            self.launch("softmax_cross_entropy", self._loss_grid(N), z, bias, dz, *targets,
                        self._class_weights, weight, N, K, *smoothing(loss, K),
                        int(ignored is not None), ignored or 0,
                        int(isinstance(loss, CrossEntropy)), self._columns, dbias,
                        *self._finish(first, last))  # fmt: skip
        else:
            self.launch("elementwise_loss", self._loss_grid(N), z, bias, dz, y, weight,
                        ELEMENTWISE[type(loss)], N, K, loss_setting(loss),
                        *self._finish(first, last))  # fmt: skip
        return dz

    def _loss_grid(self, rows: int) -> int:
        by_row = isinstance(self.task.loss, ROWS)
        return self.blocks(rows * (WARP if by_row else self.task.widths[-1]))

    def _finish(self, first: int, last: int) -> tuple[Any, ...]:
        """The arguments FINISH of loss.cu, for the sums over all micro-batches."""
        b, loss, before = self.buffers, self.task.loss, self._loss_blocks
        self._loss_blocks += self._loss_grid(last - first)
        # In 16 bits the gradient is multiplied by this, to fit however many terms the loss has.
        share = 1.0 if loss.reduction == "sum" else 1.0 / self._count
        return (b.state.scale, share, self._partial, before, int(last == self.N), b.turns,
                REDUCTIONS[loss.reduction], int(loss.predicts != "value"), b.denominator,
                *b.state.totals, b.step, b.cost_at, b.good)  # fmt: skip

    def _update(self) -> None:
        b, clip, optimizer = self.buffers, self.task.clip, self.task.optimizer
        size, limit, factor = b.grad.shape[0], clip.value or 0.0, None
        grid = self.blocks(size)
        if b.good is not None:
            self.launch("find_overflow", grid, b.grad, b.good, size)
        if clip.norm is not None:
            factor = b.factor
            self.launch("clip_factor", grid, b.grad, b.denominator, limit, b.partial, b.turns,
                        clip.norm, factor, size)  # fmt: skip
        kernel, last, decay = update_kernel(optimizer, b.state.slots)
        self.launch(kernel, grid, b.state.params, b.grad, b.denominator, limit, factor, decay,
                    b.good, b.narrow, b.coefficients, size, *last)  # fmt: skip
        if b.stats_before is not None:
            S = b.stats_before.shape[0]
            self.launch("copied", self.blocks(S), b.stats_before, b.state.stats, S, b.good)
        if self.task.mixed is not None and b.good is not None:
            self.launch("next_scale", 1, b.state.scale, b.good, self.task.mixed.growth)

    # -- running ------------------------------------------------------------------------------

    def begin(self, batch: Batch) -> None:
        """Copy a batch into the slots, and the numbers in ``buffers.now`` to the device."""
        e, now = self.executor, self.buffers.now
        kept = []  # alive until it is copied
        for name, dtype, x in zip(("x", "y", "weight"), self._slot_dtypes, batch, strict=True):
            if x is not None and not (x.dtype == dtype and e.owns(x)):
                converted = e.empty(tuple(x.shape), str(dtype))
                e.copy(converted, x)
                x = converted
            kept.append(x)
            now[name] = 0 if x is None else e.address(x)
        self._begin_step()

    def run(self) -> None:
        """Run the recorded work, one launch after another."""
        for call in self.calls:
            call()
