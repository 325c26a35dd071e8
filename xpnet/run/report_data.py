"""What a run has to show, gathered from its folder, its model and its test rows."""

import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from xpnet.data import NAMES, Dataset, StreamedDataset
from xpnet.data.written import as_pictures, as_written, picture_shape
from xpnet.errors import CheckpointError
from xpnet.report.evidence import UNNAMED, ClassTally, LabelTally, ValueTally
from xpnet.report.mistakes import Shown
from xpnet.report.page import Report
from xpnet.run.config import Config, to_toml
from xpnet.run.report_columns import features_of, importance_of, left_out_of
from xpnet.run.run_folder import RunFolder
from xpnet.settings import dump, flattened

if TYPE_CHECKING:  # which imports this module
    from xpnet.run.trained_run import Run

__all__ = ["Tally", "changed", "ended", "gathered", "name_of", "tally_of"]

Tally = ClassTally | LabelTally | ValueTally


def tally_of(run: "Run") -> Tally:
    """Return what a pass over labelled rows fills for the report of a run."""
    preprocessing, seed = run.preprocessing, run.config.seed
    probable = run.trainer.loss.takes != "margins"
    if preprocessing.classes is not None:
        return ClassTally(preprocessing.classes, seed, probable=probable)
    names = targets_of(run)
    if preprocessing.task == "multilabel":
        return LabelTally(names, seed, probable=probable)
    scaler = preprocessing.target_scaler
    scale = np.ones(()) if scaler is None else scaler.scale
    return ValueTally(names, np.asarray(scale).reshape(-1) if scale.ndim else scale, seed)


def targets_of(run: "Run") -> tuple[str, ...]:
    """Return the names of what is predicted: targets or labels, or the column of the label."""
    preprocessing, columns = run.preprocessing, run.preprocessing.columns
    if preprocessing.targets:
        return preprocessing.targets
    if columns is not None and columns.label is not None and columns.names:
        return (columns.shown(columns.label),)
    count = preprocessing.outputs
    return (UNNAMED,) if count == 1 else tuple(f"target {j}" for j in range(count))


def gathered(
    run: "Run",
    part: Dataset | StreamedDataset | None,
    scores: dict[str, Any],
    tally: Tally | None,
    *,
    of: str = "",
    said: Sequence[str] = (),
    missing: Sequence[str] = (),
    record: dict[str, Any] | None = None,
) -> Report:
    """Return all that the page of a run shows.

    ``part`` are the rows that ``scores`` and ``tally`` are of, and ``of`` their name; ``said`` what
    training said of its data, ``missing`` what cannot be shown, and why. ``record`` is run.json.
    """
    config, preprocessing, record = run.config, run.preprocessing, record or {}
    history = _history(run)
    importance, why_not = (None, "")
    shape = None if part is None else _picture_shape(run, part)
    if part is not None and shape is None and part.labelled:
        importance, why_not = importance_of(run, part)
    described = part.columns if part is not None else None
    flat = shape is None
    gone = list(missing)
    if not history:
        gone.append("Curves: the run has no history of its epochs.")
    return Report(
        name=name_of(run.folder),
        task=preprocessing.task,
        targets=targets_of(run) if preprocessing.classes is None else (),
        history=history,
        kept=_kept(run, history),
        ended=ended(record),
        part=of or "the test part",
        scores=scores,
        weighted=isinstance(part, Dataset) and part.weight is not None,
        tally=tally,
        mistakes=_shown(part, tally, shape) if part is not None and tally is not None else (),
        missing=gone,
        features=features_of(preprocessing, config.data.scaling, described) if flat else (),
        left_out=left_out_of(preprocessing.columns),
        importance=importance,
        why_not=why_not,
        layers=run.trainer.model.table().groups,
        changed=changed(config),
        config=to_toml(config),
        record=record,
        said=said,
        warnings=[str(line) for line in record.get("warnings", ())],
        commands=_commands(run),
    )


def name_of(folder: RunFolder) -> str:
    """Return what a run is called."""
    return folder.path.resolve().name or str(folder.path)


def _picture_shape(run: "Run", part: Dataset | StreamedDataset) -> tuple[int, ...] | None:
    dtype = part.x.dtype if isinstance(part, Dataset) else np.dtype(part.file.dtype)
    named = run.config.data.source in NAMES
    return picture_shape(part.feature_shape, dtype, run.preprocessing.columns, named=named)


def _shown(
    part: Dataset | StreamedDataset, tally: Tally, shape: tuple[int, ...] | None
) -> list[Shown]:
    """The mistakes with their rows, as pictures or texts."""
    if not tally.mistakes:
        return []
    x = part.take([mistake.row for mistake in tally.mistakes]).x
    if shape is not None:
        return [Shown(m, row) for m, row in zip(tally.mistakes, as_pictures(x, shape), strict=True)]
    flat = x.reshape(len(x), -1)
    written = as_written(flat, part.columns if x.ndim == 2 else None)
    return [Shown(m, None, row) for m, row in zip(tally.mistakes, written, strict=True)]


def _history(run: "Run") -> list[dict[str, Any]]:
    """The records of all epochs; those of the best checkpoint end with its own."""
    with suppress(CheckpointError):
        if found := run.folder.history():
            return found
    return run.trainer.history


def _kept(run: "Run", history: Sequence[dict[str, Any]]) -> int | None:
    """The epoch at whose end the weights were kept, where there was a choice."""
    if run.checkpoint is None or not any("val_loss" in record for record in history):
        return None
    position = cast(Any, run.checkpoint.meta).get("position") or {}
    return next((r["epoch"] for r in history if r.get("step") == position.get("step")), None)


def ended(record: dict[str, Any]) -> str:
    """Say why the training has not taken all of its epochs, or ""."""
    status = record.get("status", "")
    if status == "training":
        return "Training has not ended; its run can be resumed."
    return "" if status in ("", "finished") else f"Training ended early: {status}."


def changed(config: Config) -> list[tuple[str, str, str]]:
    """Return the settings that are not defaults, with the defaults."""
    ours, defaults = flattened(dump(config)), flattened(dump(Config()))
    return [
        (key, _value(value), _value(defaults[key]) if key in defaults else "–")
        for key, value in ours.items()
        if defaults.get(key) != value and value != []
    ]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _commands(run: "Run") -> list[tuple[str, str]]:
    path = shlex.quote(str(run.folder.path))
    found = [
        (f"xpnet predict {path} FILE", "predicts new rows"),
        (f"xpnet report {path} FILE", "makes this page of other labelled rows"),
        (f"xpnet export {path} model.onnx", "takes it to another runtime"),
    ]
    if (Path(run.folder.path) / "config.toml").is_file():
        again = shlex.quote(str(run.folder.config_path))
        found.insert(0, (f"xpnet train {again}", "trains it again"))
    return found
