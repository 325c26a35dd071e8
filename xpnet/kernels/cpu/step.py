"""The whole train step on buffers that are made once per batch size."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xpnet.clipping import Clip
from xpnet.errors import BackendError
from xpnet.kernels.cpu.blas import gemm_address
from xpnet.kernels.cpu.losses import COST, SUMS
from xpnet.kernels.cpu.machine import NOWHERE, run
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
from xpnet.kernels.cpu.updates import RULES, clip, update
from xpnet.layers import Dense, Sequential, layer_name
from xpnet.losses import Loss, quotient
from xpnet.optimizers import SGD, Optimizer
from xpnet.params import layouts, merge
from xpnet.step import Batch, StepInputs, Totals, TrainState
from xpnet.typing import Array

__all__ = ["FusedStep", "UnsupportedError"]

PROGRAMS = 4  # batch sizes whose programs are kept
INT32 = np.dtype(np.int32)
LINE = 64  # bytes: what vectors are aligned to


class UnsupportedError(BackendError):
    """Nothing would be gained, or the BLAS of NumPy was not found; the message says which."""


class FusedStep:
    """``(state, batch, inputs) -> (state, cost)``, as :func:`xpnet.step.make_train_step` returns.

    The state it returns is always the same one, written over. Raises UnsupportedError.
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
        self.state: TrainState | None = None
        self.programs: dict[tuple, Program] = {}
        self.work = self._empty(0)
        self.sums = self._empty(SUMS)
        self.sums[:] = 0.0
        self.bad_step = np.full((), -1, np.int32)
        self.keys = np.zeros((model.n_random, 2), np.int32)
        self.no_labels = np.zeros(0, np.int32)
        self.no_rows, self.none = np.zeros((0, 0), self.dtype), np.zeros(0, self.dtype)
        weights = getattr(loss, "class_weights", None)
        self.class_weights = self.none if weights is None else np.array(weights, self.dtype)
        # Plain gradient descent is part of the products that make the gradient.
        plain = type(optimizer) is SGD and not optimizer.momentum
        self.by_class = loss.predicts == "class"
        self.descends = plain and clip == Clip()
        self.residuals: dict[int, Any] = {}
        self.note = _note(model, loss, optimizer)

    def __call__(
        self, state: TrainState, batch: Batch, inputs: StepInputs
    ) -> tuple[TrainState, Array]:
        if state is not self.state:
            state = self._adopt(state)
        x, y, weight = batch
        form = (x.shape, y.shape, weight is None)
        program = self.programs.get(form) or self._program(form, batch)
        x, labels, rows = _plain(x, self.dtype, 2), self.no_labels, self.no_rows
        if self.by_class and y.ndim == 1:
            labels = _plain(y, INT32, 1)
        else:
            rows = _plain(y, self.dtype, 2)
        weight = self.none if weight is None else _plain(weight, self.dtype, 1)
        if program.copied is not None:
            np.copyto(self._view(program.copied), batch.x)
        if inputs.keys:
            self.keys[:] = inputs.keys
        c, alpha, beta = inputs.coefficients, 1.0, 0.0
        if self.descends:
            alpha, beta = -c.lr, 1.0 - c.lr * self.optimizer.weight_decay
        for part in program.parts:
            if type(part) is Rows:
                run(
                    program.rows, program.settings, part.first, part.last, program.N, self.work,
                    self.params, self.target, alpha, beta, x, labels, rows, weight,
                    self.class_weights, self.keys, self.sums, self.product,
                )  # fmt: skip
            else:
                self._portable(part, batch, alpha, beta)
        if not self.descends:
            self._update(c)
        cost = self.sums[COST]
        if not math.isfinite(cost) and self.bad_step < 0:
            self.bad_step[...] = inputs.step
        return state, cost

    # -- buffers ----------------------------------------------------------------------------------

    def _empty(self, size: int) -> Array:
        """A vector that begins on a cache line."""
        item = self.dtype.itemsize
        room = np.empty(size + LINE // item, self.dtype)
        skip = -room.ctypes.data % LINE // item
        return room[skip : skip + size]

    def _adopt(self, state: TrainState) -> TrainState:
        """Take over another state: its vectors are copied where they are not ours already."""
        old = self.state
        mine = [] if old is None else [old.params, old.stats, *old.slots]

        def own(x: Array) -> Array:
            if any(x is y for y in mine):
                return x
            copy = self._empty(x.size)
            copy[:] = x
            return copy

        for i, total in enumerate(state.totals[:4]):
            self.sums[i] = total
        self.bad_step[...] = state.totals.bad_step
        loss, denominator, hits, count = (self.sums[i : i + 1].reshape(()) for i in range(COST))
        self.params, slots = own(state.params), tuple(map(own, state.slots))
        totals = Totals(loss, denominator, hits, count, self.bad_step)
        new = self.state = TrainState(self.params, own(state.stats), slots, totals)
        if old is None:
            self.target = self.params if self.descends else self._empty(self.params.size)
        elif self.descends:
            self.target = self.params
        self.tensors = merge(
            self.params_layout.split(self.params), self.stats_layout.split(new.stats)
        )
        self.gradients = self.params_layout.split(self.target)
        self._update = self._updates(slots)
        return new

    def _updates(self, slots: tuple[Array, ...]) -> Callable[[Any], None]:
        """Clipping and the update rule on our vectors, as a function of the coefficients."""
        params, grad = self.params, self.target
        limit, norm = self.clip.value or 0.0, self.clip.norm or 0.0
        if type(self.optimizer) in RULES:
            rule = update(self.optimizer, params, grad, slots)
        else:
            rule = partial(self._portable_update, slots)
        if not limit and not norm:
            return rule

        def clipped(c: Any) -> None:
            clip(grad, limit, norm)
            rule(c)

        return clipped

    def _portable_update(self, slots: tuple[Array, ...], c: Any) -> None:
        params, moved = self.optimizer.update(self.params, self.target, slots, c)
        for x, new in zip((self.params, *slots), (params, *moved), strict=True):
            if x is not new:
                x[...] = new

    def _program(self, form: tuple, batch: Batch) -> Program:
        if len(self.programs) == PROGRAMS:
            self.programs.pop(next(iter(self.programs)))
        N = form[0][0]
        program = compile_program(self.model, self.loss, self.params_layout, N)
        # The portable loss explains shapes that are wrong.
        self.loss.sums(np.ones((N, *self.model.output_shape), self.dtype), batch.y, batch.weight)
        if self.work.size < program.size:
            self.work = self._empty(program.size)
            self.work[:] = 0.0
        self.programs[form] = program
        return program

    def _view(self, place: Place) -> Array:
        size = math.prod(place.shape)
        return self.work[place.start : place.start + size].reshape(place.shape)

    # -- what has no kernel -----------------------------------------------------------------------

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
            hits = (0.0, 0.0)
            if self.loss.predicts != "value":
                hits = self.loss.hits(self._view(part.output), batch.y)
            self.sums[:COST] += (sums.loss, sums.denominator, *hits)
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


def _plain(x: Array, dtype: np.dtype, ndim: int) -> Array:
    """``x`` as compiled code takes it: itself, where it has the dtype and no gaps."""
    if not (x.dtype is dtype and x.flags.carray):
        x = np.array(x, dtype, order="C")
    return x if x.ndim == ndim else x.reshape((len(x), -1)[:ndim])


def _note(model: Sequential, loss: Loss, optimizer: Optimizer) -> str:
    """What takes the steps, for a run's record."""
    portable = [layer_name(layer) for layer in model.layers if not has_kernel(layer)]
    portable += [] if has_loss_kernel(loss) else [type(loss).__name__]
    portable += [] if type(optimizer) in RULES else [type(optimizer).__name__]
    note = "fused step compiled by Numba"
    return f"{note}; portable inside it: {', '.join(portable)}" if portable else note
