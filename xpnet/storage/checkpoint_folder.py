"""The checkpoints of one run: the last few, and the best."""

import filecmp
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.errors import CheckpointError, ConfigError
from xpnet.storage.checkpoint_file import Checkpoint, load, save
from xpnet.storage.durable import atomic_link, make_folder, storage_errors, sweep

__all__ = ["CheckpointFolder"]

STEP_FILE = re.compile(r"step-(\d{10,})\.safetensors")


class CheckpointFolder:
    """A folder of ``step-0000001234.safetensors`` files and a ``best.safetensors``.

    After a save at step ``s`` the folder holds the last ``keep`` checkpoints up to ``s``. Those of
    later steps are deleted as well: they were abandoned when the run resumed from an earlier step.
    Nothing is deleted before the new file has been read back and verified. The best checkpoint is a
    hard link to the file of its step, or a copy, and outlives it.

    ``skipped`` holds one message for each file that the last :meth:`newest` skipped.
    """

    def __init__(self, path: str | Path, keep: int = 3) -> None:
        if keep < 1:
            msg = f"keep must be >= 1; got {keep}"
            raise ConfigError(msg)
        self.path = Path(path)
        self.keep = keep
        self.skipped: list[str] = []
        self._made = False
        sweep(self.path)

    @property
    def best_path(self) -> Path:
        """The path of the best checkpoint, if there is one."""
        return self.path / "best.safetensors"

    def steps(self) -> dict[int, Path]:
        """Return the files by step, oldest first, whether they are intact or not."""
        with storage_errors("list", self.path):
            names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        found = ((STEP_FILE.fullmatch(name), name) for name in names)
        return dict(sorted((int(match[1]), self.path / name) for match, name in found if match))

    def make(self) -> None:
        """Create the folder, once: if it is removed later, so is its lock."""
        with storage_errors("create the folder", self.path):
            make_folder(self.path)
        self._made = True

    def save(
        self,
        step: int,
        tensors: Mapping[str, np.ndarray],
        meta: Mapping[str, Any],
        *,
        best: bool = False,
    ) -> Path:
        """Write the checkpoint of ``step``, name it the best if ``best``, and delete old ones.

        Raises CheckpointError, with all earlier checkpoints still in place.
        """
        if not self._made:
            self.make()
        path = self.path / f"step-{step:010d}.safetensors"
        save(path, tensors, meta)
        load(path)
        if best:
            atomic_link(path, self.best_path)
        self._delete_old(step)
        return path

    def name_best(self, step: int) -> None:
        """Name the checkpoint of ``step`` the best, if it exists and is not the best already.

        This finishes the work of a writer that was killed. Raises CheckpointError.
        """
        path = self.steps().get(step)
        if path is None:
            return
        with storage_errors("read", path):
            if self.best_path.exists() and filecmp.cmp(path, self.best_path, shallow=False):
                return
        load(path)
        atomic_link(path, self.best_path)

    def newest(self) -> Checkpoint | None:
        """Read the newest intact checkpoint, else the best; None if all of them are damaged.

        A writer beside this reader may delete what was just listed, after writing a newer one. So
        the folder is listed again until it stays as it was.
        """
        paths: list[Path] | None = None
        while (listed := list(self._newest_first())) != paths:
            paths, self.skipped = listed, []
            for path in paths:
                try:
                    return load(path)
                except CheckpointError as error:
                    self.skipped.append(str(error))
        return None

    def best(self) -> Checkpoint | None:
        """Read the best checkpoint; None if there is none."""
        return load(self.best_path) if self.best_path.exists() else None

    def _newest_first(self) -> Iterator[Path]:
        yield from reversed(self.steps().values())
        if self.best_path.exists():
            yield self.best_path

    def _delete_old(self, newest: int) -> None:
        steps = self.steps()
        kept = [step for step in steps if step <= newest][-self.keep :]
        for step, path in steps.items():
            if step not in kept:
                with storage_errors("delete", path):
                    path.unlink(missing_ok=True)
