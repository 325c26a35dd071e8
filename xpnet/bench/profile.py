"""What a step's time goes to, in the trainer's own loop on a CPU."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from xpnet.backends import get_backend
from xpnet.bench.networks import SEED, Network
from xpnet.data import Shuffle
from xpnet.errors import BackendError
from xpnet.nn.layout import layouts
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.step import Batch, StepInputs
from xpnet.step.trace import Phase, Recorder, trace
from xpnet.training.loader import Loader
from xpnet.training.trainer import Trainer

__all__ = ["PARTS", "profile"]

PARTS = ("data", "forward", "loss", "backward", "optimizer", "Python")
BATCHES = 64  # of an epoch
SLICE = 0.1  # seconds for which each part is repeated


def profile(network: Network, dtype: str, *, portable: bool = False) -> dict[str, float]:
    """Return microseconds per step by :data:`PARTS`.

    Each part is repeated by itself; "Python" is the rest of a whole step in :meth:`Trainer.fit`.
    """
    x, y = network.batch(dtype)
    rows = np.random.default_rng(SEED).permutation(np.resize(np.arange(len(x)), len(x) * BATCHES))
    trainer = Trainer(
        network.model(),
        optimizer=network.rule(),
        backend=get_backend("numpy", "cpu", dtype),
        batch_size=network.batch_size,
        step="portable" if portable else "auto",
    )
    loader = Loader(trainer.engine.backend, x[rows], y[rows])
    trainer.fit(loader, epochs=1)
    batch = Batch(x, y)
    parts = {"data": _data(loader, network.batch_size), **_phases(trainer, batch)}
    spent = {name: _time(call) for name, call in parts.items()}
    spent["data"] /= BATCHES
    epochs = max(2, round(SLICE / max(trainer.history[-1]["seconds"], 1e-6)))
    history = trainer.fit(loader, epochs=1 + epochs)[1:]
    whole = min(record["seconds"] for record in history) / BATCHES * 1e6
    spent["Python"] = max(0.0, whole - sum(spent.values()))
    return {name: spent[name] for name in PARTS}


def _data(loader: Loader, size: int) -> Callable[[], None]:
    def call() -> None:
        for _ in loader.batches(size, Shuffle(SEED, 0), reuse=True):
            pass

    return call


def _phases(trainer: Trainer, batch: Batch) -> Mapping[str, Callable[[], None]]:
    rule = trainer.optimizer
    inputs = StepInputs(0, rule.coefficients(rule.lr, 1))
    step = trainer.engine.step
    if hasattr(step.train, "phases"):
        return step.train.phases(batch, inputs)
    if step.kind != "portable":
        msg = f"only steps on a CPU can be taken apart; got {step.note}"
        raise BackendError(msg)
    return _portable_phases(trainer, batch, inputs)


def _portable_phases(
    trainer: Trainer, batch: Batch, inputs: StepInputs
) -> Mapping[str, Callable[[], None]]:
    """The operations of a step, phase by phase, and its update."""
    model, loss, engine = trainer.model, SoftmaxCrossEntropy(), trainer.engine
    layout, recorder = layouts(model)[0], Recorder()
    for _ in trace(model, loss, layout.split(engine.state.params), batch, do=recorder):
        pass
    grads: list[dict[str, Any]] = [{} for _ in model.layers]
    for i, call in recorder.of("backward").items():
        if i is not None:
            grads[i] = {k.removeprefix("d"): g for k, g in call.results[0].items()}
    grad = layout.join(grads, engine.state.params)
    state: list[Any] = [engine.state.params.copy(), tuple(s.copy() for s in engine.state.slots)]

    def repeat(phase: Phase) -> None:
        for call in recorder.calls:
            if call.place.phase == phase and "prediction" not in call.results[0]:
                call.operation(*call.operands)

    def back() -> None:
        repeat("backward")
        layout.join(grads, grad)

    def update() -> None:
        state[:] = trainer.optimizer.update(state[0], grad, state[1], inputs.coefficients)

    return {
        "forward": partial(repeat, "forward"),
        "loss": partial(repeat, "loss"),
        "backward": back,
        "optimizer": update,
    }


def _time(call: Callable[[], None]) -> float:
    """Median microseconds of a call."""
    times: list[float] = []
    call()
    until = time.perf_counter() + SLICE
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6
