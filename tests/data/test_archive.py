"""NPZ files as other libraries write them: which array is what, in memory and streamed."""

import numpy as np
import pytest

from xpnet.data import open_rows, read, read_parts, scan
from xpnet.errors import DataError

X = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(params=[np.savez, np.savez_compressed])
def save(request, tmp_path):
    def save(*arrays, **named):
        request.param(tmp_path / "a.npz", *arrays, **named)
        return tmp_path / "a.npz"

    return save


def fails(path, message, **options):
    with pytest.raises(DataError) as caught:
        read_parts(path, **options)
    assert message in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def said(dataset):
    return "\n".join(dataset.columns.lines(dataset.classes))


def parts_of(**arrays):
    """The arrays of three parts of other values, under the names given: {part: (x, y)}."""
    return {
        name: (X, Y)[k] + np.uint8(30 * p if k == 0 else 0)
        for p, names in enumerate(arrays.values())
        for k, name in enumerate(names)
    }


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        (("x_train", "y_train"), None, ("x_test", "y_test")),  # Keras
        (("X_train", "y_train"), ("X_val", "y_val"), ("X_test", "y_test")),  # scikit-learn
        (  # MedMNIST
            ("train_images", "train_labels"),
            ("val_images", "val_labels"),
            ("test_images", "test_labels"),
        ),
        (("training_data", "training_targets"), None, ("test_data", "test_targets")),
        (("Xtrain", "Ytrain"), ("Xvalid", "Yvalid"), ("Xtest", "Ytest")),
        (("trainX", "trainY"), None, ("testX", "testY")),
        (("x", "y"), ("x_dev", "y_dev"), ("x_test", "y_test")),
        (("TRAIN.IMAGES", "TRAIN.LABELS"), None, ("Test-Images", "Test-Labels")),
    ],
)
def test_the_parts_of_an_archive_are_found_by_their_names(save, train, validation, test):
    named = {"train": train, "validation": validation or ("v", "w"), "test": test}
    arrays = parts_of(**named)
    if validation is None:
        del arrays["v"], arrays["w"]
    path = save(**dict(reversed(arrays.items())))  # their order does not matter
    got = read_parts(path)
    for part, names in (("train", train), ("validation", validation), ("test", test)):
        its = getattr(got, part)
        if names is None:
            assert its is None
            with pytest.raises(DataError, match="no arrays of a validation part; it holds"):
                read(path, part="validation")
            continue
        np.testing.assert_array_equal(its.x, arrays[names[0]])
        np.testing.assert_array_equal(its.y, Y)
        assert its.classes == ("0", "1", "2")
        assert its.name == ("a" if part == "train" else f"a {part}")
        again = read(path, part=part)
        np.testing.assert_array_equal(again.x, its.x)
    said = got.train.columns.lines(got.train.classes)
    assert any(line.startswith(f"label: {train[1]}, by its name (3 classes") for line in said)
    assert f"train {', '.join(train)}" in said[1]
    assert f"test {', '.join(test)}" in said[1]


def test_every_part_of_an_archive_streams(tmp_path):
    arrays = parts_of(train=("x_train", "y_train"), test=("x_test", "y_test"))
    np.savez(tmp_path / "a.npz", **arrays)
    for part in ("train", "test"):
        rows = scan(open_rows(tmp_path / "a.npz", part=part)).parts[0].take(range(6))
        np.testing.assert_array_equal(rows.x, arrays[f"x_{part}"])
        np.testing.assert_array_equal(rows.y, Y)


def test_keras_file_of_mnist_has_60000_and_10000_images(tmp_path):
    """Its names and shapes: keras.datasets.mnist reads x_train, y_train, x_test, y_test."""
    shapes = {"x_train": (600, 28, 28), "x_test": (100, 28, 28)}
    arrays = {n: np.zeros(s, np.uint8) for n, s in shapes.items()}
    arrays |= {"y_train": np.arange(600) % 10, "y_test": np.arange(100) % 10}
    np.savez(tmp_path / "mnist.npz", **{n: arrays[n] for n in ("x_test", "x_train", *arrays)})
    got = read_parts(tmp_path / "mnist.npz")
    assert (len(got.train), len(got.test), got.train.feature_shape) == (600, 100, (28, 28))


def test_medmnist_labels_are_a_column_and_may_be_several(save):
    arrays = {f"{p}_images": X for p in ("train", "val", "test")}
    column = {f"{p}_labels": Y[:, None].astype(np.uint8) for p in ("train", "val", "test")}
    got = read_parts(save(**arrays, **column))
    assert [part.y.tolist() for part in got] == [Y.tolist()] * 3
    several = {f"{p}_labels": np.array([[1, 1, 0]] * 6) for p in ("train", "val", "test")}
    several["test_labels"] = np.array([[0, 1, 0]] * 6)  # by themselves they would be one-hot
    got = read_parts(save(**arrays, **several))
    assert [part.multilabel for part in got] == [True] * 3
    assert got.test.y.tolist() == [[0, 1, 0]] * 6
    fails(save(**arrays, **several), "with one 1 in each row", task="classification")
    numbers = read_parts(save(**arrays, **several), task="regression")
    assert numbers.validation.y.shape == (6, 3)


