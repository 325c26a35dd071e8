"""What people write with xpnet, for `mypy --strict`: only the types are checked, in CI.

A line with `type: ignore` must be an error: mypy reports those that are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import numpy as np

import xpnet
from xpnet import (
    Callback,
    CheckpointFolder,
    Checkpointing,
    Clip,
    Config,
    Dense,
    EarlyStopping,
    Layer,
    Loader,
    Loss,
    Mixed,
    Optimizer,
    ReLU,
    Run,
    Schedule,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    TrainingError,
    Variable,
    Zeros,
    explain,
    get_backend,
    gradcheck,
    load,
    load_config,
    ops,
    read,
    resolve,
    schedules,
    train,
)
from xpnet.explanation import Explanation, tiny
from xpnet.nn import Params, Shape
from xpnet.nn.losses import Terms
from xpnet.ops import softmax, softmax_backward
from xpnet.optim.optimizers import Coefficients
from xpnet.sklearn import XPNetClassifier, XPNetRegressor
from xpnet.typing import Array

x = np.zeros((8, 4), dtype=np.float32)
y = np.zeros(8, dtype=np.int64)


def as_the_readme() -> None:
    model = Sequential([Dense(256), ReLU(), Dense(10)])
    trainer = Trainer(model, "softmax_cross_entropy", "adam", backend="numpy")
    history = trainer.fit((x, y), epochs=10)
    weights = {"rose": 2.0}
    other = Trainer(model, class_weights=weights)
    own = {"mine": lambda y_true, y_pred: 1.0}
    other.fit((x, ["rose"] * 8), epochs=2, validation_fraction=0.1, metrics=own)
    other.fit((x, y), epochs=2, early_stopping=EarlyStopping(3, "mine", mode="max"))
    other.fit((x, y), epochs=2, validation=(x, y), early_stopping=True)
    assert_type(other.predict_classes(x, threshold=0.3), np.ndarray)
    assert_type(other.classes, tuple[Any, ...] | None)
    probabilities = trainer.predict(x)
    assert_type(history, list[dict[str, Any]])
    assert_type(trainer.summary(), str)
    assert_type(model.build((4,)).summary(), str)
    print(min(record["loss"] for record in history), probabilities.mean())
    print({name: weights.shape for name, weights in trainer.params.items()})
    assert_type(trainer.evaluate((x, y)).accuracy, float | None)
    assert_type(trainer.save("model.safetensors"), Path)
    loaded = load("model.safetensors", backend="numpy")
    assert_type(loaded, Run | Trainer)
    assert_type(loaded.predict_classes(x), np.ndarray)  # of either
    assert isinstance(loaded, Trainer)
    trainer.params = {"0.dense.b": np.zeros(256)}
    assert_type(trainer.gradients(x, y), dict[str, Array])
    assert_type(loaded.start_from(trainer, optimizer_state=True).taken, tuple[str, ...])


def with_scikit_learn() -> None:
    net = XPNetClassifier((64, 32), solver="lbfgs", class_weight="balanced", random_state=0)
    assert_type(net.fit(x, y), XPNetClassifier)
    print(net.predict_proba(x), XPNetRegressor(loss="poisson").fit(x, y).predict(x))
    XPNetRegressor(max_iter="many")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scale(Layer):
    """y = s x."""

    features: int | None = None

    def build(self, in_shape: Shape) -> tuple["Scale", Shape]:
        return Scale(in_shape[-1]), in_shape

    def variables(self) -> dict[str, Variable]:
        return {"s": Variable((self.features or 1,), Zeros())}

    def forward(
        self, params: Params, x: Array, *, train: bool = False, keys: Any = None
    ) -> tuple[Array, Any]:
        return x * params["s"], x

    def backward(
        self, params: Params, residuals: Any, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        ds = (dy * residuals).sum(axis=0)
        return (dy * params["s"] if input_gradient else None), {"s": ds}


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """|z - y|."""

    def terms(self, output: Array, target: Array, weight: Array | None = None) -> Terms:
        difference = output - target
        ones = difference * 0.0 + 1.0
        return Terms(abs(difference), difference / abs(difference), ones, ones)


@dataclass(frozen=True)
class SignSGD(Optimizer):
    """p - lr sign(g)."""

    def update(
        self, params: Array, grad: Array, slots: tuple[Array, ...], c: Coefficients
    ) -> tuple[Array, tuple[Array, ...]]:
        return params - c.step_size * grad / abs(grad), slots


@dataclass(frozen=True)
class Halved(Schedule):
    """Half the learning rate."""

    def lr(
        self,
        state: Mapping[str, Any],
        base_lr: float,
        step: int,
        total_steps: int,
        steps_per_epoch: int,
    ) -> float:
        return base_lr / 2


class Printing(Callback):
    """Say when an epoch ends."""

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        print(trainer.position.epoch, record["loss"])
        if record["loss"] < 0.01:
            trainer.stop("good enough")


def parts_of_ones_own() -> None:
    backend = get_backend("numpy", dtype="float64")
    own = Trainer(
        [Scale(), Dense(1)],
        AbsoluteError(),
        SignSGD(),
        backend=backend,
        schedule=Halved(),
        clip=Clip(norm=1.0),
        mixed=Mixed("float16"),
    )
    callbacks = [Printing(), EarlyStopping(3), Checkpointing(CheckpointFolder("checkpoints"))]
    try:
        own.fit(Loader(backend, x, y), epochs=1, validation=(x, y), callbacks=callbacks)
    except TrainingError as error:
        print(error)
    assert_type(resolve("auto").reason, str)


def from_a_config_to_a_folder_and_back() -> None:
    config = load_config("digits", ["epochs=3"])
    assert_type(config, Config)
    assert_type(train(config, "runs/first"), Run)
    train("flowers.csv", settings={"data.label": "species", "epochs": 100})
    run = load("runs/first", backend="numpy")
    assert isinstance(run, Run)
    print(run.predict(x).shape, run.config.epochs)
    Trainer([Dense(3)], schedule=schedules.Cosine(warmup=0.1)).fit((x, y), epochs=1)
    print(read("flowers.csv").classes)


def from_elsewhere() -> None:
    trainer = xpnet.from_onnx("net.onnx", loss="softmax_cross_entropy", batch_size=32)
    trainer.fit((x, y), epochs=1)
    print(xpnet.from_torch("net.pt", [Dense(3)], input_shape=(4,)).notes)
    assert_type(xpnet.to_torch_source(trainer), str)
    assert_type(xpnet.export(trainer, "net.onnx"), list[str])
    print(xpnet.to_torch_state(load("runs/first"))["0.weight"].shape)


def the_mathematics() -> None:
    assert_type(gradcheck(Sequential([Dense(3)]), SoftmaxCrossEntropy(), x, y).ok, bool)
    assert_type(explain([784, 128, 10], batch=32), Explanation)
    print(explain(tiny()), explain("runs/first", sample=17).render("markdown"))
    print(explain(load("runs/first"), sample="worst").script)
    a = softmax(x)
    print(softmax_backward(a, a), ops.dense(x, x.T))
    assert_type(xpnet.__version__, str)


def mistakes() -> None:
    model = Sequential([Dense(3)])
    trainer = Trainer(model)
    Trainer(model, batch_size="many")  # type: ignore[arg-type]
    Trainer([Dense(3)], "mean_squared_error", bakend="numpy")  # type: ignore[arg-type]
    Dense("256")  # type: ignore[arg-type]
    trainer.fit((x, y))  # type: ignore[call-arg]
    Sequential([Dense(3)]).build(4)  # type: ignore[arg-type]
    xpnet.Dens  # type: ignore[attr-defined]  # noqa: B018
