"""``xpnet show``: of a run, of a folder of runs, of curves, and while a run trains."""

import json
import os
import re
import shutil

import numpy as np
import pytest

import xpnet as package
from xpnet.run import train
from xpnet.storage import RunLock


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show") / "runs"
    settings = {"epochs": 6, "model.hidden": [8], "backend": "numpy"}
    train("digits", folder / "first", settings=settings, report=lambda line: None)
    return folder


@pytest.fixture
def runs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


def rewrite(run, change, name="run.json"):
    record = json.loads((run / name).read_text())
    change(record)
    (run / name).write_text(json.dumps(record))


# -------------------------------------------------------------------------------------- a folder


def test_a_folder_lists_its_runs_and_says_what_became_of_each(xpnet, runs):
    for name, status in (("dead", "training"), ("bad", "failed: loss is nan"), ("cut", None)):
        shutil.copytree(runs / "first", runs / name)
        rewrite(runs / name, lambda record, status=status: record.update(status=status))
    (runs / "cut" / "run.json").write_text("{")
    code, out, err = xpnet("show", runs)
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    report = json.loads((runs / "first" / "report.json").read_text())
    assert lines["first"][1:6] == [
        "digits",
        "accuracy",
        f"{report['accuracy']:.4f}",
        "6",
        "finished",
    ]
    assert lines["dead"][1:5] == ["digits", "-", "6", "interrupted"]
    assert "dead: interrupted: its process ended without a word" in out
    assert "bad: failed: loss is nan" in out
    assert f"cut: torn: {runs / 'cut' / 'run.json'} cannot be read" in out
    assert "\x1b" not in out


def test_folders_of_more_runs_are_named(xpnet, runs):
    shutil.copytree(runs / "first", runs / "sweep" / "trial-1")
    out = xpnet("show", runs)[1]
    assert out.splitlines()[-1] == f"more runs in {runs / 'sweep'}"
    assert json.loads(xpnet("show", runs, "--json")[1])["folders"] == [str(runs / "sweep")]


def test_a_narrow_terminal_leaves_columns_out_and_not_runs(xpnet, runs, monkeypatch):
    shutil.copytree(runs / "first", runs / "second")
    for width in (40, 60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, _ = xpnet("show", runs)
        assert code == 0
        assert max(map(len, out.splitlines())) <= width
        for word in ("first", "second", "accuracy", "finished"):
            assert word in out


def test_names_cannot_act_on_the_terminal(xpnet, runs):
    (runs / "first").rename(runs / "a\x1b[2J\u202e")
    for args in (["show", runs], ["show", runs / "a\x1b[2J\u202e", "--plot"]):
        code, out, err = xpnet(*args)
        assert code == 0
        assert not set(out + err) & set("\x1b\u202e")
        assert r"a\x1b[2J\u202e" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show", "runs", "--plot"], "--plot is for one run"),
        (["show", "runs", "--plan"], "--plan is for one run"),
        (["show", "runs", "--label", "x"], "is for a FILE"),
        (["show", "runs/first", "--plot", "--plan"], "choose one"),
        (["show", "runs/first", "--plot", "--json"], "choose one"),
        (["show", "runs/first", "--ranks", "2"], "add --plan"),
        (["show", "empty"], "is not a run folder"),
        (["show", "rows.csv", "--plot"], "--plot is for a run"),
        (["show", "runs/frist"], "did you mean 'first'?"),
    ],
)
def test_what_cannot_be_shown_is_one_line(xpnet, runs, monkeypatch, args, says):
    monkeypatch.chdir(runs.parent)
    (runs.parent / "empty").mkdir()
    (runs.parent / "rows.csv").write_text("a,b\n1,2\n")
    code, out, err = xpnet(*args)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------------------------------- curves


