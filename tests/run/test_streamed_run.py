"""A training whose rows stay in their file: like any other, and resumed bit for bit."""

import numpy as np
import pytest

from xpnet.cli.main import main
from xpnet.errors import ConfigError, DataError, TrainingError
from xpnet.run import load, load_splits, train
from xpnet.run import streamed_splits as streamed_module
from xpnet.run.config_sources import load_config
from xpnet.training.callbacks import Callback

SETTINGS = ("epochs=4", "batch_size=32", "backend=numpy", "model.hidden=[16]", "data.buffer=1")


@pytest.fixture
def file(tmp_path, rng):
    """Three classes in the order of the file, to be told apart by their features."""
    y = np.repeat([3, 5, 8], 500)
    x = rng.normal(size=(1500, 6)).astype(np.float32) + 2 * (y[:, None] == np.array([3, 5, 8] * 2))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path / "data.npz"


def config(file, *settings):
    return load_config(str(file), ["data.stream=yes", *SETTINGS, *settings])


def quiet(line):
    pass


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.position.step == self.step:
            msg = "killed"
            raise TrainingError(msg)


def test_it_learns_and_is_scored_on_the_rows_held_out(file, tmp_path):
    outcome = train(config(file), tmp_path / "run", report=quiet)
    assert outcome.test["accuracy"] > 0.85
    assert outcome.test["classes"] == ["3", "5", "8"]
    assert outcome.test["rows"] == len(load_splits(config(file)).test)
    run = load(tmp_path / "run")
    assert run.config.data.stream == "yes"
    part = run.test_part()
    again = run.predict(part.take(range(len(part))).x)
    labels = part.take(range(len(part))).y
    assert np.mean(again.argmax(axis=1) == labels) == outcome.test["accuracy"]


def test_it_is_as_good_as_in_memory(file, tmp_path):
    accuracy = {
        stream: train(
            config(file, f"data.stream={stream}", "epochs=8"), tmp_path / stream, report=quiet
        ).test["accuracy"]
        for stream in ("yes", "no")
    }
    assert abs(accuracy["yes"] - accuracy["no"]) < 0.05


@pytest.mark.parametrize("step", [1, 33, 34, 100])
def test_a_resumed_training_is_bitwise_the_whole_one(step, file, tmp_path):
    saving = "checkpoint.every_steps=7"
    train(config(file, saving), tmp_path / "whole", report=quiet)
    with pytest.raises(TrainingError, match="killed"):
        train(config(file, saving), tmp_path / "cut", report=quiet, progress=StopAt(step))
    train(config(file, saving), tmp_path / "cut", resume=True, report=quiet)
    whole, cut = (load(tmp_path / name, which="last") for name in ("whole", "cut"))
    assert whole.checkpoint.tensors.keys() == cut.checkpoint.tensors.keys()
    for name, tensor in whole.checkpoint.tensors.items():
        np.testing.assert_array_equal(tensor, cut.checkpoint.tensors[name], err_msg=name)


@pytest.mark.long_where(backend32=["jax"])
def test_the_same_batches_on_every_library(file, tmp_path, backend32):
    losses = []
    for name, device in (("numpy", "cpu"), (backend32.name, backend32.device_name)):
        settings = (f"backend={name}", f"device={device}", "epochs=2")
        folder = tmp_path / f"on-{len(losses)}"
        train(config(file, *settings), folder, report=quiet)
        losses.append([record["val_loss"] for record in load(folder).folder.history()])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_regression_is_scored_in_the_units_of_its_targets(tmp_path, rng):
    x = rng.normal(size=(2000, 4)).astype(np.float32)
    y = 1000 + 50 * x[:, 0] - 20 * x[:, 1]
    np.savez(tmp_path / "r.npz", x=x, y=y)
    settings = ("data.task=regression", "loss.name=mean_squared_error", "epochs=15")
    outcome = train(config(tmp_path / "r.npz", *settings), tmp_path / "run", report=quiet)
    assert outcome.test["r2"] > 0.98
    assert outcome.test["mae"] < 10


def test_a_file_sorted_by_class_in_one_row_group_is_learned_and_tested_evenly(tmp_path, rng):
    pa = pytest.importorskip("pyarrow", reason="it writes Parquet")
    pq = pytest.importorskip("pyarrow.parquet", reason="it writes Parquet")
    y = np.repeat(["a", "b", "c"], 500)
    x = rng.normal(size=(1500, 6)) + 2 * (y[:, None] == np.array(["a", "b", "c"] * 2))
    path = tmp_path / "sorted.parquet"
    pq.write_table(pa.table({f"f{j}": x[:, j] for j in range(6)} | {"label": y}), path)
    scores = {}
    for stream in ("yes", "no"):
        made = config(path, f"data.stream={stream}", "epochs=8")
        scores[stream] = train(made, tmp_path / stream, report=quiet).test
    assert scores["no"]["support"] == [100, 100, 100]
    np.testing.assert_allclose(scores["yes"]["support"], 100, rtol=0, atol=2)
    assert abs(scores["yes"]["accuracy"] - scores["no"]["accuracy"]) < 0.06


