"""Readers: what they return, and the file and location that every error names."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xpnet.data.files
from xpnet.data import Dataset, open_rows, read, read_idx, scan
from xpnet.errors import DataError


def idx_bytes(array):
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    head = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim])
    return (
        head
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


def npy_bytes(array, **kwargs):
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


def npz_bytes(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def fails(path, where, **kwargs):
    """Check that the one-line error of reading starts with the file and `where`; return it."""
    with pytest.raises(DataError) as caught:
        read(path, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"{path}{where}"), message
    assert "\n" not in message
    return message


# --- paths


def test_a_missing_file_suggests_a_similar_name(write):
    path = write("train.csv", "1,2\n")
    assert "did you mean 'train.csv'?" in fails(path.with_name("trian.csv"), ": no such file")


def test_a_missing_folder_is_named(tmp_path):
    assert str(tmp_path / "no") in fails(tmp_path / "no" / "a.csv", ": no such file; the folder")


def test_a_folder_is_not_a_file(tmp_path):
    fails(tmp_path, ": is a folder")


def test_an_unknown_suffix_lists_the_known_ones(write):
    assert ".parquet" in fails(write("a.xlsx", "x"), ": unknown format")


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.npz", "a.idx", "a.idx.gz", "a.parquet"])
def test_a_file_without_permission_is_named(write, name, monkeypatch):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = write(name, "x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    monkeypatch.setattr(gzip, "open", refuse)
    fails(path, ": cannot be read: Permission denied")


# --- IDX


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_idx_arrays_of_every_dtype_come_back_in_native_order(write, rng, dtype, suffix):
    array = rng.integers(0, 100, (5, 2, 3)).astype(dtype)
    raw = idx_bytes(array)
    got = read_idx(write("a.idx" + suffix, gzip.compress(raw, mtime=0) if suffix else raw))
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_idx_labels_are_found_beside_the_images(write, rng):
    x = rng.integers(0, 255, (6, 4, 4)).astype(np.uint8)
    y = np.array([7, 3, 3, 7, 3, 7], np.uint8)
    images = write("t-images-idx3-ubyte.gz", gzip.compress(idx_bytes(x)))
    fails(images, ": no file of labels (t-labels-idx1-ubyte.gz)")
    labels = write("t-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(y)))
    got = read(images)
    np.testing.assert_array_equal(got.x, x)
    assert (got.y.tolist(), got.classes) == ([1, 0, 0, 1, 0, 1], ("3", "7"))
    assert read(images, label=None).y is None
    write("t-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(y[:4])))
    with pytest.raises(DataError, match=f"{labels.name}: labels of shape \\(4,\\) for the 6 rows"):
        read(images)


GOOD_IDX = idx_bytes(np.arange(24, dtype=np.uint8).reshape(4, 6))


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", ": byte 0: not an IDX file"),
        (b"\0\0\7\1", ": byte 0: not an IDX file"),
        (b"PK\3\4", ": byte 0: not an IDX file; it starts with 50 4b 03 04"),
        (b"\0\0\x08\0", ": byte 3: 0 dimensions"),
        (b"\0\0\x08\2\0\0", ": byte 3: 2 dimensions"),
        (b"\0\0\x08\1\0\0\0\0", ": byte 3: 1 dimensions of (0,)"),
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255, ": byte 3: 255 dimensions"),
        (b"\0\0\x0e\3" + b"\xff" * 12, ": its header declares"),
        (GOOD_IDX[:-1], ": its header declares 24 bytes but it holds fewer"),
        (GOOD_IDX + b"\0", ": its header declares 24 bytes but it holds 25"),
    ],
)
def test_a_damaged_idx_file_is_named(write, content, where):
    fails(write("a.idx", content), where, label=None)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"not gzip", ": cannot be read: Not a gzipped file"),
        (gzip.compress(GOOD_IDX, mtime=0)[:-9], ": cannot be read: Compressed file ended"),
        (gzip.compress(GOOD_IDX, mtime=0)[:-8] + b"\0" * 8, ": cannot be read: CRC check failed"),
        (gzip.compress(GOOD_IDX[:-1], mtime=0), ": its header declares 24 bytes but it holds 23"),
        (gzip.compress(GOOD_IDX + b"\0", mtime=0), ": it holds more than the 24 bytes"),
        (gzip.compress(b"\0\0\x08\2" + b"\xff" * 8, mtime=0), ": its header declares 1844"),
    ],
)
def test_a_damaged_gzipped_idx_file_is_named(write, content, where):
    fails(write("a.idx.gz", content), where, label=None)


def test_an_array_above_the_limit_is_refused_before_it_is_read(write, monkeypatch):
    monkeypatch.setattr(xpnet.data.files, "MAX_BYTES", 20)
    fails(write("a.idx", GOOD_IDX), ": 24 bytes are more than the 20", label=None)
    for text, message in (
        ("1," + "2" * 20, ": more than 20 bytes"),
        ("1,2\n" * 4, ": its values take more than 20 bytes"),
        ('1,"2\n"\n' * 2, ": its values take more than 20 bytes"),
    ):
        fails(write("a.csv", text), message)
        fails(write("a.csv.gz", gzip.compress(text.encode())), message)


# --- NPZ and NPY


@pytest.mark.parametrize(
    ("x_key", "y_key"), [("x", "y"), ("X", "labels"), ("data", "target"), ("features", "label")]
)
def test_npz_arrays_are_found_by_their_usual_names(write, x_key, y_key):
    x, y = np.arange(8, dtype=np.uint8).reshape(4, 2), np.array(["b", "a", "a", "b"])
    got = read(write("a.npz", npz_bytes(**{x_key: x, y_key: y})))
    np.testing.assert_array_equal(got.x, x)
    assert got.x.dtype == np.uint8
    assert got.y.dtype == np.int32
    assert (got.y.tolist(), got.classes, got.name) == ([1, 0, 0, 1], ("a", "b"), "a")


def test_npz_labels_may_have_any_name_and_may_be_omitted(write):
    path = write("a.npz", npz_bytes(x=np.eye(3), digit=np.arange(3)))
    message = fails(path, ": no array of labels")
    assert message.endswith("it holds 'x', 'digit': pass label=\"NAME\"")
    assert read(path, label="digit").classes == ("0", "1", "2")
    assert read(path, label=None).y is None


@pytest.mark.parametrize("code", [0x110000, 0xD800, 0xFFFFFFFF])
@pytest.mark.parametrize("order", "<>")
def test_a_text_that_python_cannot_have_is_refused(write, code, order):
    labels = np.array(["ab", "cd"], f"{order}U2")
    labels.view(f"{order}u4")[3] = code
    write("y.npy", npy_bytes(labels))
    path = write("x.npy", npy_bytes(np.eye(2)))
    with pytest.raises(DataError, match=rf"y\.npy: a text holds {code:#x}, which is no character"):
        read(path, label="y.npy")
    with pytest.raises(DataError, match=rf"y\.npy: a text holds {code:#x}, which is no character"):
        scan(open_rows(path, "y.npy"))


def test_npy_labels_are_its_last_column(write):
    table = np.asfortranarray([[0.5, 1.0, 7.0], [1.5, 2.0, 3.0]])
    path = write("a.npy", npy_bytes(table))
    got = read(path)
    np.testing.assert_array_equal(got.x, table[:, :2])
    assert (got.y.tolist(), got.classes) == ([1, 0], ("3", "7"))
    np.testing.assert_array_equal(read(path, label=None).x, table)
    assert read(path, label=1, task="regression").y.tolist() == [1.0, 2.0]
    fails(path, ": no column 3; its 3 columns are 0 to 2", label=3)
    fails(path, ": no column 'digit'; it has no header", label="digit")


def test_big_endian_bool_and_half_features_get_native_dtypes(write):
    for dtype, expected in ((">f4", "<f4"), (">i8", "<i8"), ("?", "u1"), ("f2", "<f2")):
        got = read(write("a.npy", npy_bytes(np.ones((2, 3), dtype))), label=None)
        assert got.x.dtype == np.dtype(expected)


OBJECTS = npy_bytes(np.array([[{}, 1]], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", ": not in NumPy's .npy format"),
        (b"\x93NUMPY\1\0\5\0{'a':", ": not in NumPy's .npy format"),
        (b"\x93NUMPY\x09\0" + b"\0" * 20, ": not in NumPy's .npy format"),
        (OBJECTS, ": an array of Python objects"),
        (npy_bytes(np.zeros((2, 2), complex)), ": holds complex128"),
        (npy_bytes(np.zeros(3, "V4")), ": holds"),
        (npy_bytes(np.zeros((0, 2))), ": holds float64 of shape (0, 2)"),
        (npy_bytes(np.zeros(3)), ": features must be (rows, features...); got shape (3,)"),
        (npy_bytes(np.array([["a"]])), ": features must be real numbers"),
        (npy_bytes(np.eye(2))[:-1], ": its header declares 32 bytes but it holds fewer"),
        (npy_bytes(np.eye(2)) + b"\0", ": its header declares 32 bytes but it holds 33"),
        (npy_bytes(np.eye(2)).replace(b"(2, 2)", b"(2,-2)"), ": not in NumPy's .npy format"),
        (npy_bytes(np.zeros((2, 2, 2))), ": an array of shape (2, 2, 2) has no label column"),
        (npy_bytes(np.array([[1, 2], [1, np.nan]])), ": row 1: label 'nan' is missing"),
        (npy_bytes(np.array([[1, 2], [1, np.inf]])), ": row 1: label 'inf' is not a whole"),
    ],
)
def test_a_damaged_npy_file_is_named(write, content, where):
    fails(write("a.npy", content), where)


def test_a_feature_that_is_not_finite_is_named_in_every_format(write, tmp_path):
    x = np.array([[0.0, 1.0], [np.inf, 2.0], [3.0, np.nan]])
    fails(write("a.npy", npy_bytes(x)), ": row 1, feature 0: inf is not a finite", label=None)
    path = write("a.npz", npz_bytes(x=x[[0, 2]], y=np.arange(2)))
    fails(path, "[y]: row 1, feature 1: nan is not a finite number")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = {"p": x[:, 0], "q": x[:, 1], "y": ["a", "b", "a"]}
    fails(parquet(tmp_path / "a.parquet", table), ": row 1, column 0 ('p'): 'inf' is not a finite")


def test_the_declared_length_of_a_header_is_not_trusted(write, monkeypatch):
    """NumPy would read as many bytes as the header declares: 4 GiB for a file of 20 bytes."""
    sizes = []
    path = write("a.npy", b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{'descr'")
    opened = type(path).open

    def watched(self, *args):
        file = opened(self, *args)
        read = file.read

        class Watched(io.BufferedReader):
            def read(self, size=-1):
                sizes.append(size)
                return read(size)

        return Watched(file.raw)

    monkeypatch.setattr(type(path), "open", watched)
    fails(path, ": not in NumPy's .npy format: EOF")
    assert 0 < max(sizes) <= 2**16


def bomb(name="x.npy"):
    """Return a zip file with a member that declares a terabyte."""
    header = npy_bytes(np.zeros((1, 1), np.uint8)).replace(b"(1, 1)", b"(1048576, 1048576)")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, header)
        archive.writestr("y.npy", npy_bytes(np.arange(2)))
    return file.getvalue()


def lzma_npz():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy_bytes(np.eye(2)))
        archive.writestr("y.npy", npy_bytes(np.arange(2)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", ": not an .npz archive: File is not a zip file"),
        (npz_bytes(x=np.eye(2), y=np.arange(2))[:-30], ": not an .npz archive"),
        (npz_bytes(y=np.eye(2)), ": no array of features (any of x, data, features, images,"),
        (npz_bytes(x=np.eye(2), y=np.arange(3)), "[y]: labels of shape (3,) for 2 rows"),
        (npz_bytes(x=np.eye(2), y=np.array([["a"] * 2] * 2)), "[y]: row 0: regression targets"),
        (npz_bytes(x=np.eye(2), y=np.array(["a", " "])), "[y]: row 1: label '' is missing"),
        (npz_bytes(x=np.array(["a"]), y=np.arange(1)), "[x]: features must be real numbers"),
        (bomb(), "[x]: its header declares 1099511627776 bytes"),
        (lzma_npz(), "[x]: encrypted, or compressed in another way than np.savez_compressed"),
    ],
)
def test_a_damaged_npz_file_is_named(write, content, where):
    fails(write("a.npz", content), where)


def test_a_class_that_is_a_fraction_is_named(write):
    task = {"task": "classification"}
    path = write("a.npy", npy_bytes(np.array([[1, 2], [1, 0.5]])))
    fails(path, ": row 1: label '0.5' is not a whole number", **task)
    path = write("a.npz", npz_bytes(x=np.eye(2), y=np.array([1.0, 1.5])))
    fails(path, "[y]: row 1: label '1.5' is not a whole number", **task)
    path = write("b.npz", npz_bytes(x=np.eye(2), y=np.ones((2, 2))))
    fails(path, "[y]: row 0: class labels must be (N,)", **task)


def test_a_pickle_in_an_npz_file_is_never_loaded(write):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", OBJECTS)
    fails(write("a.npz", file.getvalue()), "[x]: an array of Python objects", label=None)


# --- labels


def test_labels_are_looked_up_among_known_classes(write):
    path = write("a.csv", "x,label\n1,cat\n2,ant\n\n3,dog\n")
    assert read(path, classes=("dog", "cat", "ant")).y.tolist() == [1, 2, 0]
    message = fails(path, ": line 5: label 'dog' is not among the 2 known", classes=("cat", "ant"))
    assert message.endswith("('cat', 'ant')")
    path = write("b.csv", "1,2\n3,0.5\n")
    message = fails(path, ": line 2: label '0.5' is not a whole number", classes=("2", "3"))
    assert "regression" not in message  # the model knows


def test_whole_numbers_are_sorted_as_numbers_and_recognised_in_any_spelling(write):
    got = read(write("a.csv", "0,10\n0,2\n0,10\n"))
    assert (got.classes, got.y.tolist()) == (("2", "10"), [1, 0, 1])
    again = read(write("b.csv", "0,10.0\n0,2e0\n"), classes=got.classes)
    assert again.y.tolist() == [1, 0]


def test_regression_targets_are_float64(write):
    got = read(write("a.csv", "a,y\n1,0.5\n2,3\n"), task="regression")
    assert got.y.dtype == np.float64
    assert (got.y.tolist(), got.classes) == ([0.5, 3.0], None)
    two = read(write("a.npz", npz_bytes(x=np.eye(2), y=np.eye(2))), task="regression")
    assert two.y.shape == (2, 2)
    fails(write("b.csv", "1,2\n1,x\n"), ": line 2: target 'x' is not a", task="regression")
    bad = npz_bytes(x=np.eye(2), y=np.array([[1, 2], [np.inf, 2]]))
    fails(write("b.npz", bad), "[y]: row 1: target", task="regression")
    fails(
        write("c.npz", npz_bytes(x=np.eye(1), y=np.array([["a", "b"]]))),
        "[y]: row 0: regression targets",
        task="regression",
    )


# --- Parquet


def parquet(path, table):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    return path


def test_parquet_columns_become_features_and_labels(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    columns = {"class": ["b", "a"], "p": np.array([1, 2], np.uint8), "q": np.array([3, 4], "u1")}
    got = read(parquet(tmp_path / "a.parquet", columns))
    assert got.x.dtype == np.uint8
    assert (got.x.tolist(), got.y.tolist(), got.classes) == ([[1, 3], [2, 4]], [1, 0], ("a", "b"))
    assert got.feature_names == ("p", "q")


def test_an_unsuitable_parquet_file_is_named(tmp_path, write):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / "b.parquet"
    left = ": no column is left to learn from: p"
    fails(parquet(path, {"p": [[1], [2]], "y": [1, 2]}), left)
    fails(parquet(path, {"p": [{"a": 1, "b": 1}], "y": [1]}), left)
    fails(parquet(path, {"p": pa.array([], "f8"), "y": pa.array([], "i4")}), ": 0 rows")
    fails(parquet(path, {"y": [1, 2]}), ": its only column is the label")
    fails(parquet(path, {"p": [1, 2], "y": [1, 2]}), ": no column 'z'", label="z")
    twice = pa.Table.from_arrays([pa.array([1])] * 3, names=["a", "a", "y"])
    fails(parquet(path, twice), ": line 1: several columns are named 'a'", label="a")
    fails(write("c.parquet", b"PAR1 no PAR1"), ": cannot be read as a Parquet file")


def test_parquet_labels_of_every_type_are_read_or_refused(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    features = {"p": [1.0, 2.0]}
    path = tmp_path / "c.parquet"
    for values in (["u", "v"], [b"u", b"v"], pa.array(["u", "v"]).dictionary_encode()):
        assert read(parquet(path, features | {"y": values})).classes == ("u", "v")
    assert read(parquet(path, features | {"y": [True, False]})).y.tolist() == [1, 0]
    for values in ([[1], [2]], [{"a": 1}, {"a": 2}], pa.array([1, 2], pa.timestamp("s"))):
        where = ": row 0, column 1 ('y'): labels must be numbers or texts"
        fails(parquet(path, features | {"y": values}), where)
    many = pa.array(["u"] * 100_000 + ["v"])
    got = read(parquet(path, {"p": np.zeros(100_001, np.uint8), "y": many}))
    assert (got.y[-2:].tolist(), len(got)) == ([0, 1], 100_001)


# --- fuzz: changed, lost and inserted bytes give a data set or a DataError, nothing else

CSV = b'a,b,class\r\n1,2.5,x\r\n-3,4e2,"y"\r\n5,6,x\r\n'
SEEDS = {
    "f.idx": [GOOD_IDX],
    "f.idx.gz": [gzip.compress(GOOD_IDX, mtime=0)],
    "f.npy": [npy_bytes(np.eye(3)), OBJECTS, npy_bytes(np.array([["a", "b"]]))],
    "f.npz": [npz_bytes(x=np.eye(3), y=np.arange(3)), bomb()],
    "f.csv": [CSV, b"1,2,3\n4,5,6\n", b"\xef\xbb\xbf1;2\n3;4\n", b'1,"a\nb"\n2,c\n'],
    "f.csv.gz": [gzip.compress(CSV, mtime=0)],
}
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2000),
        st.sampled_from(["set", "cut", "insert", "end"]),
        st.one_of(
            st.binary(min_size=1, max_size=3),
            st.sampled_from([b",", b"\n", b'"', b"nan", b"9" * 20, b"\0", b"-", b"\xff" * 4, b"("]),
        ),
    ),
    max_size=4,
)


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data(), edits=EDITS, label=st.sampled_from(["auto", None, 0]))
def test_damaged_bytes_give_a_data_set_or_a_data_error(tmp_path_factory, name, data, edits, label):
    content = data.draw(st.sampled_from(SEEDS[name]))
    for position, edit, new in edits:
        i = position % (len(content) + 1)
        if edit == "set":
            content = content[:i] + new + content[i + len(new) :]
        elif edit == "cut":
            content = content[:i] + content[i + len(new) :]
        elif edit == "insert":
            content = content[:i] + new + content[i:]
        else:
            content = content[:i]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        result = read(path, label=label)
    except DataError as error:
        result = str(error)
    if isinstance(result, str):
        assert str(path.parent) in result
        assert "\n" not in result
    else:
        assert isinstance(result, Dataset)