def test_the_curves_of_loss_and_accuracy_are_drawn(xpnet, runs):
    code, out, err = xpnet("show", runs / "first", "--plot")
    assert (code, err) == (0, "")
    history = [json.loads(line) for line in (runs / "first/history.jsonl").read_text().splitlines()]
    last, best = history[-1], min(history, key=lambda record: record["val_loss"])
    assert f"training {last['loss']:.4g}" in out
    assert f"validation {last['val_accuracy']:.4g}" in out
    assert re.search("[\u2801-\u28ff]", out)
    end = f"6 epochs, finished; the best is epoch {best['epoch']}, val loss {best['val_loss']:.4g}"
    assert out.splitlines()[-1].endswith(end)
    assert "\x1b" not in out
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_a_chart_follows_the_width_and_height_of_the_terminal(xpnet, runs, monkeypatch):
    lengths = []
    for width, height in ((40, 20), (80, 24), (150, 60)):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", str(height))
        lines = xpnet("show", runs / "first", "--plot")[1].splitlines()[:-1]
        assert max(map(len, lines)) <= width
        assert max(map(len, lines)) >= 0.9 * width
        lengths.append(len(lines))
    assert lengths[0] <= 24
    assert lengths[1] <= 24 < lengths[2]


def test_colours_are_for_terminals_that_want_them(xpnet, runs, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[34m" in xpnet("show", runs / "first", "--plot")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[34m" not in xpnet("show", runs / "first", "--plot")[1]


def test_one_epoch_and_losses_that_are_not_finite_are_drawn(xpnet, runs):
    path = runs / "first" / "history.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(first + "\n")
    code, out, err = xpnet("show", runs / "first", "--plot")
    assert (code, err) == (0, "")
    assert "●" in out
    assert "1 epoch, finished" in out
    record = json.loads(first)
    bad = {**record, "loss": "NaN", "val_loss": "Infinity"}
    path.write_text("".join(json.dumps(r) + "\n" for r in (bad, bad)))
    code, out, err = xpnet("show", runs / "first", "--plot")
    assert (code, err) == (0, "")
    assert "loss: no finite value" in out
    assert "so no epoch is the best" in out
    path.write_text("")
    code, out, err = xpnet("show", runs / "first", "--plot")
    assert (code, out) == (2, "")
    assert "has no epoch to plot yet" in err


def test_a_saved_model_has_curves_and_metrics_of_its_own(xpnet, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    trainer = package.Trainer([package.Dense(3)], backend="numpy")
    half = {"half": lambda y, p: 0.5}
    trainer.fit((x, x.argmax(1)), epochs=3, validation_fraction=0.2, metrics=half)
    path = trainer.save(tmp_path / "model.safetensors")
    code, out, err = xpnet("show", path, "--plot")
    assert (code, err) == (0, "")
    for name in ("loss", "accuracy", "half"):
        assert re.search(f"^{name}", out, re.MULTILINE), name
    code, out, _ = xpnet("show", path, "--json")
    assert json.loads(out)["kind"] == "model"


# --------------------------------------------------------------------------------- while it trains


def test_a_run_is_shown_while_it_trains(xpnet, runs):
    run = runs / "first"
    rewrite(run, lambda record: record.update(status="training"))
    with RunLock(run), open(run / "history.jsonl", "a") as history:
        history.write('{"epoch": 7, "loss": 0.')
        history.flush()
        for args in ([], ["--plot"], ["--json"]):
            code, out, err = xpnet("show", run, *args)
            assert (code, err) == (0, "")
            assert f"pid {os.getpid()}" in out or args == ["--plot"]
        shutil.rmtree(run / "checkpoints")
        code, out, _ = xpnet("show", run)
        assert (code, out.splitlines()[0][:17]) == (0, "no checkpoint yet")
        assert "last 6 of 6 epochs" in out
        assert json.loads(xpnet("show", run, "--json")[1])["layers"] is None
        assert xpnet("show", run, "--plan")[0] == 2
        assert " training " in xpnet("show", runs)[1]
    code, _, err = xpnet("show", run)
    assert code == 2
    assert "no checkpoint in" in err
