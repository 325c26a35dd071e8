"""A sweep in one process: its trials are runs, its best is one, and it goes on where it was."""

import json
import math
import shutil
import sys

import numpy as np
import pytest

import xpnet
from xpnet.errors import BackendError, CheckpointError, ConfigError, DataError, TrainingError
from xpnet.run import load
from xpnet.search import trials as trials_module
from xpnet.search.result import Sweep, best_of
from xpnet.training.callbacks import Callback
from xpnet.training.trainer import Trainer

pytest.importorskip("optuna", reason="a sweep needs Optuna")

SETTINGS = {"epochs": 2, "step": "portable", "threads": 1, "backend": "numpy", "model.hidden": [16]}
SPACE = {
    "optimizer.lr": {"low": 1e-6, "high": 1.0, "log": True},
    "model.hidden": {"choices": [[16], [24]]},
}


def go(out, space=SPACE, source="digits", said=None, **options):
    options = {"trials": 4, "settings": SETTINGS, **options}
    said = [] if said is None else said
    return xpnet.sweep(source, space, out, report=said.append, warn=said.append, **options)


def table(path, n=60, numbers=False):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    y = x[:, 0] + x[:, 1] ** 2
    label = [f"{v:.4f}" if numbers else "ab"[int(v > 1)] for v in y]
    rows = [",".join([*(f"{v:.4f}" for v in row), t]) for row, t in zip(x, label, strict=True)]
    path.write_text("\n".join(["a,b,c,y", *rows, ""]))
    return str(path)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A sweep of ten trials with 1e-6 as the rate of the run itself: too low to learn anything."""
    said = []
    settings = {**SETTINGS, "optimizer.lr": 1e-6}
    result = go(tmp_path_factory.mktemp("s") / "s", said=said, trials=10, settings=settings)
    return result, said


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """Draw no page at the end of a sweep, which takes longer than most of those here."""
    monkeypatch.setattr(Sweep, "report", lambda self: None)


def test_it_finds_the_planted_optimum(found):
    result, _ = found
    first, best = result.trials[0], result.best
    assert result.settings(first) == {"optimizer.lr": 1e-6, "model.hidden": [16]}
    assert result.plain == first
    scan = {}
    for lr in (1e-6, 1e-4, 1e-2, 1.0):
        x, y = trainer_data()
        trainer = Trainer(
            xpnet.Sequential([xpnet.Dense(16), xpnet.ReLU(), xpnet.Dense(10)]),
            optimizer=xpnet.Adam(lr),
            backend="numpy",
        )
        trainer.fit((x, y), epochs=2, validation_fraction=0.2)
        scan[lr] = trainer.history[-1]["val_loss"]
    assert min(scan, key=scan.get) == 1e-2  # by hand, without a sweep
    assert 1e-3 < result.settings(best)["optimizer.lr"] < 1e-1
    assert best.value < 0.5 * first.value
    assert result.run.test["accuracy"] > 0.8


def trainer_data():
    from xpnet.data import load_named

    digits, _ = load_named("digits")
    return digits.x / 16, digits.y


def test_every_trial_is_a_run_whose_value_is_that_of_its_kept_epoch(found):
    result, _ = found
    for trial in result.trials:
        folder = xpnet.run.RunFolder(result.trial_folder(trial))
        assert load(folder.path).config.model.hidden == tuple(
            result.settings(trial)["model.hidden"]
        )
        assert not folder.report_path.exists()  # the test part is not looked at
        curve = [record["val_loss"] for record in folder.history()]
        assert [*trial.curve.values()] == curve
        if trial.value is not None:
            assert trial.value == pytest.approx(min(curve), rel=1e-6)


def test_the_best_is_what_the_same_settings_train(found, tmp_path):
    result, said = found
    best = load(result.folder.best_path)
    words = result.words(result.best)
    again = xpnet.train(
        "digits",
        tmp_path / "again",
        settings=[*(f"{k}={v}" for k, v in SETTINGS.items()), *words],
        report=lambda line: None,
    )
    assert again.test["loss"] == result.run.test["loss"]
    x = np.zeros((2, 64))
    assert np.array_equal(again.predict(x), best.predict(x))
    assert best.folder.read_json(best.folder.report_path) == result.run.test
    lines = [line for line in said if line.startswith("trial ")]
    assert len(lines) == 10
    assert "the settings as they are" in lines[0]
    assert any(f"val_loss {result.best.value:.4f}  best" in line for line in lines)


def test_what_prevents_the_page_is_a_warning(tmp_path, monkeypatch):
    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sweep, "report", fail)
    said = []
    assert go(tmp_path / "s", trials=1, said=said).run.test
    assert any(line.startswith("no report.html: OSError: ") for line in said)


def test_the_result_is_in_a_file(found):
    result, _ = found
    assert "10 trials on digits" in result.folder.page_path.read_text("utf-8")
    saved = json.loads(result.folder.result_path.read_text())
    assert saved == json.loads(json.dumps(result.as_dict()))
    assert saved["best"]["number"] == result.best.number
    assert (saved["monitor"], saved["direction"], len(saved["trials"])) == ("loss", "minimize", 10)
    assert saved["importance"].keys() <= SPACE.keys()


def test_the_same_seed_gives_the_same_trials_and_its_own_file_too(found, tmp_path):
    result, _ = found
    settings = {**SETTINGS, "optimizer.lr": 1e-6}
    again = go(tmp_path / "a", result.folder.plan_path, trials=4, settings=settings)

    def without_time(trial):
        return {k: v for k, v in vars(trial).items() if k != "seconds"}

    assert [*map(without_time, again.trials)] == [*map(without_time, result.trials[:4])]
    other = go(tmp_path / "b", trials=4, settings=settings, seed=1)
    assert other.trials[1].values != again.trials[1].values


def test_a_sweep_goes_on_as_if_it_had_not_ended(found, tmp_path):
    result, _ = found
    place, settings = tmp_path / "s", {**SETTINGS, "optimizer.lr": 1e-6}
    go(place, trials=3, settings=settings)
    said = []
    again = xpnet.sweep(out=place, resume=True, trials=10, report=said.append)
    assert [t.values for t in again.trials] == [t.values for t in result.trials]
    assert [t.value for t in again.trials] == [t.value for t in result.trials]
    assert any("3 are done" in line for line in said)
    done = xpnet.sweep(out=place, resume=True, report=said.append)  # ten, as it was told last
    assert done.trials == again.trials
    assert any(line.startswith("sweep of 10 trials") and "10 are done" in line for line in said)


def test_an_interrupted_trial_is_continued_from_its_checkpoint(found, tmp_path, monkeypatch):
    result, _ = found
    place, settings = tmp_path / "s", {**SETTINGS, "optimizer.lr": 1e-6}
    taken, begun = [], trials_module._Watch.on_epoch_end

    def stop_in_third(self, trainer, record):
        begun(self, trainer, record)
        taken.append(record["epoch"])
        if len(taken) == 5:  # the first epoch of trial 2
            trainer.stop(trials_module.INTERRUPTED)

    monkeypatch.setattr(trials_module._Watch, "on_epoch_end", stop_in_third)
    stopped = go(place, trials=4, settings=settings)
    assert stopped.interrupted
    assert stopped.run is None
    assert [t.state for t in stopped.trials] == ["finished", "finished", "running"]
    taken.clear()
    monkeypatch.setattr(trials_module._Watch, "on_epoch_end", begun)
    resumed = go(place, trials=4, settings=settings, resume=True)
    assert [t.value for t in resumed.trials] == [t.value for t in result.trials[:4]]
    history = xpnet.run.RunFolder(resumed.trial_folder(resumed.trials[2])).history()
    assert [record["epoch"] for record in history] == [1, 2]


def test_pruning_ends_a_training_early_and_the_run_says_so(tmp_path):
    space = {"optimizer.lr": {"choices": [1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 1.4e-2, 1e-7]}}
    settings = {**SETTINGS, "epochs": 6}
    result = go(tmp_path / "s", space, sampler="grid", trials=None, settings=settings)
    pruned = [t for t in result.trials if t.state == "pruned"]
    assert [result.settings(t) for t in pruned] == [{"optimizer.lr": 1e-7}]
    assert pruned[0].number == 5  # the last: five have to end before
    folder = xpnet.run.RunFolder(result.trial_folder(pruned[0]))
    assert len(folder.history()) == 1
    assert folder.read_json(folder.run_path)["status"] == "pruned at epoch 1"
    assert pruned[0].reason == "pruned at epoch 1"


def test_a_grid_is_searched_in_order_and_a_part_of_it_at_random(tmp_path):
    space = {"optimizer.lr": {"choices": [1e-3, 1e-2]}, "model.hidden": {"choices": [[8], [9]]}}
    options = {"sampler": "grid", "settings": {**SETTINGS, "epochs": 1}}
    result = go(tmp_path / "all", space, trials=None, **options)
    tried = [tuple(result.settings(t).values()) for t in result.trials]
    assert tried == [(1e-3, [8]), (1e-3, [9]), (1e-2, [8]), (1e-2, [9])]
    parts = [go(tmp_path / f"{s}", space, trials=2, seed=s, **options).trials for s in range(3)]
    assert len({str([t.values for t in part]) for part in parts}) > 1
    assert all(len({str(t.values) for t in part}) == 2 for part in parts)
    more = go(tmp_path / "0", None, trials=9, resume=True, settings=options["settings"])
    assert len(more.trials) == len({str(t.values) for t in more.trials}) == 4


def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(tmp_path):
    space = {"optimizer.lr": {"choices": [1e-2, 1e30]}}
    settings = {**SETTINGS, "optimizer.name": "sgd", "epochs": 1}
    said = []
    result = go(tmp_path / "s", space, sampler="grid", trials=None, settings=settings, said=said)
    states = {result.settings(t)["optimizer.lr"]: t.state for t in result.trials}
    assert states == {1e-2: "finished", 1e30: "diverged"}
    assert any("diverged: training is not finite from epoch 1" in line for line in said)


def test_where_no_trial_can_be_trained_it_is_an_error(tmp_path):
    settings = {**SETTINGS, "optimizer.name": "sgd", "epochs": 1}
    space = {"optimizer.lr": {"choices": [1e30, 1e31]}}
    with pytest.raises(TrainingError, match=r"no trial of 2 finished; trial 0: training is not"):
        go(tmp_path / "a", space, sampler="grid", trials=None, settings=settings)
    # batch normalization has nothing to average over
    settings = {**SETTINGS, "model.normalization": "batch_norm", "batch_size": 1}
    with pytest.raises(TrainingError, match=r"the first 3 trials failed alike: batch_norm needs"):
        go(tmp_path / "b", settings=settings, trials=9)
    assert len([*(tmp_path / "b" / "trials").glob("*")]) <= 3


def test_a_table_is_searched_by_r2_where_the_loss_is_searched(tmp_path):
    source = table(tmp_path / "t.csv", numbers=True)
    space = {"loss.name": {"choices": ["huber", "mean_squared_error"]}}
    said = []
    settings = {"epochs": 2, "threads": 1, "step": "portable"}
    result = go(tmp_path / "s", space, source, said, settings=settings, trials=3)
    assert (result.metric.name, result.metric.maximize) == ("r2", True)
    assert result.best.value == max(t.value for t in result.trials)
    assert any("pruning is off" in line for line in said)
    with pytest.raises(ConfigError, match=r"losses of trials with another loss.name cannot be"):
        go(tmp_path / "b", space, source, settings=settings, monitor="loss")
    with pytest.raises(ConfigError, match=r"no 'accuracy' of a regression; known: loss, r2"):
        go(tmp_path / "b", SPACE, source, settings=settings, monitor="accuracy")


def test_a_score_of_the_validation_part_can_be_what_counts(tmp_path):
    result = go(tmp_path / "s", trials=2, monitor="val_macro_f1")
    assert result.metric.title == "val_macro_f1"
    assert result.best.value == max(t.value for t in result.trials)
    with pytest.raises(ConfigError, match=r"no 'acuracy' of a classification; did you mean 'acc"):
        go(tmp_path / "b", monitor="acuracy")


def test_without_a_validation_part_one_is_held_out_and_the_best_trained_on_all(tmp_path):
    source, said = table(tmp_path / "t.csv"), []
    settings = {"epochs": 2, "threads": 1, "step": "portable", "data.label": "y"}
    result = go(tmp_path / "s", SPACE, source, said, settings=settings, trials=2)
    assert any(line.startswith("validation 12 rows are held out for the search") for line in said)
    assert any("trials that are close may differ by chance" in line for line in said)
    record = result.run.folder.read_json(result.run.folder.run_path)
    trial = xpnet.run.RunFolder(result.trial_folder(result.best))
    rows = trial.read_json(trial.run_path)
    assert (rows["train_rows"], rows["validation_rows"], rows["test_rows"]) == (36, 12, 12)
    assert (record["train_rows"], record["validation_rows"], record["test_rows"]) == (48, 0, 12)
    assert result.retrained
    assert result.run.test["rows"] == 12
    again = xpnet.sweep(out=tmp_path / "s", resume=True, report=said.append)
    assert again.run.test == result.run.test


def test_a_table_in_memory_is_searched_and_given_again_to_resume(tmp_path):
    frame = pytest.importorskip("polars").read_csv(table(tmp_path / "t.csv"))
    settings = {"epochs": 1, "threads": 1, "step": "portable", "data.label": "y"}
    settings["data.validation_fraction"] = 0.2
    place = tmp_path / "s"
    result = go(place, SPACE, frame, settings=settings, trials=2)
    assert result.run.test["rows"] == 12
    assert go(place, None, frame, settings=settings, trials=3, resume=True).trials[2].value
    with pytest.raises(ConfigError, match=r"a table in memory: give it again: sweep\(table"):
        xpnet.sweep(out=place, resume=True)
    with pytest.raises(DataError, match=r"the data has changed since this sweep began"):
        go(place, None, frame[::-1], settings=settings, trials=4, resume=True)


def test_a_sweep_from_a_run_keeps_its_architecture(found, tmp_path):
    result, _ = found
    start = result.folder.best_path
    settings = {k: v for k, v in SETTINGS.items() if k != "model.hidden"}
    tuned = go(tmp_path / "s", "auto", start_from=start, settings=settings, trials=1)
    assert not [p.key for p in tuned.space if p.key.startswith("model.")]
    assert tuned.run.config.start is not None
    with pytest.raises(ConfigError, match=r"model.hidden cannot be set: it is that of"):
        go(tmp_path / "b", start_from=start, settings=settings)


def test_the_time_ends_it_between_two_trials(tmp_path):
    result = go(tmp_path / "s", trials=50, time="0.001s")
    assert result.stopped == "the time of 0.001s is over"
    assert len(result.trials) < 5


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({"space": {"optimizer.lrr": SPACE["optimizer.lr"]}}, ConfigError, "did you mean 'lr'"),
        ({"source": "no.csv"}, DataError, "no.csv"),
        ({"trials": 0}, ConfigError, r"sweep.trials must be >= 1; got 0"),
        ({"sampler": "grid"}, ConfigError, "a grid needs choices for optimizer.lr"),
        ({"settings": ["epochs=x"]}, ConfigError, "epochs must be"),
        ({"settings": {"optimizer": object()}}, ConfigError, "must be a plain value"),
    ],
)
def test_what_is_wrong_is_an_error_before_anything_is_written(tmp_path, options, error, expected):
    with pytest.raises(error, match=expected):
        go(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_in_use_is_not_written_over(found, tmp_path):
    result, _ = found
    with pytest.raises(CheckpointError, match=r"already holds a sweep: pass resume=True") as e:
        go(result.folder.path)
    assert "--resume" in e.value.at_command_line
    with pytest.raises(CheckpointError, match=r"holds a run, and a sweep has a folder of its own"):
        go(result.folder.best_path)
    with pytest.raises(CheckpointError, match=r"no sweep to resume in .*; known: s"):
        xpnet.sweep(out=result.folder.path.parent / "t", resume=True)
    with pytest.raises(ConfigError, match=r"name the folder of the sweep: sweep\(out=FOLDER"):
        xpnet.sweep(resume=True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"settings": {**SETTINGS, "epochs": 3}}, "cannot resume with epochs = 3: .* with 2"),
        ({"seed": 5}, "cannot resume with sweep.seed = 5: .* has 0"),
        ({"space": {"batch_size": {"choices": [1, 2]}}}, "has another space than the sweep in"),
    ],
)
def test_what_would_be_another_sweep_is_not_resumed(found, tmp_path, options, expected):
    place = tmp_path / "s"
    shutil.copytree(found[0].folder.path, place)
    settings = {**SETTINGS, "optimizer.lr": 1e-6}
    with pytest.raises(ConfigError, match=expected):
        go(place, resume=True, **{"space": None, "settings": settings, **options})


def test_the_trial_of_another_loss_is_not_called_better_for_it():
    loss, r2 = xpnet.search.metric.Metric("loss"), xpnet.search.metric.Metric("r2")
    assert loss.better(0.1, 0.2)
    assert r2.better(0.2, 0.1)
    assert loss.watched({"val_loss": 0.5, "val_accuracy": 0.9}) == 0.5
    assert r2.watched({"val_loss": 0.5}) == -0.5  # more is better there, too
    assert math.isclose(xpnet.search.metric.Metric("macro_f1").watched({"val_accuracy": 0.9}), 0.9)


def test_of_equal_scores_the_lower_loss_is_better_where_losses_can_be_compared():
    metric, space = xpnet.search.metric.Metric("accuracy"), []
    trials = [xpnet.search.Trial(n, "finished", v, {}, loss=loss) for n, v, loss in [
        (0, 0.9, 0.1), (1, 1.0, 0.5), (2, 1.0, 0.3), (3, 1.0, 0.3), (4, 1.0, None)]]  # fmt: skip
    assert best_of(trials, metric, space).number == 2
    smoothed = [xpnet.search.space.Parameter("loss.label_smoothing")]
    assert best_of(trials, metric, smoothed).number == 1
    assert best_of(trials[:0], metric, space) is None


def test_the_own_settings_of_few_rows_are_the_first_trial(tmp_path):
    source = table(tmp_path / "t.csv", n=100)
    settings = {"epochs": 1, "threads": 1, "data.label": "y"}
    result = go(tmp_path / "s", "auto", source, settings=settings, trials=1)
    assert result.plain == result.trials[0]
    assert result.settings(result.plain)["batch_size"] == 32  # "auto" in the recipe


def test_a_notebook_gets_no_curves_of_each_trial(tmp_path, monkeypatch):
    from xpnet.run import train_run

    drawn = []
    monkeypatch.setattr(train_run, "in_notebook", lambda: True)
    monkeypatch.setattr(train_run, "LiveCurves", lambda: drawn.append(1) or Callback())
    source = table(tmp_path / "t.csv")  # whose best is trained again
    settings = {"epochs": 1, "threads": 1, "data.label": "y"}
    assert go(tmp_path / "s", SPACE, source, settings=settings, trials=1).retrained
    assert not drawn


def test_without_optuna_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BackendError, match=r"a sweep needs 'optuna': pip install 'optuna>=4'"):
        go(tmp_path / "s")
