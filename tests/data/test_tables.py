"""Tables of every format: the same columns whatever holds them, and damage is an error."""

import bz2
import datetime as dt
import gzip
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpnet.data import files
from xpnet.data.tables import TextFormat, is_table, of_arrow, open_table, read_table
from xpnet.errors import DataError

SHARED = Path(
    os.environ.get("XPNET_DATA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data"
)
# As the first rows of tables that people have: with and without a header, the label anywhere,
# quotes, empty fields, "?".
SAMPLES = {
    "iris.csv": "sepal,petal,species\n5.1,1.4,setosa\n4.9,1.3,setosa\n6.0,4.0,virginica\n",
    "seeds.csv": "15.26,14.84,.871,1\n14.88,14.57,.8811,1\n14.29,14.09,.905,2\n",
    "penguins.csv": "species,island,bill,mass,sex\nA,T,39.1,3750,MALE\nA,T,,,\nG,B,46.1,4500,F\n",
    "titanic.csv": 'survived,name,age,alone\n0,"Braund, Mr. O",22.0,False\n1,,,True\n',
    "horse.csv": "2,1,530101,38.50,?,00000\n1,1,534817,39.2,88,02208\n2,1,530334,?,40,00000\n",
    "cancer.csv": "'40-49','no','3',?\n'50-59','yes','1','x'\n'40-49','no','2','y'\n",
    "letter.data": "T,2,8\nI,5,12\nT,4,11\n",
}
NO_HEADER = ("seeds", "horse", "cancer", "letter", "abalone", "auto_imports", "breast-cancer",
             "ecoli", "german", "glass", "horse-colic", "new-thyroid", "sonar", "wheat-seeds",
             "wine", "winequality-red", "winequality-white", "letter-recognition")  # fmt: skip
FOUND = sorted(p for p in SHARED.glob("*/*") if p.suffix in (".csv", ".data"))


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def columns(table):
    data = getattr(table, "data", table)
    return [column.to_pylist() for column in data.columns]


def types(table):
    return [str(column.type) for column in table.data.columns]


def agrees(ours, theirs):
    """Compare a column with pandas' of the same file."""
    ours = pd.Series(ours.to_pylist(), dtype=object)
    assert ours.isna().tolist() == theirs.isna().tolist()
    if theirs.dtype.kind in "if":
        assert ours.dropna().astype(float).tolist() == theirs.dropna().astype(float).tolist()
    elif theirs.dtype.kind == "b":
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours.dropna().tolist() == [str(v).strip() for v in theirs.dropna()]


@pytest.mark.parametrize("source", [*SAMPLES, *FOUND], ids=lambda s: getattr(s, "name", s))
def test_a_table_as_people_have_it_is_read_as_pandas_is_told_to(write, source):
    path = source if isinstance(source, Path) else write(source, SAMPLES[source])
    header = None if path.stem in NO_HEADER else 0
    quote = "'" if "cancer" in path.stem else '"'
    expected = pd.read_csv(path, header=header, quotechar=quote, na_values=["?"])
    table = read_table(path)
    assert table.names == (None if header is None else tuple(expected.columns))
    assert table.data.shape == expected.shape
    for j in range(expected.shape[1]):
        agrees(table.data.column(j), expected.iloc[:, j])


# --------------------------------------------------------------------------------------- formats

TABLE = pa.table(
    {
        "n": pa.array([1, 2, None], pa.int64()),
        "x": pa.array([0.5, None, -2.0], pa.float64()),
        "t": pa.array(["a", "b c", None], pa.string()),
        "b": pa.array([True, None, False], pa.bool_()),
        "d": pa.array([dt.datetime(2020, 1, 31), None, dt.datetime(2021, 5, 6, 7, 8, 9)],
                      pa.timestamp("us")),
    }
)  # fmt: skip
VALUES = [column.to_pylist() for column in TABLE.columns]
NAMES = ("n", "x", "t", "b", "d")
CSV = "n,x,t,b,d\n1,.5,a,true,2020-01-31\n2,,b c,,\n,-2,,false,2021-05-06 07:08:09\n"


def parquet(path, **options):
    pq.write_table(TABLE, path, **options)


def stream(path):
    with pa.ipc.new_stream(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE)


WRITERS = {
    "a.csv": lambda path: path.write_text(CSV),
    "a.tsv": lambda path: path.write_text(CSV.replace(",", "\t")),
    "a.parquet": parquet,
    "a.pq": lambda path: parquet(path, compression="zstd", row_group_size=2),
    "a.feather": lambda path: pa.feather.write_feather(TABLE, str(path)),
    "a.arrow": lambda path: pa.feather.write_feather(TABLE, str(path), compression="zstd"),
    "a.ipc": stream,
    "a.jsonl": lambda path: path.write_text(
        '{"n":1,"x":0.5,"t":"a","b":true,"d":"2020-01-31 00:00:00"}\n\n{"n":2,"t":"b c"}\n'
        '{"x":-2,"b":false,"d":"2021-05-06 07:08:09"}\n'
    ),
    "a.arff": lambda path: path.write_text(
        "% c\n@relation r\n@attribute n integer\n@attribute 'x' real\n@ATTRIBUTE t {a, 'b c'}\n"
        "@attribute b {true,false}\n@attribute d date 'yyyy-MM-dd HH:mm:ss'\n\n@data\n"
        "1,.5,a,true,'2020-01-31 00:00:00'\n2,?,'b c',?,?\n"
        '?,-2,?,false,"2021-05-06 07:08:09"\n'
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_holds_the_same_table(tmp_path, name):
    WRITERS[name](tmp_path / name)
    table = read_table(tmp_path / name)
    expected = [*VALUES[:3], ["true", None, "false"], VALUES[4]] if "arff" in name else VALUES
    assert table.names == NAMES
    assert columns(table) == expected
    assert (table.index, table.notes) == ((), ())
    plain = [t.replace("dictionary<values=string, indices=int32, ordered=0>", "string")
             for t in types(table)]  # fmt: skip
    assert plain[0] in ("int64", "double")
    assert plain[1:] == ["double", "string", "string" if "arff" in name else "bool",
                         "timestamp[us]"]  # fmt: skip
    assert is_table(name)


def squeezed(suffix, data, name):
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as out:
            out.write(data)
        return sink.getvalue().to_pybytes()
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](data)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst", ".zip", ".GZ"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "a.arff", "a.feather"])
def test_a_compressed_table_is_the_same(tmp_path, name, suffix):
    plain, packed = tmp_path / name, tmp_path / (name + suffix)
    WRITERS[name](plain)
    if suffix == ".zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("folder/", "")
            archive.writestr(f"folder/{name}", plain.read_bytes())
            archive.writestr("__MACOSX/folder/._x.csv", b"\0")
    else:
        packed.write_bytes(squeezed(suffix.lower(), plain.read_bytes(), name))
    assert is_table(packed.name)
    assert columns(read_table(packed)) == columns(read_table(plain))
    assert read_table(packed).location(1, 0).startswith(f"{packed}: ")


def test_an_archive_holds_one_table(tmp_path):
    path = tmp_path / "data.zip"

    def pack(*names):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, CSV)
        return path

    assert columns(read_table(pack("readme.pdf", "a.csv"))) == VALUES
    assert columns(read_table(pack("a.tsv")))[0] == [CSV.split("\n")[n + 1] for n in range(3)]
    for names, said in (
        (("a.csv", "b.csv"), "holds 'a.csv', 'b.csv'; it must hold one table"),
        (("readme.pdf", "b.doc"), "holds 'readme.pdf', 'b.doc'; it must hold one table"),
        ((), "holds nothing; it must hold one table"),
        (("a.pdf",), "unknown format of a table; known: .csv"),
    ):
        with pytest.raises(DataError, match=said):
            read_table(pack(*names))


@pytest.mark.parametrize("name", ["a.npy", "a.xls", "csv", "a.gz"])
def test_other_files_are_no_tables(write, name):
    assert not is_table(name)
    with pytest.raises(DataError, match=r"unknown format of a table; known: \.csv \.tsv"):
        read_table(write(name, b""))


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"no such file; did you mean 'a\.csv'"):
        read_table(tmp_path / "aa.csv")


