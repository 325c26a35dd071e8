"""A run from its data to its folder: trained, resumed, evaluated, and refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, r2_score, top_k_accuracy_score

from xpnet.backends import backend_class
from xpnet.data import Dataset
from xpnet.errors import BackendError, CheckpointError, ConfigError, DataError, XpnetError
from xpnet.run import load, train
from xpnet.run.config_sources import load_config
from xpnet.run.scores import scores
from xpnet.run.splits import read_data
from xpnet.storage import CheckpointFolder, History, RunLock, save

QUICK = ("epochs=3", "batch_size=16", "model.hidden=[8]", "backend=numpy", "dtype=float64")


def flowers(rows=90, seed=0):
    """Rows of 4 measures whose largest weighted one is the species."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).round(3)
    return x, np.array(["aster", "rose", "tulip"])[np.argmax(x[:, :3], axis=1)]


def write_csv(path, x, y=None, names=("a", "b", "c", "d"), label="species"):
    lines = [",".join([*names, label] if y is not None else names)] if names else []
    for n, row in enumerate(x):
        lines.append(",".join(map(str, [*row, *([] if y is None else [y[n]])])))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "flowers.csv", *flowers())


@pytest.fixture
def go(tmp_path):
    """Train quickly into tmp_path/run; `go.said` is what was reported."""

    def run(source, *overrides, out="run", **options):
        run.said = []
        config = load_config(source, [*QUICK, *overrides], recipe="none")
        return train(config, tmp_path / out, report=run.said.append, **options)

    return run


def weights(folder, which="last"):
    tensors = load(folder, backend="numpy", which=which).checkpoint.tensors
    return {name: t.tobytes() for name, t in tensors.items()}


# -------------------------------------------------------------------------------------- a folder


def test_a_run_leaves_a_folder_that_says_all_of_it(csv, go, tmp_path):
    outcome = go(csv)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        *("checkpoints", "config.toml", "history.jsonl", "report.json", "run.json", "run.lock")
    ]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert (record["backend"], record["device"], record["dtype"]) == ("numpy", "cpu", "float64")
    assert (record["train_rows"], record["validation_rows"], record["test_rows"]) == (63, 9, 18)
    assert record["parameters"] == 4 * 8 + 8 + 8 * 3 + 3
    assert (tmp_path / "run" / "run.lock").read_bytes() == b""
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == outcome.test
    assert outcome.test["classes"] == ["aster", "rose", "tulip"]
    run = load(tmp_path / "run")
    settings = [*QUICK, "data.stream=no"]
    assert run.config == load_config(csv, settings, recipe="none", task="classification")
    assert [r["epoch"] for r in run.folder.history()] == [1, 2, 3]
    assert run.preprocessing.feature_names == ("a", "b", "c", "d")


def test_a_run_read_back_scores_and_predicts_as_it_did(csv, go, tmp_path):
    outcome = go(csv, "early_stopping.monitor=accuracy")
    run = load(tmp_path / "run")
    assert scores(run, run.test_part()) == outcome.test
    x, y = flowers()
    p = run.predict(x)
    whole = scores(run, run.read(csv, labelled=True))
    assert whole["accuracy"] == np.mean(np.array(run.preprocessing.classes)[p.argmax(axis=1)] == y)
    assert whole["rows"] == 90
    for predict in (run.trainer.predict, outcome.trainer.predict):  # without the run's scaler
        with pytest.raises(DataError, match=r"no raw rows.*call predict of the run itself"):
            predict(x)
    with pytest.raises(DataError, match="no raw rows"):
        run.trainer.evaluate((x, y))
    with pytest.raises(DataError, match="no raw rows"):
        run.trainer.fit((x, y), epochs=99)
    other = pickle.loads(pickle.dumps(run))
    np.testing.assert_array_equal(other.predict(x), p)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_classes_are_ranked_by_logits_where_probabilities_are_all_0_or_1(loss, tmp_path, go):
    x, y = flowers(300)
    binary = loss == "binary_cross_entropy"
    path = write_csv(tmp_path / "many.csv", x, np.where(y == "rose", "a", "b") if binary else y)
    go(path, f"loss={loss}", "dtype=float32")
    run = load(tmp_path / "run")
    tensors = run.trainer.engine.tensors()
    last = max(name for name in tensors if name.startswith("params/") and name.endswith("W"))
    for name in (last, f"{last[:-1]}b"):
        tensors[name] = tensors[name] * np.float32(1e4)
    run.trainer.engine.load_tensors(tensors)
    data, logits = run.read(path, labelled=True), []
    loader = run.preprocessing.loader(run.trainer.engine.backend, data)
    metrics = run.trainer.score(loader, lambda batch, output, told: logits.append(output))
    z = np.concatenate(logits)
    z = np.concatenate([0 * z, z], axis=1) if binary else z
    assert np.isin(run.predict(data.x), (0.0, 1.0)).mean() > 0.9
    result = scores(run, data, top=2)
    assert result["accuracy"] == metrics.accuracy == accuracy_score(data.y, z.argmax(axis=1))
    if not binary:
        expected = top_k_accuracy_score(data.y, z, k=2, labels=range(3))
        assert result["top_2_accuracy"] == expected
        assert expected < 0.95


