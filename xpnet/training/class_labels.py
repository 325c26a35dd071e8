"""Class labels of any kind: their codes 0..K-1 for the loss, and back from what is predicted.

The classes are the distinct labels of the training, sorted, as in scikit-learn's LabelEncoder.
Whole numbers that are indices of the model's outputs already stay as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.backends.backend import foreign
from xpnet.data.columns import listed
from xpnet.data.labels import Labels
from xpnet.data.tables.memory import is_missing, numbers_in, only_column
from xpnet.errors import ConfigError, DataError
from xpnet.nn.losses import Loss

__all__ = ["Coded", "as_labels", "coded", "decided", "looked_up", "unless_indices"]


class Coded(NamedTuple):
    """Targets for the loss, and the label of each class; None where they were indices."""

    y: Any
    classes: tuple[Any, ...] | None


def coded(y: Any, loss: Loss, count: Callable[[], int]) -> Coded:
    """Return the labels of a training, (N,) or (N, 1), as codes int32 (N,), with their classes.

    ``count`` says how many outputs the model has. What is no label of a class, or an index of one
    already, is returned as it is: the loss checks it. Raises DataError, with the row, for a label
    that is missing, and where the labels are of several types or not as many as the outputs.
    """
    if loss.predicts == "value" or y is None:
        return Coded(y, None)
    host = _column(y)
    labels = host.ndim == 1 and len(host) and host.dtype.kind in "iubOUS"
    if not labels or (loss.predicts == "binary" and host.dtype.kind in "iu"):
        return Coded(y, None)
    if loss.predicts == "binary" and (outputs := count()) != 1:
        return Coded(y, None)
    outputs = count()
    ignored = getattr(loss, "ignore_label", None) if host.dtype.kind in "iu" else None
    counted = host if ignored is None else host[host != ignored]
    expected = 2 if loss.predicts == "binary" else outputs
    if host.dtype.kind in "iu":
        if not len(counted) or (counted.min() >= 0 and counted.max() < outputs):
            return Coded(y, None)
        inside = ignored is not None and 0 <= ignored < outputs
        if inside or len(np.unique(counted)) != expected:
            return Coded(y, None)
    classes = _sorted(Labels.of(counted))
    if len(classes) != expected:
        named = listed([*map(repr, classes)])
        msg = f"y has {len(classes)} classes ({named}), and the model has outputs for {expected}"
        remedy = f"give its last layer {len(classes)} units"
        if loss.predicts == "binary":
            remedy = "use SoftmaxCrossEntropy() and an output for each class"
        raise DataError(msg, python=f"{remedy}, or pass class indices")
    return Coded(looked_up(host, classes, ignored), classes)


def as_labels(y: Any, loss: Loss) -> Any:
    """Return labels of a loss for classes as (N,) where they are a column (N, 1), as of a table.

    For other losses (N, 1) are targets of one output, and stay.
    """
    if loss.predicts == "class":
        y = only_column(y, "y")
        shape: tuple[int, ...] = getattr(y, "shape", ())
        return y[:, 0] if len(shape) == 2 and shape[1] == 1 else y
    return y


def unless_indices(labels: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return the labels of classes, in their order; None where they are the indices 0..K-1.

    >>> unless_indices(["no", "yes"]), unless_indices([0, 1]), unless_indices([1, 2])
    (('no', 'yes'), None, (1, 2))
    """
    indices = all(type(label) is int for label in labels) and [*labels] == [*range(len(labels))]
    return None if indices else tuple(labels)


def looked_up(y: Any, classes: Sequence[Any], ignored: int | None = None) -> Any:
    """Return the codes int32 (N,) of labels (N,) among ``classes``; rows (N, K) as they are.

    Raises DataError that names the first row whose label is not among them.
    """
    host = _column(y)
    if host.ndim != 1:
        return y
    labels = Labels.of(host)
    index = {_key(label): code for code, label in enumerate(classes)}
    if ignored is not None:
        index.setdefault(_key(ignored), ignored)
    codes = np.asarray([index.get(_key(v), -1) for v in labels.values], np.int32)
    unknown = np.asarray([_key(v) not in index for v in labels.values], bool)[labels.codes]
    if unknown.any():
        row = int(unknown.argmax())
        label = labels.values[labels.codes[row]]
        known = listed([*map(repr, classes)])
        msg = (
            f"row {row} of y: the label is missing"
            if label is None
            else (
                f"row {row} of y: label {label!r} is not among the {len(classes)} classes of the "
                f"training ({known})"
            )
        )
        raise DataError(msg)
    return codes[labels.codes]


