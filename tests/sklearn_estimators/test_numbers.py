"""The weights are those of scikit-learn's MLP, from the same random_state, to rounding."""

import numpy as np
import pytest
from scipy.special import xlogy
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._multilayer_perceptron import LOSS_FUNCTIONS

from xpnet.sklearn import XPNetClassifier, XPNetRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y3 = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
Y2 = Y3 == 1
LABELS = make_multilabel_classification(len(X), random_state=0)[1]
WEIGHT = np.random.default_rng(0).uniform(0.0, 2.0, len(X))
WEIGHT[::7] = 0.0
KWARGS = {"random_state": 3, "hidden_layer_sizes": (6, 5), "alpha": 0.05, "max_iter": 25}
KINDS = {
    "two": (MLPClassifier, XPNetClassifier, Y2),
    "three": (MLPClassifier, XPNetClassifier, Y3),
    "labels": (MLPClassifier, XPNetClassifier, LABELS),
    "number": (MLPRegressor, XPNetRegressor, X[:, 0] * X[:, 1]),
    "numbers": (MLPRegressor, XPNetRegressor, X[:, :2] ** 2),
}
SOLVERS = {
    "adam": {"epsilon": 1e-3, "beta_1": 0.8, "beta_2": 0.95, "batch_size": 40},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.1, "batch_size": 40},
    "heavy-ball": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    "plain": {"solver": "sgd", "momentum": 0.0, "batch_size": len(X), "shuffle": False},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adaptive": {
        **{"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.05},
        **{"learning_rate_init": 0.1, "batch_size": 30},
    },
    "early": {"early_stopping": True, "learning_rate_init": 0.05, "n_iter_no_change": 3},
    "lbfgs": {"solver": "lbfgs"},
    "logistic": {"activation": "logistic", "solver": "lbfgs"},
    "tanh": {"activation": "tanh"},
}


def same(ours, theirs, tolerance=1e-6):
    for mine, other in ((ours.coefs_, theirs.coefs_), (ours.intercepts_, theirs.intercepts_)):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=tolerance)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.t_ == theirs.t_
    assert ours.out_activation_ == theirs.out_activation_
    assert (ours.n_layers_, ours.n_outputs_) == (theirs.n_layers_, theirs.n_outputs_)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_scikit_learn(kind, solver):
    theirs, ours, y = KINDS[kind]
    if kind == "numbers" and SOLVERS[solver].get("solver") == "lbfgs":
        pytest.skip("MLPRegressor's loss of several outputs is not that of its gradient")
    options = KWARGS | SOLVERS[solver]
    a, b = theirs(**options).fit(X, y), ours(**options).fit(X, y)
    same(b, a)
    np.testing.assert_allclose(b.predict(X), a.predict(X), rtol=1e-7, atol=1e-6)
    if kind != "numbers":  # there it is the sum of the outputs' losses, and not their mean
        np.testing.assert_allclose(b.loss_, a.loss_, rtol=1e-7)
    if hasattr(a, "predict_proba"):
        np.testing.assert_allclose(b.predict_proba(X), a.predict_proba(X), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(
            b.predict_log_proba(X), np.log(a.predict_proba(X)), rtol=1e-7, atol=1e-6
        )
    if "loss_curve_" in vars(a) and kind != "numbers":
        np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=1e-7)
    if solver == "early":
        np.testing.assert_allclose(b.validation_scores_, a.validation_scores_, rtol=1e-7, atol=1e-9)
        assert b.best_validation_score_ == pytest.approx(a.best_validation_score_)


