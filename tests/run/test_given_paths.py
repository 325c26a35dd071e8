"""What people give as a path, a source or settings, and the word that they get for a wrong one."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import xpnet
from xpnet import Dense, ReLU, Trainer
from xpnet.errors import CheckpointError, ConfigError, DataError, XpnetError

rng = np.random.default_rng(3)
X = rng.normal(size=(60, 3))
KINDS = np.array(["red", "green", "blue"])[np.arange(60) % 3]
SETTINGS = {"epochs": 3, "model.hidden": [6], "threads": 1, "data.label": "kind"}


def says(error, text, call):
    with pytest.raises(error, match=re.escape(text)) as caught:
        call()
    assert isinstance(caught.value, XpnetError)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def table():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    return pandas.DataFrame(X, columns=["a", "b", "c"]).assign(kind=KINDS)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "run"
    return xpnet.train(table, folder, recipe="none", settings=SETTINGS, report=str)


@pytest.fixture(scope="module")
def trainer():
    made = Trainer([Dense(5), ReLU(), Dense(3)], backend="numpy", threads=1)
    made.fit((X, KINDS), epochs=1)
    return made


# -- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, 3, b"m.safetensors", "", "a\0b", ["m"]], ids=repr)
def test_what_is_no_path_is_refused(trainer, path):
    text = "must name a file or a folder, as text or a Path; got " + repr(path)
    says(ConfigError, f"path {text}", lambda: xpnet.load(path))
    says(ConfigError, f"path {text}", lambda: trainer.save(path))
    if path not in (None, ""):
        out = lambda: xpnet.train("digits", path, report=str)  # noqa: E731
        says(ConfigError, f"out {text}", out)


def test_a_name_that_is_too_long_is_refused(trainer):
    for call in (xpnet.load, trainer.save):
        with pytest.raises(CheckpointError, match="cannot find aaa"):
            call("a" * 5000)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.onnx", "xpnet.from_onnx(path) reads it"),
        ("m.pt", "xpnet.from_torch(path, layers) reads it"),
        ("m.pth", "xpnet.from_torch(path, layers) reads it"),
        ("m.pkl", "pickle.load or joblib.load"),
        ("m.joblib", "pickle.load or joblib.load"),
        ("config.toml", "give the folder of the run"),
    ],
)
def test_a_file_of_another_form_is_refused_with_what_reads_it(tmp_path, name, text):
    file = tmp_path / name
    file.write_bytes(pickle.dumps(list(range(100))))
    says(CheckpointError, f"{name} is not a file that xpnet saved: ", lambda: xpnet.load(file))
    says(CheckpointError, text, lambda: xpnet.load(file))


@pytest.mark.parametrize("name", ["m.onnx", "m.pt", "m.PTH", "m.pkl", "m.joblib", "m.html"])
def test_a_model_is_not_saved_by_the_name_of_another_form(trainer, tmp_path, name):
    says(ConfigError, f"{name!r} names another: end it in", lambda: trainer.save(tmp_path / name))
    assert list(tmp_path.iterdir()) == []
    assert trainer.save(tmp_path / "m.bin").exists()
    assert (xpnet.load(tmp_path / "m.bin").predict(X) == trainer.predict(X)).all()


def test_the_checkpoint_to_load_is_one_of_three(trainer, run, tmp_path):
    file = trainer.save(tmp_path / "m.safetensors")
    for path in (run.folder.path, file):
        text = "which must be one of 'auto', 'best', 'last'; got 'bset'; did you mean 'best'?"
        says(ConfigError, text, lambda path=path: xpnet.load(path, which="bset"))


def test_a_folder_without_a_model_is_refused(tmp_path, run):
    text = "is not a run folder: it has no config.toml, and no model.safetensors"
    says(CheckpointError, text, lambda: xpnet.load(tmp_path))
    (tmp_path / "config.toml").write_bytes(run.folder.config_path.read_bytes())
    fresh = Trainer([Dense(5), ReLU(), Dense(3)], backend="numpy")
    says(CheckpointError, "no checkpoint in", lambda: fresh.start_from(tmp_path))


# -- where to start from --------------------------------------------------------------------------


def test_a_trainer_starts_in_silence_and_from_no_mapping(trainer, capsys):
    fresh = Trainer([Dense(5), ReLU(), Dense(3)], backend="numpy")
    says(ConfigError, "trainer.params = ...", lambda: fresh.start_from(trainer.params))
    assert fresh.start_from(trainer, report=None).taken == ("0.dense", "2.dense")
    assert capsys.readouterr().out == ""


def test_a_run_starts_from_the_weights_of_the_run_that_is_given(table, tmp_path):
    settings = {**SETTINGS, "optimizer.lr": 1.0, "epochs": 8, "early_stopping.patience": 20}
    run = xpnet.train(table, tmp_path / "r", recipe="none", settings=settings, report=str)
    given = {which: xpnet.load(run.folder.path, which=which) for which in ("best", "last")}
    weights = {which: loaded.trainer.params["0.dense.W"] for which, loaded in given.items()}
    assert not np.allclose(weights["best"], weights["last"], atol=0.01)
    settings = {"epochs": 1, "optimizer.lr": 1e-6, "data.label": "kind", "threads": 1}
    for which, start in given.items():
        for form in (settings, [f"{key}={value}" for key, value in settings.items()]):
            out = tmp_path / f"{which}-{type(form).__name__}"
            again = xpnet.train(table, out, settings=form, start_from=start, report=str)
            assert again.config.start.which == which
            ours = again.trainer.params["0.dense.W"]
            np.testing.assert_allclose(ours, weights[which], rtol=1e-4, atol=1e-4)


def test_a_run_that_began_with_random_weights_is_not_resumed_from_another(run, table):
    again = {"settings": {**SETTINGS, "epochs": 9}, "recipe": "none", "resume": True}
    start = lambda: xpnet.train(  # noqa: E731
        table, run.folder.path, start_from=run, report=str, **again
    )
    says(ConfigError, "began with random weights: leave start_from out", start)


def test_a_run_does_not_start_from_a_trainer_in_memory(trainer, table, tmp_path):
    start = lambda: xpnet.train(table, tmp_path / "x", start_from=trainer, report=str)  # noqa: E731
    says(ConfigError, "start_from=trainer.save(path)", start)


# -- sources and settings of train ----------------------------------------------------------------


@pytest.mark.parametrize("source", [(X, KINDS), X, 3, {"epochs": 1}])
def test_train_takes_no_arrays(source):
    text = "Trainer(...).fit((x, y), epochs=...) takes arrays"
    says(ConfigError, text, lambda: xpnet.train(source, report=str))


@pytest.mark.parametrize("settings", [None, "epochs=1", 3])
def test_settings_are_a_mapping_or_a_list(settings):
    text = "settings must be a mapping or a list of KEY=VALUE texts, such as {'epochs': 3} or "
    text += f"['epochs=3']; got {settings!r}"
    says(ConfigError, text, lambda: xpnet.train("digits", settings=settings, report=str))
    says(ConfigError, text, lambda: xpnet.load_config("digits", settings))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label", "train has no argument 'label'; settings={'data.label': ...} sets it"),
        ("hidden", "settings={'model.hidden': ...} sets it"),
        ("epochs", "settings={'epochs': ...} sets it"),
        ("resum", "did you mean 'resume'?"),
    ],
)
def test_an_argument_of_train_that_is_a_setting_is_named(name, text):
    says(ConfigError, text, lambda: xpnet.train("digits", report=str, **{name: 1}))


def test_a_setting_of_a_section_is_named_with_it():
    text = "unknown setting 'label'; did you mean 'data.label'?"
    says(ConfigError, text, lambda: xpnet.load_config("digits", {"label": "x"}))


def test_a_narrow_dtype_is_a_setting_by_its_name():
    for settings in (["mixed=float16"], {"mixed": "float16"}, {"mixed.dtype": "float16"}):
        assert xpnet.load_config("digits", settings).mixed == xpnet.Mixed("float16")


# -- classes of a run -----------------------------------------------------------------------------


def test_the_classes_of_a_run_are_those_of_its_table_of_predictions(run, table):
    classes = run.predict_classes(table)
    assert classes.tolist() == run.predict_table(table)["class"].tolist()
    names = np.array(run.preprocessing.classes)
    assert (classes == names[run.predict(table).argmax(axis=1)]).all()
    loaded = xpnet.load(Path(run.folder.path), backend="numpy")
    assert (loaded.predict_classes(table) == classes).all()


def test_a_run_predicts_rows_in_any_form(table, tmp_path):
    torch = pytest.importorskip("torch")
    run = xpnet.train(table, tmp_path / "r", settings={**SETTINGS, "epochs": 1}, report=str)
    expected = run.predict(table)
    forms = (X, X.tolist(), X.astype(object), X.astype(">f8"), torch.tensor(X, requires_grad=True))
    for rows in forms:
        assert (run.predict(rows) == expected).all()
        assert (next(run.predictions(rows)) == expected).all()


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (None, "x must be an array of real numbers; got None"),
        ("new.csv", "got the path 'new.csv': predict(pandas.read_csv(path))"),
        (Path("new.csv"), "got the path 'new.csv'"),
        ({"a": 1}, "x must be an array of real numbers"),
        ((X, KINDS), "its parts have different shapes: pass x alone"),
        (X + 1j, "x must be an array of real numbers; got complex128"),
        (np.ma.masked_greater(X, 0), "x has masked values"),
        (X[0], "features must be (rows, features...)"),
        (X[:, :2], "features of shape (2,); expected (3,)"),
    ],
)
def test_a_run_predicts_nothing_else(run, rows, text):
    says(DataError, text, lambda: run.predict(rows))
    says(DataError, text, lambda: run.predict_classes(rows))


def test_a_regression_has_no_classes(table, tmp_path):
    numbers = table.drop(columns="kind")
    settings = {**SETTINGS, "data.label": "c", "data.task": "regression", "epochs": 1}
    run = xpnet.train(numbers, tmp_path / "r", settings=settings, report=str)
    says(ConfigError, "predicts values, not classes", lambda: run.predict_classes(numbers))
