"""The interface of every format whose rows stay in their file."""

from typing import NamedTuple, Protocol

import numpy as np

from xpnet.data.columns import Columns

__all__ = ["BLOCKS", "BLOCK_BYTES", "RowFile", "Rows"]

BLOCK_BYTES = 2 * 2**20  # a hard disk reaches two thirds of its speed with reads of this size
BLOCKS = 64  # at least, so that the parts of a small file are mixed, too


class Rows(NamedTuple):
    """Rows as stored in their file: features (n, ...), and labels (n,) or (n, J) or None."""

    x: np.ndarray
    y: np.ndarray | None


class RowFile(Protocol):
    """Rows of features and labels that are read on demand."""

    shape: tuple[int, ...]  # of the features (N, ...)
    dtype: np.dtype
    bounds: np.ndarray  # (blocks + 1,) first row of each block, and the end
    columns: Columns | None

    def read(self, start: int, stop: int) -> Rows:
        """Return rows ``start`` to ``stop``, which must be in one block."""
        ...

    def take(self, rows: np.ndarray) -> Rows:
        """Return some rows of one block, by their numbers (n,) in ascending order."""
        ...

    def expect(self, rows: range | np.ndarray) -> None:
        """Announce that these rows of one block, in ascending order, will be read soon."""
        ...

    def location(self, row: int) -> str:
        """Name a row in an error."""
        ...
