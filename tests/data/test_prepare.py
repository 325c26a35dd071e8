"""Data sets in memory: validation, fingerprint, splits and scaling."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xpnet.data.dataset
from xpnet.data import (
    SCALINGS,
    Dataset,
    Scaler,
    check,
    fingerprint,
    fit_scaler,
    rare_classes,
    split,
)
from xpnet.errors import CheckpointError, ConfigError, DataError


def dataset(x, y=None, classes=None):
    return Dataset(np.asarray(x), None if y is None else np.asarray(y), classes, "demo")


# --- Dataset, check, fingerprint


def test_rows_are_taken_in_the_given_order():
    got = dataset(np.eye(3), [0, 1, 2], ("a", "b", "c")).take(np.array([2, 0], np.int32))
    assert (got.x.tolist(), got.y.tolist()) == ([[0, 0, 1], [1, 0, 0]], [2, 0])
    assert (got.classes, got.name) == (("a", "b", "c"), "demo")
    assert dataset(np.eye(3)).take([1]).y is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(3), None, "demo: features must be .* got shape \\(3,\\)"),
        (np.zeros((0, 3)), None, "demo: features must be .* got shape \\(0, 3\\)"),
        (np.zeros((2, 3)), [1], "demo: 2 rows of features but labels of shape \\(1,\\)"),
    ],
)
def test_a_data_set_without_rows_or_with_too_few_labels_is_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        dataset(x, y)


BAD = np.zeros((5, 2, 3))
BAD[3, 1, 2] = np.nan
BAD[4, 0, 0] = np.inf


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (dataset(BAD), {}, "demo: x[3, 1, 2] is nan"),
        (dataset(np.eye(2), [0.5, -np.inf]), {}, "demo: y[1] is -inf"),
        (dataset(np.eye(3), [0, 3, 4]), {"n_classes": 3}, "demo: y[1] is 3; labels of 3 classes"),
        (dataset(np.eye(3), [0, 1, -1]), {"n_classes": 3}, "demo: y[2] is -1;"),
        (dataset(np.eye(2), [0.0, 1.0]), {"n_classes": 2}, "demo: labels must be whole numbers"),
        (dataset(np.eye(2), [[0], [1]]), {"n_classes": 2}, "demo: labels must be whole numbers"),
        (
            dataset(np.eye(2)),
            {"feature_shape": (3,)},
            "demo: features of shape (2,); expected (3,)",
        ),
    ],
)
def test_an_error_names_the_first_bad_value(data, options, message, monkeypatch):
    for nbytes in (1, 100, 2**22):  # in whichever block it is
        monkeypatch.setattr(xpnet.data.dataset, "chunks", _chunks(nbytes))
        with pytest.raises(DataError) as caught:
            check(data, **options)
        assert str(caught.value).startswith(message)


def _chunks(nbytes, original=xpnet.data.dataset.chunks):
    return lambda x: original(x, nbytes)


def test_valid_data_passes_the_check():
    check(dataset(np.zeros((2, 3), np.uint8), [0, 1]), n_classes=2, feature_shape=(3,))
    check(dataset(np.eye(2), [0.5, 1.5]))
    check(dataset(np.eye(2)), n_classes=2)


def test_missing_values_pass_the_check_where_they_are_expected():
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    check(dataset(x), missing=True)
    with pytest.raises(DataError, match=r"x\[1, 0\] is inf"):
        check(dataset([[1.0, np.nan], [np.inf, 3.0]]), missing=True)


def test_weights_have_one_value_for_each_row():
    with pytest.raises(DataError, match=r"2 rows of features but weights of shape \(3,\)"):
        Dataset(np.eye(2), None, None, "demo", weight=np.ones(3))


def test_the_fingerprint_changes_with_anything_but_the_name_and_the_memory_layout():
    x, y = np.arange(12.0).reshape(4, 3), np.arange(4, dtype=np.int32)
    base = Dataset(x, y, ("a", "b"), "demo")
    same = [Dataset(np.asfortranarray(x), y, ("a", "b"), "other")]
    other = [
        Dataset(x.reshape(4, 1, 3), y, ("a", "b"), "demo"),
        Dataset(x.astype("f4"), y, ("a", "b"), "demo"),
        Dataset(x + 1e-15, y, ("a", "b"), "demo"),
        Dataset(x, y[::-1], ("a", "b"), "demo"),
        Dataset(x, y, ("a", "c"), "demo"),
        Dataset(x, None, ("a", "b"), "demo"),
        Dataset(x, y, ("a", "b"), "demo", weight=np.ones(4)),
    ]
    assert {fingerprint(d) for d in same} == {fingerprint(base)}
    assert len({fingerprint(d) for d in [base, *other]}) == len(other) + 1


# --- split


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(3, 60), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    seed=st.integers(0, 2**32),
)
def test_a_stratified_split_holds_each_row_once_and_each_class_in_proportion(sizes, weights, seed):
    y = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    fractions = np.array(weights) / sum(weights)
    parts = split(y, fractions, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(y)))
    for part, fraction in zip(parts, fractions, strict=True):
        assert part.dtype == np.int32
        assert np.all(np.diff(part) > 0)
        counts = np.bincount(y[part], minlength=len(sizes))
        assert counts.min() >= 1
        large = np.array(sizes) * fractions.min() >= 2  # the minimum of one row changes nothing
        if large.all():
            assert np.all(np.abs(counts - fraction * np.array(sizes)) < 2)
            assert abs(len(part) - fraction * len(y)) < 1


def test_part_sizes_are_exact_where_the_fractions_allow_it(rng):
    y = rng.integers(0, 10, 1000).astype(np.int32)
    assert [len(p) for p in split(y, (0.7, 0.2, 0.1), seed=5)] == [700, 200, 100]
    assert [len(p) for p in split(rng.random(1000), (0.7, 0.2, 0.1), seed=5)] == [700, 200, 100]


@pytest.mark.parametrize(("sizes", "expected"), [((22, 7), 1), ((7, 22), 0), ((51, 7), 1)])
def test_the_rarest_class_is_rounded_to_its_own_shares(sizes, expected):
    """Not to what a larger one leaves: .7, .15 and .15 of 7 rows are nearest to 5, 1 and 1."""
    y = np.repeat(np.arange(2), sizes).astype(np.int32)
    parts = split(y, [0.7, 0.15, 0.15], 0)
    assert [int((y[part] == expected).sum()) for part in parts] == [5, 1, 1]


def test_a_split_depends_on_its_seed_alone(rng):
    y = rng.integers(0, 3, 90).astype(np.int32)
    a, b, c = (split(y, (0.8, 0.2), seed)[1].tolist() for seed in (0, 0, 1))
    assert a == b
    assert a != c


def test_a_class_too_small_for_every_part_stays_in_training_and_is_named():
    y = np.array([0] * 9 + [7] * 2 + [3] + [5] * 3, np.int32)
    parts = split(y, (0.5, 0.25, 0.25), seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(y)))
    assert {9, 10, 11} <= {*parts[0].tolist()}
    assert [int((y[part] == 5).sum()) for part in parts] == [1, 1, 1]
    others = np.delete(np.arange(len(y)), [9, 10, 11])
    without = split(y[others], (0.5, 0.25, 0.25), seed=0)
    assert [len(p) for p in parts[1:]] == [len(p) for p in without[1:]]
    said = "too few rows to divide, so they are all in the training rows: "
    assert rare_classes(y, 3) == (said + "class 3 (1), class 7 (2)",)
    names = ("aster", "b", "c", "rose", "e", "f", "g", "tulip")
    assert rare_classes(y, 3, names) == (said + "'rose' (1), 'tulip' (2)",)
    assert rare_classes(y, 2, names) == (said + "'rose' (1)",)
    assert rare_classes(y, 1) == rare_classes(y.astype(float), 3) == ()
    assert len(split(y, (0.5, 0.25, 0.25), seed=0, stratify=False)) == 3


def test_classes_that_are_all_too_small_are_refused():
    y = np.repeat(np.arange(3, dtype=np.int32), [2, 1, 2])
    with pytest.raises(
        DataError, match=r"no class has a row for each of 3 parts: .*'u' with 2"
    ) as e:
        split(y, (0.5, 0.25, 0.25), seed=0, classes=("u", "v", "w"))
    assert str(e.value).endswith(": add rows, or pass stratify=False")
    assert e.value.at_command_line.endswith(": add rows, or --set data.stratify=false")


def test_fewer_rows_than_parts_are_refused():
    with pytest.raises(DataError, match="1 rows cannot be split into 2 parts"):
        split(np.array([0.5]), (0.9, 0.1), seed=0)


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.5, -0.5), (1.0, 0.0), (), (np.nan, 1)])
def test_fractions_that_do_not_add_up_are_refused(fractions):
    with pytest.raises(ConfigError, match="add up to 1; got"):
        split(np.arange(10), fractions, seed=0)


# --- scaling


@pytest.mark.parametrize("shape", [(50, 4), (50, 2, 3)])
@pytest.mark.parametrize("kind", SCALINGS)
def test_each_scaling_agrees_with_its_definition(rng, kind, shape):
    x = rng.normal(3, 5, shape)
    low, median, high = np.quantile(x, (0.25, 0.5, 0.75), axis=0)
    z = (x - median) / (high - low)
    expected = {
        "standard": (x - x.mean(axis=0)) / x.std(axis=0),
        "minmax": (x - x.min(axis=0)) / (x.max(axis=0) - x.min(axis=0)),
        "max": x / np.abs(x).max(),
        "none": x,
        "robust": z / np.sqrt(1 + (z / 3) ** 2),
    }[kind]
    got = fit_scaler(kind, x).apply(x, "float64")
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    assert fit_scaler(kind, x).apply(x).dtype == np.float32


def test_large_offsets_do_not_cause_cancellation():
    x = (1e9 + np.arange(1000.0))[:, None]
    z = fit_scaler("standard", x).apply(x)
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("value", [0.1, 0.0, -7.0])
def test_a_constant_feature_stays_finite_and_is_not_magnified(kind, value):
    x = np.full((77, 1), value)
    got = fit_scaler(kind, x).apply(x)
    assert np.all(np.abs(got) <= max(1, abs(value)))
    if kind in ("standard", "minmax"):
        np.testing.assert_allclose(got, 0, rtol=0, atol=1e-6)


def test_unsigned_bytes_do_not_wrap_around():
    x = np.array([[0, 255], [200, 3]], np.uint8)
    assert fit_scaler("max", x).scale == 255
    np.testing.assert_allclose(fit_scaler("minmax", x).apply(x), [[0, 1], [1, 0]])
    assert fit_scaler("max", np.array([[-128, 3]], np.int8)).scale == 128


def test_a_saved_scaler_is_restored(rng):
    x = rng.random((9, 3))
    for kind in SCALINGS:
        scaler = fit_scaler(kind, x)
        again = Scaler.from_tensors({**scaler.tensors(), "other": x})
        np.testing.assert_array_equal(again.apply(x), scaler.apply(x))


def test_a_damaged_or_missing_scaler_is_an_error():
    good = fit_scaler("minmax", np.eye(2)).tensors()
    with pytest.raises(CheckpointError, match=r"no tensor 'scaler\.scale'"):
        Scaler.from_tensors({"scaler.shift": good["scaler.shift"]})
    for bad in (
        {"scaler.scale": np.zeros(2)},
        {"scaler.shift": np.full(2, np.nan)},
        {"scaler.shift": np.zeros(3)},
        {"scaler.clip": np.zeros(())},
        {"scaler.clip": np.ones(2)},
    ):
        with pytest.raises(CheckpointError, match="damaged scaler"):
            Scaler.from_tensors({**good, **bad})


def test_values_that_overflow_after_scaling_are_refused():
    with pytest.raises(DataError, match="too large for float32 after scaling: use") as caught:
        fit_scaler("none", np.eye(2)).apply(np.full((1, 2), 1e300))
    assert caught.value.at_command_line.endswith(
        ": --set data.scaling=standard, or --set dtype=float64"
    )
    for kind in ("standard", "minmax", "robust"):
        with pytest.raises(DataError, match=r"features up to 1\.7e\+308 are too large"):
            fit_scaler(kind, np.array([[1.7e308], [-1.7e308]]))
    with pytest.raises(
        DataError, match=r"features of shape \(3,\); the scaler was fitted to \(2,\)"
    ):
        fit_scaler("minmax", np.eye(2)).apply(np.eye(3))
    with pytest.raises(ConfigError, match="unknown scaling 'minmaxx'; did you mean 'minmax'"):
        fit_scaler("minmaxx", np.eye(2))


def test_a_data_set_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset(np.eye(2)).name = "x"
