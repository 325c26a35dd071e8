"""What the classifier and the regressor share: data in, weights out, and training between them."""

import functools
import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from xpnet.backends import Backend, backend_class, backend_of, get_backend
from xpnet.backends.backend import foreign
from xpnet.errors import DataError, TrainingError
from xpnet.nn import BatchNorm, Dense, Dropout, Layer, LayerNorm, Sequential
from xpnet.nn.losses import Loss, check_weights
from xpnet.sklearn.formulas import rule_of
from xpnet.sklearn.lbfgs import minimize
from xpnet.sklearn.parameters import activation_of, check_parameters, hidden_sizes
from xpnet.sklearn.training import OrderedLoader, PenalizedTrainer, RateOfWatch, Watch
from xpnet.training.engine import Engine
from xpnet.training.threads import limited, settled
from xpnet.training.trainer import EVALUATION_BATCH

__all__ = ["BATCH", "Estimator"]

BATCH = 200  # rows of a batch, if that is "auto" and there are so many
NORMALIZATIONS: dict[str, type[Layer]] = {"batch": BatchNorm, "layer": LayerNorm}
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


def is_stochastic(estimator: Any) -> bool:
    """Say whether the solver goes on epoch by epoch, as ``partial_fit`` needs."""
    if estimator.solver == "lbfgs":
        msg = "partial_fit is only for solvers that go on epoch by epoch; solver='lbfgs' does not"
        raise AttributeError(msg)
    return True


