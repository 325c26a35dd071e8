"""The whole train step, on buffers that are allocated once per batch size."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Never

import numpy as np

from xpnet.errors import UnsupportedError
from xpnet.kernels.cpu.blas import gemm_address
from xpnet.kernels.cpu.buffers import Buffers, Part, Program, Rows, Total
from xpnet.kernels.cpu.machine import machine
from xpnet.kernels.cpu.parts import COST, SUMS
from xpnet.kernels.cpu.program import compile_program, work_size
from xpnet.kernels.formulas import descent
from xpnet.kernels.operations import (
    AllReduce,
    Barrier,
    LossStep,
    Plan,
    PortableBackward,
    PortableForward,
)
from xpnet.kernels.plan import make_plan
from xpnet.nn import Dense, Sequential
from xpnet.nn.layout import layouts, merge
from xpnet.nn.losses import Loss, quotient
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Optimizer
from xpnet.parallel import ALONE
from xpnet.parallel.across import Across
from xpnet.step import Batch, StepInputs, Totals, TrainState
from xpnet.step.step import output_gradient
from xpnet.typing import Array

__all__ = ["FusedStep"]

PROGRAMS = 4  # batch sizes whose programs are kept
INT32 = np.dtype(np.int32)
LINE, PAGE = 64, 4096  # bytes


class FusedStep:
    """``(state, batch, inputs) -> (state, cost)``, as :func:`xpnet.step.make_train_step` returns.

    It always returns the same state, overwritten. ``across`` are the ranks that share each batch,
    if there are some: it is given the rows of this one, and steps as on the whole. Raises
    UnsupportedError.
    """

    def __init__(
        self,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        clip: Clip,
        dtype: str,
        across: Across | None = None,
    ) -> None:
        if (product := gemm_address(dtype)) is None:
            msg = "the BLAS of NumPy was not found"
            raise UnsupportedError(msg)
        if not any(type(layer) is Dense for layer in model.layers):
            msg = "the model has no dense layer"
            raise UnsupportedError(msg)
        across = None if across is None or across.share.is_whole else across
        buckets = 1 if across is None else across.settings.buckets
        self.model, self.loss, self.optimizer, self.clip = model, loss, optimizer, clip
        self.across, self._ranks = across, ALONE if across is None else across.comm
        options: dict[str, Any] = {"by_rows": True, "ranks": self._ranks.size, "buckets": buckets}
        self.dtype, self.by_class = np.dtype(dtype), loss.predicts == "class"
        self.plan = make_plan(model, loss, optimizer, clip, **options)
        self.note = _note(self.plan)
        self._descent = descent(optimizer, clip) if across is None else None
        self.state, self._buffers, self._summed = self._allocated(product)
        self.programs: dict[tuple, Program] = {}
        self.work = np.zeros(0, self.dtype)
        self.none = np.zeros(0, self.dtype)
        self.residuals: dict[int, Any] = {}

    def __call__(
        self, state: TrainState, batch: Batch, inputs: StepInputs
    ) -> tuple[TrainState, Array]:
        if state is not self.state:
            state = self._adopt(state)
        program, run = self._bound(batch, inputs)
        sums: list[Callable[[], None]] = []  # over the ranks, that are under way
        for part in program.parts:
            if type(part) is Rows:
                run(*part)
            elif type(part) is Total:
                self._ranks.allreduce(part.x)
            elif type(part) is AllReduce:
                sums.append(self._begin(part))
            elif type(part) is Barrier:
                for wait in sums:
                    wait()
            else:
                self._portable(part, batch)
        if not self.plan.updates_fused:
            self._portable_update(inputs.coefficients)
        cost = self._buffers.totals[COST]
        if not math.isfinite(cost) and state.totals.bad_step < 0:
            state.totals.bad_step[...] = inputs.step
        return state, cost

    def __reduce__(self) -> Never:
        msg = "a fused step is bound to its buffers: copy the Trainer or the Engine, which makes "
        msg += "another"
        raise UnsupportedError(msg)

    def gradient(self) -> Array | None:
        """Return the gradient (P,) of the last step, maybe a buffer; None where none was stored."""
        return None if self._descent else self._gradient()

    def _gradient(self) -> Array:
        """The gradient (P,) of the whole batch."""
        gradient = self._buffers.flat[1]
        return gradient if self.plan.loss.divided else gradient / self._buffers.divisor

    def _begin(self, part: AllReduce) -> Callable[[], None]:
        """Begin a sum over the ranks, of the gradient of some layers; return what waits for it."""
        x = self._summed[part.begin : None if part.sums else part.end]
        if part is not self.plan.backward[-1]:
            return self._ranks.iallreduce(x)
        self._ranks.allreduce(x)  # nothing is left to do meanwhile
        return lambda: None

    def phases(self, batch: Batch, inputs: StepInputs) -> dict[str, Callable[[], None]]:
        """The phases of a step that has been taken, each to be timed by itself.

        Raises UnsupportedError if something in the step is portable.
        """
        if self.plan.portable:
            msg = f"a step with portable parts cannot be divided into phases: {self.note}"
            raise UnsupportedError(msg)
        program, run = self._bound(batch, inputs)
        if any(isinstance(part, Total) for part in program.parts):
            msg = "a step whose layers have sums over the ranks cannot be divided into phases"
            raise UnsupportedError(msg)
        phases: dict[str, Callable[[], None]] = {
            name: partial(run, *rows) for name, rows in program.phases.items()
        }
        if self.across is not None:
            phases["ranks"] = partial(self._sum_all, phases["ranks"])
        return phases

    def _sum_all(self, then: Callable[[], Any]) -> None:
        """Take all sums over the ranks, one after another: what every rank has to call."""
        for wait in [self._begin(o) for o in self.plan.backward if isinstance(o, AllReduce)]:
            wait()
        then()

    def _bound(self, batch: Batch, inputs: StepInputs) -> tuple[Program, Callable[[int, int], Any]]:
        """The program for this form of batch, and what runs some of its rows on the batch."""
        x, y, weight = batch
        form = (x.shape, y.shape, weight is None)
        program = self.programs.get(form) or self._program(form, batch)
        x = _contiguous(x, self.dtype, 2)
        if self.by_class and y.ndim == 1:
            y = _contiguous(y, INT32, 1)
        else:
            y = _contiguous(y, self.dtype, 2)
        weight = self.none if weight is None else _contiguous(weight, self.dtype, 1)
        if program.copied is not None:
            np.copyto(program.copied, batch.x)
        b = self._buffers
        if self.across is not None:  # without rows nothing else writes into the gradient
            (b.sums if len(x) else self._summed)[:] = 0.0
        if inputs.keys:
            b.keys[:] = inputs.keys
        if self._descent is None:
            b.numbers[:] = inputs.coefficients
        else:
            b.pairs[1] = self._descent(inputs.coefficients)
        rows, places = program.addresses
        n = len(program.places)
        return program, lambda first, last: machine(rows, first, last, places, n, x, y, weight)

    # -- buffers ----------------------------------------------------------------------------------

    def _allocated(self, product: int) -> tuple[TrainState, Buffers, Array]:
        """The state that training overwrites, the buffers around it, and what ranks sum up."""
        params_layout, stats_layout = layouts(self.model)
        n_slots, dtype, P = len(self.optimizer.slots), self.dtype, params_layout.size
        # The products that compute the gradient do plain gradient descent themselves.
        own = 1 if self._descent else 2
        # Ranks sum the gradient and what the loss adds up in one vector.
        tail = 0 if self.across is None else COST
        vectors = _vectors(n_slots + own, P + tail, dtype)
        params, *slots = (v[:P] for v in vectors[: n_slots + 1])
        target = params if self._descent else vectors[-1][:P]
        of_totals, bad_step = np.zeros(SUMS, dtype), np.full((), -1, np.int32)
        loss, denominator, correct, count = (of_totals[i : i + 1].reshape(()) for i in range(COST))
        totals = Totals(loss, denominator, correct, count, bad_step)
        stats = np.zeros(stats_layout.size, dtype)
        tensors = merge(params_layout.split(params), stats_layout.split(stats))
        gradients = params_layout.split(target)
        for e in params_layout.entries:
            if e.frozen:  # its gradient goes nowhere, and stays zero in the vector
                gradients[e.layer][e.variable] = np.zeros(e.shape, dtype)
        weights = getattr(self.loss, "class_weights", None)
        c = self.optimizer.coefficients(self.optimizer.lr, 1)
        buffers = Buffers(
            tensors,
            gradients,
            (params, target, *slots),
            of_totals,
            vectors[-1][P:] if tail else of_totals,
            np.ones(1, dtype),
            np.zeros(0, dtype) if weights is None else np.array(weights, dtype),
            np.zeros((self.model.n_random, 2), np.int32),
            np.array([(1.0, 0.0), (1.0, 0.0)]),
            np.zeros(len(c)),
            product,
            *(() if self.across is None else (self.across.share.rank, self.across.share.size)),
        )
        return TrainState(params, stats, tuple(slots), totals), buffers, vectors[-1]

    def _adopt(self, state: TrainState) -> TrainState:
        """Adopt another state: copy what is not ours already."""
        own, new = self.state, state
        pairs = zip(own.slots + own.totals, new.slots + new.totals, strict=True)
        for mine, x in [(own.params, new.params), (own.stats, new.stats), *pairs]:
            if mine is not x:
                mine[...] = x
        return self.state

    def _program(self, form: tuple, batch: Batch) -> Program:
        if len(self.programs) == PROGRAMS:
            self.programs.pop(next(iter(self.programs)))
        N = form[0][0]
        # The portable loss raises the error for shapes that do not fit.
        self.loss.sums(np.ones((N, *self.model.output_shape), self.dtype), batch.y, batch.weight)
        if self.work.size < (size := work_size(self.plan, N)):
            self.programs.clear()  # their rows point into the smaller one
            (self.work,) = _vectors(1, size, self.dtype)
        program = compile_program(self.plan, self.model, self.loss, self._buffers, batch, self.work)
        self.programs[form] = program
        return program

    # -- parts without a kernel -------------------------------------------------------------------

    def _portable_update(self, c: Any) -> None:
        params, _, *slots = self._buffers.flat
        gradient = self.clip.apply(self._gradient())
        new, moved = self.optimizer.update(params, gradient, tuple(slots), c)
        for own, x in zip((params, *slots), (new, *moved), strict=True):
            if own is not x:
                own[...] = x

    def _portable(self, part: Part, batch: Batch) -> None:
        view = self.programs[batch.x.shape, batch.y.shape, batch.weight is None].views
        if isinstance(part, PortableForward):
            layer, tensors = self.model.layers[part.layer], self._buffers.params[part.layer]
            x = view[part.x]
            keys = self._keys(part.index) if layer.random else None
            y, residuals = layer.forward(tensors, x, train=True, keys=keys)
            view[part.y][...] = y
            if part.layer < self.model.first_trained:  # backward does not get there
                self._keep(part.layer, layer.track(tensors, residuals))
            else:
                self.residuals[part.layer] = residuals
        elif isinstance(part, PortableBackward):
            dx = None if part.dx is None else view[part.dx]
            self._portable_backward(part.layer, view[part.dy], dx)
        elif isinstance(part, LossStep):
            output, added = view[part.output], self._buffers.sums
            sums = self.loss.sums(output, batch.y, batch.weight)
            view[part.gradient][...] = output_gradient(sums, divided=part.divided)
            correct = (0.0, 0.0)
            if self.loss.predicts != "value":
                correct = self.loss.correct(output, batch.y, batch.weight)
            added[:COST] += (sums.loss, sums.denominator, *correct)
            if part.divided:
                added[COST] = quotient(sums.loss, sums.denominator)

    def _keys(self, index: int) -> tuple[int, ...]:
        """The keys of a random layer, and which rows of a batch are here if not all."""
        keys = tuple(map(int, self._buffers.keys[index]))
        return keys if self.across is None else (*keys, self._buffers.first, self._buffers.stride)

    def _portable_backward(self, i: int, dy: Array, dx: Array | None) -> None:
        layer, tensors = self.model.layers[i], self._buffers.params[i]
        residuals = self.residuals.pop(i)
        stats = layer.track(tensors, residuals)
        new, grads = layer.backward(tensors, residuals, dy, input_gradient=dx is not None)
        if dx is not None:
            dx[...] = new
        alpha, beta = self._buffers.pairs[1]
        for name, grad in grads.items():
            view = self._buffers.target[i][name]
            view[...] = alpha * grad if beta == 0.0 else beta * view + alpha * grad
        self._keep(i, stats)

    def _keep(self, i: int, stats: Mapping[str, Array]) -> None:
        for name, value in stats.items():
            self._buffers.params[i][name][...] = value


def _vectors(count: int, size: int, dtype: np.dtype) -> list[Array]:
    """Vectors of zeros in one block, which the system can then map in large pages.

    Each begins on a cache line, and no two at the same offset in a page: in a pass over several
    vectors, the CPU would mistake a load from one for the result of an earlier store to another.
    """
    page, line = PAGE // dtype.itemsize, LINE // dtype.itemsize
    stride = -(-size // page) * page + page // count // line * line
    block = np.zeros(count * stride + line, dtype)
    skip = -block.ctypes.data % LINE // dtype.itemsize
    return [block[skip + i * stride :][:size] for i in range(count)]


def _contiguous(x: Array, dtype: np.dtype, ndim: int) -> Array:
    """``x`` as compiled code takes it: ``x`` itself if it is contiguous and has the dtype."""
    if not (x.dtype is dtype and x.flags.carray):
        x = np.array(x, dtype, order="C")
    return x if x.ndim == ndim else x.reshape((len(x), math.prod(x.shape[1:]))[:ndim])


def _note(plan: Plan) -> str:
    """What runs the steps, for a run's record."""
    portable = [f"{name} ({why})" for name, why in plan.portable]
    note = "fused step compiled by Numba"
    return f"{note}; portable inside it: {', '.join(portable)}" if portable else note
