"""Tables of every kind of column from file to prediction: trained on, saved, and found by name."""

import csv
import datetime
import json
import tomllib

import numpy as np
import pytest

from xpnet.cli.main import main
from xpnet.data import StreamedDataset
from xpnet.errors import ConfigError, DataError
from xpnet.nn import Embedding, FeatureScale
from xpnet.nn.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.run import load, train
from xpnet.run.by_rows import by_rows
from xpnet.run.config_sources import load_config

QUICK = {"epochs": 4, "model.hidden": [8], "backend": "numpy", "step": "portable", "threads": 1}
ROWS = 120


def quiet(line):
    pass


def people(rows=ROWS, seed=0):
    """A table with a column of every kind, as texts: its label depends on age, city and member."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, rows)
    city = rng.choice(["Berlin", "Łódź", "São Paulo", "Ulm"], rows)
    member = rng.random(rows) < 0.5
    likes = (age > 45) ^ (city == "Ulm") ^ member
    since = [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(d)) for d in range(rows)]
    return {
        "id": [*map(str, range(1, rows + 1))],
        "age": ["" if n % 10 == 3 else str(a) for n, a in enumerate(age)],
        "income": [f"{v:.2f}" for v in rng.lognormal(3, 1, rows)],
        "city": ["NA" if n % 15 == 4 else c for n, c in enumerate(city)],
        "member": [str(m) for m in member],
        "since": [*map(str, since)],
        "comment": [f"no. {n} says {rng.integers(10**9)}" for n in range(rows)],
        "planet": ["Earth"] * rows,
        "likes": np.where(likes, "yes", "no").tolist(),
    }


def write(path, table, names=None):
    names = names or list(table)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(table[name] for name in names), strict=True))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run trained on the people, in the folder with their file."""
    folder = tmp_path_factory.mktemp("people")
    said = []
    path = write(folder / "people.csv", people())
    train(path, folder / "run", settings=QUICK | {"data.label": "likes"}, report=said.append)
    (folder / "said").write_text("\n".join(said), encoding="utf-8")
    return folder


def test_every_column_is_shown_with_what_it_is_taken_for(trained):
    said = (trained / "said").read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(said) if line.startswith("column "))
    shown = {line.split()[0]: line.split() for line in said[start + 2 : start + 11]}
    kinds = {name: words[1:4] for name, words in shown.items()}
    assert kinds["age"][:2] == ["number", "12"]
    assert kinds["city"] == ["category", "8", "4"]
    assert kinds["member"] == ["boolean", "0", "2"]
    assert kinds["since"] == ["date", "0", "120"]
    assert kinds["comment"][0] == "text"
    assert kinds["planet"] == ["constant", "0", "1"]
    assert shown["likes"][-1] == "label"
    assert shown["income"][-1] == "feature"
    left_out = " ".join(line for line in said if line.startswith("left out"))
    assert all(name in left_out for name in ("id (row numbers)", "comment", "planet"))


def test_the_columns_are_saved_as_json_and_the_numbers_as_tensors(trained):
    run = load(trained / "run", backend="numpy")
    meta = json.loads(json.dumps(run.checkpoint.meta["preparation"]))
    assert meta["columns"]["kinds"] == ["number", "number", "category", "boolean", "date"]
    assert meta["columns"]["levels"][2] == ["Berlin", "São Paulo", "Ulm", "Łódź"]
    inputs = run.preprocessing.encoder.names
    assert {"age", "age missing", "city=Ulm", "city missing", "member=True"} <= set(inputs)
    assert run.preprocessing.input_shape == (len(inputs),) == run.trainer.model.input_shape
    whole = run.read(trained / "people.csv", labelled=False)
    ages = np.array([float(a) if a else np.nan for a in people()["age"]])
    np.testing.assert_array_equal(whole.x[:, 0], ages)
    parts = run.test_part()
    assert len(parts) == 24


def changed(folder):
    """Write the people with columns shuffled, one added, and some values new or missing."""
    table = people()
    table["city"] = [c if n >= 5 else "Atlantis" for n, c in enumerate(table["city"])]
    table["age"] = [a if n not in (7, 8) else "?" for n, a in enumerate(table["age"])]
    table["shoe size"] = [str(n % 9) for n in range(ROWS)]
    names = ["since", "shoe size", "likes", "city", "planet", "income", "age", "member", "id"]
    return write(folder / "changed.csv", table, names)