class Estimator(BaseEstimator):
    """Base of the estimators: everything but what the outputs mean."""

    def _store(self, values: dict[str, Any]) -> None:
        """Set the parameters, as given: for ``__init__``, with its ``locals()``."""
        for name in inspect.signature(type(self)).parameters:
            setattr(self, name, values[name])

    # -- what a subclass says ---------------------------------------------------------------------

    def _targets(self, y: np.ndarray, *, first: bool, incremental: bool) -> np.ndarray:
        """Return y as the loss takes it; learns what the outputs mean at the first pass."""
        raise NotImplementedError

    def _loss_and_outputs(self, targets: np.ndarray) -> tuple[Loss, int, str]:
        """Return the loss, the number of outputs, and what is applied to them."""
        raise NotImplementedError

    def _validation_score(self, predicted: np.ndarray, targets: np.ndarray, weight: Any) -> float:
        raise NotImplementedError

    def _weights_of_classes(self, y: np.ndarray, weight: Any, *, incremental: bool) -> Any:
        return weight

    # -- training ---------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Estimator":
        """Train on X (N, features) and y, from new weights unless ``warm_start``; return itself.

        X is an array, a data frame or a sparse matrix (densified at once: N x features floats).
        ``sample_weight`` (N,) weights the rows. Raises ValueError for data or parameters that do
        not fit; warns (ConvergenceWarning) where ``max_iter`` ends the training.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @available_if(is_stochastic)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Estimator":
        """Train for one epoch on X (N, features) and y, on from where it is; return itself."""
        return self._fit(X, y, sample_weight, incremental=True)

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool) -> "Estimator":
        check_parameters(self.get_params(deep=False))
        if incremental and self.early_stopping:
            msg = "partial_fit does not support early_stopping=True"
            raise ValueError(msg)
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._validated(X, y, first=first)
        if sample_weight is not None:
            host = _on_host(sample_weight)
            sample_weight = _check_sample_weight(host, y, dtype=np.float64)
        sample_weight = self._weights_of_classes(y, sample_weight, incremental=incremental)
        if sample_weight is not None:
            check_weights(sample_weight, len(y))
        targets = self._targets(y, first=first, incremental=incremental)
        backend = self._backend_for(X)
        random = check_random_state(self.random_state)
        if first:
            self._begin(X.shape[1], targets, random)
        if not self._is_of(X):
            raise ValueError(self._other_place("partial_fit" if incremental else "fit", X))
        if self.solver == "lbfgs":
            self._fit_full_batch(backend, X, targets, sample_weight)
        else:
            self._fit_epochs(backend, X, targets, sample_weight, random, incremental=incremental)
        if not all(_finite(w) for w in [*self.coefs_, *self.intercepts_]):
            raise ValueError(NOT_FINITE)
        return self

    def _validated(self, X: Any, y: Any, *, first: bool) -> tuple[Any, np.ndarray]:
        if y is not None:
            y = _on_host(y)
        checks: dict[str, Any] = {"accept_sparse": ["csr", "csc"], "multi_output": True}
        checks |= {"dtype": (np.float64, np.float32), "y_numeric": self._y_is_numeric}
        fresh = first or not hasattr(self, "n_features_in_")
        X, y = validate_data(self, X, y, reset=fresh, **checks)
        if y.ndim == 2 and y.shape[1] == 1:
            msg = "A column-vector y was passed when a 1d array was expected: y.ravel() is taken"
            warnings.warn(msg, _column_warning(), stacklevel=2)
            y = y[:, 0]
        return X.toarray() if scipy.sparse.issparse(X) else X, y

    _y_is_numeric = False

    def _begin(self, n_features: int, targets: np.ndarray, random: Any) -> None:
        """Make new weights, drawn as scikit-learn's MLP draws them, and forget what was watched."""
        loss, outputs, self.out_activation_ = self._loss_and_outputs(targets)
        self.n_outputs_, self.n_iter_, self.t_ = outputs, 0, 0
        sizes = [n_features, *hidden_sizes(self.hidden_layer_sizes), outputs]
        self.n_layers_ = len(sizes)
        self.coefs_, self.intercepts_ = [], []
        for i, j in zip(sizes[:-1], sizes[1:], strict=True):
            bound = math.sqrt((2.0 if self.activation in ("logistic", "sigmoid") else 6.0) / (i + j))
            self.coefs_.append(random.uniform(-bound, bound, (i, j)))
            self.intercepts_.append(random.uniform(-bound, bound, j))
        self._drawn = True  # the weights are on the host, in float64, and of nobody's namespace
        self._others: dict[int, dict[str, Any]] = {}
        self._watch, self._trainer = Watch(), None

    def _network(self) -> tuple[Sequential, Loss]:
        """The model with the sizes of the weights, and its loss."""
        layers: list[Layer] = []
        for W in self.coefs_[:-1]:
            layers.append(Dense(W.shape[1]))
            if self.normalization is not None:
                layers.append(NORMALIZATIONS[self.normalization]())
            layers.append(activation_of(self.activation)())
            if self.dropout:
                layers.append(Dropout(self.dropout))
        layers.append(Dense(self.coefs_[-1].shape[1]))
        return Sequential(layers).build((self.coefs_[0].shape[0],)), self._loss()

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _made_trainer(self, backend: Backend, watch: Watch, random: Any) -> PenalizedTrainer:
        model, loss = self._network()
        return PenalizedTrainer(
            model,
            loss,
            rule_of(self) if self.solver != "lbfgs" else "sgd",
            alpha=self.alpha,
            backend=backend,
            batch_size=BATCH if self.batch_size == "auto" else self.batch_size,
            seed=int(random.randint(2**31 - 1)) if self.dropout else 0,
            schedule=RateOfWatch(watch),
            step="jit" if backend.jit_by_default else "portable",
            threads=self.threads if backend.threads() is not None else "auto",
        )

    def _fit_full_batch(self, backend: Backend, X: Any, targets: np.ndarray, weight: Any) -> None:
        trainer = self._made_trainer(backend, self._watch, None)
        self._load(trainer.engine)
        loader = OrderedLoader(backend, X, targets, weight, None)
        trainer.loss.check_target(targets, self.n_outputs_)
        (batch,) = loader.batches(loader.rows)
        limits = {"max_iter": self.max_iter, "max_fun": self.max_fun, "tol": self.tol}
        with limited(backend, settled(backend, trainer.threads, {})):
            found = minimize(
                trainer.engine, batch, alpha=self.alpha, verbose=self.verbose, **limits
            )
        self.loss_, self.n_iter_ = found
        self._take(trainer.engine, X)

    def _fit_epochs(
        self,
        backend: Backend,
        X: Any,
        targets: np.ndarray,
        weight: Any,
        random: Any,
        *,
        incremental: bool,
    ) -> None:
        validation = None
        if self.early_stopping:
            X, targets, weight, validation = self._divided(backend, X, targets, weight, random)
        if self.batch_size != "auto" and self.batch_size > len(targets):
            msg = f"batch_size={self.batch_size} is more than the {len(targets)} rows, which are "
            warnings.warn(msg + "one batch", UserWarning, stacklevel=4)
        watch, key = self._watch, (repr(backend), repr(self._trained_with()))
        trainer = self._trainer if incremental else None
        if trainer is None or self._trainer_key != key:
            watch.rate = self.learning_rate_init
            trainer = self._trainer = self._made_trainer(backend, watch, random)
            self._trainer_key = key
        self._load(trainer.engine)
        score = None if validation is None else functools.partial(self._scored, *validation)
        watch.begin(self.get_params(deep=False), score)
        loader = OrderedLoader(backend, X, targets, weight, random if self.shuffle else None)
        epochs = 1 if incremental else self.max_iter
        try:
            trainer.fit(loader, epochs=trainer.position.epoch + epochs, callbacks=[watch])
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", UserWarning, stacklevel=4)
            self._trainer = None  # its position is within an epoch
        except TrainingError as error:
            self._trainer = None
            if not self.early_stopping:
                raise ValueError(NOT_FINITE) from error
            watch.diverged()
        else:
            if not incremental and watch.epochs == self.max_iter and trainer.stopped is None:
                msg = f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                msg += "optimization hasn't converged yet."
                warnings.warn(msg, ConvergenceWarning, stacklevel=4)
        if self.early_stopping:
            trainer.engine.set_weights(watch.best_weights)
        self._take(trainer.engine, X)
        self._show(watch)

    def _trained_with(self) -> dict[str, Any]:
        """The parameters that a trainer is made with: with others another one goes on."""
        unused = {"max_iter", "tol", "verbose", "warm_start", "early_stopping", "random_state"}
        unused |= {"validation_fraction", "n_iter_no_change", "max_fun", "shuffle", "class_weight"}
        given = self.get_params(deep=False)
        return {name: value for name, value in given.items() if name not in unused}

    def _show(self, watch: Watch) -> None:
        """Set the attributes that say how the training went."""
        self.n_iter_, self.t_, self.learning_rate_ = watch.epochs, watch.seen, watch.rate
        self.loss_curve_ = watch.loss_curve
        self.loss_ = watch.loss_curve[-1] if watch.loss_curve else math.nan
        self.best_loss_, self.best_validation_score_ = watch.best_loss, watch.best_score
        self.validation_scores_ = watch.validation_scores

    def _divided(
        self, backend: Backend, X: Any, targets: np.ndarray, weight: Any, random: Any
    ) -> tuple[Any, np.ndarray, Any, tuple[OrderedLoader, np.ndarray, Any]]:
        """Return the rows to train on, and those to validate with."""
        rows = np.arange(len(targets))
        stratify = targets if self.out_activation_ == "logistic" and targets.ndim == 1 else None
        train, held = train_test_split(
            rows, random_state=random, test_size=self.validation_fraction, stratify=stratify
        )
        if len(held) < 2:
            msg = "The validation set is too small. Increase 'validation_fraction' or the size of "
            raise ValueError(msg + "your dataset.")
        parts = [_rows(backend, X, part) for part in (train, held)]
        weights = [None if weight is None else weight[part] for part in (train, held)]
        loader = OrderedLoader(backend, parts[1], None, None, None)
        validation = loader, targets[held], weights[1]
        return parts[0], targets[train], weights[0], validation

    def _scored(self, loader: OrderedLoader, targets: np.ndarray, weight: Any, trainer: Any) -> float:
        parts = list(trainer.engine.predictions(loader.batches(EVALUATION_BATCH)))
        predicted = np.concatenate(parts)
        if not np.isfinite(predicted).all():
            return math.nan
        return float(self._validation_score(predicted, targets, weight))

    # -- weights ----------------------------------------------------------------------------------

    def _load(self, engine: Engine) -> None:
        """Go on from ``coefs_`` and ``intercepts_``, whoever has set them."""
        backend = engine.backend
        params = self._tensors(backend, engine.model)
        own = [engine.params_layout.split(engine.state.params)]
        own.append(engine.stats_layout.split(engine.state.stats))
        mine = [[{**kept, **_only(p, kept)} for kept, p in zip(o, params, strict=True)] for o in own]
        flat = engine.params_layout.join(mine[0], engine.state.params)
        engine.set_weights((flat, engine.stats_layout.join(mine[1], engine.state.stats)))

    def _tensors(self, backend: Backend, model: Sequential) -> list[dict[str, Any]]:
        """The parameters of each layer on ``backend``, as its model takes them."""
        pairs = iter(zip(self.coefs_, self.intercepts_, strict=True))
        tensors = []
        for i, layer in enumerate(model.layers):
            found = self._others.get(i, {}) if hasattr(self, "_others") else {}
            if isinstance(layer, Dense):
                W, b = next(pairs)
                found = {"W": W, "b": b}
            tensors.append({k: backend.asarray(v) for k, v in found.items()})
        return tensors

    def _take(self, engine: Engine, X: Any) -> None:
        """Set ``coefs_`` and ``intercepts_`` to what was trained, in the namespace of X."""
        backend = engine.backend
        as_x = _copied if foreign(X) else backend.to_host
        layers = engine.params_layout.split(engine.state.params)
        statistics = engine.stats_layout.split(engine.state.stats)
        self.coefs_, self.intercepts_, self._others, self._drawn = [], [], {}, False
        for i, (layer, of_layer) in enumerate(zip(engine.model.layers, layers, strict=True)):
            found = {k: as_x(v) for k, v in {**of_layer, **statistics[i]}.items()}
            if isinstance(layer, Dense):
                self.coefs_.append(found["W"])
                self.intercepts_.append(found["b"])
            elif found:
                self._others[i] = found

    # -- prediction -------------------------------------------------------------------------------

    def _outputs(self, X: Any, method: str) -> tuple[Any, Backend]:
        """Return the outputs (N, J) of the last layer for X, on the backend, and that."""
        check_is_fitted(self, "coefs_")
        if not self._is_of(X):
            raise ValueError(self._other_place(method, X))
        checks: dict[str, Any] = {"accept_sparse": "csr", "dtype": (np.float64, np.float32)}
        X = validate_data(self, X, reset=False, **checks)
        backend = self._backend_for(self.coefs_[0])
        model, _ = self._network()
        params = self._tensors(backend, model)
        with limited(backend, settled(backend, "auto" if backend.threads() is None else self.threads, {})):
            parts = [model.forward(params, x)[0] for x in _batches(backend, X)]
        return (parts[0] if len(parts) == 1 else backend.xp.concat(parts, axis=0)), backend

    def _is_of(self, X: Any) -> bool:
        """Whether X is in the namespace and on the device of the weights."""
        W = self.coefs_[0]
        if getattr(self, "_drawn", False):
            return True
        x_there, w_there = foreign(X) and _dispatching(), foreign(W)
        if not (x_there and w_there):
            return x_there == w_there
        backend = backend_of(W)
        assert backend is not None
        of_x = backend_of(X)
        return of_x is not None and (of_x.name, of_x.device_name) == (backend.name, backend.device_name)

    def _other_place(self, method: str, X: Any) -> str:
        name, W = type(self).__name__, self.coefs_[0]
        msg = f"Inputs passed to {name}.{method}() must use the same namespace and the same device "
        msg += f"as those passed to fit(); got {type(X).__module__}.{type(X).__name__} for weights "
        return msg + f"of {type(W).__module__}.{type(W).__name__}: move X, or fit again"

    def _backend_for(self, X: Any) -> Backend:
        """Return where X is computed with: where it is, or for host data the parameters' choice."""
        dtype = str(X.dtype).rpartition(".")[2]
        if not foreign(X):
            return get_backend(self.backend or "numpy", self.device, dtype)
        found = backend_of(X, dtype)
        assert found is not None
        named = None if self.backend is None else backend_class(self.backend).name
        if named not in (None, found.name) or self.device not in ("auto", found.device_name):
            msg = f"X is on {found}, but backend={self.backend!r} and device={self.device!r}"
            raise DataError(msg, python="leave these out: the estimator follows X")
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


