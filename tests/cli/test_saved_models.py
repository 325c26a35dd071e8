"""The commands take a model that was saved in Python, or say why not."""

import json

import numpy as np
import pytest

from xpnet.nn import Dense, Embedding, Tanh
from xpnet.training.trainer import Trainer


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 4)).astype(np.float32), rng.integers(0, 3, 30)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, rows):
    """A trainer and its file."""
    path = tmp_path_factory.mktemp("cli") / "model.safetensors"
    trainer = Trainer([Dense(5), Tanh(), Dense(3)], backend="numpy", step="portable")
    trainer.fit(rows, epochs=2)
    trainer.save(path)
    return trainer, path


def test_predict_takes_plain_numbers(xpnet, saved, rows, tmp_path):
    trainer, path = saved
    x = rows[0]
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "x.csv", x, delimiter=",")
    np.savetxt(tmp_path / "named.csv", x, delimiter=",", header="a,b,c,d", comments="")
    expected = trainer.predict(x)
    for name in ("x.npy", "x.csv", "named.csv"):
        code, out, _ = xpnet("predict", path, tmp_path / name)
        header, *lines = out.splitlines()
        table = np.array([[float(cell) for cell in line.split(",")] for line in lines])
        assert (code, header) == (0, "class,p_0,p_1,p_2")
        assert (table[:, 0] == expected.argmax(axis=1)).all()
        assert np.allclose(table[:, 1:], expected, atol=1e-6)
    np.save(tmp_path / "wide.npy", np.zeros((2, 5)))
    code, _, err = xpnet("predict", path, tmp_path / "wide.npy")
    assert code == 2
    assert "features have shape (5,); the run was trained on (4,)" in err


def test_evaluate_takes_labelled_arrays(xpnet, saved, rows, tmp_path):
    trainer, path = saved
    np.savez(tmp_path / "rows.npz", x=rows[0], y=rows[1])
    code, out, _ = xpnet("evaluate", path, tmp_path / "rows.npz", "--json")
    assert code == 0
    assert np.isclose(json.loads(out)["loss"], trainer.evaluate(rows).loss, rtol=1e-6)
    code, _, err = xpnet("evaluate", path)
    assert (code, err.count("\n")) == (2, 1)
    assert "give a FILE to evaluate on" in err


def test_show_and_explain(xpnet, saved):
    trainer, path = saved
    code, out, _ = xpnet("show", path)
    assert code == 0
    assert trainer.summary().splitlines()[3] in out
    assert "last 2 of 2 epochs" in out
    assert xpnet("show", path, "--plan")[0] == 0
    code, out, _ = xpnet("explain", path)
    assert code == 0
    assert "4-5-3" in out


@pytest.mark.long  # PyTorch and JAX are asked, too
def test_gradcheck(xpnet, saved):
    path = saved[1]
    code, out, _ = xpnet("gradcheck", path, "--samples", 5)
    assert code == 0
    assert "0.dense.W" in out
    code, _, err = xpnet("gradcheck", path, "--set", "seed=1")
    assert code == 2
    assert "omit --set" in err


def test_what_only_a_run_has_is_said(xpnet, saved, tmp_path):
    path = saved[1]
    code, _, err = xpnet("export", path, tmp_path / "page.html", "--train")
    assert (code, err.count("\n")) == (2, 1)
    assert "saved without a run" in err
    assert f"xpnet train FILE --from {path}" in err
    model = Trainer([Embedding((3,)), Dense(2)], backend="numpy", step="portable")
    model.fit((np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 0])), epochs=1)
    np.save(tmp_path / "codes.npy", np.zeros((2, 1)))
    code, _, err = xpnet("predict", model.save(tmp_path / "e.safetensors"), tmp_path / "codes.npy")
    assert code == 2
    assert "has an embedding" in err


def test_train_from_a_saved_model(xpnet, saved, rows, tmp_path):
    _, path = saved
    np.savetxt(tmp_path / "new.csv", np.column_stack(rows), delimiter=",", fmt="%.4g")
    out = tmp_path / "run"
    freeze = 'optimizer.freeze=["0"]'
    options = ["--from", path, "--epochs", 1, "--set", freeze, "--out", out]
    code, said, _ = xpnet("train", tmp_path / "new.csv", *options)
    assert code == 0
    assert "0.dense, 2.dense" in said
    assert "frozen: 0.dense" in said
    code, said, _ = xpnet("train", "--out", out, "--resume", "--epochs", 2)
    assert code == 0
    assert "weights of" not in said
    code, _, err = xpnet("train", tmp_path / "new.csv", "--from", tmp_path / "nothing")
    assert (code, err.count("\n")) == (2, 1)
    assert "no run folder" in err
