"""Rows that lie in memory in another order are gathered without copying all of them each time."""

import tracemalloc

import numpy as np
import pytest

from xpnet.backends.numpy import NumpyBackend
from xpnet.data import Shuffle
from xpnet.training.loader import Loader


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_takes_the_memory_of_its_rows_alone(order, resident, rng):
    x = np.asarray(rng.normal(size=(5000, 100)).astype("float32"), order=order)
    loader, shuffle = Loader(NumpyBackend(), x, resident=resident), Shuffle(0, 0)
    rows = shuffle.order(5000)
    batches = loader.batches(50, shuffle, reuse=True)
    np.testing.assert_array_equal(next(batches)[0], x[rows[:50]])
    tracemalloc.start()
    try:
        for k, (batch, _, _) in enumerate(batches, 1):
            np.testing.assert_array_equal(batch[:, 7], x[rows[50 * k : 50 * k + 50], 7])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 4