def _dispatching() -> bool:
    from sklearn import get_config

    return bool(get_config()["array_api_dispatch"])


def _column_warning() -> type[Warning]:
    from sklearn.exceptions import DataConversionWarning

    return DataConversionWarning


def _on_host(x: Any) -> Any:
    """An array of another library as NumPy's, a sparse matrix dense; anything else as it is."""
    if scipy.sparse.issparse(x):
        return x.toarray()
    backend = backend_of(x)
    return x if backend is None else backend.to_host(x)


def _rows(backend: Backend, X: Any, rows: np.ndarray) -> Any:
    if not foreign(X):
        return X[rows]
    return backend.xp.take(X, backend.asarray(rows), axis=0)


def _batches(backend: Backend, X: Any) -> Iterator[Any]:
    for start in range(0, X.shape[0], EVALUATION_BATCH):
        rows = X[start : min(start + EVALUATION_BATCH, X.shape[0]), ...] if foreign(X) else X[start : start + EVALUATION_BATCH]
        rows = rows.toarray() if scipy.sparse.issparse(rows) else rows
        yield backend.asarray(rows)


def _copied(x: Any) -> Any:
    from array_api_compat import array_namespace

    return array_namespace(x).asarray(x, copy=True)


def _finite(x: Any) -> bool:
    from array_api_compat import array_namespace

    xp = array_namespace(x)
    return bool(xp.all(xp.isfinite(x)))


def _only(params: dict[str, Any], kept: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name in kept}
