import numpy as np


def test_placing_and_fetching_return_equal_values_and_the_asked_dtype(backend, rng):
    host = rng.normal(size=(3, 4))
    placed = backend.asarray(host)
    assert placed.dtype == backend.dtype
    assert np.array_equal(backend.to_host(placed), host)
    assert backend.to_host(backend.asarray([1, 2])).dtype == np.int32


def test_a_fetched_array_is_a_copy(backend):
    placed = backend.asarray(np.ones(3))
    backend.to_host(placed)[0] = 7
    assert backend.to_host(placed)[0] == 1
