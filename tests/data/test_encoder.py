"""From raw columns to a model's input, against scikit-learn and pandas."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpnet.data import SCALINGS, Columns, encoder_of, fit_encoder, fit_scaler
from xpnet.data.columns import BOOLEAN
from xpnet.data.cycles import cycle
from xpnet.data.encoder_fit import EncoderStats
from xpnet.errors import CheckpointError, DataError

NAN = np.nan


def columns(**kinds):
    """Columns of these names; a list stands for a category of these levels."""
    levels = [tuple(k) if isinstance(k, list) else () for k in kinds.values()]
    levels = [BOOLEAN if k == "boolean" else v for k, v in zip(kinds.values(), levels, strict=True)]
    return Columns(
        tuple(range(len(kinds))),
        names=tuple(kinds),
        kinds=tuple("category" if isinstance(k, list) else k for k in kinds.values()),
        levels=tuple(levels),
    )


def mixed(rng, rows=200):
    """Two numbers, of which one lacks values, and two categories, of which one does."""
    x = np.column_stack([
        rng.normal(3, 5, rows),
        rng.standard_cauchy(rows),
        rng.integers(0, 4, rows),
        rng.integers(0, 3, rows),
    ])  # fmt: skip
    x[rng.random(rows) < 0.2, 1] = NAN
    x[rng.random(rows) < 0.1, 3] = NAN
    return x, columns(a="number", b="number", c=list("pqrs"), d=list("uvw"))


@pytest.mark.parametrize("scaling", ["standard", "minmax", "robust"])
def test_it_is_the_pipeline_of_scikit_learn(rng, scaling):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler

    x, names = mixed(rng)
    train, later = x[:150], x[150:].copy()
    later[:3, 2], later[3:5, 3], later[5:9, 0] = -1, -1, NAN
    scaler = {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}[scaling]()
    oracle = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(strategy="median"), scaler), [0, 1]),
        ("gaps", make_pipeline(SimpleImputer(strategy="median", add_indicator=True)), [1]),
        ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [2, 3]),
    ])  # fmt: skip
    oracle.fit(train)
    encoder = fit_encoder(train, names, scaling)
    for rows in (train, later):
        expected = np.delete(oracle.transform(rows), 2, axis=1)  # the imputed column itself
        if scaling == "robust":
            z = expected[:, :2]
            expected[:, :2] = z / np.sqrt(1 + (z / 3) ** 2)
        got = encoder.apply(rows, "float64")
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    assert encoder.names == (
        *("a", "b", "b missing", "c=p", "c=q", "c=r", "c=s"),
        *("d=u", "d=v", "d=w", "d missing"),
    )
    assert encoder.unseen(later) == {"c": 3, "d": 2}
    assert encoder.unseen(train) == {}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_without_gaps_are_scaled_bit_for_bit_as_arrays_are(rng, scaling, dtype):
    x = rng.normal(3, 5, (5000, 7))
    encoder = fit_encoder(x, columns(**dict.fromkeys("abcdefg", "number")), scaling)
    np.testing.assert_array_equal(encoder.apply(x, dtype), fit_scaler(scaling, x).apply(x, dtype))
    assert (encoder.output_shape, encoder.embeddings, encoder.names) == ((7,), (), tuple("abcdefg"))
    narrow = x.astype(np.float32)
    encoder = fit_encoder(narrow, Columns(tuple(range(7))), scaling)
    expected = fit_scaler(scaling, narrow).apply(narrow, dtype)
    np.testing.assert_array_equal(encoder.apply(narrow, dtype), expected)


def test_a_gap_that_training_did_not_have_is_the_median_alone():
    x = np.array([[1.0], [2.0], [10.0]])
    encoder = fit_encoder(x, columns(a="number"), "none")
    assert encoder.apply(np.array([[NAN], [7.0]])).tolist() == [[2.0], [7.0]]


def test_two_values_are_minus_one_and_one_and_an_unseen_one_lies_between():
    x = np.array([[0, 1, 0], [1, 0, NAN], [1, 1, 0]], float)
    names = columns(sex=["female", "male"], vip="boolean", deck=["A", "B"])
    encoder = fit_encoder(x, names, "standard")
    assert encoder.names == ("sex=male", "vip=True", "deck missing")
    assert encoder.apply(x).tolist() == [[-1, 1, -1], [1, -1, 1], [1, 1, -1]]
    later = np.array([[-1, NAN, 1], [NAN, -1, NAN]])  # B of deck is no value of the training rows
    assert encoder.apply(later).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert encoder.unseen(later) == {"sex": 1, "vip": 1, "deck": 1}


def test_a_stream_counts_the_unseen_values_that_rows_in_memory_have():
    names = columns(sex=["female", "male"], deck=["A", "B", "C"])
    encoder = fit_encoder(np.array([[0, 0], [1, 1], [1, 0.0]]), names, "standard")
    later = np.array([[NAN, 2], [-1, NAN], [0, 1], [1, -1], [NAN, 2]])
    stats = EncoderStats(names, seed=0)
    for block in np.split(later, [2]):
        stats.add(block)
    assert stats.unseen(encoder) == encoder.unseen(later) == {"sex": 1, "deck": 3}


def test_many_values_are_codes_for_an_embedding(rng):
    levels = [f"city {k}" for k in range(100)]
    x = np.column_stack([np.arange(80) % 40, np.arange(80) % 3, rng.normal(size=80)])
    x[5, 0] = NAN
    encoder = fit_encoder(x, columns(city=levels, kind=list("abc"), size="number"), "standard")
    assert encoder.names == ("size", "kind=a", "kind=b", "kind=c", "city")
    assert encoder.embeddings == (42,)  # 40 values, those that are missing, and those not seen
    codes = encoder.apply(np.array([[0, 0, 0], [39, 0, 0], [NAN, 0, 0], [40, 0, 0], [-1, 0, 0]]))
    assert codes[:, -1].tolist() == [1, 40, 41, 0, 0]
    assert encoder.unseen(np.array([[40, 0, 0], [NAN, 0, 0.0]])) == {"city": 1}
    few = fit_encoder(x, columns(city=levels, kind=list("abc"), size="number"), "none", one_hot=2)
    assert few.embeddings == (42, 4)
    assert few.names == ("size", "city", "kind")


def test_codes_that_a_narrow_dtype_cannot_tell_apart_are_refused():
    x = np.arange(3000.0)[:, None]
    encoder = fit_encoder(x, columns(word=[str(k) for k in range(3000)]), "none")
    assert len(np.unique(encoder.apply(x))) == 3000
    with pytest.raises(DataError, match="3,001 values of a category are too many for float16"):
        encoder.apply(x, "float16")


def test_the_day_of_the_year_is_numpys_on_every_day_of_the_calendar():
    dates = np.arange("0001-01-01", "9999-12-31", dtype="datetime64[D]")
    day = (dates - dates.astype("datetime64[Y]")).astype(np.float64)
    found = cycle("day of year", dates.astype(np.int64)[:, None] * 86_400.0)
    angle = 2 * np.pi * day / 365.25
    np.testing.assert_allclose(found[:, 0], np.sin(angle), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[:, 1], np.cos(angle), rtol=0, atol=1e-12)


def test_dates_are_scaled_seconds_and_the_cycles_in_which_they_vary():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")

    dates = pd.date_range("2019-12-25 06:00", periods=300, freq="31h").to_series()
    seconds = dates.to_numpy().astype("datetime64[s]").astype(np.float64)
    x = seconds[:, None]
    encoder = fit_encoder(x, columns(when="date"), "standard")
    got = encoder.apply(x, "float64")
    np.testing.assert_allclose(
        got[:, 0], (seconds - seconds.mean()) / seconds.std(), rtol=0, atol=1e-9
    )
    turns = {
        "day of week": dates.dt.day_of_week / 7,
        "day of year": (dates.dt.day_of_year - 1) / 365.25,
        "time of day": dates.dt.hour / 24,
    }
    for k, (name, turn) in enumerate(turns.items()):
        assert encoder.names[1 + 2 * k : 3 + 2 * k] == (f"when: {name} sin", f"when: {name} cos")
        angle = 2 * np.pi * turn.to_numpy()
        np.testing.assert_allclose(got[:, 1 + 2 * k], np.sin(angle), rtol=0, atol=1e-9)
        np.testing.assert_allclose(got[:, 2 + 2 * k], np.cos(angle), rtol=0, atol=1e-9)
    gap = encoder.apply(np.array([[NAN]]))
    assert np.isfinite(gap).all()
    assert gap[0, 1:].tolist() == [0] * 6
    days = np.arange(5.0)[:, None] * 7 * 86400
    days[3] = NAN
    encoder = fit_encoder(days, columns(when="date"), "none")
    assert encoder.names == (
        "when",
        "when missing",
        "when: day of year sin",
        "when: day of year cos",
    )
    assert np.abs(encoder.apply(days)).max() < 2  # not the 2,419,200 seconds


def test_dates_do_not_dwarf_numbers_of_a_common_scale():
    x = np.column_stack([[0.0, 4.0, 2.0], [1e9, 1.1e9, 1.2e9]])
    encoder = fit_encoder(x, columns(a="number", when="date"), "max")
    assert encoder.apply(x)[:, 0].tolist() == [0, 1, 0.5]


def test_robust_scaling_is_that_of_the_paper(rng):
    x = rng.standard_cauchy((101, 3))
    x[:, 1] = np.where(np.arange(101) < 90, 5.0, rng.normal(5, 1, 101))  # equal quartiles
    x[:, 2] = 7
    low, median, high = np.quantile(x, (0.25, 0.5, 0.75), axis=0)
    scale = high - low
    scale[1] = 0.5 * (x[:, 1].max() - x[:, 1].min())
    z = (x - median) / np.where(scale == 0, np.inf, scale)
    encoder = fit_encoder(x, columns(a="number", b="number", c="number"), "robust")
    got = encoder.apply(x, "float64")
    np.testing.assert_allclose(got, z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-12)
    assert np.abs(got).max() < 3
    assert not got[:, 2].any()
    assert not encoder.apply(np.full((1, 3), 1e9))[:, 2].any()
    assert np.abs(encoder.apply(np.array([[1e300, -1e300, 1e300]]))).max() <= 3


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_input_is_finite_whatever_a_later_row_holds(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, names = mixed(rng, 60)
    encoder = fit_encoder(x, names, data.draw(st.sampled_from(SCALINGS)))
    number = st.one_of(st.just(NAN), st.floats(-1e6, 1e6))
    code = st.sampled_from([NAN, -1.0, 0.0, 1.0, 2.0, 3.0, 99.0, 0.5])
    row = [data.draw(number), data.draw(number), data.draw(code), data.draw(code)]
    got = encoder.apply(np.array([row]), "float64")
    assert np.isfinite(got).all()
    again = encoder_of(json.loads(json.dumps(encoder.meta())), encoder.tensors())
    np.testing.assert_array_equal(again.apply(np.array([row]), "float64"), got)
    assert (again.names, again.embeddings) == (encoder.names, encoder.embeddings)
    assert again.unseen(np.array([row])) == encoder.unseen(np.array([row]))


def test_rows_of_another_shape_and_values_out_of_range_are_refused(rng):
    x, names = mixed(rng)
    encoder = fit_encoder(x, names, "none")
    with pytest.raises(DataError, match=r"features of shape \(3,\); the encoder was fitted to"):
        encoder.apply(x[:, :3])
    x[0, 0] = 1e300
    with pytest.raises(DataError, match="too large for float32 after scaling"):
        encoder.apply(x)
    with pytest.raises(DataError, match="no column varies in the training rows"):
        fit_encoder(np.zeros((3, 1)), columns(c=list("pq")), "none")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("features", 2),
        ("numbers", [0, 7]),
        ("numbers", [0]),
        ("missing", ["b"]),
        ("cycles", [[0, "day of month"]]),
        ("cycles", [[0, "day of week"]]),
        ("categories", None),
        ("categories", []),
        ("categories", [{"name": "c"}]),
        ("categories", [{"name": "c", "feature": 2, "size": 2**40, "codes": [0, 1], "way": "two"}]),
        ("categories", [{"name": "c", "feature": 2, "size": 4, "codes": [0, 9], "way": "two"}]),
        ("categories", [{"name": "c", "feature": 2, "size": 4, "codes": [0], "way": "two"}]),
        ("categories", [{"name": "c", "feature": 2, "size": 4, "codes": [0, 1], "way": "three"}]),
        ("names", ["a"]),
        ("names", 3),
    ],
)
def test_an_encoder_that_makes_no_sense_is_refused(rng, key, value):
    encoder = fit_encoder(*mixed(rng), "standard")
    with pytest.raises(CheckpointError, match="the checkpoint's encoder is invalid"):
        encoder_of({**encoder.meta(), key: value}, encoder.tensors())


@pytest.mark.parametrize("name", ["encoder.fill", "scaler.shift"])
def test_tensors_that_do_not_fit_are_refused(rng, name):
    encoder = fit_encoder(*mixed(rng), "standard")
    tensors = encoder.tensors()
    for value in (None, np.zeros(9), np.full(2, NAN)):
        bad = {k: v for k, v in tensors.items() if k != name}
        bad |= {} if value is None else {name: value}
        with pytest.raises(CheckpointError):
            encoder_of(encoder.meta(), bad)
