"""What the stages measure: networks, and xpnet's step on the GPU with all that it holds.

    python -m gpu.subject NETWORK PRECISION FILE       one eager step, between a profiler's marks

``FILE`` gets the launches of that step as JSON, with what the model says that each moves. In a
rehearsal each width and batch is a small part of what is said here.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu.card import card
from xpnet.bench import Setting
from xpnet.bench.launches import Labelling
from xpnet.bench.networks import Network, parse_network
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.nn import BatchNorm, Dense, Dropout, Layer, LayerNorm, ReLU, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam, Optimizer
from xpnet.parallel.across import Across
from xpnet.step import Batch, StepInputs, TrainState, dropout_keys, zero_totals
from xpnet.step.mixed_precision import first_scale, first_skipped

__all__ = ["SHRINK", "SUBJECTS", "Capturing", "Subject", "Taken", "of_network", "possible", "taken"]

SHRINK = 32 if os.environ.get("XPNET_GPU_REHEARSAL") else 1  # what widths are divided by
DRAWN = 1 << 20  # random numbers, of which all arrays are made: drawing more takes long


def width(J: int) -> int:
    """Return a width or batch size, in a rehearsal a part of it."""
    return max(4, J // SHRINK)


class Subject(NamedTuple):
    """A training: a network, its batch and its rule."""

    inputs: int
    layers: list[Layer]
    rows: int
    rule: Optimizer
    precision: str = "float32"
    clip: Clip = Clip()

    @property
    def model(self) -> Sequential:
        return Sequential(self.layers).build((self.inputs,))


SUBJECTS = {
    "Adam, softmax of 10": Subject(
        width(784), [Dense(width(512)), ReLU(), Dense(width(256)), ReLU(), Dense(10)], width(128),
        Adam(1e-3),
    ),
    "layer norm, dropout": Subject(
        width(784), [Dense(width(512)), LayerNorm(), ReLU(), Dropout(0.2), Dense(10)], width(1024),
        Adam(1e-3),
    ),
    "batch norm": Subject(
        width(784), [Dense(width(512)), BatchNorm(), ReLU(), Dense(10)], width(1024), SGD(0.01),
    ),
    "softmax of 8192": Subject(
        width(1024), [Dense(width(1024)), ReLU(), Dense(width(8192))], width(512), SGD(0.01),
    ),
    "clip by norm": Subject(
        width(784), [Dense(width(2500)), ReLU(), Dense(10)], width(1024), Adam(1e-3),
        clip=Clip(norm=0.1),
    ),
    "tf32": Subject(
        width(784), [Dense(width(512)), ReLU(), Dense(10)], width(1024), SGD(0.01), "tf32",
    ),
    "bfloat16": Subject(
        width(784), [Dense(width(2500)), ReLU(), Dense(10)], width(1024), Adam(1e-3), "bfloat16",
    ),
    "float16, loss scale": Subject(
        width(784), [Dense(width(512)), BatchNorm(), ReLU(), Dense(10)], width(1024), Adam(1e-3),
        "float16",
    ),
}  # fmt: skip


def of_network(text: str, precision: str) -> Subject:
    """Return the subject of a network of xpnet's benchmark, such as 784-512-10:128:adam."""
    network: Network = parse_network(text)
    inputs, *outputs = network.widths
    layers: list[Layer] = []
    for J in outputs[:-1]:
        layers += [Dense(width(J)), ReLU()]
    layers.append(Dense(width(outputs[-1]) if outputs[-1] > 10 else outputs[-1]))
    return Subject(width(inputs), layers, width(network.batch_size), network.rule(), precision)


class Taken(NamedTuple):
    """A step that can be taken, on the GPU."""

    executor: Any  # as it was wrapped
    step: FusedStep
    take: Callable[[], TrainState]  # from where the state is
    state: TrainState  # the first one, a copy that no step writes into
    batch: Batch
    inputs: StepInputs


def taken(
    subject: Subject,
    *,
    graph: bool = True,
    wrap: Callable = lambda x: x,
    across: Across | None = None,
) -> Taken:
    """Return a step of ``subject`` on the GPU; ``wrap`` is given its executor.

    Of ``across``, the ranks that share the batch, this one has all rows.

    Parameters and rows are normally distributed, of the size that they have in a training.
    """
    s, setting = subject, Setting("cuda", possible(subject.precision))
    executor, model = wrap(setting.executor()), subject.model
    step = FusedStep(executor, model, SoftmaxCrossEntropy(), s.rule, s.clip, setting.mixed,
                     across=across, graph=graph)  # fmt: skip
    with executor.active():
        drawn = np.random.default_rng(0).standard_normal(DRAWN).astype(setting.dtype)
        layout, stats = step.task.layout, step.task.stats_layout
        scale = np.float32(width(s.inputs) ** -0.5)
        params = executor.place(np.resize(drawn * scale, layout.size))
        slots = s.rule.init(params)
        mixed, totals = setting.mixed, zero_totals(params)
        state = TrainState(
            params,
            executor.place(np.ones(stats.size, setting.dtype)),
            tuple(slots),
            totals,
            first_scale(mixed, params) if mixed else None,
            first_skipped(mixed, params) if mixed else None,
        )
        x = np.resize(drawn[::-1], (s.rows, s.inputs)).copy()
        y = np.random.default_rng(1).integers(0, model.output_shape[-1], s.rows).astype("int32")
        batch = Batch(executor.place(x), executor.place(y))
    keys = dropout_keys(0, 0, model.n_random)
    whole = None if across is None else s.rows
    inputs = StepInputs(0, s.rule.coefficients(s.rule.lr, 1), keys, whole)
    kept = _copy(executor, state)

    def take() -> TrainState:
        nonlocal state
        state, _ = step(state, batch, inputs)
        return state

    return Taken(executor, step, take, kept, batch, inputs)


def possible(asked: str) -> str:
    """TF32 needs a GPU: a rehearsal takes float32."""
    return "float32" if asked == "tf32" and SHRINK > 1 else asked


def _copy(executor: Any, state: TrainState) -> TrainState:
    def of(x: Any) -> Any:
        return None if x is None else executor.place(executor.to_host(x))

    slots, totals = tuple(map(of, state.slots)), type(state.totals)(*map(of, state.totals))
    return TrainState(
        of(state.params), of(state.stats), slots, totals, of(state.scale), of(state.skipped)
    )


class Capturing:
    """An executor that keeps the graphs that are captured."""

    def __init__(self, executor: Any) -> None:
        self._executor, self.replays = executor, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def capture(self, *given: Any, **options: Any) -> Callable[[], None]:
        """Capture, and keep what replays it."""
        self.replays.append(self._executor.capture(*given, **options))
        return self.replays[-1]


def main(network: str, precision: str, file: str) -> int:
    """Take three eager steps, the last one between the marks."""
    began = time.perf_counter()
    ready = taken(of_network(network, precision), graph=False, wrap=Labelling)
    for _ in range(2):
        ready.take()
    ready.executor.called.clear()
    with card().profiled():
        ready.take()
    launches = [
        {"label": launch.name, "bytes": launch.bytes, "flops": launch.flops}
        for launch in ready.executor.called
    ]
    Path(file).write_text(json.dumps(launches) + "\n", "utf-8")
    print(f"{network} in {precision}: {ready.step.note}, {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
