"""A sweep in several processes, from the command line, interrupted and killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import xpnet
from xpnet.search.study import Study

pytest.importorskip("optuna", reason="a sweep needs Optuna")

SETTINGS = {"epochs": 2, "step": "portable", "backend": "numpy", "model.hidden": [16]}
SPACE = '[space]\n"optimizer.lr" = { low = 1e-4, high = 0.1, log = true }\n'


def command(*args, shared=SETTINGS):
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    shared = [f"--set={key}={value}" for key, value in shared.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "xpnet", "train", *shared, *map(str, args)],
        text=True,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def result(place):
    return json.loads((place / "sweep.json").read_text())


def wait_for_epochs(place, trial, epochs, process, seconds=60.0):
    """Wait until a trial has so many epochs in its history."""
    path = place / "trials" / f"{trial:03}" / "history.jsonl"
    deadline = time.monotonic() + seconds
    while not path.exists() or len(path.read_text().splitlines()) < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


def test_two_processes_train_each_trial_once(tmp_path):
    said = []
    found = xpnet.sweep(
        "digits",
        {"optimizer.lr": {"choices": [1e-3, 1e-2, 0.1]}},
        tmp_path / "s",
        sampler="grid",
        parallel=2,
        settings=SETTINGS,
        report=said.append,
    )
    alone = xpnet.sweep(
        "digits",
        {"optimizer.lr": {"choices": [1e-3, 1e-2, 0.1]}},
        tmp_path / "alone",
        sampler="grid",
        settings={**SETTINGS, "threads": 1},
        report=said.append,
    )
    assert [t.state for t in found.trials] == ["finished"] * 3
    assert [t.value for t in found.trials] == [t.value for t in alone.trials]
    assert found.run.test == alone.run.test
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert found.run.config.threads == threads
    assert [t.curve for t in found.trials] == [t.curve for t in alone.trials]


@pytest.mark.long
def test_formulas_of_a_plugin_are_known_in_every_process(tmp_path, monkeypatch):
    plugin = tmp_path / "thrice.py"
    plugin.write_text(
        "import xpnet\n@xpnet.register('thrice')\nclass Thrice(xpnet.Activation):\n"
        "    def value(self, z): return 3 * z\n"
        "    def backward_value(self, da, z): return 3 * da\n"
    )
    script = f"""
import xpnet, xpnet.registry
xpnet.registry.load_plugin({str(plugin)!r})
found = xpnet.sweep("digits", {{"model.activation": {{"choices": ["thrice", "relu"]}}}},
    {str(tmp_path / "s")!r}, sampler="grid", parallel=2, settings={SETTINGS!r}, report=len)
print([t.state for t in found.trials])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "['finished', 'finished']\n", done.stderr


@pytest.mark.long
@pytest.mark.parametrize("parallel", [1, 2])
def test_kill_9_in_the_middle_loses_nothing(tmp_path, space, parallel):
    place = tmp_path / "s"
    args = ["--sweep", space, "--out", place, "--set=sweep.trials=5"]
    args += [
        f"--set=sweep.parallel={parallel}",
        "--set=epochs=60",
        "--set=checkpoint.min_seconds=0",
    ]
    process = command(*args)
    wait_for_epochs(place, 1, 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = [json.loads(line) for line in (place / "trials.log").read_text().splitlines()]
    assert done
    resumed = command("--out", place, "--resume", shared={})
    out, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    assert "had begun" in out
    found = result(place)
    assert [t["number"] for t in found["trials"]] == [0, 1, 2, 3, 4]
    assert {t["state"] for t in found["trials"]} <= {"finished", "pruned"}
    history = xpnet.run.RunFolder(place / "trials" / "001").history()
    assert [r["epoch"] for r in history] == [*range(1, len(history) + 1)]
    assert "test accuracy" in out


@pytest.mark.long
@pytest.mark.parametrize("parallel", [1, 2])
def test_ctrl_c_leaves_what_can_be_resumed(tmp_path, space, parallel):
    place = tmp_path / "s"
    args = ["--sweep", space, "--out", place, "--set=sweep.trials=4", "--set=epochs=40"]
    process = command(*args, f"--set=sweep.parallel={parallel}")
    wait_for_epochs(place, 1, 2, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert out.splitlines()[-1].startswith("interrupted by SIGINT; resume with: xpnet train --out")
    assert "Traceback" not in err
    states = [t["state"] for t in result(place)["trials"]]
    assert "running" in states
    again = command("--out", place, "--resume", shared={})
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert len(result(place)["trials"]) == 4
    assert "running" not in [t["state"] for t in result(place)["trials"]]


@pytest.mark.long
def test_a_process_that_is_killed_costs_its_trial_alone(tmp_path, monkeypatch):
    from xpnet.search import workers

    killed, began = [], workers.Worker.begin

    def kill_the_second(self, task):
        began(self, task)
        if task.trial.number == 1:
            killed.append(self.process.pid)
            self.process.kill()

    monkeypatch.setattr(workers.Worker, "begin", kill_the_second)
    found = xpnet.sweep(
        "digits",
        {"optimizer.lr": {"choices": [1e-3, 1e-2, 0.1, 0.2]}},
        tmp_path / "s",
        sampler="grid",
        parallel=2,
        settings=SETTINGS,
        report=len,
    )
    assert killed
    assert [t.state for t in found.trials] == ["finished", "failed", "finished", "finished"]
    assert found.trials[1].reason == "its process was ended by signal 9"


@pytest.mark.long
def test_a_disk_that_cannot_be_written_ends_the_sweep_and_it_can_be_resumed(tmp_path, monkeypatch):
    told = Study.tell

    def fail(self, number, outcome):
        msg = "the disk is full"
        raise xpnet.CheckpointError(msg)

    options = {"trials": 2, "parallel": 2, "settings": SETTINGS, "report": len}
    space = {"optimizer.lr": {"low": 1e-3, "high": 0.1}}
    monkeypatch.setattr(Study, "tell", fail)
    with pytest.raises(xpnet.CheckpointError, match="the disk is full"):
        xpnet.sweep("digits", space, tmp_path / "s", **options)
    monkeypatch.setattr(Study, "tell", told)
    found = xpnet.sweep(out=tmp_path / "s", resume=True, report=len)
    assert [t.state for t in found.trials] == ["finished"] * 2
