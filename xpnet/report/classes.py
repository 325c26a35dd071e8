"""Where a classification fails: confusion, scores by class, calibration, ROC, precision-recall."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xpnet.report.charts import Chart, Line, curves, histogram, matrix
from xpnet.report.evidence import ClassTally, LabelTally, Reliability
from xpnet.report.layout import (
    Card,
    Cell,
    Section,
    Table,
    called,
    listed,
    number,
    percent,
    plural,
)
from xpnet.report.measures import area, average_precision, precision_recall, roc

__all__ = ["calibration_card", "classes", "labels", "most_missed"]

MOST_CELLS = 25  # classes of a confusion matrix with numbers in its cells
MOST_CLASSES = 40  # rows of the table of classes
MOST_CURVES = 8
SIDE_BY_SIDE = 14  # classes of a table beside a chart
SQUARE = (340, 300)
OF_LABELS = "On average it gives a label a probability of {}, and {} of them are there."


def classes(scores: Mapping[str, Any], tally: ClassTally | None) -> Section:
    """Return the section of a classification, from its scores and, where it is there, its tally."""
    names, counts = scores["classes"], np.asarray(scores["confusion"], np.float64)
    cards = [_confusion(names, counts), _by_class(scores)]
    if tally is not None:
        if tally.probable:
            cards.append(calibration_card(tally.reliability, *_event(names)))
            cards.append(_confidence(names, tally.reliability))
        if len(names) == 2:
            cards += _rankings(tally)
    if len(names) > SIDE_BY_SIDE or cards[0].wide:  # pairs of charts, then a long table
        cards.append(replace(cards.pop(1), wide=True))
    return Section("failures", "Where does it fail?", most_missed(names, counts), tuple(cards))


def _confidence(names: Sequence[str], reliability: Reliability) -> Card:
    """How often the model is how sure."""
    two, weight = len(names) == 2, reliability.weight
    of = called(names[1]) if two else "the predicted class"
    kinds = (of, called(names[0])) if two else ("right", "wrong")
    chart = histogram(
        weight,
        reliability.edges,
        title=f"Rows by the probability of {of}",
        x_label=f"probability of {of}",
        part=(reliability.happened, *kinds),
        size=SQUARE,
    )
    top, total = weight[-1], weight.sum()
    if two:
        unsure = weight[4:6].sum()
        note = f"It is undecided, between 40 and 60 %, about {_amount(unsure)} of "
        note += f"{_amount(total)} rows."
    else:
        note = f"It is 90 % sure or more of {_amount(top)} of {_amount(total)} rows"
        note += f", and right in {percent(reliability.happened[-1] / top)} of them." if top else "."
    return Card("How sure it is", (chart,), note)


def _event(names: Sequence[str]) -> tuple[str, str]:
    """What the probabilities are of, in words with places for their means."""
    if len(names) > 2:
        return "On average it is {} sure of the class that it predicts, and right in {}.", "right"
    name = called(names[1]).replace("{", "{{").replace("}", "}}")
    said = f"On average it gives {name} a probability of {{}}, and {{}} of the rows are {name}."
    return said, "share of rows"


def most_missed(names: Sequence[str], counts: np.ndarray) -> str:
    """Say which class is missed most often, and what it is taken for."""
    support = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    if not wrong.sum():
        return f"Every one of the {number(support.sum(), 6)} rows is right."
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(support > 0, wrong.sum(axis=1) / support, 0.0)
    i = int(np.argmax(share))
    j = int(np.argmax(wrong[i]))
    missed, others = wrong[i].sum(), int((wrong[i] > 0).sum())
    said = f"No class is missed more often than {called(names[i])}: {_amount(missed)} of its "
    said += f"{_amount(support[i])} rows {'is' if missed == 1 else 'are'} taken for "
    if others == 1:
        said += f"{called(names[j])}."
    else:
        said += f"another class, {_amount(wrong[i, j])} of them for {called(names[j])}."
    flawless = int(((share == 0) & (support > 0)).sum())
    if flawless:
        said += f" {plural(flawless, 'class is', 'classes are')} never missed."
    return said


def _amount(count: float) -> str:
    return f"{count:,.0f}" if float(count).is_integer() else number(count, 4)


def _confusion(names: Sequence[str], counts: np.ndarray) -> Card:
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    pairs = _pairs(names, counts)
    note = f"Most frequent: {listed(pairs, 3)}." if pairs else "No row is taken for another class."
    if len(names) > MOST_CELLS:
        chart = matrix(
            np.sqrt(shares),
            title=f"Confusion of {len(names)} classes: true class down, predicted class across",
            x_label="predicted class, by number",
            y_label="true class, by number",
        )
        note += " The darker a cell, the larger its share of the rows of its true class."
        return Card("Confusion", (chart,), note, wide=True)
    rows = [
        [name, *(_cell(counts, shares, names, i, j) for j in range(len(names)))]
        for i, name in enumerate(names)
    ]
    table = Table(
        ("true \\ predicted", *names),
        rows,
        "<" + ">" * len(names),
        "Confusion matrix: rows of each true class by predicted class",
        dense=True,
    )
    return Card("Confusion", (table,), note, wide=sum(max(3, len(name)) for name in names) > 36)


def _cell(counts: np.ndarray, shares: np.ndarray, names: Sequence[str], i: int, j: int) -> Cell:
    n = counts[i, j]
    if not n:
        return Cell("·")
    said = f"{_amount(n)} of {_amount(counts[i].sum())} rows of {names[i]} taken for {names[j]}"
    return Cell(_amount(n), float(shares[i, j]), "pos" if i == j else "neg", said)


def _pairs(names: Sequence[str], counts: np.ndarray) -> list[str]:
    """The confusions with the most rows, in words, at most three."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:3]
    cells = [np.unravel_index(k, wrong.shape) for k in order]
    return [
        f"{called(names[i])} taken for {called(names[j])} ({_amount(wrong[i, j])})"
        for i, j in cells
        if wrong[i, j] > 0
    ]


