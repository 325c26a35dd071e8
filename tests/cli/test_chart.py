"""Curves in the terminal."""

import math

import numpy as np
import pytest

from xpnet.cli.chart import LETTERS, Curve, chart, ticks

EPOCHS = list(range(1, 31))


def drawn(curves, width=60, height=8, **options):
    return [line.plain for line in chart(curves, "loss", width, height, **options)]


@pytest.mark.parametrize("braille", [True, False])
@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_no_line_is_wider_than_asked(width, braille):
    falling = Curve("training", EPOCHS, [1e5 * 0.5**n for n in EPOCHS])
    rising = Curve("validation", EPOCHS, [n / 7 for n in EPOCHS])
    for curves in ([falling], [rising], [falling, rising]):
        for line in drawn(curves, width, mark=17, braille=braille):
            for part in line.split("\n"):
                assert len(part) <= width, part


def test_a_line_that_falls_is_drawn_from_the_top_left_to_the_bottom_right():
    rows = drawn([Curve("a", EPOCHS, [-n for n in EPOCHS])], braille=False)[1:-2]
    assert len(rows) == 8
    columns = [[c for c, drawn_ in enumerate(row) if drawn_ == "*"] for row in rows]
    assert all(columns)
    flat = [c for row in columns for c in row]
    assert flat == sorted(flat)
    assert len(flat) == len(set(flat))


def test_every_finite_point_is_drawn_and_a_nan_is_a_gap():
    """plotext 5 leaves out what is before a NaN, plotext 6 ends the process."""
    y = [1.0] * 10
    y[4] = math.nan
    (row,) = [row for row in drawn([Curve("a", range(10), y)], braille=False)[1:-2] if "*" in row]
    before, after = row.removeprefix("1 +").rstrip().split()
    assert set(before + after) == {"*"}
    assert (len(before), len(after)) == (20, 26)  # of 57 columns: to epoch 3, and from epoch 5
    assert len(row) == 60


@pytest.mark.parametrize("width", [33, 40, 57, 80])
def test_a_line_has_no_holes(width):
    for n in (2, 7, 11, 30):
        lines = drawn([Curve("a", range(n), [k % 3 for k in range(n)])], width, braille=False)
        columns = {c for line in lines[1:-2] for c, drawn_ in enumerate(line) if drawn_ == "*"}
        assert columns == set(range(min(columns), max(columns) + 1))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_alone_are_dots(bad):
    y = [bad, 0.3, bad, 0.5, bad]
    lines = drawn([Curve("a", range(5), y)])
    assert sum(line.count("●") for line in lines) == 2
    assert drawn([Curve("a", range(5), [bad] * 5)]) == ["loss: no finite value"]
    assert drawn([Curve("a", [], [])]) == ["loss: no finite value"]
    assert sum(line.count("●") for line in drawn([Curve("a", [1], [0.5])])) == 1


def test_values_that_span_decades_have_a_logarithmic_scale():
    decades = [10 ** (-n / 10) for n in EPOCHS]
    title, *rows = drawn([Curve("a", EPOCHS, decades)], height=12)
    assert title.startswith("loss, log scale")
    labels = [float(row.split("┤")[0]) for row in rows if "┤" in row]
    assert labels == [0.1, 0.01, 0.001]
    rows = drawn([Curve("a", EPOCHS, [10 ** (-n / 18) for n in EPOCHS])], height=12)[1:]
    assert [float(row.split("┤")[0]) for row in rows if "┤" in row] == [0.5, 0.2, 0.1, 0.05]
    assert "log" not in drawn([Curve("a", EPOCHS, [v - 1e-3 for v in decades])])[0]  # one is 0
    assert "log" not in drawn([Curve("a", EPOCHS, [0.3, *[0.1] * 29])])[0]


def test_the_best_epoch_is_marked_where_it_is():
    lines = drawn([Curve("a", EPOCHS, [0.0] * 29 + [1.0])], mark=30, braille=False)
    assert {line[-1] for line in lines[1:-2]} <= {":", "*"}
    lines = drawn([Curve("a", EPOCHS, [1.0] * 30)], mark=99)
    assert not any("┊" in line for line in lines)


def test_the_second_curve_is_dashed_so_that_it_differs_without_colours():
    dashed = drawn([Curve("", [0, 1], [9, 9]), Curve("b", EPOCHS, [1] * 30)], braille=False)
    (last,) = [row for row in dashed if LETTERS[1] * 3 in row]
    assert " " * 3 in last[last.index(LETTERS[1]) : last.rindex(LETTERS[1])]


def test_a_name_cannot_act_on_the_terminal():
    assert "\x1b" not in "".join(drawn([Curve("\x1b[2J", EPOCHS, EPOCHS)]))


def test_ticks_are_round_few_and_within():
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, span = rng.normal() * 10 ** rng.uniform(-6, 6), 10 ** rng.uniform(-6, 6)
        for most in (2, 3, 5, 8):
            found = ticks(low, low + span, most)
            assert 1 <= len(found) <= most
            assert found == sorted(set(found))
            assert all(low - 1e-6 * span <= t <= low + span + 1e-6 * span for t in found)
    for low, high in ((-2.0, 1.0), (-0.3, 0.2), (0.11, 0.14), (-9, 5)):
        found = ticks(low, high, 4, log=True)
        assert 1 <= len(found) <= 4
        assert all(low <= t <= high for t in found)
