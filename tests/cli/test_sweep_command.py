"""``xpnet train --sweep`` as it is typed."""

import json
import shlex
import sys

import pytest

from xpnet.cli.sweeps import _Bar
from xpnet.search.loop import Status

pytest.importorskip("optuna", reason="a sweep needs Optuna")

QUICK = [
    *("--epochs", "1", "--threads", "1", "--step", "portable", "--backend", "numpy"),
    *("--set", "model.hidden=[16]"),
]


@pytest.fixture(autouse=True)
def in_a_new_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_what_is_printed_ends_with_words_to_copy_and_the_test_score(xpnet, tmp_path):
    code, out, err = xpnet("train", "--sweep", "auto", "--set", "sweep.trials=3", *QUICK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[2].startswith("sweep of 3 trials by tpe, pruned by median; lowest val_loss")
    assert [line[:7] for line in lines[3:6]] == ["trial 0", "trial 1", "trial 2"]
    assert lines[3].endswith("the settings as they are")
    assert lines[6].startswith("sweep folder runs/digits-sweep-")
    assert lines[7].startswith("best trial ")
    assert lines[-1].startswith("test accuracy 0.")
    words = shlex.split(lines[8])
    code, again, _ = xpnet("train", *QUICK, *words, "--quiet")
    assert (code, again.splitlines()[-1]) == (0, lines[-1])


def test_resume_needs_only_the_folder(xpnet):
    xpnet("train", "--sweep", "auto", "--set", "sweep.trials=1", "--out", "s", *QUICK, "--quiet")
    code, out, _ = xpnet("train", "--out", "s", "--resume", "--set", "sweep.trials=2")
    assert code == 0
    assert "2/2" in out
    code, out, err = xpnet("train", "--sweep", "auto", "--out", "s", *QUICK)
    assert (code, out) == (2, "")
    assert err.endswith(
        "already holds a sweep: add --resume to continue it, or choose another --out\n"
    )
    code, out, err = xpnet("show", "s/best")
    assert (code, err) == (0, "")


def test_json_is_one_document_and_the_lines_go_elsewhere(xpnet, tmp_path):
    args = ["--sweep", "auto", "--set", "sweep.trials=2", "--out", "s", "--json"]
    code, out, err = xpnet("train", *args, *QUICK)
    found = json.loads(out)
    assert code == 0
    assert "trial 1  2/2" in err
    assert (found["folder"], found["monitor"], len(found["trials"])) == ("s", "loss", 2)
    saved = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert {k: v for k, v in found.items() if k != "folder"} == saved
    code, out, err = xpnet("train", "--out", "s", "--resume", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["best"] == found["best"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--sweep", "no.toml"], "error: cannot read the sweep 'no.toml': No such file or"),
        (["--sweep", ""], "error: --sweep is empty; name the file, or auto"),
        (["--sweep", "auto", "--set", "sweep.trals=3"], "'sweep.trals'; did you mean 'trials'?"),
        (["--sweep", "auto", "--set", "sweep.pruner=x"], "sweep.pruner must be one of 'median'"),
        (["--set", "sweep.trials=3"], "error: unknown setting 'sweep'"),
        (["--sweep", "bad.toml"], "error: bad.toml: unknown setting 'optimizer.lrr': 'adamw' ta"),
    ],
)
def test_an_error_is_one_line(xpnet, tmp_path, args, expected):
    (tmp_path / "bad.toml").write_text('[space."optimizer.lrr"]\nlow = 1e-3\nhigh = 1e-1\n')
    code, _, err = xpnet("train", *args, *QUICK)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_bar_shows_how_far_it_is(capsys):
    with _Bar() as bar:
        bar.say("before")
        bar.update(Status(1, 4, "val_loss", 0.5, (2, 3, 10, 0.25), 75.0))
        bar.say("trial \x1b[2J[bold]1")
        task = bar.progress.tasks[0]
        assert (task.completed, task.total) == (1, 4)
        assert task.fields["numbers"] == "best val_loss 0.5000  trial 2: epoch 3/10 0.2500"
        assert task.fields["pace"] == "1:15 left"
    out = capsys.readouterr().out
    assert "trial \\x1b[2J[bold]1" in out


def test_on_a_terminal_the_words_to_copy_are_one_line(xpnet, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, _ = xpnet("train", "--sweep", "auto", "--set", "sweep.trials=2", *QUICK)
    assert code == 0
    (words,) = [line for line in out.splitlines() if line.startswith("--set ")]
    assert "optimizer.lr=" in words
    assert "optimizer.weight_decay=" in words
    assert "0/2" in out
