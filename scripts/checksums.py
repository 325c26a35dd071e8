"""Checksums of final training states: run it before and after a change that must not change bits.

    python scripts/checksums.py > before          # twice, for the compiler's cache may change bits
    python scripts/checksums.py > after && diff before after

Ten small trainings on the digits, each by the portable step and by the step that "auto" chooses.
Compare on one machine: other processors and BLAS libraries round otherwise.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

from xpnet.run import train
from xpnet.run.config_sources import load_config

CONFIGS = {
    "adam": [],
    "sgd-nesterov": ["optimizer={name='sgd',lr=0.05,momentum=0.9,nesterov=true}"],
    "batch-norm": ["model.normalization=batch_norm", "model.dropout=0.2", "model.hidden=[64,32]"],
    "layer-norm": ["model.normalization=layer_norm", "model.activation=gelu"],
    "cross-entropy": ["loss=cross_entropy", "optimizer={name='rmsprop',lr=0.0005}"],
    "clip": ["loss.label_smoothing=0.1", "optimizer=adamw", "clip.norm=1.0"],
    "lion": ["optimizer=lion", "schedule=cosine", "model.activation=tanh"],
    "accumulate": ["accumulate=3", "optimizer=adagrad"],
    "float64": ["dtype=float64", "model.activation=elu"],
    "float16": ["mixed.dtype=float16"],
}


def checksum(settings: list[str]) -> tuple[str, str]:
    """Return the checksum of the last checkpoint's tensors, and what took the step."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            "digits", ["epochs=3", "device=cpu", "threads=1", "report=no", *settings]
        )
        run = train(config, Path(folder) / "run", report=lambda line: None)
        digest = hashlib.sha256()
        for name, tensor in sorted(run.folder.checkpoint("last").tensors.items()):
            digest.update(name.encode() + tensor.tobytes())
        return digest.hexdigest()[:16], run.folder.read_json(run.folder.run_path)["step"]


def main(names: list[str]) -> None:
    """Print a line for each config and step."""
    for name in names or CONFIGS:
        for step in ("portable", "auto"):
            value, note = checksum([*CONFIGS[name], f"step={step}"])
            print(f"{name:14} {step:9} {value}  {note}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
