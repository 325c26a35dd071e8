"""What the files of a run tell, while it trains and after whatever happened to it."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from xpnet.errors import CheckpointError
from xpnet.run import load, train
from xpnet.run.overview import is_folder_of_runs, main_score, measured, overview, runs_in
from xpnet.storage import RunLock, writer_of
from xpnet.training.monitoring import best_epoch


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overview") / "run"
    settings = {"epochs": 3, "model.hidden": [8], "backend": "numpy"}
    train("digits", folder, settings=settings, report=lambda line: None)
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "runs" / "a")
    return tmp_path / "runs" / "a"


def said(run, **changed):
    """Write what is changed into run.json."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | changed))


def test_a_finished_run_has_its_scores_and_what_it_took(run):
    seen = overview(run)
    row, loaded = seen.row(), load(run, backend="numpy")
    report = json.loads((run / "report.json").read_text())
    assert (seen.status, seen.note, row["epochs"], row["data"]) == ("finished", "", 3, "digits")
    assert row["score"] == {"name": "accuracy", "value": report["accuracy"]}
    assert row["loss"] == report["loss"]
    best = loaded.checkpoint.meta["position"]
    assert seen.best["step"] == best["step"], "the best epoch is that of the best checkpoint"
    files = [path for path in run.rglob("*") if path.is_file()]
    assert row["bytes"] == sum(path.stat().st_size for path in files)
    assert overview(run, 2).history == seen.history[1:]
    assert overview(run, 2).epochs == 3


@pytest.mark.parametrize(
    ("status", "expected", "note"),
    [
        ("interrupted by SIGINT", "interrupted", "interrupted by SIGINT"),
        ("failed: the loss is nan", "failed", "the loss is nan"),
        ("no better loss for 5 epochs", "finished", "no better loss for 5 epochs"),
        ("adopted from a.safetensors", "finished", "adopted from a.safetensors"),
        ("training", "interrupted", "its process ended without a word"),
        (7, "torn", "its run.json does not say how it ended"),
    ],
)
def test_the_status_is_what_the_run_wrote_last(run, status, expected, note):
    said(run, status=status)
    seen = overview(run)
    assert (seen.status, seen.note) == (expected, note)
    assert (seen.score is None) == (expected != "finished"), "the scores are of an earlier end"


def test_a_run_that_a_process_writes_is_training(run):
    assert overview(run).seconds == json.loads((run / "run.json").read_text())["seconds"]
    said(run, status="training", seconds=0.0)
    assert overview(run).seconds == sum(r["seconds"] for r in overview(run).history) > 0
    assert writer_of(run) is None
    with RunLock(run):
        assert writer_of(run).startswith(f"pid {os.getpid()} on host ")
        assert overview(run).status == "training"
        with pytest.raises(CheckpointError, match="in use"):
            RunLock(run).__enter__()
    assert overview(run).status == "interrupted"


def test_looking_at_the_lock_does_not_take_it(run):
    with RunLock(run):
        pass
    for _ in range(3):
        assert writer_of(run) is None
        with RunLock(run) as lock:
            assert lock.taken_over is None
    (run / "run.lock").write_text('{"pid": 99999999, "host": "elsewhere", "since": "then"}')
    assert writer_of(run) == "pid 99999999 on host elsewhere since then"
    (run / "run.lock").unlink()
    os.mkfifo(run / "run.lock")
    assert writer_of(run) is None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.toml", "epochs = ", "config.toml cannot be read"),
        ("config.toml", "epocs = 3", "unknown setting 'epocs'"),
        ("run.json", '{"status": "fin', "run.json cannot be read"),
        ("report.json", "[]", "report.json is not a JSON object"),
        ("history.jsonl", "{}\nnonsense\n{}\n", "history.jsonl line 2 is not a JSON object"),
    ],
)
def test_a_damaged_file_makes_a_run_torn_and_the_others_are_listed(run, name, content, says):
    shutil.copytree(run, run.parent / "b")
    (run / name).write_text(content)
    seen = overview(run)
    assert seen.status == "torn"
    assert says in seen.note
    assert [each.status for each in runs_in(run.parent)] == ["torn", "finished"]


def test_a_run_without_its_weights_or_its_record_is_torn(run):
    (run / "run.json").rename(run / "gone")
    assert (overview(run).status, overview(run).note) == ("torn", "it has no run.json")
    (run / "gone").rename(run / "run.json")
    shutil.rmtree(run / "checkpoints")
    assert (overview(run).status, overview(run).note) == ("torn", "it has no checkpoint")


def test_half_a_line_of_the_history_is_an_epoch_that_is_being_written(run):
    with open(run / "history.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    assert (overview(run).status, overview(run).epochs) == ("finished", 3)


def test_runs_are_listed_by_their_start(run):
    for name, started in (("z", "2020-01-01T00:00:00Z"), ("b", "2030-01-01T00:00:00Z")):
        shutil.copytree(run, run.parent / name)
        said(run.parent / name, started=started)
    (run.parent / "notes").mkdir()
    (run.parent / "notes.txt").write_text("not a run")
    assert [each.path.name for each in runs_in(run.parent)] == ["z", "a", "b"]
    assert is_folder_of_runs(run.parent)
    assert not is_folder_of_runs(run)
    assert not is_folder_of_runs(run.parent / "notes")
    assert not is_folder_of_runs(run.parent / "absent")
    with pytest.raises(CheckpointError, match="has no runs in it"):
        runs_in(run.parent / "notes")
    with pytest.raises(CheckpointError, match="no run folder"):
        overview(run.parent / "absent")


def test_a_training_is_seen_from_its_first_moment_to_its_end(tmp_path):
    out = tmp_path / "runs" / "live"
    script = f"from xpnet.run import train; train('digits', {str(out)!r}, report=lambda l: None,"
    script += "settings={'epochs': 60, 'model.hidden': [4], 'backend': 'numpy',"
    script += " 'checkpoint.min_seconds': 0})"
    child = subprocess.Popen([sys.executable, "-c", script])
    statuses = []
    while child.poll() is None:
        if out.exists() and is_folder_of_runs(out.parent):
            (seen,) = runs_in(out.parent)
            statuses.append((seen.status, seen.epochs))
        time.sleep(0.02)
    assert child.returncode == 0
    assert {status for status, _ in statuses[:-1]} <= {"training", "finished"}, statuses
    epochs = [epochs for _, epochs in statuses]
    assert epochs == sorted(epochs)
    assert overview(out).status == "finished"


def test_the_best_epoch_is_the_first_of_the_best_that_are_numbers():
    losses = [np.nan, 0.5, 0.2, 0.2, np.inf]
    history = [{"epoch": n, "val_loss": v, "val_accuracy": v} for n, v in enumerate(losses, 1)]
    assert best_epoch(history)["epoch"] == 3
    assert best_epoch(history[:4], "accuracy")["epoch"] == 2
    assert best_epoch(history, "accuracy")["epoch"] == 5
    assert best_epoch(history[:1]) is None
    assert best_epoch([{"epoch": 1, "loss": 0.1}]) is None
    assert best_epoch([]) is None


def test_what_a_history_measures_is_its_loss_and_metrics():
    record = {"epoch": 1, "lr": 0.1, "f1": 0.5, "loss": "NaN", "val_loss": 1, "seconds": 1.0}
    assert measured([record, {**record, "norms": {"0.dense": {"weights": 1.0}}}]) == ["loss", "f1"]
    assert main_score({"accuracy": "NaN"}).value != main_score({"accuracy": "NaN"}).value
    assert main_score({"loss": 1.0, "r2": True, "mse": 2}) == ("mse", 2.0)
