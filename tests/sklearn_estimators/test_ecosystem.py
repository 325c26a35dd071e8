"""What people put around an estimator: pipelines, searches, calibration, tables, pickles."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from xpnet.backends import backend_class
from xpnet.errors import BackendError
from xpnet.sklearn import XPNetClassifier, XPNetRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
FAST = {"solver": "lbfgs", "hidden_layer_sizes": 8, "max_iter": 60, "random_state": 0}


def pipeline(**options):
    return make_pipeline(StandardScaler(), XPNetClassifier(**FAST | options))


def test_a_pipeline_is_cross_validated_on_texts():
    assert cross_val_score(pipeline(alpha=1.0), X, NAMES[Y], cv=3).mean() > 0.93


@pytest.mark.long  # it starts two processes
def test_a_grid_is_searched_in_two_processes():
    grid = {"xpnetclassifier__alpha": [0.01, 1000.0]}
    found = GridSearchCV(pipeline(), grid, n_jobs=2, cv=3).fit(X, Y)
    assert found.best_params_ == {"xpnetclassifier__alpha": 0.01}
    assert found.best_score_ > 0.93


def test_probabilities_are_calibrated_and_importances_measured():
    calibrated = CalibratedClassifierCV(pipeline(), cv=2).fit(X, Y)
    assert calibrated.score(X, Y) > 0.93
    rng = np.random.default_rng(0)
    noisy = np.concatenate([X[:, 2:], rng.normal(size=(len(X), 1))], axis=1)
    net = pipeline(alpha=1.0).fit(noisy, Y)
    means = permutation_importance(net, noisy, Y, n_repeats=3, random_state=0).importances_mean
    assert means[1] > 0.1 > means[2]


def test_names_of_features_are_kept_and_compared():
    pd = pytest.importorskip("pandas", reason="a table with names")
    table = pd.DataFrame(X, columns=list("abcd"))
    net = pipeline().set_output(transform="pandas").fit(table, NAMES[Y])
    last = net[-1]
    assert last.feature_names_in_.tolist() == list("abcd")
    assert last.n_features_in_ == 4
    assert set(net.predict(table)) == set(NAMES)
    with pytest.raises(ValueError, match="feature names"):
        last.predict(table.rename(columns={"a": "z"}))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("solver", ["adam", "lion"])
def test_a_copy_predicts_the_same_and_trains_on_the_same(copied, solver):
    net = XPNetClassifier(5, solver=solver, random_state=0, max_iter=3).fit(X, Y)
    other = copied(net)
    np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))
    for e in (net, other):
        e.partial_fit(X, Y).partial_fit(X[:50], Y[:50])
    np.testing.assert_array_equal(other.coefs_[0], net.coefs_[0])
    fresh = clone(net)
    assert fresh.get_params() == net.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(X)


def test_a_pickle_has_no_data_in_it():
    X, y = np.zeros((20_000, 50)), np.arange(20_000) % 3
    net = XPNetClassifier(4, max_iter=1, batch_size=10_000).fit(X, y)
    assert len(pickle.dumps(net)) < 50_000
    batches = vars(net._trainer).get("_batches")
    assert batches is None  # nor does the estimator keep it in memory


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_sparse_matrix_is_what_it_is_when_dense(kind, solver):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 5)) * (rng.random((90, 5)) < 0.3)
    y, weight = rng.integers(0, 3, 90), rng.uniform(0.5, 2.0, 90)
    options = {"solver": solver, "max_iter": 8, "batch_size": 20, "random_state": 1}
    options["early_stopping"] = solver == "adam"
    dense = XPNetClassifier(6, **options).fit(x, y, weight)
    thin = XPNetClassifier(6, **options).fit(kind(x), y, weight)
    for a, b in zip(dense.coefs_, thin.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(
        thin.predict_proba(kind(x)), dense.predict_proba(x), rtol=1e-7, atol=1e-12
    )


def test_a_sparse_matrix_is_never_dense_as_a_whole():
    x = sparse.random(400, 200_000, density=1e-4, format="csr", rng=0)  # 640 MB if it were dense
    import tracemalloc

    net = XPNetClassifier(2, max_iter=1, batch_size=10, random_state=0)
    tracemalloc.start()
    net.fit(x, np.arange(400) % 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("weights", ["balanced", {0: 5.0, 1: 1.0, 2: 0.5}])
def test_classes_weigh_as_rows_of_that_weight(weights, solver):
    some = slice(0, 120)
    options = FAST | {"solver": solver, "max_iter": 10}
    a = XPNetClassifier(**options, class_weight=weights).fit(X[some], Y[some])
    rows = compute_sample_weight(weights, Y[some])
    b = MLPClassifier(**options).fit(X[some], Y[some], sample_weight=rows)
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], rtol=1e-7, atol=1e-6)


def test_balanced_classes_are_refused_by_partial_fit():
    net = XPNetClassifier(class_weight="balanced")
    with pytest.raises(ValueError, match=r"not supported by partial_fit.*pass a dict"):
        net.partial_fit(X, Y, classes=[0, 1, 2])


@pytest.mark.parametrize(
    ("solver", "activation"),
    [("adamw", "gelu"), ("nadam", "silu"), ("radam", "elu"), ("rmsprop", "mish"), ("lion", "selu")],
)
def test_other_rules_and_activations_learn(solver, activation):
    scaled = StandardScaler().fit_transform(X)
    options = {"learning_rate_init": 0.01, "max_iter": 40, "dropout": 0.1, "random_state": 0}
    options["batch_size"] = 15
    net = XPNetClassifier(16, activation, solver=solver, **options).fit(scaled, Y)
    assert net.score(scaled, Y) > 0.9
    assert net.loss_curve_[-1] < 0.6 * net.loss_curve_[0]


def test_dropout_is_repeatable_and_in_training_only():
    nets = [XPNetClassifier(20, dropout=d, random_state=0, max_iter=5) for d in (0.5, 0.5, 0.0)]
    a, b, none = (net.fit(X, Y).predict_proba(X) for net in nets)
    np.testing.assert_array_equal(a, b)
    assert abs(a - none).max() > 1e-4
    with pytest.raises(ValueError, match="dropout is random: set dropout=0"):
        XPNetClassifier(solver="lbfgs", dropout=0.5).fit(X, Y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "newton"}, "'solver' parameter"),
        ({"activation": "softmax"}, "'activation' parameter"),
        ({"momentum": 1.0}, "'momentum' parameter"),
        ({"validation_fraction": 0.0}, "'validation_fraction' parameter"),
        ({"dropout": 1.0}, "'dropout' parameter"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be > 0"),
        ({"hidden_layer_sizes": (3, 2.5)}, "hidden_layer_sizes must be whole numbers"),
        ({"hidden_layer_sizes": (True,)}, "hidden_layer_sizes must be whole numbers"),
    ],
)
def test_parameters_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        XPNetClassifier(**options).fit(X, Y)


def test_a_backend_that_is_not_there_is_named():
    with pytest.raises(BackendError, match="nympy"):
        XPNetClassifier(backend="nympy").fit(X, Y)


@pytest.mark.long_where(name=["jax"])  # which compiles
@pytest.mark.parametrize("name", ["torch", "jax", "array-api-strict"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_host_data_is_trained_on_a_backend_that_is_named(name, solver):
    pytest.importorskip(name.replace("-", "_"), reason="a backend")
    options = FAST | {"solver": solver, "max_iter": 5}
    if name == "jax":
        x, tolerance = X.astype(np.float32), 1e-4
    else:
        x, tolerance = X, 1e-9
    there = XPNetClassifier(**options, backend=name).fit(x, NAMES[Y])
    here = XPNetClassifier(**options).fit(x, NAMES[Y])
    assert isinstance(there.coefs_[0], np.ndarray)
    np.testing.assert_allclose(
        there.predict_proba(x), here.predict_proba(x), rtol=1e-7, atol=tolerance
    )
    assert there.predict(x).tolist() == here.predict(x).tolist()


def test_all_that_the_peers_have_is_had():
    """Parameters, and attributes after a fit by any solver but private ones."""
    for theirs, ours, y in (
        (MLPClassifier, XPNetClassifier, Y),
        (MLPRegressor, XPNetRegressor, X[:, 0]),
    ):
        missing = theirs().get_params().keys() - ours().get_params().keys()
        assert not missing
        same = ours().get_params().items() & theirs().get_params().items()
        assert dict(same).keys() == theirs().get_params().keys()  # defaults, too
        for solver in ("adam", "lbfgs"):
            a, b = (e(solver=solver, max_iter=2).fit(X, y) for e in (theirs, ours))
            public = {name for name in vars(a) if not name.startswith("_")}
            assert public - vars(b).keys() - {"loss"} == set()  # the name of the loss


def test_one_class_is_predicted_with_certainty():
    net = XPNetClassifier(max_iter=2).fit(X, np.full(len(X), "only"))
    assert set(net.predict(X)) == {"only"}
    np.testing.assert_array_equal(net.predict_proba(X), np.ones((len(X), 1)))
    np.testing.assert_array_equal(net.predict_log_proba(X), np.zeros((len(X), 1)))


def test_an_interrupted_training_keeps_what_it_has_learnt(monkeypatch):
    from xpnet.sklearn.epochs import Training

    step, count = Training._inputs, [0]

    def interrupt(self, engine, ahead=0):
        count[0] += 1
        if count[0] == 8:
            raise KeyboardInterrupt
        return step(self, engine, ahead)

    monkeypatch.setattr(Training, "_inputs", interrupt)
    net = XPNetClassifier(batch_size=50, max_iter=9, random_state=0)
    with pytest.warns(UserWarning, match="interrupted by user"):
        net.fit(X, Y)
    monkeypatch.undo()
    assert net.n_iter_ == len(net.loss_curve_) == 2
    whole = XPNetClassifier(batch_size=50, max_iter=2, random_state=0).fit(X, Y)
    np.testing.assert_allclose(net.loss_curve_, whole.loss_curve_)


def test_a_batch_that_is_too_large_is_said_and_verbose_prints(capsys):
    with pytest.warns(UserWarning, match=r"`batch_size` 200, larger than the sample size 150"):
        XPNetClassifier(batch_size=200, max_iter=2, verbose=True).fit(X, Y)
    assert "Iteration 2, loss = " in capsys.readouterr().out
    XPNetClassifier(solver="lbfgs", max_iter=2, verbose=True).fit(X, Y)
    assert "Iteration 2, loss = " in capsys.readouterr().out
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        XPNetClassifier(max_iter=2).fit(X, Y)


ON_DEVICE = """
import sys, numpy as np, sklearn
from sklearn.datasets import load_iris
from xpnet.backends import get_backend
from xpnet.sklearn import XPNetClassifier, XPNetRegressor
name, device, dtype = sys.argv[1:]
sklearn.set_config(array_api_dispatch=True)
backend = get_backend(name, device, dtype)
X, y = load_iris(return_X_y=True)
X, there = X.astype(dtype), lambda a: backend.asarray(a.astype(dtype) if a.dtype.kind == "f" else a)
kind = type(there(X))
for solver in ("adam", "sgd", "lbfgs"):
    options = {"solver": solver, "max_iter": 5, "random_state": 0, "tol": 1e-3}
    options["early_stopping"] = solver == "adam"
    ours, host = XPNetClassifier(**options), XPNetClassifier(**options)
    ours.fit(there(X), there(y)); host.fit(X, y)
    made = [ours.predict(there(X)), ours.predict_proba(there(X)), *ours.coefs_, *ours.intercepts_]
    for array in made:
        assert type(array) is kind and backend.owns(array), type(array)
        assert array.device == there(X).device
    np.testing.assert_allclose(backend.to_host(made[1]), host.predict_proba(X), atol=1e-4)
    np.testing.assert_array_equal(backend.to_host(made[0]), host.predict(X))
    words = XPNetClassifier(**options).fit(there(X), np.array(list("abc"))[y])
    assert set(words.predict(there(X))) <= set("abc")
    numbers = XPNetRegressor(**options).fit(there(X), there(X[:, :2]))
    assert type(numbers.predict(there(X))) is kind
    if solver == "sgd":
        ours.partial_fit(there(X), there(y))
        assert type(ours.coefs_[0]) is kind
    try:
        ours.predict(X)
    except ValueError as error:
        assert "must use the same namespace" in str(error)
    else:
        raise AssertionError("X elsewhere was not refused")
print("done")
"""


@pytest.mark.long_but(where=[("array-api-strict", "device1", "float64")])
@pytest.mark.parametrize(
    "where",
    [
        ("torch", "cpu", "float64"),
        ("array-api-strict", "device1", "float64"),
        ("array-api-strict", "no_float64", "float32"),
        ("torch", "cuda:0", "float32"),
        ("cupy", "cuda:0", "float32"),
    ],
    ids="-".join,
)
def test_an_array_stays_where_it_is(where):
    probe = backend_class(where[0]).probe()
    if where[1] not in probe.devices:
        pytest.skip(probe.note or f"{where[0]} has no {where[1]} here")
    command = [sys.executable, "-W", "ignore", "-c", ON_DEVICE, *where]
    env = {**os.environ, "SCIPY_ARRAY_API": "1"}  # read when SciPy is imported
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout == "done\n", done.stderr
