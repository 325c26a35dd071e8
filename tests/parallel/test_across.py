"""Sums over ranks and over the parts of a batch, of arrays of any library."""

import threading
from functools import partial

import cupy_on_numpy
import numpy as np
import pytest
from thread_ranks import on_ranks

from xpnet.backends import get_backend
from xpnet.nn import BatchNorm, Dense, Sequential, Tanh
from xpnet.nn.losses import MeanSquaredError
from xpnet.optim.optimizers import SGD
from xpnet.parallel import ALONE, Share
from xpnet.parallel.across import Across
from xpnet.parallel.settings import Parallel
from xpnet.split_vector import SplitVector
from xpnet.step import Batch, StepInputs
from xpnet.training.engine import Engine


def across_for(comm, backend=None, parts=None):
    share = Share(comm.rank, comm.size, parts)
    moves = (np.array, lambda x: x) if backend is None else (backend.to_host, backend.place)
    return Across(comm, share, *moves)


@pytest.mark.parametrize("parts", [None, 3])
def test_sums_keep_shapes_and_the_kind_of_array(backend, parts):
    """Numbers, a matrix and, where the library keeps it so, a vector of tensors; none is copied."""
    host = [np.array(2.0), np.arange(6.0).reshape(2, 3), np.zeros(0)]

    def given(rank):
        own = [backend.asarray(a * (rank + 1)) for a in host]
        return [*own, SplitVector((own[1], own[0]))] if backend.splits else own

    def sums(comm):
        here = len(range(comm.rank, parts or comm.size, comm.size))
        return across_for(comm, backend, parts).sums([given(comm.rank)] * here)

    n = 2 if parts is None else 3
    for rank, found in enumerate(on_ranks(n, sums)):
        factor = sum(range(1, n + 1))
        for x, wanted in zip(found, host, strict=False):
            assert backend.owns(x), rank
            assert x.dtype == backend.dtype
            np.testing.assert_array_equal(backend.to_host(x), wanted * factor)
        if backend.splits:
            assert [t.shape for t in found[-1].tensors] == [(2, 3), ()]


def test_what_is_given_to_a_sum_stays_as_it_is():
    x = np.ones(3)
    (total,) = across_for(ALONE).sums([[x]])
    total += 1.0
    np.testing.assert_array_equal(x, np.ones(3))


def test_parts_meet_as_often_as_they_sum():
    across, before = across_for(ALONE, parts=3), threading.enumerate()

    def part(i):
        first = across.total(np.array([float(i)]))
        return float(across.total(first * i)[0])

    assert across.each([partial(part, i) for i in range(3)], meeting=True) == [9.0] * 3
    assert {*threading.enumerate()} <= {*before}


@pytest.mark.parametrize("before", [0, 1])
def test_a_part_that_raises_ends_the_others(before):
    """They wait for it where they meet; what it raised is raised, and the next meeting is held."""
    across = across_for(ALONE, parts=3)

    def part(i, fails):
        for _ in range(before):
            across.total(np.ones(1))
        if fails:
            msg = "of part 1"
            raise ArithmeticError(msg)
        return float(across.total(np.ones(1))[0])

    with pytest.raises(ArithmeticError, match="of part 1"):
        across.each([partial(part, i, i == 1) for i in range(3)], meeting=True)
    assert across.each([partial(part, i, False) for i in range(3)], meeting=True) == [3.0] * 3


def test_a_sum_that_fails_ends_all_parts():
    across = across_for(ALONE, parts=2)
    unequal = [partial(across.total, np.ones(1)), partial(across.total, np.ones(2))]
    with pytest.raises(ValueError, match=r"must be equal|same shape"):
        across.each(unequal, meeting=True)


def test_what_numpy_does_about_an_overflow_holds_in_each_part():
    across = across_for(ALONE, parts=2)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        across.each([lambda: np.float64(1e300) * np.full(1, 1e300)] * 2, meeting=True)


def test_the_parts_of_a_batch_compute_on_the_gpu_of_the_backend():
    """Each thread has a current device of its own, and that of a new one is the first."""
    with cupy_on_numpy.installed():
        backend = get_backend("cupy", device="cuda:1", dtype="float64")
        model = Sequential([Dense(4), BatchNorm(), Tanh(), Dense(2)]).build((3,))
        parallel = Parallel(reduce="ordered", parts=2)
        engine = Engine(backend, model, MeanSquaredError(), SGD(), parallel=parallel)
        rng = np.random.default_rng(0)
        rows = engine.share.positions(6)
        batch = Batch(*(backend.asarray(rng.normal(size=(6, n))[rows]) for n in (3, 2)))
        cost = engine.train(batch, StepInputs(0, engine.coefficients(0.1, 1), (), 6))
        assert np.isfinite(backend.to_host(cost))
