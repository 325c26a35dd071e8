"""Running out of memory: foreseen by an estimate, explained by sizes, and nothing lost."""

import re

import numpy as np
import pytest

from xpnet.backends.numpy import NumpyBackend
from xpnet.errors import TrainingError
from xpnet.nn import Dense, ReLU, Sequential
from xpnet.optim.optimizers import SGD, Adam
from xpnet.run import train
from xpnet.run.config_sources import load_config
from xpnet.storage import CheckpointFolder
from xpnet.training.callbacks import Callback
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.memory import fitting_batch, footprint, host_memory
from xpnet.training.trainer import Trainer


class Small(NumpyBackend):
    """A device of 1 MiB."""

    def free_memory(self):
        return 2**20


def test_the_estimate_grows_with_the_rows_and_with_the_moments():
    model = Sequential([Dense(100), ReLU(), Dense(10)]).build((50,))
    adam, sgd = footprint(model, Adam(), 4), footprint(model, SGD(), 4)
    assert adam.row == sgd.row == 4 * (50 + 3 * (100 + 100 + 10))
    n_params = 50 * 100 + 100 + 100 * 10 + 10
    assert adam.state - sgd.state == 2 * n_params * 4


def test_the_largest_batch_that_fits_is_found_and_tried():
    model = Sequential([Dense(100), ReLU(), Dense(10)]).build((50,))
    need, tried = footprint(model, SGD(), 4), []

    def attempt(rows):
        tried.append(rows)
        if rows > 100:
            raise MemoryError

    size = fitting_batch(need, Small(), 10**6, attempt)
    estimate = int(0.8 * 2**20 - need.state) // need.row
    assert tried == [estimate, estimate // 2, estimate // 4]
    assert size == estimate // 4 <= 100
    assert fitting_batch(need, Small(), 7, attempt) == 7  # no more rows than there are


def test_where_not_one_row_fits_the_sizes_say_so():
    model = Sequential([Dense(100)]).build((50,))

    def attempt(rows):
        raise MemoryError

    with pytest.raises(TrainingError, match=r"out of memory of 1 MiB free: a step takes about"):
        fitting_batch(footprint(model, SGD(), 4), Small(), 10, attempt)


def test_an_error_that_is_not_about_memory_is_not_swallowed():
    model = Sequential([Dense(1)]).build((1,))

    def attempt(rows):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitting_batch(footprint(model, SGD(), 4), Small(), 10, attempt)


class RunsOut(Callback):
    def on_step_end(self, trainer):
        if trainer.position.step == 5:
            raise MemoryError


def test_running_out_in_a_run_names_the_sizes_and_leaves_the_last_checkpoint(tmp_path, rng):
    folder = CheckpointFolder(tmp_path)
    trainer = Trainer([Dense(8), ReLU(), Dense(2)], batch_size=8)
    data = (rng.normal(size=(32, 4)), rng.integers(0, 2, size=32))
    callbacks = [RunsOut(), Checkpointing(folder, every_steps=2)]
    with pytest.raises(TrainingError) as caught:
        trainer.fit(data, epochs=3, callbacks=callbacks)
    message = str(caught.value)
    assert re.search(r"for parameters, gradient and moments and .* for 8 rows of", message)
    assert "lower batch_size, set accumulate" in message
    assert folder.newest().meta["position"]["step"] == 4


def test_an_automatic_batch_size_is_recorded_and_kept_on_resume(tmp_path):
    lines = []
    sets = ["batch_size=largest", "epochs=1"]
    train(load_config("digits", sets), tmp_path / "run", report=lines.append)
    assert "batch size 1,258 is the largest that fits" in lines
    saved = load_config(str(tmp_path / "run" / "config.toml"))
    assert saved.batch_size == 1258
    again = load_config("digits", ["batch_size=largest", "epochs=2"])
    outcome = train(again, tmp_path / "run", resume=True, report=lines.append)
    assert outcome.folder.config().batch_size == 1258


def test_torch_says_so_in_its_own_way():
    torch = pytest.importorskip("torch", reason="it is about PyTorch's error")
    from xpnet.backends.torch import TorchBackend

    backend = TorchBackend("cpu")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert backend.out_of_memory(caught.value)
    assert not backend.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_numpy_says_so_by_a_memory_error():
    with pytest.raises(MemoryError) as caught:
        np.empty(2**55)
    assert NumpyBackend().out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  7 kB\n"}, 7 * 1024),
        (
            {
                "proc/meminfo": "MemAvailable:  7 kB\n",
                "sys/fs/cgroup/memory.max": "5000\n",
                "sys/fs/cgroup/memory.current": "1000\n",
            },
            4000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable:  7 kB\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": "1000\n",
            },
            7 * 1024,
        ),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "4000\n",
            },
            0,
        ),
    ],
)
def test_the_memory_of_the_host_is_what_the_kernel_or_the_container_leaves(files, free, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host_memory(tmp_path) == free


def test_where_nothing_says_how_much_memory_there_is_the_system_is_asked(tmp_path):
    assert host_memory(tmp_path) > 0
