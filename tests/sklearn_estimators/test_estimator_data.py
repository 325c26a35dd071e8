"""What the estimators are fitted to: weights, classes, labels, sparse rows, dtypes, backends."""

import contextlib

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import check_classifiers_train

from xpnet.nn import Dense, Sequential, Tanh
from xpnet.nn.losses import BinaryCrossEntropy
from xpnet.optim.optimizers import SGD
from xpnet.sklearn import XPNetClassifier, XPNetRegressor
from xpnet.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y3 = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
Y2 = (Y3 == 2).astype(int)
ROWS, LABELS = make_multilabel_classification(80, n_labels=2, random_state=0)
ROWS = (ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0)
BOTH = pytest.mark.parametrize("solver", ["adam", "lbfgs"])


def made(kind=XPNetClassifier, **parameters):
    common = {"hidden_layer_sizes": (6,), "random_state": 0, "max_iter": 30}
    return kind(**common | parameters)


def weights(model):
    return np.concatenate([w.ravel() for w in [*model.coefs_, *model.intercepts_]])


def assert_equal_models(a, b, atol=1e-9):
    np.testing.assert_allclose(weights(a), weights(b), rtol=1e-7, atol=atol)


# -- weights of rows and classes -------------------------------------------------------------------


@BOTH
def test_a_row_of_weight_2_is_that_row_twice(solver):
    weight = np.where(np.arange(len(X)) % 3 == 0, 2.0, 1.0)
    rows = np.repeat(np.arange(len(X)), weight.astype(int))
    whole = {"solver": solver, "batch_size": len(rows), "max_iter": 10}
    warned = pytest.warns(UserWarning, match="batch_size")
    with warned if solver == "adam" else contextlib.nullcontext():
        weighted = made(**whole).fit(X, Y3, sample_weight=weight)
    assert_equal_models(weighted, made(**whole).fit(X[rows], Y3[rows]))
    plain = made(**whole | {"batch_size": "auto"}).fit(X, Y3)
    assert abs(weights(plain) - weights(weighted)).max() > 1e-5


@pytest.mark.parametrize("given", ["balanced", {0: 1.0, 1: 5.0}])
def test_the_weight_of_a_class_is_that_of_its_rows(given):
    row = np.linspace(0.5, 1.5, len(X))
    by_class = made(class_weight=given).fit(X, Y2, sample_weight=row)
    by_row = made().fit(X, Y2, sample_weight=row * compute_sample_weight(given, Y2))
    assert_equal_models(by_class, by_row, atol=0)


def test_a_class_weight_moves_the_decision():
    recalls = [
        (made(class_weight=w, solver="lbfgs").fit(X[:, :2], Y2).predict(X[:, :2]) == 1)[Y2 == 1]
        for w in (None, {0: 1.0, 1: 50.0})
    ]
    assert recalls[0].mean() < recalls[1].mean() == 1.0


def test_partial_fit_refuses_balanced_weights_and_takes_a_dict():
    model = made(class_weight="balanced")
    with pytest.raises(ValueError, match="balanced"):
        model.partial_fit(X, Y2, classes=[0, 1])
    model.set_params(class_weight={0: 2.0, 1: 1.0}).partial_fit(X, Y2, classes=[0, 1])
    assert model.n_iter_ == 1


def test_a_number_is_the_weight_of_every_row():
    assert_equal_models(made().fit(X, Y3, 2.0), made().fit(X, Y3, np.full(len(X), 2.0)), atol=0)


@pytest.mark.parametrize("weight", [np.zeros(len(X)), -np.ones(len(X)), np.full(len(X), np.nan)])
def test_weights_that_mean_nothing_are_refused(weight):
    with pytest.raises(ValueError, match=r"(?i)weight"):
        made().fit(X, Y3, sample_weight=weight)


@pytest.mark.parametrize("weight", [-1.0, None, float("nan"), float("inf")])
def test_a_class_weight_that_means_nothing_is_named(weight):
    with pytest.raises(ValueError, match=r"class_weight must be finite numbers >= 0; got \{0: "):
        made(class_weight={0: weight}).fit(X, Y3)


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [Y3.astype(str), Y3.astype("M8[D]"), Y3.astype("m8[s]")])
def test_the_targets_of_a_regression_are_numbers(y):
    with pytest.raises(ValueError, match=r"y must be numbers, and holds .*: XPNetClassifier"):
        made(XPNetRegressor).fit(X, y)


@pytest.mark.parametrize("labels", [["b", "a", "c"], [7, -2, 3], [2.0, 0.0, 1.0]])
def test_labels_of_any_kind_come_back(labels):
    y = np.array(labels)[Y3]
    model = made(solver="lbfgs").fit(X, y)
    assert model.classes_.tolist() == sorted(labels)
    assert model.predict(X).dtype == y.dtype
    assert model.score(X, y) > 0.95