def test_rows_of_an_ignored_label_count_in_no_score(csv, go):
    """Nor do they in the loss, and in the accuracy of the history."""
    outcome = go(csv, "loss.ignore_label=1")
    data, tested = outcome.test_part(), scores(outcome, outcome.test_part(), top=1)
    kept = data.y != 1
    predicted = outcome.predict(data.x).argmax(axis=1)
    assert 0 < kept.sum() < len(data)
    assert tested["accuracy"] == accuracy_score(data.y[kept], predicted[kept])
    assert tested["top_1_accuracy"] == tested["accuracy"]
    assert tested["support"] == np.bincount(data.y[kept], minlength=3).tolist()


def test_each_target_has_scores_of_its_own(tmp_path, go):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = np.stack([1000.0 * x[:, 0], rng.normal(size=200)], axis=1)
    np.savez(tmp_path / "two.npz", x=x, y=y)
    settings = ("data.task=regression", "loss=mean_squared_error", "epochs=20")
    outcome = go(str(tmp_path / "two.npz"), *settings, "optimizer.lr=0.01")
    data = outcome.test_part()
    each = r2_score(data.y, outcome.predict(data.x), multioutput="raw_values")
    np.testing.assert_allclose(outcome.test["by_target"]["r2"], each, rtol=1e-9)
    assert outcome.test["r2"] == pytest.approx(each.mean())
    assert each[0] > 0.9 > 0.1 > each[1]  # one R² of both, pooled, was .99


def test_the_best_epoch_is_what_is_used_unless_the_last_is_asked_for(csv, go, tmp_path):
    go(csv, "epochs=8", "optimizer.lr=0.5", "early_stopping.monitor=loss")
    losses = [r["val_loss"] for r in load(tmp_path / "run").folder.history()]
    best = load(tmp_path / "run", which="best").checkpoint.meta["position"]["epoch"]
    assert best == 1 + int(np.argmin(losses)) < 8
    assert load(tmp_path / "run").checkpoint.meta["position"]["epoch"] == best
    assert load(tmp_path / "run", which="last").checkpoint.meta["position"]["epoch"] == 8


def test_a_run_predicts_the_same_on_every_backend(csv, go, tmp_path, backend):
    go(csv, "model.normalization=batch_norm")
    x, _ = flowers(seed=1)
    here = load(tmp_path / "run", backend="numpy").predict(x)
    name, device = backend.name, backend.device_name
    there = load(tmp_path / "run", backend=name, device=device).predict(x)
    np.testing.assert_allclose(there, here, rtol=1e-9)


def test_an_existing_run_is_not_written_over(csv, go, tmp_path):
    go(csv)
    before = weights(tmp_path / "run")
    with pytest.raises(CheckpointError, match="already holds a run: pass resume=True to"):
        go(csv, "epochs=1")
    assert weights(tmp_path / "run") == before


def test_a_second_writer_is_refused(csv, go, tmp_path):
    with RunLock(tmp_path / "run"), pytest.raises(CheckpointError, match=r"in use by pid \d+"):
        go(csv)


