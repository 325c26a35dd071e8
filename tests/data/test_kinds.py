"""The kinds of columns: guessed from all rows, chosen, kept for later files, and shown."""

import csv
import datetime as dt
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpnet.data import Columns, fit_encoder, open_rows, read
from xpnet.data.survey import Survey
from xpnet.errors import CheckpointError, DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

NAN = np.nan
ROWS = 60


def parquet(path, columns):
    import pyarrow.parquet as pq

    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path)
    return path


def text(path, columns):
    """Write columns as a text file; None is an empty field."""
    rows = zip(*columns.values(), strict=True)
    lines = [columns, *(["" if v is None else str(v) for v in row] for row in rows)]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    return path


def every_kind(rows=ROWS):
    n = np.arange(rows)
    return {
        "size": [None if k % 7 == 3 else k / 4 for k in n.tolist()],
        "colour": [None if k % 10 == 1 else ("red", "green", "blue")[k % 3] for k in n.tolist()],
        "vip": [bool(k % 3) for k in n.tolist()],
        "when": [f"2024-{1 + k % 12:02}-{1 + k % 28:02}" for k in n.tolist()],
        "remark": [f"remark {k}" for k in n.tolist()],
        "id": n.tolist(),
        "country": ["DE"] * rows,
        "nothing": [None] * rows,
        "outcome": ["yes" if k % 4 else "no" for k in n.tolist()],
    }


def test_each_column_has_a_kind_and_its_values_are_those_of_pandas(tmp_path):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    got = read(text(tmp_path / "a.csv", every_kind()))
    columns = got.columns
    assert columns.feature_names == ("size", "colour", "vip", "when")
    assert columns.kinds == ("number", "category", "boolean", "date")
    assert columns.levels == ((), ("blue", "green", "red"), ("False", "True"), ())
    left_out = {columns.names[j]: why for j, why in columns.left_out}
    assert left_out == {
        "remark": "text of 60 values",
        "id": "row numbers",
        "country": "constant",
        "nothing": "empty",
    }
    frame = pd.read_csv(tmp_path / "a.csv", parse_dates=["when"])
    codes = frame["colour"].astype("category").cat.codes.replace(-1, NAN)
    seconds = (frame["when"] - pd.Timestamp(0)) / pd.Timedelta(seconds=1)
    expected = np.column_stack([frame["size"], codes, frame["vip"], seconds])
    np.testing.assert_array_equal(got.x, expected)
    assert (got.x.dtype, got.classes) == (np.float64, ("no", "yes"))


def test_every_column_is_described(tmp_path):
    got = read(text(tmp_path / "a.csv", every_kind()))
    rows = {row.column: row[1:] for row in got.columns.described}
    assert list(rows) == list(every_kind())
    assert rows["size"] == ("number", 9, "51", "0 to 14.5", "feature")
    assert rows["colour"][:3] == ("category", 6, "3")
    assert rows["vip"] == ("boolean", 0, "2", "False and True", "feature")
    assert rows["when"] == ("date", 0, "60", "2024-01-01 to 2024-12-24", "feature")
    assert rows["remark"][-1] == "left out: text of 60 values"
    assert (rows["id"][0], rows["id"][-1]) == ("id", "left out: row numbers")
    assert rows["nothing"] == ("constant", 60, "0", "", "left out: empty")
    assert rows["outcome"] == ("category", 0, "2", "yes, no", "label")
    lines = got.columns.lines(got.classes)
    assert "left out: remark (text of 60 values), country (constant), nothing (empty)" in lines
    assert "left out: id (row numbers): data.row_numbers = 'keep' keeps it" in lines