def test_an_indicator_matrix_is_one_logistic_output_for_each_label():
    model = made(solver="lbfgs", alpha=1.0).fit(ROWS, LABELS)
    p = model.predict_proba(ROWS)
    assert p.shape == LABELS.shape
    assert model.out_activation_ == "logistic"
    assert (model.predict(ROWS) == (p > 0.5)).all()
    assert model.classes_.tolist() == [0, 1, 2, 3, 4]
    theirs = MLPClassifier(6, random_state=0, max_iter=30, solver="lbfgs", alpha=1.0)
    np.testing.assert_allclose(
        p, theirs.fit(ROWS, LABELS).predict_proba(ROWS), rtol=1e-7, atol=1e-6
    )


def test_a_sparse_indicator_matrix_is_the_dense_one():
    a, b = (made().fit(ROWS, y) for y in (scipy.sparse.csr_matrix(LABELS), LABELS))
    assert_equal_models(a, b, atol=0)


def test_a_label_that_partial_fit_was_not_told_of_is_refused():
    model = made().partial_fit(X[:100], Y3[:100], classes=[0, 1])
    with pytest.raises(ValueError, match=r"(?i)class"):
        model.partial_fit(X, Y3)


def test_partial_fit_learns_classes_that_come_later():
    model = made(learning_rate_init=0.05)
    order = np.argsort(Y3, kind="stable")
    for part in np.array_split(order, 3):  # of one class each
        model.partial_fit(X[part], Y3[part], classes=[0, 1, 2])
    assert model.predict_proba(X).shape == (150, 3)
    assert model.t_ == 150
    for _ in range(40):
        model.partial_fit(X, Y3)
    assert model.score(X, Y3) > 0.9


def test_loss_is_the_log_loss_and_the_penalty():
    model = made(alpha=2.0, solver="lbfgs").fit(X, Y3)
    penalty = 0.5 * 2.0 * sum((W**2).sum() for W in model.coefs_) / len(X)
    assert model.loss_ == pytest.approx(log_loss(Y3, model.predict_proba(X)) + penalty, rel=1e-9)


# -- rows ------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("form", ["csr_array", "csc_matrix", "coo_array"])
def test_sparse_rows_are_the_dense_ones(solver, form):
    few = np.where(abs(X) > 0.8, X, 0.0)
    sparse = getattr(scipy.sparse, form)(few)
    a = made(solver=solver, batch_size="auto", max_iter=8).fit(sparse, Y3)
    b = made(solver=solver, batch_size="auto", max_iter=8).fit(few, Y3)
    assert_equal_models(a, b, atol=1e-12)
    np.testing.assert_allclose(a.predict_proba(sparse), b.predict_proba(few), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@BOTH
def test_all_is_in_the_dtype_of_the_rows(dtype, solver):
    model = made(solver=solver, early_stopping=solver == "adam").fit(X.astype(dtype), Y3)
    assert {w.dtype.name for w in [*model.coefs_, *model.intercepts_]} == {dtype}
    assert model.predict_proba(X.astype(dtype)).dtype == dtype
    assert made(XPNetRegressor, solver=solver).fit(X.astype(dtype), Y3).predict(X).dtype == dtype


def test_several_targets_are_columns_and_one_is_none():
    y = np.stack([X[:, 0], -(X[:, 1] ** 2)], axis=1)
    model = made(XPNetRegressor, solver="lbfgs", max_iter=300).fit(X, y)
    assert model.predict(X).shape == y.shape
    assert model.score(X, y) > 0.98
    with pytest.warns(DataConversionWarning):
        single = made(XPNetRegressor).fit(X, y[:, :1])
    assert single.predict(X).shape == (150,)
    with pytest.raises(ValueError, match=r"(?i)column|target|output"):
        model.set_params(warm_start=True).fit(X, y[:, 0])


def test_a_table_is_matched_by_the_names_of_its_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("wxyz"))
    model = made().fit(frame, pandas.Series(Y3))
    assert model.feature_names_in_.tolist() == list("wxyz")
    assert np.array_equal(model.predict_proba(frame), model.predict_proba(frame.copy()))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"w": "v"}))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["w", "x"]])


# -- warm starts and weights that were set --------------------------------------------------------


def test_a_warm_start_goes_on_and_another_fit_begins_anew():
    cold = made(max_iter=5).fit(X, Y3)
    first = weights(cold)
    assert np.array_equal(weights(cold.fit(X, Y3)), first)
    assert len(cold.loss_curve_) == 5
    warm = made(max_iter=5, warm_start=True).fit(X, Y3)
    assert np.array_equal(weights(warm), first)
    assert warm.fit(X, Y3).loss_ < cold.loss_
    assert len(warm.loss_curve_) == 10
    assert warm.n_iter_ == 5
    assert warm.t_ == 1500