def test_arrow_types_become_a_few(write, tmp_path):
    us = pa.timestamp("us")
    many = {
        "decimal": (pa.array(["1.5"]).cast(pa.decimal128(5, 2)), "double", 1.5),
        "half": (pa.array([np.float16(1.5)]), "double", 1.5),
        "float": (pa.array([1.5], pa.float32()), "float", 1.5),
        "uint64": (pa.array([2**64 - 1], pa.uint64()), "uint64", 2**64 - 1),
        "large": (pa.array(["x"], pa.large_string()), "string", "x"),
        "view": (pa.array(["x"], pa.string_view()), "string", "x"),
        "category": (pa.array(["x"]).dictionary_encode(), "dictionary", "x"),
        "codes": (pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array([7])),
                  "int64", 7),
        "date": (pa.array([dt.date(2020, 1, 31)]), str(us), dt.datetime(2020, 1, 31)),
        "zone": (pa.array([dt.datetime(2020, 1, 31)], pa.timestamp("ns", "Europe/Berlin")),
                 str(us), dt.datetime(2020, 1, 31)),
        "null": (pa.nulls(1), "null", None),
        "list": (pa.array([[1]]), "list", [1]),
        "struct": (pa.array([{"a": 1}]), "struct", {"a": 1}),
        "binary": (pa.array([b"x"]), "binary", b"x"),
    }  # fmt: skip
    table = of_arrow(pa.table({name: values for name, (values, _, _) in many.items()}))
    for (name, (_, kind, value)), got in zip(many.items(), table.data.columns, strict=True):
        assert str(got.type).startswith(kind), name
        assert got.to_pylist() == [value], name


