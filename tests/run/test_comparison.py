"""Runs side by side: their scores, what differs, and whether it is luck."""

import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose

import xpnet
from xpnet.data.paired import mcnemar, sign_flips
from xpnet.errors import CheckpointError, ConfigError
from xpnet.run import load, train
from xpnet.run.comparison import compare
from xpnet.run.row_errors import row_errors

TASKS = ("classification", "regression", "multilabel")


def table(path, task, rows=90, weight=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3)).round(3)
    targets = {
        "classification": np.array(["aster", "rose", "tulip"])[x.argmax(axis=1)][:, None],
        "regression": (x @ [1.0, -2.0, 0.5] + rng.normal(0, 0.3, rows)).round(4)[:, None],
        "multilabel": (x[:, :2] > 0).astype(int),
    }[task]
    names = ["a", "b", "c", *(f"y{n}" for n in range(targets.shape[1]))]
    columns = [*x.T, *targets.T]
    if weight:
        names, columns = [*names, "w"], [*columns, rng.integers(1, 4, rows)]
    lines = [",".join(names), *(",".join(map(str, row)) for row in zip(*columns, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def trained(source, out, **settings):
    settings = {"epochs": 3, "model.hidden": [6], "backend": "numpy", **settings}
    return train(source, out, recipe="none", settings=settings, report=lambda line: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the runs good, bad and other (another seed), and one of each other task."""
    folder = tmp_path_factory.mktemp("compare")
    data = table(folder / "flowers.csv", "classification")
    good = {"epochs": 40, "optimizer.lr": 0.02}
    trained(data, folder / "runs" / "good", **good)
    trained(data, folder / "runs" / "bad")
    trained(data, folder / "runs" / "other", **good, seed=1)
    for task in TASKS[1:]:
        data = table(folder / f"{task}.csv", task)
        labels = {"data.label": ["y0", "y1"]} if task == "multilabel" else {}
        for name, epochs in (("long", 40), ("short", 2)):
            trained(
                data,
                folder / task / name,
                **labels,
                **{"data.task": task, "epochs": epochs, "optimizer.lr": 0.02},
            )
    return folder


def test_the_best_comes_first_with_what_each_took(made):
    runs = made / "runs"
    found = compare([runs / "bad", runs / "good"])
    assert [row["run"] for row in found.rows] == ["good", "bad"]
    for row in found.rows:
        report = json.loads((runs / row["run"] / "report.json").read_text())
        record = json.loads((runs / row["run"] / "run.json").read_text())
        assert (row["metric"], row["score"]) == ("accuracy", report["accuracy"])
        assert (row["loss"], row["test_rows"]) == (report["loss"], report["rows"])
        assert (row["seconds"], row["parameters"]) == (record["seconds"], record["parameters"])
    assert found.settings == {"epochs": [40, 3], "optimizer.lr": [0.02, 0.001]}
    assert found.notes == []
    assert json.loads(json.dumps(found.document()))["runs"] == found.rows


def test_pairs_are_counted_on_the_rows_that_both_were_tested_on(made):
    runs = made / "runs"
    (pair,) = compare([runs / "good", runs / "bad"]).against
    good, bad = (load(runs / name, backend="numpy") for name in ("good", "bad"))
    part = good.test_part()
    wrong = {}
    for name, run in (("good", good), ("bad", bad)):
        named = np.asarray(part.classes)[part.y]
        wrong[name] = run.predict_classes(part.x) != named
    both, only, best = (
        int((wrong["bad"] & wrong["good"]).sum()),
        int((wrong["bad"] & ~wrong["good"]).sum()),
        int((wrong["good"] & ~wrong["bad"]).sum()),
    )
    assert (pair.run, pair.best, pair.rows) == ("bad", "good", 18)
    assert (pair.both_wrong, pair.run_wrong, pair.best_wrong) == (both, only, best)
    assert pair.p == pair.corrected == mcnemar(only, best)
    scores = {row["run"]: row["score"] for row in compare([runs]).rows}
    assert_allclose(pair.difference, scores["good"] - scores["bad"], rtol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_the_mean_error_of_the_rows_is_what_the_score_lacks_to_1(made, task):
    folder = made / ("runs" if task == "classification" else task)
    for path in sorted(folder.iterdir()):
        run = load(path, backend="numpy")
        errors = row_errors(run, run.test_part())
        report = json.loads((path / "report.json").read_text())
        score = report["r2" if task == "regression" else "accuracy"]
        assert len(errors) == report["rows"]
        assert_allclose(errors.mean(), 1 - score, rtol=1e-6, atol=1e-12)


def test_rows_count_by_their_weights(tmp_path):
    data = table(tmp_path / "w.csv", "classification", weight=True)
    for name, epochs in (("a", 40), ("b", 2)):
        trained(
            data,
            tmp_path / "runs" / name,
            **{"epochs": epochs, "optimizer.lr": 0.02, "data.columns.weight": "w"},
            **{"data.label": "y0"},
        )
    found = compare([tmp_path / "runs"])
    (pair,) = found.against
    assert pair.test == "sign flips"
    scores = [row["score"] for row in found.rows]
    assert_allclose(pair.difference, scores[0] - scores[1], rtol=1e-6)


@pytest.mark.parametrize("task", TASKS[1:])
def test_other_errors_are_compared_by_sign_flips(made, task):
    found = compare([made / task])
    (pair,) = found.against
    assert [row["run"] for row in found.rows] == ["long", "short"]
    assert (pair.test, pair.best_wrong) == ("sign flips", None)
    long, short = (load(made / task / name, backend="numpy") for name in ("long", "short"))
    differences = row_errors(short, short.test_part()) - row_errors(long, long.test_part())
    assert pair.p == sign_flips(differences)
    assert_allclose(pair.difference, differences.mean(), rtol=1e-9)
    assert pair.difference > 0


def test_runs_that_were_tested_on_other_rows_are_not_paired(made):
    runs = made / "runs"
    found = compare([runs / "good", runs / "other"])
    assert found.against == []
    (note,) = found.notes
    assert note.startswith("tested on different rows, so that luck is in the difference")
    assert found.settings == {"seed": [int(row["run"] == "other") for row in found.rows]}


def test_several_runs_are_compared_with_the_best_and_corrected(made, tmp_path):
    runs = made / "runs"
    shutil.copytree(runs / "bad", tmp_path / "same")
    found = compare([runs / "good", runs / "bad", tmp_path / "same"])
    assert {each.best for each in found.against} == {"good"}
    first, second = found.against
    assert first.p == second.p
    assert first.corrected == min(1.0, 2 * first.p)
    twins = compare([runs / "bad", tmp_path / "same"]).against[0]
    assert (twins.p, twins.difference, twins.verdict) == (1.0, 0.0, "may be luck")


def test_scores_of_different_kinds_are_not_ranked_together(made):
    found = compare([made / "runs" / "good", made / "regression"], paired=False)
    assert [row["metric"] for row in found.rows] == ["accuracy", "r2", "r2"]
    assert any(note.startswith("the runs are not ranked together") for note in found.notes)
    assert any("learnt from different data" in note for note in found.notes)


def test_without_pairs_no_data_is_read(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    for path in (tmp_path / "runs").glob("*/config.toml"):
        path.write_text(path.read_text().replace("flowers.csv", "gone.csv"))
    quick = compare([tmp_path / "runs"], paired=False)
    assert len(quick.rows) == 3
    assert quick.against == quick.notes == []
    found = compare([tmp_path / "runs"])
    assert [row["score"] for row in found.rows] == [row["score"] for row in quick.rows]
    assert all("is not compared row by row: " in note for note in found.notes)
    assert len(found.notes) == 3


def test_data_that_has_changed_is_said(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    data = table(tmp_path / "flowers.csv", "classification")
    data.write_text(data.read_text().replace("0.1", "0.2"))
    for path in (tmp_path / "runs").glob("*/config.toml"):
        path.write_text(path.read_text().replace(str(made / "flowers.csv"), str(data)))
    notes = compare([tmp_path / "runs"]).notes
    assert any("has changed since the run was trained on it" in note for note in notes)


def test_a_run_in_a_file_and_one_without_scores_are_scored(made, tmp_path):
    runs = made / "runs"
    shutil.copytree(runs / "bad", tmp_path / "adopted")
    (tmp_path / "adopted" / "report.json").unlink()
    saved = load(runs / "good", backend="numpy").save(tmp_path / "good.safetensors")
    found = compare([saved, tmp_path / "adopted"])
    expected = {row["run"]: row["score"] for row in compare([runs]).rows}
    scores = {row["run"]: row["score"] for row in found.rows}
    assert scores == {"good.safetensors": expected["good"], "adopted": expected["bad"]}
    assert len(found.against) == 1
    quick = compare([saved, tmp_path / "adopted"], paired=False)
    assert [row["score"] for row in quick.rows] == [None, None]
    assert quick.notes[-1].startswith("without a score, for there is no test part")


def test_a_model_without_a_run_has_a_history_and_no_score(made, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    trainer = xpnet.Trainer([xpnet.Dense(3)], backend="numpy")
    trainer.fit((x, x.argmax(1)), epochs=2)
    found = compare([trainer.save(tmp_path / "m.safetensors"), made / "runs" / "good"])
    assert [row["run"] for row in found.rows] == ["good", "m.safetensors"]
    assert (found.rows[1]["epochs"], found.rows[1]["score"]) == (2, None)
    assert len(found.runs[1].history) == 2


def test_a_run_without_a_test_part_says_so(made, tmp_path):
    trained(made / "flowers.csv", tmp_path / "whole", **{"data.test_fraction": 0.0})
    found = compare([tmp_path / "whole", made / "runs" / "good"])
    assert [row["score"] is None for row in found.rows] == [False, True]
    assert "without a score, for there is no test part: whole" in found.notes


def test_two_are_needed_and_a_run_counts_once(made):
    good = made / "runs" / "good"
    with pytest.raises(ConfigError, match=r"takes two runs or more, and got .*good"):
        compare([good])
    with pytest.raises(ConfigError, match="is named twice, and compared once"):
        compare([good, good / ".." / "good"])
    with pytest.raises(ConfigError, match="there is none"):
        compare([])
    with pytest.raises(CheckpointError, match="no run folder"):
        compare([good, made / "runs" / "absent"])
    with pytest.raises(ConfigError, match="as text or a Path"):
        compare([good, 3])
    assert len(compare(made / "runs", paired=False).rows) == 3
    assert len(compare([load(good, backend="numpy"), made / "runs" / "bad"]).rows) == 2


def test_a_torn_run_is_left_out_and_one_that_trains_has_no_score(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "bad" / "run.json").write_text("{")
    record = tmp_path / "runs" / "other" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "failed: no"}))
    found = compare([tmp_path / "runs"])
    assert [row["run"] for row in found.rows] == ["good", "other"]
    assert found.rows[1]["score"] is None
    assert found.notes[0].startswith(f"{tmp_path / 'runs' / 'bad'} is left out: ")
    assert "not finished, so without a score on the test part: other" in found.notes


def test_runs_of_one_name_are_told_apart_by_their_folders(made, tmp_path):
    for place in ("monday", "friday"):
        shutil.copytree(made / "runs" / "good", tmp_path / place / "run")
    found = compare([tmp_path / "monday" / "run", tmp_path / "friday" / "run"])
    assert {row["run"] for row in found.rows} == {"monday/run", "friday/run"}


def test_a_run_of_an_earlier_version_has_the_defaults_it_did_not_know(made, tmp_path):
    old = shutil.copytree(made / "runs" / "good", tmp_path / "old")
    config = (old / "config.toml").read_text().replace("accumulate = 1\n", "")
    (old / "config.toml").write_text(config)
    record = json.loads((old / "run.json").read_text()) | {"xpnet": "0.0.9"}
    (old / "run.json").write_text(json.dumps(record))
    found = compare([old, made / "runs" / "good"])
    assert list(found.settings) == ["run.xpnet"]
