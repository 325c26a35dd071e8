"""What the suite tries beside single operations: each layer, each loss and each update rule."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.backends import Backend
from xpnet.check.parity import TOLERANCES, Result, parity
from xpnet.check.parity.checked_step import CheckedStep, Fault
from xpnet.check.parity.compare import difference
from xpnet.check.sample import Sample
from xpnet.nn import LAYERS, Dense, Embedding, Flatten, LayerNorm, Sequential
from xpnet.nn.layout import initialize, layouts, merge
from xpnet.nn.losses import LOSSES as NAMED
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    Loss,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, RMSProp
from xpnet.run.config_sources import load_config
from xpnet.step import Batch, dropout_keys

__all__ = [
    *("CLIPS", "LOSSES", "RULES", "STEPS"),
    *("evaluation", "model_for", "model_with", "steps", "update", "walk"),
]

# A loss by its name, with settings that take every branch where they are there.
LOSSES: dict[str, Loss] = {
    **{name: cls() for name, cls in NAMED.items()},
    "softmax_cross_entropy": SoftmaxCrossEntropy("mean_count", (1.0, 2.0, 0.5), 0.1, 1),
    "binary_cross_entropy": BinaryCrossEntropy(positive_weight=2.0),
    "mean_squared_error": MeanSquaredError("sum"),
}
RULES: dict[str, Optimizer] = {
    **{name: cls() for name, cls in OPTIMIZERS.items()},
    "sgd, momentum": SGD(momentum=0.9, weight_decay=0.01),
    "sgd, Nesterov": SGD(momentum=0.9, nesterov=True),
    "rmsprop, centered": RMSProp(momentum=0.5, centered=True),
    "adam, amsgrad": Adam(amsgrad=True, weight_decay=0.01),
}
CLIPS = {"norm": Clip(norm=0.1), "value": Clip(value=0.05), "both": Clip(norm=0.1, value=0.05)}
STEPS = {
    "adam": ("optimizer=adam",),
    "batch normalisation, dropout, momentum, clipping": (
        *("model.normalization=batch_norm", "model.dropout=0.2", "clip.norm=1.0"),
        *("optimizer=sgd", "optimizer.momentum=0.9"),
    ),
}
N, K = 7, 3  # rows and classes


def model_with(name: str) -> tuple[Sequential, int]:
    """Return a built model with a layer of that name, and the layer's place in it."""
    if name == "flatten":
        return Sequential((LayerNorm(), Flatten(), Dense(K))).build((2, 2)), 1
    if name == "embedding":
        return Sequential((Embedding((3, 4)), Dense(K))).build((4,)), 0
    if name == "dense":
        return Sequential((Dense(5), Dense(K))).build((4,)), 1
    return Sequential((Dense(8), LAYERS[name](), Dense(K))).build((4,)), 1


def model_for(loss: Loss) -> Sequential:
    """Return a built model whose output the loss takes."""
    last = LAYERS[loss.output_layer]()
    return Sequential((Dense(K), last)).build((4,))


def _tensors(model: Sequential) -> list[dict[str, np.ndarray]]:
    """The first parameters and statistics of each layer, on the host in float64."""
    parts = zip(layouts(model), initialize(model, 0), strict=True)
    params, stats = (layout.split(flat) for layout, flat in parts)
    return [{k: np.asarray(v) for k, v in layer.items()} for layer in merge(params, stats)]


def _placed(tensors: list[dict[str, np.ndarray]], backend: Backend) -> list[dict[str, Any]]:
    return [{k: backend.asarray(v) for k, v in layer.items()} for layer in tensors]


