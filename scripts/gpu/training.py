"""Whole trainings by ``Trainer.fit`` on the GPU, each against the same one on the CPU.

    python -m gpu.training FILE MARKDOWN

Every case: the losses of its epochs within a bound of the CPU's in float32, rows per second, and
the memory in use. Some are also run twice, and once interrupted within an epoch and resumed: they
must end with the same bits.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gpu.card import card
from gpu.keeping import Kept, table
from gpu.subject import SHRINK
from xpnet.backends import get_backend
from xpnet.nn import BatchNorm, Dense, Dropout, LayerNorm, ReLU
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD
from xpnet.training.callbacks import Callback
from xpnet.training.loader import Loader
from xpnet.training.trainer import Trainer

ROWS, EPOCHS = (25_600 if SHRINK == 1 else 150), 3
FEW = ROWS // 4 - 7  # of what takes long on the CPU
BATCH, INPUTS, CLASSES = (128 if SHRINK == 1 else 32), (784 if SHRINK == 1 else 20), 10
# Adam would make much of gradients that are nothing but rounding: `curves` has it, in fewer steps.
RULE = SGD(0.005, momentum=0.9)
J = 256 if SHRINK == 1 else 8
PLAIN = [Dense(2 * J), ReLU(), Dense(J), ReLU(), Dense(CLASSES)]
NORMED = [Dense(J, bias=False), BatchNorm(), ReLU(), Dropout(0.1), Dense(CLASSES)]


class Case(NamedTuple):
    """Settings of a training, and how far its losses may be from the CPU's."""

    bound: float
    layers: list[Any] = PLAIN
    rows: int = ROWS - ROWS % BATCH  # whole batches
    resident: bool = True
    tf32: bool = False
    repeated: bool = False  # also run twice, and interrupted and resumed
    settings: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "resident": Case(1e-3, repeated=True),
    "streamed": Case(1e-3, resident=False, repeated=True),
    "a ragged last batch": Case(1e-3, rows=ROWS - 7),
    "streamed, ragged": Case(1e-3, resident=False, rows=ROWS - 7, repeated=True),
    "accumulated": Case(1e-3, rows=FEW, settings={"accumulate": 4}, repeated=True),
    "batch norm, dropout": Case(1e-3, NORMED, repeated=True),
    "layer norm, clipped": Case(
        1e-3, [Dense(J), LayerNorm(), ReLU(), Dense(CLASSES)],
        settings={"clip": Clip(norm=1.0)},
    ),
    "tf32": Case(1e-2, tf32=True),
    "float16, loss scale": Case(3e-2, settings={"mixed": "float16"}, repeated=True),
    "bfloat16": Case(6e-2, settings={"mixed": "bfloat16"}, repeated=True),
    "bfloat16, accumulated, streamed": Case(
        6e-2, resident=False, rows=FEW, settings={"mixed": "bfloat16", "accumulate": 2}
    ),
}  # fmt: skip


class Used(Callback):
    """Keeps the most bytes that the device's arrays had at the end of an epoch."""

    def __init__(self) -> None:
        self.most = 0

    def on_epoch_end(self, trainer: Any, record: Any) -> None:
        self.most = max(self.most, card().used())


