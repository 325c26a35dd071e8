"""Points in groups, over numbers or names, with a line through what matters."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xpnet.report.charts import SIZE, Chart, Line, _axes, _finite, _logarithmic, _say, _short, _tick
from xpnet.report.svg import canvas, colour, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["scatter"]

MARKS = ("o", "x", "s", "^")  # of the groups: who sees no colours tells them apart


def scatter(
    groups: Sequence[Line],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    names: Sequence[str] | None = None,
    log: tuple[bool, bool] = (False, False),
    path: Line | None = None,
    ringed: tuple[float, float] | None = None,
    limits: tuple[float, float] | None = None,
    size: tuple[int, int] = SIZE,
) -> Chart:
    """Return points in groups, each with a colour and a mark of its own.

    ``title`` is read to who cannot see the chart. ``names`` stand at 0, 1, 2, ... of the horizontal
    axis, on two lines where they are long: leave ``x_label`` a blank then. ``log`` is for either
    axis, the vertical where its values are positive and differ tenfold. ``path`` is drawn as steps,
    ``ringed`` is the point that is looked for, ``limits`` are those of the horizontal axis.
    """
    shown = [_finite(group, n) for n, group in enumerate(groups)]
    steps = None if path is None else _finite(path, len(shown))
    with canvas(*size) as figure:
        axes = _axes(figure, x_label, y_label)
        values = np.concatenate([g.y for g in shown] or [np.zeros(0)])
        values = values[np.isfinite(values)]
        if log[0]:
            places = np.concatenate([[], *(np.asarray(g.x) for g in shown)])
            ends = (places.min(), places.max()) if places.size else (1.0, 10.0)
            _logarithmic_places(axes, limits or ends)
        if log[1] and values.size and values.min() > 0 and values.max() > 10 * values.min():
            _logarithmic(axes, values)
        if not values.size:
            _say(axes, "no finite value")
        for group, mark in zip(shown, MARKS * len(shown), strict=False):
            axes.plot(
                group.x,
                group.y,
                linestyle="none",
                marker=mark,
                markersize=5,
                markeredgewidth=1.4 if mark == "x" else 0,
                color=colour(group.colour or "ink"),
                alpha=0.75,
            )
        if steps is not None:
            axes.plot(steps.x, steps.y, drawstyle="steps-post", color=colour(steps.colour or "ink"))
        if ringed is not None:
            axes.plot(
                *([place] for place in ringed),
                marker="o",
                markersize=11,
                markerfacecolor="none",
                markeredgewidth=1.8,
                color=colour("lit"),
            )
        if limits is not None:
            span = np.log(limits) if log[0] else np.asarray(limits)
            span = span + 0.04 * (span[1] - span[0]) * np.array([-1, 1])
            low, high = np.exp(span) if log[0] else span
            axes.set_xlim(float(low), float(high))
        if names is not None:
            room = (size[0] - 72) / (6.3 * max(len(names), 1))  # characters
            staggered = max(map(len, names), default=0) > room
            most = max(4, int(1.8 * room if staggered else room))
            labels = [_short(name, most) for name in names]
            if staggered:
                labels = ["\n" * (n % 2) + label for n, label in enumerate(labels)]
            axes.set_xticks(range(len(names)), labels)
            axes.set_xlim(-0.5, len(names) - 0.5)
        svg = picture(figure, title)
    drawn = [*shown, *([] if steps is None else [steps])]
    named = tuple((line.name, line.colour or "ink", line is not steps) for line in drawn)
    return Chart(svg, named if len(drawn) > 1 else ())


def _logarithmic_places(axes: "Axes", ends: tuple[float, float]) -> None:
    """Make the horizontal axis logarithmic, with names at 1, 2 and 5 where that are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    wide = ends[1] > 40 * ends[0]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
