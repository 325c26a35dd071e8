"""The launches of a whole step: those of the layers, of the loss and of the update."""

from collections.abc import Iterator

import numpy as np

from xpnet.errors import UnsupportedError
from xpnet.kernels.cuda import printed
from xpnet.kernels.cuda.batch_program import Program
from xpnet.kernels.cuda.buffers import LONG_ROW, MOST_BLOCKS, WARP, Buffers, Task
from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.layer_operations import RECORD, affine_and_map, differentiates
from xpnet.kernels.cuda.sources import PACK, WRITTEN, Kernel
from xpnet.kernels.operations import (
    Affine,
    AllReduce,
    Barrier,
    Drop,
    LossStep,
    Map,
    MapBackward,
    Norm,
    NormBackward,
    Operation,
    SoftmaxForward,
    Update,
)
from xpnet.nn import BatchNorm
from xpnet.nn.losses import CrossEntropy, SoftmaxCrossEntropy
from xpnet.step import Batch

__all__ = ["REDUCTIONS", "kernels", "recorded"]

REDUCTIONS = {"mean": 0, "mean_count": 1, "sum": 2}  # the enum in totals.cuh
FEW_ROWS = 64  # that the cross-entropy of short rows takes in one block
MOST_WARPS = 16  # of a long row


def recorded(executor: Executor, task: Task, buffers: Buffers, batch: Batch, whole: int) -> Program:
    """Return the program of a batch's size with all its launches; ``whole`` are all ranks' rows."""
    work = Program(executor, task, buffers, batch, whole)
    b, plan = buffers, task.plan
    if b.stats_before is not None:
        S = b.stats_before.shape[0]
        work.launch("copied", work.blocks(S), b.state.stats, b.stats_before, S, None)
    loss = _Loss(work, plan.loss)
    if work.N == 0:  # other ranks have all rows
        assert b.shared is not None
        work.launch("cleared", work.blocks(b.shared.shape[0]), b.shared, b.shared.shape[0])
    for _ in work.micro_batches():
        _forward(work)
        if work.rows:
            loss.record()
        for op in plan.backward:
            if isinstance(op, AllReduce):
                if work.is_last:
                    work.sum_gradients(op)
            elif work.rows or _meets(op):
                RECORD[type(op)](work, op)
    if plan.barrier:
        work.launch("add_shared", 1, b.sums, *loss.scaling(), *loss.outcome())
    _update(work)
    return work


def _meets(op: Operation) -> bool:
    """Whether the ranks meet within an operation, also those without rows of the micro-batch."""
    return isinstance(op, Norm | NormBackward) and op.ranks > 1


def _forward(work: Program) -> None:
    operations = [op for op in work.task.plan.forward if work.rows or _meets(op)]
    while operations:
        op, *operations = operations
        if isinstance(op, Affine) and operations and isinstance(then := operations[0], Map):
            affine_and_map(work, op, then)
            operations.pop(0)
        else:
            RECORD[type(op)](work, op)


