"""The regressor."""

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from xpnet.errors import DataError
from xpnet.nn.losses import Loss
from xpnet.sklearn.base import Base
from xpnet.sklearn.classifier import has_epochs
from xpnet.sklearn.describe import described
from xpnet.sklearn.losses import regression_loss
from xpnet.sklearn.rows import floats, host

__all__ = ["XPNetRegressor"]


@described(out='"identity", or "exp" for ``loss="poisson"``.')
class XPNetRegressor(RegressorMixin, Base):
    """A dense network that predicts numbers, trained by xpnet.

    It has the parameters of scikit-learn's MLPRegressor and takes the same steps: with the same
    ``random_state`` its weights are that class's to rounding. Of several outputs it minimises the
    sum of the losses; MLPRegressor takes that one's gradient, too, but reports their mean, and so
    its "lbfgs" comes to other weights there.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default="squared_error"
        Half of the squared error, or of the Poisson deviance of counts whose logarithm of the rate
        is the network's output.
    {parameters}

    Attributes
    ----------
    {attributes}

    Notes
    -----
    Scale y: an error of 1000 has a gradient 1000 times that of an error of 1. Else see the notes of
    :class:`XPNetClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from xpnet.sklearn import XPNetRegressor
    >>> X, y = make_regression(200, 10, random_state=0)
    >>> net = XPNetRegressor(solver="lbfgs", random_state=0, max_iter=500).fit(X, y / y.std())
    >>> net.score(X, y / y.std()) > 0.99
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Base._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss: str = "squared_error",
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
        dropout: float = 0.0,
        backend: str | None = None,
        device: str = "auto",
    ) -> None:
        given = dict(locals())
        self._keep(**{k: v for k, v in given.items() if k not in ("self", "__class__")})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows; of a sparse matrix a batch is dense at a time.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets; for ``loss="poisson"`` none is negative.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each row counts; a row of weight 0 does not.

        Returns
        -------
        self : XPNetRegressor
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight)

    @available_if(has_epochs)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on X and y, going on from where the estimator is.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each row counts.

        Returns
        -------
        self : XPNetRegressor
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Return the predicted targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            The targets of each row, (n_samples,) where there is one.
        """
        output, backend, of_host = self._outputs(X, "predict")
        with np.errstate(over="ignore"):
            predicted = self._loss().predict(output)
        predicted = predicted[:, 0] if self.n_outputs_ == 1 else predicted
        return backend.to_host(predicted) if of_host else predicted

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=True,
            dtype=floats(X),
            reset=reset,
        )
        y = host(y)
        if y.dtype.kind not in "buif":
            msg = f"y must be numbers, and holds {y.dtype}"
            raise DataError(msg, python="XPNetClassifier takes classes")
        y = y.astype(np.float64)
        y = column_or_1d(y, warn=True) if y.shape[1:] == (1,) else y  # predictions are (N,)
        return X, y[:, None] if y.ndim == 1 else y

    def _begin(self, y: np.ndarray, *, first: bool, incremental: bool) -> None:
        if first:
            self.n_outputs_ = y.shape[1]
        elif y.shape[1] != self.n_outputs_:
            msg = f"y must have {self.n_outputs_} columns as before; got {y.shape[1]}"
            raise DataError(msg)

    def _target(self, y: np.ndarray) -> np.ndarray:
        return y

    def _out_activation(self) -> str:
        return "identity" if self.loss == "squared_error" else "exp"

    def _loss(self) -> Loss:
        return regression_loss(self.loss)

    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        return None

    def _validation_score(
        self, predicted: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> float:
        if not np.isfinite(predicted).all():
            return float("nan")
        return r2_score(y, predicted, sample_weight=weight)
