"""The folder of a run: its files and their names.

config.toml          the resolved config
run.json             versions, backend, device and threads, the data's fingerprint, how it ended
history.jsonl        one record per epoch, appended while training
checkpoints/         the last few, and the best
report.json          the scores on the test part
report.html          the page of the run
"""

import json
import os
from pathlib import Path
from typing import Any, Literal

from xpnet.errors import CheckpointError
from xpnet.run.config import Config, to_toml
from xpnet.run.config_sources import read_toml
from xpnet.settings import build, convert, did_you_mean
from xpnet.storage import Checkpoint, CheckpointFolder, History, atomic_write_text
from xpnet.storage.plain_json import json_text
from xpnet.storage.safe_open import MAX_JSON, read_regular

__all__ = ["RunFolder", "check_which"]


class RunFolder:
    """Names and files of a run folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.toml"
        self.run_path = self.path / "run.json"
        self.history_path = self.path / "history.jsonl"
        self.checkpoint_path = self.path / "checkpoints"
        self.report_path = self.path / "report.json"
        self.page_path = self.path / "report.html"
        self._config: Config | None = None
        self.skipped: list[str] = []  # messages of the last :meth:`checkpoint`

    def exists(self) -> bool:
        """Whether a run has started here, or files are here that a run would overwrite."""
        ours = (self.config_path, self.run_path, self.history_path, self.report_path)
        return any(map(os.path.lexists, (*ours, self.page_path, self.checkpoint_path)))

    def config(self) -> Config:
        """Return the config, read once; raises CheckpointError if there is none."""
        if self._config is None:
            try:
                self._config = build(Config, read_toml(self.config_path))
            except (FileNotFoundError, NotADirectoryError):
                raise CheckpointError(self._absent()) from None
            except (ValueError, OSError, RecursionError) as error:
                msg = f"{self.config_path} cannot be read: {_why(error)}"
                raise CheckpointError(msg) from None
        return self._config

    def _absent(self) -> str:
        if self.path.is_dir():
            absent = "it has no config.toml, and no model.safetensors"
            return f"{str(self.path)!r} is not a run folder: {absent}"
        parent = self.path.parent
        folders = parent.iterdir() if parent.is_dir() else ()
        near = sorted(p.name for p in folders if (p / "config.toml").is_file())
        hint = f"; {did_you_mean(self.path.name, near)}" if near else ""
        return f"no run folder {str(self.path)!r}{hint}"

    def write_config(self, config: Config) -> None:
        """Write the config durably."""
        atomic_write_text(self.config_path, to_toml(config))
        self._config = config

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file durably; NaN and infinities become texts, as in the history."""
        atomic_write_text(path, json_text(value, indent=2) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON file, NaN and infinities as texts; {} if there is none yet."""
        try:
            value = json.loads(read_regular(path, MAX_JSON))
        except (FileNotFoundError, NotADirectoryError):  # of a single checkpoint, there is none
            return {}
        except (ValueError, OSError, RecursionError) as error:
            msg = f"{path} cannot be read: {_why(error)}"
            raise CheckpointError(msg) from None
        if not isinstance(value, dict):
            msg = f"{path} is not a JSON object; repair or remove it"
            raise CheckpointError(msg)
        return value

    def history(self) -> list[dict[str, Any]]:
        """Return the epochs' records."""
        return History(self.history_path).read()

    def last_epochs(self, count: int) -> tuple[list[dict[str, Any]], int]:
        """Return the records of the last epochs, and how many there are in all."""
        return History(self.history_path).last(count)

    def checkpoint(self, which: str = "auto") -> Checkpoint:
        """Read the "best" checkpoint, the "last", or ("auto") the best if there is one.

        "auto" and "last" skip damaged files, and leave a message for each in ``skipped``. Raises
        ConfigError for another word, CheckpointError where there is none that can be read.
        """
        check_which(which)
        folder = CheckpointFolder(self.checkpoint_path)
        found, self.skipped = None, []
        if which in ("best", "auto"):
            try:
                found = folder.best()
            except CheckpointError as error:
                self.skipped.append(str(error))
        if found is None and which != "best":
            found = folder.newest()
            self.skipped += folder.skipped
        if found is None:
            torn = f": {self.skipped[0]}" if self.skipped else ""
            what = "best checkpoint" if which == "best" else "checkpoint"
            msg = f"no {what} in {self.checkpoint_path}{torn}"
            raise CheckpointError(msg)
        return found


def check_which(which: Any) -> None:
    """Raise ConfigError for what is no choice among the checkpoints of a run."""
    convert(Literal["auto", "best", "last"], which, "which")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
