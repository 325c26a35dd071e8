"""The folder of a sweep: its files and their names.

sweep.toml           the sweep as it was carried out, which `--sweep` reads again
base.json            what all trials share, to resume without saying it again
base.toml            the config of a trial without what is searched
trials.log           Optuna's journal of the trials, for its dashboard, too
trials/NNN/          a run folder for each trial
best/                the run folder of the best, scored on the test part
sweep.json           the result
report.html          the page
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xpnet.errors import CheckpointError
from xpnet.run.config import Config, to_toml
from xpnet.run.config_sources import read_toml
from xpnet.run.run_folder import RunFolder
from xpnet.settings import build, did_you_mean
from xpnet.storage.durable import atomic_write_text
from xpnet.storage.plain_json import json_text
from xpnet.storage.safe_open import MAX_JSON, read_regular

__all__ = ["SweepFolder", "is_sweep"]


def is_sweep(path: str | Path) -> bool:
    """Return whether there is a sweep in the folder ``path``."""
    return (Path(path) / "sweep.toml").is_file() and (Path(path) / "base.json").is_file()


class SweepFolder:
    """Names and files of the folder of a sweep."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plan_path = self.path / "sweep.toml"
        self.base_path = self.path / "base.json"
        self.config_path = self.path / "base.toml"
        self.result_path = self.path / "sweep.json"
        self.best_path = self.path / "best"
        self.page_path = self.path / "report.html"

    def check_free(self) -> None:
        """Raise CheckpointError where there is a sweep or a run already."""
        if is_sweep(self.path):
            msg = f"{str(self.path)!r} already holds a sweep"
            raise CheckpointError(
                msg,
                python="pass resume=True to continue it, or choose another out",
                command="add --resume to continue it, or choose another --out",
            )
        if RunFolder(self.path).exists():
            msg = f"{str(self.path)!r} holds a run, and a sweep has a folder of its own"
            raise CheckpointError(msg, python="choose another out", command="choose another --out")

    def check_there(self) -> None:
        """Raise CheckpointError where there is no sweep."""
        if is_sweep(self.path):
            return
        parent = self.path.parent
        near = sorted(p.name for p in parent.iterdir() if is_sweep(p)) if parent.is_dir() else []
        hint = f"; {did_you_mean(self.path.name, near)}" if near else ""
        msg = f"no sweep to resume in {str(self.path)!r}{hint}"
        raise CheckpointError(msg)

    def begin(self, plan: str, base: Mapping[str, Any], config: Config) -> None:
        """Write what the sweep is; the plan comes last: with it there is a sweep."""
        atomic_write_text(self.config_path, to_toml(config))
        self.write_json(self.base_path, base)
        atomic_write_text(self.plan_path, plan)

    def config(self) -> Config:
        """Return the config of a trial without what is searched."""
        try:
            return build(Config, read_toml(self.config_path))
        except (ValueError, OSError, RecursionError) as error:
            raise _unreadable(self.config_path, error) from None

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read a JSON object."""
        try:
            value = json.loads(read_regular(path, MAX_JSON))
            if not isinstance(value, dict):
                raise ValueError
        except (ValueError, OSError, RecursionError) as error:
            raise _unreadable(path, error) from None
        return value

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a JSON object durably."""
        atomic_write_text(path, json_text(value, indent=2) + "\n")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    why = getattr(error, "strerror", None) or str(error) or "it is not a JSON object"
    return CheckpointError(f"{path} cannot be read: {why}")
