"""Commands that take a run take a saved model, too: its rows are plain numbers, as they are."""

import csv
import io
import json

import numpy as np
import pytest

from xpnet import Dense, Tanh, Trainer
from xpnet.check.sample import saved_rows
from xpnet.explanation import explain
from xpnet.nn import Embedding

LOSSES = {
    "classes": ("softmax_cross_entropy", 3),
    "binary": ("binary_cross_entropy", 1),
    "labels": ("binary_cross_entropy", 2),
    "values": ("mean_squared_error", 2),
}


@pytest.fixture(autouse=True)
def in_a_new_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def targets(kind, x):
    if kind == "classes":
        return (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0)
    if kind == "binary":
        return (x[:, :1] > 0).astype(float)
    return (x[:, :2] > 0).astype(float) if kind == "labels" else x[:, :2] * 3 + 1


def made(kind, path, **given):
    """A trained model, saved, with its rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4))
    y = targets(kind, x)
    loss, outputs = LOSSES[kind]
    trainer = Trainer([Dense(5), Tanh(), Dense(outputs)], loss, backend="numpy", **given)
    trainer.fit((x, y), epochs=2)
    trainer.save(path)
    return trainer, x, y


def read(text):
    names, *rows = csv.reader(io.StringIO(text))
    return names, rows


NAMES = {
    "classes": ["class", "p_0", "p_1", "p_2"],
    "binary": ["class", "p_0", "p_1"],
    "labels": ["p_0", "p_1"],
    "values": ["value_0", "value_1"],
}


@pytest.mark.parametrize("kind", LOSSES)
def test_it_predicts_and_is_evaluated_on_rows_of_numbers(xpnet, tmp_path, kind):
    trainer, x, y = made(kind, tmp_path / "model.safetensors", dtype="float64")
    np.save("x.npy", x)
    np.savetxt("x.csv", x, delimiter=",", fmt="%.17g")
    np.savez("xy.npz", x=x, y=y.reshape(-1) if kind == "binary" else y)
    code, out, err = xpnet("predict", "model.safetensors", "x.npy")
    assert (code, err) == (0, "")
    names, rows = read(out)
    assert names == NAMES[kind]
    p = trainer.predict(x)
    p = np.concatenate([1 - p, p], axis=1) if kind == "binary" else p
    found = np.array([row[-p.shape[1] :] for row in rows], float)
    np.testing.assert_allclose(found, p, rtol=1e-6, atol=6e-7)
    if names[0] == "class":
        assert [row[0] for row in rows] == [str(k) for k in p.argmax(axis=1)]
    assert xpnet("predict", tmp_path, "x.csv") == (0, out, "")  # the folder that it is in
    metrics = pytest.importorskip("sklearn.metrics")
    code, scored, _ = xpnet("evaluate", "model.safetensors", "xy.npz", "--json")
    assert code == 0
    found = json.loads(scored)
    assert found["rows"] == 50
    if kind == "values":
        assert found["r2"] == pytest.approx(metrics.r2_score(y, p))
    elif kind == "labels":
        assert found["accuracy"] == pytest.approx(((p > 0.5) == y).mean())
    else:
        y = y.reshape(-1)
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, p.argmax(axis=1)))
        assert found["loss"] == pytest.approx(metrics.log_loss(y, p))


def test_it_is_shown_explained_and_checked_with_its_own_weights(xpnet, tmp_path):
    trainer, _, _ = made("classes", tmp_path / "any-name", dtype="float64")
    code, out, _ = xpnet("show", "any-name")
    assert code == 0
    assert "trained    2 epochs; 2 steps" in out
    assert "last 2 of 2 epochs" in out
    assert "SoftmaxCrossEntropy" in out
    code, out, _ = xpnet("explain", "any-name", "--batch", "2", "--format", "markdown")
    assert (code, out.rstrip()) == (0, explain(trainer, batch=2).render("markdown").rstrip())
    code, out, _ = xpnet("gradcheck", "any-name", "--batch", "2")
    assert code == 0
    assert "any-name: 2 rows of synthetic rows, SoftmaxCrossEntropy" in out
    assert "0.dense.W" in out


def test_a_run_is_checked_and_explained_from_its_folder_and_one_of_its_files(xpnet, tmp_path):
    _, x, y = made("classes", tmp_path / "model")
    np.savetxt("xy.csv", np.c_[x, y], delimiter=",", header="a,b,c,d,kind", comments="")
    settings = ("--set", "epochs=1", "--set", "model.hidden=[3]", "--recipe", "none")
    assert xpnet("train", "xy.csv", "--label", "kind", "--out", "run", *settings)[0] == 0
    file = next((tmp_path / "run" / "checkpoints").glob("step-*.safetensors"))
    code, out, _ = xpnet("gradcheck", "run", "--batch", "3")
    assert code == 0
    assert "run: 3 rows of xy, held out, SoftmaxCrossEntropy" in out
    assert xpnet("gradcheck", file, "--batch", "3")[1] == out.replace("run:", f"{file}:", 1)
    assert "5 of the test data" in xpnet("explain", file, "--sample=5")[1]
    code, out, _ = xpnet("show", file)
    assert code == 0
    assert "last 1 of 1 epochs" in out
    assert "[model]" in out
    code, _, err = xpnet("export", file, "step.onnx", "--train")
    assert code == 2
    assert "has no run.json" in err
    assert "give the folder of a run" in err


def refused(xpnet, *args):
    code, out, err = xpnet(*args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "bug" not in err
    return err


def test_what_a_model_without_a_run_cannot_do_is_said(xpnet, tmp_path):
    _, x, _ = made("classes", tmp_path / "model.safetensors")
    np.save("few.npy", x[:, :3])
    (tmp_path / "words.csv").write_text("a,b,c,d\n1,2,red,4\n1,2,blue,4\n")
    model = "model.safetensors"
    message = refused(xpnet, "evaluate", model)
    assert f"{model} was trained on a table in memory or on arrays: give a FILE" in message
    assert "4" in refused(xpnet, "predict", model, "few.npy")
    assert "'red'" in refused(xpnet, "predict", model, "words.csv")
    for command in (("export", model, "page.html", "--train"), ("adopt", model, model, "--out=x")):
        message = refused(xpnet, *command)
        assert "a model that was saved without a run" in message
        assert f"xpnet train FILE --from {model}" in message
    assert "--set is for a config" in refused(xpnet, "gradcheck", model, "--set", "seed=1")
    assert "omit --sample" in refused(xpnet, "explain", model, "--sample", "3")
    assert "omit --loss" in refused(xpnet, "explain", model, "--loss", "cross_entropy")
    whole = (tmp_path / model).read_bytes()
    (tmp_path / model).write_bytes(whole[:-5])
    assert "is torn" in refused(xpnet, "predict", model, "few.npy")
    assert "is torn" in refused(xpnet, "show", model)


def test_classes_have_the_labels_that_the_trainer_was_fitted_to(xpnet, tmp_path):
    labels = np.array(["yew", "fir", "oak"])
    _, x, y = made("classes", tmp_path / "model")
    trainer = Trainer([Dense(5), Tanh(), Dense(3)], backend="numpy")
    trainer.fit((x, labels[y]), epochs=2)
    trainer.save("model")
    np.save("x.npy", x)
    _, out, _ = xpnet("predict", "model", "x.npy")
    names, rows = read(out)
    assert names == ["class", "p_fir", "p_oak", "p_yew"]
    predicted = trainer.predict_classes(x)
    assert [row[0] for row in rows] == [*predicted]
    lines = [",".join((*map(str, row), k)) for row, k in zip(x, labels[y], strict=True)]
    (tmp_path / "xy.csv").write_text("\n".join(("a,b,c,d,kind", *lines)) + "\n")
    _, out, _ = xpnet("evaluate", "model", "xy.csv", "--label", "kind", "--json")
    assert json.loads(out)["accuracy"] == (predicted == labels[y]).mean()


def test_inputs_that_are_codes_are_checked_and_explained(xpnet, tmp_path):
    trainer = Trainer([Embedding((5, 3)), Dense(2)], backend="numpy")
    x = np.stack([np.arange(6) / 6, np.arange(6) % 5, np.arange(6) % 3], axis=1)
    trainer.fit((x, np.arange(6) % 2), epochs=1)
    trainer.save("codes")
    assert xpnet("gradcheck", "codes")[0] == 0
    assert xpnet("explain", "codes", "--format", "markdown")[0] == 0
    drawn = saved_rows(trainer, 200)[0]
    assert [set(drawn[:, j]) for j in (1, 2)] == [{0, 1, 2, 3, 4}, {0, 1, 2}]