@pytest.mark.parametrize("large", [False, True])
def test_a_later_file_is_found_by_name_and_its_new_values_are_counted(trained, large, monkeypatch):
    monkeypatch.setattr("xpnet.run.trained_run.is_large", lambda path: large)
    run, later = load(trained / "run", backend="numpy"), changed(trained)
    rows = run.read(later, labelled=True)
    assert isinstance(rows, StreamedDataset) is large
    assert any("shoe size" in note for note in rows.columns.notes)
    assert any("did not have" in n and "city (5)" in n for n in rows.columns.notes)
    first = run.read(trained / "people.csv", labelled=False)
    before = np.concatenate([*run.predictions(first)])
    after = np.concatenate([*run.predictions(rows)])
    np.testing.assert_array_equal(after[9:], before[9:])
    assert np.isfinite(after).all()
    assert run.evaluate(later)["rows"] == ROWS


def test_the_command_line_says_what_is_new_and_goes_on(trained, capsys):
    later = changed(trained)
    for command in ("evaluate", "predict"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(trained / "run"), str(later)])
        out, err = capsys.readouterr()
        assert ended.value.code == 0
        assert "city (5)" in err
        assert "shoe size" in err
        assert len(out.splitlines()) > 5


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_table_in_memory_is_trained_on_and_answered_in_its_kind(library, tmp_path, trained):
    made = frame(library)
    run = train(made, tmp_path / "run", settings=QUICK | {"data.label": "likes"}, report=quiet)
    answers = run.predict_table(made)
    assert type(answers) is type(made)
    names = list(answers.column_names if library == "pyarrow" else answers.columns)
    assert names == ["class", "p_no", "p_yes"]
    if library == "pandas":
        assert list(answers.index) == list(made.index)
    # From a file, the same rows give the same answers.
    from_file = load(trained / "run", backend="numpy")
    np.testing.assert_array_equal(from_file.predict(made), run.predict(made))
    assert run.evaluate(made) == from_file.evaluate(trained / "people.csv")
    with pytest.raises(DataError, match="was trained on a table in memory"):
        load(tmp_path / "run", backend="numpy").test_part()
    with pytest.raises(DataError, match="no column 'age'"):
        run.predict(frame(library, without="age"))
    with pytest.raises(DataError, match="pass a table"):
        run.predict(np.zeros((3, 5)))


def frame(library, without=None):
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    table = {name: column for name, column in people().items() if name != without}

    def typed(name, value):
        if value in ("", "NA"):
            return None
        types = {"age": int, "income": float, "member": lambda v: v == "True", "id": int}
        types["since"] = datetime.date.fromisoformat
        return types.get(name, str)(value)

    typed_table = {n: [typed(n, v) for v in column] for n, column in table.items()}
    if library == "pyarrow":
        return module.table(typed_table)
    made = module.DataFrame(typed_table)
    if library == "pandas":
        made.index = [f"row {n}" for n in range(ROWS)]
    return made


# ------------------------------------------------------------------------------- tasks and targets


def numbers(rows=150, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)).round(4)
    columns = {name: x[:, j].tolist() for j, name in enumerate("abc")}
    return x, columns


def test_fractions_are_a_regression_with_its_loss_and_recipe(tmp_path):
    x, columns = numbers()
    path = write(tmp_path / "n.csv", columns | {"y": (x.sum(axis=1) * 10).round(3).tolist()})
    run = train(path, tmp_path / "run", settings=QUICK, report=quiet)
    assert isinstance(run.config.loss, MeanSquaredError)
    assert (run.config.data.task, type(run.config.model.activation).__name__) == (
        "regression",
        "Mish",
    )
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert written["data"]["task"] == "regression"
    assert isinstance(written["epochs"], int)
    assert isinstance(written["batch_size"], int)
    more = train(path, tmp_path / "run", settings=QUICK | {"epochs": 5}, resume=True, report=quiet)
    assert more.trainer.position.epoch == 5


