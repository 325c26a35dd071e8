"""A model of a step on a GPU, from the launches that the real step makes: nothing is computed.

Each launch has its bytes, each array that it is given being counted once where it is read and once
where it is written; a product has its operations, too. From a GPU's rates follow the time of each
launch, and the arithmetic limit: the products at their rate, and the bytes of the rest as fast as a
copy. A change that adds a launch or a pass over memory is seen without a GPU.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from xpnet.bench.launches import PRODUCTS, Labelling, Launch, first_state
from xpnet.bench.networks import Network
from xpnet.bench.setting import Setting
from xpnet.errors import ConfigError
from xpnet.kernels.cuda.blas import Rest, product
from xpnet.kernels.cuda.executor import CaptureError, width_pack
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.kernels.cuda.lanes import Call, Recorded
from xpnet.kernels.cuda.sources import STORED, Kernel, arguments
from xpnet.nn.layout import layouts
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.parallel import Comm
from xpnet.settings import did_you_mean
from xpnet.step import Batch, StepInputs
from xpnet.typing import Array

__all__ = ["MACHINES", "Machine", "Model", "Part", "machine_named", "modelled", "moved_bytes"]


class Machine(NamedTuple):
    """What a GPU was measured to do."""

    copied: float  # terabytes per second that a copy reads and writes
    products: dict[str, float]  # TFLOP/s of large products, by precision
    graph: float  # microseconds of a graph, without its launches
    launch: float  # and of each launch, at least
    product: float  # or of each product


# From 8192-wide products and from graphs of small launches on an H200, whose multiprocessors are an
# H100's: scripts/reports/gpu.md.
RATES = {"float32": 51.5, "tf32": 331.0, "bfloat16": 788.0, "float16": 788.0}
MACHINES = {
    "H200": Machine(4.3, RATES, 1.4, 0.84, 2.9),
    "H100": Machine(3.0, RATES, 1.4, 0.84, 2.9),
}


def machine_named(name: str) -> Machine:
    """Return a row of :data:`MACHINES`; raises ConfigError."""
    if name not in MACHINES:
        msg = f"unknown GPU {name!r}; {did_you_mean(name, MACHINES)}"
        raise ConfigError(msg)
    return MACHINES[name]


class Part(NamedTuple):
    """All launches of a kernel, or all products."""

    name: str
    launches: int
    bytes: int
    flops: int
    microseconds: float


class Model(NamedTuple):
    """The launches of a step, and what they take on a machine."""

    parts: tuple[Part, ...]
    microseconds: float
    limit: float  # microseconds

    @property
    def launches(self) -> int:
        """How many there are in a step."""
        return sum(part.launches for part in self.parts)

    @property
    def moved(self) -> int:
        """The bytes of all but the products."""
        return sum(part.bytes for part in self.parts if part.name != PRODUCTS)


def modelled(network: Network, setting: Setting, machine: Machine) -> Model:
    """Return the model of a step; raises ConfigError for a precision without a rate."""
    rate = machine.products.get(setting.precision)
    if rate is None:
        msg = f"no rate of products was measured in {setting.precision}; "
        msg += f"there is one in {', '.join(machine.products)}"
        raise ConfigError(msg)
    found: dict[str, Part] = {}
    for launch in launched(network, setting):
        least = machine.product if launch.name == PRODUCTS else machine.launch
        computed = launch.flops / rate / 1e6
        spent = max(least, computed, launch.bytes / machine.copied / 1e6)
        before = found.get(launch.name, Part(launch.name, 0, 0, 0, 0.0))
        found[launch.name] = Part(
            launch.name,
            before.launches + 1,
            before.bytes + launch.bytes,
            before.flops + launch.flops,
            before.microseconds + spent,
        )
    parts = tuple(sorted(found.values(), key=lambda part: -part.microseconds))
    model = Model(parts, machine.graph + sum(part.microseconds for part in parts), 0.0)
    limit = network.flops() / rate + model.moved / machine.copied
    return model._replace(limit=limit / 1e6)


def moved_bytes(network: Network, setting: Setting) -> dict[str, int]:
    """Return what each kernel of a step reads and writes, the products left out."""
    found: dict[str, int] = {}
    for launch in launched(network, setting):
        if launch.name != PRODUCTS:
            found[launch.name] = found.get(launch.name, 0) + launch.bytes
    return found


def launched(network: Network, setting: Setting) -> list[Launch]:
    """Return the launches of one step in order, with the one that begins it."""
    tf32 = setting.precision == "tf32"
    rule, executor = network.rule(), Nowhere(setting.dtype, tf32=tf32, narrow=setting.narrow)
    labelling: Any = Labelling(executor)
    loss = SoftmaxCrossEntropy()
    step = FusedStep(labelling, network.model(), loss, rule, mixed=setting.mixed, graph=False)
    params, stats = layouts(network.model())
    host = np.empty(params.size, setting.dtype), np.empty(stats.size, setting.dtype)
    state = first_state(network, setting, executor, rule, host)
    x, y = (network.batch_size, network.widths[0]), network.batch_size
    batch = Batch(executor.empty(x, setting.dtype), executor.empty((y,), "int32"))
    for _ in range(2):  # the first one also prepares the others
        labelling.called.clear()
        state, _ = step(state, batch, StepInputs(0, rule.coefficients(rule.lr, 1)))
    return labelling.called


class Nowhere:
    """An executor of arrays that nobody touches, so that they take no memory: nothing runs."""

    note = "nothing"
    algorithms: Mapping[str, str] = {}

    def __init__(self, dtype: str, *, tf32: bool = False, narrow: str | None = None) -> None:
        self.dtype, self.stored = dtype, STORED[narrow] if narrow else dtype
        self.pack = width_pack(self.stored, tf32=tf32)

    def prefer(self, algorithms: Mapping[str, str]) -> bool:
        return False

    def active(self) -> AbstractContextManager:
        return nullcontext()

    def owns(self, x: Any) -> bool:
        return True

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        return np.empty(shape, dtype)

    def place(self, host: np.ndarray) -> Array:
        return host

    def to_host(self, x: Array) -> np.ndarray:
        return x

    def address(self, x: Array) -> int:
        return x.ctypes.data

    def copy(self, target: Array, x: Array) -> None:
        pass

    def free(self) -> int:
        return 0

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.empty(shape, dtype)

    def summed(self, comm: Comm, x: Array, staged: np.ndarray | None) -> Call:
        return lambda: None

    def prepare(self, kernels: Sequence[Kernel]) -> None:
        pass

    def launch(self, kernel: Kernel, grid: tuple[int, int], block: int, *given: Any) -> Call:
        arguments(kernel, given, self.dtype, self.stored)
        return lambda: None

    def product(self, a: Array, b: Array, out: Array, **options: Any) -> Call:
        product(a, b, out)
        return lambda: None

    def affine(
        self, a: Array, b: Array, bias: Array, out: Array, *, relu: bool, apart: Call
    ) -> tuple[Call, Rest]:
        """The product does all of it: on a GPU that is measured, and mostly so."""
        return self.product(a, b, out), Rest(apart, lambda: True)

    def capture(self, calls: Sequence[Recorded]) -> Call:
        msg = "nothing runs here"
        raise CaptureError(msg)
