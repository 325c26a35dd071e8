"""Runs side by side: their scores, what they took, and only the settings that differ.

Whether a difference is luck is asked where runs have the same test rows: xpnet/run/paired_runs.py.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpnet.errors import ConfigError
from xpnet.run.config import telling_settings
from xpnet.run.overview import (
    Overview,
    is_folder_of_runs,
    measured,
    number,
    overview,
    runs_in,
)
from xpnet.run.paired_runs import Against, paired_with
from xpnet.run.run_folder import RunFolder
from xpnet.run.trained_run import Run, load
from xpnet.storage.safe_open import as_path
from xpnet.training.trainer import Trainer

if TYPE_CHECKING:
    from xpnet.report.comparison import Curves

__all__ = ["Comparison", "compare"]

PARTS = {"val_": "validation", "": "training"}
ENVIRONMENT = ("xpnet", "backend", "version", "device", "dtype")  # of run.json


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, the best of each score first.

    ``rows`` is a table for pandas or polars, of plain values; ``settings`` has a value of each run
    for every setting that differs, None where it has none.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, list[Any]]
    notes: list[str]  # on what cannot be compared
    against: list[Against]  # each run beside the best, on the same test rows
    runs: list[Overview]  # in the order of the rows

    def html(self) -> str:
        """Return a page of its own: learning curves, scores, differences."""
        from xpnet.report.comparison import comparison_page

        against = [each.row() for each in self.against]
        return comparison_page(self.rows, self._curves(), self.settings, against, self.notes)

    def _curves(self) -> "list[Curves]":
        """The loss and each metric by epoch, of the validation and of the training."""
        from xpnet.report.comparison import Curves

        names = dict.fromkeys(name for run in self.runs for name in measured(run.history))
        drawn = []
        for name, (prefix, part) in itertools.product(names, PARTS.items()):
            key, lines = f"{prefix}{name}", []
            for row, run in zip(self.rows, self.runs, strict=True):
                epochs = enumerate(run.history, 1)
                pairs = [(number(r.get("epoch")) or n, number(r.get(key))) for n, r in epochs]
                points = [(x, y) for x, y in pairs if y is not None]
                if points:
                    lines.append((row["run"], [x for x, _ in points], [y for _, y in points]))
            if lines:
                drawn.append(Curves(f"{name.replace('_', ' ')} of the {part}", lines))
        return drawn

    def document(self) -> dict[str, Any]:
        """Return it as JSON data, as ``xpnet compare --json`` prints it."""
        return {
            "runs": self.rows,
            "settings": self.settings,
            "notes": self.notes,
            "against": [each.row() for each in self.against],
        }


def compare(runs: Iterable[str | Path | Run], *, paired: bool = True) -> Comparison:
    """Compare runs: folders of runs, folders of several of them, files that ``Run.save`` wrote.

    Where runs were tested on the same rows, and the data is still there, each is also compared
    with the best, row by row; ``paired=False`` leaves that out, and reads no data.
    Raises ConfigError for fewer runs than two, CheckpointError for what is no run.

        xpnet.compare(["runs/a", "runs/b"]).rows
    """
    if isinstance(runs, str | Path | Run):
        runs = [runs]
    found, notes = _found(runs)
    if len(found) < 2:
        have = f"got {found[0].path}" if found else "there is none"
        msg = f"a comparison takes two runs or more, and {have}"
        left = f" ({'; '.join(notes)})" if notes else ""
        raise ConfigError(
            msg + left, python="pass their paths", command="xpnet show RUN shows a single one"
        )
    names = _names([run.path for run in found])
    by_name = dict(zip(names, found, strict=True))
    against: list[Against] = []
    if paired:
        against, scored, said = paired_with(by_name)
        by_name, notes = {**by_name, **scored}, notes + said
    by_name = dict(sorted(by_name.items(), key=lambda item: _rank(item[1])))
    rows = [_row(name, run) for name, run in by_name.items()]
    against.sort(key=lambda each: list(by_name).index(each.run))
    ordered = list(by_name.values())
    return Comparison(rows, _settings(ordered), notes + _different(rows), against, ordered)


def _found(runs: Iterable[str | Path | Run]) -> tuple[list[Overview], list[str]]:
    """The runs, each once, and notes on those that are left out."""
    found: dict[Path, Overview] = {}
    notes = []
    for run in runs:
        path = run.folder.path if isinstance(run, Run) else as_path(run, "runs")
        for seen in runs_in(path) if is_folder_of_runs(path) else [_seen(path)]:
            place = seen.path.resolve()
            if place in found:
                notes.append(f"{seen.path} is named twice, and compared once")
            elif seen.status == "torn":
                notes.append(f"{seen.path} is left out: {seen.note}")
            else:
                found[place] = seen
    return list(found.values()), notes


def _seen(path: Path) -> Overview:
    """A run folder, or a run or a trainer in one file."""
    if RunFolder(path).exists():
        return overview(path)
    loaded = load(path, backend="numpy", device="cpu")
    trainer = loaded if isinstance(loaded, Trainer) else loaded.trainer
    config = None if isinstance(loaded, Trainer) else loaded.config
    record: dict[str, Any] = {"parameters": trainer.engine.params_layout.size}
    if isinstance(loaded, Run):
        record["fingerprint"] = loaded.fingerprint
    history = list(trainer.history)
    return Overview(path, "finished", "", config, record, {}, history, len(history))


def _rank(run: Overview) -> tuple[Any, ...]:
    """Where a run belongs: the best of its score first, those without one last."""
    score = run.score
    if score is None or score.value != score.value:
        return (score is None, "" if score is None else score.name, True, 0.0)
    return (False, score.name, False, -score.better)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell it from the others."""
    parts = [path.resolve().parts for path in paths]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(p[-length:] == own[-length:] for p in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _row(name: str, run: Overview) -> dict[str, Any]:
    row, score, record = run.row(), run.score, run.record
    best = run.best
    return {
        "run": name,
        "path": row["path"],
        "status": row["status"],
        "task": row["task"],
        "data": row["data"],
        "fingerprint": record.get("fingerprint"),
        "test_rows": record.get("test_rows"),
        "metric": None if score is None else score.name,
        "score": None if score is None else score.value,
        "loss": row["loss"],
        "val_loss": None if best is None else number(best.get("val_loss")),
        "best_epoch": row["best_epoch"],
        "epochs": row["epochs"],
        "parameters": row["parameters"],
        "seconds": row["seconds"],
    }


def _settings(runs: Sequence[Overview]) -> dict[str, list[Any]]:
    """The settings, and what a run was made with, where they are not the same for all."""
    tables = []
    for run in runs:
        table = {} if run.config is None else telling_settings(run.config)
        made = {f"run.{key}": run.record[key] for key in ENVIRONMENT if key in run.record}
        tables.append({**table, **made})
    keys = dict.fromkeys(key for table in tables for key in table)
    columns = {key: [table.get(key) for table in tables] for key in keys}
    return {key: values for key, values in columns.items() if len({*map(_text, values)}) > 1}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _different(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What keeps the scores from being compared, in words."""
    notes = []
    groups = {
        "metric": "are not ranked together: their scores are",
        "data": "learnt from different data:",
    }
    for key, words in groups.items():
        by_value: dict[Any, list[str]] = {}
        for row in rows:
            if row[key] is not None:
                by_value.setdefault(row[key], []).append(row["run"])
        if len(by_value) > 1:
            told = "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())
            notes.append(f"the runs {words} {told}")
    prints = {(row["data"], row["fingerprint"]) for row in rows if row["fingerprint"]}
    for data in sorted({d for d, _ in prints if sum(d == other for other, _ in prints) > 1}):
        notes.append(
            f"the rows or columns taken from {data} are not the same for all: scores on other "
            "rows differ by luck, too"
        )
    waiting = [row["run"] for row in rows if row["status"] != "finished"]
    if waiting:
        notes.append(f"not finished, so without a score on the test part: {', '.join(waiting)}")
    unscored = [r["run"] for r in rows if r["status"] == "finished" and r["metric"] is None]
    if unscored:
        notes.append(f"without a score, for there is no test part: {', '.join(unscored)}")
    return notes
