"""The page of a sweep: what was found, what mattered, and every trial."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpnet.page import render
from xpnet.report.charts import Chart, Line, bars, curves
from xpnet.report.scatter import scatter
from xpnet.search.space import Parameter, value_of
from xpnet.search.trials import Trial
from xpnet.storage.durable import atomic_write_text

if TYPE_CHECKING:
    from xpnet.search.result import Sweep

__all__ = ["page_of", "write_page"]

MOST_CURVES = 60
MOST_ROWS = 1000
SMALL = (320, 210)
WIDE = (500, 260)


def write_page(found: "Sweep", path: Path) -> Path:
    """Write the page of a sweep; return where it is. Raises CheckpointError."""
    atomic_write_text(path, page_of(found))
    return path


def page_of(found: "Sweep") -> str:
    """Return the page as HTML."""
    config, metric, best = found.folder.config(), found.metric, found.best
    ended = [t for t in found.trials if t.state != "running"]
    states = {state: sum(t.state == state for t in ended) for state in dict.fromkeys(_STATES)}
    order = sorted(ended, key=lambda t: _rank(t, maximize=metric.maximize))
    return render(
        "xpnet.search",
        "sweep.html",
        title=f"Sweep {found.folder.path.name}",
        source=Path(config.data.source).name,
        metric=metric,
        best=best,
        plain=found.plain,
        words=" ".join(f"--set {shlex.quote(w)}" for w in found.words(best)) if best else "",
        test=_test(found),
        states=[(state, count) for state, count in states.items() if count],
        count=len(ended),
        seconds=sum(t.seconds for t in ended),
        stopped=found.stopped,
        retrained=found.retrained,
        has_report=(found.folder.best_path / "report.html").is_file(),
        history=_history(found, ended),
        importance=_importance(found.importance),
        parameters=[(p, _by_value(found, p)) for p in _by_importance(found)],
        learning=_learning(found, ended),
        shown_curves=min(len(ended), MOST_CURVES),
        trials=[
            (t, {key: _shown(value) for key, value in t.values.items()}, t.last)
            for t in order[:MOST_ROWS]
        ],
        left_out=max(0, len(order) - MOST_ROWS),
        keys=[p.key for p in found.space],
        folders={
            t.number: found.trial_folder(t).relative_to(found.folder.path).as_posix() for t in ended
        },
        number=_number,
    )


_STATES = ("finished", "pruned", "diverged", "failed")


def _rank(trial: Trial, *, maximize: bool) -> tuple[int, float, int]:
    """The best first; those without a score after them, the longest first."""
    if trial.value is None:
        return 1, -max(trial.curve, default=0), trial.number
    return 0, -trial.value if maximize else trial.value, trial.number


def _test(found: "Sweep") -> list[tuple[str, float]]:
    scores: Mapping[str, Any] = found.run.test if found.run else {}
    return [(k, scores[k]) for k in ("accuracy", "r2", "mse", "loss") if k in scores]


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
    return str(value)


def _history(found: "Sweep", ended: list[Trial]) -> Chart | None:
    """The value of each trial, and the best so far."""
    done = sorted((t for t in ended if t.value is not None), key=lambda t: t.number)
    if not done:
        return None
    best, steps = done[0].value or 0.0, list[float]()
    for t in done:
        value = t.value or 0.0
        best = value if found.metric.better(value, best) else best
        steps.append(best)
    pruned = [t for t in ended if t.state == "pruned" and t.curve]
    groups = [Line("finished", [t.number for t in done], [t.value or 0.0 for t in done])]
    if pruned:
        last = [t.last or 0.0 for t in pruned]
        groups.append(Line("pruned, where it was", [t.number for t in pruned], last, "soft"))
    path = Line("best so far", [t.number for t in done], steps, "good")
    title = f"{found.metric.title} of each trial, and the best so far: {steps[-1]:.4g} at the end"
    return scatter(
        groups,
        title=title,
        x_label="trial",
        y_label=found.metric.title,
        log=(False, not found.metric.maximize),
        path=path,
        size=WIDE,
    )


def _importance(importance: Mapping[str, float]) -> Chart | None:
    if not importance:
        return None
    shares = ", ".join(f"{key} {share:.0%}" for key, share in importance.items())
    return bars([*importance], [*importance.values()], title=f"Importance: {shares}")


def _by_importance(found: "Sweep") -> list[Parameter]:
    return sorted(found.space, key=lambda p: -found.importance.get(p.key, 0.0))


def _by_value(found: "Sweep", parameter: Parameter) -> Chart:
    """The value of the trials by one setting."""
    names = None
    done = [t for t in found.trials if t.value is not None and parameter.key in t.values]
    if parameter.choices:
        names = [_shown(text) for text in parameter.choices]
        places = [float(parameter.choices.index(str(t.values[parameter.key]))) for t in done]
    else:
        places = [float(t.values[parameter.key]) for t in done]
    values = [t.value or 0.0 for t in done]
    best = found.best
    ringed = next(((x, y) for t, x, y in zip(done, places, values, strict=True) if t is best), None)
    title = f"{found.metric.title} by {parameter.key}"
    if best is not None and parameter.key in best.values:
        title += f"; the best has {_shown(best.values[parameter.key])}"
    return scatter(
        [Line(parameter.key, places, values)],
        title=title,
        x_label=" ",  # the heading has it; the room is for the names
        y_label=found.metric.title,
        names=names,
        log=(parameter.log, not found.metric.maximize),
        ringed=ringed,
        limits=None if names else (parameter.low, parameter.high),
        size=SMALL,
    )


def _shown(value: Any) -> str:
    """A value of a setting for people: a choice without its quotes, widths as 256-128."""
    if not isinstance(value, str):
        return f"{value:g}" if isinstance(value, float) else str(value)
    plain = value_of(value)
    if isinstance(plain, list) and plain and all(type(item) is int for item in plain):
        return "-".join(map(str, plain))
    return plain if isinstance(plain, str) else value


def _learning(found: "Sweep", ended: list[Trial]) -> Chart | None:
    """The monitored value by epoch: pruned trials end early, and the best stands out."""
    having = [t for t in ended if t.curve and any(map(math.isfinite, t.curve.values()))]
    if not having:
        return None
    best = found.best
    others = [t for t in having if t is not best and t != best][-(MOST_CURVES - 1) :]
    lines = [
        Line(f"trial {t.number}", [*t.curve], [*t.curve.values()], "bar" if t.value else "soft",
             t.value is None)
        for t in others
    ]  # fmt: skip
    if best is not None and best.curve:
        lines.append(Line(f"trial {best.number}", [*best.curve], [*best.curve.values()], "lit"))
    watched = [*lines[-1].y]
    chart = curves(
        lines,
        title=f"{found.metric.title} by epoch of {len(lines)} trials; that of the best ends at "
        f"{watched[-1]:.4g}",
        x_label="epoch",
        y_label=found.metric.title,
        log=not found.metric.maximize,
        size=WIDE,
        legend=False,
    )
    kinds = [("the best", "lit", False)]
    if any(t.value is not None for t in others):
        kinds.append(("finished", "bar", False))
    if any(t.value is None for t in others):
        kinds.append(("pruned, diverged or failed", "soft", True))
    return Chart(chart.svg, tuple(kinds))
