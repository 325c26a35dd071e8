"""What a program is made of, and the arrays that all programs of a step share."""

from typing import Any, NamedTuple

import numpy as np

from xpnet.kernels import operations as p
from xpnet.kernels.operations import Place
from xpnet.nn import Params
from xpnet.typing import Array

__all__ = ["Buffers", "Part", "Program", "Rows", "Total"]


class Rows(NamedTuple):
    """Rows ``first`` to ``last`` of the program."""

    first: int
    last: int


class Total(NamedTuple):
    """Sum x (n,) over the ranks: what the next rows read."""

    x: Array


Part = Rows | Total | p.AllReduce | p.Barrier | p.PortableForward | p.PortableBackward | p.LossStep


class Program(NamedTuple):
    """What a step on N rows does, in order."""

    parts: tuple[Part, ...]
    rows: np.ndarray  # of memory.ROW
    places: np.ndarray  # (n, 2) int64: where a row has the address of an array of the batch, which
    phases: dict[str, Rows]  # forward, loss, backward, optimizer; ranks, where there are some
    copied: Array | None  # where x is first copied to, if at all
    views: dict[Place, Array]  # what the portable parts work on
    kept: tuple[Any, ...]  # what must live as long as the rows
    addresses: tuple[int, int]  # of the rows and the places


class Buffers(NamedTuple):
    """The arrays that all programs of a step share."""

    params: list[Params]  # and running statistics, per layer
    target: list[dict[str, Array]]  # where the gradients of the parameters go
    flat: tuple[Array, ...]  # params, gradient, and the slots: (P,) each
    totals: Array  # (parts.SUMS,)
    sums: Array  # the totals, or (4,) what is first summed over the ranks
    divisor: Array  # (1,) D, where the update divides the gradient by it
    class_weights: Array
    keys: Array  # (random layers, 2) int32
    pairs: Array  # (2, 2) float64: (α, β) of a product, and of one that adds a gradient
    numbers: Array  # float64: the coefficients of the update
    product: int  # the address of the BLAS's matrix product
    first: int = 0  # the row of the whole batch that is the first one here
    stride: int = 1  # how far apart the rows here are in it
