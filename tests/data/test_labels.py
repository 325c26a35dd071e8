"""Labels: what they are taken for, several of them, missing ones, and the weights of rows."""

import numpy as np
import pytest

from xpnet.data import read
from xpnet.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

NAN = np.nan


def table(path, **columns):
    """Write a feature and other columns as CSV or Parquet; None is missing."""
    rows = len(next(iter(columns.values())))
    columns = {"a": [0.5 * k for k in range(rows)], **columns}
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path)
        return path
    lines = [columns, *zip(*columns.values(), strict=True)]
    path.write_text(
        "".join(",".join("" if v is None else str(v) for v in line) + "\n" for line in lines)
    )
    return path


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path):
    return tmp_path / f"t.{request.param}"


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["no", "yes"], ("no", "yes")),
        ([True, False], ("False", "True")),
        ([3, 1, 2], ("1", "2", "3")),
        (list(range(20)), tuple(map(str, range(20)))),
        (list(range(21)), None),
        ([0.5, 1.0], None),
    ],
)
def test_labels_are_classes_if_they_are_texts_or_few_whole_numbers(path, values, classes):
    got = read(table(path, y=values * 3))
    assert got.classes == classes
    asked = [n for n in got.columns.notes if "are they classes? --task classification" in n]
    assert asked == (
        ["label: y (21 whole numbers, 0 to 20) is taken for a regression; are they classes? "
         "--task classification"] if len(values) == 21 else []
    )  # fmt: skip
    if classes is None:
        assert got.y.tolist() == values * 3
    else:
        assert [classes[k] for k in got.y] == [str(v) for v in values * 3]


def test_arrays_are_judged_as_tables_are(tmp_path):
    y = np.arange(63) % 21
    np.savez(tmp_path / "a.npz", x=np.eye(63), y=y)
    got = read(tmp_path / "a.npz")
    assert got.classes is None
    assert "they (21 whole numbers, 0 to 20) is taken for a regression" in got.columns.notes[0]
    assert len(read(tmp_path / "a.npz", task="classification").classes) == 21
    np.savez(tmp_path / "b.npz", x=np.zeros((63, 4, 4)), y=y)
    assert len(read(tmp_path / "b.npz").classes) == 21  # a class of an image
    np.savez(tmp_path / "c.npz", x=np.eye(3), y=np.array(["1", "2", "1"]))
    assert read(tmp_path / "c.npz").classes == ("1", "2")
    np.save(tmp_path / "d.npy", np.column_stack([np.arange(4), [0.5, 1, 2, 3]]))
    assert read(tmp_path / "d.npy").y.tolist() == [0.5, 1, 2, 3]


def test_the_task_may_be_said(path):
    table(path, y=[1, 2, 3])
    assert read(path, task="regression").y.tolist() == [1, 2, 3]
    assert read(path, task="classification").classes == ("1", "2", "3")
    with pytest.raises(DataError, match="there is one label; multilabel takes several columns"):
        read(path, task="multilabel")
    table(path, y=list(range(30)))
    assert len(read(path, task="classification").classes) == 30
    table(path, y=["u", "v"])
    with pytest.raises(DataError, match="target 'u' is not a finite number"):
        read(path, task="regression")


def test_values_that_a_category_does_not_use_are_no_classes():
    y = pa.DictionaryArray.from_arrays([0, 2, 0], ["u", "never", "v"])
    assert read(pa.table({"a": [1.0, 2, 3], "y": y})).classes == ("u", "v")


def test_a_guess_that_cannot_be_a_label_is_refused(path):
    table(path, b=[1, 2] * 20, remark=[f"remark {k}" for k in range(40)])
    with pytest.raises(DataError, match=r"'remark' is taken for the label, the last column, but"):
        read(path)
    assert read(path, label="b").columns.feature_names == ("a",)
    assert len(read(path, label="remark").classes) == 40


def test_dates_are_no_labels(path):
    table(path, y=["2024-01-01", "2024-02-01"])
    if path.suffix == ".parquet":
        table(path, y=np.array(["2024-01-01", "2024-02-01"], "datetime64[s]"))
    for task in ("auto", "classification", "regression"):
        with pytest.raises(DataError, match=r"column 1 \('y'\): labels must be numbers or texts"):
            read(path, task=task)


@pytest.mark.parametrize("missing", ["refuse", "drop"])
@pytest.mark.parametrize("values", [["u", None, "v"], [1, None, 2], [1.5, None, 2.0]])
def test_rows_without_a_label_are_refused_or_dropped_and_counted(path, values, missing):
    table(path, y=values)
    if missing == "refuse":
        with pytest.raises(DataError, match=r"(line 3|row 1): the (label|target) is missing") as e:
            read(path)
        assert e.value.at_command_line.endswith("data.missing_labels=drop leaves such rows out")
        return
    got = read(path, missing_labels="drop")
    assert got.x.tolist() == [[0.0], [1.0]]
    assert "dropped 1 of 3 rows, which have no label" in got.columns.notes


# ------------------------------------------------------------------------------ several labels

SEVERAL = {"u": [1, 0, 0, 1], "v": [0, 1, 1, 0], "w": [0, 0, 0, 0]}


