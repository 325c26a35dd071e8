"""Random numbers that depend on a position, not on earlier draws.

Every draw is keyed by (seed, purpose) and by up to three counters such as (epoch, step, layer). No
generator state is saved to resume a run, and every backend sees the same weights, batches and
dropout masks, because the bits are drawn on the host by a counter-based generator:

    Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from typing import Literal

import numpy as np

__all__ = ["PURPOSES", "Purpose", "generator"]

Purpose = Literal["init", "shuffle", "dropout", "split", "sample", "augment"]
# Part of the checkpoint format: these numbers never change, or old runs could not be resumed.
PURPOSES: dict[Purpose, int] = {
    **{"init": 1, "shuffle": 2, "dropout": 3, "split": 4, "sample": 5},
    "augment": 6,
}


def generator(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """Return NumPy's Philox generator for one purpose at one position.

    ``position`` is at most three non-negative integers. The streams of two positions do not overlap
    within 2**64 draws, because they differ in a counter word that drawing does not reach.

    >>> a = generator(0, "shuffle", 3).permutation(5)
    >>> b = generator(0, "shuffle", 3).permutation(5)
    >>> bool((a == b).all())
    True
    """
    counter = np.zeros(4, dtype=np.uint64)
    counter[1 : 1 + len(position)] = position
    key = np.array([seed, PURPOSES[purpose]], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
