"""Predictions and whole fits beside other libraries, too small to say anything about speed."""

import json
import sys

import numpy as np
import pytest

from xpnet.bench import Setting, measure
from xpnet.bench.contenders import FIT, PREDICT, comparison
from xpnet.bench.fits import parse_fit
from xpnet.bench.measure import Expectation
from xpnet.bench.predictions import parse_prediction, standard_predictions
from xpnet.cli.main import main
from xpnet.errors import BackendError, ConfigError

CPU = Setting()
FEW = parse_prediction("4-5-3:2")
MANY = parse_prediction("4-5-3:2500")  # three batches, the last one ragged


def contender(make, workload, setting=CPU):
    try:
        return make(workload, setting)
    except BackendError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", PREDICT)
@pytest.mark.parametrize("prediction", [FEW, MANY], ids=str)
def test_every_contender_predicts_the_same(name, prediction):
    expected = PREDICT["xpnet numpy"](prediction, CPU).step()
    taken = contender(PREDICT[name], prediction)
    for _ in range(2):
        found = taken.step()
    assert found.shape == (prediction.rows, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert taken.note()


@pytest.mark.parametrize("name", FIT)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_every_contender_fits_the_digits(name, rule):
    fit = parse_fit(f"digits:16:8:{rule}:2")
    taken = contender(FIT[name], fit)
    taken.step()
    assert 0.25 < taken.score() <= 1
    assert taken.note()


@pytest.fixture
def slope(tmp_path):
    """A table whose last column is the sum of the others."""
    x = np.random.default_rng(0).normal(size=(400, 3))
    rows = np.column_stack([x, x.sum(axis=1)])
    np.savetxt(tmp_path / "slope.csv", rows, delimiter=",", header="a,b,c,sum", comments="")
    return tmp_path / "slope.csv"


@pytest.mark.parametrize("name", FIT)
def test_every_contender_fits_a_regression(name, slope):
    fit = parse_fit(f"{slope}:16:16:adam:20", ["data.task=regression"])
    taken = contender(FIT[name], fit)
    taken.step()
    assert fit.score == "R²"
    assert 0.6 < taken.score() <= 1


def test_a_fit_has_a_seed_of_its_own_and_a_median_score():
    taken = FIT["xpnet numpy"](parse_fit("digits:4:64:adam:1"), CPU)
    scores = []
    for _ in range(2):
        taken.step()
        scores.append(taken.score())
    again = FIT["xpnet numpy"](parse_fit("digits:4:64:adam:1"), CPU)
    again.step()
    assert scores[0] != scores[1]
    assert scores[0] == again.score()


@pytest.mark.parametrize(
    ("table", "name", "row", "said"),
    [
        (FIT, "PyTorch eager", "digits:4:64:lion:1", "supports sgd, adam, adamw; got lion"),
        (FIT, "scikit-learn", "digits:4:64:adamw:1", "supports sgd, adam; got adamw"),
        (FIT, "Keras", "digits:4:64:lion:1", "rmsprop; got lion"),
        (PREDICT, "scikit-learn", "4-3-2:1", "needs three classes"),
    ],
)
def test_what_a_contender_cannot_do_it_says(table, name, row, said):
    workload = (parse_fit if table is FIT else parse_prediction)(row)
    measured = measure(
        workload,
        {n: lambda w, n=n: table[n](w, CPU) for n in ("xpnet numpy", name)},
        rounds=1,
    )
    why = measured.absent[name]
    assert said in why or "pip install" in why
    condition = Expectation.parse(f"{row} ratio/{name}<1", workload.base)
    assert condition.failure(measured, "xpnet numpy") == f"{row}: {name} was not timed"


def test_the_many_rows_fit_the_memory_and_the_patience(monkeypatch):
    found = [*map(str, standard_predictions())]
    assert found[:2] == ["64-32-10:1", "64-32-10:1000000"]
    assert found[-1] == "784-2500-2000-1500-1000-500-10:10000"
    monkeypatch.setattr("xpnet.bench.predictions.host_memory", lambda: 2**24)
    assert [*map(str, standard_predictions())][1] == "64-32-10:10000"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fit", "--predict"], "choose one"),
        (["--set", "data.label=a"], "--set is for the data of --fit"),
        (["--fit", "--set", "epochs=3"], "--set is for data.KEY=VALUE"),
        (["--fit", "--rows", "digits:16:64:adam"], "--rows must be DATA:HIDDEN:BATCH:OPTIMIZER"),
        (["--fit", "--rows", "digits:16:64:adem:1"], "did you mean 'adam'?"),
        (["--fit", "--rows", "digit:16:64:adam:1"], "no data set or file 'digit'"),
        (["--fit", "--set", "data.test_fraction=0"], "rows in memory to train on and to test on"),
        (["--fit", "--device", "cuda"], "a fit is timed on the CPU"),
        (["--predict", "--precision", "bfloat16"], "a prediction is timed on the CPU"),
        (["--predict", "--rows", "784-10:32:adam"], "--rows must be WIDTHS:ROWS"),
        (["--predict", "--only", "Keras"], "unknown contender 'Keras'"),
        (["--predict", "--profile"], "it has nothing to say of a prediction"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--rounds", "1", *arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed


def test_a_setting_without_a_fit_is_refused():
    with pytest.raises(ConfigError):
        comparison("fit", Setting("cpu", "float16"))


@pytest.mark.parametrize(
    ("mode", "row", "key"),
    [("--predict", "4-5-3:2", "network"), ("--fit", "digits:4:64:adam:1", "fit")],
)
@pytest.mark.parametrize(("bound", "code"), [("1000000", 0), ("0.000001", 1)])
def test_the_command_writes_its_reports_and_exits_by_its_conditions(
    mode, row, key, bound, code, tmp_path, capsys
):
    pytest.importorskip("sklearn", reason="the other contender")
    files = {"--json-file": "b.json", "--markdown": "b.md"}
    words = [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    words += ["--rows", row, "--only", "xpnet numpy", "--only", "scikit-learn", "--rounds", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", mode, *words, "--expect", f"ratio/scikit-learn<{bound}"])
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert f"{row}, float32 on cpu" in printed.out
    assert ("not as expected" in printed.err) == bool(code)
    data = json.loads((tmp_path / "b.json").read_text("utf-8"))
    assert data["machine"]["versions"]["scikit-learn"]
    (found,) = data["rows"]
    assert found[key] == row
    assert found["timings"]["xpnet numpy"]["ratio"] == 1
    assert "tflops" not in found["timings"]["scikit-learn"]
    text = (tmp_path / "b.md").read_text("utf-8")
    assert f"| {row} |" in text
    assert "the ratio to xpnet numpy" in text
    if mode == "--fit":
        assert found["rows"] == {"train": 1438, "test": 359}
        assert 0 < found["timings"]["scikit-learn"]["score"] < 1
        assert "Accuracy (of a regression, R²)" in text


def test_a_contender_that_is_not_installed_is_named_with_what_to_install(monkeypatch):
    for module in ("onnxruntime", "keras"):
        monkeypatch.setitem(sys.modules, module, None)
    for table, name, workload in (
        (PREDICT, "onnxruntime", FEW),
        (FIT, "Keras", parse_fit("digits:4:64:adam:1")),
    ):
        makes = {n: lambda w, n=n, t=table: t[n](w, CPU) for n in ("xpnet numpy", name)}
        row = measure(workload, makes, rounds=1)
        assert "pip install '" in row.absent[name]
