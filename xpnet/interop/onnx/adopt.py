"""``xpnet adopt RUN FILE --out DIR``: a state that was trained elsewhere, as a run of its own."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpnet.errors import CheckpointError, DataError
from xpnet.interop.onnx.step_session import take_back
from xpnet.run.run_folder import RunFolder
from xpnet.run.trained_run import load_run, make_trainer
from xpnet.storage import CheckpointFolder
from xpnet.storage.durable import storage_errors
from xpnet.storage.safe_open import read_regular

__all__ = ["Elsewhere", "adopt", "read_state"]

MAX_STATE = 2**34  # bytes
STEP = "xpnet_step"  # the entry of a file's metadata


class Elsewhere(NamedTuple):
    """A state that an exported step has trained, and after how many steps in all."""

    tensors: dict[str, np.ndarray]
    step: int
    fingerprint: str | None  # of the data that it was trained on


def read_state(path: str | Path) -> Elsewhere:
    """Read a safetensors file that a page has written, or a program of one's own::

        from safetensors.numpy import save_file

        save_file(session.state, path, metadata={"xpnet_step": json.dumps({"step": 600})})

    It has the tensors of a checkpoint by their names, and after how many steps they are this.
    Raises CheckpointError for another file.
    """
    import safetensors
    import safetensors.numpy

    with storage_errors("read", Path(path)):
        raw = read_regular(path, MAX_STATE)
    try:
        tensors = safetensors.numpy.load(raw)
        size = int.from_bytes(raw[:8], "little")
        about = json.loads(raw[8 : 8 + size])["__metadata__"][STEP]
        said = json.loads(about)
        step, fingerprint = said["step"], said.get("fingerprint")
        if type(step) is not int or step < 0:
            raise ValueError(step)
    except safetensors.SafetensorError as error:
        msg = f"{path} is no state of an exported step: it is not a safetensors file ({error})"
        raise CheckpointError(msg) from None
    except (LookupError, TypeError, ValueError):
        msg = f"{path} is no state of an exported step: its metadata does not say after which step"
        remedy = f"save_file(state, path, metadata={{{STEP!r}: json.dumps({{'step': 600}})}})"
        command = f"a page writes it; in Python, {remedy}"
        raise CheckpointError(msg, python=remedy, command=command) from None
    # NumPy's ascontiguousarray, without which safetensors writes other numbers, adds an axis.
    tensors = {
        k: v.reshape(()) if k.startswith("totals/") and v.shape == (1,) else v
        for k, v in tensors.items()
    }
    return Elsewhere(tensors, step, fingerprint)


def adopt(run: str | Path, file: str | Path, out: str | Path) -> list[str]:
    """Write the state in a file into a new run folder, with the config of ``run``.

    It is evaluated, predicts and is resumed as any run. Raises CheckpointError if the state does
    not fit the run or the folder is taken, DataError where it was trained on other data.
    """
    found, state, folder = (
        load_run(run, backend="numpy", device="cpu"),
        read_state(file),
        RunFolder(out),
    )
    if folder.exists():
        msg = f"{str(folder.path)!r} already holds a run"
        raise CheckpointError(msg, python="choose another out", command="choose another --out")
    if state.fingerprint not in (None, found.fingerprint):
        msg = f"{file} was trained on other data than {found.folder.path}"
        raise DataError(msg)
    record = found.folder.read_json(found.folder.run_path)
    trainer = make_trainer(found.config, found.preprocessing, found.trainer.engine.backend)
    tensors, meta = found.trainer.snapshot()
    trainer.restore(tensors, {**meta, "history": [], "callbacks": {}})
    try:
        take_back(trainer, state.tensors, state.step, rows=int(record["train_rows"]))
    except CheckpointError as error:
        raise error.within(str(file)) from None
    if not all(np.isfinite(v).all() for v in state.tensors.values()):
        msg = f"{file} has values that are not finite"
        raise CheckpointError(msg)
    _write(folder, found, trainer, record, str(file))
    epoch, batch, step = trainer.position
    per_epoch = math.ceil(int(record["train_rows"]) / trainer.batch_size)
    part = f" and {batch} of {per_epoch} batches" if batch else ""
    return [f"run folder {folder.path}: {epoch} epochs{part}, {step} steps"]


def _write(folder: RunFolder, found: Any, trainer: Any, record: dict[str, Any], file: str) -> None:
    assert found.checkpoint is not None
    kept = {k: v for k, v in found.checkpoint.meta.items() if k in ("preparation", "fingerprint")}
    with storage_errors("create the folder", folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_config(found.config)
    tensors, meta = trainer.snapshot()
    meta = {**kept, "config": found.checkpoint.meta["config"], **meta}
    checkpoints = CheckpointFolder(folder.checkpoint_path, found.config.checkpoint.keep)
    checkpoints.save(trainer.position.step, {**tensors, **found.preprocessing.tensors()}, meta)
    folder.write_json(folder.run_path, {**record, "status": f"adopted from {file}"})
