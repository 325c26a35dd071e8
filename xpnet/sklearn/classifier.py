"""The classifier."""

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from xpnet.backends import Backend
from xpnet.errors import DataError
from xpnet.nn.losses import Loss
from xpnet.ops.activations import sigmoid
from xpnet.ops.softmax import softmax
from xpnet.sklearn.base import Base
from xpnet.sklearn.describe import described
from xpnet.sklearn.labels import Labels, labels_of
from xpnet.sklearn.losses import classification_loss
from xpnet.sklearn.rows import floats, host
from xpnet.typing import Array

__all__ = ["XPNetClassifier"]


def has_epochs(estimator: Any) -> bool:
    """Say whether an estimator is trained by epochs, so that it has a partial_fit."""
    if estimator.solver == "lbfgs":
        msg = "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
        raise AttributeError(msg)
    return True


@described(
    own_parameters="""\
class_weight : dict, "balanced", list of dicts or None, default=None
    The weight of each class, multiplied into the rows' weights; "balanced" gives every class the
    same sum, and is not for partial_fit. One dict for each label of an indicator matrix.
""",
    out='"softmax" for three or more classes, else "logistic".',
    own_attributes="""\
classes_ : ndarray of shape (n_classes,)
    The classes, sorted; of an indicator matrix, the numbers of its columns.
""",
)
class XPNetClassifier(ClassifierMixin, Base):
    """A dense network that classifies, trained by xpnet.

    It has the parameters of scikit-learn's MLPClassifier and takes the same steps: with the same
    ``random_state`` its weights are that class's to rounding. It minimises the cross-entropy of the
    classes or, for an indicator matrix, that of each label, added up.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    Notes
    -----
    A sparse X is never dense as a whole, but a batch at a time (up to 4096 rows, by "lbfgs" and in
    prediction), in each epoch anew. Training that is not finite is a ValueError that says where;
    with early_stopping it ends with the best weights and a warning.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from xpnet.sklearn import XPNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = XPNetClassifier(solver="lbfgs", random_state=0).fit(X[:1500] / 16, y[:1500])
    >>> clf.score(X[1500:] / 16, y[1500:]) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Base._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        dropout: float = 0.0,
        backend: str | None = None,
        device: str = "auto",
    ) -> None:
        given = dict(locals())
        self._keep(**{k: v for k, v in given.items() if k not in ("self", "__class__")})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # -- fit --------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows; of a sparse matrix a batch is dense at a time.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their classes, numbers or texts; or an indicator matrix of 0 and 1, several labels each.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each row counts; a row of weight 0 does not.

        Returns
        -------
        self : XPNetClassifier
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight)

    @available_if(has_epochs)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch on X and y, going on from where the estimator is.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their classes, or an indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each row counts.
        classes : array-like of shape (n_classes,), default=None
            All classes that any call has; needed by the first one.

        Returns
        -------
        self : XPNetClassifier
            The fitted estimator.
        """
        self._announced(classes, y)
        return self._fit(X, y, sample_weight, incremental=True)

    def _announced(self, classes: Any, y: Any) -> None:
        """Take the classes of a first partial_fit, or compare those of a later one."""
        known = vars(self).get("_labels")
        if classes is None:
            if known is None:
                msg = "classes must be passed on the first call to partial_fit."
                raise DataError(msg)
            return
        classes = np.unique(host(classes))
        if known is None:
            shape = np.shape(y) if not hasattr(y, "shape") else y.shape
            indicator = len(shape) == 2 and shape[1] > 1
            self._learn(Labels(classes, indicator))
        elif not np.array_equal(classes, known.classes):
            msg = f"`classes={classes}` is not the same as on last call to partial_fit, was: "
            msg += f"{known.classes}"
            raise DataError(msg)

    def _learn(self, labels: Labels) -> None:
        self._labels, self.classes_ = labels, labels.classes
        self.n_outputs_ = labels.outputs

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self, X, y, accept_sparse="csr", multi_output=True, dtype=floats(X), reset=reset
        )
        y = y.toarray() if hasattr(y, "toarray") else host(y)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _begin(self, y: np.ndarray, *, first: bool, incremental: bool) -> None:
        if incremental and "_labels" in vars(self):
            return
        found = labels_of(y)
        if first or "_labels" not in vars(self):
            self._learn(found)
        elif found.indicator != self._labels.indicator or not np.array_equal(
            found.classes, self.classes_
        ):
            msg = "warm_start can only be used where `y` has the same classes as in the previous "
            msg += f"call to fit. Previously got {self.classes_}, `y` has {found.classes}"
            raise DataError(msg)

    def _target(self, y: np.ndarray) -> np.ndarray:
        return self._labels.encoded(y)

    def _out_activation(self) -> str:
        return self._labels.out_activation

    def _loss(self) -> Loss:
        return classification_loss(self._labels.out_activation)

    def _weight(self, sample_weight: Any, y: np.ndarray, *, incremental: bool) -> Any:
        weight = super()._weight(sample_weight, y, incremental=incremental)
        if self.class_weight is None:
            return weight
        if incremental and self.class_weight == "balanced":
            msg = "class_weight='balanced' is not supported by partial_fit, which does not see all "
            msg += "rows: pass a dict, such as of sklearn.utils.class_weight.compute_class_weight"
            raise DataError(msg)
        by_class = compute_sample_weight(self.class_weight, y)
        if not (np.isfinite(by_class).all() and (by_class >= 0).all()):
            msg = f"class_weight must be finite numbers >= 0; got {self.class_weight}"
            raise DataError(msg)
        return by_class if weight is None else weight * by_class

    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        return y if self._labels.outputs == 1 else None

    def _validation_score(
        self, predicted: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> float:
        if not np.isfinite(predicted).all():
            return float("nan")
        if y.ndim == 1:
            hit = predicted.argmax(axis=1) == y
        else:
            hit = ((predicted > 0.5) == (y > 0.5)).all(axis=1)
        return float(np.average(hit, weights=weight))

    # -- prediction -------------------------------------------------------------------------------

    def predict(self, X: Any) -> Any:
        """Return the most probable class of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_labels)
            Classes, or an indicator matrix of the labels whose probability is above 1/2.
        """
        logits, backend, of_host = self._outputs(X, "predict")
        labels = self._labels
        with backend.active():
            if len(labels.classes) == 1 and not labels.indicator:
                logits = backend.xp.zeros_like(logits) - 1.0
            codes = labels.codes(logits, backend.xp)
            if not of_host:
                return labels.decoded(codes, backend)
        codes = backend.to_host(codes)
        return codes if labels.indicator else labels.classes[codes]

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, in the order of ``classes_``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        proba : array of shape (n_samples, n_classes)
            Each row adds up to 1, but for several labels, of which each has its own.
        """
        probabilities, backend, of_host = self._probabilities(X, "predict_proba")
        return backend.to_host(probabilities) if of_host else probabilities

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of the probabilities, -inf where one rounds to 0.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        log_proba : array of shape (n_samples, n_classes)
            ``log(predict_proba(X))``.
        """
        probabilities, backend, of_host = self._probabilities(X, "predict_log_proba")
        with backend.active(), np.errstate(divide="ignore"):
            logarithms = backend.xp.log(probabilities)
        return backend.to_host(logarithms) if of_host else logarithms

    def _probabilities(self, X: Any, method: str) -> tuple[Array, Backend, bool]:
        """Return them on the backend, it, and whether X is of the host."""
        z, backend, of_host = self._outputs(X, method)
        labels, xp = self._labels, backend.xp
        with backend.active(), np.errstate(over="ignore", under="ignore"):
            if len(labels.classes) == 1 and not labels.indicator:
                made = xp.ones_like(z)
            elif labels.out_activation == "softmax":
                made = softmax(z)
            else:
                made = sigmoid(z)
                made = made if labels.indicator else xp.concat([1.0 - made, made], axis=1)
        return made, backend, of_host
