"""The parameters and attributes that the estimators share, written once."""

import textwrap
from collections.abc import Callable, Iterable
from typing import TypeVar

from xpnet.backends import BACKENDS
from xpnet.sklearn.network import HIDDEN, RULES

__all__ = ["described"]

T = TypeVar("T", bound=type)

PARAMETERS = """\
hidden_layer_sizes : array-like of int, or int, default=(100,)
    The units of each hidden layer; ``()`` for a linear model.
activation : str, default="relu"
    The function of the hidden units. scikit-learn has "identity", "logistic", "tanh" and "relu";
    all are
{activations}.
solver : {"adam", "sgd", "lbfgs", ...}, default="adam"
    "lbfgs" is SciPy's L-BFGS on all rows at once, the best for small data. Beside "adam" and "sgd"
    there are xpnet's other rules, with their own settings but for the learning rate:
{rules}.
alpha : float, default=0.0001
    The L2 penalty: α/2 Σ W² over all weights but the intercepts is added to the sum of a batch's
    losses, which is then divided by its number of rows, or by the sum of their weights.
batch_size : int or "auto", default="auto"
    Rows of a step; "auto" is the smaller of 200 and the number of rows. Not of "lbfgs".
learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
    Only of "sgd". "invscaling" divides learning_rate_init by (t_ + 1)^power_t after each epoch;
    "adaptive" divides the rate by 5 where the other schedules stop, and stops at 1e-6.
learning_rate_init : float, default=0.001
    The learning rate. Not of "lbfgs".
power_t : float, default=0.5
    The exponent of "invscaling".
max_iter : int, default=200
    The most epochs; of "lbfgs", iterations.
shuffle : bool, default=True
    Whether the rows have another order in each epoch. Not of "lbfgs".
random_state : int, RandomState instance or None, default=None
    First weights, rows held out by early_stopping and order of rows, all drawn as scikit-learn's
    MLP draws them, and dropout.
tol : float, default=1e-4
    An epoch counts as an improvement if the loss falls, or the validation score rises, by so much;
    of "lbfgs", the largest element of the gradient at which it ends.
verbose : bool, default=False
    Whether to print the loss after each epoch.
warm_start : bool, default=False
    Whether ``fit`` begins with the weights in ``coefs_`` and ``intercepts_``.
momentum : float in [0, 1), default=0.9
    Only of "sgd".
nesterovs_momentum : bool, default=True
    Only of "sgd" with a momentum.
early_stopping : bool, default=False
    Whether to hold out rows, to stop by their score (accuracy, or R²) instead of by the loss, and
    to end with the weights of its best epoch. Not of "lbfgs".
validation_fraction : float in (0, 1), default=0.1
    The part of the rows that early_stopping holds out; of two classes, the same part of each.
beta_1, beta_2 : float in [0, 1), default=0.9 and 0.999
    How slowly the moments of "adam" change; only of "adam".
epsilon : float, default=1e-8
    What is added to √v; only of "adam".
n_iter_no_change : int or inf, default=10
    How many epochs without an improvement do not yet stop the training.
max_fun : int, default=15000
    The most evaluations of the loss by "lbfgs".
{own}dropout : float in [0, 1), default=0.0
    The part of the hidden units that each step of training leaves out. Not of "lbfgs".
backend : str or None, default=None
    What to compute with:
{backends}.
    None follows X: NumPy for data of the host and, with scikit-learn's ``array_api_dispatch=True``,
    the library and device of an array elsewhere.
device : str, default="auto"
    The backend's device, such as "cuda:0"; "cuda" without a backend is CuPy's.
"""

# What is listed by name, as far as it is known when the room is imported.
LISTS = {
    "activations": HIDDEN,
    "rules": [name for name in RULES if name not in ("adam", "sgd")],
    "backends": BACKENDS,
}

ATTRIBUTES = """\
coefs_ : list of arrays (n_in, n_out)
    The weights of each layer, of X's library and device, in the dtype of X. They are what predicts
    and what training goes on from: assign others to change them.
intercepts_ : list of arrays (n_out,)
    The intercepts of each layer.
loss_ : float
    The mean loss of the last epoch, penalty included.
best_loss_ : float or None
    The lowest of all epochs; None with early_stopping.
loss_curve_ : list of float
    The loss of each epoch; of "lbfgs", after each iteration.
validation_scores_ : list of float, or None
    The score of each epoch with early_stopping.
best_validation_score_ : float or None
    The highest of them.
n_iter_ : int
    The epochs, or iterations, of the last fit.
t_ : int
    How many rows have been trained with, each as often as it was.
n_features_in_ : int
    The features of X.
feature_names_in_ : ndarray of str
    Their names, where X has names.
n_layers_ : int
    The layers, input and output among them.
n_outputs_ : int
    The outputs of the network.
out_activation_ : str
    {out}
{own}"""


def described(
    own_parameters: str = "", out: str = "", own_attributes: str = ""
) -> Callable[[T], T]:
    """Return a decorator that fills {parameters} and {attributes} in a class's docstring."""

    def describe(cls: T) -> T:
        assert cls.__doc__ is not None
        parameters = PARAMETERS.replace("{own}", own_parameters)
        for key, names in LISTS.items():
            parameters = parameters.replace(f"{{{key}}}", _listed(names))
        attributes = ATTRIBUTES.replace("{out}", out).replace("{own}", own_attributes)
        text = {"parameters": parameters, "attributes": attributes}
        indented = {k: v.strip().replace("\n", "\n    ") for k, v in text.items()}
        for name, value in indented.items():
            cls.__doc__ = cls.__doc__.replace(f"{{{name}}}", value)
        return cls

    return describe


def _listed(names: Iterable[str]) -> str:
    """The names, quoted, in lines as wide as those of the text around them."""
    text = ", ".join(f'"{name}"' for name in names)
    return textwrap.fill(text, 96, initial_indent="    ", subsequent_indent="    ")
