"""Every metric against scikit-learn, on the inputs that people have and on degenerate ones."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

import xpnet
from xpnet.data.metrics import ClassScores, RegressionScores, among_top
from xpnet.nn.losses import BinaryCrossEntropy, Hinge, SoftmaxCrossEntropy

K, N = 5, 60


def ranked(rng, kind, labels):
    """Scores (N, K) of the classes, of one kind."""
    z = rng.normal(size=(len(labels), K))
    own = np.eye(K)[labels]
    return {
        "random": z,
        "tied": np.round(z),
        "constant": np.zeros_like(z),
        "saturated": np.exp(-300 * np.abs(z)).astype("float32"),  # most are 0
        "perfect": own,
        "all wrong": -own + 0.1 * z,
        "never the last": z - 9.0 * (np.arange(K) == K - 1),
        "infinite": np.where(z > 1.5, np.inf, np.where(z < -1.0, -np.inf, z)),
    }[kind]


KINDS = (
    "random", "tied", "constant", "saturated", "perfect", "all wrong", "never the last", "infinite",
)  # fmt: skip
LABELS = {
    "all classes": lambda rng: rng.integers(0, K, N),
    "absent classes": lambda rng: rng.choice([1, 3], N),
    "one class": lambda rng: np.full(N, 2),
    "unbalanced": lambda rng: np.where(rng.random(N) < 0.9, 4, rng.integers(0, K, N)),
    "one row": lambda rng: np.array([3]),
}
WEIGHTS = {  # 64ths, of which sums are exact, or scikit-learn's mean of a constant is not
    "no weights": lambda rng, n: None,
    "weights": lambda rng, n: rng.integers(1, 64, n) / 64,
    "weights with zeros": lambda rng, n: (np.arange(n) % 3 != 1) * rng.integers(1, 64, n) / 64,
}


def class_table(y, scores, weight, top):
    """What scikit-learn says of the same input."""
    predicted, options = scores.argmax(axis=1), {"sample_weight": weight}
    expected = {"accuracy": sklearn.accuracy_score(y, predicted, **options)}
    for average, prefix in (("macro", "macro_"), (None, "")):
        found = sklearn.precision_recall_fscore_support(
            y, predicted, average=average, labels=None if average else range(K),
            zero_division=0, **options,
        )  # fmt: skip
        named = zip(("precision", "recall", "f1"), found[:3], strict=True)
        expected |= {prefix + k: v for k, v in named}
    expected["support"] = found[3]
    options["labels"] = range(K)
    expected["confusion"] = sklearn.confusion_matrix(y, predicted, **options)
    finite = np.clip(scores, -1e30, 1e30)  # it takes no infinities
    expected[f"top_{top}_accuracy"] = sklearn.top_k_accuracy_score(y, finite, k=top, **options)
    return expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_score_of_classes_is_scikit_learns(kind, labels, weights, rng):
    y = LABELS[labels](rng)
    z, weight = ranked(rng, kind, y), WEIGHTS[weights](rng, len(y))
    for top, blocks in ((1, 7), (2, 1), (3, 7)):
        scores = ClassScores(K, top)
        for rows in np.array_split(np.arange(len(y)), blocks):
            scores.add(y[rows], z[rows], None if weight is None else weight[rows])
        result, expected = scores.result(), class_table(y, z, weight, top)
        assert set(result) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-13, atol=1e-15, err_msg=name)


def test_a_tie_counts_for_as_many_classes_as_there_are_places():
    """When ties were correct, all classes of equal scores were among the top one."""
    tied = np.zeros((K, K))
    for k in range(1, K):
        assert among_top(tied, np.arange(K), k).sum() == k


def test_counts_without_weights_stay_whole_numbers():
    scores = ClassScores(2)
    scores.add(np.array([0, 1, 1]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    result = scores.result()
    assert {type(n) for row in result["confusion"] for n in row} == {int}
    assert {type(n) for n in result["support"]} == {int}


def test_rows_of_no_class_are_not_counted(rng):
    y, z, weight = np.array([-1, 0, 2, K, 1]), rng.normal(size=(5, K)), rng.random(5)
    valid, every, some = np.array([1, 2, 4]), ClassScores(K), ClassScores(K)
    every.add(y, z, weight)
    some.add(y[valid], z[valid], weight[valid])
    assert every.result() == some.result()


def test_scores_of_nothing_are_0():
    nothing, weightless = ClassScores(3, 1), ClassScores(3, 1)
    weightless.add(np.array([0, 1]), np.eye(3)[:2], np.zeros(2))
    for scores in (nothing.result(), weightless.result()):
        assert [scores[k] for k in ("accuracy", "macro_f1", "top_1_accuracy")] == [0.0] * 3


TARGETS = {
    "random": lambda rng: rng.normal(size=(N, 3)) * [1.0, 100.0, 0.01],
    "one target": lambda rng: rng.normal(size=N),
    "far from 0": lambda rng: 1e3 + rng.normal(size=(N, 2)),
    "a constant target": lambda rng: np.stack([rng.normal(size=N), np.full(N, 0.5)], axis=1),
    "all constant": lambda rng: np.full((N, 2), 4.0),
    "two rows": lambda rng: rng.normal(size=(2, 2)),
}
VALUES = {
    "near": lambda rng, y: y + 0.1 * rng.normal(size=y.shape),
    "far": lambda rng, y: rng.normal(size=y.shape),
    "the mean": lambda rng, y: np.broadcast_to(y.mean(axis=0), y.shape),
    "exact": lambda rng, y: y,
    "float32": lambda rng, y: (y + 0.1).astype("float32"),
}
ERRORS = {
    "mse": sklearn.mean_squared_error,
    "mae": sklearn.mean_absolute_error,
    "r2": sklearn.r2_score,
}


@pytest.mark.parametrize("blocks", [1, 7])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("values", VALUES)
def test_every_score_of_a_regression_is_scikit_learns(targets, values, weights, blocks, rng):
    y = TARGETS[targets](rng)
    p, weight = VALUES[values](rng, y), WEIGHTS[weights](rng, len(y))
    scores = RegressionScores()
    for rows in np.array_split(np.arange(len(y)), blocks):
        scores.add(y[rows], p[rows], None if weight is None else weight[rows])
    result = scores.result()
    for name, function in ERRORS.items():
        close = {"rtol": 1e-11, "atol": 1e-13, "err_msg": name}
        mean = function(y, p, sample_weight=weight, multioutput="uniform_average")
        np.testing.assert_allclose(result[name], mean, **close)
        assert ("by_target" in result) == (y.ndim > 1)
        if y.ndim > 1:
            each = function(y, p, sample_weight=weight, multioutput="raw_values")
            np.testing.assert_allclose(result["by_target"][name], each, **close)


def test_rounding_gives_a_constant_target_no_variance():
    """In scikit-learn ten times 0.1 has a variance of 1e-34, and R² is -1e31."""
    scores = RegressionScores()
    for _ in range(3):
        scores.add(np.full(10, 0.1), np.full(10, 0.2))
    assert scores.result()["r2"] == 0.0


def test_a_single_row_has_no_r2():
    """scikit-learn warns and returns NaN."""
    scores = RegressionScores()
    scores.add(np.array([[1.0, 2.0]]), np.array([[1.5, 2.0]]))
    assert scores.result()["mse"] == 0.125
    assert "r2" not in scores.result()
    assert "r2" not in scores.result()["by_target"]


# ------------------------------------------------------------------- the accuracy of a training

LOSSES = {
    "classes": SoftmaxCrossEntropy(),
    "class weights": SoftmaxCrossEntropy(class_weights=(1.0, 5.0, 0.5), label_smoothing=0.1),
    "mean_count": SoftmaxCrossEntropy(reduction="mean_count"),
    "ignored": SoftmaxCrossEntropy(ignore_label=1),
    "binary": BinaryCrossEntropy(),
    "hinge": Hinge(reduction="mean_count"),
    "labels by column": BinaryCrossEntropy(),
}


def expected_accuracy(name, y, output, weight):
    if name == "labels by column":
        return 1.0 - sklearn.hamming_loss(y, output > 0, sample_weight=weight)
    predicted = output.argmax(axis=1) if output.shape[1] > 1 else (output[:, 0] > 0).astype(int)
    counts = y != 1 if name == "ignored" else np.full(len(y), fill_value=True)
    weight = None if weight is None else weight[counts]
    return sklearn.accuracy_score(y[counts], predicted[counts], sample_weight=weight)


@pytest.mark.long_but(name=["classes", "ignored", "binary", "labels by column"])
@pytest.mark.parametrize("step", ["portable", "fused"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", LOSSES)
def test_accuracy_is_scikit_learns_in_training_validation_and_evaluation(name, weights, step, rng):
    """With a learning rate of next to 0 all three are of the same model."""
    loss, x = LOSSES[name], rng.normal(size=(50, 4))
    y = rng.integers(0, 3 if loss.predicts == "class" else 2, 50)
    y = np.stack([y, rng.integers(0, 2, 50)], axis=1) if name == "labels by column" else y
    weight = WEIGHTS[weights](rng, 50)
    data = (x, y) if weight is None else (x, y, weight)
    outputs = 3 if loss.predicts == "class" else y[0].size
    run = xpnet.Trainer(
        [xpnet.Dense(outputs)], loss=loss, optimizer=xpnet.SGD(1e-300), backend="numpy",
        dtype="float64", step=step, batch_size=16,
    )  # fmt: skip
    (record,) = run.fit(data, epochs=1, validation=data)
    W, b = (run.params[name] for name in ("0.dense.W", "0.dense.b"))
    expected = pytest.approx(expected_accuracy(name, y, x @ W + b, weight), rel=1e-12)
    assert record["accuracy"] == expected
    assert record["val_accuracy"] == expected
    assert run.evaluate(data).accuracy == expected