@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_the_index_of_pandas_is_marked(tmp_path, name):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}, index=[0, 2, 7])
    write = pq.write_table if name == "a.parquet" else pa.feather.write_feather
    write(pa.Table.from_pandas(frame), str(tmp_path / name))
    table = read_table(tmp_path / name)
    assert (table.names, table.index) == (("a", "b", "__index_level_0__"), (2,))
    assert columns(table) == [[1, 2, 3], [4, 5, 6], [0, 2, 7]]
    assert open_table(tmp_path / name).index == (2,)
    assert table.location(1, 0) == f"{tmp_path / name}: row 1, column 0 ('a')"


def test_many_equal_texts_take_little_memory(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": pa.array(["x" * 10_000] * 10_000)}), path)
    table = read_table(path)
    assert table.data.nbytes < 2**20
    assert table.data.column(0)[9_999].as_py() == "x" * 10_000


def test_what_declares_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    pq.write_table(pa.table({"a": [0] * 200}), tmp_path / "a.parquet")
    pa.feather.write_feather(pa.table({"a": [0] * 200}), str(tmp_path / "a.feather"))
    (tmp_path / "a.svm").write_text("1 999999:1\n")
    (tmp_path / "a.arff").write_text("@attribute a real\n@data\n" + "0\n" * 200)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a":1}\n' * 200))
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=r"more than 1000 bytes"):
            read_table(path)
    with pytest.raises(DataError, match=r"row group 0: 200 rows of 1 columns are more than 1000"):
        open_table(tmp_path / "a.parquet")


# --------------------------------------------------------------------------------------- damage

