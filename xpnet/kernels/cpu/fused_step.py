"""The whole train step, on buffers that are allocated once per batch size."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xpnet.errors import UnsupportedError
from xpnet.kernels.cpu.blas import gemm_address
from xpnet.kernels.cpu.losses import COST, SUMS
from xpnet.kernels.cpu.machine import ELEMENTWISE_LOSS, NOWHERE, OP, SOFTMAX_LOSS, run
from xpnet.kernels.cpu.program import (
    Backward,
    Forward,
    Output,
    Part,
    Place,
    Program,
    Rows,
    compile_program,
    has_kernel,
    has_loss_kernel,
)
from xpnet.kernels.cpu.updates import RULES, clip, make_update
from xpnet.nn import Dense, Sequential, layer_name
from xpnet.nn.layout import layouts, merge
from xpnet.nn.losses import Loss, quotient
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Optimizer
from xpnet.step import Batch, StepInputs, Totals, TrainState
from xpnet.typing import Array

__all__ = ["FusedStep"]

PROGRAMS = 4  # batch sizes whose programs are kept
ALPHA, BETA = 5, 6  # among the arguments of a run
INT32 = np.dtype(np.int32)
LINE, PAGE = 64, 4096  # bytes


class FusedStep:
    """``(state, batch, inputs) -> (state, cost)``, as :func:`xpnet.step.make_train_step` returns.

    It always returns the same state, overwritten. Raises UnsupportedError.
    """

    def __init__(
        self, model: Sequential, loss: Loss, optimizer: Optimizer, clip: Clip, dtype: str
    ) -> None:
        if (product := gemm_address(dtype)) is None:
            msg = "the BLAS of NumPy was not found"
            raise UnsupportedError(msg)
        if not any(type(layer) is Dense for layer in model.layers):
            msg = "the model has no dense layer"
            raise UnsupportedError(msg)
        self.model, self.loss, self.optimizer, self.clip = model, loss, optimizer, clip
        self.dtype, self.product = np.dtype(dtype), product
        self.params_layout, self.stats_layout = layouts(model)
        # The products that compute the gradient do plain gradient descent themselves.
        plain = type(optimizer) is SGD and not optimizer.momentum
        self.descends = plain and clip == Clip()
        size, n_slots = self.params_layout.size, len(optimizer.slots)
        vectors = _vectors(n_slots + 1 if self.descends else n_slots + 2, size, self.dtype)
        self.params, *slots = vectors[: n_slots + 1]
        self.target = self.params if self.descends else vectors[-1]
        self.sums, self.bad_step = np.zeros(SUMS, self.dtype), np.full((), -1, np.int32)
        loss_, denominator, correct, count = (self.sums[i : i + 1].reshape(()) for i in range(COST))
        totals = Totals(loss_, denominator, correct, count, self.bad_step)
        stats = np.zeros(self.stats_layout.size, self.dtype)
        self.state = TrainState(self.params, stats, tuple(slots), totals)
        self.tensors = merge(self.params_layout.split(self.params), self.stats_layout.split(stats))
        self.gradients = self.params_layout.split(self.target)
        self._update = self._updates()

        self.programs: dict[tuple, Program] = {}
        self.work = np.zeros(0, self.dtype)
        self.keys = np.zeros((model.n_random, 2), np.int32)
        self.no_labels = np.zeros(0, np.int32)
        self.no_rows, self.none = np.zeros((0, 0), self.dtype), np.zeros(0, self.dtype)
        weights = getattr(loss, "class_weights", None)
        self.class_weights = self.none if weights is None else np.array(weights, self.dtype)
        self.by_class = loss.predicts == "class"
        self.residuals: dict[int, Any] = {}
        self.note = _note(model, loss, optimizer)

    def __call__(
        self, state: TrainState, batch: Batch, inputs: StepInputs
    ) -> tuple[TrainState, Array]:
        if state is not self.state:
            state = self._adopt(state)
        program, arguments = self._bound(batch, inputs)
        for part in program.parts:
            if type(part) is Rows:
                run(program.rows, program.settings, part.first, part.last, *arguments)
            else:
                self._portable(part, batch, arguments[ALPHA], arguments[BETA])
        self._optimize(inputs)
        cost = self.sums[COST]
        if not math.isfinite(cost) and self.bad_step < 0:
            self.bad_step[...] = inputs.step
        return state, cost

    def phases(self, batch: Batch, inputs: StepInputs) -> dict[str, Callable[[], None]]:
        """The phases of a step that has been taken, each to be timed by itself.

        Raises UnsupportedError if something in the step is portable.
        """
        program, arguments = self._bound(batch, inputs)
        if len(program.parts) > 1:
            msg = f"a step with portable parts cannot be divided into phases: {self.note}"
            raise UnsupportedError(msg)
        ops = program.rows[:, OP].tolist()
        loss = next(i for i, op in enumerate(ops) if op in (SOFTMAX_LOSS, ELEMENTWISE_LOSS))
        bounds = {"forward": (0, loss), "loss": (loss, loss + 1), "backward": (loss + 1, len(ops))}
        calls: dict[str, Callable[[], None]] = {
            name: partial(run, program.rows, program.settings, *ends, *arguments)
            for name, ends in bounds.items()
        }
        return calls | {"optimizer": partial(self._optimize, inputs)}

    def _optimize(self, inputs: StepInputs) -> None:
        if not self.descends:
            self._update(inputs.coefficients)

    def _bound(self, batch: Batch, inputs: StepInputs) -> tuple[Program, tuple[Any, ...]]:
        """The program for this form of batch, and the arguments of its run."""
        x, y, weight = batch
        form = (x.shape, y.shape, weight is None)
        program = self.programs.get(form) or self._program(form, batch)
        x, labels, rows = _contiguous(x, self.dtype, 2), self.no_labels, self.no_rows
        if self.by_class and y.ndim == 1:
            labels = _contiguous(y, INT32, 1)
        else:
            rows = _contiguous(y, self.dtype, 2)
        weight = self.none if weight is None else _contiguous(weight, self.dtype, 1)
        if program.copied is not None:
            np.copyto(self._view(program.copied), batch.x)
        if inputs.keys:
            self.keys[:] = inputs.keys
        c, alpha, beta = inputs.coefficients, 1.0, 0.0
        if self.descends:
            alpha, beta = -c.step_size, 1.0 - c.step_size * self.optimizer.weight_decay
        return program, (
            program.N, self.work, self.params, self.state.stats, self.target, alpha, beta, x,
            labels, rows, weight, self.class_weights, self.keys, self.sums, self.product,
        )  # fmt: skip

    # -- buffers ----------------------------------------------------------------------------------

    def _adopt(self, state: TrainState) -> TrainState:
        """Adopt another state: copy what is not ours already."""
        own, new = self.state, state
        pairs = zip(own.slots + own.totals, new.slots + new.totals, strict=True)
        for mine, x in [(own.params, new.params), (own.stats, new.stats), *pairs]:
            if mine is not x:
                mine[...] = x
        return self.state

    def _updates(self) -> Callable[[Any], None]:
        """Clipping and the update rule on our vectors, as a function of the coefficients."""
        grad, limit, norm = self.target, self.clip.value or 0.0, self.clip.norm or 0.0
        rule: Callable[[Any], None] = self._portable_update
        if type(self.optimizer) in RULES:
            rule = make_update(self.optimizer, self.params, grad, self.state.slots)
        if not limit and not norm:
            return rule

        def clipped(c: Any) -> None:
            clip(grad, limit, norm)
            rule(c)

        return clipped

    def _portable_update(self, c: Any) -> None:
        slots = self.state.slots
        params, moved = self.optimizer.update(self.params, self.target, slots, c)
        for own, x in zip((self.params, *slots), (params, *moved), strict=True):
            if own is not x:
                own[...] = x

    def _program(self, form: tuple, batch: Batch) -> Program:
        if len(self.programs) == PROGRAMS:
            self.programs.pop(next(iter(self.programs)))
        N = form[0][0]
        program = compile_program(self.model, self.loss, self.params_layout, self.stats_layout, N)
        # The portable loss raises the error for shapes that do not fit.
        self.loss.sums(np.ones((N, *self.model.output_shape), self.dtype), batch.y, batch.weight)
        if self.work.size < program.size:
            (self.work,) = _vectors(1, program.size, self.dtype)
        self.programs[form] = program
        return program

    def _view(self, place: Place) -> Array:
        size = math.prod(place.shape)
        return self.work[place.start : place.start + size].reshape(place.shape)

    # -- parts without a kernel -------------------------------------------------------------------

    def _portable(self, part: Part, batch: Batch, alpha: float, beta: float) -> None:
        if isinstance(part, Forward):
            layer = self.model.layers[part.layer]
            x = batch.x if part.x.start == NOWHERE else self._view(part.x)
            keys = tuple(map(int, self.keys[part.key])) if layer.random else None
            y, residuals = layer.forward(
                self.tensors[part.layer], x.reshape(part.x.shape), train=True, keys=keys
            )
            self._view(part.y)[...] = y
            self.residuals[part.layer] = residuals
        elif isinstance(part, Backward):
            self._portable_backward(part, alpha, beta)
        elif isinstance(part, Output):
            sums = self.loss.sums(self._view(part.output), batch.y, batch.weight)
            self._view(part.gradient)[...] = quotient(sums.gradient, sums.denominator)
            correct = (0.0, 0.0)
            if self.loss.predicts != "value":
                correct = self.loss.correct(self._view(part.output), batch.y)
            self.sums[:COST] += (sums.loss, sums.denominator, *correct)
            self.sums[COST] = quotient(sums.loss, sums.denominator)

    def _portable_backward(self, part: Backward, alpha: float, beta: float) -> None:
        i, layer = part.layer, self.model.layers[part.layer]
        residuals = self.residuals.pop(i)
        stats = layer.track(self.tensors[i], residuals)
        dx, grads = layer.backward(
            self.tensors[i], residuals, self._view(part.dy), input_gradient=part.dx is not None
        )
        if part.dx is not None:
            self._view(part.dx)[...] = dx
        for name, grad in grads.items():
            view = self.gradients[i][name]
            view[...] = alpha * grad if beta == 0.0 else beta * view + alpha * grad
        for name, value in stats.items():
            self.tensors[i][name][...] = value


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
    return x if x.ndim == ndim else x.reshape((len(x), -1)[:ndim])


def _note(model: Sequential, loss: Loss, optimizer: Optimizer) -> str:
    """What runs the steps, for a run's record."""
    portable = [layer_name(layer) for layer in model.layers if not has_kernel(layer)]
    portable += [] if has_loss_kernel(loss) else [type(loss).__name__]
    portable += [] if type(optimizer) in RULES else [type(optimizer).__name__]
    note = "fused step compiled by Numba"
    return f"{note}; portable inside it: {', '.join(portable)}" if portable else note
