"""The breakdown of a fused step's time on a GPU: each kind of kernel launch on its own.

A small kernel runs for less time than the host needs to launch it or to record two events around
it. So each launch is captured many times in a graph of its own, and the graph's replays are timed.
Its operands may then be in the cache, which in a real step they would not be: "between" is the rest
of the whole step's graph, and "host" is what a step takes beyond its graph.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpnet.bench.networks import SEED, Network
from xpnet.bench.setting import Setting
from xpnet.bench.traffic import traffic
from xpnet.errors import BackendError
from xpnet.kernels.cuda.blas import Rest
from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.graphed_step import EAGER_STEPS, FusedStep
from xpnet.kernels.cuda.lanes import Call, Recorded
from xpnet.kernels.cuda.sources import Kernel
from xpnet.nn.layout import initialize
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import Optimizer
from xpnet.step import Batch, StepInputs, TrainState, zero_totals
from xpnet.step.mixed_precision import first_scale

__all__ = ["PRODUCTS", "Labelling", "Launch", "averaged", "first_state", "launches", "profile_gpu"]

PRODUCTS = "matrix products"
COPIES = 20  # copies of a launch in its graph
SLICE = 0.1  # seconds for which a graph is replayed


class Launch(NamedTuple):
    """A call with its kernel's name, the bytes that it moves, and the operations of a product."""

    name: str
    call: Call
    bytes: int
    flops: int
    called: list["Launch"]  # each time that one is called

    def __call__(self) -> None:
        if not (isinstance(self.call, Rest) and self.call.is_done()):
            self.called.append(self)
        self.call()


class Labelling:
    """An executor whose calls are each a :class:`Launch`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.called: list[Launch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def launch(self, kernel: Kernel, grid: tuple[int, int], block: int, *given: Any) -> Launch:
        call = self._executor.launch(kernel, grid, block, *given)
        return Launch(kernel.label, call, traffic(kernel, given), 0, self.called)

    def product(self, a: Any, b: Any, out: Any, *, add: bool = False, **options: Any) -> Launch:
        call = self._executor.product(a, b, out, add=add, **options)
        return self._product(call, a, b, *(out,) * (1 + add))

    def affine(
        self, a: Any, b: Any, bias: Any, out: Any, *, relu: bool, apart: Launch
    ) -> tuple[Launch, Launch]:
        product, rest = self._executor.affine(a, b, bias, out, relu=relu, apart=apart.call)
        return self._product(product, a, b, bias, out), apart._replace(call=rest)

    def _product(self, call: Call, a: Any, b: Any, *others: Any) -> Launch:
        moved = sum(x.nbytes for x in (a, b, *others))
        return Launch(PRODUCTS, call, moved, 2 * a.shape[0] * math.prod(b.shape), self.called)


def profile_gpu(network: Network, setting: Setting) -> dict[str, float]:
    """Return microseconds per step of xpnet's step on CuPy, by part."""
    return launches(network, setting, setting.executor())


def launches(network: Network, setting: Setting, executor: Executor) -> dict[str, float]:
    """Return microseconds per step by kernel, "between" kernels and on the "host".

    Raises BackendError if the step cannot be captured.
    """
    rule, model, mixed = network.rule(), network.model(), setting.mixed
    labelling: Any = Labelling(executor)
    step = FusedStep(labelling, model, SoftmaxCrossEntropy(), rule, mixed=mixed)
    initial = initialize(network.model(), SEED)
    with executor.active():
        state = first_state(network, setting, executor, rule, initial)
        batch = Batch(*(executor.place(v) for v in network.batch(setting.dtype)))

        def take() -> None:
            nonlocal state
            state, _ = step(state, batch, StepInputs(0, rule.coefficients(rule.lr, 1)))

        for _ in range(EAGER_STEPS + 1):
            take()
        if step.note.startswith("eager"):
            msg = f"cannot profile a step that is not a CUDA graph: {step.note}"
            raise BackendError(msg)
        program = next(iter(step.programs.values())).program

        def spent(call: Call) -> float:
            return averaged(call, lambda: executor.to_host(state.totals.loss))

        parts: dict[str, float] = {}
        for launch in program.calls:
            replay = executor.capture([Recorded(launch.run)] * COPIES)
            name = launch.run.name  # type: ignore[attr-defined]
            parts[name] = parts.get(name, 0.0) + spent(replay) / COPIES
        graph, whole = spent(executor.capture(program.calls)), spent(take)
    between, host = graph - sum(parts.values()), whole - graph
    by_time = dict(sorted(parts.items(), key=lambda item: -item[1]))
    return {**by_time, "between": max(0.0, between), "host": max(0.0, host)}


def first_state(
    network: Network,
    setting: Setting,
    executor: Executor,
    rule: Optimizer,
    host: tuple[np.ndarray, np.ndarray],
) -> TrainState:
    """Return a state that begins with these parameters and statistics."""
    params, stats = (executor.place(x.astype(setting.dtype, copy=False)) for x in host)
    scale = first_scale(setting.mixed, params) if setting.mixed else None
    return TrainState(params, stats, rule.init(params), zero_totals(params), scale)


def averaged(call: Call, wait: Callable[[], Any]) -> float:
    """Return the microseconds of a call, averaged over many without waiting in between."""
    call()
    wait()
    count = 1
    while True:
        began = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        seconds = time.perf_counter() - began
        if seconds > SLICE / 2:
            return seconds / count * 1e6
        count = max(2 * count, round(count * SLICE / max(seconds, 1e-9)))
