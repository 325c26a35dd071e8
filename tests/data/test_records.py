"""Structured arrays and arrays of objects become tables: columns of the right names and types."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xpnet.data import read
from xpnet.data.records import structured_table
from xpnet.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

ROWS = np.array(
    [
        (1.5, 7, "ant", b"x", True, "2024-05-01", (1, 2), (0.5, -1)),
        (np.nan, -3, "", b"\xc3\xa9", False, "NaT", (3, 4), (0.25, 1)),
    ],
    [
        ("length", ">f4"),
        ("größe", "i2"),
        ("kind", "U5"),
        ("code", "S3"),
        ("grown", "?"),
        ("born", "M8[D]"),
        ("at", "<i8", (2,)),
        ("in", [("x", "f2"), ("y", "i1")]),
    ],
)


def test_each_field_is_a_column_of_its_type():
    table = structured_table(ROWS)
    assert table.to_pydict() == {
        "length": [1.5, None],
        "größe": [7, -3],
        "kind": ["ant", None],
        "code": ["x", "é"],
        "grown": [True, False],
        "born": [__import__("datetime").datetime(2024, 5, 1), None],
        "at[0]": [1, 3],
        "at[1]": [2, 4],
        "in.x": [0.5, 0.25],
        "in.y": [-1, 1],
    }
    types = ["float", "int16", "string", "string", "bool", "timestamp[us]", "int64", "int64"]
    assert [str(column.type) for column in table.columns] == [*types, "double", "int8"]


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(
    array=arrays.array_dtypes(
        st.one_of(
            arrays.integer_dtypes(endianness="?"),
            arrays.unsigned_integer_dtypes(endianness="?"),
            arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
            arrays.boolean_dtypes(),
            arrays.unicode_string_dtypes(max_len=4),
        ),
        max_size=3,
    ).flatmap(lambda dtype: arrays.arrays(dtype, st.integers(1, 5))),
)
def test_values_are_those_of_numpy(array):
    texts = "".join(str(value) for name in array.dtype.names for value in array[name].flat)
    if any("\ud800" <= letter <= "\udfff" for letter in texts):
        with pytest.raises(DataError, match="which is no character"):
            structured_table(array)
        return
    table = structured_table(array)
    named = dict(zip(table.schema.names, table.columns, strict=True))
    for name in array.dtype.names:
        values = array[name]
        if values.ndim > 1:
            continue
        for given_value, got in zip(values.tolist(), named[name].to_pylist(), strict=True):
            missing = given_value != given_value
            text = isinstance(given_value, str) and got is None
            assert got == given_value or (got is None and (missing or text))


def test_a_structured_file_is_read_by_the_names_of_its_fields(tmp_path):
    rows = np.empty(60, [("species", "U6"), ("size", "f8"), ("colour", "U5"), ("größe", "i4")])
    rows["species"] = ["ant", "beetle", "cicada"] * 20
    rows["size"] = np.linspace(0, 1, 60)
    rows["colour"] = ["red", "green"] * 30
    rows["größe"] = np.arange(60)[::-1] ** 2
    np.save(tmp_path / "a.npy", rows)
    got = read(tmp_path / "a.npy", label="species")
    assert got.classes == ("ant", "beetle", "cicada")
    assert got.y.tolist() == [0, 1, 2] * 20
    assert got.feature_names == ("size", "colour", "größe")
    np.testing.assert_array_equal(got.x[:, 0], rows["size"])
    again = np.empty(2, [("colour", "U5"), ("größe", "i4"), ("size", "f8")])
    again[:] = [("green", 4, 0.5), ("red", 2, 0.25)]
    np.save(tmp_path / "b.npy", again)
    other = read(tmp_path / "b.npy", label=None, like=got.columns)
    assert other.x[:, [0, 2]].tolist() == [[0.5, 4], [0.25, 2]]
    assert other.x[0, 1] == got.x[1, 1] != other.x[1, 1]
    kinds = read(tmp_path / "a.npy", label="species", category=["größe"]).columns
    assert kinds.kinds[2] == "category"
    with pytest.raises(DataError, match=r"a\.npy: no column 'specie'; did you mean 'species'"):
        read(tmp_path / "a.npy", label="specie")


def test_an_array_of_objects_is_a_table(tmp_path):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pd.DataFrame(
        {
            "size": [1.5, np.nan, 2.5] * 10,
            "colour": ["red", "blue", None] * 10,
            "n": [1, 2, 3] * 10,
            "label": ["a", "b", "a"] * 10,
        }
    )
    np.save(tmp_path / "a.npy", frame.to_numpy(), allow_pickle=True)
    got = read(tmp_path / "a.npy")
    assert (got.classes, got.y.tolist()) == (("a", "b"), [0, 1, 0] * 10)
    assert got.columns.kinds[:2] == ("number", "category")
    np.testing.assert_array_equal(got.x[:, 0], frame["size"])
    np.save(tmp_path / "x.npy", frame.drop(columns="label").to_numpy(), allow_pickle=True)
    np.save(tmp_path / "y.npy", frame["label"].to_numpy(object), allow_pickle=True)
    beside = read(tmp_path / "x.npy", label="y.npy")
    np.testing.assert_array_equal(beside.x, got.x)
    assert beside.y.tolist() == got.y.tolist()


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy_bytes(np.zeros(3, [("a", "c8"), ("b", "f4")])), "field 'a': holds complex64; it must"),
        (
            npy_bytes(np.array([("a", 1)], [("a", "U1"), ("b", "i4")])).replace(
                b"a\0\0\0", b"\xff" * 4
            ),
            "field 'a': a text holds 0xffffffff, which is no character",
        ),
        (npy_bytes(np.zeros(3, [("a", "V4"), ("b", "f4")])), "field 'a': holds "),
        (npy_bytes(np.zeros((3, 2), [("a", "f4")])), "records must be (rows,); got shape (3, 2)"),
        (npy_bytes(np.zeros(0, [("a", "f4")])), "of shape (0,); it must hold"),
        (npy_bytes(np.array([(b"\xff", 1)], [("a", "S1"), ("b", "i4")])), "field 'a': a text is"),
        (npy_bytes(np.zeros(3, [("a", "f4"), ("b", "i4")]))[:-1], "it holds fewer"),
        (npy_bytes(np.zeros(3, [("a", "f4"), ("b", "i4")])) + b"x", "it holds 25"),
        (npy_bytes(np.zeros(3, [("a", "f4")])).replace(b"(3,)", b"(9,)"), "it holds fewer"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 65535, "not in NumPy's .npy format"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"-" * 65534 + b"1", "not in NumPy's .npy format"),
        (b"\x93NUMPY\x03\x00\x04\x00\x00\x00" + b"\xff" * 4, "not in NumPy's .npy format"),
    ],
)
def test_records_that_cannot_be_read_are_named(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.npy")
    assert str(caught.value).startswith(f"{tmp_path}/a.npy: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_records_are_no_features_of_an_archive_and_no_labels(tmp_path):
    rows = np.zeros(3, [("a", "f4"), ("b", "i4")])
    np.savez(tmp_path / "a.npz", x=np.eye(3), y=rows)
    with pytest.raises(DataError, match=r"\[y\]: labels must be numbers or texts; got records"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=rows, y=np.arange(3))
    with pytest.raises(DataError, match=r"\[x\]: features must be real numbers; got "):
        read(tmp_path / "a.npz")


def test_a_table_of_many_fields_has_a_long_header(tmp_path):
    rows = np.zeros(30, [(f"feature_{j}", "f4") for j in range(900)] + [("y", "U3")])
    rows["feature_7"] = np.arange(30) % 7
    rows["y"] = ["a", "b", "c"] * 10
    np.save(tmp_path / "a.npy", rows)
    got = read(tmp_path / "a.npy")
    assert (got.classes, got.feature_names) == (("a", "b", "c"), ("feature_7",))
