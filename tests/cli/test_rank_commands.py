"""``mpiexec -n 4 xpnet train`` and ``--ranks``, with real processes: what a person sees of them."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import real_ranks

from xpnet.run import load, train

pytestmark = pytest.mark.long
SETTINGS = {
    "dtype": "float64",
    "step": "portable",
    "batch_size": 64,
    "model.hidden": [8],
    "model.activation": "tanh",
    "schedule": "constant",
    "threads": 1,
    "tracking.norms": False,
}
WORDS = [f"--set={key}={value}" for key, value in SETTINGS.items()]
TRAIN = ["-m", "xpnet", "train", "digits", *WORDS, "--set=report=false"]

# A plugin whose activation is tanh, and which ends one rank in a manner of its own in each attempt.
PLUGIN = """
import os, signal, threading, time
from pathlib import Path

import numpy as np
import xpnet
from xpnet.parallel.launcher import launched

HERE = Path(__file__).parent
RANK = launched().rank if launched() else -1  # of the supervisor
WAYS = (HERE / "ways").read_text().split()
past = HERE / f"attempts-{RANK}"
attempt = past.stat().st_size if past.exists() else 0
past.open("ab").write(b".")
way = WAYS[attempt] if attempt < len(WAYS) else ""
steps = 0


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@xpnet.register("mortal")
class Mortal(xpnet.Activation):
    def value(self, z):
        return np.tanh(z)

    def backward_value(self, da, z):
        global steps
        steps += 1
        if way == "backward" and steps == 30 and RANK == 1:
            kill()
        if way == "error" and steps == 30 and RANK == 1:
            raise xpnet.DataError("row 7 is not to my liking")
        return da * (1.0 - np.tanh(z) ** 2)


if way == "forward":
    plain = Mortal.value

    def value(self, z):
        if steps == 30 and RANK == 1:
            kill()
        return plain(self, z)

    Mortal.value = value

if way == "collective":
    from xpnet.parallel.mpi import MpiComm

    sum_up = MpiComm.allreduce

    def allreduce(self, x):
        if steps == 30:
            if RANK == 1:
                threading.Timer(0.1, kill).start()  # while it waits inside for the other
            else:
                time.sleep(1.0)
        sum_up(self, x)

    MpiComm.allreduce = allreduce

if way == "checkpoint":
    replace, saved = os.replace, []

    def replace_one(source, target, **more):
        if str(target).endswith(".safetensors"):
            saved.append(target)
            if len(saved) == 4:
                with open(source, "r+b") as file:
                    file.truncate(os.path.getsize(source) // 2)
                kill()
        replace(source, target, **more)

    os.replace = replace_one
"""


@pytest.fixture
def plugin(tmp_path):
    """Return what runs a training with the plugin and these ways to end, one for each attempt."""
    path = tmp_path / "mortal.py"
    path.write_text(PLUGIN)

    def words(*ways):
        (tmp_path / "ways").write_text(" ".join(ways))
        mortal = ["--set=model.activation=mortal", "--set=checkpoint.every_steps=5"]
        return ["-m", "xpnet", "--plugin", path, *TRAIN[2:], *mortal]

    return words


def losses(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return [[json.loads(line)[name] for name in names] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The losses of six epochs in one process."""
    real_ranks.mpiexec()
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    settings = {**SETTINGS, "epochs": 6, "report": False}
    train("digits", folder, settings=settings, report=lambda line: None)
    return losses(folder)


def test_four_two_and_one_ranks_train_as_one_process_does(undisturbed, xpnet, tmp_path):
    out = ["--out", tmp_path / "run"]
    first = real_ranks.run(4, *TRAIN, *out, "--epochs=2")
    assert (first.code, first.err) == (0, "")
    [line] = [line for line in first.lines if "connected" in line]
    assert line.startswith("4 ranks on this host, connected by ")
    assert line.endswith(": each has 16 of 64 rows of a batch")
    assert [line.split()[0] for line in first.lines].count("epoch") == 2
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["ranks"], record["hosts"], record["status"]) == (4, 1, "finished")
    second = real_ranks.run(2, *TRAIN, *out, "--epochs=4", "--resume", "--json", "--quiet")
    assert (second.code, second.err) == (0, "")
    document = json.loads(second.out)
    assert (document["epochs"], document["ranks"]) == (4, 2)
    code, shown, _ = xpnet("show", tmp_path / "run")
    assert (code, shown.count("2 ranks on this host, connected by ")) == (0, 1)
    third = {**SETTINGS, "epochs": 6, "report": False}
    train("digits", tmp_path / "run", settings=third, resume=True, report=lambda line: None)
    np.testing.assert_allclose(losses(tmp_path / "run"), undisturbed, rtol=1e-12)


def test_an_error_of_all_ranks_is_told_once(tmp_path):
    done = real_ranks.run(3, *TRAIN, "--set=optimizer.lr=-1", "--out", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: optimizer.lr must be > 0; got -1.0\n"
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_rank_names_it_and_ends_all(plugin, tmp_path):
    began = time.monotonic()
    words = plugin("error")
    done = real_ranks.run(2, *words, "--debug", "--out", tmp_path / "run")
    assert time.monotonic() - began < 30
    assert done.code == 2
    assert "rank 1: error: row 7 is not to my liking" in done.err
    assert done.err.count("Traceback (most recent call last)") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(plugin, undisturbed, tmp_path):
    ways = ("forward", "backward", "collective", "checkpoint")
    words = [*plugin(*ways), "--ranks=2", "--max-restarts=4", "--out", tmp_path / "run"]
    done = real_ranks.run(None, *words, "--epochs=6", "--quiet")
    assert done.code == 0, done.err
    assert done.err.count("the training has crashed: exit code") == 4
    assert "restart 4 of 4, from its last checkpoint" in done.err
    assert "Traceback" not in done.err
    assert [(tmp_path / f"attempts-{r}").stat().st_size for r in (0, 1)] == [5, 5]
    np.testing.assert_allclose(losses(tmp_path / "run"), undisturbed, rtol=1e-12)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    job = real_ranks.start(2, *TRAIN, "--epochs=100000", "--out", run)
    end = time.monotonic() + real_ranks.SECONDS
    while not (run / "history.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGINT)
    done = real_ranks.finish(job)
    assert done.code == 130
    says = f"interrupted by SIGINT; resume with: xpnet train --out {run} --resume --ranks 2"
    assert done.lines[-1] == says
    step = load(run, which="last").checkpoint.meta["position"]["step"]
    assert step > 0
    assert (run / f"checkpoints/step-{step:010d}.safetensors").exists()


def test_a_script_trains_on_all_ranks_and_each_has_the_run(tmp_path):
    script = """
    import xpnet
    settings = {"epochs": 1, "model.hidden": [4], "step": "portable", "report": False}
    run = xpnet.train("digits", settings=settings, report=lambda line: None)
    print(comm.rank, round(run.test["loss"], 6), run.predict(np.ones((1, 64))).argmax(), flush=True)
    """
    done = real_ranks.run_script(2, script, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    (_, *first), (_, *second) = sorted(line.split() for line in done.lines)
    assert first == second
    assert len(list(Path(tmp_path / "runs").iterdir())) == 1