def test_a_split_that_is_not_stratified_is_refused_or_asked_for(tmp_path, rng):
    y = np.repeat([0, 1, 2], [700, 297, 3])
    x = rng.normal(size=(1000, 4)).astype(np.float32)
    np.savez(tmp_path / "rare.npz", x=x, y=y)
    says = "class '2' has 3 rows, 0 of them for validation, where"
    with pytest.raises(DataError, match=says) as e:
        load_splits(config(tmp_path / "rare.npz"))
    assert "--set data.stratify=no" in e.value.at_command_line
    assert len(load_splits(config(tmp_path / "rare.npz", "data.stratify=no")).test) > 190


def test_a_run_does_not_go_on_with_another_split(file, tmp_path, monkeypatch):
    train(config(file, "epochs=1"), tmp_path / "run", report=quiet)
    monkeypatch.setattr(streamed_module, "SPLIT", "split-1")
    with pytest.raises(DataError, match="the data has changed since this run began"):
        train(config(file, "epochs=2"), tmp_path / "run", resume=True, report=quiet)


def test_a_test_file_is_looked_up_among_the_classes_of_the_training(file, tmp_path):
    with np.load(file) as data:
        x, y = data["x"], data["y"]
    np.savez(tmp_path / "test.npz", x=x[500:700], y=y[500:700])  # of class 5 alone
    with_test = config(file, f"data.test={tmp_path / 'test.npz'}")
    outcome = train(with_test, tmp_path / "run", report=quiet)
    assert outcome.test["support"] == [0, 200, 0]
    np.savez(tmp_path / "test.npz", x=x[:200], y=y[:200] + 1)
    with pytest.raises(DataError, match="label '4' is not among the 3 known classes"):
        load_splits(with_test)
    np.savez(tmp_path / "test.npz", x=x[:200, :5], y=y[:200])
    with pytest.raises(DataError, match=r"features of shape \(5,\); expected \(6,\)"):
        load_splits(with_test)


def test_large_files_are_streamed_by_themselves_and_the_choice_is_kept(file, tmp_path, monkeypatch):
    auto = config(file, "data.stream=auto", "epochs=1")
    assert not streamed_module.is_streamed(auto)
    monkeypatch.setattr(streamed_module, "host_memory", lambda: 2 * file.stat().st_size)
    said = []
    train(auto, tmp_path / "run", report=said.append)
    assert any("stay in the file" in line for line in said)
    assert load(tmp_path / "run").config.data.stream == "yes"
    monkeypatch.undo()  # more memory does not make another split of it
    train(config(file, "data.stream=auto", "epochs=2"), tmp_path / "run", resume=True, report=quiet)
    with pytest.raises(ConfigError, match=r"cannot resume with data.stream = 'no'"):
        train(config(file, "data.stream=no"), tmp_path / "run", resume=True, report=quiet)


def command(*arguments):
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code


def test_what_cannot_be_streamed_is_one_line_at_the_prompt(file, tmp_path, capsys):
    (tmp_path / "t.csv.gz").write_bytes(b"")
    with np.load(file) as data:
        np.savez(tmp_path / "few.npz", x=data["x"][:3], y=data["y"][[0, 600, 1200]])
    for source, says in {
        "digits": "data.stream is for files; digits is small",
        tmp_path / "t.csv.gz": "cannot be streamed; known: .npy .npz .idx",
        tmp_path / "few.npz": "3 rows leave none for",
    }.items():
        out = tmp_path / "run"
        assert command("train", source, "--set", "data.stream=yes", "--out", out) == 2
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
        assert not out.exists()


def test_the_other_commands_take_rows_out_of_the_file(file, tmp_path, capsys):
    train(config(file, "epochs=1"), tmp_path / "run", report=quiet)
    assert command("explain", tmp_path / "run", "--sample", 7) == 0
    assert "sample 7 of the test data" in capsys.readouterr().out
    assert command("evaluate", tmp_path / "run") == 0
    assert "accuracy" in capsys.readouterr().out
    toml = tmp_path / "streamed.toml"
    toml.write_text('[data]\nsource = "data.npz"\nstream = "yes"\n')
    assert command("gradcheck", toml) == 0


@pytest.mark.parametrize("stream", ["yes", "no"])
def test_an_augmented_training_resumes_bitwise_and_is_tested_on_rows_as_they_are(
    stream, tmp_path, rng
):
    y = np.repeat([0, 1], 200)
    x = rng.integers(0, 100, (400, 5, 5)).astype(np.uint8)
    x[y == 1, 1:4, 1:4] += 150
    np.savez(tmp_path / "images.npz", x=x, y=y)
    settings = ("data.augment.shift=1", "data.augment.noise=0.1", f"data.stream={stream}")
    made = config(tmp_path / "images.npz", *settings, "checkpoint.every_steps=3", "epochs=25")
    whole = train(made, tmp_path / "whole", report=quiet)
    with pytest.raises(TrainingError, match="killed"):
        train(made, tmp_path / "cut", report=quiet, progress=StopAt(14))
    cut = train(made, tmp_path / "cut", resume=True, report=quiet)
    assert cut.test == whole.test
    assert whole.test["accuracy"] > 0.9
    plain = train(
        config(tmp_path / "images.npz", f"data.stream={stream}", "epochs=8"),
        tmp_path / "plain",
        report=quiet,
    )
    assert plain.test != whole.test


