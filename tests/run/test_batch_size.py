"""The largest batch that fits is tried with all that a training of it takes."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_on_cpu import CpuExecutor

from xpnet.backends.numpy import NumpyBackend
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.run import train
from xpnet.run.batch_size import with_batch_size
from xpnet.run.config_sources import load_config
from xpnet.run.trained_run import make_trainer
from xpnet.step import StepInputs, dropout_keys
from xpnet.training.loader import Loader
from xpnet.training.step_choice import FUSED

ROWS, WIDTH, CAPACITY = 150, 6, 60_000  # bytes: a batch of all rows has no room


class Device(CpuExecutor):
    """A GPU of so much memory; what nobody has any more is free again."""

    alive = peak = 0

    def empty(self, shape, dtype):
        return Device.counted(np.full(shape, 0, dtype))

    def place(self, host):
        return Device.counted(np.array(host))

    @staticmethod
    def counted(x):
        if Device.alive + x.nbytes > CAPACITY:
            gc.collect()  # as CuPy's pool does
        if Device.alive + x.nbytes > CAPACITY:
            msg = f"Out of memory allocating {x.nbytes} bytes"
            raise MemoryError(msg)
        Device.alive += x.nbytes
        Device.peak = max(Device.peak, Device.alive)
        weakref.finalize(x, Device.freed, x.nbytes)
        return x

    @staticmethod
    def freed(size):
        Device.alive -= size


class Gpu(NumpyBackend):
    name = "gpu"

    def free_memory(self):
        return CAPACITY - Device.alive

    def place(self, host):
        return Device.counted(np.array(host))

    def asarray(self, x, dtype=None):
        return self.place(super().asarray(x, dtype))


@pytest.fixture
def gpu(monkeypatch, folder):
    def step(r):
        return FusedStep(Device("float32", folder), r.model, r.loss, r.optimizer, r.clip)

    monkeypatch.setitem(FUSED, "gpu", step)
    monkeypatch.setattr(Device, "alive", 0)
    monkeypatch.setattr(Device, "peak", 0)
    return Gpu("cpu", "float32")


@pytest.fixture
def largest(rng):
    """The config and the splits of a run with the largest batch."""
    x = rng.normal(size=(ROWS, WIDTH)).astype("float32")
    y = rng.integers(3, size=ROWS).astype("int32")
    rows = SimpleNamespace(input_shape=(WIDTH,), outputs=3, embeddings=())
    rows.loader = lambda backend, *more: Loader(backend, x, y, resident=True)
    splits = SimpleNamespace(train=x, validation=None, preprocessing=rows)
    sets = ["batch_size=largest", "model.hidden=[40]", "threads=1"]
    return load_config("digits", sets), splits


@pytest.mark.long
def test_a_training_with_the_largest_batch_runs_out_at_no_step(gpu, largest, monkeypatch):
    """Not at the third, when the graph is checked against a copy, nor at the ragged last batch."""
    config, splits = largest

    def made(*given):
        gc.collect()
        Device.peak = Device.alive  # of this attempt
        return make_trainer(*given)

    monkeypatch.setattr("xpnet.run.batch_size.make_trainer", made)
    found = with_batch_size(config, gpu, splits, lambda line: None)
    assert 20 < found.batch_size < ROWS / 2
    assert ROWS % found.batch_size
    gc.collect()
    tried, Device.peak = Device.peak, 0
    engine = make_trainer(found, splits.preprocessing, gpu).engine
    loader = splits.preprocessing.loader(gpu)
    step = 0
    for _ in range(4):  # epochs, of one ragged batch each
        for batch in loader.batches(found.batch_size):
            keys = dropout_keys(0, step, engine.model.n_random)
            engine.train(batch, StepInputs(step, engine.coefficients(0.001, step + 1), keys))
            step += 1
    assert engine.step.note.startswith("CUDA graph of ")
    assert Device.peak <= tried


def test_the_rows_are_where_they_will_be_while_it_is_found(gpu, largest, monkeypatch):
    config, splits = largest

    def find(need, backend, rows, attempt):
        taken.append(Device.alive)
        return 10

    taken = []
    monkeypatch.setattr("xpnet.run.batch_size.fitting_batch", find)
    assert with_batch_size(config, gpu, splits, lambda line: None).batch_size == 10
    gc.collect()
    assert taken[0] - Device.alive == splits.train.nbytes + 4 * ROWS


@pytest.mark.parametrize("extra", ["loss.class_weights=balanced", "accumulate=4"])
def test_the_largest_batch_is_tried_with_the_settings_of_the_run(extra, tmp_path):
    sets = ["batch_size=largest", "epochs=1", "report=no", "threads=1", extra]
    lines = []
    train(load_config("digits", sets), tmp_path / "run", report=lines.append)
    assert "batch size 1,258 is the largest that fits" in lines
