"""Text tables: the dialect, the header, the types of the columns, and the place of every error."""

import codecs
import contextlib
import csv
import datetime as dt
import io
import math
import time

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xpnet.data.labels import MISSING
from xpnet.data.tables import TextFormat, open_table, read_table
from xpnet.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Read blocks of a few hundred bytes, so that short files have many."""
    monkeypatch.setattr("xpnet.data.tables.blocks.FIRST", 300)
    monkeypatch.setattr("xpnet.data.tables.blocks.SIZE", 500)
    monkeypatch.setattr("xpnet.data.tables.text.LEAST_ROWS", 1)


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.csv", *, header="auto", is_header=lambda first: None, **form):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_table(path, TextFormat(**form), header, is_header)

    return read


def columns(table):
    return [column.to_pylist() for column in table.data.columns]


def types(table):
    return [str(column.type) for column in table.data.columns]


# ------------------------------------------------------------------------------------- the dialect

PLAIN = [["p", "q", "r"], ["1", "2.5", "a b"], ["3", "-4.5", "c d"], ["5", "0.5", "e"]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("p,q,r\n1,2.5,a b\n3,-4.5,c d\n5,.5,e\n", ()),
        ("p,q,r\n1,2.5,a b\n3,-4.5,c d\n5,.5,e", ()),
        ("p,q,r\r\n1,2.5,a b\r\n3,-4.5,c d\r\n5,.5,e\r\n", ()),
        ("p,q,r\r1,2.5,a b\r3,-4.5,c d\r5,.5,e\r", ()),
        ("\ufeffp,q,r\n1,2.5,a b\n3,-4.5,c d\n5,.5,e\n", ()),
        ("\n\np,q,r\n\n  \n1,2.5,a b\n3,-4.5,c d\n\n5,.5,e\n\n", ()),
        (" p , q,r\n1 , 2.5,a b\n3, -4.5 , c d\n+5,5e-1, e \n", ()),
        ('"p","q","r"\n"1","2.5","a b"\n"3","-4.5","c d"\n"5",".5","e"\n', ()),
        ('p,q,r\n1, 2.5, "a b"\n3, -4.5, "c d"\n5, .5, "e"\n', ()),
        ("p;q;r\n1;2.5;a b\n3;-4.5;c d\n5;.5;e\n", ("delimiter ';'",)),
        ("p|q|r\n1|2.5|a b\n3|-4.5|c d\n5|.5|e\n", ("delimiter '|'",)),
        ("p\tq\tr\n1\t2.5\ta b\n3\t-4.5\tc d\n5\t.5\te\n", ("delimiter '\\t'",)),
        ("p;q;r\n1;2,5;a b\n3;-4,5;c d\n5;,5;e\n", ("delimiter ';'", "decimal comma")),
        ("p\tq\tr\n1\t2,5\ta b\n3\t-4,5\tc d\n5\t,5\te\n", ("delimiter '\\t'", "decimal comma")),
        ("p  q  r\n 1   2.5\t'a b'\n3  -4.5 'c d'\n5 .5  'e' \n", ("delimiter 'space'",)),
        ("'p','q','r'\n'1','2.5','a b'\n'3','-4.5','c d'\n'5','.5','e'\n", ('quotes "\'"',)),
        ("# made\n% by hand\n\np,q,r\n1,2.5,a b\n3,-4.5,c d\n5,.5,e\n", ()),
    ],
)
def test_variants_of_one_table_are_read_alike(read, content, said):
    table = read(content, quote="'") if "space" in str(said) else read(content)
    assert table.names == ("p", "q", "r")
    assert columns(table) == [[1, 3, 5], [2.5, -4.5, 0.5], ["a b", "c d", "e"]]
    assert types(table) == ["int64", "double", "string"]
    assert table.notes == said


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.data", "a.DAT"])
def test_the_suffix_of_a_text_does_not_matter(read, name):
    assert columns(read("1 2 x\n3 4 y\n", name)) == [[1, 3], [2, 4], ["x", "y"]]


def test_a_tsv_is_delimited_by_tabs_whatever_else_is_in_it(read):
    assert columns(read("1\t2\ta,b;c\n", "a.tsv")) == [[1], [2], ["a,b;c"]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_known_by_its_mark(read, encoding):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    table = read(mark + "p,é\n1,ß\n".encode(encoding))
    assert (table.names, columns(table)) == (("p", "é"), [[1], ["ß"]])
    assert table.notes == ("encoding utf-16",)


def test_what_is_not_utf_8_is_cp1252_and_said(read):
    text = "p,naïve\n" + "1,plain\n" * 10_000 + "2,é€\n"
    table = read(text.encode("cp1252"))
    assert (table.names, columns(table)[1][-1]) == (("p", "naïve"), "é€")
    assert table.notes == ("encoding cp1252, as it is not UTF-8",)
    assert columns(read("1,я\n".encode("koi8-r"), encoding="koi8-r")) == [[1], ["я"]]


def test_an_encoding_that_is_given_is_held_to(read):
    with pytest.raises(DataError, match=r"a\.csv: line 3: byte 0xe9 is not UTF-8") as caught:
        read(b"1,a\n2,b\n3,\xe9\n", encoding="utf-8")
    assert caught.value.at_command_line.endswith("such as cp1252: data.text.encoding")
    with pytest.raises(DataError, match=r"a\.csv: is not cp1252: .*0x81"):
        read(b"1,\x81\n")
    with pytest.raises(ConfigError, match="encoding is 'utf-99', which is unknown"):
        TextFormat(encoding="utf-99")


def test_thousands_are_removed_where_they_are_given(read):
    text = "a;b\n1,234;1,234.5\n-12,345,678;7\n12,34;8\n"
    assert columns(read(text, thousands=",")) == [["1,234", "-12,345,678", "12,34"], [1234.5, 7, 8]]
    text = "a;b\n1.234;1.234,5\n-12.345.678;7\n"
    got = read(text, thousands=".", decimal=",")
    assert columns(got) == [[1234, -12345678], [1234.5, 7]]


def test_a_comma_is_no_decimal_point_where_points_are(read):
    assert columns(read("a;b\n1.5;2\n1,5;3\n")) == [["1.5", "1,5"], [2, 3]]


def test_comments_anywhere_are_skipped_where_they_are_given(read):
    text = "// head\na,b\n1,x\n//2,y\n3,z\n"
    assert columns(read(text, comment="//")) == [[1, 3], ["x", "z"]]
    assert read(text, comment="//").location(1, None).endswith("a.csv: line 5")
    quoted = '// "\na,b\n1,"x"\n//2,"y"\n3,z\n'
    assert columns(read(quoted, comment="//")) == [[1, 3], ["x", "z"]]
    assert columns(read("#a\n1\n")) == [[1]]


@pytest.mark.parametrize(
    ("comment", "names"),
    [
        ("# a,b", ("a", "b")),
        ("#a,b", ("a", "b")),
        ("#,Name", ("#", "Name")),
        ("# made by hand\n# a,b", ("a", "b")),
        ("# 1,2", None),
        ("# made by hand, in 2020, twice", None),
    ],
)
def test_the_last_comment_may_name_the_columns(read, comment, names):
    table = read(f"{comment}\n1,x\n2,y\n")
    assert table.names == names
    assert columns(table) == [[1, 2], ["x", "y"]]
    assert len(table.notes) == (names is not None)


def test_quotes_that_are_text_are_no_quotes(read):
    text = 'a,b\n1,5" pipe\n2,6" pipe\n3,it\'s\n'
    assert columns(read(text))[1] == ['5" pipe', '6" pipe', "it's"]
    assert columns(read('a,b\n1,"x\n2,y"\n', quote="none"))[1] == ['"x', 'y"']
    assert columns(read('a,b\n1,"x\n2,y"\n')) == [[1], ["x\n2,y"]]


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"delimiter": ""}, "delimiter must be 'auto', 'space' or one character; got ''"),
        ({"delimiter": "::"}, "delimiter must be"),
        ({"delimiter": "é"}, "delimiter must be"),
        ({"delimiter": "\n"}, "delimiter must be"),
        ({"thousands": ",,"}, "thousands must be one character"),
        ({"thousands": "1"}, "thousands must be one character"),
        ({"quote": "x"}, "quote must be"),
    ],
)
def test_a_format_that_cannot_be_is_refused(form, problem):
    with pytest.raises(ConfigError, match=problem):
        TextFormat(**form)


def test_marks_that_are_the_same_are_refused(read):
    with pytest.raises(ConfigError, match="must be different characters"):
        read("1,2\n", delimiter=",", decimal=",")
    with pytest.raises(ConfigError, match="must be different characters"):
        read("1,2\n", thousands=",", decimal=",")


# -------------------------------------------------------------------------------------- the header


@pytest.mark.parametrize(
    ("content", "names", "note"),
    [
        ("p,q\n1,2\n", ("p", "q"), ""),
        ("p,q\n1,x\n2,y\n", ("p", "q"), ""),
        ("species,sex\nAdelie,male\nGentoo,female\n", ("species", "sex"), "taken for a header"),
        ("Adelie,male\nAdelie,female\n", None, "taken for values"),
        ("40-49,no\n50-59,no\n40-49,yes\n", None, "taken for values"),
        ("a,flag\nx,True\ny,False\n", ("a", "flag"), ""),
        ("day,what\n2020-01-31,x\n2020-02-29,y\n", ("day", "what"), ""),
        ("A,B,C\nA,1,2\nB,3,4\n", ("A", "B", "C"), ""),
        ("1,2\n3,4\n", None, ""),
        ("1,?,x\n3,4,x\n", None, ""),
        ("1,2,x\n3,4,y\n", None, ""),
        ("A12,6,x\n007,7,x\nA12,8,y\n", None, ""),
        ("0,1,label\n1,2,a\n3,4,b\n", ("0", "1", "label"), ""),
        ("0,1,kind\n1,2,a\n3,4,b\n", ("0", "1", "kind"), ""),
        ("0,1,a\n1,2,a\n3,4,b\n", None, ""),
        (",a,b\n0,1,2\n1,3,4\n", ("", "a", "b"), ""),
        ("x\n", None, "a header but no rows"),
        ("1,2\n", None, ""),
        ("1,a\n", None, ""),
    ],
)
def test_a_header_is_known_by_what_is_below_it(read, content, names, note):
    if "no rows" in note:
        with pytest.raises(DataError, match=rf"a\.csv: line 1: {note}"):
            read(content)
        return
    table = read(content)
    assert table.names == names
    assert len(table.data) == content.count("\n") - (names is not None)
    assert note in " ".join(table.notes)
    assert bool(table.notes) == bool(note)
    assert all("data.header" in said for said in table.notes)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("1,2x,a\n1,3,b\n", "line 1, column 1: '2x' is not a number"),
        ("5.1a,setosa\n4.9,setosa\n", "line 1, column 0: '5.1a' is over other values than texts"),
    ],
)
def test_a_first_row_with_a_typo_is_not_dropped(read, content, where):
    with pytest.raises(DataError, match=rf"a\.csv: {where}") as caught:
        read(content)
    assert str(caught.value).endswith("pass header=True if it is a header, else header=False")
    assert caught.value.at_command_line.endswith("else --set data.header=no")
    assert read(content, header=True).data.num_rows == 1
    assert read(content, header=False).data.num_rows == 2


def test_what_the_caller_knows_of_the_first_row_holds(read):
    seen = []
    table = read("1, 2\n3,4\n", is_header=lambda first: seen.append(first) or True)
    assert (table.names, seen) == (("1", "2"), [["1", "2"]])
    assert table.notes == (
        "line 1 (1, 2, ...) is taken for a header: data.header = 'no' reads it as values",
    )
    assert read("p,q\n3,4\n", is_header=lambda first: False).names is None

    def refuse(first):
        msg = "may be either"
        raise DataError(msg)

    with pytest.raises(DataError, match=r"a\.csv: line 2: may be either"):
        read("\np,q\n3,4\n", is_header=refuse)


def test_a_header_with_line_breaks_or_many_columns(read):
    assert read('"a\nb",c\n1,2\n').names == ("a\nb", "c")
    names = [f"column_{j}" for j in range(5000)]  # longer than the first block
    table = read(",".join(names) + "\n" + ",".join(map(str, range(5000))) + "\n")
    assert (table.names, columns(table)[4999]) == (tuple(names), [4999])
    with pytest.raises(DataError, match="300000 columns, more than 262144; is the file transposed"):
        read("1," * 299_999 + "1\n")


# --------------------------------------------------------------------------------------- the types


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-2", "+3", "007"], "int64", [1, -2, 3, 7]),
        ([".5", "1.", "1e3", "-2E-1"], "double", [0.5, 1.0, 1000.0, -0.2]),
        (["1.0", "2", "3e2"], "int64", [1, 2, 300]),
        (["1", "", "NA", "?", "nan", " - ", "3"], "string", ["1", *[None] * 4, "-", "3"]),
        (["1", "", "NA", "?", "NaN", "null", "3"], "int64", [1, *[None] * 5, 3]),
        (["inf", "-Infinity", "1"], "double", [math.inf, -math.inf, 1.0]),
        (["1e999", "1"], "double", [math.inf, 1.0]),
        (["0x1F", "1"], "string", ["0x1F", "1"]),
        (["1_000", "1"], "string", ["1_000", "1"]),
        (["٣", "1"], "string", ["٣", "1"]),
        (["007", "A12"], "string", ["007", "A12"]),
        (["1.50", "x"], "string", ["1.50", "x"]),
        (["9007199254740993", "1"], "int64", [2**53 + 1, 1]),
        (["-9223372036854775808", "1"], "int64", [-(2**63), 1]),
        (["12345678901234567890", "007"], "string", ["12345678901234567890", "007"]),
        (["12345678901234567890", "x"], "string", ["12345678901234567890", "x"]),
        (["9007199254740992", "0.5"], "double", [2.0**53, 0.5]),
        (["1e300", "0.5"], "double", [1e300, 0.5]),
        (["True", "false", "TRUE", ""], "bool", [True, False, True, None]),
        (["True", "1"], "string", ["True", "1"]),
        (["True", "yes"], "string", ["True", "yes"]),
        (["?", "", "NA"], "null", [None] * 3),
        (["2020-01-31", "?"], "timestamp[us]", [dt.datetime(2020, 1, 31), None]),
        (["2020-01-31 10:20", "2021-01-01"], "timestamp[us]",
         [dt.datetime(2020, 1, 31, 10, 20), dt.datetime(2021, 1, 1)]),
        (["2020-01-31T10:20:30.123456789"], "timestamp[us]",
         [dt.datetime(2020, 1, 31, 10, 20, 30, 123456)]),
        (["2020-01-31T10:20:30+02:00", "2020-01-31T10:20:30Z"], "timestamp[us]",
         [dt.datetime(2020, 1, 31, 8, 20, 30), dt.datetime(2020, 1, 31, 10, 20, 30)]),
        (["2020/01/31", "2020/02/01"], "timestamp[us]",
         [dt.datetime(2020, 1, 31), dt.datetime(2020, 2, 1)]),
        (["2020-02-30", "2020-01-01"], "string", ["2020-02-30", "2020-01-01"]),
        (["2020-01-01", "2020-01-01Z"], "string", ["2020-01-01", "2020-01-01Z"]),
        (["2020-01-01", "soon"], "string", ["2020-01-01", "soon"]),
        (["31/12/2020", "1/2/2020"], "timestamp[us]",
         [dt.datetime(2020, 12, 31), dt.datetime(2020, 2, 1)]),
        (["12/31/2020 23:59", "1/2/2020"], "timestamp[us]",
         [dt.datetime(2020, 12, 31, 23, 59), dt.datetime(2020, 1, 2)]),
        (["1.12.2020", "2.11.2020"], "timestamp[us]",
         [dt.datetime(2020, 12, 1), dt.datetime(2020, 11, 2)]),
        (["1/12/2020", "2/11/2020"], "string", ["1/12/2020", "2/11/2020"]),
        (["31/12/2020", "12/31/2020"], "string", ["31/12/2020", "12/31/2020"]),
        (["31/31/2020", "1/1/2020"], "string", ["31/31/2020", "1/1/2020"]),
        ([" a ", "b"], "string", ["a", "b"]),
        (["-", "+", "."], "string", ["-", "+", "."]),
    ],
)  # fmt: skip
def test_a_column_has_the_type_of_all_its_values(read, cells, kind, values):
    content = "n;c\n" + "".join(f"{n};{cell}\n" for n, cell in enumerate(cells))
    table = read(content, header=True)
    assert types(table)[1] == kind
    assert columns(table)[1] == values


LATE = 60  # rows, so that what comes last is in another block than what comes first

JANUARY_2, JANUARY_31 = dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 31)
FEBRUARY_1 = dt.datetime(2020, 2, 1)


@pytest.mark.parametrize(
    ("many", "last", "kind", "first_value", "last_value"),
    [
        ("7", "x", "string", "7", "x"),
        ("007", "A12", "string", "007", "A12"),
        ("7", "0.5", "double", 7.0, 0.5),
        ("0.5", "7", "double", 0.5, 7.0),
        ("", "7", "int64", None, 7),
        ("?", "x", "string", None, "x"),
        ("7", "?", "int64", 7, None),
        ("7", "12345678901234567890", "string", "7", "12345678901234567890"),
        ("7", "9007199254740993", "int64", 7, 2**53 + 1),
        ("9007199254740993", "7", "int64", 2**53 + 1, 7),
        ("9007199254740993", "0.5", "double", 2.0**53, 0.5),
        ("True", "0", "string", "True", "0"),
        ("True", "false", "bool", True, False),
        ("2020-01-31", "x", "string", "2020-01-31", "x"),
        ("1/2/2020", "31/1/2020", "timestamp[us]", FEBRUARY_1, JANUARY_31),
        ("1/2/2020", "1/31/2020", "timestamp[us]", JANUARY_2, JANUARY_31),
        ("31/1/2020", "1/31/2020", "string", "31/1/2020", "1/31/2020"),
        ("inf", "1", "double", math.inf, 1.0),
    ],
)  # fmt: skip
def test_a_surprise_at_the_end_of_a_long_file_counts(
    read, many, last, kind, first_value, last_value
):
    filler = "x" * 50
    content = "n,c,f\n" + f"1,{many},{filler}\n" * LATE + f"2,{last},{filler}\n"
    table = read(content)
    assert types(table) == ["int64", kind, "string"]
    assert table.data.column(1).num_chunks > 2
    values = table.data.column(1)
    assert (values[0].as_py(), values[LATE - 1].as_py()) == (first_value, first_value)
    assert values[LATE].as_py() == last_value
    assert table.location(LATE, 1).endswith(f"a.csv: line {LATE + 2}, column 1 ('c')")


def test_what_is_decided_about_values_is_said(read):
    table = read("id,when,n\n12345678901234567890,31/12/2020,9007199254740993\n1,1/2/2020,0.5\n")
    assert table.notes == (
        "id: whole numbers of more than 18 digits are kept as text",
        "n: whole numbers beyond 2^53 are rounded",
        "when: dates are read as day, month, year",
    )
    assert read("n,due\n1,1/2/2020\n2,2/3/2020\n").notes == (
        "due: these may be dates, day or month first, which the values do not show: kept as text; "
        "--set data.text.dates=day or month reads them",
    )
    assert "column 0: whole" in read("12345678901234567890,x\n1,x\n").notes[0]


@pytest.mark.parametrize("late", [0, LATE])
@pytest.mark.parametrize("dates", ["auto", "day", "month", "text"])
@pytest.mark.parametrize(
    ("sure", "order"), [("31/1/2020", "day"), ("1/31/2020", "month"), ("1/2/2020", None)]
)
def test_the_dates_of_a_file_are_all_in_one_order(tmp_path, read, late, dates, sure, order):
    texts = ["3/2/2020", "11/12/2019 06:30"] * max(1, late // 2)
    content = "when,due,f\n" + "".join(f"1/2/2020,{text},x\n" for text in texts)
    table = read(content + f"{sure},5/6/2020,x\n", dates=dates)
    asked = order if dates == "auto" else dates
    fits = asked in ("day", "month") and asked == (order or asked)
    assert types(table)[0] == ("timestamp[us]" if fits else "string")
    assert table.dates == {"auto": order or "text", "text": "auto"}.get(dates, dates)
    due = table.data.column(1).to_pylist()
    if asked not in ("day", "month"):
        assert due == [*texts, "5/6/2020"]
    else:
        day_first = asked == "day"
        expected = pd.to_datetime([*texts, "5/6/2020"], dayfirst=day_first, format="mixed")
        assert due == expected.to_pydatetime().tolist()
    rows = open_table(tmp_path / "a.csv", TextFormat(dates=dates))
    assert pa.concat_tables(rows.batches()).equals(table.data)
    assert (rows.dates, rows.notes) == (table.dates, table.notes)


def test_dates_that_contradict_each_other_decide_nothing_for_others(read):
    table = read("a,b,c\n31/1/2020,1/31/2020,1/2/2020\n30/1/2020,1/30/2020,2/2/2020\n")
    assert types(table) == ["timestamp[us]", "timestamp[us]", "string"]
    assert table.dates == "auto"


def test_one_quoted_field_is_enough(read):
    assert columns(read("when,colour\n3,'red'\n")) == [[3], ["red"]]
    assert columns(read("when,colour\n3,'red\n")) == [[3], ["'red"]]


def test_more_texts_may_stand_for_a_missing_value(read):
    assert columns(read("a,b\n-999,x\n1,none\n", missing=("-999", "none"))) == [
        [None, 1],
        ["x", None],
    ]
    for text in MISSING:
        assert columns(read(f"a,b\n{text},x\n1,y\n"))[0] == [None, 1]


# ----------------------------------------------------------------------------------- errors, places


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("", "line 1: the file is empty"),
        ("\n \n", "line 1: the file is empty"),
        ("# only a comment\n", "line 1: the file is empty"),
        ("a,b\n", "line 1: a header but no rows"),
        ("\n# x\n\na,b\n", "line 4: a header but no rows"),
        ("1,2,a\n3,b\n", "line 2: 2 columns; the first row has 3"),
        ("1,2,a\n\n3,4,5,b\n", "line 3: 4 columns; the first row has 3"),
        ("p,q\n1,2,3\n", "line 2: 3 columns; the first row has 2"),
        ('# c\np,q\n1,"a\n\nb"\n1,2,3\n', "line 6: 3 columns; the first row has 2"),
        ('# c\r\np,q\r\n1,"a\r\n\r\nb"\r\n1,2,3\r\n', "line 6: 3 columns; the first row has 2"),
        ("p,q\r1,2\r1,2,3\r", "line 3: 3 columns; the first row has 2"),
        ("1,a\n" * 3000 + "1\n", "line 3001: 1 columns; the first row has 2"),
        ("1 a\n" * 3000 + "1\n", "line 3001: 1 columns; the first row has 2"),
        ("1,a\r\n" * 3000 + "1\r\n", "line 3001: 1 columns; the first row has 2"),
        (b"1,2\n3,\0\n", "line 2: a NUL byte, which no text has"),
        (b"1,a\n" * 3000 + b"3,\0\n", "line 3001: a NUL byte, which no text has"),
        ('1,2,"a\n' + "x" * 200_000, "line 1: a quote is opened that nothing closes"),
        ("1,b\n" * 3000 + '1,"b\n' * 3, "line 3003: a quote is opened that nothing closes"),
        ('1,"a"\n2,' + "x" * 200_000 + "\n3\n", "line 2: field larger than field limit"),
    ],
)
def test_an_error_names_the_line(read, tmp_path, content, where):
    with pytest.raises(DataError) as caught:
        read(content)
    assert str(caught.value).startswith(f"{tmp_path / 'a.csv'}: {where}")
    assert "\n" not in str(caught.value)


def test_a_quote_that_is_never_closed_is_found_before_all_is_in_memory(read, monkeypatch):
    monkeypatch.setattr("xpnet.data.files.MAX_LINE", 2**21)
    with pytest.raises(
        DataError, match=r"line 3: more than 2097152 bytes in a row; split the file"
    ):
        read('a,b\n1,x\n2,"y\n' + "3,z\n" * 2**20)


def test_a_file_that_is_too_large_is_refused(read, monkeypatch):
    monkeypatch.setattr("xpnet.data.files.MAX_BYTES", 100_000)
    with pytest.raises(DataError, match=r"a\.csv: more than 100000 bytes; split the file"):
        read("1,2\n" + "\n" * 100_000)
    with pytest.raises(DataError, match="its values take more than 100000 bytes") as caught:
        read("1,2\n" * 6300)
    assert "data.stream=yes" in caught.value.at_command_line


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("form", ["{}", "# c{e}{}", "{e}{e}{}"])
def test_a_location_is_the_line_in_the_file(read, end, mark, form):
    rows = ["p,q", "1,x", "", '2,"a{e}b"', "  ", "3,y", "4,z"]
    text = mark + form.format(end.join(rows).format(e=end) + end, e=end)
    before = {"{}": 0, "# c{e}{}": 1, "{e}{e}{}": 2}[form]
    table = read(text.encode())
    lines = [int(table.location(n, None).rpartition(" ")[2]) - before for n in range(4)]
    assert lines == [2, 5, 7, 8]
    assert table.location(1, 1).endswith(f"line {5 + before}, column 1 ('q')")


def test_a_location_in_a_later_block_or_a_compressed_file(read):
    import gzip

    text = "p,q\n" + "1,x\n" * 2000 + '2,"\n\n"\n' + "3,y\n" * 2000
    for content, name in ((text.encode(), "a.csv"), (gzip.compress(text.encode()), "a.csv.gz")):
        table = read(content, name)
        assert table.location(4000, 0).endswith(f"{name}: line 4004, column 0 ('p')")
        assert table.location(1999, 0).endswith(f"{name}: line 2001, column 0 ('p')")
    wide = read(text.encode("utf-16"))
    assert wide.location(4000, None).endswith("line 4004")


# ------------------------------------------------------------------------------------- round trips

DELIMITERS = st.sampled_from([",", ";", "\t", "|"])
NUMBERS = st.one_of(st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1))
# The csv module does not quote what only the reader takes for a mark, such as blanks at the ends.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=6)
WORDS = TEXTS.map(lambda text: "w" + text.strip() + "w")


@settings(max_examples=120, deadline=None)
@given(
    rows=st.lists(st.tuples(NUMBERS, WORDS, st.integers(-9, 9)), min_size=1, max_size=8),
    delimiter=DELIMITERS,
    quotechar=st.sampled_from("\"'"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
)
@example(rows=[(0.5, "w\nw", 1)], delimiter=",", quotechar="'", quoting=csv.QUOTE_ALL, end="\r\n")
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory, rows, delimiter, quotechar, quoting, end
):
    text = io.StringIO(newline="")
    writer = csv.writer(
        text, delimiter=delimiter, quotechar=quotechar, quoting=quoting, lineterminator=end
    )
    writer.writerows([("number", "text", "small"), *rows])
    path = tmp_path_factory.getbasetemp() / "round.csv"
    path.write_bytes(text.getvalue().encode())
    form = TextFormat(delimiter=delimiter, quote=quotechar, decimal=".")
    table = read_table(path, form)
    assert table.names == ("number", "text", "small")
    numbers, texts, small = columns(table)
    assert [float(n) for n in numbers] == [float(row[0]) for row in rows]
    assert texts == [row[1] for row in rows]
    assert small == [row[2] for row in rows]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(), st.floats(-1e6, 1e6), WORDS), min_size=2, max_size=8),
    delimiter=DELIMITERS,
)
def test_the_dialect_is_sniffed_as_pandas_is_told_it(tmp_path_factory, rows, delimiter):
    plain = [(a, b, "".join(c for c in text if c.isalnum())) for a, b, text in rows]
    path = tmp_path_factory.getbasetemp() / "sniff.csv"
    frame = pd.DataFrame(plain, columns=["a", "b", "c"])
    frame.to_csv(path, sep=delimiter, index=False)
    table = read_table(path)
    assert table.names == ("a", "b", "c")
    expected = pd.read_csv(path, sep=delimiter)
    assert [float(v) for v in columns(table)[1]] == expected["b"].tolist()
    assert columns(table)[2] == expected["c"].tolist()
    assert list(map(str, columns(table)[0])) == frame["a"].map(str).tolist()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_table_or_an_error_of_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        table = read_table(path)
        assert isinstance(table.data, pa.Table)
        assert table.location(0, 0)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "6" * 10**6),
        ("a.csv", "6" * 10**6 + ",7"),
        ("a.csv", "1," * 2000 + "\n"),
        ("a.csv", "'," * 2000 + "\n"),
        ("a.csv", "' " * 10**5 + "\n"),
        ("a.csv", '"a\n' * 10**5 + "\n"),
        ("a.csv", " " * 10**6 + "x\n"),
        ("a.csv", "# " * 10**6 + "\n"),
        ("a.arff", "@attribute a string\n@data\n'a'" + " " * 10**6 + "b\n"),
        ("a.arff", "@attribute a string\n@data\na" + " " * 10**6 + "b\n"),
        ("a.arff", "@attribute a string\n@data\n{0 a" + " " * 10**6 + "b'\n"),
    ],
)
def test_nothing_takes_long(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    start = time.process_time()
    with contextlib.suppress(DataError):
        read_table(path)
    assert time.process_time() - start < 10
