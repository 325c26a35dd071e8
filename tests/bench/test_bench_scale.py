"""How time and memory grow: measured in fresh processes, reported, and held to conditions."""

import json
import sys

import numpy as np
import pytest

from xpnet.bench import scale
from xpnet.bench.scale import AXES, Growth, Point, grow, write_rows
from xpnet.cli.main import main
from xpnet.errors import ConfigError

POINTS = [Point(n, 10.0 * n, 3.0 * n, 200.0) for n in (1, 10, 100, 1000)]


@pytest.mark.long_but(axis=["width"])
@pytest.mark.parametrize("axis", AXES)
def test_a_point_is_measured_in_a_process_of_its_own(axis, monkeypatch):
    held = b"x" * 2**29  # must not count for a process started from here
    small = {"width": 8, "depth": 1, "batch": 8, "rows": 2000}[axis]
    monkeypatch.setitem(scale.AXES, axis, AXES[axis]._replace(sizes=(small,)))
    seen = []
    (point,) = scale.measure_axis(axis, seen.append)
    assert seen == [point]
    assert point.size == small
    assert point.work > 0
    assert point.microseconds > 0
    assert 0 <= point.memory < len(held) / 2**20


def test_the_work_of_a_step_is_what_its_products_cost():
    one, two = (AXES["depth"].point(n).work for n in (1, 2))
    assert two - one == 2 * 128 * 256 * 256 * 3


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_power_is_found(power):
    points = [Point(n, float(n), 5.0 * n**power, 2.0 * n**power) for n in (1, 10, 100, 1000)]
    assert grow(points, "microseconds") == pytest.approx(power, abs=1e-3)
    assert grow(points, "memory") == pytest.approx(power, abs=1e-3)


def test_the_small_half_does_not_count():
    """Small steps are dominated by constant costs."""
    points = [Point(n, float(n), 100.0 + n, 0.0) for n in (1, 1000, 10_000, 100_000)]
    assert grow(points, "microseconds") > 0.95


def test_a_condition_holds_or_names_its_failure():
    assert Growth.parse("rows time<=1.05").failure({"rows": POINTS}) is None
    assert Growth.parse("rows memory<=0").failure({"rows": POINTS}) is None
    failure = Growth.parse("rows time <= 0.9").failure({"rows": POINTS})
    assert failure == "time grows with rows as work^1.0; expected a power <= 0.9"
    assert Growth.parse("width time<=1").failure({"rows": POINTS}) == "width was not measured"


@pytest.mark.parametrize("text", ["", "rows<=1", "columns time<=1", "rows time<1", "rows time<=x"])
def test_an_invalid_condition_is_refused(text):
    with pytest.raises(ConfigError, match="--expect takes AXIS time<=POWER"):
        Growth.parse(text)


def test_rows_are_written_in_chunks_with_their_labels(tmp_path):
    file = write_rows(tmp_path / "data", 1000)
    x, y = np.load(file), np.load(file.with_name("labels.npy"))
    assert x.shape == (1000, scale.FEATURES)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(y, x[:, : scale.CLASSES].argmax(axis=1))


@pytest.mark.parametrize(("bound", "code"), [("2", 0), ("0.5", 1)])
def test_the_command_writes_its_reports_and_exits_by_its_conditions(
    bound, code, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        scale, "measure_axis", lambda name, report: [report(p) or p for p in POINTS]
    )
    files = {"--json-file": "s.json", "--markdown": "s.md"}
    options = [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--scale", "--only", "rows", "--expect", f"rows time<={bound}", *options])
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert "1,000: 3,000 µs per step, 200 MiB" in printed.out
    assert ("not as expected: time grows" in printed.err) == bool(code)
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["axes"]["rows"]["power"] == {"time": 1.0, "memory": 0.0}
    assert found["machine"]["cores"]
    assert "| 1,000 | 3,000 | 200 |" in (tmp_path / "s.md").read_text()


def test_a_plot_has_a_column_for_each_axis(tmp_path):
    pytest.importorskip("matplotlib", reason="a plot needs it: pip install '.[bench]'")
    scale.plot({"rows": POINTS, "width": POINTS}, str(tmp_path / "s.svg"))
    assert "<svg" in (tmp_path / "s.svg").read_text()


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--scale", "--plot", str(tmp_path / "s.svg")])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert "a plot needs 'matplotlib': pip install 'matplotlib>=" in printed.err
    assert printed.out == ""


def test_an_unknown_axis_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--scale", "--only", "row"])
    assert ended.value.code == 2
    assert "unknown axis 'row'; did you mean 'rows'?" in capsys.readouterr().err
