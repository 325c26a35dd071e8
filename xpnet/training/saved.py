"""A trainer in one file: a checkpoint that also has the settings to make the trainer again.

Beside what :meth:`Trainer.snapshot` returns, the JSON data has one table more::

    trainer   {"format": 1, "settings": {"model": {"layers": [...]}, "loss": ...}}

Layers, losses, update rules, schedules and initialisers are written by the names that they are
registered by, with all their settings, as in a config: to read a file runs no code of it. A class
of the user's own is read where it is registered, too.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from xpnet.backends import Backend, backend_class, backend_names, get_backend, resolve
from xpnet.backends.threads import cores
from xpnet.errors import BackendError, CheckpointError, ConfigError, XpnetWarning
from xpnet.nn import Sequential
from xpnet.parallel import ALONE, Comm
from xpnet.settings import build, dump
from xpnet.storage import Checkpoint
from xpnet.storage import save as write
from xpnet.storage.durable import make_folder, storage_errors
from xpnet.storage.safe_open import as_path
from xpnet.training.arguments import Settings
from xpnet.training.placement import device_of
from xpnet.training.trainer import Trainer

__all__ = [
    "FILE",
    "file_at",
    "is_trainer",
    "save",
    "trainer_of",
    "write_at",
]

FILE = "model.safetensors"  # within a folder
# What writes a file of such a name.
WRITERS = {
    ".onnx": "xpnet.export",
    ".html": "xpnet.export",
    ".pt": "torch.save(xpnet.to_torch_state(...))",
    ".pth": "torch.save(xpnet.to_torch_state(...))",
    ".pkl": "pickle.dump",
    ".pickle": "pickle.dump",
    ".joblib": "joblib.dump",
}
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Saved(Settings):
    """The settings of a trainer, and what its weights are."""

    dtype: Literal["float32", "float64"]


def settings_of(trainer: Trainer) -> dict[str, Any]:
    """Return the settings of a trainer as the plain table that makes it again.

    Raises ConfigError for what cannot be written, such as a class that is not registered, and
    TrainingError while the sizes of the model are not known.
    """
    names = Saved.__dataclass_fields__
    given = {name: getattr(trainer, name) for name in Settings.__dataclass_fields__}
    settings = Saved(**given, dtype=cast(Any, trainer.engine.backend.dtype_name))
    if type(trainer.model) is not Sequential:
        msg = f"a model of the class {type(trainer.model).__name__} cannot be saved"
        raise ConfigError(msg, python="make a Sequential of its layers")
    if isinstance(trainer.class_weights, Mapping) and not trainer.position.step:
        msg = "class weights by label are those of the loss from the first fit on"
        raise ConfigError(msg, python="save the trainer after it")
    table = dump(settings)
    again = build(Saved, table)
    for name in names:
        if not _equal(getattr(again, name), getattr(settings, name)):
            msg = f"{name} {getattr(settings, name)!r} cannot be saved: a setting in it would come "
            msg += "back as another"
            raise ConfigError(msg, python="give its fields the types that they have")
    return table


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # arrays as settings, or an __eq__ of the user's own
        return False


def file_at(path: str | Path, *, make: bool = False) -> Path:
    """Return the file that ``path`` means: itself, or ``model.safetensors`` in a folder.

    What exists as a folder or ends in a slash is a folder; with ``make`` it is made.
    Raises CheckpointError if that cannot be, ConfigError where it is the folder of a run, or no
    path.
    """
    folder, text = as_path(path, "path"), os.fspath(path)
    with storage_errors("find", folder):
        is_folder = text.endswith(("/", os.sep)) or folder.is_dir()
    if not is_folder:
        return folder
    if make:
        if (folder / "config.toml").exists():
            msg = f"{text!r} is the folder of a run, which xpnet.load reads as that"
            raise ConfigError(msg, python="give the path of a file")
        with storage_errors("create the folder", folder):
            make_folder(folder)
    return folder / FILE


def save(path: str | Path, trainer: Trainer) -> Path:
    """Write ``trainer`` to a file and return its path; see :meth:`Trainer.save`."""
    settings = settings_of(trainer)
    tensors, meta = trainer.snapshot()
    return write_at(path, tensors, {**meta, "trainer": {"format": FORMAT, "settings": settings}})


def write_at(path: str | Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Path:
    """Write a checkpoint to the file that ``path`` means, atomically; return its path.

    Raises ConfigError for a name that says that the file has another form.
    """
    file = file_at(path, make=True)
    if (instead := WRITERS.get(file.suffix.lower())) is not None:
        msg = f"a model is saved in the form of safetensors, and {file.name!r} names another"
        raise ConfigError(msg, python=f"end it in .safetensors, or {instead} it")
    write(file, tensors, meta, output=True)
    return file


def is_trainer(checkpoint: Checkpoint) -> bool:
    """Return whether a file has the settings of a trainer."""
    return "trainer" in checkpoint.meta


def trainer_of(
    checkpoint: Checkpoint,
    backend: str | Backend | None = None,
    device: str | None = None,
    **ranks: Any,
) -> Trainer:
    """Make the trainer of a file again, at its position; see :func:`xpnet.load`.

    ``ranks`` are ``comm`` and ``parallel`` of the trainer, which no file has.

    Raises CheckpointError for what is no trainer, or has a class that is not registered here.
    """
    path, table = checkpoint.path, checkpoint.meta.get("trainer")
    if not isinstance(table, dict) or not isinstance(table.get("settings"), dict):
        msg = f"{path} was not saved by a trainer"
        raise CheckpointError(msg)
    if not isinstance(form := table.get("format"), int) or form > FORMAT:
        msg = f"{path} has a trainer of format {form!r}, newer than {FORMAT}; update xpnet"
        raise CheckpointError(msg)
    try:
        settings = build(Saved, table["settings"])
    except (ConfigError, AttributeError, TypeError) as error:
        msg = f"the trainer of {path} cannot be made here: {error}"
        if "unknown" not in str(error):
            raise CheckpointError(msg) from error
        msg += "; a class of your own has to be registered before it is loaded"
        remedy = "import or xpnet.registry.load_plugin the file that has it"
        raise CheckpointError(msg, python=remedy, command="add --plugin FILE") from error
    if settings.model.input_shape is None:
        msg = f"the model of {path} has no sizes, with which every trainer is saved"
        raise CheckpointError(msg)
    comm = ranks.get("comm") or ALONE
    chosen = _backend(checkpoint.meta, settings.dtype, backend, device, comm)
    trainer = _made(settings, checkpoint.meta, chosen, ranks)
    trainer.restore(checkpoint.tensors, checkpoint.meta)
    return trainer


def _backend(
    meta: Mapping[str, Any],
    dtype: str,
    backend: str | Backend | None,
    device: str | None,
    comm: Comm,
) -> Backend:
    """The backend that is asked for, else that of the file where it is here, else "auto"."""
    if isinstance(backend, Backend):
        return backend
    saved = meta.get("backend")
    if backend is None and device is None and isinstance(saved, dict):
        name, where = saved.get("backend"), saved.get("device")
        if name in backend_names() and where in backend_class(name).probe().devices:
            on_gpu = comm.size > 1 and where.startswith("cuda")  # that of one of the ranks
            return get_backend(name, device_of(comm, name, "cuda") if on_gpu else where, dtype)
    backend, device = backend or "auto", device or "auto"
    return resolve(backend, device_of(comm, backend, device), dtype).backend


def _made(
    settings: Saved, meta: Mapping[str, Any], backend: Backend, ranks: Mapping[str, Any]
) -> Trainer:
    """A trainer of the settings, without those that this machine or backend cannot have."""
    mixed, step, threads = settings.mixed, settings.step, settings.threads
    saved = meta.get("backend")
    if step != "portable" and not (
        isinstance(saved, dict) and saved.get("backend") == backend.name
    ):
        step = "auto"  # another backend may have no such step
    pool = backend.threads()
    if threads != "auto" and (pool is None or threads > cores()):
        threads = "auto"
    if mixed is not None:
        try:
            backend.dtype_named(mixed.dtype)
        except BackendError:
            msg = f"the trainer computed in {mixed.dtype}, which {backend.name} does not have: "
            msg += f"here it computes in {settings.dtype}, with mixed=None"
            warnings.warn(msg, XpnetWarning, stacklevel=5)
            mixed = None
    settings = replace(settings, mixed=mixed, step=step, threads=threads)
    given = {name: getattr(settings, name) for name in Settings.__dataclass_fields__}
    return Trainer(**given, backend=backend, **ranks)
