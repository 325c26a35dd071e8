"""``Trainer.gradients``: those of PyTorch, on every backend; and nothing is changed by asking."""

import numpy as np
import pytest

from xpnet.data import Shuffle
from xpnet.errors import ConfigError, DataError
from xpnet.nn import BatchNorm, Dense, Dropout, LayerNorm, Sequential, Tanh
from xpnet.optim.optimizers import SGD, Adam
from xpnet.training.trainer import Trainer

LAYERS = (Dense(5), BatchNorm(), Tanh(), LayerNorm(), Dense(3))


def rows(n=12):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.integers(0, 3, n), rng.uniform(0.5, 2.0, n)


def bits(trainer):
    tensors, meta = trainer.snapshot()
    return {k: v.tobytes() for k, v in tensors.items()}, meta


def torch_gradients(params, x, y, weight):
    """PyTorch's gradients of the same network, by its automatic differentiation."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3))
    ).double()
    ours = {f"{i}.{name}" for i, name in [(0, "dense"), (1, "batch_norm"), (3, "layer_norm")]}
    names = {}
    for name in params:
        layer, variable = name.rsplit(".", 1)
        if variable in ("W", "b", "gamma", "beta"):
            kind = "weight" if variable in ("W", "gamma") else "bias"
            names[name] = f"{layer.partition('.')[0]}.{kind}"
    assert ours < {name.rsplit(".", 1)[0] for name in names}
    own = dict(net.named_parameters())
    assert set(names.values()) == set(own)
    with torch.no_grad():
        for name, theirs in names.items():
            value = torch.tensor(np.array(params[name]))
            own[theirs].copy_(value.T if name.endswith(".W") else value)
    losses = nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(y), reduction="none")
    w = torch.tensor(weight)
    ((losses * w).sum() / w.sum()).backward()
    return {
        name: own[theirs].grad.numpy().T if name.endswith(".W") else own[theirs].grad.numpy()
        for name, theirs in names.items()
    }


@pytest.mark.long_where(backend=["jax"])
def test_they_are_those_of_pytorch_and_change_nothing(backend):
    x, y, weight = rows()
    trainer = Trainer(Sequential(LAYERS).build((4,)), backend=backend, batch_size=4)
    trainer.fit((x, y), epochs=1)
    before = bits(trainer)
    found = trainer.gradients(x, y, weight)
    assert bits(trainer) == before
    assert all(backend.owns(g) and str(g.dtype).endswith("float64") for g in found.values())
    expected = torch_gradients(trainer.params, x, y, weight)
    assert list(found) == [name for name in trainer.params if name in expected]
    for name, gradient in found.items():
        assert tuple(gradient.shape) == trainer.params[name].shape
        assert np.allclose(backend.to_host(gradient), expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", ["portable", "fused"])
def test_a_step_of_plain_descent_takes_them_dropout_included(step):
    x, y, _ = rows()
    layers = (Dense(5), Tanh(), Dropout(0.5), Dense(3))
    trainer = Trainer(layers, optimizer=SGD(0.1), backend="numpy", dtype="float64", step=step)
    order = Shuffle(0, 0).order(12)  # of the rows in the only batch
    gradients, before = trainer.gradients(x[order], y[order]), trainer.params
    trainer.fit((x, y), epochs=1)
    later = trainer.gradients(x[order], y[order])  # another step draws other units to drop
    for name, old in before.items():
        assert np.allclose(old - 0.1 * gradients[name], trainer.params[name], rtol=1e-12)
    assert not np.allclose(later["3.dense.W"], gradients["3.dense.W"])


def test_those_of_frozen_layers_are_zero():
    x, y, _ = rows()
    trainer = Trainer((Dense(5), Tanh(), Dense(3)), optimizer=Adam(freeze=["0"]), backend="numpy")
    found = trainer.gradients(x, y)
    assert not found["0.dense.W"].any()
    assert found["2.dense.W"].any()


def test_what_does_not_fit_is_refused():
    x, y, _ = rows()
    trainer = Trainer(LAYERS, backend="numpy")
    with pytest.raises(DataError, match="same number of rows"):
        trainer.gradients(x, y[:3])
    with pytest.raises((DataError, ConfigError), match="batch"):
        trainer.gradients(x[:1], y[:1])