def exact_log_loss(y, proba, sample_weight=None):
    """Σ -log p; scikit-learn's is of probabilities clipped at ε, which its gradient does not know.

    A line search of L-BFGS that meets such a probability goes another way there.
    """
    with np.errstate(divide="ignore"):
        return -np.average(xlogy(y, proba), weights=sample_weight, axis=0).sum()


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", ["two", "three", "number"])
def test_rows_weigh_as_in_scikit_learn(kind, solver, monkeypatch):
    monkeypatch.setitem(LOSS_FUNCTIONS, "log_loss", exact_log_loss)
    theirs, ours, y = KINDS[kind]
    options = KWARGS | SOLVERS[solver]
    a, b = (e(**options).fit(X, y, sample_weight=WEIGHT) for e in (theirs, ours))
    same(b, a)


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
@pytest.mark.parametrize("solver", ["adam", "invscaling", "adaptive"])
def test_partial_fits_and_warm_starts_go_on_as_in_scikit_learn(solver):
    options = KWARGS | SOLVERS[solver] | {"max_iter": 4}
    a, b = MLPClassifier(**options), XPNetClassifier(**options)
    for net in (a, b):
        for rows in (slice(0, 150), slice(0, 90, 3), slice(20, 140)):
            net.partial_fit(X[rows], Y3[rows], classes=[0, 1, 2])
        net.set_params(warm_start=True).fit(X, Y3)
        net.fit(X, Y3)
        net.partial_fit(X, Y3)
    same(b, a)
    np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=1e-7)
    assert b._no_improvement_count == a._no_improvement_count


def test_weights_that_are_assigned_are_gone_on_with_and_predict():
    options = KWARGS | SOLVERS["plain"] | {"warm_start": True, "max_iter": 3}
    a, b = MLPClassifier(**options).fit(X, Y3), XPNetClassifier(**options).fit(X, Y3)
    rng = np.random.default_rng(1)
    for coef, own in zip(a.coefs_, b.coefs_, strict=True):
        coef[:] = own[:] = rng.normal(size=coef.shape)
    np.testing.assert_allclose(b.predict_proba(X), a.predict_proba(X), rtol=1e-7, atol=1e-12)
    same(b.fit(X, Y3), a.fit(X, Y3))
    b.coefs_[0] = b.coefs_[0][:, :5]
    with pytest.raises(ValueError, match=r"goes on from the weights in coefs_.*4-6-5-3"):
        b.fit(X, Y3)


def test_poisson_regression_is_that_of_scikit_learn(rng):
    y = rng.poisson(np.exp(X[:, 0]))
    options = KWARGS | {"loss": "poisson", "solver": "lbfgs"}
    a, b = MLPRegressor(**options).fit(X, y), XPNetRegressor(**options).fit(X, y)
    same(b, a)
    assert b.loss_ == pytest.approx(a.loss_, rel=1e-9)
    np.testing.assert_allclose(b.predict(X), a.predict(X), rtol=1e-6)
    with pytest.raises(ValueError, match="Poisson"):
        b.fit(X, -y)


def test_several_outputs_have_the_sum_of_their_losses():
    y = np.stack([X[:, 0] + X[:, 2] ** 2, X[:, 1]], axis=1)
    options = {"solver": "lbfgs", "hidden_layer_sizes": (), "alpha": 0.0, "tol": 1e-9}
    options["random_state"] = 0
    both, one = XPNetRegressor(**options).fit(X, y), XPNetRegressor(**options).fit(X, y[:, 0])
    np.testing.assert_allclose(both.coefs_[0][:, 0], one.coefs_[0][:, 0], rtol=1e-7, atol=1e-4)
    half = 0.5 * ((both.predict(X) - y) ** 2).sum(axis=1).mean()
    assert both.loss_ == pytest.approx(half, rel=1e-6)


def test_the_curve_of_lbfgs_falls_to_its_loss():
    with pytest.warns(ConvergenceWarning, match=r"after 25 iteration.*max_iter=25"):
        net = XPNetClassifier(**KWARGS, solver="lbfgs").fit(X, Y3)
    assert len(net.loss_curve_) == net.n_iter_ == 25
    assert net.loss_curve_[-1] == net.loss_ < net.loss_curve_[0]
