"""Faults that week-long trainings meet, injected into short ones: cases of scripts/faults."""

import importlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xpnet
import xpnet.storage.checkpoint_folder
import xpnet.training.checkpointing
from xpnet.errors import CheckpointError
from xpnet.nn import Dense
from xpnet.storage import CheckpointFolder, load, save
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.trainer import Trainer

pytest.importorskip("resource", reason="signals and limits are POSIX")
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def faults():
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("faults")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def training(faults, tmp_path_factory):
    settings = (*faults.COMMON, *faults.NETWORKS[next(iter(faults.NETWORKS))])
    return faults.Training(tmp_path_factory.mktemp("faults"), settings, faults.Tally())


@pytest.mark.long
def test_a_training_killed_again_and_again_ends_bit_for_bit_as_an_undisturbed_one(faults, training):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    faults.kills(training, 4, random.Random(seed))
    assert training.tally.counts["runs compared"] >= 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("damage", (1, random.Random(0))),
        ("signals", (2, random.Random(0))),
        ("file_limit", ()),
        ("changed_data", ()),
        ("tampered", (1,)),
        ("two_writers", (1,)),
    ],
)
def test_a_fault_loses_nothing(faults, training, case, arguments):
    getattr(faults, case)(training, *arguments)
    assert training.tally.counts["tracebacks"] == 0


@pytest.mark.long
def test_settings_in_another_order_and_parts_with_cold_caches_change_no_bit(faults, tmp_path):
    for case, network in (
        ("orders", list(faults.NETWORKS.values())[1]),
        ("parts", faults.VARIED),
    ):
        tally = faults.Tally()
        training = faults.Training(tmp_path / case, (*faults.COMMON, *network), tally)
        getattr(faults.variations, case)(training, 2, random.Random(0))
        assert tally.counts["runs compared"] == 2


# Python swallows what is raised within a destructor or a callback of its collector, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_fit_that_is_interrupted_and_called_again_equals_the_straight_one(faults):
    tally = faults.Tally()
    only = {"numpy, portable": faults.variations.TRAINERS["numpy, portable"]}
    faults.variations.interrupted_fits(40, random.Random(0), tally, only)
    assert tally.counts["interruptions of fit in Python"] >= 40
    assert tally.counts["fits compared"] >= 8


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("full_disk", ()),
        ("read_only", ()),
        ("each_call", (4, 0)),
        ("each_call", (40, 0)),
        ("clock", ()),
    ],
)
def test_a_failing_disk_or_clock_loses_nothing(faults, training, case, arguments):
    before = len(training.tally.not_run)
    getattr(faults, case)(training, *arguments)
    assert training.tally.problems == []
    if reasons := training.tally.not_run[before:]:
        pytest.skip(reason=reasons[0])


