"""The workload of a training step: a network, a batch size and an optimizer."""

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from xpnet.bench.contender import Unit
from xpnet.errors import ConfigError
from xpnet.nn import Dense, Layer, ReLU, Sequential
from xpnet.optim.optimizers import OPTIMIZERS, Optimizer
from xpnet.settings import did_you_mean

__all__ = [
    "BYTES_LIMIT",
    "LIMIT",
    "drawn",
    "STANDARD",
    "STANDARD_ON_GPU",
    "Network",
    "parse_network",
]

LIMIT = "GEMM limit"  # the contender of the matrix products alone
BYTES_LIMIT = "products and bytes"  # and of a copy with them, of the bytes that the rest moves
SEED = 0
DIGITS = 9  # of a width or batch size, so that the bytes of a matrix fit into 63 bits


@dataclass(frozen=True)
class Network:
    """Dense layers of these widths with ReLU, trained with softmax cross-entropy."""

    what: ClassVar[str] = "step"
    title: ClassVar[str] = "network, batch, optimizer"
    base: ClassVar[str] = LIMIT
    # For compilation, first touches of buffers and the capture of a graph.
    warm_up: ClassVar[int] = 4
    unit: ClassVar[Unit] = Unit("µs", 1.0)
    score: ClassVar[str] = ""

    widths: tuple[int, ...]
    batch_size: int
    optimizer: str

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.widths))}:{self.batch_size}:{self.optimizer}"

    def model(self) -> Sequential:
        """Return the built model."""
        layers: list[Layer] = []
        for width in self.widths[1:-1]:
            layers += [Dense(width), ReLU()]
        return Sequential((*layers, Dense(self.widths[-1]))).build(self.widths[:1])

    def rule(self) -> Optimizer:
        """Return the optimizer, with a learning rate too small for anything to overflow."""
        return OPTIMIZERS[self.optimizer](1e-4)

    def batch(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Return standard normal rows (N, I) and random int32 labels (N,)."""
        rng = np.random.default_rng(SEED)
        x = rng.normal(size=(self.batch_size, self.widths[0])).astype(dtype)
        return x, rng.integers(0, self.widths[-1], self.batch_size).astype(np.int32)

    def facts(self) -> dict[str, Any]:
        """Return the row and the operations of its step."""
        return {"network": str(self), "flops": self.flops()}

    def flops(self) -> int:
        """Return the floating-point operations of the step's matrix products."""
        first = 2 * self.batch_size * self.widths[0] * self.widths[1]
        return 3 * self.forward_flops() - first  # the first layer has no input gradient

    def forward_flops(self) -> int:
        """Return those of a forward pass."""
        return 2 * self.batch_size * sum(i * j for i, j in itertools.pairwise(self.widths))


@lru_cache(maxsize=1)
def drawn(size: int) -> np.ndarray:
    """Return standard normal float32 numbers (size,), drawn once for all who need that many."""
    found = np.random.default_rng(SEED).standard_normal(size, np.float32)
    found.setflags(write=False)
    return found


def parse_network(text: str) -> Network:
    """Parse WIDTHS:BATCH:OPTIMIZER; raises ConfigError.

    >>> parse_network("64-32-10:32:sgd")
    Network(widths=(64, 32, 10), batch_size=32, optimizer='sgd')
    """
    match = re.fullmatch(r"([1-9]\d*(?:-[1-9]\d*)+):([1-9]\d*):(\w+)", text)
    if not match:
        msg = "--rows must be WIDTHS:BATCH:OPTIMIZER, such as 784-512-10:128:adam; "
        msg += f"got {text!r}"
        raise ConfigError(msg)
    if match[3] not in OPTIMIZERS:
        msg = f"unknown optimizer {match[3]!r}; {did_you_mean(match[3], OPTIMIZERS)}"
        raise ConfigError(msg)
    if max(map(len, re.split("[-:]", text))) > DIGITS:
        msg = f"--rows takes widths and batch sizes below 10^{DIGITS}; got {text!r}"
        raise ConfigError(msg)
    return Network(tuple(map(int, match[1].split("-"))), int(match[2]), match[3])


STANDARD = tuple(
    map(
        parse_network,
        (
            "64-32-10:32:sgd",
            "784-512-256-10:128:adam",
            "784-512-256-10:1024:sgd",
            "784-2500-2000-1500-1000-500-10:256:sgd",
        ),
    )
)
# From a step dominated by launches to one dominated by matrix products.
STANDARD_ON_GPU = tuple(
    map(
        parse_network,
        (
            "64-32-10:32:sgd",
            "784-512-256-10:128:adam",
            "784-2500-2000-1500-1000-500-10:1024:adam",
            "8192-8192-8192-8192:4096:sgd",
        ),
    )
)
