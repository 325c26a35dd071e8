"""How far a regression is off: predicted against true, residuals, by target."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpnet.report.charts import histogram, points
from xpnet.report.evidence import ValueTally
from xpnet.report.layout import Card, Section, Table, number

__all__ = ["regression", "typical"]

MOST_POINTS = 800  # drawn for a target, fewer of many
MOST_TARGETS = 6
SQUARE = (340, 300)
SEED = 0


def regression(scores: Mapping[str, Any], tally: ValueTally | None) -> Section:
    """Return the section of a regression, from its scores and, where it is there, its tally."""
    cards, lead = [], ""
    if "by_target" in scores:
        cards.append(_by_target(scores))
    if tally is not None and tally.sample.columns:
        y, predicted = tally.sample.columns
        lead = typical(y, predicted, tally.targets)
        shown = tally.targets[:MOST_TARGETS]
        for j, name in enumerate(shown):
            several = len(tally.targets) > 1
            cards += _of_target(y[:, j], predicted[:, j], name, len(shown), several=several)
        if len(shown) < len(tally.targets):
            lead += f" Drawn are {len(shown)} of {len(tally.targets)} targets."
        if not tally.sample.whole:
            lead += f" {tally.sample.of()}"
    return Section("failures", "How far is it off?", lead, tuple(cards), per_row=3)


def typical(y: np.ndarray, predicted: np.ndarray, targets: tuple[str, ...]) -> str:
    """Say within what distance half and nine in ten of the predictions (N, J) are, of target 0."""
    far = np.abs(predicted[:, 0] - y[:, 0])
    half, most = np.quantile(far, (0.5, 0.9))
    of = f" of {targets[0]}" if len(targets) > 1 else ""
    return (
        f"Half of the predictions{of} are within {number(half)} of the true value, "
        f"nine in ten within {number(most)}."
    )


def _of_target(
    y: np.ndarray, predicted: np.ndarray, name: str, targets: int, *, several: bool
) -> list[Card]:
    most = MOST_POINTS // min(targets, 4)
    some = np.arange(len(y))
    if len(y) > most:
        some = np.sort(np.random.default_rng(SEED).choice(len(y), most, replace=False))
    drawn = f" Drawn are {most:,} rows at random." if len(y) > most else ""
    residuals, of = predicted - y, f": {name}" if several else ""
    mean, spread = float(residuals.mean()), float(residuals.std())
    counts, edges = np.histogram(*_central(residuals))
    outside = len(residuals) - int(counts.sum())
    beyond = f" {outside:,} beyond the ends are not drawn." if outside else ""
    order = np.argsort(predicted, kind="stable")
    quarter = max(1, len(order) // 4)
    low, high = (
        float(np.abs(residuals[part]).mean()) for part in (order[:quarter], order[-quarter:])
    )
    return [
        Card(
            f"Predicted against true{of}",
            (
                points(
                    y[some],
                    predicted[some],
                    title=f"Predicted against true {name}",
                    x_label=f"true {name}",
                    y_label=f"predicted {name}",
                    against="diagonal",
                    size=SQUARE,
                ),
            ),
            _slope(y, predicted) + drawn,
        ),
        Card(
            f"Residuals{of}",
            (
                histogram(
                    counts,
                    edges,
                    title=f"Histogram of predicted less true {name}",
                    x_label="predicted − true",
                    marked=(mean, "mean"),
                    size=SQUARE,
                ),
            ),
            f"Predictions are {number(abs(mean))} too {'high' if mean > 0 else 'low'} in the mean; "
            f"their standard deviation around that is {number(spread)}.{beyond}",
        ),
        Card(
            f"Residuals by prediction{of}",
            (
                points(
                    predicted[some],
                    residuals[some],
                    title=f"Residuals by predicted {name}",
                    x_label=f"predicted {name}",
                    y_label="predicted − true",
                    against="zero",
                    size=SQUARE,
                ),
            ),
            f"The mean distance is {number(low)} in the quarter with the lowest predictions and "
            f"{number(high)} in that with the highest.{drawn}",
        ),
    ]


def _central(residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals and the edges of about 30 bins, without the far tails that would flatten them."""
    low, high = np.quantile(residuals, (0.002, 0.998)) if len(residuals) > 500 else (0.0, 0.0)
    if low == high:
        low, high = float(residuals.min()), float(residuals.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return residuals, np.linspace(low, high, int(np.clip(np.sqrt(len(residuals)), 8, 32)) + 1)


def _slope(y: np.ndarray, predicted: np.ndarray) -> str:
    """Say how predictions follow the true value: the slope of their least-squares line."""
    if len(y) < 3 or y.min() == y.max():
        return "The true value does not vary."
    slope = float(np.polyfit(y - y.mean(), predicted, 1)[0])
    said = f"Where the true value is 1 higher, predictions are {number(slope, 2)} higher"
    said = (
        said
        if slope >= 0
        else f"Where the true value is 1 higher, predictions are {number(-slope, 2)} lower"
    )
    low = "; the extremes are predicted too near the middle" if 0 <= slope < 0.9 else ""
    return f"{said}{low}."


def _by_target(scores: Mapping[str, Any]) -> Card:
    by, names = scores["by_target"], scores["targets"]
    keys = [key for key in ("r2", "mse", "mae") if key in by]
    rows = [[name, *(number(by[key][j], 4) for key in keys)] for j, name in enumerate(names[:60])]
    more = "" if len(names) <= 60 else f"60 of {len(names)} targets."
    table = Table(
        ("target", *(key.upper().replace("R2", "R²") for key in keys)),
        rows,
        "<" + ">" * len(keys),
        "Scores by target",
        more,
    )
    return Card("By target", (table,), "", wide=True)