DAMAGED = ["a.parquet", "a.feather", "a.ipc", "a.jsonl", "a.arff", "a.csv.gz", "a.csv.bz2",
           "a.csv.xz", "a.csv.zst", "a.csv.zip"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name in WRITERS:
        WRITERS[name](folder / name)
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        (folder / f"a.csv{suffix}").write_bytes(squeezed(suffix, CSV.encode() * 50, "a.csv"))
    with zipfile.ZipFile(folder / "a.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", CSV * 50)
    return {name: (folder / name).read_bytes() for name in DAMAGED}


def attempt(path):
    """Read and use a table; whatever is wrong with it is a DataError of one line."""
    try:
        table = read_table(path)
    except DataError as error:
        return str(error)
    columns(table)
    return ""


@pytest.mark.parametrize("name", DAMAGED)
def test_a_truncated_file_is_an_error_or_a_shorter_table(tmp_path, whole, name):
    path, data = tmp_path / name, whole[name]
    bad = 0
    for end in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:end])
        message = attempt(path)
        assert "\n" not in message
        bad += message.startswith(f"{path}: ")
    assert bad > 50 or name in ("a.jsonl", "a.arff", "a.ipc")  # which have no end of their own
    assert bad > 3


def test_a_zip_whose_name_of_a_file_is_damaged_cannot_be_read(tmp_path):
    path = tmp_path / "a.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ä.csv", "a,b\n1,x\n2,y\n")  # flagged as UTF-8
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\x80\x80"))
    assert attempt(path).startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_with_damaged_bytes_does_no_harm(tmp_path, whole, name):
    path = tmp_path / name

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
    def run(changes):
        data = bytearray(whole[name])
        for at, byte in changes:
            data[at % len(data)] = byte
        path.write_bytes(data)
        assert "\n" not in attempt(path)

    run()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"", "cannot be read as a Parquet file"),
        ("a.arff", b"@relation r\n@attribute a {'x', 'y}\n@data\nx\n", "line 2: the values of 'a'"),
        ("a.parquet", b"PAR1" * 9, "cannot be read as a Parquet file"),
        ("a.feather", b"", "cannot be read as a Feather or Arrow file"),
        ("a.csv.gz", b"x", "cannot be read: Not a gzipped file"),
        ("a.csv.zip", b"x", "cannot be read: File is not a zip file"),
        ("a.csv.xz", b"x" * 99, "cannot be read: Input format not supported"),
        ("a.csv.zst", b"x" * 99, "cannot be read: "),
        ("a.jsonl", "", "line 1: the file is empty"),
        ("a.jsonl", '{"a":1}\n{"a":2\n', "line 2: not JSON: "),
        ("a.jsonl", '{"a":1}\n\n[2]\n', "line 3: expected an object, {...}; got '[2]'"),
        ("a.jsonl", "[" * 99_999, "line 1: not JSON: "),
        ("a.jsonl", "{}\n", "its objects have no keys"),
        ("a.jsonl", b'{"a":"\xe9"}', "line 1: byte 0xe9 is not UTF-8"),
        ("a.arff", "", "no @data; is it an ARFF file?"),
        ("a.arff", "a,b\n", "line 1: expected @attribute or @data; got 'a,b'"),
        ("a.arff", "@attribute a real\n@data\n", "line 2: no rows"),
        ("a.arff", "@attribute a foo\n@data\n", "line 1: unknown type of an attribute"),
        ("a.arff", "@attribute a real\n@data\n1,2\n", "line 3: 2 columns; the header has 1"),
        ("a.arff", "@attribute a real\n@data\n1\nx\n", "line 4, column 'a': 'x' is not a value"),
        ("a.arff", "@attribute a {u}\n@data\nv\n", "line 3, column 'a': 'v' is not a value"),
        ("a.arff", "@attribute a date\n@data\n2020\n", "line 3, column 'a': '2020' is not a"),
        ("a.arff", "@attribute a date 'QQ'\n@data\n", "line 1: unknown letters 'QQ'"),
        ("a.arff", "@attribute a real\n@data\n{7 1}\n", "line 3: cannot be split into values"),
        ("a.arff", "@attribute a real\n@data\n{0 1\n", "line 3: cannot be split into values"),
        ("a.arff", "@attribute a string\n@data\n'b\n", "line 3: cannot be split into values"),
        ("a.svm", "", "line 1: the file is empty"),
        ("a.svm", "1 1:2\n1 x\n", "line 2: 'x' is not index:value"),
        ("a.svm", "1 1:x\n", "line 1: '1:x' is not index:value"),
        ("a.svm", "1:2\n", "line 1: begins with '1:2'; the label must be first"),
        ("a.svm", "1 3:1 2:1\n", "line 1: index 2 after 3; they must increase"),
        ("a.svm", "1 qid:1 2:1\n", "line 1: 'qid:1': queries, as for ranking, are not read"),
        ("a.svm", "1 99999999999:1\n", "1 rows of 99999999999 features are more than"),
    ],
)
def test_what_is_wrong_is_named(write, name, content, said):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: {said}")


