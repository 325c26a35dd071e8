"""``xpnet show FOLDER``: the runs in a folder, the oldest first."""

from datetime import datetime
from pathlib import Path
from typing import Any

from xpnet.cli.output import cell, print_json, say, show_rows
from xpnet.run.overview import Overview, folders_of_runs, runs_in
from xpnet.training.memory import in_words
from xpnet.training.progress import clock

__all__ = ["show_folder"]

COLUMNS = (
    *(("run", "left"), ("data", "left"), ("score", "right"), ("epochs", "right")),
    *(("status", "left"), ("started", "right"), ("time", "right"), ("size", "right")),
)
STYLES = {"training": "green", "finished": "", "interrupted": "yellow"}  # others are red


def show_folder(path: str, *, as_json: bool) -> None:
    """Print a line for each run of a folder, then why some are not finished."""
    runs, inner = runs_in(path), [str(each) for each in folders_of_runs(path)]
    if as_json:
        found = [run.row() for run in runs]
        print_json({"kind": "folder", "path": path, "runs": found, "folders": inner})
        return
    rows = []
    for run in runs:
        row = run.row()
        status = cell(run.status, STYLES.get(run.status, "red"))
        rows.append([run.path.name, *_cells(run, row), status, *_costs(row)])
    show_rows(COLUMNS, rows, spare=("epochs", "data", "started", "time", "size"))
    for run in runs:
        if run.note:
            say(f"{run.path.name}: {run.status}: {run.note}")
    for each in inner:
        say(f"more runs in {each}")


def _cells(run: Overview, row: dict[str, Any]) -> tuple[str, ...]:
    data = "-" if row["data"] is None else Path(row["data"]).name
    score = "-" if run.score is None else f"{run.score.name} {run.score.value:.4f}"
    asked = row["epochs_asked"]
    whole = asked is None or asked == run.epochs
    return data, score, f"{run.epochs}" if whole else f"{run.epochs}/{asked}"


def _costs(row: dict[str, Any]) -> tuple[str, ...]:
    started = "-" if row["started"] is None else _local(row["started"])
    time = "-" if row["seconds"] is None else clock(row["seconds"])
    return started, time, in_words(row["bytes"])


def _local(started: str) -> str:
    """A time as run.json has it, in the clock of the reader.

    >>> _local("yesterday")
    'yesterday'
    """
    try:
        return f"{datetime.fromisoformat(started).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return started
