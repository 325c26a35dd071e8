"""The page of a run, from all that was gathered of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from xpnet.page import render
from xpnet.report.classes import classes, labels
from xpnet.report.columns import Feature, columns
from xpnet.report.evidence import UNNAMED, ClassTally, LabelTally, ValueTally
from xpnet.report.importance import Importance
from xpnet.report.layout import Section, Tile, called, number, percent, plural
from xpnet.report.learning import learning
from xpnet.report.making import making
from xpnet.report.measures import wilson
from xpnet.report.mistakes import Shown, mistakes
from xpnet.report.regression import regression

__all__ = ["Report", "headline", "page"]

Task = Literal["classification", "regression", "multilabel"]


@dataclass(frozen=True)
class Report:
    """What a run has to show, as plain data; what is not there is empty or None."""

    name: str
    task: Task
    targets: tuple[str, ...] = ()  # of a regression or several labels, or the label's name
    history: Sequence[Mapping[str, Any]] = ()
    kept: int | None = None  # the epoch whose weights these are
    ended: str = ""  # why before the last epoch
    part: str = "the test part"  # whose rows the scores are of
    scores: Mapping[str, Any] = field(default_factory=dict)  # of xpnet.run.scores
    weighted: bool = False
    tally: ClassTally | LabelTally | ValueTally | None = None
    mistakes: Sequence[Shown] = ()
    missing: Sequence[str] = ()  # what is not on the page, and why
    features: Sequence[Feature] = ()
    left_out: Sequence[tuple[str, str]] = ()
    importance: Importance | None = None
    why_not: str = ""  # there is no importance
    layers: Sequence[Sequence[Sequence[str]]] = ()
    changed: Sequence[tuple[str, str, str]] = ()
    config: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[str] = ()
    warnings: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = ()  # what to do with the run, and what for


def page(report: Report) -> str:
    """Return the page as HTML: one file, which needs no network."""
    failures = _failures(report)
    order = [*report.importance.columns] if report.importance is not None else []
    order += [j for j in range(len(report.features)) if j not in set(order)]
    names = [report.features[j].name for j in order]
    shown = [
        each._replace(cells=tuple(each.cells[j] for j in order)) if each.cells else each
        for each in report.mistakes
    ]
    found = [
        learning(report.history, report.kept, report.ended),
        failures,
        mistakes(
            shown,
            names,
            report.scores.get("classes"),
            report.targets,
            values=report.task == "regression",
            probable=getattr(report.tally, "probable", True),
            part=report.part,
        ),
        columns(report.features, report.left_out, report.importance, report.why_not),
        making(
            report.layers,
            report.changed,
            report.config,
            report.record,
            report.said,
            report.warnings,
        ),
    ]
    sections = [section for section in found if section is not None]
    return render(
        "xpnet.report",
        "report.html",
        title=report.name,
        report=report,
        headline=headline(report),
        tiles=_tiles(report),
        glances=_glances(sections),
        sections=sections,
    )


def _failures(report: Report) -> Section | None:
    scores, tally = report.scores, report.tally
    if not scores:
        return None
    if report.task == "classification":
        return classes(scores, tally if isinstance(tally, ClassTally) else None)
    if report.task == "multilabel":
        return labels(scores, tally if isinstance(tally, LabelTally) else None)
    section = regression(scores, tally if isinstance(tally, ValueTally) else None)
    return section if section.cards else None


def headline(report: Report) -> str:
    """Say how good the run is in one sentence."""
    scores = report.scores
    if not scores:
        return f"{report.name} has no test score"
    rows = f"the {plural(scores['rows'], 'test row')}"
    if report.task == "classification":
        return f"Right on {percent(scores['accuracy'])} of {rows}"
    if report.task == "multilabel":
        return f"Right on {percent(scores['accuracy'])} of the labels of {rows}"
    one = len(report.targets) == 1
    if one and isinstance(report.tally, ValueTally) and report.tally.sample.columns:
        y, predicted = report.tally.sample.columns
        half = float(np.median(np.abs(predicted[:, 0] - y[:, 0])))
        of = "" if report.targets[0] == UNNAMED else f" of {report.targets[0]}"
        return f"Half of its predictions{of} are within {number(half)} of the true value"
    if "r2" in scores:
        return f"R² {number(scores['r2'])} on {rows}"
    return f"Mean squared error {number(scores['mse'])} on {rows}"


def _tiles(report: Report) -> list[Tile]:
    scores, tiles = report.scores, []
    if "accuracy" in scores:
        tiles.append(Tile("accuracy", percent(scores["accuracy"]), _interval(report)))
    if "confusion" in scores:
        support = np.asarray(scores["support"], np.float64)
        if support.sum():
            share = float(support.max() / support.sum())
            name = scores["classes"][int(support.argmax())]
            tiles.append(Tile("same for all", percent(share), f"by answering {called(name)}"))
    if "exact" in scores:
        tiles.append(Tile("all labels right", percent(scores["exact"]), "of the rows"))
    if "macro_f1" in scores:
        tiles.append(
            Tile(
                "mean F1",
                f"{scores['macro_f1']:.3f}",
                "over classes" if "classes" in scores else "over labels",
            )
        )
    if "r2" in scores:
        tiles.append(Tile("R²", f"{scores['r2']:.3f}", "1 is perfect, 0 the mean"))
    if "mae" in scores:
        tiles.append(Tile("mean distance", number(scores["mae"]), "mean absolute error"))
        tiles.append(Tile("root mean square", number(scores["mse"] ** 0.5), "RMSE"))
    if scores:
        tiles.append(Tile("loss", number(scores["loss"]), "on these rows"))
        tiles.append(Tile("test rows", f"{scores['rows']:,}", report.part))
    if report.history:
        seconds = report.record.get("seconds")
        time = f"in {_duration(seconds)}" if isinstance(seconds, int | float) else ""
        tiles.append(Tile("epochs", f"{len(report.history):,}", time))
    if "train_rows" in report.record:
        tiles.append(Tile("trained on", f"{report.record['train_rows']:,}", "rows"))
    return tiles


def _interval(report: Report) -> str:
    """The 95 % interval of the accuracy, where rows count alike."""
    scores = report.scores
    if report.weighted or "confusion" not in scores:
        return ""
    counts = np.asarray(scores["confusion"])
    rows = int(counts.sum())
    if not rows:
        return ""
    low, high = wilson(int(np.trace(counts)), rows)
    return f"{100 * low:.1f} to {100 * high:.1f} \u202f%, with 95\u202f% confidence"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _glances(sections: Sequence[Section]) -> list[Section]:
    return [section for section in sections if section.lead and section.key != "mistakes"]
