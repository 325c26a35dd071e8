"""Charts for pages: curves, points, bars, counts and matrices, as SVG in the page's colours.

Each function takes plain sequences of numbers and gives a :class:`Chart`, which a template puts
into a page as it stands: ``{{ chart }}``. The page's style sheet includes ``charts.css``. Numbers
that are not finite leave a gap. Names are shown as they are written, however odd.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from xpnet.escape import escape
from xpnet.page.images import png
from xpnet.report.svg import SERIES, canvas, colour, key_of, picture

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SIZE", "Chart", "Line", "bars", "curves", "histogram", "matrix", "points"]

SIZE = (420, 240)  # pixels; a phone shows it at about four fifths of that
MOST = 600  # points of a drawn line: more are no wider than a pixel
DASHES: tuple[Any, ...] = ("-", (0, (5, 2.5)), (0, (1.5, 2)))


class Line(NamedTuple):
    """A curve: what it is called, and its coordinates (N,) and (N,).

    ``colour`` names a CSS variable of the page; by default it is the next of eight, then dashed.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    colour: str | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A picture and the names of what is in it."""

    svg: str
    legend: tuple[tuple[str, str, bool], ...] = field(default=())  # name, CSS variable, dashed

    def __html__(self) -> "Markup":
        """Return both as HTML."""
        from markupsafe import Markup

        drawn = Markup('<div class="chart">') + Markup(self.svg)
        if self.legend:
            drawn += Markup('<ul class="legend">')
            for name, variable, dashed in self.legend:
                style = "dashed" if dashed else "solid"
                drawn += Markup('<li><i style="border-top:3px {} var(--{})"></i>{}</li>').format(
                    style, variable, escape(name)
                )
            drawn += Markup("</ul>")
        return drawn + Markup("</div>")


def curves(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    log: bool = False,
    marked: tuple[float, str] | None = None,
    diagonal: bool = False,
    sizes: Sequence[float] | np.ndarray | None = None,
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    size: tuple[int, int] = SIZE,
    legend: bool | None = None,
) -> Chart:
    """Return curves over a common axis.

    ``title`` is read to who cannot see the chart. ``log`` is for the vertical axis, and is taken
    where all values are positive and differ tenfold. ``marked`` is a place on the horizontal axis
    and its name; ``diagonal`` draws y = x for comparison, ``sizes`` (N,) a dot at each
    place, the largest for the largest; ``legend`` is by default shown for several lines.
    """
    shown = [_finite(line, n) for n, line in enumerate(lines)]
    with canvas(*size) as figure:
        axes = _axes(figure, x_label, y_label)
        values = np.concatenate([line.y for line in shown] or [np.zeros(0)])
        values = values[np.isfinite(values)]
        if log and values.size and values.min() > 0 and values.max() > 10 * values.min():
            _logarithmic(axes, values)
        if not values.size:
            _say(axes, "no finite value")
        elif all(float(place).is_integer() for line in shown for place in line.x[:99]):
            _whole_numbers(axes)
        if diagonal:
            axes.axline((0, 0), slope=1, color=colour("soft"), linewidth=1, linestyle=DASHES[2])
        for line in shown:
            alone = np.isfinite(line.y).sum() < 2
            axes.plot(
                *_thinned(np.asarray(line.x), np.asarray(line.y)),
                color=colour(line.colour or "ink") if sizes is None else colour("soft"),
                linewidth=1.8 if sizes is None else 1,
                linestyle=DASHES[1] if line.dashed else "-",
                marker="o" if alone else "",
                markersize=5,
            )
            if sizes is not None:
                axes.scatter(line.x, line.y, 60 * _shares(sizes) + 8, colour(line.colour or "ink"))
        if limits[0]:
            axes.set_xlim(*limits[0])
        if limits[1]:
            axes.set_ylim(*limits[1])
        if marked is not None and math.isfinite(marked[0]):
            _mark(axes, *marked)
        svg = picture(figure, title)
    named = tuple((line.name, line.colour or "ink", line.dashed) for line in shown)
    return Chart(svg, named if (len(shown) > 1 if legend is None else legend) else ())


def points(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    against: str | None = None,
    series: str = "series-1",
    size: tuple[int, int] = SIZE,
) -> Chart:
    """Return a point for each pair of (N,) and (N,): draw a sample where they are many.

    ``against`` draws a line for comparison: "diagonal" is y = x, "zero" is y = 0.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    with canvas(*size) as figure:
        axes = _axes(figure, x_label, y_label)
        opacity = float(np.clip(12 / math.sqrt(max(kept.sum(), 1)), 0.25, 0.8))
        axes.plot(
            x[kept],
            y[kept],
            linestyle="none",
            marker="o",
            markersize=4,
            markeredgewidth=0,
            color=colour(series),
            alpha=opacity,
        )
        if not kept.any():
            _say(axes, "no finite value")
        elif against == "diagonal":
            both = np.concatenate([x[kept], y[kept]])
            room = 0.04 * (np.ptp(both) or 1)
            axes.set_xlim(both.min() - room, both.max() + room)
            axes.set_ylim(both.min() - room, both.max() + room)
            axes.axline((0, 0), slope=1, color=colour("ink"), linewidth=1, linestyle=DASHES[2])
        elif against == "zero":
            axes.axhline(0, color=colour("ink"), linewidth=1, linestyle=DASHES[2])
        svg = picture(figure, title)
    return Chart(svg)


