"""The order of rows in an epoch."""

from typing import NamedTuple

import numpy as np

from xpnet.random import generator

__all__ = ["Shuffle"]


class Shuffle(NamedTuple):
    """An order of rows that depends on (seed, epoch) alone, so an epoch resumes at any batch."""

    seed: int
    epoch: int

    def order(self, n: int, *window: int) -> np.ndarray:
        """Return 0 ... n - 1 in the order of this epoch, or of one window of it.

        >>> Shuffle(seed=0, epoch=1).order(5).tolist()
        [4, 2, 3, 1, 0]
        """
        return generator(self.seed, "shuffle", self.epoch, *window).permutation(n)
