"""The columns of a table: what each matters, how it is encoded, and what was left out."""

from collections.abc import Sequence
from typing import NamedTuple

from xpnet.report.charts import bars
from xpnet.report.importance import Importance
from xpnet.report.layout import Card, Section, Table, listed, number, percent, plural

__all__ = ["Feature", "columns"]

MOST_BARS, MOST_ROWS = 20, 60


class Feature(NamedTuple):
    """A column that the model takes."""

    name: str
    kind: str
    becomes: str  # its inputs, in words
    missing: str = ""
    values: str = ""


def columns(
    features: Sequence[Feature],
    left_out: Sequence[tuple[str, str]],
    importance: Importance | None,
    why_not: str,
) -> Section | None:
    """Return the section of a table's columns; None where rows have no columns.

    ``why_not`` says why there is no importance.
    """
    if not features:
        return None
    cards = []
    if importance is not None:
        cards.append(_importance(features, importance))
    cards.append(_encoding(features))
    if left_out:
        rows = [list(pair) for pair in left_out[:MOST_ROWS]]
        more = "" if len(left_out) <= MOST_ROWS else f"{MOST_ROWS} of {len(left_out)}."
        table = Table(("column", "why"), rows, "<<", "Columns that were left out", more)
        cards.append(Card("Left out", (table,), plural(len(left_out), "column") + " not used."))
    lead = _lead(features, importance) if importance is not None else why_not
    return Section("columns", "What does it go by?", lead, tuple(cards))


def _lead(features: Sequence[Feature], importance: Importance) -> str:
    names = [features[j].name for j in importance.columns]
    if not names or importance.mean[0] <= 0:
        return "Shuffling any one column costs nothing that can be measured."
    said = f"Shuffling {names[0]} costs most: {_cost(importance, 0)}."
    idle = sum(m <= 2 * s for m, s in zip(importance.mean, importance.std, strict=True))
    if idle:
        measured = "the columns measured" if len(names) < importance.total else "the columns"
        said += f" {idle} of {len(names)} {'columns' if measured == 'the columns' else 'measured'}"
        said += " cost less than two standard deviations: nothing that can be told from chance."
    return said


def _cost(importance: Importance, c: int) -> str:
    if importance.score == "accuracy":
        points = 100 * importance.mean[c]
        return f"{points:.1f} percentage points of the accuracy of {percent(importance.baseline)}"
    return f"{number(importance.mean[c])} of the R² of {number(importance.baseline)}"


def _importance(features: Sequence[Feature], importance: Importance) -> Card:
    shown = min(len(importance.columns), MOST_BARS)
    scale = 100.0 if importance.score == "accuracy" else 1.0
    unit = "percentage points of accuracy" if scale > 1 else "R²"
    chart = bars(
        [features[j].name for j in importance.columns[:shown]],
        scale * importance.mean[:shown],
        errors=scale * importance.std[:shown],
        title=f"Fall of the score, in {unit}, when a column is shuffled",
        x_label=f"cost of shuffling it, {unit}",
        width=480,
    )
    note = f"Mean and standard deviation of {plural(importance.repeats, 'shuffle')} of "
    note += plural(importance.rows, "test row") + (
        ", drawn at random." if importance.sampled else "."
    )
    if shown < importance.total:
        note += f" Shown are {shown} of {importance.total} columns, found by one shuffle of each."
    note += " Columns that say the same as another one look less important than they are."
    return Card("Importance of the columns", (chart,), note, wide=shown > 12)


def _encoding(features: Sequence[Feature]) -> Card:
    header = ("column", "kind", "becomes", "missing", "values")
    kept = [h for n, h in enumerate(header) if n < 3 or any(f[n] for f in features)]
    rows = [[f[header.index(h)] for h in kept] for f in features[:MOST_ROWS]]
    more = (
        "" if len(features) <= MOST_ROWS else f"The first {MOST_ROWS} of {len(features)} columns."
    )
    align = "".join(">" if h == "missing" else "<" for h in kept)
    kinds = listed(
        [
            plural(sum(f.kind == kind for f in features), f"{kind} column")
            for kind in dict.fromkeys(f.kind for f in features)
        ]
    )
    table = Table(tuple(kept), rows, align, "Columns and their encoding", more)
    return Card("How they are encoded", (table,), f"{kinds}.", wide=True)
