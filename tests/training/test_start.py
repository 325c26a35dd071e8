"""Fine-tuning in Python: what a trainer takes from another, what begins anew, what is refused."""

import numpy as np
import pytest

import xpnet
from xpnet.errors import CheckpointError, ConfigError, TrainingError
from xpnet.nn import BatchNorm, Dense, Sequential, Tanh
from xpnet.optim.optimizers import SGD, Adam
from xpnet.storage import load, save
from xpnet.training.trainer import Trainer

BODY = (Dense(6), BatchNorm(), Tanh())


def rows(classes=4, n=48):
    rng = np.random.default_rng(classes)
    return rng.normal(size=(n, 5)), rng.integers(0, classes, n)


def made(outputs=4, backend="numpy", layers=BODY, inputs=5, **given):
    model = Sequential((*layers, Dense(outputs))).build((inputs,))
    settings = {"optimizer": Adam(0.01), "batch_size": 16, "dtype": "float64"}
    return Trainer(model, backend=backend, **settings | given)


def bits(trainer):
    return {k: (v.dtype, v.tobytes()) for k, v in trainer.snapshot()[0].items()}


@pytest.fixture
def source():
    trainer = made(seed=1)
    trainer.fit(rows(), epochs=2)
    return trainer


def test_layers_are_taken_by_name_and_the_head_begins_anew(source, backend):
    said, trainer = [], made(3, backend=backend)
    first = trainer.params["3.dense.W"]
    started = trainer.start_from(source, report=said.append)
    assert started.taken == ("0.dense", "1.batch_norm")
    assert started.anew == ("3.dense",)
    assert said == [
        "weights of the given trainer: 0.dense, 1.batch_norm",
        "the last layer, 3.dense, begins anew: 3 outputs, and 4 there",
        "the optimizer begins anew",
    ]
    for name, value in source.params.items():
        expected = first if name == "3.dense.W" else value
        if name != "3.dense.b":
            assert trainer.params[name].tobytes() == expected.tobytes(), name
    assert "1.batch_norm.mean" in source.params  # a statistic, which is taken, too
    assert np.isfinite(trainer.predict(rows()[0])).all()  # what was taken has been trained


def test_what_is_frozen_stays_and_the_rest_learns(source):
    said, trainer = [], made(3, optimizer=Adam(0.01, freeze=["0", "batch_norm"]))
    trainer.start_from(source, report=said.append)
    assert said[-1] == "frozen: 0.dense, 1.batch_norm"
    trainer.fit(rows(3), epochs=2)
    for name in ("0.dense.W", "0.dense.b", "1.batch_norm.gamma"):
        assert (trainer.params[name] == source.params[name]).all()
    assert (trainer.params["3.dense.b"] != 0).all()


def test_a_new_head_begins_anew_though_it_would_fit(source):
    trainer, first = made(seed=5), made(seed=5).params["3.dense.W"]
    assert trainer.start_from(source, new_head=True, report=str).anew == ("3.dense",)
    assert (trainer.params["3.dense.W"] == first).all()


def test_the_optimizer_goes_on_as_if_the_training_had_not_ended(backend):
    """With the schedule constant, a start with the optimizer's state is the same training."""
    layers = (Dense(6), Tanh())
    source = made(seed=1, layers=layers)
    source.fit(rows(), epochs=2)
    trainer, said = made(backend=backend, layers=layers), []
    trainer.start_from(source, optimizer_state=True, report=said.append)
    assert said[-1] == "the optimizer keeps its state of 6 updates"
    x, y = rows(n=16)  # one batch, so that the order is of no account
    source.fit((x, y), epochs=7)
    trainer.fit((x, y), epochs=5)
    for name, value in source.params.items():
        assert np.allclose(trainer.params[name], value, rtol=1e-9, atol=1e-12), name
    anew = made(layers=layers)
    anew.start_from(source, report=str)
    anew.fit((x, y), epochs=5)
    assert not np.allclose(anew.params["0.dense.W"], source.params["0.dense.W"], rtol=1e-3)


