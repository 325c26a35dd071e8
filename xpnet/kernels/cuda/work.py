"""What a stage of the step can use, and what stages share."""

from typing import Any, NamedTuple, Protocol

from xpnet.nn import (
    ELU,
    GELU,
    SELU,
    Activation,
    GELUTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from xpnet.typing import Array

__all__ = [
    "IDENTITY",
    "KINDS",
    "WARP",
    "Patches",
    "Work",
    "kind_of",
    "patches",
]

# The enum in activation.cu.
KINDS: tuple[type[Activation], ...] = (
    Identity, ReLU, LeakyReLU, Sigmoid, Tanh, GELU, GELUTanh, SiLU, Softplus, ELU, SELU,
)  # fmt: skip
IDENTITY = 0
WARP = 32  # threads, and columns of a patch
ROWS = 256  # of a patch, at least: eight for each warp of a block
BLOCKS = 264  # of a launch by patches, at most: two on each multiprocessor of an H100


class Work(Protocol):
    """What a stage can do: get static buffers, and record work."""

    add: int  # whether gradients are added to those of earlier micro-batches
    first: int  # row of the batch at which the micro-batch starts
    loss_sums_bias: bool  # whether the loss also sums up the gradient of the bias it adds

    def empty(self, shape: tuple[int, ...]) -> Array: ...
    def sums(self, shape: tuple[int, ...]) -> Array: ...
    def scratch(self, shape: tuple[int, ...]) -> Array: ...
    def parameter(self, layer: int, name: str) -> Array | None: ...
    def gradient(self, layer: int, name: str) -> Array | None: ...
    def statistic(self, layer: int, name: str) -> Array: ...
    def keys(self, index: int) -> Array: ...
    def product(self, a: Array, b: Array, out: Array, add: int = 0) -> None: ...
    def blocks(self, size: int) -> int: ...
    def launch(self, kernel: str, grid: int | tuple[int, int], *given: Any) -> None: ...
    def launch_patches(self, kernel: str, grid: tuple[int, int], *given: Any) -> None: ...


class Patches(NamedTuple):
    """How a matrix is divided for sums over its rows: common.cuh."""

    grid: tuple[int, int]
    rows: int  # of a patch

    @property
    def splits(self) -> int:
        """How many patches lie one below another."""
        return self.grid[1]


def patches(N: int, J: int) -> Patches:
    """Divide a matrix (N, J).

    >>> patches(128, 70), patches(300, 70)
    (Patches(grid=(3, 1), rows=128), Patches(grid=(3, 2), rows=150))
    """
    columns = -(-J // WARP)
    splits = max(1, min(-(-N // ROWS), BLOCKS // columns))
    rows = -(-N // splits)
    return Patches((columns, -(-N // rows)), rows)


def kind_of(activation: Activation) -> int:
    """Return the number by which the kernels know an activation."""
    return KINDS.index(type(activation))
