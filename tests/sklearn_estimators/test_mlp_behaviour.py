"""scikit-learn's own tests of MLPClassifier and MLPRegressor, run with our estimators.

They are read from the installed scikit-learn (sklearn/neural_network/tests/test_mlp.py, BSD
3-Clause) with the two classes replaced, so that what a newer one adds is run, too; nothing of their
text is here. ``OTHERWISE`` has those that cannot be run so, each with the reason and with the test
below that holds the behaviour.
"""

import importlib.util
import inspect
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from xpnet.backends import get_backend
from xpnet.nn.layout import layouts
from xpnet.optim.optimizers import SGD
from xpnet.sklearn import XPNetClassifier, XPNetRegressor
from xpnet.sklearn.lbfgs import value_and_gradient
from xpnet.sklearn.losses import classification_loss
from xpnet.sklearn.network import network
from xpnet.sklearn.rows import loader
from xpnet.training.engine import Engine

SOURCE = (
    Path(importlib.util.find_spec("sklearn.neural_network").origin).parent / "tests/test_mlp.py"
)
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
OURS = "from xpnet.sklearn import XPNetClassifier as MLPClassifier, XPNetRegressor as MLPRegressor"

# name -> (the reason, the test of this file that holds what it is about)
OTHERWISE = {
    "test_gradient": (
        "it calls a private method",
        "test_the_gradient_of_lbfgs_is_the_slope_of_its_loss",
    ),
    "test_learning_rate_warmstart": (
        "it reads a private optimizer",
        "test_a_warm_start_goes_on_with_inverse_scaling",
    ),
    "test_adaptive_learning_rate": (
        "it reads a private optimizer",
        "test_an_adaptive_rate_falls_until_it_is_too_small",
    ),
    "test_early_stopping_stratified": (
        "its message names a class as True, ours as 1",
        "test_rows_that_are_held_out_are_stratified",
    ),
}
LONG = ("test_n_iter_no_change_inf", "test_partial_fit_classification")


def adopted():
    """The names of scikit-learn's tests, and its module with our estimators."""
    source = SOURCE.read_text("utf-8")
    assert source.count(IMPORT) == 1, f"{SOURCE} imports its estimators otherwise: see IMPORT"
    scope = {"__name__": "test_mlp"}
    exec(compile(source.replace(IMPORT, OURS), str(SOURCE), "exec"), scope)
    return {name: value for name, value in scope.items() if name.startswith("test_")}


THEIRS = adopted()
for _name, _test in THEIRS.items():
    if _name not in OTHERWISE:
        _quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")(_test)
        _quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")(_quiet)
        globals()[_name] = pytest.mark.long(_quiet) if _name in LONG else _quiet


@pytest.fixture
def global_random_seed():
    return 42


def test_what_is_held_otherwise_is_there():
    gone = set(OTHERWISE) - set(THEIRS)
    assert not gone, f"{SOURCE} has no {sorted(gone)} any more: take them off OTHERWISE"
    for _, ours in OTHERWISE.values():
        assert inspect.isfunction(globals()[ours])


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "gelu"])
def test_the_gradient_of_lbfgs_is_the_slope_of_its_loss(activation, rng):
    for K in (1, 3):
        model = network([4, 5, K], activation, 0.0)
        loss = classification_loss("softmax" if K > 1 else "logistic")
        y = np.arange(6) % 3 if K > 1 else (np.arange(6) % 2.0)[:, None]
        x, weight = rng.normal(size=(6, 4)), rng.uniform(0.5, 2, 6)
        engine = Engine(get_backend("numpy", "cpu", "float64"), model, loss, SGD(), alpha=0.3)
        rows, state = loader(engine.backend, x, y, weight), engine.host_state()

        def value(flat, engine=engine, rows=rows, state=state):
            engine.set_state(state._replace(params=flat))
            return value_and_gradient(engine, rows, 4)  # in two parts

        flat = rng.normal(size=layouts(model)[0].size)
        steps = 1e-6 * np.eye(flat.size)
        slopes = [(value(flat + s)[0] - value(flat - s)[0]) / 2e-6 for s in steps]
        np.testing.assert_allclose(value(flat)[1], slopes, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("schedule", ["constant", "invscaling"])
def test_a_warm_start_goes_on_with_inverse_scaling(schedule):
    X, y = [[3, 2], [1, 6], [5, 6], [-2, -4]], [1, 1, 1, 0]
    net = XPNetClassifier(
        4, solver="sgd", learning_rate=schedule, power_t=0.25, max_iter=1, warm_start=True
    )
    for rows in (4, 8):
        with pytest.warns(ConvergenceWarning):
            net.fit(X, y)
        assert net.t_ == rows
        expected = 0.001 if schedule == "constant" else 0.001 / (rows + 1) ** 0.25
        assert net._trainer.rate == expected


def test_an_adaptive_rate_falls_until_it_is_too_small():
    net = XPNetClassifier(tol=0.5, max_iter=3000, solver="sgd", learning_rate="adaptive")
    net.fit([[3, 2], [1, 6]], [1, 0])
    assert net.n_iter_ < 3000
    assert net._trainer.rate < 1e-6


def test_rows_that_are_held_out_are_stratified():
    message = "The least populated classes in y have only 1 member.*few members are: .*1"
    with pytest.raises(ValueError, match=message):
        XPNetClassifier(early_stopping=True).fit([[1, 2], [2, 3], [3, 4], [4, 5]], [0, 0, 0, 1])


def test_weights_that_diverge_are_an_error_without_early_stopping(rng):
    net = XPNetRegressor(solver="sgd", learning_rate_init=1e6, activation="identity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(
            ValueError, match=r"^Solver produced non-finite .* from epoch \d+, step"
        ):
            net.fit(rng.normal(size=(50, 3)), rng.normal(size=50))
