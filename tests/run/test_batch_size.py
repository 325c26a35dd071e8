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
from xpnet.run.batch_size import take_steps, with_batch_size
from xpnet.run.config_sources import load_config
from xpnet.run.trained_run import make_trainer
from xpnet.step import Batch
from xpnet.training.step_choice import FUSED

ROWS, CAPACITY = 150, 60_000  # bytes: a batch of all rows has no room


class Device(CpuExecutor):
    """A GPU of so much memory; what nobody has any more is free again."""

    alive = peak = 0

    def empty(self, shape, dtype):
        return self._counted(np.full(shape, 0, dtype))

    def place(self, host):
        return self._counted(np.array(host))

    def _counted(self, x):
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
        return CAPACITY


@pytest.fixture
def gpu(monkeypatch, folder):
    def step(r):
        return FusedStep(Device("float32", folder), r.model, r.loss, r.optimizer, r.clip)

    monkeypatch.setitem(FUSED, "gpu", step)
    monkeypatch.setattr(Device, "alive", 0)
    monkeypatch.setattr(Device, "peak", 0)
    return Gpu("cpu", "float32")


def test_a_training_with_the_largest_batch_runs_out_at_no_step(gpu, rng):
    """Not at the third, when the graph is checked against a copy, nor at the ragged last batch."""
    x, y = rng.normal(size=(ROWS, 6)).astype("float32"), rng.integers(3, size=ROWS).astype("int32")
    rows = SimpleNamespace(input_shape=(6,), outputs=3, embeddings=())
    config = load_config("digits", ["batch_size=largest", "model.hidden=[40]", "threads=1"])
    splits = SimpleNamespace(train=x, preprocessing=rows)
    found = with_batch_size(config, gpu, splits, lambda line: None)
    assert 20 < found.batch_size < ROWS / 2
    assert ROWS % found.batch_size
    gc.collect()
    tried, Device.peak = Device.peak, 0
    engine = make_trainer(found, rows, gpu).engine
    for first in range(0, ROWS, found.batch_size):
        part = slice(first, first + found.batch_size)
        take_steps(engine, Batch(x[part], y[part]), found)
    assert engine.step.note.startswith("CUDA graph of ")
    assert Device.peak <= tried


@pytest.mark.parametrize("extra", ["loss.class_weights=balanced", "accumulate=4"])
def test_the_largest_batch_is_tried_with_the_settings_of_the_run(extra, tmp_path):
    sets = ["batch_size=largest", "epochs=1", "report=no", "threads=1", extra]
    lines = []
    train(load_config("digits", sets), tmp_path / "run", report=lines.append)
    assert "batch size 1,258 is the largest that fits" in lines
