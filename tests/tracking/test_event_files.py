"""``TensorBoard``: its event files, read back by TensorBoard's own readers."""

import resource
import sys

import numpy as np
import pytest

import xpnet
from xpnet.errors import BackendError
from xpnet.nn import Dense, ReLU
from xpnet.training.callbacks import Callback
from xpnet.training.norms import Norms
from xpnet.training.trainer import Trainer

pytest.importorskip("tensorboard", reason="needs tensorboard")
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.util import tensor_util


def rows(n=80):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.integers(0, 3, n)


def trainer():
    return Trainer([Dense(6), ReLU(), Dense(3)], backend="numpy", batch_size=2)


def fitted(of, folder, epochs, *more, **options):
    board = xpnet.TensorBoard(folder, **options)
    of.fit(rows(), epochs=epochs, validation_fraction=0.25, callbacks=[board, Norms(), *more])
    return board


class Events:
    """What is shown of a folder: by TensorBoard's server, and by its reader of files."""

    def __init__(self, folder):
        self.shown = plugin_event_accumulator.EventAccumulator(str(folder))
        self.read = EventAccumulator(str(folder))
        for reader in (self.shown, self.read):
            reader.Reload()

    def __getitem__(self, tag):
        return {e.step: tensor_util.make_ndarray(e.tensor_proto) for e in self.shown.Tensors(tag)}

    def steps(self, tag):
        shown = [event.step for event in self.shown.Tensors(tag)]
        if self.plugin(tag).plugin_name == "scalars":
            assert [event.step for event in self.read.Scalars(tag)] == shown
        return shown

    def plugin(self, tag):
        return self.shown.SummaryMetadata(tag).plugin_data


def test_the_numbers_are_those_of_the_history(tmp_path):
    made = trainer()
    fitted(made, tmp_path, 3)
    events, history = Events(tmp_path), made.history
    names = {
        "loss/training": "loss",
        "loss/validation": "val_loss",
        "accuracy/training": "accuracy",
    }
    names |= {"accuracy/validation": "val_accuracy", "pace/lr": "lr", "pace/seconds": "seconds"}
    names |= {"pace/rows_per_second": "rows_per_second"}
    for tag, name in names.items():
        expected = {record["epoch"]: np.float32(record[name]) for record in history}
        assert events[tag] == expected
        assert events.plugin(tag).plugin_name == "scalars"
    for norm in ("weights", "gradient", "update"):
        found = events[f"{norm}/2.dense"]
        assert found == {r["epoch"]: np.float32(r["norms"]["2.dense"][norm]) for r in history
                         if "norms" in r}  # fmt: skip


def test_a_histogram_has_all_the_weights(tmp_path):
    made = trainer()
    fitted(made, tmp_path, 3)
    events = Events(tmp_path)
    assert events.plugin("parameters/0.dense.W").plugin_name == "histograms"
    left, right, counts = events["parameters/0.dense.W"][3].T  # of the last epoch
    W = made.params["0.dense.W"]
    assert counts.sum() == W.size
    assert (left[0], right[-1]) == (pytest.approx(W.min()), pytest.approx(W.max()))


def test_settings_are_a_text_and_those_of_a_session(tmp_path):
    made = trainer()
    settings = {"optimizer.lr": 0.5, "model.hidden": (6, 3), "tf32": None, "data.stratify": True}
    board = fitted(made, tmp_path, 1, settings=settings)
    board.finish({"accuracy": 0.75, "confusion": [[1]]})
    events = Events(tmp_path)
    (text,) = events["settings"].values()
    assert "| optimizer.lr | `0.5` |" in text.item().decode()
    content = events.plugin(metadata.SESSION_START_INFO_TAG).content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["optimizer.lr"].number_value == 0.5
    assert start.hparams["model.hidden"].string_value == "6, 3"
    assert start.hparams["data.stratify"].bool_value is True
    assert metadata.SESSION_END_INFO_TAG in events.shown.Tags()["tensors"]
    assert events["accuracy/test"] == {1: np.float32(0.75)}


def test_a_resumed_training_shows_every_epoch_once(tmp_path):
    lost, resumed = trainer(), trainer()
    fitted(lost, tmp_path, 3)
    snapshot = lost.snapshot()
    fitted(lost, tmp_path, 5)  # epochs 4 and 5 are lost: the last checkpoint is of epoch 3
    resumed.restore(*snapshot)
    fitted(resumed, tmp_path, 6)
    events = Events(tmp_path)
    assert events.steps("loss/training") == [1, 2, 3, 4, 5, 6]
    assert events["loss/training"] == {r["epoch"]: np.float32(r["loss"]) for r in resumed.history}
    assert events.steps("settings") == [0]


def test_what_was_trained_before_is_written(tmp_path):
    made = trainer()
    made.fit(rows(), epochs=2, validation_fraction=0.25)
    fitted(made, tmp_path, 3)
    assert Events(tmp_path).steps("loss/training") == [1, 2, 3]


def test_a_folder_that_is_gone_is_written_anew(tmp_path):
    made = trainer()
    fitted(made, tmp_path / "a", 2)
    fitted(made, tmp_path / "b", 3)
    assert Events(tmp_path / "b").steps("loss/training") == [1, 2, 3]


class FullDisk(Callback):
    """Let no file grow by more than 100 bytes in the second and third epoch."""

    def __init__(self, folder):
        self.folder, self.sizes = folder, []

    def on_record(self, trainer, record):
        (file,) = self.folder.iterdir()
        self.sizes.append(file.stat().st_size)
        full = record["epoch"] in (2, 3)
        limit = self.sizes[-1] + 100 if full else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def test_a_full_disk_is_reported_once_and_made_up_for(tmp_path):
    made, reports, folder = trainer(), [], tmp_path / "events"
    disk = FullDisk(folder)
    fitted(made, folder, 4, disk, report=reports.append)
    assert disk.sizes[1] == disk.sizes[2] == disk.sizes[3]  # nothing torn is left behind
    assert Events(folder).steps("loss/training") == [1, 2, 3, 4]
    (line,) = reports
    assert line.startswith("TensorBoard: cannot append to ")
    assert line.endswith("training continues, and its history has all")


def test_without_the_package_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(BackendError, match="pip install 'tensorboard>="):
        xpnet.train("digits", tmp_path / "run", settings={"tracking.tensorboard": True})
    assert not (tmp_path / "run").exists()


def test_a_run_has_its_events_and_test_scores(tmp_path):
    settings = {"epochs": 2, "tracking.tensorboard": True, "model.hidden": [8]}
    run = xpnet.train("digits", tmp_path / "run", settings=settings, report=lambda line: None)
    events = Events(tmp_path / "run" / "tensorboard")
    assert events["accuracy/test"] == {2: np.float32(run.test["accuracy"])}
    assert events.steps("gradient/0.dense") == [1, 2]
    content = events.plugin(metadata.SESSION_START_INFO_TAG).content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["optimizer.name"].string_value == "adamw"
    assert start.hparams["epochs"].number_value == 2
