"""A trainer saved to one file comes back with every setting and bit, on any backend; no code."""

import os
import pickle
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from conftest import AVAILABLE

import xpnet
import xpnet.storage
from xpnet import schedules
from xpnet.errors import CheckpointError, ConfigError, TrainingError, XpnetWarning
from xpnet.nn import LAYERS, Activation, BatchNorm, Dense, Dropout, Embedding, ReLU, Sequential
from xpnet.nn.initializers import INITIALIZERS, Normal, Zeros
from xpnet.nn.losses import LOSSES, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, Adam
from xpnet.optim.schedules import SCHEDULES
from xpnet.step.mixed_precision import Mixed
from xpnet.training.early_stopping import EarlyStopping
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


# ---------------------------------------------------------------- round trip


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


@pytest.mark.long
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


# ---------------------------------------------------------------- where it is written


def test_a_folder_gets_a_file_within(tmp_path):
    trainer = fit(made(), 1)
    path = trainer.save(f"{tmp_path}/new/folder/")
    assert path == tmp_path / "new" / "folder" / "model.safetensors"
    assert bits(xpnet.load(path.parent)) == bits(trainer)
    assert trainer.save(tmp_path / "new" / "folder") == path
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    with pytest.raises(CheckpointError, match=r"cannot write .*no-such"):
        trainer.save(tmp_path / "no-such" / "model.safetensors")
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="is the folder of a run"):
        trainer.save(tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    trainer = fit(made(), 1)
    path = trainer.save(tmp_path / "model")
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="No space left"):
        fit(trainer, 2).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_has_not_been_trained_is_saved_as_that(tmp_path):
    trainer = made(layers=Sequential(LAYERED).build((6,)))
    loaded = xpnet.load(trainer.save(tmp_path / "model"))
    with pytest.raises(TrainingError, match="nothing has been trained yet"):
        loaded.predict(rows()[0])
    assert bits(fit(loaded, 2)) == bits(fit(trainer, 2))
    with pytest.raises(TrainingError, match="the model has no sizes yet"):
        made().save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_labels_and_their_weights_come_back(tmp_path):
    x, y = rows()
    names = np.array(["ash", "elm", "oak"])[y]
    trainer = made(loss="softmax_cross_entropy", class_weights={"oak": 2.0})
    built = made(layers=trainer.model.build((6,)), loss=trainer.loss, class_weights={"oak": 2.0})
    with pytest.raises(ConfigError, match="save the trainer after it"):
        built.save(tmp_path / "model")
    trainer.fit((x, names), epochs=1)
    loaded = xpnet.load(trainer.save(tmp_path / "model"))
    assert loaded.classes == ("ash", "elm", "oak")
    assert loaded.loss == trainer.loss
    for each in (loaded, trainer):
        each.fit((x, names), epochs=3)
    assert bits(loaded) == bits(trainer)


# ---------------------------------------------------------------- own classes, code


class Cube(Activation):
    """a = z³, which nobody registered."""

    def value(self, z):
        return z * z * z

    def backward_value(self, da, z):
        return 3.0 * da * z * z


def test_a_class_without_a_name_is_refused_before_anything_is_written(tmp_path):
    trainer = fit(made(layers=(Dense(4), Cube(), Dense(3))), 1)
    path = tmp_path / "model"
    with pytest.raises(ConfigError, match=r"Cube has no name.*@xpnet\.register\('cube'\)"):
        trainer.save(path)
    assert not path.exists()


def test_a_registered_class_of_ones_own_is_loaded_where_it_is_registered(tmp_path, monkeypatch):
    tables = [vars(base)["table"] for base in Cube.__mro__ if "table" in vars(base)]
    own = xpnet.register("saved_cube")(type("SavedCube", (Cube,), {}))
    for table in tables:
        del table["saved_cube"]
        monkeypatch.setitem(table, "saved_cube", own)  # and so it is gone after the test
    trainer = fit(made(layers=(Dense(4), own(), Dense(3))), 1)
    path = trainer.save(tmp_path / "model")
    assert xpnet.load(path).model.layers[1] == own()
    monkeypatch.delitem(LAYERS, "saved_cube")
    with pytest.raises(CheckpointError, match=r"'saved_cube'.*registered before it is loaded"):
        xpnet.load(path)


@pytest.mark.long
def test_a_model_of_a_plugin_is_loaded_where_the_plugin_is(tmp_path):
    plugin = os.path.join(os.path.dirname(os.path.dirname(__file__)), "own_formulas.py")
    code = f"""
import sys, numpy as np, xpnet
from xpnet.registry import load_plugin
if sys.argv[1] == "save":
    load_plugin({plugin!r})
    from xpnet.nn import LAYERS
    from xpnet.optim.optimizers import OPTIMIZERS
    rule = OPTIMIZERS["own_adadelta"]()
    layers = [xpnet.Dense(3), LAYERS["own_mish"](2.0), xpnet.Dense(1)]
    trainer = xpnet.Trainer(layers, "own_hinge", rule, backend="numpy")
    trainer.fit((np.eye(4), np.array([0, 1, 0, 1])), epochs=2)
    trainer.save({str(tmp_path)!r} + "/model")
    np.save({str(tmp_path)!r} + "/p.npy", trainer.predict(np.eye(4)))
else:
    try:
        xpnet.load({str(tmp_path)!r} + "/model")
    except xpnet.CheckpointError as error:
        assert "own_mish" in str(error) and "registered before it is loaded" in str(error), error
        assert "add --plugin FILE" in error.at_command_line
    else:
        raise SystemExit("loaded without its plugin")
    load_plugin({plugin!r})
    loaded = xpnet.load({str(tmp_path)!r} + "/model")
    assert (loaded.predict(np.eye(4)) == np.load({str(tmp_path)!r} + "/p.npy")).all()
    assert loaded.model.layers[1].sharpness == 2.0
"""
    for step in ("save", "load"):
        subprocess.run([sys.executable, "-c", code, step], check=True)