# ------------------------------------------------------------------------- JSON, ARFF and LIBSVM


@pytest.mark.parametrize(
    ("lines", "kind", "values"),
    [
        (["1", "0.5"], "double", [1.0, 0.5]),
        (["1", "null"], "int64", [1, None]),
        (["1", '"x"'], "string", ["1", "x"]),
        (["true", "1"], "string", ["true", "1"]),
        (["12345678901234567890", "1"], "string", ["12345678901234567890", "1"]),
        (["9007199254740993", "1"], "int64", [2**53 + 1, 1]),
        (['"a"', '{"b": 1}'], "string", ["a", '{"b": 1}']),
        (["[1]", "[2, 3]"], "list<item: int64>", [[1], [2, 3]]),
        (['"2020-01-31"', "null"], "timestamp[us]", [dt.datetime(2020, 1, 31), None]),
        (['"2020-01-31"', '"x"'], "string", ["2020-01-31", "x"]),
    ],
)
def test_json_lines_have_the_type_of_all_values(write, lines, kind, values):
    path = write("a.ndjson", "\n".join(f'{{"i":0,"c":{line}}}\n' for line in lines))
    table = read_table(path)
    assert (table.names, types(table)[1], columns(table)[1]) == (("i", "c"), kind, values)
    assert table.location(1, 1) == f"{path}: line 3, column 1 ('c')"


def test_sparse_rows_of_arff_hold_zeros(write):
    text = "@relation r\n@attribute a real\n@attribute b {u,v}\n@attribute 'c d' integer\n@data\n"
    table = read_table(write("a.arff", text + "{0 1.5, 1 v}\n\n% x\n{}\n{2 ?,1 u}\n"))
    assert table.names == ("a", "b", "c d")
    assert columns(table) == [[1.5, 0.0, 0.0], ["v", "u", "u"], [0, 0, None]]
    assert table.data.column(1).chunk(0).dictionary.to_pylist() == ["u", "v"]
    assert table.location(2, 1).endswith("a.arff: line 10, column 1 ('b')")


def test_quotes_and_escapes_of_arff(write):
    text = "@attribute s string\n@attribute 't\\'s' {'a,b', \"c d\", e}\n@data\n"
    path = write("a.arff", text + "'it\\'s, x' , 'a,b'\n\"y\",\"c d\"\nz,e\n")
    assert read_table(path).names == ("s", "t's")
    assert columns(read_table(path)) == [["it's, x", "y", "z"], ["a,b", "c d", "e"]]


def test_libsvm_is_as_scikit_learn_reads_it(write):
    load = pytest.importorskip("sklearn.datasets").load_svmlight_file
    rng = np.random.default_rng(0)
    x = np.where(rng.random((20, 7)) < 0.4, rng.normal(size=(20, 7)), 0.0)
    lines = [
        f"{n % 3 - 1} " + " ".join(f"{j + 1}:{v!r}" for j, v in enumerate(row) if v) + " # c"
        for n, row in enumerate(x.tolist())
    ]
    path = write("a.libsvm", "# head\n" + "\n".join(lines) + "\n")
    expected, labels = load(str(path))
    table = read_table(path)
    assert table.names == ("label", *(str(j + 1) for j in range(expected.shape[1])))
    assert columns(table)[0] == labels.tolist()
    np.testing.assert_array_equal(np.transpose(columns(table)[1:]), expected.toarray())
    zero = read_table(write("b.svm", "a 0:1\nb 1:2\n"))
    assert (columns(zero), zero.notes) == ([["a", "b"], [1, 0], [0, 2]], ("indices count from 0",))


