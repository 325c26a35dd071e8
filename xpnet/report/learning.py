"""How the training went: loss and metrics, learning rate, norms and speed by epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xpnet.report.charts import Line, curves
from xpnet.report.layout import Card, Section, listed, number, percent, plural

__all__ = ["NOT_METRICS", "converged", "fit_gap", "learning"]

Record = Mapping[str, Any]
THIRD = (320, 210)  # pixels of a picture: three of them are side by side
# What a record of the history has beside its loss and metrics.
NOT_METRICS = {"epoch", "step", "lr", "seconds", "samples_per_second", "rows_per_second", "norms"}
MOST_METRICS, MOST_LAYERS = 6, 8
RISES, FALLS = 0.05, 0.02  # shares of the loss that make a difference worth a word


def learning(history: Sequence[Record], kept: int | None, note: str = "") -> Section | None:
    """Return the section on the epochs; None where there is no history.

    ``kept`` is the number of the epoch whose weights the run keeps, ``note`` why it ended early.
    """
    if not history:
        return None
    cards = [_metric(history, base, kept) for base in _metrics(history)]
    cards += [*_rate(history), *_norms(history), *_speed(history)]
    return Section(
        "learning",
        "Has it converged?",
        f"{converged(history)} {note}".strip(),
        tuple(cards),
        per_row=2 if len(cards) in (1, 2, 4) else 3,
    )


def series(history: Sequence[Record], key: str) -> np.ndarray:
    """Return the values of a key by epoch, (E,) float64, NaN where an epoch has none."""
    found = (record.get(key) for record in history)
    return np.array([v if isinstance(v, int | float) else math.nan for v in found], np.float64)


def _epochs(history: Sequence[Record]) -> np.ndarray:
    return np.array([int(record.get("epoch", n)) for n, record in enumerate(history, 1)])


def _metrics(history: Sequence[Record]) -> list[str]:
    """The names of what is measured, the loss first, each once with its validation."""
    keys = dict.fromkeys(key for record in history for key in record if key not in NOT_METRICS)
    numeric = [k for k in keys if np.isfinite(series(history, k)).any()]
    names = list(dict.fromkeys(["loss", *(k.removeprefix("val_") for k in numeric)]))
    return names[:MOST_METRICS]


def converged(history: Sequence[Record]) -> str:
    """Say in words whether the loss has stopped falling, from its values by epoch.

    It is that of the validation where there is one. It has levelled off where the last fifth of
    the epochs brought less than 2 %, and rises where the last epoch is 5 % above the best.
    """
    validated = any("val_loss" in record for record in history)
    name = "validation loss" if validated else "training loss"
    losses, epochs = series(history, "val_loss" if validated else "loss"), _epochs(history)
    if not np.isfinite(losses).any():
        return f"The {name} is not a finite number in any epoch."
    best, n = int(np.nanargmin(losses)), len(losses)
    lowest = f"The {name} is lowest at epoch {epochs[best]} ({number(losses[best])})"
    if not math.isfinite(losses[-1]):
        return f"{lowest}, and is not a finite number at the end: training has failed."
    if n < 5:
        return f"{lowest}; {plural(n, 'epoch is', 'epochs are')} too few to see it level off."
    recent = max(1, n // 5)
    before = (
        np.nanmin(losses[: n - recent]) if np.isfinite(losses[: n - recent]).any() else math.inf
    )
    fall = (before - losses[best]) / abs(before) if before and math.isfinite(before) else 1.0
    rise = (losses[-1] - losses[best]) / abs(losses[best]) if losses[best] else losses[-1]
    if rise > RISES and best < n - 1:
        said = f"{lowest} and ends at {number(losses[-1])}: training longer would not help."
    elif fall > FALLS:
        said = f"The {name} was still falling: it got {percent(fall)} lower in the last "
        said += f"{plural(recent, 'epoch')}, so training longer may help."
    elif best < n - recent:
        said = f"{lowest}, and has not got lower since: training has converged."
    else:
        said = f"The {name} has levelled off: it got only {percent(max(fall, 0.0))} lower in the "
        said += f"last {plural(recent, 'epoch')}."
    if not validated:
        said += " No rows were held out for validation, so how it does on new rows is not in it."
    return said


def fit_gap(history: Sequence[Record]) -> str:
    """Say how the loss on training and on validation rows compare, at the best epoch; or ""."""
    train, held = series(history, "loss"), series(history, "val_loss")
    both = np.isfinite(train) & np.isfinite(held)
    if not both.any():
        return ""
    best = int(np.nanargmin(np.where(both, held, np.nan)))
    a, b = train[best], held[best]
    numbers = f"{number(b)} on the validation rows and {number(a)} on the training rows"
    if a > 0 and b > 2 * a:
        return f"At its best epoch the loss is {numbers}: it fits what it was trained on better."
    return f"At its best epoch the loss is {numbers}."


def _metric(history: Sequence[Record], base: str, kept: int | None) -> Card:
    epochs, found = _epochs(history), []
    for key, name in ((base, "training"), (f"val_{base}", "validation")):
        if np.isfinite(values := series(history, key)).any():
            found.append(Line(name, epochs, values))
    wide = _spread([line.y for line in found]) > 30 and base not in ("accuracy", "r2")
    marked = None if kept is None else (float(kept), f"kept: epoch {kept}")
    title = base.replace("_", " ").capitalize()
    chart = curves(
        found,
        title=f"{title} by epoch",
        x_label="epoch",
        y_label=f"{base}, log scale" if wide else base,
        log=wide,
        marked=marked,
        legend=True,
        size=THIRD,
    )
    note = fit_gap(history) if base == "loss" else _ends(found, epochs)
    return Card(title, (chart,), note)


def _ends(lines: Sequence[Line], epochs: np.ndarray) -> str:
    """Say where each curve starts and ends."""
    said = []
    for line in lines:
        values = np.asarray(line.y)
        first, last = values[0], values[-1]
        said.append(f"{line.name} from {number(first)} to {number(last)}")
    return f"{listed(said).capitalize()} over {plural(len(epochs), 'epoch')}." if said else ""


def _spread(values: Sequence[Any]) -> float:
    """The ratio of the largest to the smallest positive value."""
    every = np.concatenate([np.asarray(v, np.float64) for v in values] or [np.ones(1)])
    every = every[np.isfinite(every)]
    return float(every.max() / every.min()) if every.size and every.min() > 0 else 1.0


def _rate(history: Sequence[Record]) -> list[Card]:
    rates, epochs = series(history, "lr"), _epochs(history)
    if not np.isfinite(rates).any():
        return []
    low, high = np.nanmin(rates), np.nanmax(rates)
    if low == high:
        said = f"Constant at {number(low)}."
    else:
        said = (
            f"From {number(rates[0])} after the first epoch to {number(rates[-1])} after the last."
        )
    chart = curves(
        [Line("learning rate", epochs, rates)],
        title="Learning rate by epoch",
        x_label="epoch",
        y_label="learning rate",
        size=THIRD,
    )
    return [Card("Learning rate", (chart,), said)]


def _speed(history: Sequence[Record]) -> list[Card]:
    for key in ("rows_per_second", "samples_per_second"):
        speeds = series(history, key)
        if np.isfinite(speeds).any():
            break
    else:
        return []
    chart = curves(
        [Line("rows per second", _epochs(history), speeds)],
        title="Training rows per second by epoch",
        x_label="epoch",
        y_label="rows / s",
        limits=(None, (0, float(np.nanmax(speeds)) * 1.08 or 1)),
        size=THIRD,
    )
    said = f"{number(float(np.nanmedian(speeds)))} training rows a second in the median epoch, "
    said += f"{number(float(np.nanmin(speeds)))} in the slowest."
    return [Card("Speed", (chart,), said)]


def _norms(history: Sequence[Record]) -> list[Card]:
    """Gradient norms, and updates relative to weights, by layer; older histories have none."""
    found = [
        (n, r["norms"]) for n, r in zip(_epochs(history), history, strict=True) if r.get("norms")
    ]
    if not found:
        return []
    layers = list(dict.fromkeys(name for _, norms in found for name in norms))
    shown, epochs = _spaced(layers), np.array([n for n, _ in found])
    gradients = {name: _of_layer(found, name, "gradient") for name in shown}
    weights = {name: _of_layer(found, name, "weights") for name in shown}
    updates = {name: _of_layer(found, name, "update") for name in shown}
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = {name: updates[name] / weights[name] for name in shown}
    left = "" if len(shown) == len(layers) else f" Shown are {len(shown)} of {len(layers)} layers."
    cards = []
    for title, values, axis in (
        ("Gradient norm by layer", gradients, "L2 norm"),
        ("Update relative to the weights", ratios, "update / weights"),
    ):
        last = {name: v[-1] for name, v in values.items() if math.isfinite(v[-1])}
        if not last:
            continue
        high, low = max(last, key=last.__getitem__), min(last, key=last.__getitem__)
        said = f"At epoch {epochs[-1]} it is {number(last[high])} in {high}"
        said += f" and {number(last[low])} in {low}." if high != low else "."
        chart = curves(
            [Line(name, epochs, v) for name, v in values.items()],
            title=title,
            x_label="epoch",
            y_label=axis,
            log=True,
            legend=True,
            size=THIRD,
        )
        cards.append(Card(title, (chart,), said + left))
    return cards


def _of_layer(found: Sequence[tuple[int, Any]], name: str, what: str) -> np.ndarray:
    values = [norms.get(name, {}).get(what) for _, norms in found]
    return np.array([math.nan if v is None else v for v in values], np.float64)


def _spaced(names: list[str]) -> list[str]:
    """At most MOST_LAYERS of the names, the first and the last among them."""
    if len(names) <= MOST_LAYERS:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, MOST_LAYERS).round().astype(int)]
