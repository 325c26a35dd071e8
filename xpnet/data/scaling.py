"""Scaling of features, fitted to the training part alone."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from xpnet.data.dataset import chunks
from xpnet.data.running_stats import RunningStats
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.settings import did_you_mean

__all__ = ["SCALINGS", "Scaler", "Scaling", "fit_scaler", "scaler_of"]

Scaling = Literal["standard", "minmax", "max", "none"]
SCALINGS: tuple[Scaling, ...] = ("standard", "minmax", "max", "none")


class Scaler(NamedTuple):
    """The map x -> (x - shift) / scale; both are float64, of the shape of one row or ()."""

    shift: np.ndarray
    scale: np.ndarray

    def apply(self, x: np.ndarray, dtype: str | np.dtype = "float32") -> np.ndarray:
        """Return the scaled rows of ``x`` (N, ...) in ``dtype``.

        Each value is computed in float64 and rounded once, a block of rows at a time. Raises
        DataError if the features have another shape or overflow ``dtype``.
        """
        if self.shift.shape not in ((), x.shape[1:]):
            msg = f"features of shape {x.shape[1:]}; the scaler was fitted to {self.shift.shape}"
            raise DataError(msg)
        scaled, wide = np.empty(x.shape, dtype), None
        try:
            with np.errstate(over="raise"):
                for rows in chunks(x, 2**18):  # few enough to stay in the cache of a core
                    wide = np.empty(x[rows].shape) if wide is None else wide[: len(x[rows])]
                    np.subtract(x[rows], self.shift, out=wide)
                    np.divide(wide, self.scale, out=wide)
                    scaled[rows] = wide
        except FloatingPointError:
            msg = f"features are too large for {scaled.dtype} after scaling"
            raise DataError(
                msg,
                python='use another scaling, or dtype="float64"',
                command="--set data.scaling=standard, or --set dtype=float64",
            ) from None
        return scaled

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays to save with a model, by name."""
        return {"scaler.shift": self.shift, "scaler.scale": self.scale}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Scaler":
        """Make the scaler from its :meth:`tensors`; others are ignored."""
        names = ("scaler.shift", "scaler.scale")
        missing = [name for name in names if name not in tensors]
        if missing:
            msg = f"no tensor {missing[0]!r}: the model was saved without its scaler"
            raise CheckpointError(msg)
        shift, scale = (np.asarray(tensors[name], np.float64) for name in names)
        if shift.shape != scale.shape or not (np.isfinite(shift) & (scale > 0)).all():
            msg = (
                f"damaged scaler: shift {shift.shape} must be finite, scale {scale.shape} positive"
            )
            raise CheckpointError(msg)
        return cls(shift, scale)


def fit_scaler(kind: Scaling, x: np.ndarray) -> Scaler:
    """Fit a scaler to the training rows ``x`` (N, ...).

    - ``standard``: each feature to mean 0 and standard deviation 1;
    - ``minmax``: each feature to [0, 1];
    - ``max``: all features divided by the largest magnitude among them, so 0 stays 0;
    - ``none``: unchanged.

    A constant feature is shifted but not scaled. Raises ConfigError for another ``kind``, DataError
    if a feature is too large for float64 statistics.

    >>> scaler = fit_scaler("minmax", np.array([[1.0, 7.0], [3.0, 7.0]]))
    >>> scaler.apply(np.array([[2.0, 7.0]]))
    array([[0.5, 0. ]], dtype=float32)
    """
    stats = RunningStats()
    for rows in chunks(x) if kind != "none" else ():
        stats.add(x[rows])
    return scaler_of(kind, stats)


def scaler_of(kind: Scaling, stats: RunningStats) -> Scaler:
    """Make the scaler of :func:`fit_scaler` from the statistics of the training rows."""
    if kind not in SCALINGS:
        msg = f"unknown scaling {kind!r}; {did_you_mean(str(kind), SCALINGS)}"
        raise ConfigError(msg)
    if kind == "none":
        return Scaler(np.zeros(()), np.ones(()))
    low, high = stats.low, stats.high
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "max":
            shift, scale = np.zeros(()), np.maximum(-low, high).max(keepdims=True).reshape(())
        elif kind == "minmax":
            shift, scale = low, high - low
        else:
            shift, scale = stats.mean, stats.std
    # Compare the extremes: rounding can give a constant feature a tiny standard deviation.
    constant = scale == 0 if kind == "max" else (scale == 0) | (low == high)
    scale = np.where(constant, 1.0, scale)
    if not np.isfinite(shift + scale).all():
        msg = (
            f"features up to {np.abs([low, high]).max():g} are too large or not finite for {kind!r}"
        )
        raise DataError(msg)
    return Scaler(shift, scale)
