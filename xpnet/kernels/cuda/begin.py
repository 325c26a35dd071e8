"""How steps begin: the numbers and the batch of each are put where its launches read them."""

import math
import weakref
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from xpnet.kernels.cuda.batch_program import Program
from xpnet.kernels.cuda.lanes import Call, Recorded
from xpnet.kernels.cuda.sources import MOST_WORDS, PACK, now
from xpnet.step import AnyBatch, Ordered, Rows, StepInputs
from xpnet.typing import Array

__all__ = ["Beginning", "Steps", "shapes"]

WORD = 8  # bytes


class Steps(NamedTuple):
    """Several steps in a row: the launch that is never in a graph, and those that may be."""

    begin: Call
    calls: list[Recorded]

    def run(self) -> None:
        """Run them, one launch after another."""
        self.begin()
        for call in self.calls:
            call.run()


class Beginning:
    """How the steps of a program begin.

    The first of several steps is begun by a launch with the numbers of all by value; the launches
    in between read their own, which that one has kept on the device.
    """

    def __init__(self, program: Program) -> None:
        task, b = program.task, program.buffers
        self.program, self.sets, self.numbers = program, task.sets, task.numbers
        n_keys, N, labels = b.keys.shape[0], program.N, str(program.y.dtype) == "int32"
        real = np.dtype(program.executor.dtype)
        self._dtypes = (real, np.dtype(program.y.dtype), real)  # others are converted first
        self._now = now(real.name, self.sets * self.numbers, n_keys)
        self._words: Any = b.given["words"]
        self._known: tuple[Any, tuple[int, ...] | None] = (lambda: None, None)
        J, width, K = task.plan.widths[0], task.widths[0], math.prod(program.y.shape) // N
        targets = (program.y, None) if labels else (None, program.y)
        self._grid = program.blocks(-(-N * width * real.itemsize // PACK))
        self._batch = (
            self.numbers, self.sets, b.state.skipped, b.coefficients, b.step, b.cost_at, b.keys,
            n_keys, program.x, J, width, *targets, K, program.weight, N,
        )  # fmt: skip

    @property
    def most(self) -> int:
        """How many steps can begin at once."""
        return MOST_WORDS * WORD // self._now.size

    def steps(self, n: int) -> Steps:
        """Return n steps in a row, n being at most :attr:`most`."""
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
        """The addresses of x, y, weights and order."""
        e = self.program.executor
        if isinstance(batch, Rows):
            at = self._data(batch.of)
            if at is not None:
                return (*at[:3], at[3] + 4 * batch.first)
            batch = batch.gathered()
        found = []
        for dtype, x in zip(self._dtypes, batch, strict=True):
            if x is not None and not self._fits(x, dtype):
                converted = e.empty(tuple(x.shape), str(dtype))
                e.copy(converted, x)
                x = converted
            kept.append(x)
            found.append(0 if x is None else e.address(x))
        return (*found, 0)

    def _data(self, of: Ordered) -> tuple[int, ...] | None:
        """The addresses of a data set, unless it has to be converted; looked up once."""
        if self._known[0]() is not of:
            pairs = [*zip((*of.data, of.order), (*self._dtypes, np.dtype("int32")), strict=True)]
            at = [0 if x is None else self.program.executor.address(x) for x, _ in pairs]
            fits = all(x is None or self._fits(x, dtype) for x, dtype in pairs)
            self._known = weakref.ref(of), tuple(at) if fits else None
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
