"""What a fused training step does, in order: one plan, which the CPU and CUDA both print.

What is decided here and nowhere else: a dense layer or a normalisation includes the activation
after it; the loss adds the bias of a last dense layer; backward ends at the first trained layer;
results overwrite inputs that nothing reads again. A layer, loss or rule without a kernel is a
:class:`Portable` operation, and :attr:`Plan.portable` says why.

A step sees a batch as matrices with N rows. Each :class:`Place` is such a matrix; places with the
same buffer share memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from xpnet.errors import UnsupportedError
from xpnet.kernels import formulas
from xpnet.kernels.formulas import ElementLoss, Elementwise, RowLayer
from xpnet.kernels.tracing import Formula
from xpnet.nn import (
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    LogSoftmax,
    Sequential,
    Softmax,
    layer_name,
)
from xpnet.nn.layout import layouts
from xpnet.nn.losses import CrossEntropy, Loss, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.groups import Part, parts
from xpnet.optim.optimizers import Optimizer

__all__ = [
    "Affine", "AffineBackward", "Drop", "LossStep", "Map", "MapBackward", "Norm", "NormBackward",
    "Operation", "Place", "Plan", "PortableBackward", "PortableForward", "RowBackward",
    "RowForward", "SoftmaxBackward", "SoftmaxForward", "Update", "make_plan",
]  # fmt: skip

# Losses of rows, which have a kernel written by hand: kernels/README says why.
ROW_LOSSES = (SoftmaxCrossEntropy, CrossEntropy)


@dataclass(frozen=True)
class Place:
    """A matrix with a row for each example: ``shape`` is that of a row."""

    name: str
    shape: tuple[int, ...]
    buffer: int

    @property
    def width(self) -> int:
        """The numbers in a row."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Affine:
    """z = x W."""

    layer: int
    x: Place
    z: Place


@dataclass(frozen=True)
class Map:
    """a = f(x + b); x + b goes to z, unless that is None. ``bias`` is the layer that has b."""

    layer: int
    x: Place
    bias: int | None
    z: Place | None
    a: Place
    f: Elementwise | None  # None: f is the identity


@dataclass(frozen=True)
class Norm:
    """y = γ x̂ + β, and a = f(y)."""

    layer: int
    x: Place
    x_hat: Place
    y: Place
    a: Place
    f: Elementwise | None


@dataclass(frozen=True)
class SoftmaxForward:
    """a = softmax z along the last axis, or its logarithm."""

    layer: int
    z: Place
    a: Place


@dataclass(frozen=True)
class RowForward:
    """y, and what backward keeps, of a layer whose sums are along rows."""

    layer: int
    x: Place
    y: Place
    formulas: RowLayer
    kept: tuple[Place | None, ...]  # a place where a residual is a new matrix


@dataclass(frozen=True)
class RowBackward:
    """dy becomes dx, if that is asked for; and the gradients of the layer's parameters."""

    layer: int
    dy: Place
    forward: RowForward
    input_gradient: bool


@dataclass(frozen=True)
class Drop:
    """y = x m / (1 - rate), forward and, with dy for x and y, backward."""

    layer: int
    index: int  # among the random layers
    x: Place
    y: Place


@dataclass(frozen=True)
class PortableForward:
    """The portable forward of a layer without a kernel."""

    layer: int
    index: int  # among the random layers
    x: Place
    y: Place


@dataclass(frozen=True)
class LossStep:
    """C and dC/doutput; ``bias`` is the last dense layer, if the loss adds its b to the output."""

    output: Place
    gradient: Place
    bias: int | None
    element: ElementLoss | None  # None: a loss of rows, or portable
    portable: bool = False


@dataclass(frozen=True)
class MapBackward:
    """da becomes dz = f'(kept) da, and db the sums of its columns."""

    layer: int
    da: Place
    kept: Place
    bias: int | None
    f: Elementwise | None


@dataclass(frozen=True)
class AffineBackward:
    """dW = xᵀ dz, and dx = dz Wᵀ unless ``dx`` is None; after MapBackward."""

    layer: int
    x: Place
    dz: Place
    dx: Place | None


