"""Charts: small, the same bytes each time, in the page's colours, readable without eyes."""

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="charts are drawn by it")
from markupsafe import Markup

from xpnet.report import charts, svg
from xpnet.report.charts import Line

RNG = np.random.default_rng(0)
EPOCHS = np.arange(1, 31)
DRAWN = {
    "curves": lambda: charts.curves(
        [Line("training", EPOCHS, 1 / EPOCHS), Line("validation", EPOCHS, 2 / EPOCHS, dashed=True)],
        title="Loss",
        x_label="epoch",
        marked=(14, "best"),
    ),
    "points": lambda: charts.points(EPOCHS, -EPOCHS, title="P", against="diagonal"),
    "histogram": lambda: charts.histogram([1, 3, 2], [0, 1, 2, 3], title="H", x_label="residual"),
    "bars": lambda: charts.bars(["a", "b"], [0.5, -0.1], errors=[0.1, 0.1], title="B"),
    "matrix": lambda: charts.matrix(np.eye(40), title="M", x_label="predicted", y_label="true"),
}


def parsed(chart):
    """The picture as elements; inside HTML a browser knows their namespace."""
    return ElementTree.fromstring(chart.svg)


@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_is_the_same_each_time_and_has_only_colours_of_the_page(name):
    first, again = DRAWN[name](), DRAWN[name]()
    assert first.svg == again.svg
    assert not re.search(r"#[0-9a-fA-F]{6}\b|rgb\(", first.svg)
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", first.svg)) <= set(svg.VARIABLES)


@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_says_what_it_is_and_has_nothing_for_the_whole_document(name):
    root = parsed(DRAWN[name]())
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert not {e.tag for e in root.iter()} & {"style", "metadata"}
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    referred = re.findall(r"(?:url\(|href=\")#([^)\"]+)", DRAWN[name]().svg)
    assert set(referred) == set(ids)


def test_two_charts_of_a_page_share_no_identifier():
    both = [charts.points([1, 2], [n, 2], title=f"P{n}").svg for n in range(2)]
    assert not set(re.findall(r'id="([^"]+)"', both[0])) & set(re.findall(r'id="(.+?)"', both[1]))


def coordinates(path):
    return np.array([pair.split() for pair in re.findall(r"[\d.]+ [\d.]+", path)], float)


def longest(root):
    return max((coordinates(e.get("d", "")) for e in root.iter("path")), key=len)


def test_a_curve_is_where_its_numbers_are():
    drawn = longest(parsed(charts.curves([Line("a", EPOCHS, EPOCHS**2)], title="squares")))
    x = np.polyfit(EPOCHS, drawn[:, 0], 1, full=True)
    y = np.polyfit(EPOCHS**2, drawn[:, 1], 1, full=True)
    assert x[0][0] > 0 > y[0][0]  # to the right and, from the top of the picture, upwards
    assert x[1] < 0.1
    assert y[1] < 0.1


def test_a_long_curve_keeps_its_extremes_in_few_points():
    y = RNG.normal(size=20_000)
    y[7_777] = 50.0
    chart = charts.curves([Line("a", np.arange(20_000), y)], title="long")
    assert len(chart.svg) < 20_000
    top = longest(parsed(chart))[:, 1]
    assert top.min() < 30  # the peak reaches the top of the picture


def test_values_that_are_not_finite_leave_a_gap_or_are_said():
    y = np.array([1, 2, np.nan, np.inf, 3, 4.0])
    root = parsed(charts.curves([Line("a", range(6), y)], title="g"))
    assert max(e.get("d", "").count("M") for e in root.iter("path")) == 2
    assert "no finite value" in charts.curves([Line("a", [1], [np.nan])], title="none").svg
    assert "no finite value" in charts.points([np.inf], [1], title="none").svg
    charts.bars(["a"], [np.nan], title="none")


def test_one_epoch_is_a_point_that_is_seen():
    assert "<use" in charts.curves([Line("a", [1], [0.5])], title="one").svg


def test_names_are_shown_as_they_are_written():
    name = "<b>$x$ \x1b[1m \u65e5\u672c & \u202e"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = [Line(name, [1, 2, 3], [1, 2, 3]), Line("b", [1, 2], [1, 2])]
        chart = charts.curves(lines, title=name, x_label=name, marked=(2, name))
        charts.bars([name], [1], title=name)
    label = parsed(chart).get("aria-label")
    assert label == "<b>$x$ \\x1b[1m \u65e5\u672c & \\u202e"
    html = Markup("{}").format(chart)
    assert "<b>" not in html
    assert "$x$" in html


def test_what_the_user_set_for_matplotlib_neither_acts_nor_changes():
    import matplotlib

    expected = DRAWN["curves"]().svg
    with matplotlib.rc_context({"font.size": 40, "lines.linewidth": 9, "text.usetex": True}):
        assert DRAWN["curves"]().svg == expected
        assert matplotlib.rcParams["font.size"] == 40


def test_many_lines_are_told_apart_by_colour_and_dashes():
    lines = [Line(str(n), [1, 2, 3], [n, n, n + 1]) for n in range(16)]
    legend = charts.curves(lines, title="many").legend
    assert len({entry[1:] for entry in legend}) == 16


def test_a_thousand_points_are_small():
    chart = charts.points(RNG.normal(size=1000), RNG.normal(size=1000), title="many")
    assert len(chart.svg) < 48_000