def test_a_run_that_began_while_the_data_was_read_is_not_gone_on_with(
    csv, go, tmp_path, monkeypatch
):
    go(csv, out="other")

    def slow(*of):
        shutil.copytree(tmp_path / "other", tmp_path / "run")
        return read_data(*of)

    monkeypatch.setattr("xpnet.run.train_run.read_data", slow)
    with pytest.raises(CheckpointError, match="already holds a run"):
        go(csv)


# ---------------------------------------------------------------------------------------- resume


def test_a_resume_without_a_checkpoint_begins(csv, go):
    outcome = go(csv, resume=True)
    assert "no checkpoint to resume from yet: starting" in go.said
    assert outcome.test["rows"] == 18


def test_a_finished_run_says_so_and_is_tested_again(csv, go, tmp_path):
    first = go(csv)
    before = weights(tmp_path / "run")
    started = json.loads((tmp_path / "run" / "run.json").read_text())["started"]
    again = go(csv, resume=True)
    assert "all 3 epochs are done; to train further: --set epochs=6" in go.said
    assert again.test == first.test
    assert weights(tmp_path / "run") == before
    assert json.loads((tmp_path / "run" / "run.json").read_text())["started"] == started


def test_more_epochs_take_a_run_to_where_a_longer_one_is(csv, go, tmp_path):
    go(csv)
    go(csv, "epochs=5", resume=True)
    go(csv, "epochs=5", out="longer")
    assert weights(tmp_path / "run") == weights(tmp_path / "longer")
    short, longer = (load(tmp_path / n).folder.history() for n in ("run", "longer"))
    assert [r["val_loss"] for r in short] == [r["val_loss"] for r in longer]


def test_a_run_stopped_early_stays_stopped_until_it_may_wait_longer(csv, go, tmp_path):
    stopping = ["epochs=9", "early_stopping.patience=2", "early_stopping.min_delta=99"]
    outcome = go(csv, *stopping)
    assert outcome.stopped == "no better loss for 2 epochs"
    assert not outcome.interrupted
    before = weights(tmp_path / "run")
    assert go(csv, *stopping, resume=True).stopped == outcome.stopped
    assert weights(tmp_path / "run") == before
    go(csv, *stopping, "early_stopping.patience=4", resume=True)
    assert len(load(tmp_path / "run").folder.history()) == 5


def test_how_many_are_kept_may_change_on_the_way(csv, go, tmp_path):
    go(csv, "epochs=6", "checkpoint.every_steps=1", "checkpoint.keep=5")
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints")
    assert list(folder.steps()) == [20, 21, 22, 23, 24]
    go(csv, "epochs=7", "checkpoint.every_steps=1", "checkpoint.keep=2", resume=True)
    assert list(folder.steps()) == [27, 28]
    go(csv, "epochs=8", "checkpoint.every_steps=1", "checkpoint.keep=4", resume=True)
    assert list(folder.steps()) == [29, 30, 31, 32]
    go(csv, "epochs=8", out="whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_run_goes_on_where_only_what_it_needs_is_free(csv, go, tmp_path, monkeypatch):
    """Its checkpoints have their space already."""
    go(csv)
    paths = CheckpointFolder(tmp_path / "run" / "checkpoints").steps().values()
    held, asked = sum(path.stat().st_size for path in paths), []
    monkeypatch.setattr("xpnet.run.job.preflight", lambda *sizes: asked.append(sizes))
    go(csv, "epochs=4", resume=True)
    go(csv, out="other")
    (_, resumed, largest), (_, anew, _) = asked
    assert anew == 6 * largest
    assert resumed == max(anew - held, 2 * largest) < anew


def test_a_folder_is_one_by_whatever_link_it_is_reached(csv, go, tmp_path):
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "run").mkdir()
    with RunLock(tmp_path / "run"), pytest.raises(CheckpointError, match=r"in use by pid \d+"):
        go(csv, out="link")
    go(csv, out="link")
    assert (tmp_path / "run" / "report.json").exists()
    assert (tmp_path / "link").is_symlink()


