"""A validation that is split off the training rows."""

import warnings
from numbers import Real
from typing import Any

import numpy as np

from xpnet.data import rare_classes, split
from xpnet.errors import ConfigError, DataError, XpnetWarning
from xpnet.nn.losses import Loss
from xpnet.training.loader import Loader
from xpnet.training.renewed_loader import RenewedLoader
from xpnet.training.streamed_loader import StreamedLoader

__all__ = ["check_fraction", "divided"]


def check_fraction(fraction: Any, validation: Any) -> None:
    """Raise ConfigError for a fraction that is none, or beside a validation that is given."""
    if fraction is None:
        return
    number = float(fraction) if isinstance(fraction, Real) and fraction is not True else 0.0
    if not 0 < number < 1:
        msg = f"validation_fraction must be between 0 and 1, such as 0.1; got {fraction!r}"
        raise ConfigError(msg)
    if validation is not None:
        msg = "a validation is given, and validation_fraction would split another off: pass one"
        raise ConfigError(msg)


def divided(
    loader: Loader, fraction: float, seed: int, loss: Loss, classes: tuple[Any, ...] | None
) -> tuple[Loader, Loader]:
    """Return the rows to train on and the ``fraction`` that is held out, as loaders.

    They depend on the seed, the targets and their order alone. Class labels are stratified, as by
    :func:`xpnet.data.split`; a class of a single row stays in the training, with a warning
    (XpnetWarning). Raises DataError for data whose rows cannot be taken apart, and for a single
    row.
    """
    if isinstance(loader, StreamedLoader | RenewedLoader):
        other = "a stream" if isinstance(loader, StreamedLoader) else "those of a function"
        msg = f"validation_fraction takes rows out of memory, not out of {other}"
        raise DataError(
            msg,
            python="pass validation=..., rows of their own",
            command="hold out rows of their own",
        )
    y = np.concatenate(list(loader.targets()))
    y = y[:, 0] if y.shape[1:] == (1,) else y
    if loss.predicts == "value":
        y = y.astype(np.float64)  # whole numbers are no classes here
    elif y.ndim == 1 and y.dtype.kind == "f" and (y == np.round(y)).all():
        y = y.astype(np.int64)
    stratify = (
        y.ndim == 1 and y.dtype.kind in "iu" and np.unique(y, return_counts=True)[1].max() > 1
    )
    if stratify:
        for line in rare_classes(y, 2, None if classes is None else [*map(str, classes)]):
            warnings.warn(f"validation_fraction: {line}", XpnetWarning, stacklevel=5)
    fraction = float(fraction)
    parts = split(y, (1.0 - fraction, fraction), seed, stratify)
    kept, held = (loader.take(rows) for rows in parts)
    return kept, held
