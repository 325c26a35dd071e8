"""A model and a batch size as a program: rows for compiled code, and portable parts between them.

Activations and their gradients have places in one flat vector, ``work``. The row of a dense layer
includes the activation after it, and that of the loss the bias of a last dense layer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeGuard

import numpy as np

from xpnet.kernels.cpu import machine as m
from xpnet.kernels.cpu.elements import IDENTITY, KINDS
from xpnet.kernels.cpu.losses import ELEMENTWISE, REDUCTIONS
from xpnet.nn import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Sequential,
)
from xpnet.nn.layout import Layout
from xpnet.nn.losses import Loss, SoftmaxCrossEntropy

__all__ = [
    "Backward",
    "Forward",
    "Output",
    "Part",
    "Place",
    "Program",
    "Rows",
    "compile_program",
    "has_kernel",
    "has_loss_kernel",
]

ALIGNED = 16  # elements to which the start of a place is rounded up
GAP = 17 * ALIGNED  # after a place: fused_step._vectors says why none are whole pages apart
NORMS = (BatchNorm, LayerNorm)


class Place(NamedTuple):
    """The place of an array in ``work``; with start NOWHERE it is the batch itself."""

    start: int
    shape: tuple[int, ...]


class Rows(NamedTuple):
    """Rows ``first`` to ``last`` of the program."""

    first: int
    last: int


class Forward(NamedTuple):
    """The portable forward of a layer without a kernel."""

    layer: int
    key: int  # among the random layers
    x: Place
    y: Place


class Backward(NamedTuple):
    """The portable backward of a layer without a kernel."""

    layer: int
    dy: Place
    dx: Place | None


class Output(NamedTuple):
    """The portable form of a loss without a kernel."""

    output: Place
    gradient: Place


Part = Rows | Forward | Backward | Output


class Program(NamedTuple):
    """What a step on N rows does, in order."""

    parts: tuple[Part, ...]
    rows: np.ndarray  # (rows, machine.COLUMNS) int64
    settings: np.ndarray  # (rows, 2) float64
    N: int
    size: int  # of `work`
    copied: Place | None  # where the batch is first copied to, if at all


def compile_program(
    model: Sequential, loss: Loss, layout: Layout, stats_layout: Layout, N: int
) -> Program:
    """Return the program of a training step on N rows."""
    return _Compiler(model, loss, layout, stats_layout, N).program()


class _Compiler:
    def __init__(
        self, model: Sequential, loss: Loss, layout: Layout, stats_layout: Layout, N: int
    ) -> None:
        self.layers, self.loss, self.N, self.size = model.layers, loss, N, 0
        shapes = [tuple(model.input_shape or ()), *model.shapes()]
        self.shapes = [(N, *shape) for shape in shapes]
        self.tensors: list[dict[str, int]] = [{} for _ in model.layers]
        for entry in (*layout.entries, *stats_layout.entries):
            self.tensors[entry.layer][entry.variable] = entry.start
        self.first_trained = model.first_trained
        self.rows: list[list[int]] = []
        self.settings: list[tuple[float, float]] = []
        self.parts: list[Part] = []
        self.backward: list[Callable[[Place], Place | None]] = []
        self.random = 0
        widest = max(self.shapes, key=math.prod)
        self.scratch = [self.place(widest).start for _ in range(2)]

    def program(self) -> Program:
        x, copied, i = Place(m.NOWHERE, self.shapes[0]), None, 0
        first = next(layer for layer in self.layers if type(layer) is not Flatten)
        if type(first) is not Dense:
            x = copied = self.place(self.shapes[0])
        while i < len(self.layers):
            x, i = self.forward(i, x)
        dy: Place | None = self.output(x)
        for backward in reversed(self.backward):
            if dy is not None:
                dy = backward(dy)
        rows = np.array(self.rows, np.int64).reshape(-1, m.COLUMNS)
        settings = np.array(self.settings, np.float64).reshape(-1, 2)
        return Program(tuple(self.parts), rows, settings, self.N, self.size, copied)

    # -- places and rows --------------------------------------------------------------------------

    def place(self, shape: tuple[int, ...]) -> Place:
        start = self.size
        self.size += -(-math.prod(shape) // ALIGNED) * ALIGNED + GAP
        return Place(start, shape)

    def other(self, used: Place, shape: tuple[int, ...]) -> Place:
        """A place for a gradient: the scratch buffer that is not in use."""
        return Place(self.scratch[used.start == self.scratch[0]], shape)

    def row(self, op: int, setting: float = 0.0, second: float = 0.0, **columns: int) -> None:
        row = [m.NOWHERE] * m.COLUMNS
        row[m.OP] = op
        for name, value in columns.items():
            row[getattr(m, name)] = value
        self.rows.append(row)
        self.settings.append((setting, second))
        n, last = len(self.rows), self.parts[-1] if self.parts else None
        if isinstance(last, Rows):
            self.parts[-1] = Rows(last.first, n)
        else:
            self.parts.append(Rows(n - 1, n))

    def add_backward(self, layer: int, backward: Callable[[Place], Place | None]) -> None:
        if layer >= self.first_trained:
            self.backward.append(backward)

    # -- layers -----------------------------------------------------------------------------------

    def forward(self, i: int, x: Place) -> tuple[Place, int]:
        """Add layer i; return the place of its output, and the index of the layer after it."""
        layer = self.layers[i]
        if type(layer) is Dense:
            return self.dense(i, x)
        if type(layer) is Flatten:
            self.add_backward(i, lambda dy: dy)
            return Place(x.start, self.shapes[i + 1]), i + 1
        if type(layer) is Dropout:
            return self.dropout(i, layer, x), i + 1
        if _is_compiled(layer):
            return self.activation(i, layer, x), i + 1
        if isinstance(layer, BatchNorm | LayerNorm) and has_kernel(layer):
            return self.norm(i, layer, x), i + 1
        return self.portable(i, x), i + 1

    def dense(self, i: int, x: Place) -> tuple[Place, int]:
        """Add a dense layer and the activation after it, if any."""
        I, J = x.shape[-1], self.shapes[i + 1][-1]  # noqa: E741
        W, b = self.tensors[i]["W"], self.tensors[i].get("b", m.NOWHERE)
        last = i + 1 == len(self.layers)
        lazy = last and has_loss_kernel(self.loss)  # the loss adds the bias
        follows = None if last else self.layers[i + 1]
        z = y = self.place((self.N, J))
        kind, s, after = IDENTITY, 0.0, i + 1
        if _is_compiled(follows):
            kind, s, after = KINDS.index(type(follows)), follows.setting, i + 2
            y = z if follows.keeps_output else self.place(z.shape)
        now = m.NOWHERE if lazy or (kind == IDENTITY and b == m.NOWHERE) else kind
        columns = {"I_": I, "J_": J, "X": x.start, "W": W, "B": b}
        self.row(m.AFFINE, s, KIND=now, Z=z.start, Y=y.start, **columns)
        db = self.place((J,))

        def backward(dy: Place) -> Place | None:
            dx = self.other(dy, x.shape) if i > self.first_trained else None
            to = {"DY": dy.start, "DX": dx.start if dx else m.NOWHERE, "DB": db.start}
            self.row(m.AFFINE_BACKWARD, s, KIND=kind, Y=z.start, **columns, **to)
            return dx

        self.add_backward(i, backward)
        return y, after

    def activation(self, i: int, layer: Activation, x: Place) -> Place:
        z = self.place(x.shape)
        if i and type(self.layers[i - 1]) in NORMS:
            z = x  # which nothing else reads
        y = z if layer.keeps_output else self.place(x.shape)
        kind, s, J = KINDS.index(type(layer)), layer.setting, math.prod(x.shape[1:])
        self.row(m.ACTIVATION, s, KIND=kind, J_=J, X=x.start, Z=z.start, Y=y.start)

        def backward(dy: Place) -> Place:
            self.row(m.ACTIVATION_BACKWARD, s, KIND=kind, J_=J, Y=z.start, DY=dy.start)
            return dy

        self.add_backward(i, backward)
        return y

    def dropout(self, i: int, layer: Dropout, x: Place) -> Place:
        y, key, scale = self.place(x.shape), self.random, 1.0 / (1.0 - layer.rate)
        self.random += 1
        columns = {"KIND": round(layer.rate * 2**24), "J_": math.prod(x.shape[1:]), "KEY": key}
        self.row(m.DROPOUT, scale, X=x.start, Y=y.start, **columns)

        def backward(dy: Place) -> Place:
            self.row(m.DROPOUT, scale, X=dy.start, Y=dy.start, **columns)
            return dy

        self.add_backward(i, backward)
        return y

    def norm(self, i: int, layer: BatchNorm | LayerNorm, x: Place) -> Place:
        J, R, tensors = x.shape[-1], math.prod(x.shape[:-1]), self.tensors[i]
        x_hat, y, of_batch = self.place(x.shape), self.place(x.shape), type(layer) is BatchNorm
        columns = {
            "KIND": m.BATCH if of_batch else m.LAYER,
            **{"R_": R, "J_": J, "W": tensors["gamma"], "B": tensors["beta"], "Z": x_hat.start},
            "INV_STD": self.place((J if of_batch else R,)).start,
            "SUMS": self.place((2 * J,)).start,
        }
        stats = tensors.get("mean", m.NOWHERE)
        momentum = layer.momentum if isinstance(layer, BatchNorm) else 0.0
        self.row(m.NORM, layer.eps, momentum, X=x.start, Y=y.start, STATS=stats, **columns)

        def backward(dy: Place) -> Place:
            self.row(m.NORM_BACKWARD, DY=dy.start, **columns)
            return dy

        self.add_backward(i, backward)
        return y

    def portable(self, i: int, x: Place) -> Place:
        y, key = self.place(self.shapes[i + 1]), self.random
        self.random += self.layers[i].random
        self.parts.append(Forward(i, key, x, y))

        def backward(dy: Place) -> Place | None:
            dx = self.other(dy, x.shape) if i > self.first_trained else None
            self.parts.append(Backward(i, dy, dx))
            return dx

        self.add_backward(i, backward)
        return y

    # -- the loss ---------------------------------------------------------------------------------

    def output(self, z: Place) -> Place:
        """Add the loss; return the place of its gradient."""
        loss, last = self.loss, len(self.layers) - 1
        if not has_loss_kernel(loss):
            dz = Place(self.scratch[0], z.shape)
            self.parts.append(Output(z, dz))
            return dz
        dense = type(self.layers[last]) is Dense
        dz = z if dense else Place(self.scratch[0], z.shape)  # backward of an activation may need z
        bias = self.tensors[last].get("b", m.NOWHERE) if dense else m.NOWHERE
        columns = {"J_": z.shape[-1], "Z": z.start, "DY": dz.start, "B": bias}
        columns["REDUCTION"] = REDUCTIONS[loss.reduction]
        if isinstance(loss, SoftmaxCrossEntropy):
            ignores = loss.ignore_label is not None
            columns |= {"IGNORES": ignores, "IGNORED": loss.ignore_label or 0}
            self.row(m.SOFTMAX_LOSS, loss.label_smoothing, **columns)
        else:
            p = getattr(loss, "delta", getattr(loss, "positive_weight", 0.0))
            self.row(m.ELEMENTWISE_LOSS, p, KIND=ELEMENTWISE[type(loss)], **columns)
        return dz


def has_kernel(layer: Layer) -> bool:
    """Say whether compiled code runs the layer."""
    return type(layer) in (Dense, Dropout, Flatten, *NORMS, *KINDS)


def has_loss_kernel(loss: Loss) -> bool:
    """Say whether compiled code computes the loss."""
    return type(loss) is SoftmaxCrossEntropy or type(loss) in ELEMENTWISE


def _is_compiled(layer: Layer | None) -> TypeGuard[Activation]:
    """Whether the layer is an activation that compiled code has, not a subclass of one."""
    return type(layer) in KINDS