def decided(
    predictions: np.ndarray,
    loss: Loss,
    classes: Sequence[Any] | None,
    threshold: float | Sequence[float] = 0.5,
) -> np.ndarray:
    """Return the labels that predictions mean: the most probable classes, (N,).

    A single column of probabilities is decided by ``threshold``, (N,); several, of which each is a
    label of its own, give 0 or 1 for each, (N, J). Without ``classes`` labels are indices. Raises
    ConfigError for a regression, for thresholds that are not between 0 and 1 or beside classes that
    are chosen by the largest probability, and DataError where what is predicted is not finite.
    """
    if loss.predicts == "value":
        msg = f"{type(loss).__name__} predicts values, not classes"
        raise ConfigError(msg, python="use predict")
    unknown = ~np.isfinite(predictions).reshape(len(predictions), -1).all(axis=-1)
    if unknown.any():
        msg = f"row {int(unknown.argmax())} has no class: what is predicted for it is not finite"
        raise DataError(msg, python="fill what is missing in x, or leave such rows out")
    if loss.predicts == "class":
        if np.any(np.asarray(threshold) != 0.5):
            msg = f"{type(loss).__name__} takes the most probable class, without a threshold"
            raise ConfigError(msg, python="compare the probabilities of predict with your own")
        codes = predictions.argmax(axis=-1)
    else:
        limit, J = np.asarray(threshold), predictions.shape[-1]
        numbers = limit.dtype.kind in "iuf"
        if not numbers or limit.shape not in ((), (J,)) or not ((limit >= 0) & (limit <= 1)).all():
            msg = f"threshold must be from 0 to 1, or {J} such numbers; got {threshold!r}"
            raise ConfigError(msg)
        codes = (predictions > limit).astype(np.int64)
        codes = codes[:, 0] if codes.shape[1:] == (1,) else codes
    if classes is None or codes.ndim != 1:
        return codes
    return np.asarray(classes)[codes]


def _column(y: Any) -> np.ndarray:
    """Labels as a host array of plain values, a single column (N, 1) of texts as (N,)."""
    if foreign(y):
        from xpnet.backends import backend_of

        backend = backend_of(y)
        assert backend is not None
        return backend.to_host(y)
    plain = numbers_in(y, "y")
    host = np.asarray(plain)
    if host.dtype.kind in "US" and isinstance(plain, list | tuple):
        # NumPy makes texts of the numbers among them.
        host = np.asarray(plain, object) if host.ndim == 1 else host
    if host.ndim == 2 and host.shape[1] == 1 and host.dtype.kind in "bOUS":
        host = host[:, 0]
    if host.dtype.kind != "O" or host.ndim != 1:
        return host
    plain = [v.item() if isinstance(v, np.generic) else v for v in host]
    plain = [None if is_missing(v) else v for v in plain]
    kinds = {type(v) for v in plain}
    if kinds and kinds <= {int, float, bool} and len(kinds) == 1:
        return np.asarray(plain)
    host = np.empty(len(plain), object)
    host[:] = plain
    return host


def _sorted(labels: Labels) -> tuple[Any, ...]:
    values = list(labels.values)
    if None in values:
        row = int((labels.codes == values.index(None)).argmax())
        msg = f"row {row} of y: the label is missing"
        raise DataError(msg, python="leave such rows out")
    kinds = sorted({type(v).__name__ for v in values})
    if len(kinds) > 1 or kinds[0] not in ("str", "int", "bool"):
        msg = f"class labels are texts, whole numbers or booleans; got {' and '.join(kinds)}"
        raise DataError(msg, python="convert them to one type")
    return tuple(sorted(values))


def _key(label: Any) -> tuple[bool, Any]:
    """What labels that are the same have in common; 1 and True are, "1" is not."""
    return isinstance(label, str), label
