"""What a fused training step does, in order: one plan, which the CPU and CUDA both print.

What is decided here and nowhere else: a dense layer or a normalisation includes the activation
after it; the loss adds the bias of a last dense layer; backward ends at the first trained layer;
results overwrite inputs that nothing reads again; where ranks share a batch, when each part of the
gradient is summed over them. A layer, loss or rule without a kernel is a portable operation, and
:attr:`Plan.portable` says why.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from xpnet.errors import UnsupportedError
from xpnet.kernels import formulas
from xpnet.kernels.barrier import with_sums
from xpnet.kernels.formulas import ElementLoss, Elementwise
from xpnet.kernels.operations import (
    Affine,
    AffineBackward,
    Barrier,
    Drop,
    LossStep,
    Map,
    MapBackward,
    Norm,
    NormBackward,
    Place,
    Plan,
    PortableBackward,
    PortableForward,
    RowBackward,
    RowForward,
    SoftmaxBackward,
    SoftmaxForward,
    Update,
)
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

__all__ = ["ROW_LOSSES", "make_plan"]

# Losses of rows, which have a kernel written by hand: cpu/rows.py says why.
ROW_LOSSES = (SoftmaxCrossEntropy, CrossEntropy)


def make_plan(
    model: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    clip: Clip,
    *,
    by_rows: bool = False,
    divided: bool = False,
    ranks: int = 1,
    buckets: int = 1,
) -> Plan:
    """Return the plan of a training step of a built model.

    ``by_rows`` says whether layers with sums along rows are printed from their formulas; without
    it softmax and layer normalisation have operations of their own, and so has the cross-entropy
    of probabilities. ``divided`` says whether the update divides the gradient by the loss's
    denominator, as that of a batch that several ``ranks`` share always does. Before the updates of
    such a batch is their barrier; the gradient is summed in up to so many ``buckets`` of whole
    layers, each begun as soon as the backward of its layers is done.
    """
    plan = _Planner(model, loss, optimizer, clip, by_rows, divided or ranks > 1, ranks).plan
    if ranks > 1:
        plan.backward = with_sums(plan.backward, model, ranks, buckets)
        plan.barrier = [Barrier(ranks)]
    return plan


class _Planner:
    def __init__(
        self,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        clip: Clip,
        by_rows: bool,
        divided: bool,
        ranks: int,
    ) -> None:
        self.divided, self.ranks = divided, ranks
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
        elif bias is not None and not (last and not isinstance(self.element, str)):
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
        ranks = self.ranks if type(self.layers[i]) is BatchNorm else 1
        self.plan.forward.append(Norm(i, x, x_hat, y, a, f, ranks))

        def undo(da: Place) -> Place | None:
            needed = i > self.first_trained
            self.plan.backward.append(NormBackward(i, da, y, x, x_hat, f, needed, ranks))
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

    @functools.cached_property
    def element(self) -> ElementLoss | str | None:
        """The formulas of an element-wise loss, why there are none, or None for one of rows."""
        if type(self.loss) in ((SoftmaxCrossEntropy,) if self.by_rows else ROW_LOSSES):
            return None
        try:
            return formulas.element_loss(self.loss)
        except UnsupportedError as error:
            return str(error)

    def output(self, z: Place) -> Place:
        """Add the loss; return the place of its gradient."""
        element, last = self.element, len(self.layers) - 1
        dense, portable = self.layers[last], isinstance(element, str)
        ends_dense = type(dense) is Dense and not portable
        # Backward of an activation may need its output, so only a dense layer's is overwritten.
        dz = z if ends_dense else Place("dC", z.shape, self.scratch[0])
        bias = last if ends_dense and isinstance(dense, Dense) and dense.bias else None
        if isinstance(element, str):
            self.plan.portable.append((type(self.loss).__name__, element))
            element = None
        self.plan.loss = LossStep(z, dz, bias, element, portable, divided=not self.divided)
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
