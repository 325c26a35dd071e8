"""The stages that work along rows or columns: normalisation, and softmax as a layer.

Both work on the last axis; all axes before it, also those of images, are R rows.
"""

import math
from dataclasses import dataclass
from typing import Any

from xpnet.kernels.cuda.work import IDENTITY, WARP, Work, kind_of, patches
from xpnet.nn import Activation, BatchNorm, LayerNorm
from xpnet.typing import Array

__all__ = ["Norm", "SoftmaxRows"]


def _rows(x: Array, J: int) -> Array:
    return x.reshape((math.prod(x.shape) // J, J))


@dataclass(frozen=True)
class Norm:
    """a = f(γ x̂ + β), x̂ being x normalised along its rows or, in a batch norm, its columns."""

    index: int  # of the layer
    layer: BatchNorm | LayerNorm
    activation: Activation
    input_gradient: bool

    def forward(self, work: Work, x: Array) -> tuple[Array, Any]:
        assert self.layer.features is not None
        matrix = _rows(x, self.layer.features)
        R, J = matrix.shape
        kind, setting = kind_of(self.activation), self.activation.setting
        y = work.empty((R, J))
        a = y if self.activation.keeps_output else work.empty((R, J))
        statistics = [work.sums((R if isinstance(self.layer, LayerNorm) else J,)) for _ in range(2)]
        parameters = [work.parameter(self.index, name) for name in ("gamma", "beta")]
        given = (matrix, y, a, *parameters, *statistics)
        if isinstance(self.layer, BatchNorm):
            self._batch_norm(work, self.layer, given, kind, setting)
        else:
            eps = self.layer.eps
            work.launch("layer_norm", work.blocks(R * WARP), *given, R, J, eps, kind, setting)
        kept = a if self.activation.keeps_output else y
        return a.reshape(x.shape), (kept, matrix, *statistics)

    def _batch_norm(
        self, work: Work, layer: BatchNorm, given: tuple[Any, ...], kind: int, setting: float
    ) -> None:
        R, J = given[0].shape
        cut, partial, m = patches(R, J), None, layer.momentum
        if cut.splits > 1:
            partial = work.sums((cut.splits, 2, J))
            work.launch_patches("column_moments", cut.grid, given[0], partial, R, J, cut.rows)
        running = [work.statistic(self.index, name) for name in ("mean", "var")]
        unbiased = R / max(R - 1, 1)
        work.launch_patches(
            "batch_norm", cut.grid, *given, partial, *running, R, J, cut.rows, layer.eps,
            1.0 - m, m, unbiased, kind, setting,
        )  # fmt: skip

    def backward(self, work: Work, residuals: Any, da: Array) -> Array | None:
        kept, x, *statistics = residuals
        R, J = x.shape
        by_row = isinstance(self.layer, LayerNorm)
        kind, setting = kind_of(self.activation), self.activation.setting
        gradient, cut, partial = _rows(da, J), patches(R, J), None
        if by_row or cut.splits > 1:
            partial = work.sums((cut.splits, 2, J))
            work.launch_patches(
                "norm_gradients", cut.grid, gradient, kept, x, *statistics, partial, int(by_row),
                R, J, cut.rows, kind, setting,
            )  # fmt: skip
        sums = [work.gradient(self.index, name) for name in ("gamma", "beta")]
        given = (gradient, kept, x, work.parameter(self.index, "gamma"), *statistics, partial,
                 *sums, work.add, int(self.input_gradient), R, J)  # fmt: skip
        if by_row:
            blocks = work.blocks(R * WARP if self.input_gradient else J)
            work.launch("layer_norm_backward", blocks, *given, cut.splits, kind, setting)
        else:
            work.launch_patches("batch_norm_backward", cut.grid, *given, cut.rows, kind, setting)
        return da if self.input_gradient else None

    @property
    def bare(self) -> bool:
        """Whether it has no activation."""
        return kind_of(self.activation) == IDENTITY


@dataclass(frozen=True)
class SoftmaxRows:
    """Softmax, or its logarithm, along the last axis of ``features`` entries."""

    features: int
    logarithm: bool

    def forward(self, work: Work, x: Array) -> tuple[Array, Any]:
        matrix, a = _rows(x, self.features), work.empty(x.shape)
        self._launch(work, "softmax", matrix, a.reshape(matrix.shape))
        return a, a

    def backward(self, work: Work, residuals: Any, da: Array) -> Array | None:
        matrix = _rows(da, self.features)
        self._launch(work, "softmax_backward", matrix, residuals.reshape(matrix.shape))
        return da

    def _launch(self, work: Work, kernel: str, x: Array, a: Array) -> None:
        R, J = x.shape
        work.launch(kernel, work.blocks(R * WARP), x, a, R, J, int(self.logarithm))