def test_the_batch_that_fits_is_found_once_and_kept(csv, go, tmp_path, monkeypatch):
    go(csv, "batch_size=largest")
    assert "batch size 63 is the largest that fits" in go.said
    assert load(tmp_path / "run").config.batch_size == 63
    monkeypatch.setattr("xpnet.training.memory.host_memory", lambda: 1)
    go(csv, "batch_size=largest", "epochs=4", resume=True)
    assert load(tmp_path / "run").trainer.position.step == 4
    go(csv, "batch_size=largest", out="smaller")
    assert "batch size 1 is the largest that fits" in go.said


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optimizer.lr=0.5", "optimizer.lr = 0.5"),
        ("model.hidden=[9]", "model.hidden = [9]"),
        ("seed=1", "seed = 1"),
        ("clip.norm=1", "clip.norm = 1.0"),
        ("optimizer.decay=weights", "optimizer.decay = 'weights'"),
        ("optimizer.freeze=['0.dense']", "optimizer.freeze = ['0.dense']"),
        ("optimizer.lr_factors.0.dense=2", "optimizer.lr_factors.0.dense = 2.0"),
        ("loss=cross_entropy", "loss.name = 'cross_entropy'"),
    ],
)
def test_another_training_is_refused_by_the_key_that_differs(csv, go, override, key):
    go(csv)
    with pytest.raises(ConfigError) as caught:
        go(csv, override, resume=True)
    assert f"cannot resume with {key}" in str(caught.value)


