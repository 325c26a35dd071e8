"""Ranks whose arrays are CuPy's take the portable step: by the host, or with sums on the device.

CuPy is the stand-in of cupy_on_numpy.py, which refuses to mix its arrays with the host's.
"""

import cupy_on_numpy
import numpy as np
import pytest
from shared_training import Training, assert_same_training, model_for, rows_for
from thread_ranks import ThreadComm

from xpnet.backends import get_backend
from xpnet.nn import BatchNorm, Dropout
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.step.mixed_precision import Mixed

LOSS = SoftmaxCrossEntropy()


@pytest.fixture
def cupy(monkeypatch):
    """CuPy, which counts what is pinned and what comes to the host in memory that is not."""
    with cupy_on_numpy.installed() as cupy:
        import cupyx

        cupy.pinned, cupy.pageable, get = [], [], cupy_on_numpy.ndarray.get

        def empty_pinned(shape, dtype):
            cupy.pinned.append(np.empty(shape, dtype))
            return cupy.pinned[-1]

        def got(self, stream=None, order="C", out=None, blocking=True):
            if out is None:
                cupy.pageable.append(self.size)
            return get(self, stream, order, out, blocking)

        monkeypatch.setattr(cupyx, "empty_pinned", empty_pinned)
        monkeypatch.setattr(cupy_on_numpy.ndarray, "get", got)
        yield cupy


def training(dtype="float64", **options):
    model = model_for(LOSS, BatchNorm(), Dropout(0.3))
    backend = get_backend("cupy", "cuda:0", dtype)
    data = rows_for(LOSS, weighted=True)
    return Training(
        model, LOSS, data, backend=backend, steps=4, step="portable", **options
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"accumulate": 3}], ids=["whole", "micro-batches"])
def test_sums_by_the_host_go_through_one_pinned_buffer(options, cupy):
    given = training(**options)
    assert_same_training(given, [2])
    engine = given.engine(Twice())
    engine.train(*given.batch(engine, 0))  # the buffer grows up to the gradient
    batch, numbers = given.batch(engine, 1)
    pinned, pageable = len(cupy.pinned), len(cupy.pageable)
    assert pinned > 2 * 1
    for _ in range(3):
        engine.train(batch, numbers)
    assert (len(cupy.pinned), len(cupy.pageable)) == (pinned, pageable)


class Twice(ThreadComm):
    """Two ranks with the same rows."""

    def __init__(self):
        self.rank, self.size = 0, 2

    def allreduce(self, x):
        x *= 2


class OnDevice(ThreadComm):
    """Whose sums take arrays of a device."""

    takes_device = True

    def allreduce(self, x):
        super().allreduce(x.host)


def test_sums_on_the_device_do_not_come_to_the_host(cupy, monkeypatch):
    monkeypatch.setattr("thread_ranks.ThreadComm", OnDevice)
    assert_same_training(training(), [2, 3])
    assert not cupy.pinned


@pytest.mark.long
def test_a_loss_scale_is_that_of_all_ranks(cupy):
    assert_same_training(training("float32", mixed=Mixed("float16", 8.0)), [2], 5e-3)