@dataclass(frozen=True)
class NormBackward:
    """da becomes dx, by way of dy = f'(kept) da; dγ and dβ."""

    layer: int
    da: Place
    kept: Place
    x: Place
    x_hat: Place
    f: Elementwise | None
    input_gradient: bool


@dataclass(frozen=True)
class SoftmaxBackward:
    """da becomes dz."""

    layer: int
    da: Place
    a: Place


@dataclass(frozen=True)
class PortableBackward:
    """The portable backward of a layer without a kernel."""

    layer: int
    dy: Place
    dx: Place | None


@dataclass(frozen=True)
class Update:
    """Clipping of the whole gradient, and the update of a part of the flat vectors."""

    clip: Clip
    part: Part
    formula: Formula | None  # None: the update of all parts is portable


Operation = (
    Affine | Map | Norm | SoftmaxForward | Drop | PortableForward | LossStep | MapBackward
    | AffineBackward | NormBackward | SoftmaxBackward | PortableBackward | RowForward
    | RowBackward | Update
)  # fmt: skip


@dataclass
class Plan:
    """The operations of a step in order, and what they work on."""

    forward: list[Operation] = field(default_factory=list)
    loss: LossStep = field(init=False)
    backward: list[Operation] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)  # one for each group of parameters
    widths: list[int] = field(default_factory=list)  # of each buffer; the first is the batch
    portable: list[tuple[str, str]] = field(default_factory=list)  # what has no kernel, and why

    @property
    def updates_fused(self) -> bool:
        """Whether the update of every group of parameters has a formula."""
        return all(o.formula is not None for o in self.updates)

    def operations(self) -> Iterator[Operation]:
        """All operations in order."""
        yield from self.forward
        yield self.loss
        yield from self.backward
        yield from self.updates


def make_plan(
    model: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    clip: Clip,
    *,
    by_rows: bool = False,
    divided: bool = False,
) -> Plan:
    """Return the plan of a training step of a built model.

    ``by_rows`` says whether layers with sums along rows are printed from their formulas; without
    it softmax and layer normalisation have operations of their own, and so has the cross-entropy
    of probabilities. ``divided`` says whether the update divides the gradient by the loss's
    denominator.
    """
    return _Planner(model, loss, optimizer, clip, by_rows, divided).plan


