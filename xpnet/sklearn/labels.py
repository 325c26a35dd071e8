"""The classes of a target, and targets as a network takes them."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from xpnet.backends import Backend
from xpnet.errors import DataError
from xpnet.typing import Array

__all__ = ["Labels", "labels_of"]


class Labels(NamedTuple):
    """The classes, sorted; ``indicator`` says that a row has any number of them."""

    classes: np.ndarray
    indicator: bool = False

    @property
    def outputs(self) -> int:
        """How many outputs a network has for them; one for two classes."""
        K = len(self.classes)
        return K if self.indicator or K > 2 else 1

    @property
    def out_activation(self) -> str:
        """The function of the logits that gives probabilities, in scikit-learn's words."""
        return "softmax" if self.outputs > 1 and not self.indicator else "logistic"

    def encoded(self, y: np.ndarray) -> np.ndarray:
        """Return class numbers (N,) for a softmax, else 0 and 1 of shape (N, outputs).

        Raises DataError for a class that is not among them.
        """
        if self.indicator:
            if y.ndim != 2 or y.shape[1] != len(self.classes):
                msg = f"y must be an indicator matrix of {len(self.classes)} labels; "
                msg += f"got shape {y.shape}"
                raise DataError(msg)
            return y.astype(np.float64)
        if y.ndim != 1:
            msg = f"y must be one class a row, as before; got shape {y.shape}"
            raise DataError(msg)
        found, codes = np.unique(y, return_inverse=True)
        unknown = np.setdiff1d(found, self.classes)
        if unknown.size:
            msg = f"`y` has classes not in `self.classes_`: {unknown.tolist()}; "
            msg += f"`self.classes_` has {self.classes}"
            raise DataError(msg)
        codes = np.searchsorted(self.classes, found)[codes]
        if self.outputs > 1:
            return codes.astype(np.int32)
        return (codes == 1).astype(np.float64)[:, None]

    def codes(self, logits: Array, xp: Any) -> Array:
        """Return the most probable class numbers (N,), or an indicator matrix of logits (N, J)."""
        if self.indicator:
            return xp.astype(logits > 0.0, xp.int64)
        if self.outputs > 1:
            return xp.argmax(logits, axis=1)
        return xp.astype(logits[:, 0] > 0.0, xp.int64)

    def decoded(self, codes: Array, backend: Backend) -> Array:
        """Return the classes of :meth:`codes`: on the device if they are numbers, else on the host.

        An array of another library than NumPy holds no texts.
        """
        if self.indicator:
            return codes
        classes = self.classes
        if backend.owns(classes) or classes.dtype.kind not in "biuf":
            return classes[backend.to_host(codes)]
        return backend.xp.take(backend.place(np.array(classes)), codes, axis=0)


def labels_of(y: np.ndarray) -> Labels:
    """Return the labels of a target on the host: classes (N,), or an indicator matrix (N, J).

    Raises ValueError, scikit-learn's own, for what is neither.
    """
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    if kind == "multiclass-multioutput":
        msg = "Multioutput target data is not supported: y must be classes (N,) or an indicator "
        msg += "matrix of 0 and 1; for others see sklearn.multioutput.MultiOutputClassifier"
        raise DataError(msg)
    if kind == "multilabel-indicator":
        return Labels(np.arange(y.shape[1]), indicator=True)
    return Labels(np.unique(y))
