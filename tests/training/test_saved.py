"""A trainer saved to one file comes back with every setting and bit, on any backend; no code."""

import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from conftest import AVAILABLE

import xpnet
from xpnet import schedules
from xpnet.errors import ConfigError
from xpnet.nn import LAYERS, BatchNorm, Dense, Dropout, Embedding, ReLU, Sequential
from xpnet.nn.initializers import INITIALIZERS, Normal, Zeros
from xpnet.nn.losses import LOSSES, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, Adam
from xpnet.optim.schedules import SCHEDULES
from xpnet.training.callbacks import EarlyStopping
from xpnet.training.trainer import Trainer

HERE = [n for n in AVAILABLE if n in ("numpy", "torch", "jax", "array-api-strict")]
EXACT = ("epoch", "step", "lr", "loss", "accuracy", "val_loss", "val_accuracy")


def rows(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)), rng.integers(0, 3, n)


LAYERED = (Dense(8), BatchNorm(), ReLU(), Dropout(0.3), Dense(3))


def made(backend="numpy", layers=LAYERED, **given):
    settings = {
        **{"optimizer": Adam(0.02, lr_factors={"0": 0.5}), "clip": Clip(norm=1.0), "seed": 3},
        **{"loss": SoftmaxCrossEntropy(label_smoothing=0.1, class_weights="balanced")},
        **{"schedule": schedules.Plateau(factor=0.5, patience=0), "batch_size": 16},
        **{"dtype": "float64", "step": "portable"},
    }
    return Trainer(layers, backend=backend, **settings | given)


def fit(trainer, epochs):
    trainer.fit(rows(), epochs=epochs, validation=rows(20, 1), callbacks=[EarlyStopping(9)])
    return trainer


def bits(trainer):
    tensors, meta = trainer.snapshot()
    history = [[record.get(name) for name in EXACT] for record in meta["history"]]
    state = {key: meta.get(key) for key in ("position", "schedule", "callbacks", "class_weights")}
    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in tensors.items()}, history, state


def settings(trainer):
    names = ("model", "loss", "optimizer", "schedule", "clip", "batch_size", "seed", "accumulate")
    return [getattr(trainer, name) for name in (*names, "mixed", "step", "threads")]


# -------------------------------------------------------------------------------------- round trip


@pytest.mark.long_where(name=["jax"])
@pytest.mark.parametrize("name", HERE)
def test_it_predicts_the_same_bits_and_trains_on_bit_for_bit(tmp_path, name):
    trainer, x = fit(made(name), 2), rows()[0]
    path = trainer.save(tmp_path / "model.safetensors")
    assert path == tmp_path / "model.safetensors"
    loaded = xpnet.load(path)
    assert repr(loaded.backend) == repr(trainer.backend)
    assert settings(loaded) == settings(trainer)
    assert bits(loaded) == bits(trainer)
    assert loaded.predict(x).tobytes() == trainer.predict(x).tobytes()
    assert bits(fit(loaded, 4)) == bits(fit(trainer, 4))


@pytest.mark.parametrize("name", [n for n in HERE if n != "numpy"])
def test_it_goes_to_another_library_and_back(tmp_path, name):
    trainer, x = fit(made(), 2), rows()[0]
    there = xpnet.load(trainer.save(tmp_path / "a"), backend=name)
    assert there.engine.backend.name == name
    assert bits(there) == bits(trainer)
    assert np.allclose(there.predict(x), trainer.predict(x), rtol=1e-12)
    back = xpnet.load(there.save(tmp_path / "b"), backend="numpy")
    assert settings(back)[:-2] == settings(trainer)[:-2]
    assert bits(back) == bits(trainer)
    assert bits(fit(back, 4)) == bits(fit(trainer, 4))


def test_in_another_process(tmp_path):
    trainer = fit(made(), 2)
    trainer.save(tmp_path / "model.safetensors")
    code = f"""
import sys
import xpnet
from test_saved import fit
fit(xpnet.load({str(tmp_path)!r}), 4).save({str(tmp_path / "later")!r})
"""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    run = [sys.executable, "-c", code]
    subprocess.run(run, check=True, env={**os.environ, "PYTHONPATH": path})
    assert bits(xpnet.load(tmp_path / "later")) == bits(fit(trainer, 4))


TABLES = {
    "layers": LAYERS,
    "initializer": INITIALIZERS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
EVERY = [
    (kind, name)
    for kind, table in TABLES.items()
    for name, cls in table.items()
    if cls.__module__.startswith("xpnet.")  # and not of another test
]
ENDS = {"cross_entropy": "softmax", "negative_log_likelihood": "log_softmax"}
REQUIRED = {
    "dropout": Dropout(0.25),
    "embedding": Embedding((3, 2)),
    "dense": Dense(4, False, Normal(0.3), Zeros()),
}


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=[*map("-".join, EVERY)])
def test_everything_that_has_a_name_is_saved_with_its_settings(tmp_path, kind, name):
    cls = TABLES[kind][name]
    given = {"loss": "softmax_cross_entropy", "schedule": "constant"}
    layers = (Dense(4), Dense(2))
    thing = REQUIRED.get(name) or changed(cls)
    if kind == "layers":
        layers = (thing, Dense(2)) if name == "embedding" else (Dense(4), thing, Dense(2))
    elif kind == "initializer":
        layers = (Dense(4, initializer=thing), Dense(2))
    else:
        given[kind] = thing
    for loss, end in ENDS.items():
        if name in (loss, end):
            given["loss"], layers = LOSSES[loss](), (Dense(4), LAYERS[end]())
    trainer = made(layers=Sequential(layers).build((6,)), **given)
    loaded = xpnet.load(trainer.save(tmp_path / "a"))
    assert settings(loaded) == settings(trainer)
    assert bits(loaded) == bits(trainer)


def changed(cls):
    """An instance whose numbers are not those of a default, where the class allows them."""
    values = {}
    for f in fields(cls):
        if isinstance(f.default, float) and f.init:
            for value in (f.default * 0.5 + 0.0625, f.default):
                try:
                    cls(**values, **{f.name: value})
                except (ConfigError, TypeError):
                    continue
                values[f.name] = value
                break
    try:
        return cls(**values)
    except TypeError:
        return cls(0.5)