def _batch(model: Sequential, loss: Loss) -> Batch:
    """Rows for the model, targets for the loss and weights, on the host."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, *(model.input_shape or ())))
    if isinstance(model.layers[0], Embedding):
        x[:, -2:] = rng.integers(3, size=(N, 2))
    labels = loss.predicts == "class"
    y = rng.integers(K, size=N).astype(np.int32) if labels else rng.integers(2, size=(N, K)) * 1.0
    return Batch(x, y, rng.uniform(0.5, 2.0, size=N))


def walk(backend: Backend, model: Sequential, loss: Loss) -> list[Fault]:
    """Take a training step without its update, an operation at a time; return what is wrong."""
    host = _batch(model, loss)
    batch = Batch(*map(backend.asarray, host))
    step = CheckedStep(backend, model, loss)
    with np.errstate(all="ignore"):
        keys = dropout_keys(0, 0, model.n_random)
        step.take(_placed(_tensors(model), backend), batch, keys)
    return step.faults


def _wrong(backend: Backend, what: str, actual: Any, expected: Any) -> str | None:
    """Say how an array of the library differs from the one of NumPy, if it does."""
    found, expected = backend.to_host(actual), np.asarray(expected)
    if found.shape != expected.shape:
        return f"{what} has shape {found.shape}, not {expected.shape}"
    if found.dtype.name != backend.dtype_name:
        return f"{what} has dtype {found.dtype.name}, not {backend.dtype_name}"
    worst = difference(found, expected)
    if worst.error <= TOLERANCES[backend.dtype_name]:
        return None
    return f"{what}{list(worst.place)} is {worst.actual:.9g}, not {worst.expected:.9g}"


def evaluation(backend: Backend, model: Sequential) -> str | None:
    """Run the model as prediction does; say what is wrong with its output, if anything."""
    tensors = _tensors(model)
    x = _batch(model, SoftmaxCrossEntropy()).x

    def output(layers: list[dict[str, Any]], x: Any) -> Any:
        for layer, params in zip(model.layers, layers, strict=True):
            x, _ = layer.forward(params, x)
        return x

    with backend.active(), np.errstate(all="ignore"):
        actual = output(_placed(tensors, backend), backend.asarray(x))
        narrow = [{k: _rounded(v, backend) for k, v in layer.items()} for layer in tensors]
        return _wrong(backend, "the output", actual, output(narrow, _rounded(x, backend)))


def _rounded(x: np.ndarray, backend: Backend) -> np.ndarray:
    """What the library is given, in float64."""
    return x.astype(backend.dtype_name).astype(np.float64)


def update(backend: Backend, change: Optimizer | Clip, steps: int = 3) -> str | None:
    """Take updates of a rule, or clip gradients; say what is wrong with the result, if anything."""
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=12) for _ in range(steps + 1)]

    def run(place: Callable[[np.ndarray], Any]) -> dict[str, Any]:
        params, *grads = (place(v) for v in vectors)
        if isinstance(change, Clip):
            return {"the gradient": change.apply(grads[0])}
        slots = change.init(params)
        for t, grad in enumerate(grads, 1):
            params, slots = change.update(params, grad, slots, change.coefficients(0.01, t))
        return {"the parameters": params, **dict(zip(change.slots, slots, strict=True))}

    with backend.active(), np.errstate(all="ignore"):
        actual = run(lambda v: backend.place(v.astype(backend.dtype_name)))
        expected = run(lambda v: _rounded(v, backend))
        found = (_wrong(backend, name, v, expected[name]) for name, v in actual.items())
        return next(filter(None, found), None)


def steps(backend: Backend, overrides: tuple[str, ...], seconds: float, number: int = 10) -> Result:
    """Train a small network as ``xpnet parity`` does, as long as that takes ``seconds``."""
    config = load_config("digits", ["model.hidden=[6]", "batch_size=8", *overrides])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 5)), rng.integers(K, size=80).astype(np.int32)
    model = config.model.model((5,), K, config.loss)
    rows = Sample(config, model, x, y, "80 drawn rows")
    options: dict[str, Any] = {
        "steps": number,
        "rows": rows,
        "seconds": seconds,
        "operations": False,
    }
    (result,) = parity(config, [backend], **options).results
    return result
