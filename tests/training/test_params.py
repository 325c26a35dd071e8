"""Weights by name: read, and assigned from arrays of any library."""

import numpy as np
import pytest

from xpnet.errors import DataError, TrainingError
from xpnet.nn import BatchNorm, Dense, Sequential
from xpnet.training.trainer import Trainer

MODEL = Sequential((Dense(3), BatchNorm(), Dense(2))).build((4,))


def test_before_training_they_are_the_first_weights(backend):
    trainer = Trainer(MODEL, backend=backend, seed=2)
    names = ["0.dense.W", "0.dense.b", "1.batch_norm.gamma", "1.batch_norm.beta", "2.dense.W"]
    assert [*trainer.params][:5] == names
    assert {"1.batch_norm.mean", "1.batch_norm.var"} < {*trainer.params}
    again = Trainer(MODEL, backend=backend, seed=9)
    again.params = trainer.params
    for name, value in trainer.params.items():
        assert again.params[name].tobytes() == value.tobytes()
    with pytest.raises(TypeError):
        trainer.params["0.dense.b"] = np.zeros(3)


def test_some_are_assigned_from_arrays_of_the_backends_library(backend):
    trainer = Trainer(MODEL, backend=backend)
    before = trainer.params
    bias = backend.asarray(np.array([1.0, 2.0, 3.0]))
    trainer.params = {"0.dense.b": bias}
    assert trainer.params["0.dense.b"].tolist() == [1.0, 2.0, 3.0]
    assert (trainer.params["0.dense.W"] == before["0.dense.W"]).all()
    trainer.predict(np.zeros((2, 4)))  # which random weights alone do not


def test_a_parameter_of_pytorch_is_assigned_as_it_is():
    torch = pytest.importorskip("torch")
    trainer, linear = Trainer(MODEL, backend="numpy"), torch.nn.Linear(4, 3)
    trainer.params = {"0.dense.W": linear.weight.T, "0.dense.b": linear.bias}
    assert (trainer.params["0.dense.W"] == linear.weight.detach().numpy().T).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0.dense.w", np.zeros((4, 3)), r"no parameter '0.dense.w'; did you mean '0.dense.W'\?"),
        ("weights", np.zeros(3), "known: 0.dense.W, 0.dense.b, 1.batch_norm.gamma"),
        ("0.dense.b", np.zeros(4), r"shape \(3,\); got \(4,\)"),
        ("0.dense.b", [1.0, np.nan, 0.0], "must be finite numbers"),
        ("0.dense.b", [1.0, 1e300, 0.0], "in float32 some are not"),
        ("0.dense.b", ["a", "b", "c"], "must be an array of numbers; got <U1"),
        ("0.dense.b", [[1.0], [2.0, 3.0]], "must be an array of numbers: "),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(name, value, message):
    trainer = Trainer(MODEL, backend="numpy")
    before = trainer.params
    with pytest.raises(DataError, match=message):
        trainer.params = {"2.dense.b": np.ones(2), name: value}
    assert all((trainer.params[key] == before[key]).all() for key in before)


def test_without_sizes_there_are_none():
    with pytest.raises(TrainingError, match="build the model with its input shape"):
        _ = Trainer([Dense(3)], backend="numpy").params