@pytest.mark.long
def test_a_missing_flush_before_a_rename_is_detected(faults, training, tmp_path, monkeypatch):
    """Run a copy of xpnet without that flush under the layer that cuts the power."""
    layer = faults.layered.build(tmp_path)
    if layer is None:
        pytest.skip(reason="the layer needs a C compiler and Linux")
    durable = Path(shutil.copytree(Path(xpnet.__file__).parent, tmp_path / "xpnet"))
    durable = durable / "storage" / "durable.py"
    flush = "            file.write(chunk)\n        file.flush()\n        os.fsync(file.fileno())\n"
    assert durable.read_text().count(flush) == 1
    durable.write_text(durable.read_text().replace(flush, flush[: flush.rindex("        os")]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shutil.copy(training.data, tmp_path)
    settings = ["epochs=1", "backend=numpy", "model.hidden=[2]", "mixed.dtype=float16"]
    result = faults.layered.each_call(layer, tmp_path, settings, 80, 0)
    assert result["counts"]["lost"] > 0
    assert all(problem.startswith("POWER") for problem in result["lost"])


@pytest.mark.long
def test_memory_and_open_files_stay_constant_and_the_history_readable(faults, tmp_path):
    if not Path("/proc/self/fd").exists():
        pytest.skip(reason="memory and files are read from /proc")
    measured = faults.long_run(tmp_path, 5_000, faults.Tally())
    assert measured["steps"] >= 4_500


@pytest.mark.long
def test_a_checkpoint_of_one_backend_is_resumed_on_another(faults, tmp_path):
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    settings = (*faults.COMMON, *faults.NETWORKS[list(faults.NETWORKS)[1]])
    training = faults.Training(tmp_path, settings, faults.Tally())
    faults.other_backend(training, "array-api-strict", random.Random(0))
    assert training.tally.counts["runs compared"] == 1


def test_a_difference_of_one_bit_is_found_and_counted(faults, training, tmp_path):
    copy = Path(shutil.copytree(training.whole(), tmp_path / "copy"))
    newest = list(CheckpointFolder(copy / "checkpoints").steps().values())[-1]
    held = load(newest)
    held.tensors["slots/m/0.dense.W"].view(np.uint32)[0, 0] ^= 1
    save(newest, held.tensors, held.meta)
    tally = faults.Tally()
    with tally.case("one bit"):
        training.same(copy)
    assert tally.counts["lost"] == 1
    assert tally.problems[0].endswith("last: slots/m/0.dense.W")


def test_the_report_has_the_counts_but_not_the_name_of_the_host(faults):
    result = {"command": "scripts/faults", "seconds": 1, "counts": {"kills": 1234, "lost": 0}}
    result |= {"conditions": faults.conditions(), "not run": ["a: because"], "long": None}
    result |= {"fuzzed": {"csv": {"accepted": 1, "refused": 2, "escaped": 0}}}
    text = faults.markdown(result)
    assert "| kills | 1,234 |" in text
    assert "Not run: a: because." in text
    assert os.uname().nodename not in json.dumps(result)


# ------------------------------------------------------------------------------------ in process


def trainer_and_data():
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    return Trainer([Dense(2)], backend="numpy", batch_size=4), (x, y)


def test_a_kill_before_the_best_checkpoint_is_linked_is_repaired(tmp_path, monkeypatch):
    trainer, data = trainer_and_data()
    folder = CheckpointFolder(tmp_path)

    class KilledError(BaseException):
        pass

    def kill(source, path):
        raise KilledError

    monkeypatch.setattr(xpnet.storage.checkpoint_folder, "atomic_link", kill)
    with pytest.raises(KilledError):
        trainer.fit(data, epochs=1, validation=data, callbacks=[Checkpointing(folder)])
    monkeypatch.undo()
    assert folder.best() is None
    newest = folder.newest()
    again, _ = trainer_and_data()
    again.restore(newest.tensors, newest.meta)
    again.fit(data, epochs=1, validation=data, callbacks=[Checkpointing(folder)])
    assert folder.best().meta == newest.meta


def test_the_best_epoch_on_a_full_disk_is_saved_once_there_is_space(tmp_path, monkeypatch):
    trainer, data = trainer_and_data()
    folder, lines = CheckpointFolder(tmp_path, keep=1), []
    write = xpnet.storage.checkpoint_folder.save

    def full_until_step_4(path, tensors, meta):
        if meta["position"]["step"] == 3 and trainer.position.step < 4:
            msg = "No space left on device"
            raise CheckpointError(msg)
        write(path, tensors, meta)

    monkeypatch.setattr(xpnet.storage.checkpoint_folder, "save", full_until_step_4)
    callback = Checkpointing(folder, every_steps=1, report=lines.append)
    trainer.fit(data, epochs=1, validation=data, callbacks=[callback])
    assert folder.best() is None
    trainer.history[0]["val_loss"] = -1.0  # no later epoch is better
    trainer.fit(data, epochs=2, validation=data, callbacks=[callback])
    assert any("training continues" in line for line in lines)
    assert folder.best().meta["position"]["step"] == 3
    assert folder.newest().meta["position"]["step"] == 6


def test_a_clock_that_runs_backwards_delays_no_checkpoint(tmp_path, monkeypatch):
    trainer, data = trainer_and_data()
    wall = iter(range(10**6, 0, -1))
    monkeypatch.setattr(xpnet.training.checkpointing.time, "time", lambda: next(wall))
    callback = Checkpointing(CheckpointFolder(tmp_path, keep=9), every_seconds=1e-9)
    trainer.fit(data, epochs=1, callbacks=[callback])
    assert list(callback.folder.steps()) == [1, 2, 3]


def test_the_script_prints_the_counts_and_exits_with_1_if_anything_is_lost(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import faults\n"
        "def campaign(folder, options, tally):\n"
        "    tally.counts['lost'] += 1\n"
        "    return {'long': None, 'fuzzed': {}}\n"
        "faults.campaign = campaign\n"
        "faults.main()\n"
    )
    report = tmp_path / "report"
    command = [sys.executable, "-c", script, str(SCRIPTS), "--short", "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "lost: 1\ntracebacks: 0\n" in done.stdout
    assert json.loads(report.with_suffix(".json").read_text())["counts"]["lost"] == 1
    assert report.with_suffix(".md").read_text().startswith("# Faults")
