"""Whole libraries compared on tables: with fake peers, and on made-up scores."""

import gzip
import importlib.util
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from xpnet.bench import table_peers, tables
from xpnet.bench.samples import SAMPLES
from xpnet.bench.table_peers import BASE, REAL_MLP, SKLEARN_MLP, Fitted
from xpnet.bench.table_race import Cell, Racer, scored
from xpnet.bench.table_scores import (
    broken_bars,
    mean_ranks,
    results,
    standard_error,
    to_json,
    to_markdown,
)
from xpnet.bench.tables import TABLES, Table, tables_named, write_split
from xpnet.errors import BackendError, ConfigError

pd = pytest.importorskip("pandas")
metrics = pytest.importorskip("sklearn.metrics")

SCRIPT = Path(__file__).parents[2] / "scripts/bench_tables.py"
FEW = Table("few", "few.csv", label=0, header=True, ignore=("answer",))


@pytest.fixture
def folder(tmp_path):
    """A table of 40 rows with texts, a "?", and a column that gives the label away."""
    rows = [f"{'yn'[i % 2]},{'?' if i == 3 else i},0{i % 3},{i % 2}" for i in range(40)]
    (tmp_path / "few.csv").write_text("\n".join(["good,n,code,answer", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("bench_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def knowing(job):
    """A peer that is always right: in this table, rows and classes alternate."""
    number = pd.read_csv(job.test)["n"].fillna(3).to_numpy(int)
    assert not (set(pd.read_csv(job.test)) & {"good", "answer"})
    return Fitted(lambda: np.eye(2)[1 - number % 2], ("n", "y"))


def wrong(job):
    return Fitted(lambda: 1 - knowing(job).predict(), ("n", "y"))


def slow(job):
    if job.labels == ("good",):  # not in the warm-up
        time.sleep(30)


def dying(job):
    os._exit(3)


def failing(job):
    msg = "no such\nluck"
    raise ValueError(msg)


def threads_of(job):
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    msg = " ".join([str(job.threads), *(os.environ[name] for name in names)])
    raise ValueError(msg)


def raced(peer, folder, timeout=60.0, **options):
    racer = Racer("it", peer, options.get("threads", 1), timeout)
    try:
        return [racer.run(split, folder) for split in FEW.splits(2, folder)]
    finally:
        racer.end()


def test_a_table_is_divided_by_seed_and_class_and_the_answers_are_kept_back(folder, tmp_path):
    one, two = FEW.splits(2, folder)
    again = next(iter(FEW.splits(1, folder)))
    np.testing.assert_array_equal(one.test, again.test)
    assert set(one.test) != set(two.test)
    assert sorted([*one.train, *one.test]) == list(range(40))
    truth = write_split(one, folder, tmp_path)
    assert sorted(truth) == ["n"] * 5 + ["y"] * 5
    train, test = (pd.read_csv(tmp_path / f"{n}.csv", dtype=str) for n in ("train", "test"))
    assert list(train) == ["good", "n", "code"]
    assert list(test) == ["n", "code"]
    assert train["code"].str.len().eq(2).all()  # "01" is a text, and stays one
    assert train["n"].isna().sum() + test["n"].isna().sum() == 1  # the "?"


def test_the_usual_split_is_the_first_rows(folder):
    table = Table("few", "few.csv", label=0, header=True, train_rows=30)
    parts = list(table.splits(10, folder))
    assert len(parts) == 3
    assert all(list(part.test) == list(range(30, 40)) for part in parts)


def test_the_tables_of_scikit_learn_need_no_folder(tmp_path):
    for name, targets in (("digits", 1), ("linnerud", 3)):
        frame, labels = TABLES[name].frame(tmp_path)
        assert len(labels) == targets
        split = next(iter(TABLES[name].splits(1, tmp_path)))
        truth = write_split(split, tmp_path, tmp_path)
        assert len(truth) == len(split.test) == -(-len(frame) // 4)


@pytest.fixture
def large(tmp_path):
    """A file of 3,000 images for each data set, whose brightness is unique and tells the class."""
    y = np.arange(3000) % 10
    for name in ("mnist", "fashion-mnist"):
        (tmp_path / name).mkdir()
        x = np.zeros((3000, 28, 28), np.uint8)
        x[:, :14] = y[:, None, None] * 20
        x[:, 14:, :14] = (np.arange(3000) % 256)[:, None, None]
        x[:, 14:, 14:] = (np.arange(3000) // 256)[:, None, None]
        for kind, array in (("images-idx3", x), ("labels-idx1", y.astype(np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(
                n.to_bytes(4, "big") for n in array.shape
            )
            path = tmp_path / name / f"train-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes(), 1))
    return tmp_path


def test_a_sample_is_drawn_by_seed_from_classes_of_a_large_data_set(large):
    for name, sample in SAMPLES.items():
        if sample.source.startswith("letter"):
            continue
        draws = [*sample.splits(2, large)]
        again = next(sample.splits(1, large)).table.frame(large)[0]
        pd.testing.assert_frame_equal(draws[0].table.frame(large)[0], again)
        for draw in draws:
            frame, (label,) = draw.table.frame(large)
            assert list(draw.train) == list(range(sample.rows))
            assert list(draw.test) == list(range(sample.rows, len(frame)))
            known = frame.columns[: len(frame.columns) - 1 - sample.noise]
            assert len(known) == (28 // sample.side) ** 2
            assert not frame.duplicated(known).any()
            classes = frame[label].groupby(frame["x0"])  # of the brightness above
            most = classes.agg(lambda of: of.value_counts().index[0])
            assert most.nunique() == sample.classes
            grouped = sample.classes == 2 and draw.seed == 1
            assert len(most) == (8 if grouped else sample.classes)
            wrong = (frame[label] != most[frame["x0"]].to_numpy()).mean()
            expected = sample.wrong * (1 - 1 / sample.classes)  # some are drawn right again
            assert abs(wrong - expected) < 0.04, name


def test_a_sample_of_letter_is_of_its_training_rows(tmp_path):
    rows = [f"{'AB'[i % 2]},{int(i >= 16_000)},{i % 7}" for i in range(20_000)]
    (tmp_path / "letter").mkdir()
    (tmp_path / TABLES["letter"].source).write_text("\n".join(rows))
    sample = next(s for n, s in SAMPLES.items() if n.startswith("letter, 2 classes, 120"))
    frame, _ = next(sample.splits(1, tmp_path)).table.frame(tmp_path)
    assert frame.shape == (120 + 1500, 3)
    assert not frame["x0"].any()


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*--data"):
        next(SAMPLES["letter, 3 classes, 150 rows"].splits(1, tmp_path))
    with pytest.raises(ConfigError, match="did you mean 'iris'"):
        tables_named(["iriss"])
    with pytest.raises(ConfigError, match="by --data"):
        next(iter(TABLES["iris"].splits(1, tmp_path)))
    with pytest.raises(BackendError, match="pip install no_such"):
        tables.installed("no_such.module")


@pytest.mark.parametrize(("peer", "accuracy"), [(knowing, 1.0), (wrong, 0.0)])
def test_a_peer_is_scored_on_the_test_rows(peer, accuracy, folder):
    for cell in raced(peer, folder):
        assert cell.failure == ""
        assert cell.scores["accuracy"] == accuracy
        assert cell.seconds > 0
        assert cell.warnings == 0


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        (failing, "ValueError: no such"),
        (dying, "its process died"),
        (slow, "not done after 1 s"),
        (threads_of, "ValueError: 2 2 2"),
    ],
)
@pytest.mark.long
def test_a_peer_without_a_result_is_shown_as_such(peer, why, folder):
    cells = raced(peer, folder, timeout=1.0 if peer is slow else 60.0, threads=2)
    assert [cell.failure for cell in cells] == [why] * 2
    assert why in to_markdown(cells, "").replace("\\", "")
    assert results(cells) == {}


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, classes = rng.choice(["a", "b", "c"], 50), ("c", "a", "b")
    p = rng.dirichlet(np.ones(3), 50)
    found = scored(truth, p, classes)
    answers = np.asarray(classes)[p.argmax(1)]
    assert found["accuracy"] == metrics.accuracy_score(truth, answers)
    assert found["macro F1"] == pytest.approx(metrics.f1_score(truth, answers, average="macro"))
    assert found["log loss"] == pytest.approx(metrics.log_loss(truth, p[:, [1, 2, 0]]))
    y, z = rng.normal(size=(2, 9, 2))
    assert scored(y, z, None) == {"R²": pytest.approx(metrics.r2_score(y, z))}


def test_a_class_that_the_peer_never_saw_is_a_miss():
    found = scored(np.array(["a", "z"]), np.array([[0.5, 0.25], [1.0, 0.0]]), ("a", "b"))
    assert found["accuracy"] == 0.5
    assert found["log loss"] == pytest.approx(-(np.log(0.5) + np.log(1e-7)) / 2)


def cells(peer, scores, seconds=1.0, metric="accuracy"):
    """Fits of tables t0, t1, ... with these scores for seeds 0, 1, ..."""
    return [
        Cell(f"t{t}", seed, peer, {metric: score}, seconds)
        for t, of_table in enumerate(scores)
        for seed, score in enumerate(of_table)
    ]


def test_ranks_and_errors():
    found = results(
        [*cells(BASE, [[0.9, 0.7], [0.5]]), *cells("b", [[0.8, 0.8], [0.6]]), *cells("c", [[0, 0]])]
    )
    ranks = mean_ranks({k: v for k, v in found.items() if k[1] != "c"})
    assert ranks == {BASE: 1.75, "b": 1.25}  # t0 is shared
    assert mean_ranks(found) == {BASE: 1.5, "b": 1.5, "c": 3.0}  # of t0 alone
    assert found["t0", BASE].mean == pytest.approx(0.8)
    assert found["t0", BASE].error == pytest.approx(statistics.stdev([0.9, 0.7]) / 2**0.5)
    assert standard_error([0.3]) == 0


GOOD = [[0.9, 0.8]] * 5
HELD = (cells(SKLEARN_MLP, [[0.8, 0.7]] * 5), cells(REAL_MLP, [[0.9, 0.8]] * 5, 10.0))


@pytest.mark.parametrize(
    ("ours", "mlp", "real", "missed"),
    [
        (cells(BASE, GOOD), *HELD, []),
        (cells(BASE, GOOD, 2.1), *HELD, ["mean time 2.10 s; expected 20% of RealMLP-TD-S's 10.00"]),
        (cells(BASE, [[0.88, 0.8]] * 5), HELD[0], cells(REAL_MLP, GOOD, 10.0), ["mean score 0.84"]),
        (cells(BASE, [*GOOD[1:], [0.8, 0.69]]), HELD[0], [], ["RealMLP-TD-S was not compared"]),
        (
            cells(BASE, [*GOOD[1:], [0.7, 0.7]]),
            HELD[0],
            HELD[1],
            ["mean score"],  # and 0.05 behind scikit-learn's, as much as the standard error
        ),
        (
            cells(BASE, [*GOOD[2:], [0.79, 0.69], [0.79, 0.69]]),
            HELD[0],
            cells(REAL_MLP, GOOD[:1], 10.0),
            ["ahead of scikit-learn MLP on 60%", "t3: 0.0100 behind", "t4: 0.0100 behind"],
        ),
        (
            cells(BASE, [[0.8, 0.7]] * 5),
            HELD[0],
            HELD[1],
            ["mean rank 1.50", "ahead", "mean score"],
        ),
        (cells(BASE, GOOD[1:]), *HELD, ["t4: xpnet has no result", "t4: xpnet has no result"]),
    ],
)
def test_the_bars(ours, mlp, real, missed):
    said = broken_bars(results([*ours, *mlp, *real]))
    assert len(said) == len(missed)
    assert all(part in line for part, line in zip(missed, said, strict=True))


def test_a_hopeless_regression_counts_as_the_mean_in_means_over_tables():
    found = results(cells(BASE, [[-9.0]], metric="R²"))
    assert found["t0", BASE].counted == 0
    assert found["t0", BASE].mean == -9


def test_the_report_holds_the_numbers():
    made = [*cells(BASE, GOOD), *HELD[0], *HELD[1], Cell("t0", 0, "x", failure="a|b")]
    text = to_markdown(made, "How.")
    assert "| t0 | 0.8500 ± 0.0500 | 0.7500 ± 0.0500 | 0.8500 ± 0.0500 |" in text
    assert f"| {SKLEARN_MLP} | 3.00 | 0.7500 | 1.00 | 0 |" in text
    assert "All held." in text
    assert "- t0, x: a\\|b" in text
    report = json.loads(json.dumps(to_json(made, {"threads": 1})))
    assert report["bars missed"] == []
    assert report["mean ranks"][BASE] == 1.5
    assert len(report["fits"]) == len(made)


@pytest.mark.long
def test_the_script_fits_real_peers_and_writes_its_reports(script, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(TABLES, "few", FEW)
    options = ["--data", str(folder), "--tables", "few", "--splits", "2", "--report", str(tmp_path)]
    options += ["--peers", "boosting,linear", "--cells", str(tmp_path / "cells")]
    assert script.main(options) == 1  # xpnet was not compared with anything
    report = json.loads((tmp_path / "bench-tables.json").read_text())
    assert {fit["peer"] for fit in report["fits"]} == {"boosting", "linear"}
    assert not any(fit["failure"] for fit in report["fits"])
    assert "scikit-learn MLP was not compared with" in (tmp_path / "bench-tables.md").read_text()
    monkeypatch.setattr(Racer, "run", None)  # all are in the file of cells
    assert script.main(options) == 1


def test_the_script_refuses_in_one_line(script, tmp_path, capsys):
    assert script.main(["--data", str(tmp_path), "--tables", "iris"]) == 2
    assert "error: no table" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["--data", str(tmp_path), "--peers", "linea"])
    assert "did you mean 'linear'" in capsys.readouterr().err
    assert script.main(["--data", str(tmp_path), "--short", "--samples"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --short is iris, sonar")
    assert err.count("\n") == 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # that they have not converged
@pytest.mark.parametrize("name", [SKLEARN_MLP, "linear", "PyTorch MLP"])
@pytest.mark.parametrize("table", ["iris", "linnerud"])
def test_every_peer_predicts_a_table(name, table, tmp_path):
    (tmp_path / "tables").mkdir()
    sklearn = pytest.importorskip("sklearn.datasets")
    sklearn.load_iris(as_frame=True).frame.to_csv(tmp_path / "tables/iris.csv", index=False)
    split = next(iter(TABLES[table].splits(1, tmp_path)))
    truth = write_split(split, tmp_path, tmp_path)
    labels = tuple(split.table.frame(tmp_path)[1])
    files = tmp_path / "train.csv", tmp_path / "test.csv"
    job = table_peers.Job(*files, labels, split.table.task, 0, 1, tmp_path)
    try:
        fitted = table_peers.PEERS[name](job)
    except BackendError as error:
        pytest.skip(str(error))
    found = scored(truth, fitted.predict(), fitted.classes)
    assert found.get("accuracy", 1.0) > 0.8