class _Planner:
    def __init__(
        self,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        clip: Clip,
        by_rows: bool,
        divided: bool,
    ) -> None:
        self.divided = divided
        self.layers, self.loss, self.by_rows, self.plan = model.layers, loss, by_rows, Plan()
        self.shapes = [tuple(model.input_shape or ()), *model.shapes()]
        self.first_trained, self.random = model.first_trained, 0
        self.undo: list[Callable[[Place], Place | None]] = []
        x = self.place("x", self.shapes[0])
        widest = max(math.prod(shape) for shape in self.shapes)
        self.scratch = [self.buffer(widest), self.buffer(widest)]
        i = 0
        while i < len(self.layers):
            x, i = self.forward(i, x)
        dy: Place | None = self.output(x)
        for undo in reversed(self.undo):
            if dy is not None:
                dy = undo(dy)
        size = layouts(model)[0].size
        self.plan.updates = [self.update(part, clip) for part in parts(optimizer, size)]

    # -- places -----------------------------------------------------------------------------------

    def buffer(self, width: int) -> int:
        self.plan.widths.append(width)
        return len(self.plan.widths) - 1

    def place(self, name: str, shape: tuple[int, ...]) -> Place:
        return Place(name, shape, self.buffer(math.prod(shape)))

    def other(self, name: str, used: Place, shape: tuple[int, ...]) -> Place:
        """A place for a gradient: the scratch buffer that is not in use."""
        return Place(name, shape, self.scratch[used.buffer == self.scratch[0]])

    def then(self, layer: int, undo: Callable[[Place], Place | None]) -> None:
        """Note the backward of what was just added, if backward gets there."""
        if layer >= self.first_trained:
            self.undo.append(undo)

    # -- layers -----------------------------------------------------------------------------------

    def forward(self, i: int, x: Place) -> tuple[Place, int]:
        """Add layer i; return the place of its output, and the index of the layer after it."""
        layer, shape = self.layers[i], self.shapes[i + 1]
        if type(layer) is Dense:
            return self.dense(i, x)
        if type(layer) is BatchNorm or (type(layer) is LayerNorm and not self.by_rows):
            return self.norm(i, x)
        if type(layer) is Flatten:
            self.then(i, lambda dy: replace(dy, shape=x.shape))
            return replace(x, shape=shape), i + 1
        if type(layer) is Dropout:
            return self.dropout(i, x), i + 1
        if isinstance(layer, Softmax | LogSoftmax) and self.has_softmax_kernel(layer, shape):
            return self.softmax_layer(i, x), i + 1
        if (f := self.traced(layer)) is not None:
            return self.activation(i, f, x), i + 1
        try:
            return self.along_rows(i, x), i + 1
        except UnsupportedError as error:
            return self.portable(i, x, str(error)), i + 1

    def has_softmax_kernel(self, layer: Softmax | LogSoftmax, shape: tuple[int, ...]) -> bool:
        return not self.by_rows and layer.axis in (-1, len(shape))

    def traced(self, layer: Layer | None) -> Elementwise | None:
        """The formulas of an element-wise layer, or None."""
        try:
            return None if layer is None else formulas.activation(layer)
        except UnsupportedError:
            return None

    def follower(self, i: int) -> Elementwise | None:
        """The formulas of the layer after layer i, if that is an activation."""
        return self.traced(self.layers[i + 1]) if i + 1 < len(self.layers) else None

    def dense(self, i: int, x: Place) -> tuple[Place, int]:
        """Add a dense layer and the activation after it, if any."""
        layer = self.layers[i]
        assert isinstance(layer, Dense)
        shape, last = self.shapes[i + 1], i + 1 == len(self.layers)
        f, z = self.follower(i), self.place(f"z{i}", shape)
        bias = i if layer.bias else None
        self.plan.forward.append(Affine(i, x, z))
        a, kept, after = z, z, i + 1 if f is None else i + 2
        if f is not None and not f.is_identity:
            kept = a = z if f.keeps_output else self.place(f"a{i + 1}", shape)
            kept = a if f.keeps_output else z
            keep = z if bias is not None and not f.keeps_output else None
            self.plan.forward.append(Map(after - 1, z, bias, keep, a, f))
        elif bias is not None and not (last and self.has_loss_kernel()):
            self.plan.forward.append(Map(i, z, bias, None, z, None))
        if f is not None and f.is_identity:
            f = None

        def undo(dy: Place) -> Place | None:
            if f is not None or bias is not None:
                self.plan.backward.append(MapBackward(i, dy, kept, bias, f))
            dx = self.other(f"d{x.name}", dy, x.shape) if i > self.first_trained else None
            self.plan.backward.append(AffineBackward(i, x, dy, dx))
            return dx

        self.then(i, undo)
        return a, after

    def activation(self, i: int, f: Elementwise, x: Place) -> Place:
        if f.is_identity:
            self.then(i, lambda dy: dy)
            return x
        a = self.place(f"a{i}", x.shape)
        self.plan.forward.append(Map(i, x, None, None, a, f))

        def undo(da: Place) -> Place:
            kept = a if f.keeps_output else x
            self.plan.backward.append(MapBackward(i, da, kept, None, f))
            return da

        self.then(i, undo)
        return a

    def norm(self, i: int, x: Place) -> tuple[Place, int]:
        """Add a normalisation and the activation after it, if any."""
        f = self.follower(i)
        x_hat, y = self.place(f"x_hat{i}", x.shape), self.place(f"y{i}", x.shape)
        after = i + 1 if f is None else i + 2
        if f is not None and f.is_identity:
            f = None
        in_place = f is None or f.keeps_output
        a = y if in_place else self.place(f"a{i + 1}", x.shape)
        self.plan.forward.append(Norm(i, x, x_hat, y, a, f))

        def undo(da: Place) -> Place | None:
            needed = i > self.first_trained
            self.plan.backward.append(NormBackward(i, da, y, x, x_hat, f, needed))
            return da if needed else None

        self.then(i, undo)
        return a, after

    def softmax_layer(self, i: int, z: Place) -> Place:
        a = self.place(f"a{i}", z.shape)
        self.plan.forward.append(SoftmaxForward(i, z, a))

        def undo(da: Place) -> Place:
            self.plan.backward.append(SoftmaxBackward(i, da, a))
            return da

        self.then(i, undo)
        return a

    def along_rows(self, i: int, x: Place) -> Place:
        """Add a layer whose sums are along rows, printed. Raises UnsupportedError."""
        layer, shape = self.layers[i], self.shapes[i + 1]
        _check_row_layer(layer, x.shape, shape, self.by_rows)
        made = formulas.row_layer(layer, tuple(layer.variables()))
        kept = tuple(self.place(f"r{i}", shape) if r == "element" else None for r in made.residuals)
        forward = RowForward(i, x, self.place(f"y{i}", shape), made, kept)
        self.plan.forward.append(forward)

        def undo(dy: Place) -> Place | None:
            needed = i > self.first_trained
            self.plan.backward.append(RowBackward(i, dy, forward, needed))
            return dy if needed else None

        self.then(i, undo)
        return forward.y

    def dropout(self, i: int, x: Place) -> Place:
        y, index = self.place(f"y{i}", x.shape), self.random
        self.random += 1
        self.plan.forward.append(Drop(i, index, x, y))

        def undo(dy: Place) -> Place:
            self.plan.backward.append(Drop(i, index, dy, dy))
            return dy

        self.then(i, undo)
        return y

    def portable(self, i: int, x: Place, why: str) -> Place:
        layer, y, index = self.layers[i], self.place(f"y{i}", self.shapes[i + 1]), self.random
        self.random += layer.random
        self.plan.portable.append((layer_name(layer), why))
        self.plan.forward.append(PortableForward(i, index, x, y))

        def undo(dy: Place) -> Place | None:
            needed = i > self.first_trained
            dx = self.other(f"d{x.name}", dy, x.shape) if needed else None
            self.plan.backward.append(PortableBackward(i, dy, dx))
            return dx

        self.then(i, undo)
        return y

    # -- the loss and the rule --------------------------------------------------------------------

    def has_loss_kernel(self) -> bool:
        """Whether the loss has a kernel: its own, or printed ones."""
        kernels = (SoftmaxCrossEntropy,) if self.by_rows else ROW_LOSSES
        return type(self.loss) in kernels or not isinstance(self.element(), str)

    def element(self) -> ElementLoss | str:
        """The formulas of an element-wise loss, or why there are none."""
        try:
            return formulas.element_loss(self.loss)
        except UnsupportedError as error:
            return str(error)

    def output(self, z: Place) -> Place:
        """Add the loss; return the place of its gradient."""
        last, kernel = len(self.layers) - 1, self.has_loss_kernel()
        dense = self.layers[last]
        ends_dense = type(dense) is Dense and kernel
        # Backward of an activation may need its output, so only a dense layer's is overwritten.
        dz = z if ends_dense else Place("dC", z.shape, self.scratch[0])
        bias = last if ends_dense and isinstance(dense, Dense) and dense.bias else None
        element = self.element()
        if not kernel:
            self.plan.portable.append((type(self.loss).__name__, str(element)))
        elements = element if isinstance(element, ElementLoss) else None
        self.plan.loss = LossStep(z, dz, bias, elements, not kernel)
        return dz

    def update(self, part: Part, clip: Clip) -> Update:
        rule = part.group.rule
        try:
            return Update(clip, part, formulas.update(rule, clip, divided=self.divided))
        except UnsupportedError as error:
            why = type(rule).__name__, str(error)
            self.plan.portable += [why] * (why not in self.plan.portable)
            return Update(clip, part, None)


def _check_row_layer(
    layer: Layer, before: tuple[int, ...], after: tuple[int, ...], by_rows: bool
) -> None:
    """Raise UnsupportedError for a layer that cannot be printed as a loop over rows."""
    if not by_rows:
        formulas.activation(layer)  # says why it is not even element-wise
    variables = layer.variables().values()
    if layer.random or not all(v.trained for v in variables):
        msg = "it draws random numbers, or tracks statistics"
        raise UnsupportedError(msg)
    if before != after or any(v.shape != after[-1:] for v in variables):
        msg = "its output or its parameters have another width than a row"
        raise UnsupportedError(msg)
