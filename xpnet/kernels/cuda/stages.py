"""A model as stages, each of which records its forward and backward launches.

A stage is a dense layer or a normalisation with the activation after it, an activation alone,
softmax as a layer, or dropout. It sees a batch as a matrix (N, features), so Flatten needs no
stage.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from xpnet.errors import UnsupportedError
from xpnet.kernels.cuda.row_stages import Norm, SoftmaxRows
from xpnet.kernels.cuda.work import IDENTITY, KINDS, Work, kind_of, patches
from xpnet.nn import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    Identity,
    LayerNorm,
    LogSoftmax,
    Sequential,
    Softmax,
    layer_name,
)
from xpnet.typing import Array

__all__ = ["KINDS", "Affine", "Drop", "Stage", "stages"]


@dataclass(frozen=True)
class Affine:
    """a = f(x W + b), or a = f(x) if ``layer`` is None."""

    layer: int | None  # index of the dense layer
    width: int  # J
    activation: Activation
    fused: bool = False  # the loss adds the bias
    input_gradient: bool = True

    @property
    def kind(self) -> int:
        return kind_of(self.activation)

    @property
    def bare(self) -> bool:
        """Whether it is a dense layer without an activation."""
        return self.layer is not None and self.kind == IDENTITY

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
            "bias_activation", work.blocks(size), z, b, a, self.kind, size, self.width,
            self.activation.setting,
        )  # fmt: skip
        return a, (x, a if self.activation.keeps_output else z)

    def backward(self, work: Work, residuals: Any, da: Array) -> Array | None:
        x, kept = residuals
        done = self.layer is None or (self.fused and work.loss_sums_bias)
        db = None if done else work.gradient(self.layer, "b")  # type: ignore[arg-type]
        if self.kind != IDENTITY or db is not None:
            self._activation_backward(work, da, kept, db)
        if self.layer is None:
            return da
        dz = da
        work.product(x.T, dz, work.gradient(self.layer, "W"), work.add)
        if not self.input_gradient:
            return None
        dx = work.scratch(x.shape)
        work.product(dz, work.parameter(self.layer, "W").T, dx)  # type: ignore[union-attr]
        return dx

    def _activation_backward(self, work: Work, da: Array, kept: Array, db: Array | None) -> None:
        """Turn da into dz and sum it into db: in one launch, or two over several blocks of rows."""
        N, J = da.shape
        cut = patches(N, J)
        split = db is not None and cut.splits > 1
        sums, add = (work.sums((cut.splits, J)), 0) if split else (db, work.add)
        work.launch_patches(
            "activation_backward", cut.grid, da, kept, sums, add, self.kind, N, J, cut.rows,
            self.activation.setting,
        )  # fmt: skip
        if split:
            work.launch("column_sums", work.blocks(J), sums, db, cut.splits, J, work.add)


@dataclass(frozen=True)
class Drop:
    """Inverted dropout; backward computes the mask again."""

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
        first = work.first * (size // x.shape[0])
        work.launch(
            "dropout", work.blocks(size), x, y, work.keys(self.index), size, threshold, scale, first
        )


Stage = Affine | Norm | SoftmaxRows | Drop


def stages(model: Sequential) -> list[Stage]:
    """Return the stages of a built model, or raise UnsupportedError, naming the layer.

    The loss adds the bias of a last dense layer without activation.
    """
    found: list[Stage] = []
    shapes = model.shapes()
    random = 0
    for i, (layer, shape) in enumerate(zip(model.layers, shapes, strict=True)):
        last, width = found[-1] if found else None, math.prod(shape)
        trained_before = any(map(_trained, found))
        if type(layer) is Dense:
            found.append(Affine(i, width, Identity(), input_gradient=trained_before))
        elif isinstance(layer, BatchNorm | LayerNorm) and type(layer) in (BatchNorm, LayerNorm):
            found.append(Norm(i, layer, Identity(), trained_before))
        elif type(layer) is Dropout:
            found.append(Drop(random, layer.rate))
            random += 1
        elif isinstance(layer, Activation) and type(layer) in KINDS:
            if isinstance(last, Affine | Norm) and last.bare:
                found[-1] = replace(last, activation=layer)
            else:
                found.append(Affine(None, width, layer))
        elif isinstance(layer, Softmax | LogSoftmax) and layer.axis in (-1, len(shape)):
            found.append(SoftmaxRows(shape[-1], isinstance(layer, LogSoftmax)))
        elif type(layer) is not Flatten:
            msg = f"layer {i} ({layer_name(layer)}) has no kernel"
            raise UnsupportedError(msg)
    if not any(map(_trained, found)):
        msg = "the model has no parameters"
        raise UnsupportedError(msg)
    last = found[-1]
    if isinstance(last, Affine) and last.bare:
        found[-1] = replace(last, fused=True)
    return found


def _trained(stage: Stage) -> bool:
    return isinstance(stage, Norm) or (isinstance(stage, Affine) and stage.layer is not None)
