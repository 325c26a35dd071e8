"""The page of a comparison: scores, whether the difference is luck, curves, and what differs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xpnet.page import render
from xpnet.report.charts import Chart, Line, bars, curves
from xpnet.report.layout import Card, Section, Table, listed, plural
from xpnet.report.svg import SERIES

__all__ = ["Curves", "comparison_page"]

ERRORS = {
    "accuracy": "share that is wrong on the test part",
    "r2": "1 − R² on the test part",
    "mse": "mean squared error on the test part",
}
LUCK = (
    "Each run beside the best one, on the test rows that both were tested on. p says how often two "
    "equally good runs would differ so much on such rows{holm}. It is about these rows: another "
    "seed of the training is another draw."
)
HOLM = "; it is corrected for the number of comparisons by Holm's method"
NONE = "–"


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
    sections = [_scores(groups), _luck(against), _curves(rows, drawn), _settings(rows, settings)]
    return render(
        "xpnet.report",
        "compare.html",
        title=f"{plural(len(rows), 'run')} compared",
        lead=_lead(groups, against),
        notes=notes,
        sections=[section for section in sections if section.cards],
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
        line += f" on {plural(best['test_rows'], 'test row')}"
    pairs = [each for each in against if each["best"] == best["run"]]
    if not pairs:
        return f"{line}."
    lucky = [each["run"] for each in pairs if each["verdict"] == "may be luck"]
    ahead = [each["run"] for each in pairs if each["run"] not in lucky]
    if not ahead:
        return f"{line}. Its lead over {listed(lucky)} may be luck."
    line = f"{line}. Its lead over {listed(ahead)} is more than luck explains"
    return f"{line}; over {listed(lucky)} it may be luck." if lucky else f"{line}."


def _scores(groups: Mapping[str | None, Sequence[Mapping[str, Any]]]) -> Section:
    header = ("test loss", "best epoch", "epochs", "parameters", "seconds", "test rows")
    cards = []
    for metric, rows in groups.items():
        table = Table(
            ("run", metric or "status", *header),
            [
                (
                    row["run"],
                    _shown(row["score"], 4) if metric else row["status"],
                    _shown(row["loss"], 4),
                    *(_shown(row[key]) for key in ("best_epoch", "epochs", "parameters")),
                    _shown(row["seconds"], 1),
                    _shown(row["test_rows"]),
                )
                for row in rows
            ],
            "<>>>>>>>" if metric else "<<>>>>>>",
            f"scores: {metric or 'none'}",
        )
        chart = () if metric is None else (_bars(metric, rows),)
        cards.append(Card("", (table, *chart), wide=True))
    return Section("scores", "Scores", "", tuple(cards))


def _bars(metric: str, rows: Sequence[Mapping[str, Any]]) -> Chart:
    """A bar for the error of each run, which shows more than bars of scores that are all near 1."""
    errors = [row["score"] if metric == "mse" else 1 - row["score"] for row in rows]
    counted = metric == "accuracy" and all(row["test_rows"] for row in rows)
    spreads = [_spread(e, row["test_rows"]) for e, row in zip(errors, rows, strict=True)]
    return bars(
        [row["run"] for row in rows],
        errors,
        title=f"{ERRORS[metric]}, of each run",
        errors=spreads if counted else None,
        x_label=ERRORS[metric] + (", with its standard error" if counted else ""),
    )


def _spread(share: float, rows: int | None) -> float:
    """The standard error of a share of so many rows."""
    return math.sqrt(max(share * (1 - share), 0.0) / rows) if rows else 0.0


def _luck(against: Sequence[Mapping[str, Any]]) -> Section:
    several = len({each["best"] for each in against}) > 1
    header = ("run", "its difference", "p", "worse by", "only it is wrong", "only the best is")
    table = Table(
        (*header, "both are", "rows", "test", *(["beside"] if several else [])),
        [
            (
                each["run"],
                each["verdict"],
                f"{each['corrected']:.2g}",
                f"{each['difference']:.4f} {each['score']}",
                *(_shown(each[k]) for k in ("run_wrong", "best_wrong", "both_wrong", "rows")),
                each["test"],
                *([each["best"]] if several else []),
            )
            for each in against
        ],
        "<<>>>>>><" + "<" * several,
        "each run beside the best",
    )
    lead = LUCK.format(holm=HOLM if len(against) > 1 else "")
    cards = (Card("", (table,), wide=True),) if against else ()
    return Section("luck", "Is the difference luck?", lead, cards)


def _curves(rows: Sequence[Mapping[str, Any]], drawn: Sequence[Curves]) -> Section:
    """A chart of each loss and metric; a run has the same colour in all of them."""
    numbers = {row["run"]: n for n, row in enumerate(rows)}
    cards = []
    for title, lines in drawn:
        shown = [
            Line(
                name, x, y, SERIES[numbers[name] % len(SERIES)], dashed=numbers[name] >= len(SERIES)
            )
            for name, x, y in lines
        ]
        about = f"{title} of {plural(len(lines), 'run')} by epoch"
        chart = curves(shown, title=about, x_label="epoch", log=True, legend=True)
        cards.append(Card(title, (chart,)))
    return Section("curves", "Learning curves", "", tuple(cards))


def _settings(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Sequence[Any]]) -> Section:
    lead = "Every setting that is not the same for all of the runs."
    table = Table(
        ("setting", *(row["run"] for row in rows)),
        [(key, *map(_setting, values)) for key, values in settings.items()],
        "<" * (1 + len(rows)),
        "settings that differ",
    )
    parts: tuple[Any, ...] = (table,) if settings else ("All settings are the same.",)
    return Section(
        "differs", "What differs", lead if settings else "", (Card("", parts, wide=True),)
    )


def _shown(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if digits is None else f"{value:,.{digits}f}"


def _setting(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:.6g}" if isinstance(value, float) else str(value)
