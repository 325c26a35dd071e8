"""``xpnet show RUN --plot``: the curves of a run in the terminal."""

from collections.abc import Sequence
from typing import Any

from xpnet.cli.chart import Curve, chart
from xpnet.cli.output import say, show, terminal
from xpnet.errors import DataError
from xpnet.run.overview import measured, number

__all__ = ["show_plot"]

TALL, LOW = 14, 5  # rows of a chart, at most and at least


def show_plot(name: str, history: Sequence[dict[str, Any]], best: Any, status: str) -> None:
    """Print a chart of the loss and of each metric, for training and validation.

    ``best`` is the record of the best epoch, or None. Raises DataError where there is no epoch.
    """
    if not history:
        msg = f"{name} has no epoch to plot yet"
        raise DataError(msg)
    width, height, braille = terminal()
    names = measured(history)
    rows = min(max((height - 3) // max(len(names), 1) - 4, LOW), TALL)
    epochs = [number(record.get("epoch")) or n for n, record in enumerate(history, 1)]
    marked = None if best is None else number(best.get("epoch"))
    for metric in names:
        curves = []
        for key, meaning in ((metric, "training"), (f"val_{metric}", "validation")):
            pairs = [(x, number(r[key])) for x, r in zip(epochs, history, strict=True) if key in r]
            points = [(x, y) for x, y in pairs if y is not None]
            if points:
                curves.append(Curve(meaning, *zip(*points, strict=True)))
        title = metric.replace("_", " ")
        for line in chart(curves, title, width, rows, mark=marked, braille=braille):
            show(line)
    say(_last_line(name, history, best, status))


def _last_line(name: str, history: Sequence[dict[str, Any]], best: Any, status: str) -> str:
    done = history[-1].get("epoch", len(history))
    line = f"{name}: {done} epoch{'s' * (done != 1)}, {status}"
    if best is None:
        return f"{line}; no validation, so no epoch is the best"
    return f"{line}; the best is epoch {best['epoch']}, val loss {best['val_loss']:.4g}"
