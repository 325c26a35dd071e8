"""The subject of an explanation: a built model with its weights, a loss and a few examples."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpnet.check.sample import drawn
from xpnet.errors import ConfigError
from xpnet.explanation.model import Example
from xpnet.nn import ACTIVATIONS, ReLU, Sequential
from xpnet.nn.layout import initialize, layouts, merge
from xpnet.nn.losses import LOSSES, CrossEntropy, Loss
from xpnet.registry import name_of
from xpnet.run.config import ModelConfig
from xpnet.settings import build_named

__all__ = ["Subject", "first_weights", "labels_in", "of_sizes", "setting_of", "tiny"]


# Small enough to follow by hand. The label is not the likeliest class, so the gradient is large.
X = ((1.0, 2.0, -1.0),)
W = ((0.5, -0.2, 0.1), (0.3, 0.4, -0.5), (-0.1, 0.2, 0.6))
B = (0.1, 0.0, -0.1)
LABEL = 1


@dataclass(frozen=True, eq=False)
class Subject:
    """The inputs of a training step to explain: N examples, on the host, in float64."""

    title: str
    model: Sequential
    loss: Loss
    params: list[dict[str, np.ndarray]]  # a mapping per layer, including statistics
    x: np.ndarray  # (N, ...)
    y: np.ndarray  # (N,) int32 labels, or (N, K) targets
    weights: str  # where the weights come from
    classes: tuple[str, ...] = ()
    train: bool = True  # False: dropout and batch normalisation as in inference
    seed: int = 0
    rows: str = "synthetic"  # where the rows come from
    example: Example | None = None  # the first of them, for people


def _loss(name: str | None, default: type[Loss] = CrossEntropy) -> Loss:
    return default() if name is None else build_named(LOSSES, name, "loss")


def first_weights(model: Sequential, seed: int) -> list[dict[str, np.ndarray]]:
    """Return the initial weights of each layer, and its statistics."""
    split = [
        layout.split(v) for layout, v in zip(layouts(model), initialize(model, seed), strict=True)
    ]
    return [dict(layer) for layer in merge(*split)]


def tiny(
    loss: str | None = None,
    activation: str | None = None,
    label: int | None = None,
    seed: int | None = None,
) -> Subject:
    """Return an example that fits on a page: N = 1, I = 3, J = K = 3.

    Its numbers are fixed, or random if an ``activation`` (which adds a hidden layer of 3) or a
    ``seed`` is given. Raises ConfigError.
    """
    if activation is not None or seed is not None:
        hidden = [] if activation is None else [3]
        drawn = of_sizes([3, *hidden, 3], 1, loss, activation, label, seed)
        return dataclasses.replace(drawn, title="One example, three inputs, three classes")
    chosen = _loss(loss)
    model = ModelConfig(hidden=()).model((3,), 3, chosen)
    params: list[dict[str, np.ndarray]] = [{"W": np.array(W), "b": np.array(B)}]
    params += [{} for _ in model.layers[1:]]
    y = labels_in(chosen, np.array([LABEL], dtype=np.int32), 3, label)
    title = "One example, three inputs, three classes"
    return Subject(title, model, chosen, params, np.array(X), y, "chosen to be readable")


def of_sizes(
    sizes: Sequence[int],
    batch: int = 1,
    loss: str | None = None,
    activation: str | None = None,
    label: int | None = None,
    seed: int | None = None,
) -> Subject:
    """Return a network of these widths with its initial weights, and standard normal examples.

    Raises ConfigError.
    """
    if len(sizes) < 2 or min(sizes) < 1 or batch < 1:
        got = " ".join(map(str, sizes))
        msg = f"give at least two sizes, inputs and outputs, each >= 1; got {got}"
        raise ConfigError(msg)
    chosen, seed = _loss(loss), seed or 0
    layer = ReLU() if activation is None else build_named(ACTIVATIONS, activation, "activation")
    model = ModelConfig(hidden=tuple(sizes[1:-1]), activation=layer).model(
        (sizes[0],), sizes[-1], chosen
    )
    x, labels = drawn(seed, batch, (sizes[0],), sizes[-1])
    y = labels_in(chosen, labels, sizes[-1], label)
    title = f"A network {'-'.join(map(str, sizes))} and a batch of {batch}"
    params = first_weights(model, seed)
    return Subject(title, model, chosen, params, x, y, f"initial weights of seed {seed}", seed=seed)


def labels_in(loss: Loss, labels: np.ndarray, n_classes: int, label: int | None) -> np.ndarray:
    """Return the labels with ``label`` in the first row, one-hot for losses without class indices.

    Raises ConfigError.
    """
    if label is not None:
        if not 0 <= label < n_classes:
            msg = f"label must be a class from 0 to {n_classes - 1}; got {label}"
            raise ConfigError(msg)
        labels = labels.copy()
        labels[0] = label
    return labels if loss.predicts == "class" else np.eye(n_classes)[labels]


def setting_of(subject: Subject, backend: Any) -> tuple[tuple[str, str], ...]:
    """Return the facts about where the numbers come from, as (name, value) pairs."""
    model = subject.model
    widths = [model.input_shape or (), *model.shapes()]
    chain = ["x".join(map(str, shape)) for shape in widths]
    chain = [w for i, w in enumerate(chain) if i == 0 or w != chain[i - 1] or i == 1]
    described = backend.describe()
    return (
        ("network", "-".join(chain)),
        ("loss", f"{name_of(subject.loss)}, reduction {subject.loss.reduction}"),
        ("batch", f"N = {len(subject.x)}, {subject.rows}"),
        *((("sample", subject.example.text.removeprefix("sample ")),) if subject.example else ()),
        ("weights", subject.weights),
        ("computed by", "{backend} {version} on {device}, {dtype}".format(**described)),
    )
