"""The work of one batch size on static buffers, recorded once."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from xpnet.errors import DataError
from xpnet.kernels.cuda.blas import Rest
from xpnet.kernels.cuda.buffers import Buffers, Task, blocks, many_blocks
from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.lanes import Recorded, Span
from xpnet.kernels.cuda.sources import PACK, WRITTEN, Kernel, parameters
from xpnet.kernels.operations import AllReduce, Place
from xpnet.kernels.plan import ROW_LOSSES
from xpnet.nn import Layer
from xpnet.parallel.share import micro_batch_rows
from xpnet.step import Batch
from xpnet.typing import Array

__all__ = ["LIMIT", "Program", "launches"]

LIMIT = 2**31  # elements, which an int can no longer count


class Program:
    """The buffers of one batch size, and the calls recorded on them.

    Micro-batches are computed in turn, in the same buffers, and their gradients added up: ``piece``
    is the one that is being recorded. Where ranks share the batch, ``whole`` are the rows of all;
    those of a micro-batch may all be elsewhere.
    """

    def __init__(
        self, executor: Executor, task: Task, buffers: Buffers, batch: Batch, whole: int
    ) -> None:
        self.executor, self.task, self.buffers = executor, task, buffers
        self.calls: list[Recorded] = []
        widths, output = task.widths, math.prod(task.model.output_shape)
        N, widest = batch.x.shape[0], max(widths)
        if N * widest >= LIMIT:
            msg = f"a batch of {N} rows of {widest} is too large for the kernels: "
            msg += f"use a batch of at most {(LIMIT - 1) // widest} rows"
            raise DataError(msg)
        self.N, self.whole = N, whole
        self.pieces = [piece for (piece,) in task.share.pieces(whole)]
        if sum(piece.end - piece.begin for piece in self.pieces) != N:
            msg = f"this rank's rows of a batch of {whole} are not {N}"
            raise DataError(msg)
        self.piece, self.is_last, self.whole_rows = self.pieces[0], False, 0
        params = buffers.state.params if buffers.working is None else buffers.working
        self._tensors = task.working_layout.split(params)
        self._gradients = task.working_layout.split(buffers.grad)
        self._statistics = task.stats_layout.split(buffers.state.stats)
        self._matrices: dict[int, Array] = {}
        self._sums: dict[str, Array] = {}
        self.x, self.y = self._stored(N * widths[0]), self._target(batch, (N, output))
        self.weight = None if batch.weight is None else executor.empty((N,), executor.dtype)

    # -- the micro-batch that is being recorded -----------------------------------------------

    def micro_batches(self) -> Iterator[None]:
        """Go through the micro-batches, of which some may have no rows here."""
        of_ranks = micro_batch_rows(self.whole, self.task.share.micro_batches)
        for piece, (first, last) in zip(self.pieces, of_ranks, strict=True):
            self.piece, self.whole_rows, self.is_last = piece, last - first, last == self.whole
            yield

    @property
    def rows(self) -> int:
        """The rows of the micro-batch."""
        return self.piece.end - self.piece.begin

    @property
    def add(self) -> int:
        """Whether gradients are added to those of earlier micro-batches."""
        return int(self.piece.begin > 0)

    @property
    def finishes(self) -> bool:
        """Whether no later micro-batch has rows here."""
        return self.piece.end == self.N

    @property
    def beside(self) -> int:
        """The lane of what may run beside the rest; that of sums over ranks has nothing else."""
        return int(len(self.task.plan.sums) < 2)

    def part(self, x: Array | None) -> Array | None:
        """The micro-batch's rows of what has a row for each example."""
        return None if x is None else x[self.piece.begin : self.piece.end]

    # -- buffers ------------------------------------------------------------------------------

    def layer(self, index: int) -> Layer:
        return self.task.model.layers[index]

    def at(self, place: Place) -> Array:
        """The matrix at a place of the plan, of which the micro-batches share a buffer."""
        width = self.task.width(place)
        if place.buffer == 0:
            begin, end = self.piece.begin * width, self.piece.end * width
            return self.x[begin:end].reshape((self.rows, width))
        if place.buffer not in self._matrices:
            most = max(piece.end - piece.begin for piece in self.pieces)
            size = most * self.task.widths[place.buffer]
            self._matrices[place.buffer] = self._stored(size)
        return self._matrices[place.buffer][: self.rows * width].reshape((self.rows, width))

    def _stored(self, size: int) -> Array:
        return self.executor.empty((size,), self.executor.stored)

    def sums(self, name: str, shape: tuple[int, ...]) -> Array:
        """A buffer for sums, in the dtype of the parameters."""
        size, kept = math.prod(shape), self._sums.get(name)
        if kept is None or kept.shape[0] < size:
            kept = self._sums[name] = self.executor.empty((size,), self.executor.dtype)
        return kept[:size].reshape(shape)

    def parameter(self, layer: int, name: str) -> Array:
        return self._tensors[layer][name]

    def gradient(self, layer: int, name: str) -> Array:
        return self._gradients[layer][name]

    def statistic(self, layer: int, name: str) -> Array:
        return self._statistics[layer][name]

    def keys(self, index: int) -> Array:
        return self.buffers.keys[2 * index : 2 * index + 2]

    # -- calls --------------------------------------------------------------------------------

    def product(self, a: Array, b: Array, out: Array, *, add: int = 0, lane: int = 0) -> None:
        call = self.executor.product(a, b, out, add=bool(add), lane=lane)
        self.calls.append(Recorded(call, self._spans([a, b]), self._spans([out]), lane))

    def _spans(self, arrays: Iterable[Array]) -> tuple[Span, ...]:
        at = ((self.executor.address(x), x.nbytes) for x in arrays)
        return tuple(Span(first, first + size) for first, size in at)

    def affine(self, a: Array, b: Array, bias: Array, out: Array, *, relu: bool) -> None:
        """Let the product that was recorded before the last launch do the work of that, too."""
        product, apart = self.calls[-2:]
        both = self.executor.affine(a, b, bias, out, relu=relu, apart=apart.run)
        reads = (*product.reads, *self._spans([bias]))
        self.calls[-2:] = [
            product._replace(run=both[0], reads=reads), apart._replace(run=both[1])
        ]  # fmt: skip

    def sum_gradients(self, op: AllReduce) -> None:
        """Sum a part of the gradient over the ranks."""
        b, entries = self.buffers, self.task.working_layout.entries
        assert b.shared is not None
        # Up to the next tensor, with the pads; the last one's is all that is left.
        begin, end = (
            next((e.start for e in entries if e.layer >= layer), b.shared.shape[0])
            for layer in (op.first, op.last)
        )
        self.sum_over_ranks(b.shared[begin:end])

    def sum_over_ranks(self, x: Array) -> None:
        """Sum a vector over the ranks, on the lane beside the rest if the gradient has parts."""
        comm, staged, spans = self.task.comm, self.buffers.staged, self._spans([x])
        assert comm is not None
        run = self.executor.summed(comm, x, None if staged is None else staged[: x.shape[0]])
        lane = 1 if len(self.task.plan.sums) > 1 else 0
        self.calls.append(Recorded(run, spans, spans, lane, apart=not comm.on_stream))

    def blocks(self, size: int) -> int:
        return blocks(size, self.task.threads)

    def many_blocks(self, packs: int) -> int:
        return many_blocks(packs, self.task.threads)

    @property
    def wide(self) -> int:
        """The numbers of a layer that a thread loads at once."""
        return PACK // np.dtype(self.executor.stored).itemsize

    def packed(self, J: int, *arrays: Array | None) -> bool:
        """Whether a kernel can load rows of J numbers of a layer in packs."""
        at = [self.executor.address(x) for x in arrays if x is not None]
        return J % self.wide == 0 and not any(address % PACK for address in at)

    def launch(
        self, kernel: str | Kernel, grid: int | tuple[int, int], *given: Any, lane: int = 0
    ) -> None:
        self.launch_of(self.task.threads, kernel, grid, *given, lane=lane)

    def launch_patches(self, kernel: str | Kernel, grid: tuple[int, int], *given: Any) -> None:
        """Launch blocks with more threads: there are few blocks, each with many rows to add up."""
        self.launch_of(min(4 * self.task.threads, 1024), kernel, grid, *given)

    def launch_of(
        self,
        threads: int,
        kernel: str | Kernel,
        grid: int | tuple[int, int],
        *given: Any,
        lane: int = 0,
    ) -> None:
        """Launch blocks of so many threads."""
        self.calls.append(self.recorded(kernel, grid, *given, lane=lane, threads=threads))

    def recorded(
        self,
        kernel: str | Kernel,
        grid: int | tuple[int, int],
        *given: Any,
        lane: int = 0,
        threads: int | None = None,
    ) -> Recorded:
        """Return a launch that is not one of :attr:`calls`."""
        grid = grid if isinstance(grid, tuple) else (grid, 1)
        kernel = WRITTEN[kernel] if isinstance(kernel, str) else kernel
        call = self.executor.launch(kernel, grid, threads or self.task.threads, *given)
        arrays = [pair for pair in zip(parameters(kernel), given, strict=False) if pair[0].pointer]
        reads, writes = (
            self._spans(x for p, x in arrays if p.constant == constant and x is not None)
            for constant in (True, False)
        )
        return Recorded(call, reads, writes, lane)

    # -- the batch ----------------------------------------------------------------------------

    def _target(self, batch: Batch, output: tuple[int, int]) -> Array:
        """The slot for targets; the portable loss raises the error for shapes that do not fit."""
        e, loss = self.executor, self.task.loss
        y, weight = (None if x is None else np.zeros(x.shape, str(x.dtype)) for x in batch[1:])
        loss.sums(np.ones(output, e.dtype), y, weight)
        labels = isinstance(loss, ROW_LOSSES) and len(batch.y.shape) == 1
        return e.empty(batch.y.shape if labels else output, "int32" if labels else e.dtype)


def launches(calls: Iterable[Recorded]) -> int:
    """Return how many of the calls launch something."""
    return sum(not (isinstance(call.run, Rest) and call.run.is_done()) for call in calls)
