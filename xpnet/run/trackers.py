"""The callbacks that a run's config asks for: TensorBoard, MLflow."""

from collections.abc import Callable
from typing import Any

from xpnet.errors import require
from xpnet.run.config import Config, TrackingConfig, telling_settings
from xpnet.run.run_folder import RunFolder
from xpnet.tracking.mlflow import MLflow
from xpnet.tracking.tensorboard import TensorBoard
from xpnet.tracking.tracker import Tracker

__all__ = ["check_usable", "trackers"]


def check_usable(tracking: TrackingConfig, folder: RunFolder) -> None:
    """Raise an error, before any data is read, for what is asked for and cannot be used.

    That is a BackendError for a package that is missing, a ConfigError for a server that is.
    """
    if tracking.tensorboard:
        require("tensorboard", "tensorboard", "tracking.tensorboard")
    if tracking.mlflow:
        MLflow(_place(tracking, folder.read_json(folder.run_path))).check()


def trackers(
    config: Config, folder: RunFolder, record: dict[str, Any], report: Callable[[str], None]
) -> list[Tracker]:
    """Return the trackers of a run; ``record`` is run.json, which keeps the id of MLflow's run.

    Raises ConfigError where MLflow's run cannot be made or taken up.
    """
    found: list[Tracker] = []
    settings = telling_settings(config)
    if config.tracking.tensorboard:
        found.append(TensorBoard(folder.path / "tensorboard", settings, report))
    if config.tracking.mlflow:
        earlier, uri = record.get("mlflow", {}), _place(config.tracking, record)
        known = earlier.get("run_id") if uri == earlier.get("uri") else None
        name = folder.path.resolve().name
        logging = MLflow(uri, run_id=known, name=name, settings=settings, report=report)
        record["mlflow"] = {"run_id": logging.begin(), "uri": logging.uri}
        found.append(logging)
    return found


def _place(tracking: TrackingConfig, record: dict[str, Any]) -> str | None:
    """Where MLflow logs: as it is set, else where this run has been logged, else its default."""
    if isinstance(tracking.mlflow, str):
        return tracking.mlflow
    earlier = record.get("mlflow")  # of a file that anybody may have changed
    return earlier.get("uri") if isinstance(earlier, dict) else None
