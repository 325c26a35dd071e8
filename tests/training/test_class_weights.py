"""Balanced class weights are scikit-learn's, counted once from the labels of the training."""

import copy

import numpy as np
import pytest

from xpnet.errors import CheckpointError, ConfigError
from xpnet.nn import Dense, LogSoftmax, Softmax, Tanh
from xpnet.nn.losses import CrossEntropy, NegativeLogLikelihood, SoftmaxCrossEntropy
from xpnet.run import load, train
from xpnet.training.class_weights import counted
from xpnet.training.trainer import Trainer

N, D, K = 90, 4, 3
BALANCED = SoftmaxCrossEntropy(class_weights="balanced")


@pytest.fixture
def data(rng):
    return rng.normal(size=(N, D)), np.repeat([0, 1, 2], [60, 25, 5])


def sklearns(y, classes=None):
    weights = pytest.importorskip("sklearn.utils.class_weight")
    classes = np.unique(y) if classes is None else classes
    return weights.compute_class_weight("balanced", classes=classes, y=y)


def trained(data, loss=BALANCED, backend="numpy", epochs=3, layers=(), **options):
    model = [Dense(6), Tanh(), Dense(K), *layers]
    options = {"backend": backend, "dtype": "float64", "batch_size": 32, **options}
    trainer = Trainer(model, loss, **options)
    trainer.fit(data, epochs=epochs)
    return trainer


def same(a, b):
    return all(np.array_equal(a.params[name], b.params[name]) for name in b.params)


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize(
    ("loss", "layers"),
    [(SoftmaxCrossEntropy, ()), (CrossEntropy, (Softmax(),)),
     (NegativeLogLikelihood, (LogSoftmax(),))],
)  # fmt: skip
def test_they_are_scikit_learns_numbers(backend, data, loss, layers):
    options = {"layers": layers, "backend": backend}
    ours = trained(data, loss(class_weights="balanced"), **options)
    given = trained(data, loss(class_weights=tuple(sklearns(data[1]))), **options)
    assert ours.engine.loss == given.engine.loss
    assert same(ours, given)


@pytest.mark.parametrize("step", ["portable", "fused"])
def test_they_multiply_sample_weights_and_join_label_smoothing(data, rng, step):
    weighted = (*data, rng.uniform(0.5, 2.0, size=N))
    loss, numbers = (SoftmaxCrossEntropy(class_weights=w, label_smoothing=0.1)
                     for w in ("balanced", tuple(sklearns(data[1]))))  # fmt: skip
    assert same(trained(weighted, loss, step=step), trained(weighted, numbers, step=step))


def test_ignored_rows_do_not_count(data):
    x, y = data
    ignored = y.copy()
    ignored[:20] = -1
    loss = SoftmaxCrossEntropy(class_weights="balanced", ignore_label=-1)
    weights = trained((x, ignored), loss).engine.loss.class_weights
    np.testing.assert_allclose(weights, sklearns(ignored[20:]), rtol=1e-15)


def test_rows_of_probabilities_count_by_their_sums(data):
    rows = np.eye(K)[data[1]]
    weights = trained((data[0], rows)).engine.loss.class_weights
    np.testing.assert_allclose(weights, sklearns(data[1]), rtol=1e-15)


def test_a_class_without_rows_weighs_1_and_does_not_change_the_others():
    y = np.array([0, 0, 0, 2])
    assert counted(BALANCED, [y[:3], y[3:]], 3) == (*(sklearns(y)[:1]), 1.0, sklearns(y)[1])


def test_the_loss_alone_balances_the_batch_that_it_is_given(backend, data):
    z, y = np.sin(np.arange(N * K).reshape(N, K)), data[1].astype(np.int32)
    placed = backend.asarray(z), backend.asarray(y, dtype="int32")
    numbers = SoftmaxCrossEntropy(class_weights=tuple(sklearns(y)))
    for ours, theirs in zip(BALANCED(*placed), numbers(z, y), strict=True):
        np.testing.assert_allclose(backend.to_host(ours), theirs, rtol=1e-12)


def test_they_stay_those_of_the_first_data_in_copies_and_after_a_restore(data, rng):
    whole = trained(data, epochs=4)
    half = trained(data, epochs=2)
    resumed = Trainer(half.model, BALANCED, backend="numpy", dtype="float64", batch_size=32)
    resumed.restore(*half.snapshot())
    for other in (half, copy.deepcopy(half), resumed):
        assert other.engine.loss == whole.engine.loss
        assert other.evaluate(data).loss == half.evaluate(data).loss
    for other in (copy.deepcopy(half), resumed):
        other.fit(data, epochs=4)
        assert same(other, whole)
    resumed.fit((data[0], rng.integers(K, size=N)), epochs=5)
    assert resumed.engine.loss == whole.engine.loss


@pytest.mark.parametrize("wrong", [[1.0], [1.0, -1.0, 2.0], "balanced", [1.0, float("nan"), 1.0]])
def test_a_checkpoint_of_other_weights_is_refused(data, wrong):
    trainer = trained(data)
    tensors, meta = trainer.snapshot()
    with pytest.raises(CheckpointError, match=r"class.weights"):
        trainer.restore(tensors, {**meta, "class_weights": wrong})


@pytest.mark.parametrize("stream", ["no", "yes"])
def test_a_run_counts_its_training_part_and_keeps_the_numbers(tmp_path, rng, stream):
    table = np.column_stack([rng.normal(size=(200, 3)), np.repeat([0, 1], [160, 40])])
    np.savez(tmp_path / "t.npz", x=table[:, :3].astype("f4"), y=table[:, 3].astype("i4"))
    settings = {"epochs": 2, "loss.class_weights": "balanced", "data.stream": stream}
    run = train(tmp_path / "t.npz", tmp_path / "run", settings=settings, report=lambda line: None)
    assert run.config.loss.class_weights == "balanced"
    weights = run.trainer.engine.loss.class_weights
    assert sum(1 / w for w in weights) == pytest.approx(2.0)  # Σ K n_k / n
    assert weights == pytest.approx((200 / 320, 200 / 80), rel=0.1)
    assert load(tmp_path / "run").trainer.engine.loss.class_weights == weights


def test_another_word_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match="did you mean 'balanced'"):
        SoftmaxCrossEntropy(class_weights="balancd")