class Interrupt(Callback):
    """Interrupts a training after so many steps, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_step_end(self, trainer: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (N, I) around a point for each class, far enough apart to learn some of it."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, CLASSES, rows)
    points = rng.standard_normal((CLASSES, INPUTS), np.float32)
    noise = np.resize(rng.standard_normal(1 << 20, np.float32), (rows, INPUTS))
    return noise + points[y] * np.float32(2.5 / INPUTS**0.5), y.astype(np.int32)


def trainer(case: Case, device: str) -> Trainer:
    """Return a new trainer; on the CPU in float32, by the formulas as they are written."""
    backend = get_backend("numpy" if device == "cpu" else "cupy", device)
    backend.allow_tf32(case.tf32)
    given = {"optimizer": RULE, **case.settings}
    if device == "cpu":
        given = {k: v for k, v in given.items() if k != "mixed"} | {"step": "portable"}
    return Trainer(case.layers, backend=backend, batch_size=BATCH, seed=1, **given)


def loader(case: Case, its: Trainer) -> Loader:
    """Return the rows as the case wants them placed."""
    return Loader(its.backend, *data(case.rows), resident=case.resident)


def fitted(case: Case, device: str, *callbacks: Callback) -> Trainer:
    """Return a trainer that has been fitted."""
    its = trainer(case, device)
    its.fit(loader(case, its), epochs=EPOCHS, callbacks=callbacks)
    return its


def resumed(case: Case) -> Trainer:
    """Interrupt a training within its second epoch, and let another trainer go on with it."""
    first, steps = trainer(case, "cuda"), -(-case.rows // BATCH)
    try:
        first.fit(loader(case, first), epochs=EPOCHS, callbacks=[Interrupt(steps + steps // 2)])
    except KeyboardInterrupt:
        pass
    else:
        msg = "the training was not interrupted"
        raise AssertionError(msg)
    second = trainer(case, "cuda")
    second.restore(*first.snapshot())
    second.fit(loader(case, second), epochs=EPOCHS)
    return second


def state(its: Trainer) -> dict[str, bytes]:
    """Return all bits of a trainer's state, by name."""
    return {name: x.tobytes() for name, x in its.snapshot()[0].items()}


def losses(its: Trainer) -> np.ndarray:
    """Return the loss of each epoch."""
    return np.array([record["loss"] for record in its.history])


def run(name: str, case: Case, reference: Trainer, kept: Kept) -> dict[str, Any]:
    """Train a case; return its row, and note what is not as it should be."""
    used = Used()
    its, on_cpu = fitted(case, "cuda", used), losses(reference)
    difference = float(np.max(np.abs(losses(its) - on_cpu) / np.abs(on_cpu)))
    kept.within(f"{name}, against the CPU", difference, case.bound)
    fastest = min(record["seconds"] for record in its.history[1:])
    row = {
        "training": name,
        "rows/s": case.rows / fastest,
        "CPU rows/s": case.rows / min(r["seconds"] for r in reference.history[1:]),
        "loss": float(losses(its)[-1]),
        "on the CPU": float(on_cpu[-1]),
        "difference": f"{difference:.1e}",
        "bound": f"{case.bound:.0e}",
        "again": None,
        "resumed": None,
        "MB in use": used.most / 1e6,
        "step": its.engine.step.note,
    }
    if not row["step"].startswith("CUDA graph"):
        kept.miss(f"{name}: the step is no graph: {row['step']}")
    if case.repeated:
        whole = state(its)
        for column, other in (("again", fitted(case, "cuda")), ("resumed", resumed(case))):
            unlike = [key for key, bits in state(other).items() if whole[key] != bits]
            row[column] = f"{len(unlike)} tensors differ" if unlike else "same bits"
            if unlike:
                kept.miss(f"{name}, {column}: other bits in {', '.join(unlike[:4])}")
    return row


def main(file: str, markdown: str) -> int:
    """Train every case."""
    kept, rows = Kept(file), []
    references: dict[str, Trainer] = {}  # on the CPU: several cases have the same one
    for name, case in CASES.items():
        given = {k: v for k, v in case.settings.items() if k != "mixed"}
        key = repr((case.layers, case.rows, given))
        try:
            if key not in references:
                references[key] = fitted(case, "cpu")
            rows.append(run(name, case, references[key], kept))
        except Exception as error:  # continue with the next one
            kept.miss(f"{name}: {type(error).__name__}: {error}")
            continue
        kept.put(trainings=rows)
        print(f"{name}: {rows[-1]}", flush=True)
        Path(markdown).write_text(table(rows) + "\n", "utf-8")
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
