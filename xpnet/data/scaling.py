"""Scaling of features, fitted to the training part alone."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from xpnet.data.dataset import chunks
from xpnet.data.running_stats import RunningStats
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.settings import did_you_mean
from xpnet.typing import Array

__all__ = [
    "SCALINGS",
    "RobustScaler",
    "Scaler",
    "Scaling",
    "TargetScaling",
    "fit_scaler",
    "quartiles",
    "scaler_of",
    "too_large",
]

# Only these can be undone, as the predictions of a regression need.
TargetScaling = Literal["standard", "minmax", "max", "none"]
Scaling = Literal["standard", "minmax", "max", "none", "robust"]
SCALINGS: tuple[Scaling, ...] = ("standard", "minmax", "max", "none", "robust")
CLIP = 3.0  # the bound of robustly scaled features


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
        scaled = np.empty(x.shape, dtype)
        try:
            with np.errstate(over="raise"):
                for rows in chunks(x, 2**18):  # few enough to stay in the cache of a core
                    scaled[rows] = self.scaled(x[rows])
        except FloatingPointError:
            raise too_large(scaled.dtype) from None
        return scaled

    def scaled(self, x: Array) -> Array:
        """Return the scaled rows of ``x`` (N, ...), an array of any library, in float64."""
        xp = array_namespace(x)
        wide = xp.astype(x, xp.float64) - xp.asarray(self.shift)
        wide /= xp.asarray(self.scale)
        return wide

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
        clip = np.asarray(tensors.get("scaler.clip", np.inf), np.float64)
        good = np.isfinite(shift).all() and clip.shape == () and clip > 0
        if shift.shape != scale.shape or not (good and (scale > 0).all()):
            msg = (
                f"damaged scaler: shift {shift.shape} must be finite, scale {scale.shape} positive"
            )
            raise CheckpointError(msg)
        return RobustScaler(shift, scale) if np.isfinite(clip) else cls(shift, scale)


def too_large(dtype: np.dtype) -> DataError:
    """Return the error of features that overflow ``dtype``."""
    return DataError(
        f"features are too large for {dtype} after scaling",
        python='use another scaling, or dtype="float64"',
        command="--set data.scaling=standard, or --set dtype=float64",
    )


class RobustScaler(Scaler):
    """The map of :class:`Scaler`, then x -> x / sqrt(1 + (x / 3)²), which lies between -3 and 3.

    A constant feature has the scale infinity, and is 0.
    """

    __slots__ = ()

    def scaled(self, x: Array) -> Array:
        """Return the scaled rows of ``x`` (N, ...), an array of any library, in float64."""
        xp, wide = array_namespace(x), super().scaled(x)
        return wide / xp.hypot(xp.asarray(1.0, dtype=wide.dtype), wide / CLIP)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays to save with a model, by name."""
        return {**super().tensors(), "scaler.clip": np.asarray(CLIP)}


def fit_scaler(kind: Scaling, x: np.ndarray) -> Scaler:
    """Fit a scaler to the training rows ``x`` (N, ...).

    - ``standard``: each feature to mean 0 and standard deviation 1;
    - ``minmax``: each feature to [0, 1];
    - ``max``: all features divided by the largest magnitude among them, so 0 stays 0;
    - ``none``: unchanged;
    - ``robust``: each feature minus its median, divided by its interquartile range (half of its
      whole range where that is 0), and clipped smoothly to [-3, 3], so that outliers stay harmless:

          Holzmüller, Grinsztajn and Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
          Boosted Trees on Tabular Data", NeurIPS 2024, section 3 and appendix A.

    A constant feature is shifted but not scaled. Raises ConfigError for another ``kind``, DataError
    if a feature is too large for float64 statistics.

    >>> scaler = fit_scaler("minmax", np.array([[1.0, 7.0], [3.0, 7.0]]))
    >>> scaler.apply(np.array([[2.0, 7.0]]))
    array([[0.5, 0. ]], dtype=float32)
    """
    stats = RunningStats()
    for rows in chunks(x) if kind != "none" else ():
        stats.add(x[rows])
    return scaler_of(kind, stats, quartiles(x) if kind == "robust" else None)


def quartiles(x: np.ndarray) -> np.ndarray:
    """Return the quartiles (3, ...) of each feature of ``x`` (N, ...), interpolated linearly."""
    flat = x.reshape(len(x), -1)
    found = np.empty((3, flat.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for j in range(flat.shape[1]):
            found[:, j] = np.quantile(flat[:, j], (0.25, 0.5, 0.75))
    return found.reshape(3, *x.shape[1:])


def scaler_of(kind: Scaling, stats: RunningStats, quarters: np.ndarray | None = None) -> Scaler:
    """Make the scaler of :func:`fit_scaler` from the statistics of the training rows.

    ``quarters`` (3, ...) are the quartiles of each feature, for "robust".
    """
    if kind not in SCALINGS:
        msg = f"unknown scaling {kind!r}; {did_you_mean(str(kind), SCALINGS)}"
        raise ConfigError(msg)
    if kind == "none":
        return Scaler(np.zeros(()), np.ones(()))
    if kind == "robust":
        return _robust_scaler(stats, quarters)
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
        raise _too_large(stats, kind)
    return Scaler(shift, scale)


def _robust_scaler(stats: RunningStats, quarters: np.ndarray | None) -> RobustScaler:
    if quarters is None:
        msg = "the scaling 'robust' needs the quartiles of the features, which were not computed"
        raise ConfigError(msg)
    low, median, high = quarters
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.where(high > low, high - low, (stats.high - stats.low) / 2)
        finite = np.isfinite(median + scale).all()
    if not finite:
        raise _too_large(stats, "robust")
    return RobustScaler(median, np.where(scale == 0, np.inf, scale))


def _too_large(stats: RunningStats, kind: Scaling) -> DataError:
    largest = np.abs([stats.low, stats.high]).max()
    msg = f"features up to {largest:g} are too large or not finite for {kind!r}"
    return DataError(msg)
