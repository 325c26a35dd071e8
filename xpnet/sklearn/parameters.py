"""The parameters that the estimators share: what each may be, checked when ``fit`` is called."""

import numbers
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np

from xpnet.errors import ConfigError
from xpnet.nn.activation import ACTIVATIONS, LogSoftmax, Softmax
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.settings import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Range,
    convert,
    did_you_mean,
)

__all__ = ["activation_of", "check_parameters", "hidden_sizes", "solvers"]

UpToOne = Annotated[float, Range(ge=0, le=1)]

KINDS: dict[str, Any] = {
    "alpha": NonNegativeFloat,
    "batch_size": PositiveInt | Literal["auto"],
    "learning_rate": Literal["constant", "invscaling", "adaptive"],
    "learning_rate_init": PositiveFloat,
    "power_t": NonNegativeFloat,
    "max_iter": PositiveInt,
    "tol": NonNegativeFloat,
    "momentum": UpToOne,
    "validation_fraction": Fraction,
    "beta_1": Fraction,
    "beta_2": Fraction,
    "epsilon": PositiveFloat,
    "max_fun": PositiveInt,
    "dropout": Fraction,
    "normalization": Literal["batch", "layer"] | None,
    "backend": str | None,
    "device": str,
    "threads": PositiveInt | Literal["auto"],
    "loss": Literal["squared_error", "poisson"],
}
FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping")


def solvers() -> list[str]:
    """Return the names that ``solver`` may have: "lbfgs", and the update rules of xpnet."""
    return ["lbfgs", *OPTIMIZERS]


def check_parameters(given: Mapping[str, Any]) -> None:
    """Raise ConfigError (a ValueError) for the first parameter that is not what it may be."""
    for name, value in given.items():
        if name in KINDS:
            convert(KINDS[name], value, name)
        elif name in FLAGS and not isinstance(value, bool | np.bool_):
            msg = f"{name} must be True or False; got {value!r}"
            raise ConfigError(msg)
    if given["solver"] not in solvers():
        raise ConfigError(_unknown("solver", given["solver"], solvers()))
    activation_of(given["activation"])
    hidden_sizes(given["hidden_layer_sizes"])
    patience = given["n_iter_no_change"]
    if patience != np.inf:
        convert(PositiveInt, patience, "n_iter_no_change")
    if not isinstance(given["verbose"], numbers.Integral | np.bool_) or given["verbose"] < 0:
        msg = f"verbose must be True, False or a whole number >= 0; got {given['verbose']!r}"
        raise ConfigError(msg)
    if given["solver"] == "lbfgs":
        _check_full_batch(given)


def _check_full_batch(given: Mapping[str, Any]) -> None:
    """Refuse what makes two evaluations of the loss at the same weights differ."""
    reasons = {
        "dropout": "draws another mask at each evaluation",
        "normalization": "counts running statistics by batches",
        "early_stopping": "ends between epochs, and L-BFGS has none",
    }
    asked = [name for name in reasons if given[name] and given[name] != "layer"]
    if asked:
        name = asked[0]
        msg = f"solver='lbfgs' does not go with {name}={given[name]!r}, which {reasons[name]}"
        raise ConfigError(msg, python="use solver='adam'")


def hidden_sizes(sizes: Any) -> list[int]:
    """Return the units of each hidden layer; raises ConfigError where one is not >= 1."""
    listed = list(sizes) if np.iterable(sizes) and not isinstance(sizes, str) else [sizes]
    whole = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in listed)
    if not whole or any(n < 1 for n in listed):
        msg = f"hidden_layer_sizes must be whole numbers >= 1, one per hidden layer; got {sizes!r}"
        raise ConfigError(msg)
    return [int(n) for n in listed]


def activation_of(name: Any) -> Callable[[], Any]:
    """Return the class of an activation by scikit-learn's name or xpnet's."""
    known = {n: cls for n, cls in ACTIVATIONS.items() if cls not in (Softmax, LogSoftmax)}
    known["logistic"] = known["sigmoid"]
    if not isinstance(name, str) or name not in known:
        raise ConfigError(_unknown("activation", name, list(known)))
    return known[name]


def _unknown(what: str, value: Any, known: list[str]) -> str:
    return f"unknown {what} {value!r}; {did_you_mean(str(value), known)}"
