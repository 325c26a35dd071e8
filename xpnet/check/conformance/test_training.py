"""Layers, losses, update rules and ten steps of training, held to NumPy's in float64."""

import math
from typing import Any

import numpy as np
import pytest

from xpnet.check.parity import TOLERANCES, ModuleBackend, parity
from xpnet.check.parity.checked_step import CheckedStep
from xpnet.check.parity.compare import difference
from xpnet.nn import Dense, LogSoftmax, Sequential, Softmax, Tanh
from xpnet.nn.layer import LAYERS
from xpnet.nn.layout import initialize, layouts, merge
from xpnet.nn.losses import LOSSES, Loss, SoftmaxCrossEntropy
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.run.config import Config, load_config
from xpnet.step import Batch, dropout_keys

ROWS, FEATURES, CLASSES = 12, 6, 4
ARGUMENTS = {
    "dense": {"units": 5},
    "dropout": {"rate": 0.4},
    "embedding": {"sizes": (4,)},
    "group_norm": {"groups": 2},
}


def checked(backend: ModuleBackend, layers: Any, loss: Loss, x: Any, y: Any) -> list[str]:
    """Take a step an operation at a time; return what differs from NumPy's."""
    model = Sequential(tuple(layers)).build(x.shape[1:])
    placed = [
        layout.split(backend.asarray(flat))
        for layout, flat in zip(layouts(model), initialize(model, 0), strict=True)
        if layout.entries
    ]
    tensors = merge(placed[0], placed[1]) if len(placed) > 1 else placed[0]
    step = CheckedStep(backend, model, loss)
    with np.errstate(all="ignore"):
        batch = Batch(backend.asarray(x, backend.dtype_name), backend.asarray(y))
        step.take(tensors, batch, dropout_keys(0, 0, model.n_random))
    return [str(fault) for fault in step.faults]


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, FEATURES)), rng.integers(0, CLASSES, ROWS).astype(np.int32)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layer(name: str, backend: ModuleBackend) -> None:
    x, y = rows()
    layer: Any = LAYERS[name](**ARGUMENTS.get(name, {}))  # type: ignore[arg-type]
    layers = [Dense(8), layer, Dense(CLASSES)]
    if name == "embedding":
        x[:, -1] = np.arange(ROWS) % 4
        layers = [layer, Dense(CLASSES)]
    if name == "flatten":
        x, layers = x.reshape(ROWS, 2, 3), [layer, Dense(CLASSES)]
    assert not checked(backend, layers, SoftmaxCrossEntropy(), x, y)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_loss(name: str, backend: ModuleBackend) -> None:
    (x, y), loss = rows(), LOSSES[name]()
    ends: dict[str, Any] = {"cross_entropy": Softmax(), "negative_log_likelihood": LogSoftmax()}
    last = [ends[name]] if name in ends else []
    target: np.ndarray = y
    if loss.predicts != "class":
        target = (x[:, :CLASSES] > 0).astype(backend.dtype_name)
    assert not checked(backend, [Dense(8), Tanh(), Dense(CLASSES), *last], loss, x, target)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_rule(name: str, backend: ModuleBackend) -> None:
    rule, rng, dtype = OPTIMIZERS[name](), np.random.default_rng(1), backend.dtype_name
    start, size = rng.normal(size=20), 20
    wide: Any = start.astype(dtype).astype(np.float64)
    mine: Any = backend.asarray(start, dtype)
    slots: Any = tuple(backend.asarray(np.zeros(size), dtype) for _ in rule.slots)
    wide_slots: Any = tuple(np.zeros(size) for _ in rule.slots)
    for t in range(1, 4):
        grad = rng.normal(size=size).astype(dtype)
        numbers = rule.coefficients(rule.lr, t)
        mine, slots = rule.update(mine, backend.asarray(grad, dtype), slots, numbers)
        wide, wide_slots = rule.update(wide, grad.astype(np.float64), wide_slots, numbers)
    worst = difference(backend.to_host(mine), wide)
    assert worst.error <= TOLERANCES[dtype], f"after 3 updates: {worst}"


def test_ten_steps_of_training(backend: ModuleBackend) -> None:
    config: Config = load_config(
        "digits", ["model.hidden=[16]", f"dtype={backend.dtype_name}"], lambda line: None
    )
    (result,) = parity(config, [backend], steps=10, batch_size=16, seconds=math.inf).results
    assert not result.faults, result.sentence()
    assert len(result.growth) == 10