class _Loss:
    """The loss of the micro-batches, which share the sums of the blocks."""

    def __init__(self, work: Program, op: LossStep) -> None:
        self.work, self.op, self.before = work, op, 0
        e, loss, K = work.executor, work.task.loss, op.output.width
        self.K, self.by_row = K, op.element is None
        blocks = sum(self.shape(p.end - p.begin)[0] for p in work.pieces if p.end > p.begin)
        self.partial = e.empty((blocks, 4), e.dtype)
        sums_bias = work.task.bias_of_loss is not None
        self.columns = e.empty((blocks, K), e.dtype) if sums_bias else None
        weights = getattr(loss, "class_weights", None) if self.by_row else None
        self.class_weights = None if weights is None else e.place(np.array(weights, e.dtype))

    def shape(self, rows: int) -> tuple[int, int]:
        """The blocks for so many rows, and their threads."""
        threads = min(self.work.task.threads, MOST_WARPS * WARP)
        if self.by_row and self.K > LONG_ROW:
            each = held(self.K) or 1
            warps = min(-(-self.K // (each * WARP)), MOST_WARPS)
            return min(rows, MOST_BLOCKS), warps * WARP
        if self.by_row and self.K <= WARP and rows <= FEW_ROWS:
            return 1, min(rows, 32) * WARP
        return self.work.blocks(rows * (WARP if self.by_row else self.K)), threads

    def record(self) -> None:
        work, op, loss, K = self.work, self.op, self.work.task.loss, self.K
        z, dz = work.at(op.output), work.at(op.gradient)
        bias = None if op.bias is None else work.parameter(op.bias, "b")
        N, y, weight = work.rows, work.part(work.y), work.part(work.weight)
        blocks, threads = self.shape(N)
        labels = str(work.y.dtype) == "int32"
        given: tuple = (y, weight, N, K)
        width = work.task.width(op.output)
        packed = labels and self.work.packed(K, z, bias, dz)
        kernel = loss_kernel(work.task, labels=labels, packed=packed)
        if isinstance(loss, SoftmaxCrossEntropy | CrossEntropy) and self.by_row:
            targets = (y, None) if labels else (None, y)
            ignored, smoothing = loss.ignore_label, loss.label_smoothing
            target = (1.0 - smoothing, smoothing / K, ignored is not None, ignored or 0)
            dbias = None
            if work.task.bias_of_loss is not None:
                dbias = work.gradient(work.task.bias_of_loss, "b")
            if kernel.file == "labelled_rows.cu":
                given = (y, weight, N, K, width, *target, self.columns, dbias)
            else:
                given = (*targets, self.class_weights, weight, N, K, width, *target,
                         isinstance(loss, CrossEntropy), self.columns, dbias)  # fmt: skip
        work.launch_of(threads, kernel, blocks, z, bias, dz, *given, *self.finish())
        self.before += blocks

    def finish(self) -> tuple:
        """The arguments FINISH of totals.cuh, for the sums over all micro-batches."""
        b = self.work.buffers
        return (*self.scaling(), self.partial, self.before, self.work.finishes, b.turns, b.sums,
                *self.outcome())  # fmt: skip

    def scaling(self) -> tuple:
        """The loss scale, and what the gradient in 16 bits is multiplied by beside it.

        That is to fit however many terms the loss of the whole batch has.
        """
        terms = self.work.whole * (1 if self.by_row else self.K)
        share = 1.0 if self.work.task.loss.reduction == "sum" else 1.0 / terms
        return self.work.buffers.state.scale, share

    def outcome(self) -> tuple:
        """The arguments OUTCOME of totals.cuh."""
        b, element = self.work.buffers, self.op.element
        has_correct = element is None or element.correct is not None
        return (REDUCTIONS[self.work.task.loss.reduction], has_correct, b.denominator,
                *b.state.totals, b.step, b.cost_at, b.good)  # fmt: skip


def held(K: int) -> int:
    """Return how many of K entries of a row a lane of a warp or a block holds; 0 if too many."""
    lanes, sizes = (MOST_WARPS * WARP, (16, 32)) if K > LONG_ROW else (WARP, (1, 8, 16, 32))
    return next((n for n in sizes if n * lanes >= K), 0)


def loss_kernel(task: Task, *, labels: bool, packed: bool) -> Kernel:
    """Return the kernel of the loss for labels or rows; ``packed``: rows are aligned packs."""
    op, loss = task.plan.loss, task.loss
    if op.element is not None:
        return printed.element_loss(op.element)
    K, block = op.output.width, op.output.width > LONG_ROW
    plain = isinstance(loss, SoftmaxCrossEntropy) and loss.class_weights is None
    if labels and plain and held(K):
        return printed.labelled_rows(held(K), packed=packed and K > WARP, block=block)
    return printed.cross_entropy(held(K) if block or K <= WARP else 0, block=block)


def _update(work: Program) -> None:
    b, task = work.buffers, work.task
    size, factor = b.state.params.shape[0], None
    packs = -(-size * b.grad.itemsize // PACK)
    if b.good is not None:  # a pad is only not finite where another number is not
        work.launch("find_overflow", work.many_blocks(packs), b.grad, b.good, b.grad.shape[0])
    if task.clip.norm is not None:
        factor = b.factor
        work.launch(clip_kernel(task), work.blocks(packs), b.grad, b.tensors, b.denominator,
                    b.partial, b.turns, factor, size)  # fmt: skip
    work.launch(update_kernel(task), work.many_blocks(packs), b.state.params, b.grad, b.tensors,
                b.denominator, factor, b.good, b.working, b.coefficients, size,
                *b.state.slots)  # fmt: skip
    if b.stats_before is not None:
        S = b.stats_before.shape[0]
        work.launch("copied", work.blocks(S), b.stats_before, b.state.stats, S, b.good)
    if task.mixed is not None and b.good is not None:
        work.launch("next_scale", 1, b.state.scale, b.state.skipped, b.good, task.mixed.growth)


def update_kernel(task: Task) -> Kernel:
    """Return the kernel of the update rule."""
    formula, label = task.plan.updates[0].formula, type(task.optimizer).__name__
    assert formula is not None
    return printed.update(formula, label, apart=task.padding is not None)


def clip_kernel(task: Task) -> Kernel:
    """Return the kernel that clips the norm of the gradient."""
    return printed.clip_factor(task.clip, apart=task.padding is not None)


def kernels(task: Task) -> list[Kernel]:
    """Return the kernels that the steps of a task launch.

    Raises UnsupportedError where a formula has more numbers than a kernel takes.
    """
    found = [WRITTEN["begin_step"], WRITTEN["copied"]]
    for op in task.plan.operations():
        try:
            found.extend(_of(task, op))
        except UnsupportedError as error:
            msg = f"{_name(task, op)} has no kernel: {error}"
            raise UnsupportedError(msg) from error
    return list(dict.fromkeys(found))


def _name(task: Task, op: Operation) -> str:
    if isinstance(op, LossStep | Update):
        return type(task.loss if isinstance(op, LossStep) else task.optimizer).__name__
    assert not isinstance(op, AllReduce | Barrier)  # they have no formula
    return f"layer {op.layer}"


def _of(task: Task, op: Operation) -> Iterator[Kernel]:
    layer = task.model.layers[getattr(op, "layer", 0)]
    if isinstance(op, Map):
        yield printed.activation("bias_activation", op.f)
    elif isinstance(op, MapBackward) and differentiates(task, op):
        yield printed.derivative("activation_backward", op.f)
    elif isinstance(op, Norm):
        yield printed.activation(
            "batch_norm" if isinstance(layer, BatchNorm) else "layer_norm", op.f
        )
    elif isinstance(op, NormBackward):
        kind = "batch_norm" if isinstance(layer, BatchNorm) else "layer_norm"
        yield printed.derivative("norm_gradients", op.f)
        yield printed.derivative(f"{kind}_backward", op.f)
    elif isinstance(op, SoftmaxForward):
        yield WRITTEN["softmax"]
    elif isinstance(op, Drop):
        yield WRITTEN["dropout"]
    elif isinstance(op, Barrier):
        yield from (WRITTEN["cleared"], WRITTEN["add_shared"])
    elif isinstance(op, LossStep):
        yield loss_kernel(task, labels=True, packed=op.output.width % 8 == 0)  # likely
    elif isinstance(op, Update):
        yield update_kernel(task)
        if task.clip.norm is not None:
            yield clip_kernel(task)