def test_a_run_with_groups_of_parameters_resumes_bit_for_bit(csv, go, tmp_path):
    groups = ("optimizer.decay=weights", "optimizer.weight_decay=0.1", "optimizer.freeze=['0']",
              "optimizer.lr_factors.2.dense=0.5")  # fmt: skip
    go(csv, *groups, "epochs=5", out="whole")
    go(csv, *groups)
    go(csv, *groups, "epochs=5", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_layer_that_does_not_exist_leaves_no_folder(csv, go, tmp_path):
    with pytest.raises(ConfigError, match=r"'0.relu'; there are: 0.dense, 2.dense"):
        go(csv, "optimizer.freeze=['0.relu']")
    assert not (tmp_path / "run").exists()


def test_changed_data_is_refused_and_moved_data_is_not(csv, go, tmp_path):
    go(csv)
    moved = shutil.move(csv, tmp_path / "elsewhere.csv")
    go(str(moved), "epochs=4", resume=True)
    x, y = flowers()
    x[17, 2] += 0.001
    write_csv(moved, x, y)
    with pytest.raises(DataError, match="the data has changed since this run began"):
        go(str(moved), "epochs=5", resume=True)
    with pytest.raises(DataError, match="elsewhere has changed since the run was trained on it"):
        load(tmp_path / "run").test_part()


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # the best is a link to its step's file
    path.write_bytes(content)


def test_a_torn_checkpoint_is_passed_over_with_a_message(csv, go, tmp_path):
    go(csv, "epochs=5", out="whole")
    go(csv, "checkpoint.min_seconds=0")
    newest = list(CheckpointFolder(tmp_path / "run" / "checkpoints").steps().values())[-1]
    damage(newest)
    go(csv, "epochs=5", resume=True)
    assert [line for line in go.said if line.startswith(f"skipped: {newest} has been altered")]
    assert f"resuming after step {2 * 4}: epoch 3, batch 1" in go.said
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_when_all_checkpoints_are_torn_nothing_is_begun_anew(csv, go, tmp_path):
    go(csv)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        damage(path)
    with pytest.raises(CheckpointError, match="can be read; move the folder away to start again"):
        go(csv, resume=True)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* has been altered"):
        load(tmp_path / "run")


def test_a_torn_best_is_passed_over_by_whoever_reads_the_run(csv, go, tmp_path):
    go(csv)
    best = tmp_path / "run" / "checkpoints" / "best.safetensors"
    damage(best)
    run = load(tmp_path / "run")
    assert "best.safetensors has been altered" in run.folder.skipped[0]
    assert run.checkpoint.meta["position"]["epoch"] == 3
    with pytest.raises(CheckpointError, match="no best checkpoint in"):
        load(tmp_path / "run", which="best")


def test_a_checkpoint_of_something_else_is_refused(csv, go, tmp_path):
    go(csv)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir()
    save(tmp_path / "run" / "checkpoints" / "step-0000000001.safetensors", {}, {"mine": 1})
    with pytest.raises(CheckpointError, match="was not saved by a run: 'preparation'"):
        load(tmp_path / "run")
    with pytest.raises(DataError, match="the data has changed"):
        go(csv, resume=True)


def test_what_is_no_run_is_told_by_name(csv, go, tmp_path):
    go(csv, out="first")
    with pytest.raises(CheckpointError, match=r"no run folder .*frist'; did you mean 'first'"):
        load(tmp_path / "frist")
    with pytest.raises(CheckpointError, match=r"flowers\.csv is not a safetensors file"):
        load(csv)
    with pytest.raises(CheckpointError, match="is not a run folder: it has no config"):
        load(tmp_path)


def test_a_config_that_was_lost_is_not_taken_for_the_defaults(csv, go, tmp_path):
    go(csv)
    (tmp_path / "run" / "config.toml").write_bytes(b"")
    for action in (lambda: load(tmp_path / "run"), lambda: go(csv, resume=True)):
        with pytest.raises(CheckpointError, match=r"config\.toml cannot be read: it is empty"):
            action()


def test_a_failed_run_says_why_in_its_record(csv, go, tmp_path):
    with pytest.raises(XpnetError, match="not finite"):
        go(csv, "optimizer=sgd", "optimizer.lr=1e300", "clip.value=1e300")
    status = json.loads((tmp_path / "run" / "run.json").read_text())["status"]
    assert status.startswith("failed: training is not finite from epoch 1")


@pytest.mark.parametrize("unsaved", [(CheckpointFolder, "save"), (History, "append")])
def test_a_run_whose_end_is_not_saved_is_no_success(csv, go, tmp_path, monkeypatch, unsaved):
    def full(*args, **kwargs):
        msg = "cannot write x: No space left on device"
        raise CheckpointError(msg)

    whole = go(csv, out="whole")
    with monkeypatch.context() as disk:
        disk.setattr(*unsaved, full)
        with pytest.raises(
            CheckpointError, match=r"No space left .* not saved: free some space and"
        ):
            go(csv)
    status = json.loads((tmp_path / "run" / "run.json").read_text())["status"]
    assert status.startswith("failed: cannot write x")
    assert go(csv, resume=True).test == whole.test
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (None, (), "no such file"),
        ("", (), "the file is empty"),
        ("a,b,y\n", (), "a header but no rows"),
        ("a,b,y\n1,2,x\n3,x\n", (), "line 3: 2 columns; the first row has 3"),
        ("a,b,y\n1,inf,x\n3,4,z\n", (), "'inf' is not a finite number"),
        ("1,2,0.5\n3,4,1\n", ("data.task=classification",), "is not a whole number; is this a "),
        ("a,b,y\n" + "1,2,x\n" * 40, (), "all rows belong to class 'x'; there is nothing to learn"),
        ("a,b,y\n1,2,x\n3,4,z\n", ("data.stratify=false",), "2 rows cannot be split into 3 parts"),
        ("a,b,y\n" + "1,2,x\n3,4,z\n" * 20, ("data.label=species",), "no column 'species'"),
        ("a,b,y\n" + "1,2,x\n3,4,z\n" * 20, ("data.test=absent.csv",), "absent.csv: no such file"),
        ("a,b,y\n" + "1,2,x\n3,4,z\n" * 20, ("loss.class_weights=[1]",), "class_weights has 1"),
        ("a,b,y\n" + "1,2,x\n3,4,z\n" * 20, ("loss.ignore_label=-1",), "numbered 0 to 1"),
        (
            "a,b,y\n" + "1,2,x\n3,4,z\n5,6,w\n" * 20,
            ("loss=binary_cross_entropy",),
            "binary_cross_entropy is for two classes; flowers has 3",
        ),
        (
            "a,b,y\n" + "1,2,x\n3,4,z\n" * 20,
            ("data.test_fraction=0.6", "data.validation_fraction=0.5"),
            "leave -0.1 of the rows to train on",
        ),
        ("a,b,y\n" + "1e300,2,x\n-1e300,4,z\n" * 20, (), "are too large"),
    ],
)
def test_bad_data_leaves_no_folder(tmp_path, go, text, overrides, says):
    path = tmp_path / "flowers.csv"
    path.write_text(text or "")
    config = load_config(str(path), [*QUICK, *overrides], recipe="none")
    if text is None:
        path.unlink()
    with pytest.raises((DataError, ConfigError)) as caught:
        train(config, tmp_path / "run", report=lambda line: None)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend_name", ["cupy", "auto", "torch"])
