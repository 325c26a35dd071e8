"""Rows that stay in their file, as every format offers them."""

from typing import NamedTuple, Protocol

import numpy as np

__all__ = ["BLOCKS", "BLOCK_BYTES", "RowFile", "Rows"]

BLOCK_BYTES = 2 * 2**20  # a disk that turns gives two thirds of its speed for reads of that size
BLOCKS = 64  # that a file has at least, so that the parts of a small one are mixed, too


class Rows(NamedTuple):
    """Some rows as their file holds them: features (n, ...) and labels (n,) or (n, J), or None."""

    x: np.ndarray
    y: np.ndarray | None


class RowFile(Protocol):
    """Rows of features and labels that are read when they are asked for."""

    shape: tuple[int, ...]  # of the features (N, ...)
    dtype: np.dtype
    bounds: np.ndarray  # (blocks + 1,) where blocks begin, and the end
    feature_names: tuple[str, ...] | None

    def read(self, start: int, stop: int) -> Rows:
        """Return rows of one block."""
        ...

    def expect(self, start: int, stop: int) -> None:
        """Say that these rows will be read soon."""
        ...

    def place(self, row: int) -> str:
        """Name a row in an error."""
        ...
