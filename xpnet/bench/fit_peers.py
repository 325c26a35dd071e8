"""The same fit by xpnet and by other libraries, as their users would write it.

Each function takes a fit and a setting, and returns a contender. A step trains once, with the
number of the step for a seed, and its score is that of the trained model on the test rows.
Initial weights are drawn as each library does by default; the last batch of an epoch is ragged.
"""

import os
import warnings
from collections.abc import Callable
from importlib import util
from typing import Any

import numpy as np

from xpnet.bench.contender import Contender
from xpnet.bench.fits import Fit
from xpnet.bench.setting import Setting
from xpnet.errors import BackendError, how_to_install, require
from xpnet.nn import Dense, Layer, ReLU
from xpnet.nn.losses import MeanSquaredError, SoftmaxCrossEntropy
from xpnet.training.step_choice import Step
from xpnet.training.trainer import Trainer

__all__ = ["keras_fit", "sklearn_fit", "torch_fit", "xpnet_fits", "xpnet_sklearn_fit"]

Predict = Callable[[np.ndarray], np.ndarray]
KERAS_BACKENDS = ("tensorflow", "jax", "torch")  # that Keras runs on, the preferred one first


def fitted(fit: Fit, train: Callable[[int], Predict], note: Callable[[], str]) -> Contender:
    """Return the contender of ``train``, which takes a seed and returns what predicts."""
    count, predict = 0, None

    def step() -> None:
        nonlocal count, predict
        predict = train(count)
        count += 1

    def score() -> float:
        assert predict is not None
        return fit.scored(predict(fit.examples().x_test))

    return Contender(step, note=note, score=score)


def xpnet_fits(name: str, step: Step = "auto") -> Callable[[Fit, Setting], Contender]:
    """Return the contender of Trainer.fit on a backend."""

    def make(fit: Fit, setting: Setting) -> Contender:
        x, y, _, _, outputs = fit.examples(setting.dtype)
        backend, taken = setting.backend(name), ""

        def train(seed: int) -> Predict:
            nonlocal taken
            layers: list[Layer] = []
            for units in fit.hidden:
                layers += [Dense(units), ReLU()]
            trainer = Trainer(
                [*layers, Dense(outputs)],
                SoftmaxCrossEntropy() if fit.classifies else MeanSquaredError(),
                fit.rule,
                backend=backend,
                batch_size=fit.batch_size,
                seed=seed,
                step=step,
            )
            trainer.fit((x, y), epochs=fit.epochs)
            taken = trainer.engine.step.note
            return trainer.predict

        return fitted(fit, train, lambda: taken)

    return make


def torch_fit(fit: Fit, setting: Setting) -> Contender:
    """Loop over shuffled index batches of tensors in memory, which is faster than a DataLoader."""
    torch = require("torch", "torch", "the PyTorch row")
    rules = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    _check_rule("PyTorch", fit, rules)
    x, y, _, _, outputs = fit.examples(setting.dtype)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    targets = targets.long() if fit.classifies else targets.to(inputs.dtype)
    cost = torch.nn.CrossEntropyLoss() if fit.classifies else torch.nn.MSELoss()

    def train(seed: int) -> Predict:
        torch.manual_seed(seed)
        layers, units = [], x.shape[1]
        for wider in (*fit.hidden, outputs):
            layers += [torch.nn.Linear(units, wider, dtype=inputs.dtype), torch.nn.ReLU()]
            units = wider
        model = torch.nn.Sequential(*layers[:-1])
        rule = rules[fit.optimizer](model.parameters(), lr=fit.rule.lr)
        for _ in range(fit.epochs):
            for rows in torch.randperm(len(inputs)).split(fit.batch_size):
                rule.zero_grad()
                cost(model(inputs[rows]), targets[rows]).backward()
                rule.step()

        @torch.inference_mode()
        def predict(x: np.ndarray) -> np.ndarray:
            return model(torch.from_numpy(x).to(inputs.dtype)).numpy()

        return predict

    return fitted(fit, train, lambda: f"torch.get_num_threads() = {torch.get_num_threads()}")


