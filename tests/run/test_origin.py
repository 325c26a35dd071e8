"""Fine-tuning of runs: `train --from`, what it takes over, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import xpnet
from xpnet import Dense, Tanh, Trainer
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.optim.optimizers import Adam
from xpnet.run import load, train

FEATURES = ("length", "width", "colour")


def table(path, classes, n=60, seed=0, numbers=False):
    """Write rows of two numbers, a category, and a label that depends on the first number."""
    rng = np.random.default_rng(seed)
    lines = [",".join((*FEATURES, "kind"))]
    for i in range(n):
        k = i % len(classes)
        length, colour = rng.normal() + 3 * k, ("red", "blue", "green")[rng.integers(3)]
        label = f"{length * 2 + 1:.3f}" if numbers else classes[k]
        lines.append(f"{length:.3f},{rng.normal():.3f},{colour},{label}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def picked(source, path, columns):
    """Write some columns of a file, in this order."""
    rows = [line.split(",") for line in Path(source).read_text().splitlines()]
    path.write_text("".join(",".join(row[i] for i in columns) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def go(tmp_path):
    def go(source, out, **options):
        settings = {"epochs": 2, "batch_size": 16, "step": "portable", "threads": 1}
        settings |= options.pop("settings", {})
        said = []
        options = {"report": said.append, "recipe": "none", "settings": settings} | options
        run = train(source, tmp_path / out, **options)
        return run, said

    return go


@pytest.fixture
def first(tmp_path, go):
    source = table(tmp_path / "first.csv", ("rose", "tulip", "lily"))
    settings = {"model.hidden": [8, 6], "data.label": "kind", "epochs": 3, "seed": 4}
    return go(source, "first", settings=settings)[0]


def bits(run):
    return {k: v.tobytes() for k, v in run.trainer.snapshot()[0].items() if k[:6] == "params"}


def test_columns_encoding_architecture_and_classes_are_taken_over(first, go, tmp_path):
    # Columns in another order, two of the three classes, other values: the encoding stays.
    source = table(tmp_path / "new.csv", ("tulip", "lily"), seed=1)
    source = picked(source, tmp_path / "other.csv", (2, 1, 0, 3))
    run, said = go(source, "tuned", start_from=tmp_path / "first")
    assert run.preprocessing.classes == first.preprocessing.classes
    mine, its = run.preprocessing.tensors(), first.preprocessing.tensors()
    assert {k: v.tobytes() for k, v in mine.items()} == {k: v.tobytes() for k, v in its.items()}
    assert [repr(layer) for layer in run.trainer.model.layers] == [
        repr(layer) for layer in first.trainer.model.layers
    ]
    path = tmp_path / "first"
    assert f"start {path}: its columns, encoding and architecture are taken over" in said
    assert f"classes of {path}: 3, of which the new rows have 2" in said
    assert any(line.endswith("0.dense, 2.dense, 4.dense") for line in said)
    # The rows of the test part have the label numbers of the run, also when it is read again.
    assert load(path).evaluate(source)["rows"] == 60
    again = xpnet.run.trained_run.load_run(tmp_path / "tuned")
    held = again.test_part()
    assert set(held.y) == {first.preprocessing.classes.index(c) for c in ("tulip", "lily")}


def test_without_a_step_it_predicts_as_its_source(first, go, tmp_path):
    run, _ = go(
        table(tmp_path / "new.csv", ("rose", "lily"), seed=1),
        "tuned",
        start_from=first,
        settings={"optimizer.freeze": ["0", "2", "4"], "epochs": 1},
    )
    rows = xpnet.read(tmp_path / "first.csv", label=None, like=first.preprocessing.columns)
    mine = run._predicted(rows)
    assert mine.tobytes() == first._predicted(rows).tobytes()


def test_a_head_for_other_classes_begins_anew(first, go, tmp_path):
    names = ("oak", "elm", "ash", "yew")
    run, said = go(
        table(tmp_path / "new.csv", names, seed=1),
        "tuned",
        start_from=tmp_path / "first",
        settings={"optimizer.freeze": ["0.dense", "2.dense"]},
    )
    assert set(run.preprocessing.classes) == set(names)
    assert "the last layer, 4.dense, begins anew: 4 outputs, and 3 there" in said
    assert "frozen: 0.dense, 2.dense" in said
    for name in ("0.dense.W", "0.dense.b", "2.dense.W"):
        assert (run.trainer.params[name] == first.trainer.params[name]).all()
    same = go(
        table(tmp_path / "three.csv", names[:3], seed=1), "three", start_from=tmp_path / "first"
    )
    assert "the last layer, 4.dense, begins anew" in same[1]


def test_a_regression_keeps_the_units_of_its_targets(go, tmp_path):
    settings = {"data.label": "kind", "data.task": "regression", "model.hidden": [8]}
    first = table(tmp_path / "first.csv", "abc", numbers=True)
    first, _ = go(first, "first", settings=settings)
    other = table(tmp_path / "new.csv", "ab", numbers=True, seed=3)
    del settings["model.hidden"]
    run, said = go(other, "tuned", start_from=tmp_path / "first", settings=settings)
    assert run.preprocessing.target_scaler == first.preprocessing.target_scaler
    assert any("2.dense" in line and line.startswith("weights of") for line in said)
    text = Path(other).read_text().replace("kind", "height")
    (tmp_path / "height.csv").write_text(text)
    settings["data.label"] = "height"
    run, said = go(
        str(tmp_path / "height.csv"), "height", start_from=tmp_path / "first", settings=settings
    )
    assert "the last layer, 2.dense, begins anew" in said  # another quantity
    assert run.preprocessing.target_scaler != first.preprocessing.target_scaler


@pytest.mark.parametrize("optimizer_state", [False, True])
def test_a_resumed_fine_tuning_is_exact_and_needs_its_source_no_more(
    first, go, tmp_path, optimizer_state
):
    source = table(tmp_path / "new.csv", ("tulip", "lily"), seed=1)
    start = {"start.optimizer_state": optimizer_state, "schedule": "cosine", "epochs": 4}
    start["checkpoint.keep"] = 9
    go(source, "whole", start_from=tmp_path / "first", settings=start)

    class Stop(xpnet.Callback):
        def on_step_end(self, trainer):
            if trainer.position.step == 5:
                trainer.stop("enough")

    go(source, "half", start_from=tmp_path / "first", settings=start, progress=Stop())
    shutil.copytree(tmp_path / "half", tmp_path / "killed")  # before it saved anything
    first_file = tmp_path / "killed" / "checkpoints" / "step-0000000000.safetensors"
    for path in first_file.parent.iterdir():
        if path != first_file:
            path.unlink()
    assert load(tmp_path / "half", which="last").trainer.position.step == 5
    assert load(first_file).trainer.position.step == 0
    shutil.rmtree(tmp_path / "first")
    ended = load(tmp_path / "whole", which="last")
    for name in ("half", "killed"):
        train(None, tmp_path / name, resume=True, report=str)
        resumed = load(tmp_path / name, which="last")
        assert bits(resumed) == bits(ended)
        assert resumed.trainer.updates_before == first.trainer.position.step * optimizer_state
    with pytest.raises(CheckpointError, match="no run folder"):
        go(source, "third", start_from=tmp_path / "first")


def test_a_run_starts_from_the_file_of_a_trainer(tmp_path, go):
    source = table(tmp_path / "new.csv", ("rose", "lily"))
    source = picked(source, tmp_path / "numbers.csv", (0, 1, 3))
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    model = Trainer([Dense(5), Tanh(), Dense(2)], backend="numpy")
    model.fit((x, y), epochs=1)
    file = model.save(tmp_path / "model.safetensors")
    frozen = {"optimizer.freeze": ["0", "2"], "epochs": 1, "data.label": "kind"}
    run, said = go(source, "tuned", start_from=file, settings=frozen)
    assert any("rows are taken as they are" in line for line in said)
    assert any("taken for lily, rose, in this order" in line for line in said)
    rows = x.astype(np.float32)
    assert np.allclose(run.predict(rows), model.predict(rows), rtol=1e-6)


def refusal(error, go, source, **options):
    with pytest.raises(error) as caught:
        go(source, "refused", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_is_refused_with_the_reason(first, go, tmp_path):
    source, start = (
        table(tmp_path / "new.csv", ("rose", "lily")),
        {"start_from": tmp_path / "first"},
    )
    for key, value in (("model.hidden", [3]), ("data.scaling", "none"), ("model.layers", [])):
        message = refusal(ConfigError, go, source, settings={key: value}, **start)
        assert f"{key} cannot be set: it is that of {tmp_path / 'first'}" in message
    less = picked(source, tmp_path / "less.csv", (0, 1, 3))
    assert "no column 'colour'" in refusal(DataError, go, less, **start)
    message = refusal(ConfigError, go, source, settings={"optimizer.freeze": ["9"]}, **start)
    assert "no layer with parameters is called '9'; there are: 0.dense, 2.dense" in message
    settings = {"start.optimizer_state": True, "optimizer": "sgd"}
    assert "of adam" in refusal(ConfigError, go, source, settings=settings, **start)
    message = refusal(DataError, go, source, settings={"data.stream": "yes"}, **start)
    assert "reads its rows into memory" in message
    model = Trainer([Dense(5), Tanh(), Dense(2)], optimizer=Adam(), backend="numpy")
    model.fit((np.eye(2), np.arange(2)), epochs=1)
    start = {"start_from": model.save(tmp_path / "model.safetensors")}
    message = refusal(ConfigError, go, source, **start)
    assert "model.safetensors: layer 0 (dense): this dense layer takes 2 inputs; got 5" in message
    assert not (tmp_path / "refused").exists()