def histogram(
    counts: Sequence[float] | np.ndarray,
    edges: Sequence[float] | np.ndarray,
    *,
    title: str,
    x_label: str = "",
    y_label: str = "rows",
    marked: tuple[float, str] | None = None,
    part: tuple[Sequence[float] | np.ndarray, str, str] | None = None,
    size: tuple[int, int] = SIZE,
) -> Chart:
    """Return bars of ``counts`` (B,) between ``edges`` (B + 1,).

    ``part`` are the counts of those of one kind, its name and that of the rest.
    """
    with canvas(*size) as figure:
        axes = _axes(figure, x_label, y_label)
        first = "series-1" if part is None else "series-2"
        axes.stairs(counts, edges, fill=True, color=colour(first))
        if part is not None:
            axes.stairs(part[0], edges, fill=True, color=colour("series-1"))
        axes.set_ylim(0)
        if marked is not None:
            _mark(axes, *marked)
        svg = picture(figure, title)
    named = () if part is None else ((part[1], "series-1", False), (part[2], "series-2", False))
    return Chart(svg, named)


def bars(
    names: Sequence[str],
    values: Sequence[float] | np.ndarray,
    *,
    title: str,
    errors: Sequence[float] | np.ndarray | None = None,
    x_label: str = "",
    width: int = SIZE[0],
) -> Chart:
    """Return a horizontal bar for each name, the first at the top, ``errors`` to each side."""
    values = np.nan_to_num(np.asarray(values, np.float64), posinf=0, neginf=0)
    labels = [_short(name, 24) for name in names]
    height = 22 * len(labels) + 46
    left = 18 + 6.3 * max(map(len, labels), default=0)
    with canvas(width, height) as figure:
        axes = _axes(figure, x_label, "", left=min(left, width * 0.45), grid="x")
        axes.barh(
            range(len(labels)),
            values,
            height=0.62,
            color=colour("series-1"),
            alpha=0.8,
            xerr=None if errors is None else np.nan_to_num(errors),
            error_kw={"ecolor": colour("ink"), "elinewidth": 1},
        )
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.axvline(0, color=colour("soft"), linewidth=1)
        svg = picture(figure, title)
    return Chart(svg)


def matrix(
    values: np.ndarray, *, title: str, x_label: str = "", y_label: str = "", width: int = 520
) -> Chart:
    """Return (R, C) numbers from 0 to 1 as a map, however many; 1 is the full colour.

    Row 0 is at the top. The map is a mask over the page's colour, so that it follows the theme.
    """
    image = png(np.round(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8))
    rows, columns = values.shape
    height = round(width * min(max(rows / columns, 0.3), 1.5))
    with canvas(width, height) as figure:
        axes = _axes(figure, x_label, y_label, grid="")
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        for spine in axes.spines.values():
            spine.set_visible(True)
        box = axes.get_position()
        svg = picture(figure, title)
    x, y, w, h = (box.x0 * width, (1 - box.y1) * height, box.width * width, box.height * height)
    place = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
    name = f"mask-{key_of(image + title)}"
    mask = (
        f'<mask id="{name}"><image href="{image}" {place} '
        'preserveAspectRatio="none" style="image-rendering:pixelated"/></mask>'
        f'<rect {place} fill="var(--series-1)" mask="url(#{name})"/>'
    )
    return Chart(f"{svg.removesuffix('</svg>')}{mask}</svg>")


def _axes(
    figure: "Figure",
    x_label: str,
    y_label: str,
    left: float = 58,
    grid: Literal["x", "y", ""] = "y",
) -> "Axes":
    """Return axes with room for their labels, a line below and a light grid."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    width, height = (72 * side for side in figure.get_size_inches())
    bottom, top, right = 42 if x_label else 26, 18, 14
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    axes: Axes = figure.add_axes(box, facecolor="none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colour("soft"))
    axes.tick_params(length=0, colors=colour("soft"), pad=5)
    axes.set_xlabel(escape(x_label), color=colour("soft"), labelpad=4)
    axes.set_ylabel(escape(y_label), color=colour("soft"), labelpad=6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if grid:
        axes.grid(axis=grid, color=colour("line"), linewidth=1)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    return axes


def _logarithmic(axes: "Axes", values: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    wide = values.max() > 200 * values.min()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _mark(axes: "Axes", place: float, name: str) -> None:
    """Draw a line at a place of the horizontal axis, with its name beside it."""
    axes.axvline(place, color=colour("soft"), linewidth=1, linestyle=DASHES[1])
    low, high = axes.get_xlim()
    right = place > (low + high) / 2
    axes.annotate(
        escape(name),
        (place, 1),
        (4 if right else -4, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        color=colour("ink"),
    )


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


def _shares(sizes: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(sizes, np.float64)
    return values / (values.max(initial=0.0) or 1.0)


def _say(axes: "Axes", text: str) -> None:
    """Write in the middle of a chart why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=colour("soft"))
    axes.set_xticks([])
    axes.set_yticks([])


def _finite(line: Line, number: int) -> Line:
    """Return a line with a colour, and with gaps where it has no value."""
    x, y = np.asarray(line.x, np.float64), np.array(line.y, np.float64)
    y[~np.isfinite(y)] = np.nan
    series = line.colour or SERIES[number % len(SERIES)]
    return Line(line.name, x, y, series, line.dashed or (number >= len(SERIES) and not line.colour))


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MOST points: of each stretch the lowest and the highest, in their order."""
    if len(y) <= MOST:
        return x, y
    kept = {0, len(y) - 1}
    for part in np.array_split(np.arange(len(y)), MOST // 2 - 1):
        here = y[part]
        if np.isfinite(here).any():
            kept |= {int(part[np.nanargmin(here)]), int(part[np.nanargmax(here)])}
        if not np.isfinite(here).all():
            kept.add(int(part[~np.isfinite(here)][0]))
    order = sorted(kept)
    return x[order], y[order]


def _tick(value: float) -> str:
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return (
        f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("-", "−")
    )


def _short(name: str, most: int) -> str:
    name = escape(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
