"""A GPU that has too little memory for a training says what the training takes."""

import cupy_on_numpy
import numpy as np
import pytest

from xpnet.errors import TrainingError
from xpnet.nn import Dense, ReLU
from xpnet.training.trainer import Trainer

OUT = {
    "of CuPy's pool": MemoryError("Out of memory allocating 4,096 bytes"),
    "of CUDA": type("CUDARuntimeError", (RuntimeError,), {})(
        "cudaErrorMemoryAllocation: out of memory"
    ),
}


@pytest.mark.parametrize("out", OUT)
@pytest.mark.parametrize("where", ["the weights", "the rows", "a step"])
def test_running_out_of_memory_anywhere_says_what_a_step_takes(where, out, rng, monkeypatch):
    """Another process may take the memory at any moment."""
    x, y = rng.normal(size=(64, 5)), rng.integers(3, size=64)

    with cupy_on_numpy.installed() as cupy:
        trainer = Trainer([Dense(7), ReLU(), Dense(3)], backend="cupy", step="portable")
        place, fails = cupy.asarray, {"the weights": (66,), "the rows": (64, 5)}.get(where)

        def asarray(obj, *given, **options):
            if np.shape(obj) == fails:
                raise OUT[out]
            return place(obj, *given, **options)

        def full(*given, **options):
            raise OUT[out]

        monkeypatch.setattr(cupy, "asarray", asarray)
        if where == "a step":
            monkeypatch.setattr(cupy, "matmul", full)
            monkeypatch.setattr(cupy_on_numpy.ndarray, "__matmul__", full)
        told = (
            ", at placing the rows: pass a Loader" if fails == x.shape else ": a step takes about"
        )
        with pytest.raises(TrainingError, match=f"out of memory of 8 GiB free{told}"):
            trainer.fit((x, y), epochs=1)
