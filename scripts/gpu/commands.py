"""A training at the command line on the GPU, whose run is then used on the CPU.

python -m gpu.commands FILE
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gpu.keeping import Kept
from xpnet.check.sample import sample_rows
from xpnet.run.config_sources import load_config
from xpnet.storage import CheckpointFolder, load

EPOCHS = 2 if os.environ.get("XPNET_GPU_REHEARSAL") else 20
SMALL = ("--set", "model.hidden=[16]") if EPOCHS == 2 else ()
LEAST = 0.0 if os.environ.get("XPNET_GPU_REHEARSAL") else 0.95  # accuracy
BOUND = 1e-3  # between probabilities on the CPU and on the GPU


def called(*arguments: str) -> str:
    """Run a command of xpnet; return what it prints. Raises AssertionError where it fails."""
    command = [sys.executable, "-m", "gpu.xpnet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"xpnet {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}"
        raise AssertionError(msg)
    return done.stdout + done.stderr


def probabilities(text: str) -> np.ndarray:
    """Return the probabilities (N, K) in a CSV of predictions, whose first column is the class."""
    _, *rows = csv.reader(text.splitlines())
    return np.array([[float(value) for value in row[1:]] for row in rows])


def tensors(run: str) -> dict[str, bytes]:
    """Return all bits of a run's last checkpoint, by name."""
    last = list(CheckpointFolder(Path(run) / "checkpoints").steps().values())[-1]
    return {name: x.tobytes() for name, x in load(last).tensors.items()}


def main(file: str) -> int:
    """Train, evaluate on both, predict on both; and train again, in another process."""
    kept = Kept(file)
    with tempfile.TemporaryDirectory() as folder:
        run, rows = str(Path(folder) / "run"), str(Path(folder) / "rows.npy")
        np.save(rows, sample_rows(load_config("digits"), 50).x.astype("float32"))
        settings = ("--set", f"epochs={EPOCHS}", "--set", "report=no", *SMALL)
        try:
            said = called("train", "digits", "--device", "cuda", "--out", run, *settings)
            print(said)
            step = json.loads((Path(run) / "run.json").read_text("utf-8"))["step"]
            kept.put(train=said.splitlines(), step=step)
            scores, predicted = {}, {}
            for device in ("cuda", "cpu"):
                told = called("evaluate", run, "--device", device, "--json")
                scores[device] = {k: json.loads(told)[k] for k in ("loss", "accuracy")}
                predicted[device] = probabilities(called("predict", run, rows, "--device", device))
                kept.put(scores=scores)
            called("train", "digits", "--device", "cuda", "--out", f"{run}-again", *settings)
            first, second = tensors(run), tensors(f"{run}-again")
            unlike = [name for name, bits in first.items() if second.get(name) != bits]
        except Exception as error:  # what a command says is in it
            kept.miss(f"{type(error).__name__}: {error}")
            return kept.code
    difference = float(np.abs(predicted["cuda"] - predicted["cpu"]).max())
    kept.put(difference=difference)
    print(f"scores: {scores}; the probabilities differ by at most {difference:.1e}")
    kept.within("probabilities on the GPU and on the CPU", difference, BOUND)
    print(f"trained again: {len(unlike)} of {len(first)} tensors differ")
    if unlike:
        kept.miss(f"another process has trained to other bits: {', '.join(unlike[:4])}")
    if not scores["cpu"]["accuracy"] >= LEAST:
        kept.miss(f"an accuracy of {scores['cpu']['accuracy']:.3f}, where {LEAST} is expected")
    if not step.startswith("CUDA graph"):
        kept.miss(f"the steps were no graph: {step}")
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