def test_a_kind_is_that_of_all_rows(tmp_path):
    size = [str(k / 2) for k in range(5000)]
    label = ["ab"[k % 2] for k in range(5000)]
    path = text(tmp_path / "a.csv", {"size": size, "other": range(0, 10000, 2), "y": label})
    assert read(path).columns.kinds == ("number", "number")
    size[4321] = "12O5"
    text(path, {"size": size, "other": range(0, 10000, 2), "y": label})
    with pytest.raises(DataError) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(
        f"{path}: line 4323, column 0 ('size'): '12O5' is not a number, as 4,999"
    )
    assert "category=['size']" in said
    command = caught.value.at_command_line
    assert command.endswith("--set data.text.missing='[\"12O5\"]', or --category size")
    from xpnet.data.tables import TextFormat

    got = read(path, text=TextFormat(missing=("12O5",)))
    assert np.isnan(got.x[4321, 0])
    assert got.columns.kinds == ("number", "number")
    with pytest.raises(DataError, match=r"line 4323, column 0 \('size'\): '12O5' is not a finite"):
        read(path, numeric=["size"])
    assert len(read(path, category=["size"]).columns.levels[0]) == 5000


def test_numbers_may_be_categories_and_any_column_ignored(tmp_path):
    columns = {"zip": [k % 5 + 1 for k in range(ROWS)], **every_kind()}
    path = text(tmp_path / "a.csv", columns)
    assert read(path).columns.kinds[0] == "number"
    for zip_code in ("zip", 0, "0"):
        got = read(path, category=[zip_code], ignore=["when", -2])
        assert got.columns.levels[0] == ("1", "2", "3", "4", "5")
        assert got.x[:6, 0].tolist() == [0, 1, 2, 3, 4, 0]
        assert got.columns.feature_names == ("zip", "size", "colour", "vip")
        assert (4, "ignored") in got.columns.left_out
    assert read(path, category=["remark", "country"]).columns.feature_names[-2:] == (
        "remark",
        "country",
    )
    with pytest.raises(DataError, match="no column 'siz'; did you mean 'size'"):
        read(path, ignore=["siz"])
    with pytest.raises(DataError, match="column 'zip' is to be numeric and a category, too"):
        read(path, numeric=["zip"], category=[0])
    with pytest.raises(DataError, match="column 'outcome' is to be two of these: label, weight"):
        read(path, label="outcome", ignore=["outcome"])
    with pytest.raises(DataError, match=r"'red' is not a finite number"):
        read(path, numeric=["colour"])


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_number_is_refused_with_its_place(tmp_path, value):
    size = [1.0] * 5 + [value, 2.0]
    path = parquet(tmp_path / "a.parquet", {"size": size, "y": list("abababa")})
    refused = rf"row 5, column 0 \('size'\): '{value}' is not a finite"
    with pytest.raises(DataError, match=refused):
        read(path)
    finite = parquet(tmp_path / "b.parquet", {"size": [1.0, 2.0], "y": ["a", "b"]})
    with pytest.raises(DataError, match=refused):  # in a later file, whose kinds are not guessed
        read(path, like=read(finite).columns)


def test_what_arrow_has_no_values_for_is_left_out(tmp_path):
    columns = {"a": [[1], [2, 3]], "b": [{"u": 1}, {"u": 2}], "c": [b"\xff", b"1"], "d": [1.5, 2]}
    got = read(parquet(tmp_path / "a.parquet", {**columns, "y": ["u", "v"]}))
    assert got.x.tolist() == [[1.5], [2]]
    reasons = dict(got.columns.left_out)
    assert reasons[0].startswith("list<")
    assert reasons[0].endswith("neither numbers nor texts")
    assert {*reasons} == {0, 1, 2}
    with pytest.raises(DataError, match=r"no column is left to learn from: a \(list<"):
        read(parquet(tmp_path / "b.parquet", {"a": columns["a"], "y": ["u", "v"]}))


def test_texts_that_spell_numbers_are_numbers_unless_they_are_few_categories(tmp_path):
    few, many = [str(k % 4) for k in range(90)], [str(k % 45) for k in range(90)]
    frame = pa.table({"p": few, "q": many, "y": ["u", "v", "v"] * 30})
    assert read(frame).columns.kinds == ("number", "number")
    coded = frame.set_column(0, "p", frame["p"].dictionary_encode())
    got = read(coded.set_column(1, "q", frame["q"].dictionary_encode()))
    assert got.columns.kinds == ("category", "number")
    assert got.columns.levels[0] == ("0", "1", "2", "3")
    many[3] = "3?"
    for values in (pa.array(many), pa.array(many).dictionary_encode()):
        with pytest.raises(DataError, match=r"table: row 3, column 0 \('q'\): '3\?' is not a num"):
            read(pa.table({"q": values, "y": ["u", "v", "v"] * 30}))


