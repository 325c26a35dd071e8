"""How steps begin: the numbers and the batch of each are put where its launches read them."""

import math
import weakref
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from xpnet.kernels.cuda.batch_program import LIMIT, Program
from xpnet.kernels.cuda.buffers import blocks
from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.lanes import Call, Recorded
from xpnet.kernels.cuda.sources import PACK, WRITTEN, now
from xpnet.step import AnyBatch, Ordered, Rows, StepInputs
from xpnet.typing import Array

__all__ = ["Beginning", "Rounded", "Steps", "shapes"]

WORD = 8  # bytes
SHARE = 10  # of the free memory, one part for inputs that are rounded beforehand


class Steps(NamedTuple):
    """Several steps in a row: the launch that is never in a graph, and those that may be."""

    begin: Call
    calls: list[Recorded]

    def run(self) -> None:
        """Run them, one launch after another."""
        self.begin()
        for call in self.calls:
            call.run()


class Rounded:
    """The inputs of a data set as layers store them, in mixed precision: half the bytes to read.

    They are beside what they were rounded from, which evaluation and the portable formulas read; so
    only where they take a small share of the device's memory.
    """

    def __init__(self, executor: Executor, threads: int) -> None:
        self.executor, self.threads = executor, threads
        self._of: Callable[[], Array | None] = lambda: None
        self._stored: Array | None = None

    def of(self, x: Array) -> Array | None:
        """Return x rounded, made once; None where that would not be less, or takes too much."""
        e, size = self.executor, x.size
        if self._of() is not x:
            self._of, self._stored = weakref.ref(x), None
            fits = e.stored != e.dtype and size < LIMIT
            if fits and size * np.dtype(e.stored).itemsize <= e.free() // SHARE:
                self._stored = e.empty(tuple(x.shape), e.stored)
                grid = (blocks(size, self.threads), 1)
                e.launch(WRITTEN["narrowed"], grid, self.threads, x, self._stored, size)()
        return self._stored


class Beginning:
    """How the steps of a program begin.

    The first of several steps is begun by a launch with the numbers of all by value; the launches
    in between read their own, which that one has kept on the device.
    """

    def __init__(self, program: Program, rounded: Rounded) -> None:
        task, b = program.task, program.buffers
        self._rounded = rounded
        self.program, self.sets, self.numbers = program, task.sets, task.numbers
        n_keys, N, labels = b.keys.shape[0], program.N, str(program.y.dtype) == "int32"
        real = np.dtype(program.executor.dtype)
        self._dtypes = (real, np.dtype(program.y.dtype), real)  # others are converted first
        self._now = now(real.name, self.sets * self.numbers, n_keys)
        self._words: Any = b.given["words"]
        self._known: tuple[Any, tuple[int, ...] | None] = (lambda: None, None)
        J, width, K = task.plan.widths[0], task.widths[0], math.prod(program.y.shape[1:])
        targets = (program.y, None) if labels else (None, program.y)
        self._grid = program.blocks(-(-N * width * real.itemsize // PACK))
        self._batch = (
            self.numbers, self.sets, b.state.skipped, b.coefficients, b.step, b.cost_at, b.keys,
            n_keys, program.x, J, width, *targets, K, program.weight, N,
        )  # fmt: skip

    def steps(self, n: int) -> Steps:
        """Return n steps in a row, whose numbers fit into MOST_WORDS."""
        program, b = self.program, self.program.buffers
        words = self._now.size // WORD
        first = program.recorded(
            "begin_step", self._grid, b.given, b.kept, n * words * (n > 1), *self._batch
        )
        calls = [*program.calls]
        for i in range(1, n):
            kept = b.kept[i * words : (i + 1) * words]
            calls += [program.recorded("begin_next", self._grid, kept, *self._batch)]
            calls += program.calls
        return Steps(first.run, calls)

    def put(self, i: int, cost: int, batch: AnyBatch, inputs: StepInputs, kept: list) -> None:
        """Put the numbers of step i, counted from 0, where the next launch reads them.

        ``cost`` is the address of its loss. What is made for it is added to ``kept``: it must live
        until it was launched.
        """
        numbers, skipped = inputs.coefficients, 0
        if self.sets > 1 and len(numbers) > self.numbers:
            skipped, numbers = int(numbers[0]), numbers[1:]
        elif self.sets > 1:  # the same for any number of skipped steps
            numbers = tuple(numbers) * self.sets
        step = (inputs.step + 2**31) % 2**32 - 2**31  # wraps around, as int32 does
        self._now.pack_into(
            self._words, i * self._now.size, cost, *self._addresses(batch, kept), step, skipped,
            *numbers, *chain.from_iterable(inputs.keys),
        )  # fmt: skip

    def _addresses(self, batch: AnyBatch, kept: list) -> tuple[int, ...]:
        """The addresses of x, x as stored, y, weights and order."""
        e = self.program.executor
        if isinstance(batch, Rows):
            at = self._data(batch.of)
            if at is not None:
                return (*at[:4], at[4] + 4 * batch.first)
            batch = batch.gathered()
        found = []
        for dtype, x in zip(self._dtypes, batch, strict=True):
            if x is not None and not self._fits(x, dtype):
                converted = e.empty(tuple(x.shape), str(dtype))
                e.copy(converted, x)
                x = converted
            kept.append(x)
            found.append(0 if x is None else e.address(x))
        return (found[0], 0, *found[1:], 0)

    def _data(self, of: Ordered) -> tuple[int, ...] | None:
        """The addresses of a data set, unless it has to be converted; looked up once."""
        if self._known[0]() is not of:
            e, at = self.program.executor, None
            pairs = [*zip((*of.data, of.order), (*self._dtypes, np.dtype("int32")), strict=True)]
            if all(x is None or self._fits(x, dtype) for x, dtype in pairs):
                x = of.data.x
                stored = self._rounded.of(x) if of.fixed else None
                arrays = (None if stored is not None else x, stored, *of.data[1:], of.order)
                at = tuple(0 if x is None else e.address(x) for x in arrays)
            self._known = weakref.ref(of), at
        return self._known[1]

    def _fits(self, x: Array, dtype: np.dtype) -> bool:
        return x.dtype == dtype and self.program.executor.owns(x)


def shapes(batch: AnyBatch) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Return the shapes of x and y, and whether there are no weights."""
    if isinstance(batch, Rows):
        x, y, weight = batch.of.data
        N = (batch.last - batch.first,)
        return N + x.shape[1:], N + y.shape[1:], weight is None
    return batch.x.shape, batch.y.shape, batch.weight is None