def test_an_augmentation_that_cannot_be_is_refused_before_the_run_begins(tmp_path, capsys):
    out = tmp_path / "run"
    assert command("train", "digits", "--set", "data.augment.shift=1", "--out", out) == 2
    assert "data.augment moves images" in capsys.readouterr().err
    assert not out.exists()


def test_a_large_file_is_evaluated_and_predicted_as_a_small_one(
    file, tmp_path, capsys, monkeypatch
):
    train(config(file, "epochs=1", "data.stream=no"), tmp_path / "run", report=quiet)
    with np.load(file) as data:
        np.savez(tmp_path / "rows.npz", x=data["x"])
    printed, written = [], []
    for memory in (2**40, 1000):
        monkeypatch.setattr(streamed_module, "host_memory", lambda memory=memory: memory)
        assert command("evaluate", tmp_path / "run", file, "--json") == 0
        assert command("predict", tmp_path / "run", tmp_path / "rows.npz") == 0
        printed.append(capsys.readouterr().out)
        out = tmp_path / f"{memory}.csv"
        assert command("predict", tmp_path / "run", tmp_path / "rows.npz", "-o", out) == 0
        assert capsys.readouterr().out == f"1,500 predictions in {out}\n"
        written.append(out.read_text())
    assert printed[0] == printed[1]
    assert written[0] == written[1]
    assert written[0].count("\n") == 1501
    assert written[0] in printed[0]


def test_a_large_file_of_other_rows_is_refused(file, tmp_path, capsys, monkeypatch):
    train(config(file, "epochs=1"), tmp_path / "run", report=quiet)
    monkeypatch.setattr(streamed_module, "host_memory", lambda: 1000)
    for rows, says in {
        "narrow": (np.zeros((600, 5), np.float32), "features have shape (5,); the run was trained"),
        "wrong": (np.full((600, 6), np.nan, np.float32), "row 0, x[0] is nan"),
        "huge": (np.full((600, 6), 1e300), "features are too large for float32"),
    }.values():
        np.savez(tmp_path / "rows.npz", x=rows)
        assert command("predict", tmp_path / "run", tmp_path / "rows.npz") == 2
        printed = capsys.readouterr()
        assert says in printed.err
        assert printed.out == ""
        assert printed.err.count("\n") == 1


@pytest.mark.parametrize("stream", ["yes", "no"])
def test_counts_are_checked_before_the_first_step(stream, tmp_path, rng):
    x, y = rng.normal(size=(300, 3)), rng.poisson(2.0, size=300).astype(float)
    np.savez(tmp_path / "good.npz", x=x, y=y)
    y[257] = -2.0
    np.savez(tmp_path / "bad.npz", x=x, y=y)
    settings = ("data.task=regression", "loss=poisson", f"data.stream={stream}", "epochs=1")
    unscaled = "data.target_scaling=none"
    with pytest.raises(DataError, match=r"takes counts; the target of .*row 257 is -2.0"):
        train(config(tmp_path / "bad.npz", *settings, unscaled), tmp_path / "a", report=quiet)
    with pytest.raises(DataError, match=r"takes counts; the target of .* is -.*unscaled"):
        train(config(tmp_path / "good.npz", *settings), tmp_path / "b", report=quiet)
    assert not (tmp_path / "a").exists()
    outcome = train(
        config(tmp_path / "good.npz", *settings, unscaled, "loss.log_input=false"),
        tmp_path / "c",
        report=quiet,
    )
    assert type(outcome.trainer.model.layers[-1]).__name__ == "Softplus"


def test_hidden_layers_that_end_in_a_softmax_are_refused(file, tmp_path):
    layers = 'model.layers=[{name="dense", units=3}, {name="softmax"}]'
    with pytest.raises(ConfigError, match="the output layer is added after softmax: leave that"):
        train(config(file, layers), tmp_path / "run", report=quiet)


@pytest.mark.parametrize("stream", ["yes", "no"])
def test_a_batch_norm_of_one_row_is_refused_before_anything_is_written(stream, file, tmp_path):
    settings = ("model.normalization=batch_norm", f"data.stream={stream}")
    rows = len(load_splits(config(file, *settings)).train)
    with pytest.raises(ConfigError, match="needs two rows for a variance") as error:
        train(config(file, *settings, f"batch_size={rows - 1}"), tmp_path / "run", report=quiet)
    assert error.value.command == f"--set batch_size={rows - 2}"
    assert not (tmp_path / "run").exists()
    train(
        config(file, *settings, f"batch_size={rows - 2}", "epochs=1"),
        tmp_path / "run",
        report=quiet,
    )