def test_weights_that_a_user_sets_are_those_that_predict_and_train_on():
    model = made(XPNetRegressor, activation="identity", solver="sgd", momentum=0.0)
    model.fit(X, X[:, 0])
    model.coefs_ = [np.zeros((4, 6)), np.zeros((6, 1))]
    model.intercepts_ = [np.zeros(6), np.array([2.5])]
    assert (model.predict(X) == 2.5).all()
    model.partial_fit(X, X[:, 0])
    assert (model.coefs_[0] == 0.0).all()
    assert model.intercepts_[1][0] != 2.5
    model.coefs_[1][:] = 0.0  # also in place
    model.intercepts_[1][0] = -1.0
    assert (model.predict(X) == -1.0).all()


# -- what xpnet adds -------------------------------------------------------------------------------


def test_the_network_is_what_xpnet_trains_without_the_estimator():
    """The same steps by Trainer alone: the loss, its mean over rows and the rule are its own."""
    W, b = [np.full((4, 3), 0.1), np.full((3, 1), 0.2)], [np.zeros(3), np.zeros(1)]
    W[0][:, 1] = -0.2
    model = made(
        hidden_layer_sizes=3, activation="tanh", solver="sgd", momentum=0.5, alpha=0.0,
        nesterovs_momentum=False, batch_size=150, learning_rate_init=0.3, warm_start=True,
        n_iter_no_change=100,
    ).fit(X, Y2)  # fmt: skip
    model.coefs_, model.intercepts_ = [w.copy() for w in W], [v.copy() for v in b]
    model.fit(X, Y2)
    network = Sequential([Dense(3), Tanh(), Dense(1)]).build((4,))
    trainer = Trainer(
        network, BinaryCrossEntropy(), SGD(0.3, momentum=0.5),
        backend="numpy", dtype="float64", batch_size=150, step="portable",
    )  # fmt: skip
    names = ["0.dense.W", "2.dense.W", "0.dense.b", "2.dense.b"]
    trainer.params = dict(zip(names, [*W, *b], strict=True))
    trainer.fit((X, Y2.astype(float)), epochs=30)
    found = trainer.params
    ours = [*model.coefs_, *model.intercepts_]
    for name, w in zip(names, ours, strict=True):
        np.testing.assert_allclose(w, found[name], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("activation", ["gelu", "silu", "elu", "leaky_relu"])
def test_the_activations_of_xpnet_train(activation):
    assert made(activation=activation, solver="lbfgs").fit(X, Y3).score(X, Y3) > 0.9


@pytest.mark.parametrize("solver", ["adamw", "rmsprop", "nadam", "radam", "adamax", "adagrad"])
def test_the_rules_of_xpnet_train(solver):
    model = made(solver=solver, learning_rate_init=0.05, max_iter=60).fit(X, Y3)
    assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]
    assert model.score(X, Y3) > 0.8


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": -1}, "hidden_layer_sizes"),
        ({"activation": "rely"}, "activation"),
        ({"solver": "adamm"}, "solver"),
        ({"alpha": -1.0}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": "slow"}, "learning_rate"),
        ({"learning_rate_init": 0.0}, "learning_rate_init"),
        ({"max_iter": 0}, "max_iter"),
        ({"shuffle": "yes"}, "shuffle"),
        ({"momentum": 1.5}, "momentum"),
        ({"beta_1": 1.0}, "beta_1"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"tol": -1e-3}, "tol"),
        ({"n_iter_no_change": 0}, "n_iter_no_change"),
        ({"validation_fraction": 1.0, "early_stopping": True}, "validation_fraction"),
        ({"max_fun": 0}, "max_fun"),
        ({"dropout": 1.0}, "dropout"),
        ({"random_state": "seed"}, "random_state|seed"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused_by_fit(parameters, said):
    model = made(**parameters)
    with pytest.raises(ValueError, match=said):
        model.fit(X, Y3)


def test_hidden_sizes_may_be_numbers_of_numpy():
    sizes = np.array([4, 3])
    model = made(hidden_layer_sizes=sizes).fit(X, Y3)
    assert [W.shape for W in model.coefs_] == [(4, 4), (4, 3), (3, 3)]
    assert made(hidden_layer_sizes=np.int64(5)).fit(X, Y3).coefs_[0].shape == (4, 5)
    listed = made(hidden_layer_sizes=[np.int32(2), 2]).fit(X, Y3)
    assert listed.n_layers_ == 4


def test_the_sigmoid_is_scikit_learns_logistic():
    a, b = (made(activation=name).fit(X, Y3) for name in ("logistic", "sigmoid"))
    assert a.out_activation_ == b.out_activation_ == "softmax"
    assert_equal_models(a, b, atol=0)


@pytest.mark.filterwarnings("ignore")  # the check asks for its warnings itself
def test_lbfgs_passes_the_check_of_probabilities_that_round_to_0():
    check_classifiers_train("XPNetClassifier", XPNetClassifier(solver="lbfgs"))