def test_a_category_of_dates_is_found_however_a_later_file_holds_them(tmp_path):
    first = {"due": ["2024-01-01", "2024-02-01", "never", "2024-01-01T06:00:00"] * 5}
    columns = read(pa.table({**first, "a": range(0, 40, 2), "y": ["u", "v"] * 10})).columns
    assert columns.kinds[0] == "category"
    later = np.array(["2024-02-01", "2024-01-01T06:00:00", "2024-03-01"], "datetime64[us]")
    got = read(pa.table({"due": later, "a": [1, 2, 3]}), like=columns, label=None)
    assert [columns.levels[0][int(k)] for k in got.x[:2, 0]] == [
        "2024-02-01",
        "2024-01-01T06:00:00",
    ]
    assert got.x[2, 0] == -1
    with pytest.raises(DataError, match="dates are not categories"):
        read(pa.table({"due": later, "a": [1, 2, 4], "y": [1, 2, 1]}), category=["due"])


@pytest.mark.parametrize("order", ["day", "month"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_dates_of_a_later_file_are_in_the_order_of_the_run(tmp_path, order, stream):
    def dated(name, texts):
        return text(tmp_path / name, {"when": texts, "a": [*range(len(texts))]})

    def later(source):
        if not stream or not hasattr(source, "suffix"):
            return read(source, like=columns, label=None).x
        rows = open_rows(source, like=columns, label=None)
        return rows.read(0, rows.shape[0]).x

    format_ = {"day": "%d/%m/%Y", "month": "%m/%d/%Y"}[order]
    days = [dt.datetime(2020, 1 + k % 12, 1 + k % 28) for k in range(40)]
    made = {"when": [day.strftime(format_) for day in days], "a": [*range(40)]}
    columns = read(text(tmp_path / "a.csv", {**made, "y": ["u", "v"] * 20})).columns
    assert columns.kinds == ("date", "number")
    assert Columns.of(json.loads(json.dumps(columns.meta()))).dates == order
    # 3/2 alone could be either.
    expected = dt.datetime(2020, *((2, 3) if order == "day" else (3, 2)), tzinfo=dt.UTC).timestamp()
    assert later(dated("b.csv", ["3/2/2020"]))[0, 0] == expected
    both = later(pa.table({"when": ["03/02/2020", "2020-02-03"], "a": [1, 2]}))[:, 0]
    assert both.tolist() == [expected, dt.datetime(2020, 2, 3, tzinfo=dt.UTC).timestamp()]
    assert (
        later(dated("c.csv", ["2020-02-03"]))[0, 0]
        == dt.datetime(2020, 2, 3, tzinfo=dt.UTC).timestamp()
    )
    other = {"day": "1/31/2020", "month": "31/1/2020"}[order]
    with pytest.raises(
        DataError, match=f"line 3, .*'{other}' is not a date as in the run, {order},"
    ):
        later(dated("d.csv", ["3/2/2020", other]))


def test_texts_that_may_be_dates_stay_texts_in_a_later_file(tmp_path):
    due = ["1/2/2020", "2/3/2020"] * 20
    first = text(tmp_path / "a.csv", {"due": due, "a": [*range(40)], "y": ["u", "v"] * 20})
    columns = read(first).columns
    assert columns.levels[0] == ("1/2/2020", "2/3/2020")
    later = text(tmp_path / "b.csv", {"due": ["2/3/2020", "31/3/2020"], "a": [1, 2]})
    assert read(later, like=columns, label=None).x[:, 0].tolist() == [1, -1]


def test_a_kind_cannot_be_chosen_for_the_label(tmp_path):
    path = text(tmp_path / "a.csv", every_kind())
    with pytest.raises(DataError, match="column 'outcome' is no feature, so it cannot be a categ"):
        read(path, category=["outcome"])


def test_texts_without_end_are_not_kept(monkeypatch):
    monkeypatch.setattr("xpnet.data.survey.MAX_LEVELS", 50)
    texts = pa.chunked_array([[f"{c} {k}" for k in range(40)] for c in "abcdefgh"])
    survey = Survey().add(texts)
    assert (survey.rows, survey.numbers, survey.is_complete) == (320, 0, False)
    assert len(survey.texts) == 80
    numbers = [[str(k) for k in range(c, c + 40)] for c in range(0, 320, 40)]
    numbers[5][7], numbers[6][1] = "x", " ? "
    survey = Survey().add(pa.chunked_array(numbers))
    assert (survey.numbers, survey.missing, survey.first_text) == (318, 1, (207, "x"))
    with pytest.raises(DataError, match=r"row 207, column 0 .*'x' is not a number, as 318 of the"):
        read(pa.table({"a": pa.chunked_array(numbers), "y": ["u", "v"] * 160}))


def test_texts_that_stand_for_a_missing_value_do_so_in_every_format(tmp_path):
    p = ["1.5", "?", "2", " NA ", "", "nan", "7"] * 10
    q = ["red", "?", "None", "blue", "NULL", "red", ""] * 10
    columns = {"p": p, "q": q, "y": ["u", "v"] * 35}
    expected = read(text(tmp_path / "a.csv", columns))
    got = read(pa.table(columns))
    np.testing.assert_array_equal(got.x, expected.x)
    np.testing.assert_array_equal(got.x[:7, 0], [1.5, NAN, 2, NAN, NAN, NAN, 7])
    np.testing.assert_array_equal(got.x[:7, 1], [1, NAN, NAN, 0, NAN, 1, NAN])
    assert got.columns.kinds == expected.columns.kinds == ("number", "category")
    assert got.columns.described == expected.columns.described
    later = read(pa.table(columns), like=expected.columns)
    np.testing.assert_array_equal(later.x, expected.x)


def test_tables_in_memory_are_read_as_files_are(tmp_path):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    pl = pytest.importorskip("polars", reason="polars is not installed")
    expected = read(text(tmp_path / "a.csv", every_kind()))
    frame = pd.read_csv(tmp_path / "a.csv", parse_dates=["when"])
    for table in (frame, pa.Table.from_pandas(frame), pl.from_pandas(frame), pl.DataFrame(frame)):
        got = read(table)
        np.testing.assert_array_equal(got.x, expected.x)
        assert got.y.tolist() == expected.y.tolist()
        assert got.columns.kinds == expected.columns.kinds
        assert got.columns.levels == expected.columns.levels
        later = read(table[:5], like=expected.columns, label=None)
        np.testing.assert_array_equal(later.x, expected.x[:5])
    kept = read(frame[frame["vip"]], row_numbers="drop")  # its index is no feature
    assert kept.columns.feature_names == ("size", "colour", "when", "id")
    got = read(frame.astype({"colour": "category"}))
    np.testing.assert_array_equal(got.x, expected.x)
    with pytest.raises(DataError, match="table: expected a table of pandas, polars or pyarrow"):
        read(3)


def test_a_feature_that_never_varies_is_better_than_none(tmp_path):
    got = read(parquet(tmp_path / "a.parquet", {"a": [3, 3], "y": ["u", "v"]}))
    assert got.x.tolist() == [[3], [3]]


def test_narrow_numbers_stay_narrow_where_nothing_is_missing(tmp_path):
    columns = {"a": np.array([1, 2], "f4"), "b": np.array([3, 4], "u1"), "y": ["u", "v"]}
    assert read(parquet(tmp_path / "a.parquet", columns)).x.dtype == np.float32
    columns["b"] = pa.array([3, None], pa.uint8())
    got = read(parquet(tmp_path / "a.parquet", columns))
    assert got.x.dtype == np.float64
    np.testing.assert_array_equal(got.x, [[1, 3], [2, NAN]])


# -------------------------------------------------------------------------------- later files


def trained(tmp_path):
    return read(text(tmp_path / "train.csv", every_kind())).columns


def later(tmp_path, columns, **changes):
    rows = {k: v[:4] for k, v in every_kind().items()} | changes
    return read(text(tmp_path / "later.csv", rows), like=columns, label=None)


def test_a_later_file_keeps_the_kinds_and_levels_of_the_run(tmp_path):
    columns = trained(tmp_path)
    whole = read(tmp_path / "train.csv")
    got = later(tmp_path, columns)
    np.testing.assert_array_equal(got.x, whole.x[:4])
    assert (got.columns.kinds, got.columns.levels) == (columns.kinds, columns.levels)
    got = later(tmp_path, columns, colour=["red", "pink", None, "blue"], size=[None] * 4)
    np.testing.assert_array_equal(got.x[:, 1], [2, -1, NAN, 0])
    assert np.isnan(got.x[:, 0]).all()
    got = later(tmp_path, columns, colour=[None] * 4, vip=["TRUE", "false", "", "true"])
    assert np.isnan(got.x[:, 1]).all()
    np.testing.assert_array_equal(got.x[:, 2], [1, 0, NAN, 1])
    np.testing.assert_array_equal(later(tmp_path, columns, vip=[1, 0, 2, 1]).x[:, 2], [1, 0, -1, 1])
    got = later(tmp_path, columns, colour=[1, 2, 3, 4])
    assert got.x[:, 1].tolist() == [-1] * 4


def test_a_text_among_the_numbers_of_a_later_file_is_an_error_with_its_place(tmp_path):
    columns = trained(tmp_path)
    with pytest.raises(DataError, match=r"line 3, column 0 \('size'\): 'big' is not a finite num"):
        later(tmp_path, columns, size=[1, "big", 3, 4])
    with pytest.raises(DataError, match=r"line 2, column 3 \('when'\): 'soon' is not a date"):
        later(tmp_path, columns, when=["soon", "2024-01-01", None, None])
    with pytest.raises(DataError, match=r"line 2, column 3 \('when'\): '7' is not a date"):
        later(tmp_path, columns, when=[7, 8, 9, 9])
    with pytest.raises(DataError, match=r"column 0 \('size'\): '2024-01-01.*' is not a finite num"):
        later(tmp_path, columns, size=["2024-01-01"] * 4)


def test_levels_that_are_numbers_are_found_however_they_are_spelled(tmp_path):
    first = {"code": ["01", "2", "3", "x"] * 5, "b": range(0, 40, 2), "y": ["u", "v"] * 10}
    columns = read(text(tmp_path / "a.csv", first), category=["code"]).columns
    assert columns.levels[0] == ("01", "2", "3", "x")
    path = text(tmp_path / "b.csv", {"code": ["1", "2.0", "3", "4"], "b": range(4)})
    assert read(path, like=columns, label=None).x[:, 0].tolist() == [0, 1, 2, -1]
    path = parquet(tmp_path / "b.parquet", {"code": [2.0, None, 1.0], "b": [1, 2, 3]})
    np.testing.assert_array_equal(read(path, like=columns, label=None).x[:, 0], [1, NAN, 0])


def test_a_run_of_an_earlier_version_takes_numbers_without_gaps(tmp_path):
    like = Columns((0, 1), (2,), ("a", "b", "y"))
    path = text(tmp_path / "a.csv", {"a": [1, 2], "b": [3, ""], "y": ["u", "v"]})
    with pytest.raises(DataError, match=r"line 3, column 1 \('b'\): the value is missing"):
        read(path, like=like)
    text(path, {"a": [1, 2], "b": [3, 4], "y": ["u", "v"]})
    assert read(path, like=like).x.tolist() == [[1, 3], [2, 4]]


def test_columns_are_kept_as_json(tmp_path):
    columns = read(text(tmp_path / "a.csv", every_kind()), weight="id").columns
    again = Columns.of(json.loads(json.dumps(columns.meta())))
    assert again.meta() == columns.meta()
    assert again.kinds == columns.kinds
    assert again.levels == columns.levels


def test_columns_of_an_earlier_version_had_one_label_and_no_kinds():
    meta = {"features": [0, 2], "label": 1, "names": ["a", "y", "b"], "left_out": [], "guess": ""}
    columns = Columns.of({**meta, "notes": [], "arrays": None})
    assert (columns.labels, columns.kinds, columns.levels) == ((1,), (), ())
    assert Columns.of({**meta, "label": None, "left_out": [[1, "no"]], "notes": [],
                       "arrays": None}).labels == ()  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": ["number"]},
        {"kinds": ["number", "category", "boolean", "flag"]},
        {"kinds": ["text", "category", "boolean", "date"]},
        {"kinds": 3},
        {"levels": []},
        {"levels": [["a"], [], [], []]},
        {"levels": [[], ["a", "a"], ["False", "True"], []]},
        {"levels": [[], ["a"], ["no", "yes"], []]},
        {"weight": 3},
        {"weight": "size"},
        {"dates": "week"},
        {"dates": 3},
        {"labels": [0]},
        {"labels": "outcome"},
    ],
)
def test_kinds_that_make_no_sense_are_refused(change, tmp_path):
    meta = trained(tmp_path).meta()
    with pytest.raises(CheckpointError, match="the checkpoint's columns are invalid"):
        Columns.of({**meta, **change})