# ---------------------------------------------------------------- other backends, machines


def test_mixed_precision_that_a_backend_lacks_is_said(tmp_path):
    pytest.importorskip("torch")
    trainer = fit(made("torch", mixed=Mixed("bfloat16"), dtype="float32", step="auto"), 1)
    path = trainer.save(tmp_path / "model")
    assert xpnet.load(path).mixed == Mixed("bfloat16")
    with pytest.warns(XpnetWarning, match="computed in bfloat16, which numpy does not have"):
        loaded = xpnet.load(path, backend="numpy")
    assert np.allclose(loaded.predict(rows()[0]), trainer.predict(rows()[0]), atol=1e-5)


def test_more_threads_than_there_are_cores_are_not_insisted_on(tmp_path, monkeypatch):
    trainer = fit(made(threads=1), 1)
    path = trainer.save(tmp_path / "model")
    checkpoint = xpnet.storage.load(path)
    checkpoint.meta["trainer"]["settings"]["threads"] = 4096
    xpnet.storage.save(path, checkpoint.tensors, checkpoint.meta)
    assert xpnet.load(path).threads == "auto"


# ---------------------------------------------------------------- damaged, foreign


@pytest.fixture
def saved(tmp_path):
    path = fit(made(), 1).save(tmp_path / "model.safetensors")
    return path, xpnet.storage.load(path)


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        xpnet.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_link_that_it_is_saved_to_is_kept(saved, tmp_path):
    path, before = saved
    (tmp_path / "newest.safetensors").symlink_to(path.name)
    fit(made(), 2).save(tmp_path / "newest.safetensors")
    assert (tmp_path / "newest.safetensors").is_symlink()
    assert xpnet.storage.load(path).meta["position"] != before.meta["position"]


def test_a_file_that_is_torn_altered_or_something_else_is_refused(saved, tmp_path):
    path, _ = saved
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert "is torn: its last 5 bytes are missing" in refused(path)
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert "has been altered" in refused(path)
    path.write_bytes(pickle.dumps({"W": 1}))
    assert "is not a safetensors file" in refused(path)
    assert "No such file" in refused(tmp_path / "nothing.safetensors")
    import safetensors.numpy

    safetensors.numpy.save_file({"W": np.zeros(3)}, path)
    assert "is not an xpnet checkpoint" in refused(path)
    xpnet.storage.save(path, {}, {"mine": 1})
    assert "neither the config of a run nor the settings of a trainer" in refused(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(format=2), "has a trainer of format 2, newer than 1; update xpnet"),
        (lambda t: t.update(settings=3), "was not saved by a trainer"),
        (lambda t: t["settings"].pop("loss"), "missing setting 'loss'"),
        (lambda t: t["settings"].update(seed=-1), "seed must be >= 0"),
        (lambda t: t["settings"]["model"].update(layers=[1]), "must be a name or a table"),
        (lambda t: t["settings"].update(optimizer={"name": "os.system"}), "unknown optimizer"),
        (lambda t: t["settings"].update(dtype="int8"), "dtype must be one of"),
        (lambda t: t["settings"]["model"].update(input_shape=None), "has no sizes, with which"),
        (lambda t: t["settings"].update(model={"layers": []}), "has no sizes, with which"),
    ],
    ids=["format", "settings", "loss", "seed", "layers", "code", "dtype", "sizes", "empty"],
)
def test_a_file_with_other_content_is_refused(saved, change, message):
    path, checkpoint = saved
    change(checkpoint.meta["trainer"])
    xpnet.storage.save(path, checkpoint.tensors, checkpoint.meta)
    assert message in refused(path)


def test_tensors_that_do_not_fit_are_refused(saved):
    path, checkpoint = saved
    tensors = {**checkpoint.tensors, "params/0.dense.W": np.zeros((2, 2))}
    xpnet.storage.save(path, tensors, checkpoint.meta)
    with pytest.raises(CheckpointError, match=r"params/0\.dense\.W must have shape \(6, 8\)"):
        xpnet.load(path)


# ---------------------------------------------------------------- copies of all kinds


def test_a_loaded_trainer_is_copied_and_pickled_as_any_other(saved, copied):
    loaded = xpnet.load(saved[0])
    again = copied(loaded)
    assert bits(fit(again, 3)) == bits(fit(loaded, 3))
    assert pickle.loads(pickle.dumps(loaded.model)) == loaded.model