def test_many_whole_numbers_are_asked_about(tmp_path):
    x, columns = numbers()
    path = write(tmp_path / "n.csv", columns | {"y": [*map(int, x[:, 0] * 20)]})
    said = []
    run = train(path, tmp_path / "a", settings=QUICK, report=said.append)
    assert run.config.data.task == "regression"
    asked = [line for line in said if "are they classes? --task classification" in line]
    assert len(asked) == 1
    few = write(tmp_path / "few.csv", columns | {"y": [*map(int, x[:, 0] > 0)]})
    run = train(few, tmp_path / "b", settings=QUICK, report=quiet)
    assert (run.config.data.task, run.config.optimizer.lr) == ("classification", 0.01)
    again = train(few, tmp_path / "b", settings=QUICK | {"epochs": 6}, resume=True, report=quiet)
    assert again.trainer.position.epoch == 6  # what its rows decided is what they decided then
    other = QUICK | {"optimizer.lr": 0.5}
    with pytest.raises(ConfigError, match=r"cannot resume with optimizer\.lr = 0\.5"):
        train(few, tmp_path / "b", settings=other, resume=True, report=quiet)
    other = QUICK | {"data.task": "regression"}
    assert isinstance(
        train(few, tmp_path / "c", settings=other, report=quiet).config.loss, MeanSquaredError
    )


def test_several_targets_are_scored_as_scikit_learn_does(tmp_path):
    metrics = pytest.importorskip("sklearn.metrics", reason="the oracle")
    x, columns = numbers()
    targets = {"u": (x @ [1, 2, 3]).round(3), "v": (x @ [3, -1, 0]).round(3)}
    path = write(tmp_path / "n.csv", columns | {k: v.tolist() for k, v in targets.items()})
    settings = QUICK | {"data.label": ["u", "v"], "epochs": 20}
    run = train(path, tmp_path / "run", settings=settings, report=quiet)
    got, y = run.evaluate(path), np.transpose([*targets.values()])
    answers = np.concatenate([*run.predictions(run.read(path, labelled=False))])
    assert got["targets"] == ["u", "v"]
    np.testing.assert_allclose(got["r2"], metrics.r2_score(y, answers), rtol=1e-6)
    np.testing.assert_allclose(
        got["by_target"]["mse"],
        metrics.mean_squared_error(y, answers, multioutput="raw_values"),
        rtol=1e-6,
    )


def test_several_labels_of_a_row_are_scored_as_scikit_learn_does(tmp_path, capsys):
    metrics = pytest.importorskip("sklearn.metrics", reason="the oracle")
    x, columns = numbers()
    y = np.stack([x[:, 0] > 0, x[:, 1] > 0.3], axis=1).astype(int)
    path = write(tmp_path / "n.csv", columns | {"hot": y[:, 0].tolist(), "wet": y[:, 1].tolist()})
    settings = QUICK | {"data.label": ["hot", "wet"], "epochs": 20}
    run = train(path, tmp_path / "run", settings=settings, report=quiet)
    assert isinstance(run.config.loss, BinaryCrossEntropy)
    run = load(tmp_path / "run", backend="numpy")
    got = run.evaluate(path)
    yes = np.concatenate([*run.predictions(run.read(path, labelled=False))]) > 0.5
    np.testing.assert_allclose(got["exact"], metrics.accuracy_score(y, yes))
    np.testing.assert_allclose(got["macro_f1"], metrics.f1_score(y, yes, average="macro"))
    np.testing.assert_allclose(
        got["by_target"]["recall"], metrics.recall_score(y, yes, average=None)
    )
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "run"), str(path)])
    assert capsys.readouterr().out.splitlines()[0] == "p_hot,p_wet"
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "run"), str(path)])
    assert "hot" in capsys.readouterr().out


def test_weights_count_in_the_scores_as_in_scikit_learn(tmp_path):
    metrics = pytest.importorskip("sklearn.metrics", reason="the oracle")
    x, columns = numbers()
    y = np.where(x[:, 0] + 0.5 * x[:, 1] > 0, "yes", "no")
    weight = np.random.default_rng(1).uniform(0, 5, len(x)).round(3)
    table = columns | {"w": weight.tolist(), "y": y.tolist()}
    path = write(tmp_path / "n.csv", table)
    settings = QUICK | {"data.columns.weight": "w"}
    run = train(path, tmp_path / "run", settings=settings, report=quiet)
    p = np.concatenate([*run.predictions(run.read(path, labelled=False))])
    predicted = np.where(p[:, 1] > p[:, 0], "yes", "no")
    got = run.evaluate(path)["accuracy"]
    expected = metrics.accuracy_score(y, predicted, sample_weight=weight)
    assert got == pytest.approx(expected, rel=1e-6)
    unweighted = metrics.accuracy_score(y, predicted)
    assert abs(got - unweighted) > 1e-3  # or nothing is shown
    heavy = write(tmp_path / "bad.csv", table | {"w": [-1.0, *weight[1:].tolist()]})
    with pytest.raises(DataError, match=r"line 2.*weight"):
        train(heavy, tmp_path / "bad", settings=settings, report=quiet)


