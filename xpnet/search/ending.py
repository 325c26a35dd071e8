"""The end of a sweep: the best trial becomes a run of its own, scored once on the test part."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from xpnet.data.tables.memory import speaks_arrow
from xpnet.errors import DataError, TrainingError
from xpnet.run import load, load_splits, train
from xpnet.run.origin import origin_of
from xpnet.run.reporting import scored_and_shown
from xpnet.run.run_folder import RunFolder
from xpnet.run.trained_run import Run
from xpnet.search.result import Sweep
from xpnet.search.trials import Base, Trial, folder_of
from xpnet.storage.durable import storage_errors

__all__ = ["finish"]


def finish(
    found: Sweep,
    base: Base,
    settings: tuple[str, ...] | None,
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> Sweep:
    """Return ``found`` with its best run, and write the result.

    The best trial is copied; or with ``settings``, those without a validation part, it is trained
    again on all rows but the test part. Raises TrainingError where no trial finished.
    """
    if found.interrupted:
        _write(found, warn)
        return found
    best = found.best
    if best is None:
        _write(found, warn)
        reasons = [t for t in found.trials if t.reason]
        why = f"; trial {reasons[0].number}: {reasons[0].reason}" if reasons else ""
        msg = f"no trial of {len(found.trials)} finished{why}"
        raise TrainingError(msg)
    if settings is None:
        run = _kept(found, best, base, warn)
    else:
        report(f"training the best, trial {best.number}, on all rows but the test part")
        run = _retrained(found, best, base, settings, warn)
        if run.interrupted:
            found = replace(found, interrupted=True, stopped=run.stopped)
            _write(found, warn)
            return found
    found = replace(found, run=run, retrained=settings is not None)
    _write(found, warn)
    return found


def _write(found: Sweep, warn: Callable[[str], None]) -> None:
    """Write the result, and the page: what fails while it is drawn spoils nothing."""
    found.folder.write_json(found.folder.result_path, found.as_dict())
    try:
        found.report()
    except Exception as error:  # whatever a library that draws raises
        warn(f"no report.html: {type(error).__name__}: {error}")


def _kept(found: Sweep, best: Trial, base: Base, warn: Callable[[str], None]) -> Run:
    """A copy of the trial's run, with its scores on the test part."""
    place = found.folder.best_path
    if not _is_of(found, best):
        copy = place.with_name(".best")
        with storage_errors("copy the best trial to", place):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder_of(found.folder.path, best.number), copy)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(copy, place)
            _mark(place, best)
    run: Any = load(place)
    folder = RunFolder(place)
    if before := folder.read_json(folder.report_path):
        return replace(run, test=before)
    table = base.source if speaks_arrow(base.source) else None
    splits = load_splits(run.config, table, origin_of(run))
    if splits.fingerprint != run.fingerprint:
        msg = "the data has changed since the sweep began: the test part would be another one"
        raise DataError(msg)
    return scored_and_shown(run, splits, lambda line: None, warn)


def _retrained(
    found: Sweep,
    best: Trial,
    base: Base,
    settings: tuple[str, ...],
    warn: Callable[[str], None],
) -> Run:
    place = found.folder.best_path
    same = _is_of(found, best)
    if not same:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        _mark(place, best)
    return train(
        base.source,
        place,
        recipe=base.recipe,
        settings=[*settings, *found.words(best)],
        start_from=base.start_from,
        resume=same,
        progress=False,
        report=lambda line: None,
        warn=warn,
    )


def _is_of(found: Sweep, best: Trial) -> bool:
    """Whether the folder of the best has this trial already."""
    try:
        return (found.folder.best_path / "trial").read_text() == f"{best.number}\n"
    except OSError:
        return False


def _mark(place: Path, best: Trial) -> None:
    (place / "trial").write_text(f"{best.number}\n")