# ------------------------------------------------------------------------------- tables in memory


def polars():
    return pytest.importorskip("polars", reason="a machine lent for its GPU has no polars")


class Spoken:
    """An object of which nothing is known but that it speaks Arrow."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "form",
    [
        lambda table: table,
        lambda table: table.to_batches()[0],
        lambda table: table.to_reader(),
        Spoken,
        lambda table: polars().from_arrow(table),
        lambda table: table.to_pandas(),
        lambda table: table.to_pandas(types_mapper=pd.ArrowDtype),
        lambda table: table.to_pandas().convert_dtypes(),
    ],
    ids=["table", "batch", "reader", "stream", "polars", "pandas", "pandas-arrow", "pandas-na"],
)
def test_a_table_in_memory_is_taken_as_it_is(form):
    table = of_arrow(form(TABLE), "given")
    assert table.names == NAMES
    assert columns(table) == VALUES
    assert types(table)[1:3] == ["double", "string"]
    assert types(table)[4] == "timestamp[us]"
    assert (table.index, table.location(2, 1)) == ((), "given: row 2, column 1 ('x')")


def test_the_index_of_a_pandas_table_comes_last():
    frame = pd.DataFrame({"a": [1, 2, 3], 7: ["x", None, "z"]})
    assert of_arrow(frame).index == ()
    kept = of_arrow(frame[frame.a != 2])
    assert (kept.names, kept.index) == (("a", "7", "index"), (2,))
    assert columns(kept) == [[1, 3], ["x", "z"], [0, 2]]
    named = of_arrow(frame.set_index("a"))
    assert (named.names, named.index, columns(named)[1]) == (("7", "a"), (1,), [1, 2, 3])
    both = frame.set_index(["a", 7])
    both["c"] = 0.5
    assert of_arrow(both).names == ("c", "a", "7")
    assert of_arrow(both).index == (1, 2)


def test_a_pandas_column_of_several_types_is_texts_and_said():
    frame = pd.DataFrame({"a": [1, "x", None], "c": pd.Categorical(["u", "v", None])})
    table = of_arrow(pd.concat([frame, frame], axis=1))
    assert table.names == ("a", "c", "a", "c")
    assert columns(table) == [["1", "x", None], ["u", "v", None]] * 2
    assert table.notes == ("a: values of several types (int, str) are texts",) * 2


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ([1, 2], "expected a table of pandas, polars or pyarrow, .*; got list"),
        (np.zeros((2, 2)), "got ndarray"),
        (lambda: polars().Series([1]), "Series is not a table"),
        (pd.Series([1]), "Series is not a table"),
        (pa.array([1]), "Int64Array is not a table"),
        (pd.DataFrame(), "has no columns"),
        (lambda: polars().DataFrame(), "has no columns"),
    ],
)
def test_what_is_no_table_is_refused(given_, said):
    given_ = given_() if callable(given_) else given_
    with pytest.raises(DataError, match=f"^given: .*{said}|^given: {said}"):
        of_arrow(given_, "given")


# ------------------------------------------------------------------------------------- streaming


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Write rows with surprises at the end, in all formats that can be streamed."""
    monkeypatch.setattr("xpnet.data.tables.stream.LEAST", 400)
    n = 500
    table = pa.table(
        {
            "i": pa.array([*range(n - 1), None]),
            "x": pa.array([0.5, *map(float, range(n - 1))]),
            "t": pa.array([*map(str, range(n - 1)), "A12"]),
            "d": pa.array([dt.datetime(2020, 1, 1 + k % 28) for k in range(n)], pa.timestamp("us")),
            "b": pa.array([k % 3 == 0 for k in range(n)]),
        }
    )
    rows = ["i;x;t;d;b", *(
        f"{i};{x:g};{t};{d.day}/{d.month}/{d.year};{b}".replace(".", ",").replace("None", "")
        for i, x, t, d, b in zip(*map(pa.ChunkedArray.to_pylist, table.columns), strict=True)
    )]  # fmt: skip
    (tmp_path / "a.csv").write_text("\n".join(rows))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=60)
    pa.feather.write_feather(table, str(tmp_path / "a.feather"), chunksize=60)
    return tmp_path, table


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.feather"])
def test_a_streamed_table_is_the_whole_in_blocks(many, name):
    folder, expected = many
    file, whole_table = open_table(folder / name), read_table(folder / name)
    assert file.names == whole_table.names
    assert (file.index, file.notes) == (whole_table.index, whole_table.notes)
    assert file.bounds[0] == 0
    assert file.bounds[-1] == len(expected)
    assert len(file.bounds) > 8
    parts = list(file.batches())
    assert [len(part) for part in parts] == np.diff(file.bounds).tolist()
    assert {str(part.schema) for part in parts} == {str(parts[0].schema)}
    got = [pa.concat_tables(parts).column(j).to_pylist() for j in range(5)]
    assert got == columns(whole_table) == columns(expected)
    middle = len(parts) // 2
    assert file.block(middle).equals(parts[middle])
    assert file.location(499, 0) == whole_table.location(499, 0)
    assert file.location(499, 2).endswith("line 501, column 2 ('t')") or name != "a.csv"