def test_columns_with_one_1_in_each_row_are_classes(path):
    got = read(table(path, **SEVERAL), label=["u", "v", "w"])
    assert (got.y.tolist(), got.y.dtype) == ([0, 1, 1, 0], np.int32)
    assert (got.classes, got.multilabel) == (("u", "v", "w"), False)
    said = "labels: u, v, w: each row has one 1, so they are taken for classes"
    assert said in got.columns.notes
    assert got.columns.feature_names == ("a",)
    assert got.columns.lines(got.classes)[0] == ("labels: u, v, w (3 classes: u, v, w); 1 feature")
    again = read(path, like=got.columns, classes=got.classes)
    assert again.y.tolist() == [0, 1, 1, 0]
    assert read(path, like=got.columns, label=None).x.shape == (4, 1)


def test_columns_of_0_and_1_are_several_labels(path):
    columns = {**SEVERAL, "w": [True, False, True, False]}
    got = read(table(path, **columns), label=["u", "v", "w"])
    assert got.y.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert (got.y.dtype, got.classes, got.targets) == (np.float64, None, ("u", "v", "w"))
    assert got.multilabel
    assert not read(path, label=["u", "v"], task="multilabel").classes
    with pytest.raises(DataError, match=r"(line 2|row 0): class labels must be .* got 2 of 3"):
        read(path, label=["u", "v", "w"], task="classification")
    again = read(path, like=got.columns, task="multilabel")
    assert again.y.tolist() == got.y.tolist()
    table(path, **{**columns, "v": [0, 1, 2, 0]})
    with pytest.raises(DataError, match=r"(line 4|row 2): several labels must be 0 or 1"):
        read(path, like=got.columns, task="multilabel")


def test_columns_of_numbers_are_regression_targets(path):
    columns = {"u": [1.5, 2, 3], "v": [4, 5, 6]}
    got = read(table(path, **columns), label=("v", 1))
    assert got.y.tolist() == [[4, 1.5], [5, 2], [6, 3]]
    assert (got.targets, got.classes, got.multilabel) == (("v", "u"), None, False)
    assert read(path, like=got.columns, task="regression").y.tolist() == got.y.tolist()
    with pytest.raises(DataError, match=r"no labels to score against, only the features \(no"):
        read(table(path, u=[1, 2]), like=got.columns)
    with pytest.raises(DataError, match="a label is named twice"):
        read(table(path, **columns), label=("u", 1))
    with pytest.raises(DataError, match=r"class labels must be \(N,\)"):
        read(table(path, **columns), label=("u", "v"), task="classification")
    table(path, u=[1.5, None, 3], v=[4, 5, 6])
    with pytest.raises(DataError, match=r"(line 3|row 1): the target is missing"):
        read(path, label=("u", "v"))
    assert read(path, label=("u", "v"), missing_labels="drop").y.tolist() == [[1.5, 4], [3, 6]]
    with pytest.raises(DataError, match="several labels must be numbers; got "):
        read(table(path, u=["p", "q"], v=[1, 2]), label=("u", "v"))


def test_arrays_have_several_labels_too(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    np.savez(tmp_path / "a.npz", x=x, y=np.eye(2)[[0, 1, 1, 0]])
    got = read(tmp_path / "a.npz")
    assert (got.y.tolist(), got.classes) == ([0, 1, 1, 0], ("0", "1"))
    np.savez(tmp_path / "b.npz", x=x, y=np.ones((4, 2), bool))
    assert (read(tmp_path / "b.npz").multilabel, read(tmp_path / "b.npz").y.dtype) == (True, float)
    np.save(tmp_path / "c.npy", np.column_stack([x, [0, 1, 2, 3], [0.5, 1, 2, 3]]))
    got = read(tmp_path / "c.npy", label=[3, 4], weight=0)
    assert got.x.tolist() == x[:, 1:].tolist()
    assert got.y.tolist() == [[0, 0.5], [1, 1], [2, 2], [3, 3]]
    assert got.weight.tolist() == x[:, 0].tolist()


# ------------------------------------------------------------------------------------ weights


def test_weights_come_from_a_column(path):
    columns = {"w": [1, 0, 2.5], "y": ["u", "v", "u"]}
    got = read(table(path, **columns), weight="w")
    assert (got.weight.tolist(), got.weight.dtype) == ([1, 0, 2.5], np.float64)
    assert got.columns.feature_names == ("a",)
    assert got.take([2, 0]).weight.tolist() == [2.5, 1]
    assert "weight: w" in got.columns.lines(got.classes)
    assert read(path, like=got.columns).weight.tolist() == [1, 0, 2.5]
    assert read(table(path, y=["u", "v"]), like=got.columns).weight is None


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1, None, 1], r"(line 3|row 1): the weight is missing"),
        ([1, 1, -2], r"(line 4|row 2): the weight is -2; weights are finite and at least 0"),
        ([1, np.inf, 1], r"(line 3|row 1), column 1 .'w'.: 'inf' is not a finite number"),
        (["x", "y", "z"], "weights must be numbers; got "),
        ([0, 0, 0], "all weights are 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused_with_their_row(path, weights, says):
    with pytest.raises(DataError, match=says):
        read(table(path, w=weights, y=["u", "v", "u"]), weight="w")


def test_labels_that_are_all_missing_are_so_in_several_blocks():
    a, y = pa.chunked_array([[1, 2], [3]]), pa.chunked_array([pa.nulls(2), pa.nulls(1)])
    with pytest.raises(DataError, match="row 0: the label is missing"):
        read(pa.table({"a": a, "y": y}))
