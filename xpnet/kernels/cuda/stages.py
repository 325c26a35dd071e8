"""A model as stages, each of which says what to launch forward and backward.

A stage is a dense layer with the activation after it, an activation alone, or dropout. It sees a
batch as a matrix (N, features); Flatten is then nothing at all.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from xpnet.errors import BackendError
from xpnet.layers import (
    ELU,
    GELU,
    SELU,
    Activation,
    Dense,
    Dropout,
    Flatten,
    GELUTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
    layer_name,
)
from xpnet.typing import Array

__all__ = ["Affine", "Drop", "Stage", "UnsupportedError", "stages"]

# The enum in activation.cu.
KINDS: tuple[type[Activation], ...] = (
    Identity, ReLU, LeakyReLU, Sigmoid, Tanh, GELU, GELUTanh, SiLU, Softplus, ELU, SELU,
)  # fmt: skip
IDENTITY = 0
COLUMNS = 32  # of a block in activation_backward
ROWS = 64  # that such a block sums, at least
BLOCKS = 264  # that such a launch has, at most: two on each multiprocessor of an H100


class UnsupportedError(BackendError):
    """There is no kernel for something in this training; the message says for what."""


class Work(Protocol):
    """What a stage may do: take static buffers, and put work in line."""

    def empty(self, shape: tuple[int, ...]) -> Array: ...
    def sums(self, shape: tuple[int, ...]) -> Array: ...
    def scratch(self, shape: tuple[int, ...]) -> Array: ...
    def parameter(self, layer: int, name: str) -> Array | None: ...
    def gradient(self, layer: int, name: str) -> Array | None: ...
    def keys(self, index: int) -> Array: ...
    def product(self, a: Array, b: Array, out: Array) -> None: ...
    def blocks(self, size: int) -> int: ...
    def launch(self, kernel: str, grid: int | tuple[int, int], *args: Any) -> None: ...


@dataclass(frozen=True)
class Affine:
    """a = f(x W + b), or a = f(x) where ``layer`` is None."""

    layer: int | None  # index of the dense layer
    width: int  # J
    activation: Activation
    fused: bool = False  # the loss adds the bias
    input_gradient: bool = True

    @property
    def kind(self) -> int:
        return KINDS.index(type(self.activation))

    @property
    def setting(self) -> float:
        """The slope or alpha of the activation, if it has one."""
        return next(iter(vars(self.activation).values()), 0.0)

    def forward(self, work: Work, x: Array) -> tuple[Array, Any]:
        N, z, b = x.shape[0], x, None
        if self.layer is not None:
            z, b = work.empty((N, self.width)), work.parameter(self.layer, "b")
            work.product(x, work.parameter(self.layer, "W"), z)
        if self.fused or (b is None and self.kind == IDENTITY):
            return z, (x, z)
        in_place = self.layer is not None and self.activation.keeps_output
        a = z if in_place else work.empty((N, self.width))
        size = N * self.width
        work.launch(
            "bias_activation", work.blocks(size), z, b, a, self.kind, size, self.width, self.setting
        )
        return a, (x, a if self.activation.keeps_output else z)

    def backward(self, work: Work, residuals: Any, da: Array) -> Array | None:
        x, kept = residuals
        db = None if self.layer is None else work.gradient(self.layer, "b")
        if self.kind != IDENTITY or db is not None:
            self._activation_backward(work, da, kept, db)
        if self.layer is None:
            return da
        dz = da
        work.product(x.T, dz, work.gradient(self.layer, "W"))
        if not self.input_gradient:
            return None
        dx = work.scratch(x.shape)
        work.product(dz, work.parameter(self.layer, "W").T, dx)  # type: ignore[union-attr]
        return dx

    def _activation_backward(self, work: Work, da: Array, kept: Array, db: Array | None) -> None:
        """Turn da into dz, and sum it into db: at once, or by several blocks and then once more."""
        N, J = da.shape
        columns = -(-J // COLUMNS)
        splits = max(1, min(-(-N // ROWS), BLOCKS // columns))
        rows = -(-N // splits)
        splits = -(-N // rows)
        partial = db if db is None or splits == 1 else work.sums((splits, J))
        work.launch(
            "activation_backward", (columns, splits), da, kept, partial, self.kind, N, J, rows,
            self.setting,
        )  # fmt: skip
        if db is not None and splits > 1:
            work.launch("column_sums", work.blocks(J), partial, db, splits, J)


@dataclass(frozen=True)
class Drop:
    """Inverted dropout; the mask is made again on the way back."""

    index: int  # among the random layers
    rate: float

    def forward(self, work: Work, x: Array) -> tuple[Array, Any]:
        y = work.empty(x.shape)
        self._launch(work, x, y)
        return y, None

    def backward(self, work: Work, residuals: Any, dy: Array) -> Array | None:
        self._launch(work, dy, dy)
        return dy

    def _launch(self, work: Work, x: Array, y: Array) -> None:
        size = math.prod(x.shape)
        threshold, scale = round(self.rate * 2**24), 1.0 / (1.0 - self.rate)
        work.launch(
            "dropout", work.blocks(size), x, y, work.keys(self.index), size, threshold, scale
        )


Stage = Affine | Drop


def stages(model: Sequential) -> list[Stage]:
    """Return the stages of a built model, or raise UnsupportedError, naming the layer.

    The bias of a last dense layer without activation is left to the loss.
    """
    found: list[Stage] = []
    widths = [math.prod(shape) for shape in model.shapes()]
    random = 0
    for i, (layer, width) in enumerate(zip(model.layers, widths, strict=True)):
        last = found[-1] if found else None
        if type(layer) is Dense:
            found.append(Affine(i, width, Identity(), input_gradient=bool(_trained(found))))
        elif type(layer) is Dropout:
            found.append(Drop(random, layer.rate))
            random += 1
        elif isinstance(layer, Activation) and type(layer) in KINDS:
            if isinstance(last, Affine) and last.layer is not None and last.kind == IDENTITY:
                found[-1] = Affine(last.layer, width, layer, False, last.input_gradient)
            else:
                found.append(Affine(None, width, layer))
        elif type(layer) is not Flatten:
            msg = f"layer {i} ({layer_name(layer)}) has no kernel"
            raise UnsupportedError(msg)
    if not _trained(found):
        msg = "the model has no dense layer"
        raise UnsupportedError(msg)
    last = found[-1]
    if isinstance(last, Affine) and last.layer is not None and last.kind == IDENTITY:
        found[-1] = Affine(last.layer, last.width, Identity(), True, last.input_gradient)
    return found


def _trained(found: list[Stage]) -> list[Stage]:
    return [s for s in found if isinstance(s, Affine) and s.layer is not None]