def test_a_streamed_text_with_line_breaks_in_quotes(tmp_path, monkeypatch):
    monkeypatch.setattr("xpnet.data.tables.stream.LEAST", 100)
    rows = [(k, f"a\n,{k}\r\n" if k % 3 else f'5" {k}') for k in range(300)]
    path = tmp_path / "a.csv"
    pd.DataFrame(rows, columns=["n", "t"]).to_csv(path, index=False)
    file = open_table(path)
    assert len(file.bounds) > 20
    expected = pd.read_csv(path)
    numbers, texts = columns(pa.concat_tables(file.batches()))
    assert numbers == list(range(300))
    assert texts == [t.strip() for t in expected["t"]]
    lines = path.read_bytes().count(b"\n")
    assert file.location(299, None) == f"{path}: line {lines}"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.feather"])
def test_a_change_during_training_is_noticed(many, name):
    folder, _ = many
    file = open_table(folder / name)
    file.block(1)
    with (folder / name).open("ab") as out:
        out.write(b"1;2;3;1/1/2020;true\n")
    with pytest.raises(DataError, match=r"the file was changed while it was being used"):
        file.block(1)
    (folder / name).unlink()
    with pytest.raises(DataError, match=r"the file was changed while it was being used"):
        file.block(0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", gzip.compress(b"1,2\n", mtime=0)),
        ("a.jsonl", b'{"a":1}\n'),
        ("a.svm", b"1 1:2\n"),
        ("a.csv", "1,é\n".encode("utf-16")),
        ("a.csv", "1,é\n".encode("cp1252")),
        ("a.csv", b"1,a\n" * 300_000 + "1,é\n".encode("cp1252")),
    ],
    ids=["gzip", "json", "libsvm", "utf-16", "cp1252", "cp1252 late"],
)
def test_what_cannot_be_streamed_is_refused(write, name, content):
    with pytest.raises(DataError) as caught:
        open_table(write(name, content))
    assert str(caught.value).endswith("or read it as a whole, read(path)")
    assert caught.value.at_command_line.endswith("or --set data.stream=no")


def test_an_arrow_stream_and_an_empty_table_cannot_be_streamed(tmp_path):
    stream(tmp_path / "a.ipc")
    with pytest.raises(DataError, match="cannot be read as an Arrow file, the only kind"):
        open_table(tmp_path / "a.ipc")
    pq.write_table(TABLE.slice(0, 0), tmp_path / "a.parquet")
    for use in (open_table, read_table):
        with pytest.raises(DataError, match="0 rows of 5 columns; there must be at least one"):
            use(tmp_path / "a.parquet")


def test_the_format_of_a_streamed_text_is_that_which_is_given(write):
    path = write("a.csv", "1|x\n-9|y\n")
    file = open_table(path, TextFormat(delimiter="|", missing=("-9",)), header=True)
    assert file.names == ("1", "x")
    assert columns(file.block(0)) == [[None], ["y"]]
