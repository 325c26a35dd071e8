"""The loss of each step in every precision, against NumPy's on the CPU in float32.

python -m gpu.curves STEPS FILE
"""

import sys
from typing import Any

import numpy as np

from gpu.keeping import Kept
from gpu.libraries import seen
from gpu.subject import SHRINK
from xpnet.backends import BACKENDS
from xpnet.bench import Setting
from xpnet.check.sample import sample_rows
from xpnet.optim.optimizers import Adam
from xpnet.run.config_sources import load_config
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.training.engine import Engine

ROWS = 128
# Relative, of the loss of a step. With Adam each rounding goes on in all later steps.
BOUNDS = {"float32": 1e-4, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 5e-2}
REFERENCE = ("numpy", "cpu", "float32")


def curve(name: str, device: str, precision: str, steps: int) -> tuple[np.ndarray, str]:
    """Train on a backend; return the loss of each step and how the steps were taken."""
    asked = "float32" if precision == "tf32" and SHRINK > 1 else precision
    setting = Setting(device, asked)
    backend = setting.backend(name)
    config = load_config("digits")
    data, rule = sample_rows(config, steps * ROWS), Adam(0.001)
    step = "portable" if name == "numpy" else "auto"  # as it is written, and compiled by nothing
    engine = Engine(backend, data.model, config.loss, rule, mixed=setting.mixed, step=step)
    costs = []
    for t in range(steps):
        rows = np.arange(t * ROWS, (t + 1) * ROWS) % len(data.x)
        batch = Batch(*(backend.asarray(v[rows]) for v in (data.x, data.y)))
        keys = dropout_keys(0, t, data.model.n_random)
        inputs = StepInputs(t, engine.coefficients(rule.lr, t + 1), keys)
        costs.append(engine.train(batch, inputs))
    return np.array([backend.to_host(cost) for cost in costs], "float64"), engine.step.note


def cases() -> list[tuple[str, str, str]]:
    """Return (backend, device, precision) for all that is on a GPU here."""
    found = [("cupy", "cuda:0", precision) for precision in BOUNDS] if seen("cupy", "cuda") else []
    others = [(name, seen(name, "cuda")) for name in BACKENDS if name != "cupy"]
    return found + [(name, device, "float32") for name, device in others if device]


def main(steps: str, file: str) -> int:
    """Compare the losses of every case with NumPy's."""
    kept, found, n = Kept(file), dict[str, Any](), int(steps)
    expected, note = curve(*REFERENCE, n)
    print(f"numpy on cpu ({note}): loss {expected[0]:.4f} to {expected[-1]:.4f} in {n} steps")
    kept.put(numpy=expected.tolist(), bounds=BOUNDS)
    if n >= 50 and not expected[-1] < 0.5 * expected[0]:
        kept.miss("the loss does not fall, which proves nothing")
    for name, device, precision in cases():
        what = f"{name} on {device} in {precision}"
        try:
            losses, note = curve(name, device, precision, n)
        except Exception as error:  # continue with the next one
            kept.miss(f"{what}: {type(error).__name__}: {error}")
            continue
        difference = np.abs(losses - expected) / np.abs(expected)
        largest, step = float(difference.max()), int(difference.argmax())
        found[what] = {"step": note, "largest": largest, "at": step, "losses": losses.tolist()}
        kept.put(curves=found)
        print(f"{what} ({note}): largest difference {largest:.1e}, at step {step}", flush=True)
        kept.within(what, largest, BOUNDS[precision])
        if name == "cupy" and n > 3 and not note.startswith("CUDA graph"):
            kept.miss(f"{what}: the step is no graph: {note}")
    if not found:
        kept.miss("there is no curve of a GPU")
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
