"""Labels of any kind are scikit-learn's codes, are kept with the weights, and come back."""

import copy
import pickle

import numpy as np
import pytest

from xpnet import Dense, Loader, Sequential, Trainer, get_backend
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.nn.losses import BinaryCrossEntropy, Hinge, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.training.class_labels import coded, looked_up

N = 60
NAMES = np.array(["rose", "iris", "tulip"])


def made(outputs=3, loss="softmax_cross_entropy", **settings):
    settings = {"backend": "numpy", "dtype": "float64", "threads": 1, **settings}
    return Trainer([Dense(outputs)], loss, "sgd", **settings)


def rows(labels=NAMES, n=N):
    x = np.random.default_rng(3).normal(size=(n, 4))
    return x, np.asarray(labels)[np.arange(n) % len(labels)]


def series(library):
    return lambda y: pytest.importorskip(library).Series(y)


def categorical(y):
    pandas = pytest.importorskip("pandas")
    return pandas.Series(pandas.Categorical(y, categories=["tulip", "iris", "rose", "lily"]))


FORMS = {
    "texts": np.asarray,
    "objects": lambda y: np.array(y.tolist(), object),
    "a list": lambda y: y.tolist(),
    "a column": lambda y: y[:, None],
    "pandas": series("pandas"),
    "polars": series("polars"),
    "pandas' categories": categorical,
}


@pytest.mark.parametrize("form", FORMS)
def test_texts_of_every_form_are_scikit_learns_codes(form):
    encoder = pytest.importorskip("sklearn.preprocessing").LabelEncoder()
    x, y = rows()
    codes = encoder.fit_transform(y)
    ours, given = made(), made()
    ours.fit((x, FORMS[form](y)), epochs=2)
    given.fit((x, codes), epochs=2)
    assert ours.classes == tuple(encoder.classes_) == ("iris", "rose", "tulip")
    assert given.classes is None
    assert ours.history[-1]["loss"] == given.history[-1]["loss"]
    np.testing.assert_array_equal(ours.predict(x), given.predict(x))
    expected = encoder.inverse_transform(given.predict_classes(x))
    np.testing.assert_array_equal(ours.predict_classes(x), expected)
    assert ours.evaluate((x, y)).loss == given.evaluate((x, codes)).loss
    assert "classes    'iris', 'rose', 'tulip'" in ours.summary()


@pytest.mark.parametrize("labels", [[1, 2, 3], [-5, 0, 7], [10, 2, 9]])
def test_whole_numbers_that_are_no_indices_are_sorted_as_numbers(labels):
    trainer, (x, y) = made(), rows(labels)
    trainer.fit((x, y), epochs=1, validation=(x, y))
    assert trainer.classes == tuple(sorted(labels))
    assert set(trainer.predict_classes(x)) <= set(labels)
    same = trainer.history[-1]["val_accuracy"] == np.mean(trainer.predict_classes(x) == y)
    assert same


@pytest.mark.long_where(backend=["jax"])
def test_indices_stay_as_they_are_also_where_a_class_is_missing(backend):
    x, y = rows([0, 2])
    trainer = Trainer([Dense(3)], backend=backend)
    trainer.fit((x, y), epochs=1)
    assert trainer.classes is None
    assert trainer.predict_classes(x).tolist() == trainer.predict(x).argmax(axis=1).tolist()


@pytest.mark.long_where(backend=["jax"])
def test_labels_on_every_backend(backend):
    x, y = rows()
    trainer = Trainer([Dense(3)], "softmax_cross_entropy", "sgd", backend=backend)
    trainer.fit((x, y), epochs=2, validation_fraction=0.2)
    expected = made()
    expected.fit((x, y), epochs=2, validation_fraction=0.2)
    for name in ("loss", "val_loss"):
        assert trainer.history[-1][name] == pytest.approx(expected.history[-1][name], rel=1e-6)
    np.testing.assert_array_equal(trainer.predict_classes(x), expected.predict_classes(x))


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), Hinge()])
@pytest.mark.parametrize("labels", [["yes", "no"], [True, False]])
def test_two_labels_of_one_output(loss, labels):
    trainer, given, (x, y) = made(1, loss), made(1, loss), rows(labels)
    trainer.fit((x, y), epochs=3)
    given.fit((x, (y == sorted(labels)[1]).astype(int)), epochs=3)
    assert trainer.classes == tuple(sorted(labels))
    np.testing.assert_array_equal(trainer.predict(x), given.predict(x))
    positive = trainer.predict(x)[:, 0] > 0.5
    np.testing.assert_array_equal(trainer.predict_classes(x) == sorted(labels)[1], positive)