def test_scikit_learns_digits_as_an_archive(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    bunch = datasets.load_digits()
    np.savez(tmp_path / "digits.npz", **bunch)
    got = read_parts(tmp_path / "digits.npz")
    np.testing.assert_array_equal(got.train.x, bunch.data)  # not images, which are the same
    np.testing.assert_array_equal(got.train.y, bunch.target)
    assert (got.validation, got.test) == (None, None)
    assert any("not used: 'frame'" in note for note in got.train.columns.notes)


def test_arrays_without_names_are_told_by_their_shapes_and_it_is_said(save):
    for arrays in ((X, Y), (Y, X), (X, Y[:, None]), (X, Y, np.zeros(5))):
        got = read(save(*arrays))
        np.testing.assert_array_equal(got.x, X)
        np.testing.assert_array_equal(got.y, Y)
        assert "by its shape" in got.columns.lines(got.classes)[0]
        assert "a guess: --label chooses another" in got.columns.lines(got.classes)[0]
    np.testing.assert_array_equal(read(save(X), label=None).x, X)
    np.testing.assert_array_equal(read(save(pixels=X, digit=Y)).y, Y)
    for arrays in ((X, X, Y), (X, Y, Y), (Y, Y)):
        error = fails(save(*arrays), "no array of ")
        assert "it holds 'arr_0', 'arr_1'" in str(error)
        assert "--set data." in error.at_command_line


def test_arrays_may_be_chosen_by_name(save):
    fine = Y[::-1].copy()
    arrays = {"x_train": X, "emb_train": X * 2, "y_train": Y, "fine_train": fine}
    arrays |= {n.replace("train", "test"): a + (a.ndim > 1) for n, a in arrays.items()}
    got = read_parts(save(**arrays), array="emb_train", label="fine_train")
    np.testing.assert_array_equal(got.train.x, X * 2)
    np.testing.assert_array_equal(got.test.x, X * 2 + 1)
    assert got.train.y.tolist() == fine.tolist()
    assert got.train.columns.guess == ""
    arrays["fine_test"] += 1
    fails(save(**arrays), "[fine_test]: row 0: label '3' is not among", label="fine_train")
    fails(save(x=X, y=Y), "no array of features (any of z)", array="z")
    fails(save(x=X, y=Y), "no array of labels (any of z)", label="z")


def test_a_run_finds_its_arrays_again(save):
    like = read(save(a=X, x=X * 2, y=Y), array="a").columns
    got = read(save(x=X * 2, a=X, y=Y), like=like)
    np.testing.assert_array_equal(got.x, X)
    only = read(save(X_test=X, y_test=Y), like=like)  # by the usual names, where its own are gone
    np.testing.assert_array_equal(only.x, X)
    assert only.y.tolist() == Y.tolist()
    parts = read(save(x_train=X, y_train=Y, x_test=X, y_test=Y), like=like)
    assert "test x_test, y_test; of them, train is read" in said(parts)


def test_labels_are_of_the_part_that_the_features_are_of(save):
    other = Y[::-1].copy()
    assert read(save(x=X, y_train=other, y=Y)).y.tolist() == Y.tolist()
    assert read(save(x_test=X, y_train=other, y=other, y_test=Y)).y.tolist() == Y.tolist()
    assert read(save(x_train=X, y=Y)).y.tolist() == Y.tolist()


def test_what_is_not_used_is_said(save):
    got = read_parts(save(x_train=X, y_train=Y, x_test=X, notes=np.array("hello")))
    assert got.test is None  # for it has no labels
    assert got.train.columns.notes == ("arrays that are not used: 'x_test', 'notes'",)
    both = read_parts(save(x=X, y=Y, x_train=X[:4], y_train=Y[:4], x_test=X[4:], y_test=Y[4:]))
    assert (len(both.train), len(both.test)) == (4, 2)
    assert "arrays that are not used: 'x', 'y'" in both.train.columns.notes


def test_rows_to_predict_need_no_labels(save):
    got = read_parts(save(x_train=X, x_test=X + 1), label=None)
    np.testing.assert_array_equal(got.test.x, X + 1)
    assert (got.train.y, got.test.y) == (None, None)


def test_one_hot_labels_are_classes_and_it_is_said(save):
    hot = np.eye(3)[Y]
    for dtype in (np.uint8, np.float32, bool):
        got = read_parts(save(x_train=X, y_train=hot.astype(dtype), x_test=X, y_test=hot))
        assert (got.train.y.tolist(), got.test.y.tolist()) == ([*Y], [*Y])
        assert got.train.classes == ("0", "1", "2")
        assert "each row has one 1, so they are taken for classes" in said(got.train)
    assert read(save(x=X, y=hot), task="regression").y.tolist() == hot.tolist()
    for other in (hot * 2, hot + 1, np.abs(hot - 1)):
        fails(save(x=X, y=other), "class labels must be (N,)", task="classification")


def test_a_damaged_array_is_named(save):
    fails(save(x_train=X, y_train=Y, x_test=X, y_test=Y[:2]), "[y_test]: labels of shape (2,)")
    fails(save(x_train=X, y_train=Y, x_test=X, y_test=Y + 7), "[y_test]: row 0: label '7' is not")
