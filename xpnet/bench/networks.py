"""The workload of a benchmark: a network, a batch size and an optimizer."""

import re
from dataclasses import dataclass

import numpy as np

from xpnet.errors import ConfigError
from xpnet.nn import Dense, Layer, ReLU, Sequential
from xpnet.optim.optimizers import OPTIMIZERS, Optimizer
from xpnet.settings import did_you_mean

__all__ = ["STANDARD", "STANDARD_ON_GPU", "Network", "parse_network"]

SEED = 0
DIGITS = 9  # of a width or batch size, so that the bytes of a matrix fit into 63 bits


@dataclass(frozen=True)
class Network:
    """Dense layers of these widths with ReLU, trained with softmax cross-entropy."""

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

    def flops(self) -> int:
        """Return the floating-point operations of the step's matrix products."""
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        products = sum(i * j * (2 if n == 0 else 3) for n, (i, j) in enumerate(pairs))
        return 2 * self.batch_size * products  # the first layer has no input gradient


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
