"""What the two estimators share: parameters, fit, and the network's outputs."""

import copy
import math
import warnings
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from xpnet.backends import Backend, backend_of
from xpnet.errors import DataError
from xpnet.nn import Sequential
from xpnet.nn.losses import Loss, check_weights
from xpnet.optim.optimizers import SGD
from xpnet.sklearn.epochs import NOT_FINITE, Epochs, Training, train
from xpnet.sklearn.lbfgs import minimize
from xpnet.sklearn.network import (
    HIDDEN,
    RULES,
    Weights,
    check_shapes,
    first_weights,
    named,
    network,
    rule,
    unnamed,
    variables,
)
from xpnet.sklearn.rows import AT_ONCE, backend_for, floats, host, loader, parts, some
from xpnet.sklearn.trained import trainer_of
from xpnet.training.engine import Engine
from xpnet.training.trainer import Trainer
from xpnet.typing import Array

__all__ = ["Base"]

BATCH = 200  # of batch_size="auto"
SEEDS = 2**31 - 1
IN_CACHE = 512  # rows whose activations stay in a CPU's cache: L-BFGS is twice as fast by them


class Base(BaseEstimator, ABC):
    """A dense network with scikit-learn's interface; see the classes that inherit from it."""

    coefs_: list[Any]
    intercepts_: list[Any]
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    _trainer: Training

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(HIDDEN))],
        "solver": [StrOptions({"lbfgs", *RULES})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {math.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "backend": [str, None],
        "device": [str],
    }

    def _keep(self, **parameters: Any) -> None:
        """Set the parameters as they are given."""
        for name, value in parameters.items():
            setattr(self, name, value)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    # -- what a task says of itself ---------------------------------------------------------------

    @abstractmethod
    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        """Return X as it is trained with, and y on the host."""

    @abstractmethod
    def _begin(self, y: np.ndarray, *, first: bool, incremental: bool) -> None:
        """Learn the classes or columns of y, or check that they are those of before."""

    @abstractmethod
    def _target(self, y: np.ndarray) -> np.ndarray:
        """Return y as the loss takes it."""

    @abstractmethod
    def _loss(self) -> Loss:
        """Return what is minimised."""

    @abstractmethod
    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        """Return by what a validation is stratified."""

    @abstractmethod
    def _validation_score(
        self, predicted: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> float:
        """Return the score of predictions for what :meth:`_target` returned."""

    def _weight(self, sample_weight: Any, y: np.ndarray, *, incremental: bool) -> Any:
        """Return the weights of the rows on the host; None where they are all 1."""
        if sample_weight is None:
            return None
        if not isinstance(sample_weight, Real):  # a number is that of every row
            sample_weight = host(sample_weight)
        return _check_sample_weight(sample_weight, np.zeros((len(y), 1)), dtype=np.float64)

    # -- fit --------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool = False) -> Self:
        self._validate_params()
        sizes = self._hidden()
        if incremental and self.early_stopping:
            msg = "partial_fit does not support early_stopping=True"
            raise DataError(msg)
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._validated(X, y, reset=first)
        self._begin(y, first=first, incremental=incremental)
        weight = self._weight(sample_weight, y, incremental=incremental)
        if weight is not None:
            check_weights(weight, len(y))
        target = self._target(y)

        dtype = _name(X.dtype if first else self.coefs_[0].dtype)
        backend = backend_for(X, self.backend, self.device, dtype)
        sizes = [X.shape[1], *sizes, self.n_outputs_]
        rng = check_random_state(self.random_state)
        if first:
            weights = first_weights(sizes, self.activation, rng, dtype)
            self._start_records(sizes)
        else:
            weights = [*map(host, self.coefs_)], [*map(host, self.intercepts_)]
            check_shapes(weights, sizes)
            self._resume_records(sizes)
        model = network(sizes, self.activation, self.dropout)
        if self.solver == "lbfgs":
            weights = self._fit_lbfgs(backend, model, weights, (X, target, weight))
        else:
            data = X, target, weight
            weights = self._fit_epochs(backend, model, weights, data, y, rng, incremental)
        finite = all(np.isfinite(w).all() for part in weights for w in part)
        if not (finite and math.isfinite(self.loss_)):
            raise DataError(NOT_FINITE)
        place = backend.place if backend_of(X) is not None else np.asarray
        self.coefs_, self.intercepts_ = ([place(w) for w in part] for part in weights)
        return self

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = [*np.atleast_1d(np.asarray(sizes)).tolist()] if np.size(sizes) else []
        if any(type(size) is not int for size in sizes):
            msg = f"hidden_layer_sizes must be whole numbers, such as (100,); got {sizes}"
            raise DataError(msg)
        if any(size <= 0 for size in sizes):
            msg = f"hidden_layer_sizes must be > 0, got {sizes}."
            raise DataError(msg)
        return sizes

    def _start_records(self, sizes: list[int]) -> None:
        self.n_iter_ = self.t_ = 0
        self.n_layers_, self.out_activation_ = len(sizes), self._out_activation()
        self._no_improvement_count, self.loss_curve_ = 0, []
        self.__dict__.pop("_trainer", None)
        self._start_best()

    def _start_best(self) -> None:
        early = self.early_stopping and self.solver != "lbfgs"
        self.best_loss_ = None if early else math.inf
        self.validation_scores_ = [] if early else None
        self.best_validation_score_ = -math.inf if early else None

    def _resume_records(self, sizes: list[int]) -> None:
        """Go on with the records of an earlier fit, whatever of them there is."""
        self.n_iter_, self.n_layers_ = 0, len(sizes)
        self.out_activation_ = self._out_activation()
        for name, value in {"t_": 0, "_no_improvement_count": 0, "loss_curve_": []}.items():
            if not hasattr(self, name):
                setattr(self, name, value)
        early = self.early_stopping and self.solver != "lbfgs"
        if (getattr(self, "validation_scores_", None) is not None) != early:
            self._start_best()
        elif not early and getattr(self, "best_loss_", None) is None:
            self.best_loss_ = math.inf

    def _fit_lbfgs(
        self, backend: Backend, model: Sequential, weights: Weights, data: tuple[Any, ...]
    ) -> Weights:
        engine = Engine(backend, model, self._loss(), SGD(), step="portable", alpha=self.alpha)
        if self.dropout:
            msg = "solver='lbfgs' needs the same loss at every look, and dropout is random: set "
            msg += "dropout=0, or another solver"
            raise DataError(msg)
        start, layout = engine.host_state(), engine.params_layout
        flat = layout.join_named(named(model, weights), start.params)
        engine.set_state(start._replace(params=flat))
        made = loader(backend, *data)
        made.checked(lambda y, row: engine.loss.check_target(y, model.output_shape[-1], row))
        found = minimize(
            engine,
            made,
            IN_CACHE if backend.device_name == "cpu" else AT_ONCE,
            max_iter=self.max_iter,
            max_fun=self.max_fun,
            tol=self.tol,
            report=print if self.verbose else None,
        )
        self.n_iter_, self.loss_ = found.iterations, found.loss
        self.loss_curve_ = [*self.loss_curve_, *found.curve]
        self.best_loss_ = found.loss
        dtype = backend.dtype_name
        return unnamed(model, layout.named(found.weights.astype(dtype)))

    def _fit_epochs(
        self,
        backend: Backend,
        model: Sequential,
        weights: Weights,
        data: tuple[Any, ...],
        y: np.ndarray,
        rng: Any,
        incremental: bool,
    ) -> Weights:
        score, random = None, rng if self.shuffle else None
        if self.early_stopping:
            training, held_out = self._divided(y, rng)
            score = self._scorer(backend, _rows(data, held_out))
            data = _rows(data, training)
        made = loader(backend, *data, random=random)
        trainer = self._made_trainer(backend, model, made.rows, rng, incremental)
        trainer.params = named(model, weights)
        record = Epochs(self, made.rows, score, once=incremental)
        self._trainer = trainer
        train(trainer, made, 1 if incremental else self.max_iter, record)
        return unnamed(model, trainer.params)

    def _made_trainer(
        self, backend: Backend, model: Sequential, rows: int, rng: Any, incremental: bool
    ) -> Training:
        """A trainer for these parameters, which goes on where that of a partial_fit was."""
        size = self.batch_size
        if size == "auto":
            size = BATCH
        elif size > rows and not incremental:
            _warn_of_batch(size, rows)
        old: Training | None = vars(self).get("_trainer") if incremental else None
        seed = int(copy.deepcopy(rng).randint(SEEDS))  # of dropout; rng goes on with the rows
        trainer = Training(
            model,
            self._loss(),
            rule(self),
            backend=backend,
            batch_size=int(size),
            seed=seed if old is None else old.seed,
            step="jit" if backend.jit_by_default else "portable",
            alpha=float(self.alpha),
        )
        if old is None or old.asked == trainer.asked:
            return old or trainer
        # Other parameters since the last call: the moments go on, where the rule has the same.
        if old.optimizer.slots == trainer.optimizer.slots:
            trainer.restore(*old.snapshot())
        return trainer

    def _divided(self, y: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the rows to train with, and of those to validate with."""
        training, held_out = train_test_split(
            np.arange(len(y)),
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=self._stratify(y),
        )
        if len(held_out) < 2:
            msg = "The validation set is too small. Increase 'validation_fraction' or the size of "
            msg += "your dataset."
            raise DataError(msg)
        return training, held_out

    def _scorer(self, backend: Backend, data: tuple[Any, ...]) -> Any:
        X, target, weight = data
        rows = loader(backend, X)

        def score(trainer: Training) -> float:
            return float(self._validation_score(trainer.predict(rows), target, weight))

        return score

    @abstractmethod
    def _out_activation(self) -> str:
        """Return the function of the outputs, in scikit-learn's words."""

    def to_trainer(self) -> Trainer:
        """Return the fitted network as an :class:`xpnet.Trainer`, to save, export or explain.

        It is on NumPy, predicts the same, and has the labels of the classes.
        """
        return trainer_of(self)

    # -- the network's outputs --------------------------------------------------------------------

    def _outputs(self, X: Any, method: str) -> tuple[Array, Backend, bool]:
        """Return the linear outputs (N, outputs) on the backend, it, and whether X is of the host.

        Raises DataError where X is not of the library and on the device of the weights.
        """
        check_is_fitted(self, "coefs_")
        X = validate_data(self, X, accept_sparse="csr", dtype=floats(X), reset=False)
        backend = backend_for(X, self.backend, self.device, _name(self.coefs_[0].dtype))
        mine, its = backend_of(self.coefs_[0]), backend_of(X, backend.dtype_name)
        if repr(mine) != repr(its):
            where = [str(b or "NumPy, on the host") for b in (mine, its)]
            msg = f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace "
            msg += f"and the same device as those passed to fit(): that was {where[0]}, and X is "
            msg += f"of {where[1]}: move X, or the arrays in coefs_ and intercepts_"
            raise DataError(msg)
        sizes = [*(W.shape[0] for W in self.coefs_), self.coefs_[-1].shape[1]]
        model = network(sizes, self.activation, 0.0)
        coefs, intercepts = (
            [backend.asarray(w, backend.dtype_name) for w in part]
            for part in (self.coefs_, self.intercepts_)
        )
        params = variables(model, coefs, intercepts)
        with backend.active(), np.errstate(over="ignore", under="ignore"):
            made = [model.forward(params, part)[0] for part in parts(X, backend)]
            output = made[0] if len(made) == 1 else backend.xp.concat(made, axis=0)
        return output, backend, its is None


def _name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _rows(data: tuple[Any, ...], rows: np.ndarray) -> tuple[Any, ...]:
    return tuple(None if part is None else some(part, rows) for part in data)


def _warn_of_batch(size: int, rows: int) -> None:
    msg = f"Got `batch_size` {size}, larger than the sample size {rows}: each epoch is one batch"
    warnings.warn(msg, stacklevel=6)