def test_thresholds_of_one_and_of_several_labels():
    x, _ = rows()
    many = (np.random.default_rng(0).random((N, 2)) > 0.5).astype(float)
    trainer = made(2, BinaryCrossEntropy())
    trainer.fit((x, many), epochs=1)
    p = trainer.predict(x)
    np.testing.assert_array_equal(trainer.predict_classes(x), (p > 0.5).astype(int))
    np.testing.assert_array_equal(trainer.predict_classes(x, (0.2, 0.9)), p > [0.2, 0.9])
    for wrong in (1.5, (0.5, 0.5, 0.5), (0.1, float("nan"))):
        with pytest.raises(ConfigError, match="threshold must be from 0 to 1, or 2 such"):
            trainer.predict_classes(x, wrong)


def test_a_regression_has_no_classes_to_predict():
    trainer, (x, _) = made(1, MeanSquaredError()), rows()
    trainer.fit((x, x[:, 0]), epochs=1)
    with pytest.raises(ConfigError, match="MeanSquaredError predicts values, not classes: use pre"):
        trainer.predict_classes(x)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a", "b"], r"y has 2 classes \('a', 'b'\), and the model has outputs for 3: give its"),
        (["a", "b", "c", "d"], "give its last layer 4 units, or pass class indices"),
        (["a", None, "c"], "row 1 of y: the label is missing"),
        (np.array(["a", 1, "c"], object), "whole numbers or booleans; got int and str"),
        ([0, 1, 9, 2], "the model has classes 0..2"),
        ([0.0, 1.0, 2.0], "class labels must be whole numbers"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(labels, says):
    trainer, (x, y) = made(), rows(labels)
    with pytest.raises(DataError, match=says):
        trainer.fit((x, y), epochs=1)
    assert trainer.classes is None


def test_a_binary_loss_takes_no_three_labels():
    x, y = rows()
    with pytest.raises(DataError, match=r"use SoftmaxCrossEntropy\(\) and an output for each"):
        made(1, BinaryCrossEntropy()).fit((x, y), epochs=1)


def test_a_label_that_the_training_does_not_have_is_named():
    (x, y), trainer = rows(), made()
    other = y.copy()
    other[7] = "lily"
    with pytest.raises(
        DataError, match=r"^validation: row 7 of y: label 'lily' is not among the 3"
    ):
        trainer.fit((x, y), epochs=1, validation=(x, other))
    trainer.fit((x, y), epochs=1)
    for call in (lambda: trainer.evaluate((x, other)), lambda: trainer.fit((x, other), epochs=2)):
        with pytest.raises(DataError, match="label 'lily' is not among the 3 classes of the train"):
            call()
    with pytest.raises(DataError, match="label 0 is not among"):
        trainer.evaluate((x, np.zeros(N, int)))


def test_after_indices_labels_are_refused_and_before_a_fit_none_are_learnt():
    (x, y), trainer = rows(), made()
    trainer.fit((x, np.arange(N) % 3), epochs=1)
    with pytest.raises(DataError, match="trained on class indices; got labels 'iris', 'rose'"):
        trainer.fit((x, y), epochs=2)
    built = made()
    with pytest.raises(DataError, match="class indices"):
        built.gradients(x, y)
    assert built.classes is None


def test_classes_are_kept_in_snapshots_copies_and_pickles():
    (x, y), trainer = rows(), made()
    trainer.fit((x, y), epochs=1)
    restored = made()
    restored.restore(*trainer.snapshot())
    for other in (restored, copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        assert other.classes == trainer.classes
        other.fit((x, y), epochs=3)
    trainer.fit((x, y), epochs=3)
    np.testing.assert_array_equal(restored.predict_classes(x), trainer.predict_classes(x))
    np.testing.assert_array_equal(restored.predict(x), trainer.predict(x))
    plain = made()
    plain.fit((x, np.arange(N) % 3), epochs=1)
    restored.restore(*plain.snapshot())
    assert restored.classes is None


@pytest.mark.parametrize("wrong", ["iris", [], ["a", "a"], ["a", 1], [1.5, 2.5, 3.5], ["a"]])
def test_a_checkpoint_of_damaged_classes_is_refused(wrong):
    (x, y), trainer = rows(), made()
    trainer.fit((x, y), epochs=1)
    tensors, meta = trainer.snapshot()
    with pytest.raises(CheckpointError, match="invalid classes"):
        made().restore(tensors, {**meta, "classes": wrong})


def test_an_ignored_label_stays_ignored():
    loss = SoftmaxCrossEntropy(ignore_label=-1)
    x, y = rows([1, 2, 3])
    y[::5] = -1
    trainer, given = made(loss=loss), made(loss=loss)
    trainer.fit((x, y), epochs=2)
    given.fit((x, np.where(y == -1, -1, y - 1)), epochs=2)
    assert trainer.classes == (1, 2, 3)
    np.testing.assert_array_equal(trainer.predict(x), given.predict(x))
    assert trainer.evaluate((x, y)).loss == given.evaluate((x, np.where(y == -1, -1, y - 1))).loss


def test_rows_of_probabilities_and_loaders_have_no_labels():
    x, y = rows()
    trainer = made()
    trainer.fit((x, y), epochs=1)
    codes = coded(y, SoftmaxCrossEntropy(), lambda: 3).y
    loader = Loader(get_backend("numpy", dtype="float64"), x, codes)
    expected = trainer.evaluate((x, y)).loss
    assert trainer.evaluate(loader).loss == expected
    assert trainer.evaluate((x, np.eye(3)[codes])).loss == pytest.approx(expected, rel=1e-12)


def test_a_tensor_is_looked_up_where_there_are_labels():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, y = rows([1, 2, 3])
    given, ours, like = made(), made(), made(backend=None)
    given.fit((x, y), epochs=1)
    ours.fit((x, torch.asarray(y)), epochs=1)
    like.fit((torch.asarray(x), torch.asarray(y)), epochs=1)
    assert like.backend.name == "torch"
    for trainer in (ours, like):
        assert trainer.classes == (1, 2, 3)
        np.testing.assert_allclose(trainer.predict(x), given.predict(x), rtol=1e-12)
    assert looked_up(torch.asarray(y), ours.classes).tolist() == (y - 1).tolist()


def test_a_fit_that_takes_no_step_has_learnt_nothing():
    (x, y), trainer = rows(), made()
    with pytest.raises(ConfigError, match="epochs must be >= 1"):
        trainer.fit((x, y), epochs=0)
    with pytest.raises(DataError, match="not among the 3 classes"):
        trainer.fit((x, y), epochs=1, validation=(x, rows([1, 2, 3])[1]))
    trainer.fit(rows([1, 2, 3]), epochs=1)
    assert trainer.classes == (1, 2, 3)
    with pytest.raises(DataError, match="label 'rose' is not among the 3 classes"):
        trainer.fit((x, y), epochs=2)


def test_a_built_model_and_one_of_unknown_sizes_learn_the_same():
    x, y = rows()
    built = Trainer(Sequential([Dense(3)]).build((4,)), "softmax_cross_entropy", "sgd",
                    backend="numpy", dtype="float64", threads=1)  # fmt: skip
    unbuilt = made()
    for trainer in (built, unbuilt):
        trainer.fit((x, y), epochs=1)
    np.testing.assert_array_equal(built.predict(x), unbuilt.predict(x))