def test_it_resumes_bit_for_bit_without_the_source(source, tmp_path):
    whole = made(seed=1)
    whole.start_from(source, optimizer_state=True, report=str)
    half = made(seed=1)
    half.start_from(source.save(tmp_path / "source"), optimizer_state=True, report=str)
    half.fit(rows(), epochs=1)
    half.save(tmp_path / "half")
    (tmp_path / "source").unlink()
    loaded = xpnet.load(tmp_path / "half")
    assert loaded.updates_before == 6
    loaded.fit(rows(), epochs=3)
    whole.fit(rows(), epochs=3)
    assert bits(loaded) == bits(whole)


def test_a_start_from_a_file_and_from_a_trainer_are_one(source, tmp_path):
    first, second = made(3), made(3)
    first.start_from(source, report=str)
    said = []
    second.start_from(source.save(tmp_path / "s.safetensors"), report=said.append)
    assert said[0] == f"weights of {tmp_path / 's.safetensors'}: 0.dense, 1.batch_norm"
    assert bits(first) == bits(second)


def refused(trainer, source, error=ConfigError, **options):
    before = bits(trainer)
    with pytest.raises(error) as caught:
        trainer.start_from(source, report=pytest.fail, **options)
    assert bits(trainer) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_the_reason(source, tmp_path):
    message = refused(made(inputs=7), source)
    assert "0.dense.W is (5, 6) there, and (7, 6) here" in message
    assert "the rows need the same features" in message
    message = refused(made(layers=(Dense(9), BatchNorm(), Tanh())), source)
    assert "0.dense.W is (5, 6) there, and (5, 9) here" in message
    assert "no layer of the given trainer" in refused(made(layers=(Tanh(), Tanh())), source)
    trainer = made(3)
    message = refused(trainer, source, optimizer_state=True)
    assert "3.dense begins anew" in message
    message = refused(made(optimizer=SGD(0.1)), source, optimizer_state=True)
    assert "that is of adam, and this training's rule is sgd" in message
    assert "random" in refused(made(), made(), TrainingError)
    assert "got list" in refused(made(), [1])
    assert "cannot read" in refused(made(), tmp_path / "nothing.safetensors", CheckpointError)
    trainer = made()
    trainer.fit(rows(), epochs=1)
    assert "make another Trainer" in refused(trainer, source, TrainingError)


def test_layers_that_one_of_them_lacks_are_said(source):
    said, trainer = [], made(layers=(*BODY, Dense(4), Tanh()))
    assert trainer.start_from(source, report=said.append).taken[-1] == "3.dense"
    assert "5.dense is not in the given trainer, and begins anew" in said
    said, trainer = [], made(6, layers=())
    with pytest.raises(ConfigError, match=r"no layer .*: it has 0\.dense, 1\.batch_norm, 3\.dense"):
        made(5, layers=(Tanh(),)).start_from(source)
    trainer.start_from(source, report=said.append)
    assert "left out, for this model has no such layers: 1.batch_norm, 3.dense" in said


def test_a_model_without_sizes_takes_those_of_its_source(source, tmp_path):
    path = source.save(tmp_path / "a")
    layers = [*BODY, Dense(4)]
    started = [Trainer(layers, backend="numpy", dtype="float64") for _ in range(2)]
    for trainer, origin in zip(started, (source, path), strict=True):
        trainer.start_from(origin, report=str)
        assert trainer.model == source.model
        params = source.params
        for name, array in trainer.params.items():
            assert (array == params[name]).all()
    # Whoever wrote the file: what is no shape is none.
    file = load(path)
    for bad in ("x", [1.5], {"a": 1}, None):
        table = {"settings": {"model": {"input_shape": bad}, "optimizer": bad}}
        save(path, file.tensors, {**file.meta, "trainer": table})
        with pytest.raises(TrainingError, match="no sizes yet: call fit, or build the model"):
            Trainer(layers, backend="numpy").start_from(path)