def test_a_class_with_a_row_or_two_is_kept_in_training_and_named(tmp_path):
    x, columns = numbers()
    y = np.where(x[:, 0] > 0, "big", "small").astype(object)
    y[3] = "huge"
    path = write(tmp_path / "n.csv", columns | {"y": y.tolist()})
    said = []
    run = train(path, tmp_path / "run", settings=QUICK, report=said.append)
    assert run.preprocessing.classes == ("big", "huge", "small")
    assert any("'huge' (1)" in line for line in said)
    assert run.test["support"][1] == 0


# ------------------------------------------------------------------------------ recipes and layers


def test_a_category_of_many_values_is_embedded_and_a_new_one_is_no_error(tmp_path):
    rng = np.random.default_rng(0)
    code = rng.integers(60, size=400)
    y = np.where(code % 2 == 0, "even", "odd")
    x = rng.normal(size=400).round(3).tolist()
    path = write(tmp_path / "n.csv", {"x": x, "code": [f"c{k}" for k in code], "y": y.tolist()})
    settings = QUICK | {"epochs": 30}
    run = train(path, tmp_path / "run", settings=settings, report=quiet)
    run = load(tmp_path / "run", backend="numpy")
    first = run.trainer.model.layers[0]
    assert isinstance(first, Embedding)
    assert isinstance(run.trainer.model.layers[1], FeatureScale)
    assert run.preprocessing.embeddings == first.sizes
    assert run.test_part().columns.kinds == ("number", "category")
    assert run.evaluate(path)["accuracy"] > 0.9  # which codes are even is learned one by one
    new = write(tmp_path / "new.csv", {"x": [0.5], "code": ["c999"]})
    rows = run.read(new, labelled=False)
    assert any("code (1)" in note for note in rows.columns.notes)
    assert np.isfinite(np.concatenate([*run.predictions(rows)])).all()
    narrow = settings | {"data.columns.one_hot": 100}
    one_hot = train(path, tmp_path / "one_hot", settings=narrow, report=quiet)
    assert one_hot.preprocessing.embeddings == ()


def test_a_recipe_is_chosen_by_name_by_a_config_or_by_the_kind_of_file(tmp_path):
    path = write(tmp_path / "n.csv", numbers()[1])
    table, plain = load_config(path), load_config(path, recipe="none")
    assert table.model.scale_features
    assert table.epochs == "auto"
    assert (plain.model.scale_features, plain.epochs) == (False, 30)
    config = tmp_path / "my.toml"
    config.write_text("recipe = 'table'\nepochs = 3\n[data]\nsource = 'n.csv'\n[model]\nhidden=[9]")
    mine = load_config(config)
    assert (mine.epochs, mine.model.hidden, mine.optimizer) == (3, (9,), table.optimizer)
    assert not load_config(config, recipe="none").model.scale_features
    np.save(tmp_path / "a.npy", numbers()[0])
    assert not load_config(tmp_path / "a.npy").model.scale_features
    with pytest.raises(ConfigError, match="no recipe 'tabel'; did you mean 'table'"):
        load_config(path, recipe="tabel")
    with pytest.raises(ConfigError, match="xpnet train FILE --recipe table"):
        load_config("table")
    few, many = (load_config(path, task="classification", rows=rows) for rows in (999, 1000))
    assert (few.model.hidden, many.model.hidden) == ((256,), (256, 256))
    assert (
        load_config(path, {"optimizer.lr": 0.5}, task="classification", rows=9).optimizer.lr == 0.5
    )
    assert load_config(path, task="regression", rows=9).optimizer.lr == 0.03
    regression = load_config(path, task="regression")
    assert isinstance(regression.loss, MeanSquaredError)
    assert isinstance(load_config(path, task="classification").loss, SoftmaxCrossEntropy)


def test_the_task_that_settings_name_or_imply_goes_before_that_of_the_labels(tmp_path):
    path = write(tmp_path / "n.csv", {"a": [1.0], "y": [0]})
    for settings in ({"data.task": "regression"}, {"loss": "huber"}):
        asked = load_config(path, settings, task="classification", rows=9)
        plain = load_config(path, settings, rows=9)
        assert asked.data.task == "regression"
        assert (asked.loss, asked.optimizer) == (plain.loss, plain.optimizer)