# ------------------------------------------------------------------------------- giveaways


def test_a_column_that_alone_determines_the_label_is_pointed_out(tmp_path):
    t = every_kind()
    t["alive"] = ["living" if v == "yes" else "dead" for v in t["outcome"]]
    t["code"] = [{"yes": 3, "no": 8}[v] for v in t["outcome"]]
    got = read(text(tmp_path / "a.csv", t), label="outcome")
    said = [note for note in got.columns.notes if "alone determines" in note]
    assert said == [
        f"'{name}' alone determines the label: if it gives the answer away, --ignore {name}"
        for name in ("alive", "code")
    ]
    t["alive"][30] = "dead" if t["alive"][30] == "living" else "living"
    got = read(text(tmp_path / "a.csv", t), label="outcome", ignore=["code"])
    assert not [note for note in got.columns.notes if "alone" in note]


# ------------------------------------------------------------------------ whatever is in it

CELLS = st.sampled_from([  # no number in two spellings
    *("", "a", " b ", "B", "01", "-0", "2e3", "nan", "?", "True", "false", "x,y", "é", "0x10"),
    *("2024-01-01", "2024-02-30", "01/02/2024", "9007199254740993", "1e400", "7.50"),
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rows=st.integers(4, 30), category=st.booleans())
@pytest.mark.long
def test_a_file_read_again_by_its_own_columns_gives_the_same_rows(
    tmp_path_factory, data, rows, category
):
    some = data.draw(st.lists(CELLS, min_size=1, max_size=4))
    cells = st.lists(st.sampled_from(some), min_size=rows, max_size=rows)
    columns = {"p": data.draw(cells), "q": data.draw(cells), "n": [str(k * k) for k in range(rows)]}
    path = tmp_path_factory.getbasetemp() / "again.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [[*columns, "y"], *zip(*columns.values(), "uv" * rows, strict=False)]
        )
    try:
        first = read(path, label="y", header=True, category=["p"] if category else [])
    except DataError:
        return
    assert not np.isinf(first.x).any()
    again = read(path, like=first.columns, header=True)
    np.testing.assert_array_equal(again.x, first.x)
    part = text(
        path.with_name("part.csv"), {k: v[:4] for k, v in columns.items() if "," not in "".join(v)}
    )
    if {"p", "q"} <= {*part.read_text().splitlines()[0].split(",")}:
        later = read(part, like=first.columns, header=True, label=None)
        np.testing.assert_array_equal(later.x, first.x[:4])
    encoder = fit_encoder(first.x, first.columns, "standard")
    assert np.isfinite(encoder.apply(first.x)).all()
    assert encoder.unseen(first.x) == {}