def test_a_device_that_is_missing_leaves_no_folder(csv, go, tmp_path, backend_name):
    probed = backend_class("cupy" if backend_name == "auto" else backend_name).probe()
    if "cuda:0" in probed.devices:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match=r"cuda|not installed"):
        go(csv, f"backend={backend_name}", "device=cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_the_settings_are_checked_again_under_the_lock(resume, csv, go, tmp_path, monkeypatch):
    """Another process trains, and ends, between the first check and the lock."""
    from xpnet.run import train_run

    others = []

    def slow(*of):
        if not others:
            others.append(of)
            go(csv, "optimizer.lr=0.5", out="run")
        return read_data(*of)

    monkeypatch.setattr(train_run, "read_data", slow)
    error = ConfigError if resume else CheckpointError
    says = r"cannot resume with optimizer\.lr = 0\.25" if resume else "already holds a run"
    with pytest.raises(error, match=says):
        go(csv, "optimizer.lr=0.25", resume=resume)
    assert load(tmp_path / "run").config.optimizer.lr == 0.5


# --------------------------------------------------------------------------------- kinds of data


def test_a_regression_from_a_file_answers_in_the_units_of_the_file(tmp_path, go):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = 5000.0 + 1000.0 * x[:, 0] - 300.0 * x[:, 3]
    path = write_csv(tmp_path / "prices.csv", x, y, label="price")
    regression = ["data.task=regression", "loss=mean_squared_error", "epochs=60"]
    outcome = go(path, *regression, "optimizer.lr=0.01")
    assert outcome.test["r2"] > 0.95
    run = load(tmp_path / "run")
    values = run.predict(x)
    assert values.shape == (200, 1)
    assert outcome.test["mae"] < 200
    assert abs(values.mean() - 5000) < 100
    restored = scores(run, run.read(path, labelled=True))
    assert restored["mse"] == pytest.approx(np.mean((values[:, 0] - y) ** 2))
    assert scores(run, run.test_part()) == outcome.test


def test_two_classes_from_one_output_answer_with_two_columns(tmp_path, go):
    x, y = flowers()
    path = write_csv(tmp_path / "two.csv", x, np.where(y == "rose", "yes", "no"))
    outcome = go(path, "loss=binary_cross_entropy", "epochs=40", "optimizer.lr=0.03")
    assert outcome.test["accuracy"] > 0.8
    run = load(tmp_path / "run")
    p = run.predict(x)
    assert run.preprocessing.classes == ("no", "yes")
    assert run.preprocessing.outputs == 1
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert np.mean((p[:, 1] > 0.5) == (y == "rose")) > 0.8


def test_without_a_validation_the_last_epoch_is_used(csv, go, tmp_path):
    outcome = go(csv, "data.validation_fraction=0")
    assert outcome.test["rows"] == 18
    assert not (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()
    run = load(tmp_path / "run")
    assert "val_loss" not in run.folder.history()[0]
    assert run.checkpoint.meta["position"]["epoch"] == 3


def test_a_test_file_is_what_is_tested_on_whatever_its_columns_order(csv, go, tmp_path):
    x, y = flowers(30, seed=1)
    test = write_csv(tmp_path / "test.csv", x[:, ::-1], y, names=("d", "c", "b", "a"))
    outcome = go(csv, f"data.test={test}")
    assert (outcome.test["rows"], "72 train" in go.said[1]) == (30, False)
    same = write_csv(tmp_path / "same.csv", x, y)
    assert go(csv, f"data.test={same}", out="other").test == outcome.test


def test_without_a_test_part_nothing_is_tested(csv, go, tmp_path):
    assert go(csv, "data.test_fraction=0").test == {}
    with pytest.raises(DataError, match="test_fraction = 0: give a FILE to evaluate on"):
        load(tmp_path / "run").test_part()


def test_images_are_flattened(tmp_path, go):
    x, y = flowers()
    path = tmp_path / "images.npz"
    np.savez(path, x=np.tile(x[:, :, None], (1, 1, 8)), y=np.unique(y, return_inverse=True)[1])
    go(str(path))
    run = load(tmp_path / "run")
    assert run.trainer.model.input_shape == (4, 8)
    assert run.predict(np.zeros((2, 4, 8))).shape == (2, 3)


def test_columns_are_found_by_name_and_labels_left_out(csv, go, tmp_path):
    go(csv)
    run = load(tmp_path / "run")
    x, _ = flowers()
    expected = run.predict(x)
    plain = write_csv(tmp_path / "plain.csv", x)
    turned = write_csv(tmp_path / "turned.csv", x[:, ::-1], names=("d", "c", "b", "a"))
    more = write_csv(
        tmp_path / "more.csv", np.c_[np.arange(90), x, x], names=("id", *"abcd", *"pqrs")
    )
    bare = write_csv(tmp_path / "bare.csv", x, names=None)
    np.save(tmp_path / "bare.npy", x)
    np.save(tmp_path / "labelled.npy", np.c_[x, np.arange(90) % 3])
    unknown = write_csv(tmp_path / "unknown.csv", x, ["orchid"] * 90)
    for path in (csv, plain, turned, more, bare, unknown, "bare.npy", "labelled.npy"):
        rows = run.read(tmp_path / path, labelled=False)
        assert rows.y is None
        np.testing.assert_array_equal(run.predict(rows.x), expected)
    with pytest.raises(DataError, match="label 'orchid' is not among the 3 known classes"):
        run.read(unknown, labelled=True)
    for path in (plain, bare, tmp_path / "bare.npy"):
        with pytest.raises(DataError, match="has no labels to score against, only the features"):
            run.read(path, labelled=True)
    short = write_csv(tmp_path / "short.csv", x[:, :3], names=("a", "b", "c"))
    with pytest.raises(DataError, match="no column 'd'"):
        run.read(short, labelled=False)
    short = write_csv(tmp_path / "short.csv", x[:, :2], names=None)
    with pytest.raises(DataError, match=r"short.csv: features have shape \(2,\); .* on \(4,\)"):
        run.read(short, labelled=False)
    missing = np.where(np.arange(360).reshape(90, 4) == 13, np.nan, x)
    median = np.where(np.isnan(missing), run.preprocessing.encoder.fill[1], x)
    np.testing.assert_array_equal(run.predict(missing), run.predict(median))
    with pytest.raises(DataError, match=r"input: x\[3, 1\] is inf; it must be a finite number"):
        run.predict(np.where(np.arange(360).reshape(90, 4) == 13, np.inf, x))
    assert scores(run, run.read(csv, labelled=True))["rows"] == 90
    with pytest.raises(DataError, match="has no labels to score against"):
        scores(run, Dataset(x, None, None, "x"))


def test_a_run_in_mixed_precision_is_used_where_its_dtype_is_missing(csv, go, tmp_path):
    pytest.importorskip("torch", reason="trains in bfloat16")
    go(csv, "backend=torch", "mixed.dtype=bfloat16")
    assert load(tmp_path / "run", backend="numpy").predict(flowers()[0]).shape == (90, 3)


def test_where_the_rows_lie_makes_no_difference(csv, go, tmp_path):
    go(csv, "data.placement=host", out="host")
    go(csv, "data.placement=device", out="device")
    assert weights(tmp_path / "host") == weights(tmp_path / "device")


# ---------------------------------------------------------------------------- the promised figure


def test_the_embedded_digits_are_recognised_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "xpnet", "train", "--out", "run"]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # threads that wait take the others' time
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()[-1].split()
    assert words[:2] == ["test", "accuracy"]
    assert float(words[2]) >= 0.97
    assert done.stderr == ""
    assert Path(tmp_path / "run" / "report.json").exists()
