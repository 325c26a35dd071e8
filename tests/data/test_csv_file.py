"""CSV and TSV: the accepted syntax, and the line and column that every error names."""

import csv
import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpnet.data import read
from xpnet.errors import DataError


@pytest.fixture
def write(tmp_path):
    def write(content, name="a.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        "1,2,a\n3,4,b\n",
        "1,2,a\n3,4,b",
        "1,2,a\r\n3,4,b\r\n",
        "\ufeff1,2,a\n3,4,b\n",
        "\n1,2,a\n\n  \n3,4,b\n\n",
        '"1","2","a"\n"3","4","b"\n',
        " 1, 2 ,a \n3,4.0e0, b\n",
        "1;2;a\n3;4;b\n",
        "1\t2\ta\n3\t4\tb\n",
        "p,q,r\n1,2,a\n3,4,b\n",
        "0,1,label\n1,2,a\n3,4,b\n",
        "\ufeffclass,p,q\na,1,2\nb,3,4\n",
        "p,Target,q\n1,a,2\n3,b,4\n",
        '"p","the\nq","r"\n1,2,a\n3,4,b\n',
    ],
)
def test_variants_of_one_table_are_read_alike(write, content):
    got = read(write(content))
    assert got.x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert got.x.dtype == np.float64
    assert (got.y.tolist(), got.classes) == ([0, 1], ("a", "b"))


def test_gzip_and_tabs_are_recognised_by_the_suffix(write):
    for name, content in (("a.csv.gz", b"1,2,a\n"), ("a.TSV", b"1\t2\ta,b;c\n")):
        path = write(gzip.compress(content) if name.endswith("gz") else content, name)
        assert read(path).x.tolist() == [[1.0, 2.0]]


def test_a_quoted_line_break_or_delimiter_in_a_label_is_kept(write):
    got = read(write('1,"a,\nb"\n2,"say ""c"""\n'))
    assert got.classes == ("a,\nb", 'say "c"')
    assert got.x.tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("label", ["kind", 1, -2, "1"])
def test_the_label_column_is_chosen_by_name_or_position(write, label):
    got = read(write("p,kind,q\n1,7,2\n3,9,4\n"), label=label)
    assert (got.classes, got.feature_names) == (("7", "9"), ("p", "q"))
    assert got.x.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_rows_without_labels_are_all_features(write):
    got = read(write("1,2\n3,4\n"), label=None)
    assert (got.x.shape, got.y, got.classes) == ((2, 2), None, None)


def test_header_overrides_what_is_inferred(write):
    path = write("0,1,2\n3,4,5\n")
    assert read(path, header=True).feature_names == ("0", "1")
    assert len(read(path, header=False)) == 2


def test_numbers_among_texts_are_classes_named_as_they_are_spelled(write):
    path = write("1,2,b\n1,3,0.50\n")
    assert read(path, header=False).classes == ("0.50", "b")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("", ": line 1: the file is empty"),
        ("\n \n", ": line 1: the file is empty"),
        ("a,b\n", ": line 1: a header but no rows"),
        ("1\n2\n", ": its only column is the label; is the delimiter another?"),
        ("1,2,a\n3,b\n", ": line 2: 2 columns; the first row has 3"),
        ("1,2,a\n\n3,4,5,b\n", ": line 3: 4 columns; the first row has 3"),
        ("p,q\n1,2,3\n", ": line 2: 3 columns; the first row has 2"),
        ("1,2,a\n3,4,\n", ": line 2: the label is missing"),
        ("p,q,y\n" + "1,2,a\n" * 9 + "x,4,b\n", ": line 11, column 0 ('p'): 'x' is not a number"),
        ("1,2,a\n-inf,3,b\n", ": line 2, column 0: '-inf' is not a finite number"),
        ("1,2,a\n1e999,3,b\n", ": line 2, column 0: 'inf' is not a finite number"),
        ("1,2,a\n" * 9 + "1_0,3,b\n", ": line 10, column 0: '1_0' is not a number"),
        ("1,2,a\n" * 9 + "٣,3,b\n", ": line 10, column 0: '٣' is not a number"),
        ("1,2,a\n" * 9 + "0x1,3,b\n", ": line 10, column 0: '0x1' is not a number"),
        ("1,2x,a\n1,3,b\n", ": line 1, column 1: '2x' is not a number: pass header=True if it is"),
        ("1,2,1\n1,3,nan\n", ": line 2: the label is missing"),
        ('1,2,"a\n' + "x" * 200_000, ": line 1: a quote is opened that nothing closes"),
    ],
)
def test_an_error_names_the_line_and_the_column(write, content, where):
    path = write(content)
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}{where}"), message
    assert "\n" not in message


def test_a_label_that_names_no_column_or_several_is_refused(write):
    path = write("a,a,b\n1,2,3\n")
    with pytest.raises(DataError, match=r"a.csv: no column 'c'; known: a, a, b"):
        read(path, label="c")
    with pytest.raises(DataError, match=r"a.csv: line 1: several columns are named 'a'") as caught:
        read(path, label="a")
    assert str(caught.value).endswith("'a': pass a position, such as label=0")
    assert caught.value.at_command_line.endswith("such as --label 0")


@pytest.mark.parametrize(
    ("content", "label", "python", "command"),
    [
        (
            "1,2x,a\n1,3,b\n",
            "auto",
            "'2x' is not a number: pass header=True if it is a header, else header=False",
            "a number: --set data.header=yes if it is a header, else --set data.header=no",
        ),
        (
            "1,0.5\n2,1.5\n",
            "auto",
            "label '0.5' is not a whole number; is this a regression? "
            'pass task="regression" and train with MeanSquaredError(); '
            "if another column is the label, name it: label=...",
            "label '0.5' is not a whole number; is this a regression? "
            "--set data.task=regression --set loss.name=mean_squared_error; "
            "if another column is the label, name it: --label",
        ),
        (
            "1,2,a\n3,4,b\n",
            "kind",
            "no column 'kind'; it has no header: pass a position, label=0 to label=2",
            "it has no header: name it by its position, --label 0 to 2",
        ),
    ],
)
def test_a_remedy_is_a_call_in_python_and_options_at_the_command_line(
    write, content, label, python, command
):
    with pytest.raises(DataError) as caught:
        read(write(content), label=label, task="classification")
    assert str(caught.value).endswith(python)
    assert caught.value.at_command_line.endswith(command)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=5)
CLASSES = TEXTS.filter(lambda t: t.strip() and t.strip().lower() != "nan")


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(NUMBERS, NUMBERS, CLASSES),
        min_size=2,
        max_size=6,
        unique_by=(lambda row: row[0], lambda row: row[1]),
    )
)
def test_a_table_written_by_the_csv_module_is_read_back(tmp_path_factory, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("a", "b", "label"), *((a, b, "k" + c) for a, b, c in rows)])
    path = tmp_path_factory.getbasetemp() / "round.csv"
    path.write_bytes(text.getvalue().encode())
    got = read(path)
    np.testing.assert_array_equal(got.x, [row[:2] for row in rows])
    assert [got.classes[k] for k in got.y] == [("k" + row[2]).strip() for row in rows]
