"""The operations of a fused training step, on matrices with a row for each example.

:mod:`xpnet.kernels.plan` says which a step has; the CPU and CUDA each have a kernel, or several,
for every one of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from xpnet.kernels.formulas import ElementLoss, Elementwise, RowLayer
from xpnet.kernels.tracing import Formula
from xpnet.optim.clipping import Clip
from xpnet.optim.groups import Part

__all__ = [
    "Affine",
    "AffineBackward",
    "AllReduce",
    "Barrier",
    "Drop",
    "LossStep",
    "Map",
    "MapBackward",
    "Norm",
    "NormBackward",
    "Operation",
    "Place",
    "Plan",
    "PortableBackward",
    "PortableForward",
    "RowBackward",
    "RowForward",
    "SoftmaxBackward",
    "SoftmaxForward",
    "Update",
]


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
    ranks: int = 1  # over whose rows a batch normalisation takes mean and variance


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
    divided: bool = True  # whether the gradient is divided by D here, else by the update


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
    ranks: int = 1


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
class AllReduce:
    """Begin the sum over the ranks of the gradient of some layers, whose backward is done.

    In the flat vector it is ``begin`` to ``end``; ``sums``: with Σ ℓ, D, correct and counted, which
    stand behind the gradient of the last layer.
    """

    ranks: int
    first: int  # of the layers
    last: int  # the layer after them
    begin: int
    end: int
    sums: bool


@dataclass(frozen=True)
class Barrier:
    """Wait until all sums over the ranks are there; the totals and C are those of the batch."""

    ranks: int


@dataclass(frozen=True)
class Update:
    """Clipping of the whole gradient, and the update of a part of the flat vectors."""

    clip: Clip
    part: Part
    formula: Formula | None  # None: the update of all parts is portable


Operation = (
    Affine | Map | Norm | SoftmaxForward | Drop | PortableForward | LossStep | MapBackward
    | AffineBackward | NormBackward | SoftmaxBackward | PortableBackward | RowForward
    | RowBackward | AllReduce | Barrier | Update
)  # fmt: skip


@dataclass
class Plan:
    """The operations of a step in order, and what they work on."""

    forward: list[Operation] = field(default_factory=list)
    loss: LossStep = field(init=False)
    backward: list[Operation] = field(default_factory=list)
    barrier: list[Barrier] = field(default_factory=list)  # one, where ranks share the batch
    updates: list[Update] = field(default_factory=list)  # one for each group of parameters
    widths: list[int] = field(default_factory=list)  # of each buffer; the first is the batch
    portable: list[tuple[str, str]] = field(default_factory=list)  # what has no kernel, and why

    @property
    def sums(self) -> list[AllReduce]:
        """The sums over the ranks, in the order in which they begin."""
        return [o for o in self.backward if isinstance(o, AllReduce)]

    @property
    def updates_fused(self) -> bool:
        """Whether the update of every group of parameters has a formula."""
        return all(o.formula is not None for o in self.updates)

    def operations(self) -> Iterator[Operation]:
        """All operations in order."""
        yield from self.forward
        yield self.loss
        yield from self.backward
        yield from self.barrier
        yield from self.updates
