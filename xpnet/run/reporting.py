"""Writing the page of a run: at the end of its training, and later from what its folder has."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpnet.data.files import naming
from xpnet.data.tables.memory import speaks_arrow
from xpnet.errors import DataError
from xpnet.report.evidence import UNNAMED
from xpnet.report.page import Report, page
from xpnet.run.config import to_toml
from xpnet.run.description import describe
from xpnet.run.preprocessing import Splits
from xpnet.run.report_data import Tally, changed, ended, gathered, name_of, tally_of
from xpnet.run.run_folder import RunFolder
from xpnet.run.scores import scores
from xpnet.storage.durable import write_output

if TYPE_CHECKING:  # which imports this module
    from xpnet.run.trained_run import Run

__all__ = ["MARK", "report_of", "scored_and_shown", "write_folder", "write_report"]

MARK = '<meta name="xpnet-test-rows" content="'  # near the top of a page: how many it shows
HEAD = 4096  # bytes in which the mark is


def report_of(run: "Run", source: Any = None, *, label: Any = None) -> Report:
    """Gather what a loaded run has to show, scored on its test part or on a labelled ``source``.

    Where its own test rows cannot be had any more, the report says so and has the rest. Raises
    DataError for a ``source`` that does not fit.
    """
    record = run.folder.read_json(run.folder.run_path) if run.folder.path.is_dir() else {}
    if source is not None:
        name = "the given table" if speaks_arrow(source) else str(source)
        with naming(name):
            part = run.read(source, labelled=True, label=label)
        notes = part.columns.notes if part.columns else ()
        tally = tally_of(run)
        found = scores(run, part, tally=tally)
        of, said = f"the rows of {name}", [*_said(run), *notes]
        return gathered(run, part, found, tally, of=of, said=said, record=record)
    try:
        splits = run.splits()
    except (DataError, OSError) as error:
        return _without_rows(run, f"Single rows, and what is computed from them: {error}", record)
    if splits.test is None:
        return _of_splits(run, splits, {}, None, record)
    tally = tally_of(run)
    return _of_splits(run, splits, scores(run, splits.test, tally=tally), tally, record)


def _of_splits(
    run: "Run",
    splits: Splits,
    found: dict[str, Any],
    tally: Tally | None,
    record: dict[str, Any],
) -> Report:
    """The report of a run on its own test part, of which ``found`` are the scores."""
    of, missing = "", ["Test scores: the run was trained with data.test_fraction = 0."]
    if splits.test is not None:
        of, missing = f"the test part of {splits.test.name}", []
    return gathered(
        run, splits.test, found, tally, of=of, said=describe(splits), missing=missing,
        record=record,
    )  # fmt: skip


def _without_rows(run: "Run", why: str, record: dict[str, Any]) -> Report:
    """The report of what the folder has: scores, if they are of these weights, and curves."""
    found = run.folder.read_json(run.folder.report_path) if _scores_are_its(run) else {}
    return gathered(run, None, found, None, said=_said(run), missing=[why], record=record)


def _scores_are_its(run: "Run") -> bool:
    """Whether the scores in the folder are of the checkpoint that was loaded."""
    if not run.folder.path.is_dir() or run.checkpoint is None:
        return False
    return run.folder.checkpoint().path == run.checkpoint.path


def write_folder(folder: RunFolder, path: str | Path | None, why: str) -> Path:
    """Write what a folder without a checkpoint has of its run; return the page's path."""
    config, record = folder.config(), folder.read_json(folder.run_path)
    place = folder.page_path if path is None else Path(path)
    _keep_rows(place, path, [why])
    task = config.data.task
    found = Report(
        name=name_of(folder),
        task="classification" if task == "auto" else task,
        targets=(UNNAMED,),
        history=folder.history(),
        ended=ended(record),
        scores=folder.read_json(folder.report_path),
        missing=[f"Layers, and what is computed with the model: {why}"],
        changed=changed(config),
        config=to_toml(config),
        record=record,
        warnings=[str(line) for line in record.get("warnings", ())],
    )
    _write(place, found)
    return place


def _keep_rows(place: Path, path: str | Path | None, why: Sequence[str]) -> None:
    """Raise DataError rather than replace a run's page by one without its test rows."""
    if path is None and _rows_of(place):
        msg = f"{place} shows test rows, which cannot be had again: {' '.join(why)}"
        raise DataError(
            msg,
            python="report(path) writes another file, report(data=...) takes labelled rows",
            command="--output FILE writes another file, or name a FILE of labelled rows",
        )


def _said(run: "Run") -> list[str]:
    columns = run.preprocessing.columns
    return columns.lines(run.preprocessing.classes) if columns else []


def write_report(run: "Run", path: str | Path | None, source: Any, *, label: Any = None) -> Path:
    """Write the page of a run and return its path; see :meth:`Run.report`."""
    place = default_path(run) if path is None else Path(path)
    found = report_of(run, source, label=label)
    if found.tally is None:
        _keep_rows(place, path, found.missing)
    _write(place, found)
    return place


def default_path(run: "Run") -> Path:
    """Return where the page of a run is: in its folder, or beside its file."""
    path = run.folder.path
    return run.folder.page_path if path.is_dir() else path.with_suffix(".html")


def scored_and_shown(
    run: "Run", splits: Splits, tell: Callable[[str], None], warn: Callable[[str], None]
) -> "Run":
    """Return a trained run with its scores on the test part; write these, and its page.

    What prevents the page is a warning, for the training is done and good.
    """
    tally, folder = None, run.folder
    if splits.test is not None:
        tally = tally_of(run) if run.config.report else None
        result = scores(run, splits.test, tally=tally)
        folder.write_json(folder.report_path, result)
        run = replace(run, test=result)
    if run.config.report:
        write_page(run, splits, tally, tell, warn)
    return run


def write_page(
    run: "Run",
    splits: Splits,
    tally: Tally | None,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Write the page of a run that has been scored; warn of what prevents it."""
    folder = run.folder
    try:
        page = default_path(run)
        record = folder.read_json(folder.run_path)
        _write(page, _of_splits(run, splits, dict(run.test), tally, record))
    except Exception as error:  # of a library that is broken, too, or a full disk
        why = " ".join(f"{type(error).__name__}: {error}".split())
        path = shlex.quote(str(folder.path))
        warn(f"the report was not written: {why}; to try again: xpnet report {path}")
    else:
        tell(f"report {page}")


def _write(place: Path, report: Report) -> None:
    text = page(report)
    write_output(place, [text.encode()])


def _rows_of(path: Path) -> int:
    """How many test rows an earlier page shows; 0 where there is none."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD).decode("utf-8", "replace")
    except OSError:
        return 0
    digits = head.partition(MARK)[2].partition('"')[0]
    return int(digits) if digits.isdecimal() else 0