def test_rows_that_stay_in_their_file_are_encoded_as_those_in_memory(tmp_path):
    """Every kind of column streams, and the run is used like any other."""
    path = write(tmp_path / "people.csv", people(400))
    settings = QUICK | {"data.label": "likes", "data.stream": "yes"}
    run = train(path, tmp_path / "run", settings=settings, report=quiet)
    run = load(tmp_path / "run", backend="numpy")
    assert run.preprocessing.columns.kinds == ("number", "number", "category", "boolean", "date")
    assert abs(len(run.test_part()) - 80) <= 2
    later = changed(tmp_path)
    assert run.evaluate(later)["rows"] == ROWS


# --------------------------------------------------------------------------------- the command line


def command(*args):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, args)])
    return ended.value.code


def test_show_prints_the_columns_of_a_file(tmp_path, capsys):
    path = write(tmp_path / "people.csv", people())
    assert command("show", path, "--label", "likes", "--category", "age", "--ignore", "city") == 0
    out = capsys.readouterr().out
    assert "120 rows, 9 columns" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["age"][1] == "category"
    assert lines["city"][-3:] != ["used", "as", "feature"]
    assert "left out" in " ".join(lines["city"])
    assert lines["likes"][-1] == "label"
    assert not (tmp_path / "runs").exists()


def test_the_options_of_the_columns_are_settings(tmp_path, capsys):
    path = write(tmp_path / "people.csv", people())
    options = ["--label", "likes", "--ignore", "since", "--ignore", "city", "--category", "age"]
    quick = [f"--set={k}={v}" for k, v in QUICK.items()]
    assert command("train", path, *options, "--out", tmp_path / "run", "--quiet", *quick) == 0
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["data"]["label"] == "likes"
    assert config["data"]["columns"]["ignore"] == ["since", "city"]
    run = load(tmp_path / "run", backend="numpy")
    assert run.preprocessing.feature_names == ("age", "income", "member")
    assert run.preprocessing.columns.kinds == ("category", "number", "boolean")
    capsys.readouterr()
    assert command("train", path, "--ignore", "sinse", "--out", tmp_path / "no") == 2
    err = capsys.readouterr().err
    assert "no column 'sinse'" in err
    assert err.count("\n") == 1
    assert command("show", tmp_path / "run", "--label", "likes") == 2
    assert "is for a FILE" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_trainer_of_ones_own_takes_tables_of_numbers_and_nothing_else(library):
    from xpnet import Dense, Sequential, Trainer

    module = pytest.importorskip(library, reason=f"{library} is not installed")
    x, columns = numbers()
    make = module.table if library == "pyarrow" else module.DataFrame
    y = (x[:, 0] > 0).astype(int)
    answers = []
    for given in (x, make(columns)):
        trainer = Trainer(Sequential([Dense(2)]), backend="numpy", step="portable")
        trainer.fit((given, y), epochs=2)
        answers.append(trainer.predict(given))
    np.testing.assert_array_equal(*answers)
    city = {"city": ["Ulm"] * len(x)}
    assert (trainer.predict(make(city | columns)) == answers[0]).all()  # found by name
    fresh = Trainer(Sequential([Dense(2)]), backend="numpy")
    with pytest.raises(DataError, match="column 'city' does not hold numbers alone"):
        fresh.fit((make(columns | city), y), epochs=1)


def test_what_is_left_open_is_decided_by_rows():
    open_config = load_config("digits", {"data.validation_fraction": "auto", **AUTO})

    def decided(rows, **settings):
        config = by_rows(load_config(open_config, settings), rows)
        fraction, dropout = config.data.validation_fraction, config.model.dropout
        return config.batch_size, config.epochs, fraction, dropout

    assert decided(150) == (32, 100, 0.0, 0.3)
    assert decided(999)[2] == 0.0
    assert decided(1000)[2] == 0.1
    assert decided(16_000) == (64, 50, 0.1, 0.1)
    assert decided(10_000_000) == (256, 3, 0.1, 0.1)  # 120,000 steps, not two million
    assert decided(150, accumulate=64)[0] == 64
    regression = {"data.source": "a.csv", "data.task": "regression", "loss": "huber"}
    assert decided(150, **regression) == (32, 100, 0.15, 0.4)
    kept = by_rows(load_config("digits"), 10)
    assert kept == load_config("digits")
    largest = load_config(open_config, {"batch_size": "largest"})
    assert by_rows(largest, 150).batch_size == "largest"


AUTO = {"epochs": "auto", "batch_size": "auto", "model.dropout": "auto"}
