"""The estimators inside what scikit-learn builds of estimators."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingRegressor, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xpnet.sklearn import XPNetClassifier, XPNetRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, CODES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[CODES]
PETAL = X[:, 3]
FAST = {"hidden_layer_sizes": 8, "solver": "lbfgs", "random_state": 0, "max_iter": 40}


def test_a_pipeline_is_that_of_scikit_learns_mlp():
    ours = make_pipeline(StandardScaler(), XPNetClassifier(**FAST)).fit(X, NAMES)
    theirs = make_pipeline(StandardScaler(), MLPClassifier(**FAST)).fit(X, NAMES)
    assert (ours.predict(X) == theirs.predict(X)).all()
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)
    assert ours.score(X, NAMES) > 0.95


def test_set_output_makes_the_names_of_a_table_reach_the_estimator():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    model = make_pipeline(StandardScaler(), XPNetRegressor(**FAST)).set_output(transform="pandas")
    model.fit(frame, PETAL)
    assert model[-1].feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert model[-1].n_features_in_ == 4
    with pytest.raises(ValueError, match="feature names"):
        model[-1].predict(frame[["d", "c", "b", "a"]])


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.long_but(n_jobs=[1])
def test_a_grid_search_chooses_as_that_of_scikit_learns_mlp(n_jobs):
    grid = {"alpha": [1e-4, 1000.0], "activation": ["tanh", "relu"]}
    found = [
        GridSearchCV(kind(**FAST), grid, cv=3, n_jobs=n_jobs).fit(X, NAMES)
        for kind in (XPNetClassifier, MLPClassifier)
    ]
    assert found[0].best_params_ == found[1].best_params_
    mine, other = (search.cv_results_["mean_test_score"] for search in found)
    np.testing.assert_allclose(mine, other, rtol=1e-7, atol=0.02)
    assert mine.min() < mine.max()


def test_cross_validation_is_that_of_scikit_learns_mlp():
    mine, other = (
        cross_val_score(kind(**FAST), X, PETAL, cv=3) for kind in (XPNetRegressor, MLPRegressor)
    )
    np.testing.assert_allclose(mine, other, rtol=1e-7, atol=1e-3)
    predicted = cross_val_predict(XPNetClassifier(**FAST), X, NAMES, method="predict_log_proba")
    assert (np.unique(NAMES)[predicted.argmax(axis=1)] == NAMES).mean() > 0.9


def test_probabilities_can_be_calibrated():
    model = CalibratedClassifierCV(XPNetClassifier(**FAST), cv=3).fit(X, NAMES)
    assert model.score(X, NAMES) > 0.9
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)


def test_the_permuted_feature_that_counts_is_found():
    model = XPNetRegressor(**FAST).fit(X[:, [0, 2]], X[:, 2] ** 2)
    found = permutation_importance(model, X[:, [0, 2]], X[:, 2] ** 2, n_repeats=3, random_state=0)
    assert found.importances_mean[1] > 5.0 * abs(found.importances_mean[0])


def test_it_votes_and_is_bagged_and_has_its_target_transformed():
    members = [("net", XPNetClassifier(**FAST)), ("line", LogisticRegression(max_iter=500))]
    assert VotingClassifier(members, voting="soft").fit(X, NAMES).score(X, NAMES) > 0.9
    bag = BaggingRegressor(XPNetRegressor(**FAST), n_estimators=2, random_state=0)
    assert bag.fit(X, PETAL).score(X, PETAL) > 0.8
    logs = TransformedTargetRegressor(XPNetRegressor(**FAST), func=np.log, inverse_func=np.exp)
    assert logs.fit(X, PETAL).score(X, PETAL) > 0.8


def test_the_kind_of_an_estimator_is_known():
    assert is_classifier(XPNetClassifier())
    assert is_regressor(XPNetRegressor())


@pytest.mark.parametrize("estimator", [XPNetClassifier, XPNetRegressor])
def test_a_clone_has_the_parameters_and_nothing_that_was_learnt(estimator):
    model = estimator(**FAST).fit(X, CODES)
    again = clone(model)
    assert again.get_params() == model.get_params()
    assert set(vars(again)) == set(again.get_params())
    assert "alpha=0.5" in repr(estimator(alpha=0.5))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_copy_goes_on_as_the_estimator_itself(copied, solver):
    model = XPNetClassifier((8, 4), solver=solver, random_state=0, batch_size=32, max_iter=3)
    model.fit(X, NAMES)
    twin = copied(model)
    assert np.array_equal(twin.predict_proba(X), model.predict_proba(X))
    for _ in range(2):
        model.partial_fit(X, NAMES)
        twin.partial_fit(X, NAMES)
    assert np.array_equal(twin.predict_proba(X), model.predict_proba(X))
    assert twin.loss_curve_ == model.loss_curve_
    assert len(twin.loss_curve_) == 5


def test_a_fit_that_has_converged_says_nothing():
    model = XPNetRegressor(solver="lbfgs", activation="identity", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X[:, :3], X[:, 0])
    with pytest.warns(ConvergenceWarning):
        model.set_params(max_iter=1).fit(X[:, :3], X[:, 0])
