"""Widths padded for tensor cores: a product takes their fast path in multiples of 16 bytes.

Otherwise cuBLAS takes 2 to 3.5 times as long (measured on an H200; a padded distance between rows
is no help), and whole cache lines are another tenth faster. So layers compute on rows with zeros
behind them, and read a working copy of the parameters that has them, too. Pads stay inert: a column
of zeros of W makes z zero there; f(0) is finite and meets a row of zeros; and backward gives
dz = 0. An infinite number makes its whole row NaN, where without pads some could stay finite; the
gradient is not finite in either case.

A place is padded if all that touches it leaves pads inert: products, activations, dropout and
normalisations and a cross-entropy of many classes, but not another loss, softmax, or a user's own
activation with f(0) infinite, say.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from xpnet.kernels.formulas import Elementwise, function
from xpnet.kernels.operations import (
    Affine,
    AffineBackward,
    Drop,
    LossStep,
    Map,
    MapBackward,
    Norm,
    NormBackward,
    Operation,
    Place,
    Plan,
)
from xpnet.nn import Sequential
from xpnet.nn.layout import Entry, Layout, layouts

__all__ = ["Padding", "padded_widths", "padding"]

LINE = 8  # packs in a cache line
ADDED = 16  # a width gets whole lines if that adds at most one number to so many
FEW = 32  # outputs of a last layer, whose products are small however it computes them
LARGEST = 65504.0  # float16
DIGITS = (8, 11, 24)  # bits of a number's fraction in bfloat16, float16 and float32


class Padding(NamedTuple):
    """What is padded, and where the numbers of the flat vector are then."""

    pack: int  # widths are multiples of this
    places: dict[str, int]  # the width of each place, padded or not
    buffers: list[int]  # that of each buffer of the plan
    layout: Layout  # of the layers' working copy of the parameters, and of their gradient
    tensors: np.ndarray  # (T + 1, 5) uint32: see Apart in common.cuh


def padding(plan: Plan, model: Sequential, pack: int) -> Padding | None:
    """Return how to pad a plan's places to multiples of ``pack``; None if nothing would change.

    In the working copy each tensor begins at a multiple of ``pack``, so nothing changes only where
    all do so in the flat vector, too.
    """
    layout = layouts(model)[0]
    found = {place.name: place for op in plan.operations() for place in _places(op)}
    kept = _kept(plan)
    free = {name: place.width for name, place in found.items() if name not in kept}
    widths = {name: place.width for name, place in found.items()}
    widths |= dict(zip(free, padded_widths(free.values(), pack), strict=True))
    buffers = list(plan.widths)
    for name, place in found.items():
        buffers[place.buffer] = max(buffers[place.buffer], widths[name])
    shapes: dict[tuple[int, str], tuple[int, ...]] = {}
    for op in plan.forward:
        if isinstance(op, Affine):
            rows, columns = widths[op.x.name], widths[op.z.name]
            shapes |= {(op.layer, "W"): (rows, columns), (op.layer, "b"): (columns,)}
        elif isinstance(op, Norm) and len(op.x.shape) == 1:
            shapes |= {(op.layer, name): (widths[op.x.name],) for name in ("gamma", "beta")}
    entries: list[Entry] = []
    for e in layout.entries:
        start = _up(entries[-1].stop, pack) if entries else 0
        shape = shapes.get((e.layer, e.variable), e.shape)
        stop = start + math.prod(shape)
        entries.append(e._replace(shape=shape, start=start, stop=stop))
    padded = Layout(tuple(entries), layout.n_layers)
    return (
        None if padded == layout else Padding(pack, widths, buffers, padded, _table(layout, padded))
    )


def padded_widths(widths: Iterable[int], pack: int) -> list[int]:
    """Return widths as a step pads them, to whole packs; as they are if all are.

    Those of several are padded to whole cache lines where that adds little.

    >>> padded_widths((784, 2500, 100), 8), padded_widths((784, 512), 8)
    ([832, 2560, 104], [784, 512])
    """
    given = list(widths)
    if not any(width % pack for width in given):
        return given
    lines = [_up(width, LINE * pack) for width in given]
    return [
        line if line - width <= width // ADDED else _up(width, pack)
        for width, line in zip(given, lines, strict=True)
    ]


def _up(n: int, pack: int) -> int:
    return -(-n // pack) * pack


def _places(op: Operation) -> list[Place]:
    return [x for x in vars(op).values() if isinstance(x, Place)]


def _kept(plan: Plan) -> set[str]:
    """Return the names of the places that keep their width."""
    outputs = {op.layer: op.z for op in plan.forward if isinstance(op, Affine)}
    together = [
        {p.name for p in group} for op in plan.operations() for group in _alike(op, outputs)
    ]
    kept = {p.name for op in plan.operations() if not _allows(op) for p in _places(op)}
    while more := {name for group in together if group & kept for name in group - kept}:
        kept |= more
    return kept


def _alike(op: Operation, outputs: dict[int, Place]) -> Iterator[list[Place]]:
    """Groups of places of an operation that must have the same width."""
    if isinstance(op, AffineBackward):
        yield [op.dz, outputs[op.layer]]
        yield [op.x] if op.dx is None else [op.x, op.dx]
    elif not isinstance(op, Affine):
        yield _places(op)


def _allows(op: Operation) -> bool:
    if isinstance(op, Norm | NormBackward) and len(op.x.shape) > 1:  # rows of an image's last axis
        return False
    if isinstance(op, Map | MapBackward | Norm | NormBackward):
        return op.f is None or is_inert(op.f)
    if isinstance(op, LossStep):  # in place, pads of dz are those of z
        by_row, in_place = op.element is None, op.gradient == op.output
        return by_row and in_place and op.output.width > FEW
    return isinstance(op, Affine | AffineBackward | Drop)


def is_inert(f: Elementwise) -> bool:
    """Return whether a pad does nothing: f(0) is finite, and dz = 0 where da = 0."""
    value, derivative = function(f.value), function(f.derivative)
    try:
        a = value(0.0)
        kept = [_rounded(a, digits) for digits in DIGITS] if f.keeps_output else [0.0]
        return abs(a) <= LARGEST and all(derivative(0.0, x) == 0.0 for x in kept)
    except (ArithmeticError, ValueError):  # Python raises where C gives inf or NaN
        return False


def _rounded(x: float, digits: int) -> float:
    fraction, exponent = math.frexp(x)
    return math.ldexp(round(fraction * 2**digits), exponent - digits)


def _table(layout: Layout, padded: Layout) -> np.ndarray:
    """Return the rows of Apart's table, of which the last is behind all tensors."""
    rows, top = [], 2**32 - 1
    for e, p in zip(layout.entries, padded.entries, strict=True):
        more = p.shape[-1] - e.shape[-1]
        J = e.shape[-1] if more else e.stop - e.start
        rows.append((e.start, p.start, J, more, top // max(J, 1)))
    return np.array([*rows, (top, 0, 1, 0, top)], "uint32")
