"""The stages of scripts/gpu_report.py that are not commands of their own.

gpu_stages.py environment DEVICE FILE          record the environment
gpu_stages.py curves DEVICE TOLERANCE FILE     compare the losses with NumPy's on the CPU
"""

import contextlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

from xpnet.backends import BACKENDS, backend_class, get_backend
from xpnet.bench import Setting
from xpnet.bench.results import machine
from xpnet.check.sample import sample_rows
from xpnet.optim.optimizers import Adam
from xpnet.run.config_sources import load_config
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.training.engine import Engine

STEPS, ROWS = 100, 128


def seen(name: str, device: str) -> str | None:
    """Return the first device of a kind that a library sees, or None."""
    devices = backend_class(name).probe().devices
    return next((d for d in devices if d.partition(":")[0] == device), None)


def environment(device: str, path: str) -> int:
    """Write the environment to ``path`` and print it."""
    facts = {"system": f"{platform.system()} {platform.release()}", **machine(Setting(device))}
    facts["backends"] = {name: backend_class(name).probe()._asdict() for name in BACKENDS}
    with contextlib.suppress(OSError):
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
        facts["nvidia-smi"] = done.stdout.splitlines()
    text = json.dumps(facts, indent=1)
    Path(path).write_text(text + "\n", "utf-8")
    print("\n".join(facts.pop("nvidia-smi", ["nvidia-smi: not found"])))
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    return 0


def curve(name: str, device: str) -> tuple[np.ndarray, str]:
    """Train on a backend in float32; return the loss of each step and how the steps were taken."""
    backend = get_backend(name, device, "float32")
    backend.allow_tf32(False)
    data = sample_rows(load_config("digits"), STEPS * ROWS)
    rule = Adam(0.001)
    engine = Engine(backend, data.model, load_config("digits").loss, rule)
    costs = []
    for step in range(STEPS):
        rows = np.arange(step * ROWS, (step + 1) * ROWS) % len(data.x)
        batch = Batch(*(backend.asarray(v[rows]) for v in (data.x, data.y)))
        keys = dropout_keys(0, step, data.model.n_random)
        inputs = StepInputs(step, rule.coefficients(rule.lr, step + 1), keys)
        costs.append(engine.train(batch, inputs))
    return np.array([backend.to_host(cost) for cost in costs]), engine.step.note


def curves(device: str, tolerance: str, path: str) -> int:
    """Compare the losses of every backend on ``device`` with NumPy's; return 1 if one differs."""
    bound, (expected, note) = float(tolerance), curve("numpy", "cpu")
    print(f"numpy on cpu ({note}): loss {expected[0]:.4f} to {expected[-1]:.4f} in {STEPS} steps")
    found, failed = {}, expected[-1] > 0.5 * expected[0]  # a loss that stays proves nothing
    for name in BACKENDS:
        there = seen(name, device)
        if there is None or (name, there) == ("numpy", "cpu"):
            continue
        try:
            losses, note = curve(name, there)
        except Exception as error:  # continue with the next library
            print(f"{name} on {there}: {type(error).__name__}: {error}")
            failed = True
            continue
        difference = np.abs(losses - expected) / np.abs(expected)
        largest, step = float(difference.max()), int(difference.argmax())
        failed |= not largest <= bound
        found[name] = {"device": there, "step": note, "largest": largest, "at": step}
        found[name]["losses"] = losses.tolist()
        print(f"{name} on {there} ({note}): largest difference {largest:.1e}, at step {step}")
    report = {"tolerance": bound, "numpy": expected.tolist(), "backends": found}
    Path(path).write_text(json.dumps(report) + "\n", "utf-8")
    return int(failed or not found)


def tests(device: str, *arguments: str) -> int:
    """Run the tests of PyTorch and JAX on ``device``, if they see it."""
    suffix = "" if device == "cpu" else f"-{device}"
    names = [name + suffix for name in ("torch", "jax") if seen(name, device)]
    if not names:
        print(f"neither PyTorch nor JAX sees {device}: no tests to run")
        return 0
    required = [f"--require-backend={name}" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.call([*command, "--long", "-k", " or ".join(names), *required])


if __name__ == "__main__":
    stage, *given = sys.argv[1:]
    sys.exit({"environment": environment, "curves": curves, "tests": tests}[stage](*given))