def _by_class(scores: Mapping[str, Any]) -> Card:
    names, f1 = scores["classes"], np.asarray(scores["f1"])
    support = scores["support"]
    order, more = list(range(len(names))), ""
    if len(names) > MOST_CLASSES:
        having = [k for k in order if support[k]]
        order = sorted(having, key=lambda k: f1[k])[:MOST_CLASSES]
        more = f"The {len(order)} of {len(names)} classes with the lowest F1."
    rows = [
        [
            names[k],
            *(
                Cell(f"{scores[key][k]:.3f}", float(scores[key][k]))
                for key in ("precision", "recall", "f1")
            ),
            _amount(support[k]),
        ]
        for k in order
    ]
    rows.append(
        ["mean", *(f"{scores[f'macro_{key}']:.3f}" for key in ("precision", "recall", "f1")), ""]
    )
    table = Table(
        ("class", "precision", "recall", "F1", "rows"), rows, "<>>>>", "Scores by class", more
    )
    having = [k for k in range(len(names)) if support[k]]
    note = ""
    if having:
        low, high = min(having, key=f1.__getitem__), max(having, key=f1.__getitem__)
        note = f"F1 is lowest for {called(names[low])} ({f1[low]:.3f})"
        note += (
            f" and highest for {called(names[high])} ({f1[high]:.3f})."
            if f1[high] > f1[low]
            else "."
        )
    return Card("By class", (table,), note)


def calibration_card(reliability: Reliability, said: str, y_label: str) -> Card:
    """Return the calibration curve; ``said`` has places for its two means, ``{}`` each."""
    predicted, happened = reliability.curve()
    chart = curves(
        [Line("this model", predicted, happened)],
        title=f"Calibration: {y_label}, by predicted probability",
        x_label="predicted probability",
        y_label=y_label,
        diagonal=True,
        limits=((-0.02, 1.02), (-0.02, 1.05)),
        sizes=reliability.weight[reliability.weight > 0],
        size=SQUARE,
    )
    note = said.format(*map(percent, reliability.means))
    note += f" Over bins, the two are {100 * reliability.error:.1f} percentage points apart (ECE); "
    note += "on the dotted line they are equal. The larger a dot, the more rows are behind it."
    return Card("Calibration", (chart,), note)


def _rankings(tally: ClassTally) -> list[Card]:
    """ROC and precision-recall of class 1 of two."""
    if not tally.sample.columns:
        return []
    true, p, weight = tally.sample.columns
    other, name = map(called, tally.classes)
    if not 0 < true.sum() < len(true):
        return []
    auc, ap, (fpr, tpr), (recall, precision) = _ranking(true, p, weight)
    share = float((true * weight).sum() / weight.sum())
    some = f" {tally.sample.of()}" if not tally.sample.whole else ""
    return [
        Card(
            "ROC",
            (_roc_chart([Line(f"AUC {auc:.3f}", fpr, tpr)]),),
            f"In {percent(auc)} of pairs, a row of {name} is ranked above one of "
            f"{other} (AUC {auc:.3f}; 0.5 is chance).{some}",
        ),
        Card(
            "Precision and recall",
            (_pr_chart([Line(f"AP {ap:.3f}", recall, precision)], share),),
            f"Average precision for {name} is {ap:.3f}; ranking at random would give "
            f"{share:.3f}, its share of the rows.{some}",
        ),
    ]


