"""What is drawn of a ranking, of probabilities and of columns, held to scikit-learn and SciPy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binomtest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.calibration import calibration_curve
from sklearn.inspection import permutation_importance as theirs
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    precision_recall_curve,
    r2_score,
    roc_auc_score,
    roc_curve,
)

from xpnet.report.evidence import ClassTally, LabelTally, Reliability, Sample, ValueTally
from xpnet.report.importance import permutation_importance
from xpnet.report.measures import area, average_precision, precision_recall, roc, wilson

WEIGHTED = pytest.mark.parametrize("weighted", [False, True])


def scored(n=400, seed=0):
    """Labels, scores with ties, and weights."""
    rng = np.random.default_rng(seed)
    true = rng.random(n) < 0.3
    scores = np.round(np.clip(0.3 * true + rng.random(n) * 0.8, 0, 1), 2)
    return true, scores, rng.random(n) + 0.1


@WEIGHTED
def test_roc_and_its_area(weighted):
    true, scores, weight = scored()
    weight = weight if weighted else None
    fpr, tpr = roc(true, scores, weight)
    a, b, _ = roc_curve(true, scores, sample_weight=weight, drop_intermediate=False)
    assert_allclose(fpr, a, rtol=1e-12, atol=1e-15)
    assert_allclose(tpr, b, rtol=1e-12)
    assert_allclose(area(fpr, tpr), roc_auc_score(true, scores, sample_weight=weight), rtol=1e-12)


@WEIGHTED
def test_precision_recall_and_average_precision(weighted):
    true, scores, weight = scored()
    weight = weight if weighted else None
    precision, recall = precision_recall(true, scores, weight)
    a, b, _ = precision_recall_curve(true, scores, sample_weight=weight)
    assert_allclose(precision, a[::-1], rtol=1e-12)
    assert_allclose(recall, b[::-1], rtol=1e-12)
    expected = average_precision_score(true, scores, sample_weight=weight)
    assert_allclose(average_precision(precision, recall), expected, rtol=1e-12)


def test_without_a_positive_row_there_is_no_curve():
    _, tpr = roc(np.zeros(3, bool), np.array([0.1, 0.2, 0.3]))
    assert np.isnan(tpr).all()


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (5, 5), (90, 100), (353, 359)])
def test_the_interval_of_a_share(right, rows):
    expected = binomtest(right, rows).proportion_ci(0.95, "wilson")
    assert_allclose(wilson(right, rows), (expected.low, expected.high), rtol=1e-12, atol=1e-15)


def test_calibration_is_that_of_all_batches_with_edges_in_the_lower_bin():
    true, scores, _ = scored(1000)
    scores[:20] = np.linspace(0, 1, 11).repeat(2)[:20]
    reliability = Reliability(10)
    for rows in np.array_split(np.arange(1000), 7):
        reliability.add(scores[rows], true[rows])
    predicted, happened = reliability.curve()
    b, a = calibration_curve(true, scores, n_bins=10)
    assert_allclose(predicted, a, rtol=1e-12)
    assert_allclose(happened, b, rtol=1e-12)
    counts = reliability.weight[reliability.weight > 0]
    assert_allclose(reliability.error, np.average(np.abs(a - b), weights=counts), rtol=1e-12)
    assert_allclose(reliability.means, (scores.mean(), true.mean()), rtol=1e-12)


def test_calibration_counts_rows_by_their_weights():
    true, scores, _ = scored(300)
    repeats = np.random.default_rng(1).integers(1, 4, 300)
    weighted, repeated = Reliability(), Reliability()
    weighted.add(scores, true, repeats.astype(float))
    repeated.add(scores.repeat(repeats), true.repeat(repeats))
    assert_allclose(weighted.curve(), repeated.curve(), rtol=1e-12)


def test_a_sample_is_all_rows_while_they_are_few_and_uniform_beyond():
    few = Sample(100)
    for start in range(0, 90, 30):
        few.add(np.arange(start, start + 30))
    assert few.whole
    assert few.columns[0].tolist() == list(range(90))
    assert few.of() == ""
    counts = np.zeros(1000)
    for seed in range(200):
        many = Sample(100, seed)
        for start in range(0, 1000, 125):
            many.add(np.arange(start, start + 125))
        assert len(many.columns[0]) == 100
        counts[many.columns[0]] += 1
    assert many.of() == "Drawn from 100 of 1,000 rows, at random."
    assert counts.reshape(8, 125).mean(axis=1).min() > 20 * 0.7
    assert counts.reshape(8, 125).mean(axis=1).max() < 20 * 1.3


def test_mistakes_are_the_surest_of_all_batches():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 5000)
    labels = rng.integers(0, 4, 5000)
    tally = ClassTally("abcd")
    for rows in np.array_split(np.arange(5000), 9):
        tally.add(rows, labels[rows], p[rows], None)
    wrong = np.flatnonzero(p.argmax(1) != labels)
    expected = wrong[np.argsort(-p.max(1)[wrong], kind="stable")][: len(tally.mistakes)]
    assert [m.row for m in tally.mistakes] == expected.tolist()
    first = tally.mistakes[0]
    assert (first.expected, first.actual) == (labels[expected[0]], p[expected[0]].argmax())
    assert first.p_expected == p[expected[0], labels[expected[0]]]
    assert first.p_actual == p[expected[0]].max()


def test_residuals_of_several_targets_are_compared_in_units_of_their_scale():
    tally = ValueTally(("m", "mm"), np.array([1.0, 1000.0]))
    y = np.zeros((3, 2))
    values = np.array([[0.5, 100.0], [0.1, 900.0], [-2.0, 0.0]])
    tally.add(np.arange(3), y, values, None)
    assert [(m.row, m.column, m.actual) for m in tally.mistakes] == [
        (2, 0, -2.0),
        (1, 1, 900.0),
        (0, 0, 0.5),
    ]


def test_wrong_labels_are_ordered_by_how_sure_the_model_is_of_them():
    tally = LabelTally(("a", "b"))
    true = np.array([[1.0, 0.0], [0.0, 1.0]])
    p = np.array([[0.4, 0.1], [0.95, 0.7]])
    tally.add(np.array([7, 8]), true, p, None)
    found = [(m.row, m.column, m.expected, m.actual) for m in tally.mistakes]
    assert found == [(8, 0, False, True), (7, 0, True, False)]
    assert tally.mistakes[0].p_actual == pytest.approx(0.95)


class Model(BaseEstimator):
    """A fixed function of the columns, for scikit-learn."""

    def __init__(self, function):
        self.function = function

    def fit(self, x, y):
        return self

    def predict(self, x):
        return self.function(x)


class Classifier(ClassifierMixin, Model):
    classes_ = np.array([False, True])


class Regressor(RegressorMixin, Model):
    pass


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_importance_is_that_of_scikit_learn_up_to_the_draw(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 4))
    value = 2 * x[:, 0] - x[:, 2] + 0.1 * x[:, 3]
    noisy = value + 0.5 * rng.normal(size=800)

    def predict(rows):
        out = 2 * rows[:, 0] - rows[:, 2] + 0.1 * rows[:, 3]
        return out > 0 if kind == "classes" else out

    y = noisy > 0 if kind == "classes" else noisy
    score = (accuracy_score if kind == "classes" else r2_score).__get__(y, type(y))
    model = (Classifier if kind == "classes" else Regressor)(predict)
    mean, std = permutation_importance(predict, score, x, range(4), 30, seed=0)
    expected = theirs(model, x, y, n_repeats=30, random_state=0)
    near = 4 * np.sqrt((std**2 + expected.importances_std**2) / 30) + 1e-12
    assert (np.abs(mean - expected.importances_mean) < near).all()
    assert_allclose(std, expected.importances_std, rtol=0.5, atol=1e-12)  # both of 30 draws
    assert mean[1] == 0.0


def test_importance_leaves_the_rows_as_they_were_and_follows_its_seed():
    x = np.random.default_rng(0).normal(size=(50, 3))
    before, y = x.copy(), x[:, 0] > 0

    def run(columns, seed):
        score = accuracy_score.__get__(y, type(y))
        return permutation_importance(lambda r: r[:, 0] > 0, score, x, columns, 5, seed)

    whole = run(range(3), 1)
    assert (x == before).all()
    assert whole[0][1:].tolist() == [0, 0]  # an earlier column is not left shuffled
    assert_allclose(run([0], 1)[0], whole[0][:1], rtol=0)
    assert run([0], 2)[0] != whole[0][0]