def sklearn_fit(fit: Fit, setting: Setting) -> Contender:
    """Use MLPClassifier or MLPRegressor without its penalty, momentum and stopping."""
    peers = require("sklearn.neural_network", "bench", "the scikit-learn row")
    kind = peers.MLPClassifier if fit.classifies else peers.MLPRegressor
    return _estimator_fit(kind, "scikit-learn", ("sgd", "adam"), fit, setting)


def xpnet_sklearn_fit(fit: Fit, setting: Setting) -> Contender:
    """Use the estimators of xpnet.sklearn in the same way, which take the portable step."""
    peers = require("xpnet.sklearn", "sklearn", "the xpnet.sklearn row")
    kind = peers.XPNetClassifier if fit.classifies else peers.XPNetRegressor
    return _estimator_fit(kind, "xpnet.sklearn", ("sgd", "adam", "adamw"), fit, setting)


def _estimator_fit(
    kind: Any, row: str, rules: tuple[str, ...], fit: Fit, setting: Setting
) -> Contender:
    _check_rule(row, fit, rules)
    x, y, *_ = fit.examples(setting.dtype)

    def train(seed: int) -> Predict:
        model = kind(
            hidden_layer_sizes=fit.hidden,
            solver=fit.optimizer,
            learning_rate_init=fit.rule.lr,
            momentum=0.0,
            nesterovs_momentum=False,
            alpha=0.0,
            batch_size=min(fit.batch_size, len(x)),
            max_iter=fit.epochs,
            n_iter_no_change=fit.epochs,
            tol=0.0,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has not converged after so few epochs
            model.fit(x, y if fit.classifies or y.shape[1] > 1 else y[:, 0])
        return model.predict_proba if fit.classifies else lambda x: _columns(model.predict(x))

    return fitted(fit, train, lambda: f"{kind.__name__}.fit")


def keras_fit(fit: Fit, setting: Setting) -> Contender:
    """Use keras.Sequential.fit on the library in KERAS_BACKEND, or on the first installed."""
    installed = [name for name in KERAS_BACKENDS if util.find_spec(name)]
    if not installed:
        msg = f"the Keras row needs a library to run on, such as JAX: {how_to_install('jax')}"
        raise BackendError(msg)
    os.environ.setdefault("KERAS_BACKEND", installed[0])
    keras = require("keras", "bench", "the Keras row")
    rules = keras.optimizers
    rules = {"sgd": rules.SGD, "adam": rules.Adam, "adamw": rules.AdamW, "rmsprop": rules.RMSprop}
    _check_rule("Keras", fit, rules)
    if setting.dtype != "float32":
        msg = f"the Keras row supports float32; got {setting.dtype}"
        raise BackendError(msg)
    x, y, _, _, outputs = fit.examples(setting.dtype)

    def train(seed: int) -> Predict:
        keras.utils.set_random_seed(seed)
        hidden = [keras.layers.Dense(units, activation="relu") for units in fit.hidden]
        ends = keras.Input((x.shape[1],)), keras.layers.Dense(outputs)
        model = keras.Sequential([ends[0], *hidden, ends[1]])
        cost: Any = keras.losses.MeanSquaredError()
        if fit.classifies:
            cost = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(rules[fit.optimizer](fit.rule.lr), cost)
        model.fit(x, y, batch_size=fit.batch_size, epochs=fit.epochs, verbose=0)
        return lambda x: model.predict(x, batch_size=1024, verbose=0)

    note = f"keras {keras.__version__} on {keras.backend.backend()}"
    return fitted(fit, train, lambda: note)


def _check_rule(row: str, fit: Fit, known: Any) -> None:
    if fit.optimizer not in known:
        msg = f"the {row} row supports {', '.join(known)}; got {fit.optimizer}"
        raise BackendError(msg)


def _columns(y: np.ndarray) -> np.ndarray:
    return y.reshape(len(y), -1)
