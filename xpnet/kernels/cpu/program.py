"""A plan and a batch size as a program: rows for compiled code, and what is called between them.

All places of the plan are in one flat vector, ``work``. A row is a kernel with the addresses of
what it works on (memory.ROW), so it holds for as long as the buffers do.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.kernels import operations as p
from xpnet.kernels.cpu import loops, rows
from xpnet.kernels.cpu.buffers import Buffers, Part, Program, Rows, Total
from xpnet.kernels.cpu.compiled import Kernel, compiled
from xpnet.kernels.cpu.loops import Loop
from xpnet.kernels.cpu.memory import ROW
from xpnet.kernels.operations import Operation, Place, Plan
from xpnet.nn import BatchNorm, Dropout, Sequential
from xpnet.nn.losses import Loss, SoftmaxCrossEntropy
from xpnet.typing import Array

__all__ = ["compile_program", "work_size"]

ALIGNED = 16  # elements to which the start of a place is rounded up
GAP = 17 * ALIGNED  # after a place: fused_step._vectors says why none are whole pages apart
X, Y, WEIGHT = range(3)  # the arrays of a batch


def compile_program(
    plan: Plan, model: Sequential, loss: Loss, buffers: Buffers, batch: Any, work: Array
) -> Program:
    """Return the program of a training step on batches of this form, in the buffer ``work``."""
    return _Compiler(plan, model, loss, buffers, batch, work).program()


def work_size(plan: Plan, N: int) -> int:
    """Return how many elements ``work`` must have for N rows."""
    return sum(_room(N * width) for width in plan.widths)


def _room(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED + GAP


class _Compiler:
    def __init__(
        self, plan: Plan, model: Sequential, loss: Loss, buffers: Buffers, batch: Any, work: Array
    ) -> None:
        self.plan, self.layers, self.loss, self.b = plan, model.layers, loss, buffers
        self.N, self.work, self.size, self.x_shape = len(batch.x), work, 0, batch.x.shape
        self.by_label = loss.predicts == "class" and batch.y.ndim == 1
        self.weighted = batch.weight is not None
        self.rows: list[np.ndarray] = []
        self.parts: list[Part] = []
        self.places: list[tuple[int, int]] = []  # (byte in the rows, which array)
        self.kept: list[Any] = [work, buffers]
        self.starts = [self.reserve(self.N * width) for width in plan.widths]
        self.copies = self.reads_copy()
        # 1/√(v + ε) and the sums of a batch normalisation, by its layer.
        self.moments: dict[int, tuple[Array, Array]] = {}
        self.residuals: dict[int, list[Any]] = {}  # places and vectors, by their layer

    def program(self) -> Program:
        phases = {}
        for name, operations in self.phases():
            first = len(self.rows)
            for operation in operations:
                WRITERS[type(operation)](self, operation)
            phases[name] = Rows(first, len(self.rows))
        table = np.array(self.rows, ROW)
        start = table.ctypes.data
        places = np.array([(start + at, which) for at, which in self.places], np.int64)
        places = places.reshape(-1, 2)
        portable = [part for part in self.parts if not isinstance(part, Rows | Total)]
        views = {v: self.view(v) for part in portable for v in vars(part).values()
                 if isinstance(v, Place)}  # fmt: skip
        x = Place("x", self.x_shape[1:], 0)
        copied = self.view(x) if self.copies else None
        at = table.ctypes.data, places.ctypes.data
        return Program(
            tuple(self.parts), table, places, phases, copied, views, tuple(self.kept), at
        )

    def phases(self) -> list[tuple[str, list[Operation]]]:
        plan = self.plan
        ranks: list[tuple[str, list[Operation]]] = [("ranks", [*plan.barrier])]
        return [("forward", plan.forward), ("loss", [plan.loss]), ("backward", plan.backward),
                *ranks * bool(plan.barrier), ("optimizer", [*plan.updates])]  # fmt: skip

    def reads_copy(self) -> bool:
        """Whether the batch has to be copied to ``work``; products read it where it is."""
        others = (o for o in self.plan.forward if not isinstance(o, p.Affine))
        places = (v for o in others for v in vars(o).values() if isinstance(v, Place))
        return any(place.buffer == 0 for place in places)

    # -- memory -----------------------------------------------------------------------------------

    def reserve(self, size: int) -> int:
        start = self.size
        self.size += _room(size)
        return start

    def extra(self, size: int) -> Array:
        """A vector that is no place of the plan: sums, or a number of each row."""
        made = np.zeros(size, self.work.dtype)
        self.kept.append(made)
        return made

    def view(self, place: Place) -> Array:
        start = self.starts[place.buffer]
        return self.work[start : start + self.N * place.width].reshape(self.N, *place.shape)

    def at(self, x: Any) -> int:
        """The address of a place, of an array, or 0 for None."""
        if x is None:
            return 0
        if isinstance(x, Place):
            return self.work.ctypes.data + self.starts[x.buffer] * self.work.itemsize
        return x.ctypes.data

    # -- rows -------------------------------------------------------------------------------------

    def row(self, loop: Loop, sizes: tuple[int, ...], *arrays: Any) -> None:
        """Add a row; an array is a place, an array, None, or X, Y or WEIGHT of the batch."""
        kernel: Kernel = compiled(loop.text, str(self.work.dtype))
        row = np.zeros((), ROW)
        row["kernel"] = kernel.address
        row["sizes"][: len(sizes)] = sizes
        row["numbers"][: len(loop.numbers)] = loop.numbers
        begin = len(self.rows) * ROW.itemsize + ROW.fields["at"][1]  # type: ignore[index]
        for i, x in enumerate(arrays):
            if isinstance(x, int):
                self.places.append((begin + 8 * i, x))
            else:
                row["at"][i] = self.at(x)
        self.kept.append(kernel)
        self.rows.append(row)
        n, last = len(self.rows), self.parts[-1] if self.parts else None
        if isinstance(last, Rows):
            self.parts[-1] = Rows(last.first, n)
        else:
            self.parts.append(Rows(n - 1, n))

    def input(self, x: Place) -> Any:
        """The input of a product: the batch is read where it is, unless it is copied."""
        return X if x.buffer == 0 and not self.copies else x

    def product(self, a: Any, b: Any, out: Any, sizes: tuple[int, ...], given: str = "") -> None:
        if self.N == 0:  # a sum of no rows, of which a BLAS may leave out that it is zero
            return
        ta, tb = "a" in given, "b" in given
        pair = self.b.pairs[1 if "add" in given else 0]
        self.row(rows.PRODUCT, (*sizes, int(ta), int(tb), self.b.product), a, b, out, pair)

    def affine(self, o: p.Affine) -> None:
        W = self.b.params[o.layer]["W"]
        self.product(self.input(o.x), W, o.z, (self.N, o.z.width, o.x.width))

    def affine_backward(self, o: p.AffineBackward) -> None:
        W, I, J = self.b.params[o.layer]["W"], o.x.width, o.dz.width  # noqa: E741
        if o.dx is not None:
            self.product(o.dz, W, o.dx, (self.N, I, J), "b")
        self.product(self.input(o.x), o.dz, self.b.target[o.layer]["W"], (I, J, self.N), "a add")

    def map(self, o: p.Map) -> None:
        b = None if o.bias is None else self.b.params[o.bias]["b"]
        loop = loops.map_forward(o.f, bias=b is not None, keeps_z=o.z is not None)
        self.row(loop, (self.N, o.a.width), o.x, b, o.z, o.a)

    def map_backward(self, o: p.MapBackward) -> None:
        db = out = None
        if o.bias is not None:
            db, out = self.extra(o.da.width), self.b.target[o.bias]["b"]
        loop = loops.map_backward(o.f, bias=o.bias is not None)
        self.row(loop, (self.N, o.da.width), o.da, o.kept, db, out, self.b.pairs[1])

    def batch_norm(self, o: p.Norm) -> None:
        layer, tensors, size = self.layers[o.layer], self.b.params[o.layer], self.matrix(o.x)
        assert isinstance(layer, BatchNorm)
        J, count = size[1], _count(o)
        inverse, sums = self.moments[o.layer] = self.extra(J), self.extra(2 * J + 1)
        self.row(rows.chosen(rows.batch_norm_sums), size, o.x, sums)
        self.total(o, sums[: J + 1])
        self.row(rows.chosen(rows.batch_norm_squares, ROWS=count), size, o.x, o.x_hat, sums)
        self.total(o, sums[J + 1 :])
        self.row(
            rows.chosen(rows.batch_norm_output, (layer.eps, layer.momentum), ROWS=count), size,
            o.x_hat, o.y, tensors["gamma"], tensors["beta"], inverse, sums, tensors["mean"],
        )  # fmt: skip
        if o.f is not None:
            loop = loops.map_forward(o.f, bias=False, keeps_z=False)
            self.row(loop, (self.N, o.a.width), o.y, None, None, o.a)

    def batch_norm_backward(self, o: p.NormBackward) -> None:
        if o.f is not None:
            loop = loops.map_backward(o.f, bias=False)
            self.row(loop, (self.N, o.da.width), o.da, o.kept)
        tensors, target, size = self.b.params[o.layer], self.b.target[o.layer], self.matrix(o.x)
        J, (inverse, sums) = size[1], self.moments[o.layer]
        both = self.extra(2 * J)
        gradients = both[:J], both[J:]
        give = rows.GIVE, size, *gradients, target["gamma"], target["beta"], self.b.pairs[1]
        self.row(rows.chosen(rows.batch_norm_gradients), size, o.da, o.x_hat, *gradients)
        if o.ranks > 1:  # those of these rows, before they are summed
            self.row(*give)
            self.total(o, both)
        backward = rows.chosen(rows.batch_norm_backward, ROWS=_count(o))
        self.row(backward, size, o.da, o.x_hat, tensors["gamma"], inverse, *gradients, sums)
        if o.ranks == 1:  # it may be the update of γ
            self.row(*give)

    def total(self, o: p.Norm | p.NormBackward, x: Array) -> None:
        """Sum x over the ranks before the next row, if the operation is over the rows of all."""
        if o.ranks > 1:
            self.parts.append(Total(x))

    def row_forward(self, o: p.RowForward) -> None:
        names = ["y", *(f"r{i}" if r in ("element", "row") else None
                        for i, r in enumerate(o.formulas.residuals))]  # fmt: skip
        kept = self.residuals[o.layer] = [
            self.extra(self.matrix(o.x)[0]) if r == "row" else place
            for r, place in zip(o.formulas.residuals, o.kept, strict=True)
        ]
        loop = loops.along_rows(o.formulas.forward, names, keeps=True)
        parameters = self.b.params[o.layer].values()
        stored = [x for name, x in zip(names[1:], kept, strict=True) if name]
        self.row(loop, self.matrix(o.x), o.x, *parameters, o.y, *stored)

    def row_backward(self, o: p.RowBackward) -> None:
        f, formulas, J = o.forward, o.forward.formulas, o.dy.shape[-1]
        parameters, target = self.b.params[o.layer], self.b.target[o.layer]
        where = {"x": f.x, "y": f.y, **parameters}
        kept = [where.get(r, own) for r, own in
                zip(formulas.residuals, self.residuals[o.layer], strict=True)]  # fmt: skip
        formula = formulas.backward if o.input_gradient else formulas.without_dx
        assert formula is not None
        names = ["dx"] * o.input_gradient + [None] * len(parameters)
        totals = [a for name in parameters for a in (self.extra(J), target[name])]
        self.row(
            loops.along_rows(formula, names), self.matrix(o.dy), o.dy, *kept, *parameters.values(),
            *[o.dy] * o.input_gradient, *totals, self.b.pairs[1],
        )  # fmt: skip

    def matrix(self, x: Place) -> tuple[int, int]:
        """R and J: images have several rows each."""
        return self.N * x.width // x.shape[-1], x.shape[-1]

    def drop(self, o: p.Drop) -> None:
        layer = self.layers[o.layer]
        assert isinstance(layer, Dropout)
        kernel = rows.chosen(rows.dropout, (1.0 / (1.0 - layer.rate),))
        N, J = (1, self.N * o.x.width) if self.b.stride == 1 else (self.N, o.x.width)
        sizes = N, J, round(layer.rate * 2**24), self.b.first, self.b.stride
        self.row(kernel, sizes, o.x, o.y, self.b.keys[o.index])

    def called(self, o: Any) -> None:
        self.parts.append(o)

    # -- the loss and the update ------------------------------------------------------------------

    def loss_step(self, o: p.LossStep) -> None:
        if o.portable:
            self.called(o)
            return
        b = None if o.bias is None else self.b.params[o.bias]["b"]
        sizes, weight = (self.N, o.output.width), WEIGHT if self.weighted else None
        if o.element is not None:
            loop = loops.element_loss(
                o.element, self.loss.reduction, bias=b is not None, weighted=self.weighted,
                divided=o.divided,
            )  # fmt: skip
            self.row(loop, sizes, o.output, b, o.gradient, Y, weight, self.b.sums)
            return
        kernel, ignored = self.softmax_loss(bias=b is not None)
        arrays = o.output, b, o.gradient, Y, weight, self.b.class_weights, self.b.sums
        self.row(kernel, (*sizes, ignored), *arrays)

    def softmax_loss(self, *, bias: bool) -> tuple[Loop, int]:
        loss = self.loss
        assert isinstance(loss, SoftmaxCrossEntropy)
        smoothing, weights = loss.label_smoothing, loss.class_weights is not None
        numbers = 1.0 - smoothing, smoothing / self.plan.loss.output.width
        ignores = self.by_label and loss.ignore_label is not None
        kernel = rows.chosen(
            rows.softmax_cross_entropy, numbers, BIAS=bias, BY_LABEL=self.by_label,
            IGNORES=ignores, WEIGHTED=self.weighted, CLASS_WEIGHTS=weights,
            ALONE=self.by_label and not weights and not smoothing,
            DIVISOR=loops.DIVISORS[loss.reduction], DIVIDED=self.plan.loss.divided,
        )  # fmt: skip
        return kernel, loss.ignore_label or 0

    def barrier(self, o: p.Barrier) -> None:
        self.called(o)
        divisor = "real(1.0)" if self.loss.reduction == "sum" else "sums[DENOMINATOR]"
        kernel = rows.chosen(rows.summed, DIVISOR=divisor)
        self.row(kernel, (), self.b.sums, self.b.totals, self.b.divisor)

    def update(self, o: p.Update) -> None:
        if not self.plan.updates_fused or self.b.flat[0] is self.b.flat[1]:
            return  # the rule is portable, or the products that compute the gradient are the update
        assert o.formula is not None
        factor, numbers = self.norm_factor, self.b.numbers[o.part.first :]
        for a, b in o.part.ranges:
            params, gradient, *slots = (vector[a:b] for vector in self.b.flat)
            self.row(loops.update(o.formula), (b - a,), params, gradient, factor, numbers, *slots,
                     self.b.divisor)  # fmt: skip

    @functools.cached_property
    def norm_factor(self) -> Array:
        """What the update multiplies the gradient by, computed in a row before the first part's."""
        factor, gradient, clip = self.extra(1), self.b.flat[1], self.plan.updates[0].clip
        if clip.norm is not None:
            loop = loops.norm(clip, divided=not self.plan.loss.divided)
            self.row(loop, (len(gradient),), gradient, factor, self.b.divisor)
        return factor


def _count(o: p.Norm | p.NormBackward) -> str:
    """The number of rows that a batch normalisation is over, in its kernels."""
    return "R" if o.ranks == 1 else "sums[J]"


# Operation -> what writes its rows.
WRITERS: dict[type, Callable[[_Compiler, Any], None]] = {
    p.Affine: _Compiler.affine,
    p.AffineBackward: _Compiler.affine_backward,
    p.Map: _Compiler.map,
    p.MapBackward: _Compiler.map_backward,
    p.Norm: _Compiler.batch_norm,
    p.NormBackward: _Compiler.batch_norm_backward,
    p.RowForward: _Compiler.row_forward,
    p.RowBackward: _Compiler.row_backward,
    p.Drop: _Compiler.drop,
    p.PortableForward: _Compiler.called,
    p.PortableBackward: _Compiler.called,
    p.LossStep: _Compiler.loss_step,
    p.AllReduce: _Compiler.called,
    p.Barrier: _Compiler.barrier,
    p.Update: _Compiler.update,
}