def _roc_chart(lines: list[Line], *, legend: bool = False) -> Chart:
    return curves(
        lines,
        title="ROC: true positive rate by false positive rate",
        x_label="false positive rate",
        y_label="true positive rate",
        diagonal=True,
        limits=((-0.02, 1.02), (-0.02, 1.03)),
        size=SQUARE,
        legend=legend,
    )


def _pr_chart(lines: list[Line], share: float | None, *, legend: bool = False) -> Chart:
    chance = [] if share is None else [Line("chance", [0, 1], [share, share], "soft", dashed=True)]
    return curves(
        [*lines, *chance],
        title="Precision by recall",
        x_label="recall",
        y_label="precision",
        limits=((-0.02, 1.02), (-0.02, 1.03)),
        size=SQUARE,
        legend=legend,
    )


def labels(scores: Mapping[str, Any], tally: LabelTally | None) -> Section:
    """Return the section of several labels."""
    names = list(scores.get("targets") or tally.targets if tally else scores.get("targets", []))
    by = scores.get("by_target", {})
    f1 = np.asarray(by.get("f1", []), np.float64)
    rankings = _by_label(tally) if tally is not None else {}
    order = [*range(len(names))] if len(names) <= MOST_CLASSES else np.argsort(f1)[:MOST_CLASSES]
    header = (
        "label",
        "accuracy",
        "precision",
        "recall",
        "F1",
        *(("AUC", "AP") if rankings else ()),
    )
    rows = []
    for j in order:
        cells: list[Any] = [names[j]]
        for key in ("accuracy", "precision", "recall", "f1"):
            cells.append(Cell(f"{by[key][j]:.3f}", float(by[key][j])))
        if rankings:
            cells += [
                number(value) if np.isfinite(value) else "–" for value in rankings[int(j)][:2]
            ]
        rows.append(cells)
    more = (
        "" if len(order) == len(names) else f"The {len(order)} of {len(names)} labels of lowest F1."
    )
    cards = [
        Card(
            "By label",
            (Table(header, rows, "<" + ">" * 6, "Scores by label", more),),
            "",
            wide=True,
        )
    ]
    if tally is not None:
        if tally.probable:
            cards.append(calibration_card(tally.reliability, OF_LABELS, "share of labels"))
        some = [j for j in range(len(names)) if rankings and np.isfinite(rankings[j][0])][
            :MOST_CURVES
        ]
        if some:
            left = (
                "" if len(some) == len(names) else f" Shown are {len(some)} of {len(names)} labels."
            )
            cards.append(
                Card(
                    "ROC",
                    (_roc_chart([Line(names[j], *rankings[j][2]) for j in some], legend=True),),
                    f"The area is smallest for {names[min(some, key=lambda j: rankings[j][0])]}."
                    + left
                    + (f" {tally.sample.of()}" if not tally.sample.whole else ""),
                )
            )
            cards.append(
                Card(
                    "Precision and recall",
                    (
                        _pr_chart(
                            [Line(names[j], *rankings[j][3]) for j in some], None, legend=True
                        ),
                    ),
                    "Average precision is smallest for "
                    f"{names[min(some, key=lambda j: rankings[j][1])]}.{left}",
                )
            )
    lead = ""
    if len(f1):
        low = int(np.argmin(f1))
        lead = f"{names[low]} has the lowest F1, {f1[low]:.3f}."
    return Section("failures", "Where does it fail?", lead, tuple(cards), per_row=3)


def _by_label(tally: LabelTally) -> dict[int, tuple[float, float, Any, Any]]:
    """AUC, average precision and both curves of each label; NaN of one that does not vary."""
    if not tally.sample.columns:
        return {}
    true, p, weight = tally.sample.columns
    return {j: _ranking(true[:, j], p[:, j], weight) for j in range(true.shape[1])}


def _ranking(
    true: np.ndarray, p: np.ndarray, weight: np.ndarray
) -> tuple[float, float, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """AUC, average precision, and the points of the ROC and of recall and precision."""
    fpr, tpr = roc(true, p, weight)
    precision, recall = precision_recall(true, p, weight)
    ap = average_precision(precision, recall)
    return area(fpr, tpr), ap, (fpr, tpr), (recall, precision)
