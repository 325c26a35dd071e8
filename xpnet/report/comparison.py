"""The page of a comparison: scores, whether the difference is luck, curves, and what differs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xpnet.page import render
from xpnet.report.charts import Chart, Line, bars, curves

__all__ = ["Curves", "comparison_page"]

ERRORS = {
    "accuracy": "share that is wrong on the test part",
    "r2": "1 − R² on the test part",
    "mse": "mean squared error on the test part",
}


class Curves(NamedTuple):
    """What one chart shows: its title, and a name, epochs and values for each run that has them."""

    title: str
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]]


def comparison_page(
    rows: Sequence[Mapping[str, Any]],
    drawn: Sequence[Curves],
    settings: Mapping[str, Sequence[Any]],
    against: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> str:
    """Return the page of some runs, the best of each score first.

    ``rows``, ``settings`` and ``notes`` are those of :class:`xpnet.run.comparison.Comparison`,
    ``against`` its pairs of runs as dicts.
    """
    groups: dict[str | None, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["metric"], []).append(row)
    colours = {row["run"]: f"series-{n % 8 + 1}" for n, row in enumerate(rows)}
    return render(
        "xpnet.report",
        "compare.html",
        title=f"{len(rows)} runs compared",
        lead=_lead(groups, against),
        groups=[
            {"metric": metric, "rows": own, "chart": _bars(metric, own)}
            for metric, own in groups.items()
        ],
        curves=[(each.title, _chart(each, colours, len(rows))) for each in drawn],
        names=[row["run"] for row in rows],
        settings={key: [_shown(value) for value in values] for key, values in settings.items()},
        against=against,
        notes=notes,
    )


def _lead(
    groups: Mapping[str | None, Sequence[Mapping[str, Any]]], against: Sequence[Mapping[str, Any]]
) -> str:
    """What the page says, in a sentence or two."""
    metric, rows = next(iter(groups.items()))
    if metric is None:
        return "None of these runs has a score on a test part."
    best = rows[0]
    line = f"{best['run']} has the best {metric}, {best['score']:.4f}"
    if best["test_rows"]:
        line += f" on {best['test_rows']:,} test rows"
    pairs = [each for each in against if each["best"] == best["run"]]
    if not pairs:
        return f"{line}."
    lucky = [each["run"] for each in pairs if each["verdict"] == "may be luck"]
    ahead = [each["run"] for each in pairs if each["run"] not in lucky]
    if not ahead:
        return f"{line}. Its lead over {_listed(lucky)} may be luck."
    line = f"{line}. Its lead over {_listed(ahead)} is more than luck explains"
    return f"{line}; over {_listed(lucky)} it may be luck." if lucky else f"{line}."


def _listed(names: Sequence[str]) -> str:
    """Some names in a sentence.

    >>> _listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 others'
    """
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} others"
    return " and ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])


def _bars(metric: str | None, rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """A bar for the error of each run, which shows more than bars of scores that are all near 1."""
    if metric is None:
        return None
    errors = [row["score"] if metric == "mse" else 1 - row["score"] for row in rows]
    counted = metric == "accuracy" and all(row["test_rows"] for row in rows)
    label = ERRORS[metric] + (", with its standard error" if counted else "")
    return bars(
        [row["run"] for row in rows],
        errors,
        title=f"{ERRORS[metric]}, of each run",
        errors=[_error(e, row["test_rows"]) for e, row in zip(errors, rows, strict=True)]
        if counted
        else None,
        x_label=label,
    )


def _error(share: float, rows: int) -> float:
    """The standard error of a share of so many rows."""
    return math.sqrt(max(share * (1 - share), 0.0) / rows)


def _chart(drawn: Curves, colours: Mapping[str, str], runs: int) -> Chart:
    lines = [
        Line(name, x, y, colours[name], dashed=list(colours).index(name) >= 8)
        for name, x, y in drawn.lines
    ]
    return curves(
        lines,
        title=f"{drawn.title} of {runs} runs by epoch",
        x_label="epoch",
        log=True,
        legend=True,
    )


def _shown(value: Any) -> str:
    """A setting as a cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
