"""Points in groups: where they are drawn, over numbers, decades and names."""

import re

import numpy as np

from xpnet.report.charts import Line
from xpnet.report.scatter import scatter


def places(svg):
    """The places of the marks, group by group."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r'<use[^>]*?x="([\d.]+)" y="([\d.]+)"', group)]
        for group in svg.split("<g")
        if "<use" in group
    ]


def marks(chart):
    return [p for group in places(chart.svg) for p in group]


def test_points_are_where_their_numbers_say():
    chart = scatter([Line("a", [0, 1, 2], [0.0, 1.0, 4.0])], title="t")
    x, y = np.transpose(marks(chart))
    assert np.allclose(np.diff(x), np.diff(x)[0], atol=0.11, rtol=0)
    assert np.allclose(np.diff(y)[1], 3 * np.diff(y)[0], atol=0.4, rtol=0)
    assert (np.diff(y) < 0).all()  # up is more


def test_a_logarithmic_axis_has_equal_decades():
    chart = scatter([Line("a", [0.001, 0.01, 0.1], [1, 1, 1])], title="t", log=(True, False))
    x, _ = np.transpose(marks(chart))
    assert np.allclose(np.diff(x), np.diff(x)[0], atol=0.11, rtol=0)
    assert all(f">{name}<" in chart.svg for name in ("0.001", "0.01", "0.1"))
    near = scatter([Line("a", [0.01, 0.03], [1, 2])], title="t", log=(True, False))
    assert ">0.02<" in near.svg


def test_names_stand_under_their_points_and_a_step_joins_the_groups():
    groups = [Line("one", [0, 1], [1.0, 2.0]), Line("two", [1], [3.0], "soft")]
    chart = scatter(
        groups,
        title="t",
        names=["<a>", "b"],
        path=Line("best", [0, 1], [1, 1], "good"),
        ringed=(0, 1),
    )
    assert "&lt;a&gt;" in chart.svg
    assert [name for name, _, _ in chart.legend] == ["one", "two", "best"]
    assert "var(--lit)" in chart.svg
    assert "var(--good)" in chart.svg


def test_what_is_not_finite_is_left_out():
    chart = scatter([Line("a", [0, 1, 2], [1.0, float("nan"), 2.0])], title="t")
    assert len(marks(chart)) == 2
    assert "no finite value" in scatter([Line("a", [0], [float("nan")])], title="t").svg
    assert "no finite value" in scatter([Line("a", [], [])], title="t", log=(True, True)).svg
