"""The benchmark's plumbing, on networks too small to say anything of speed."""

import json

import pytest

from xpnet.bench import STANDARD, Expectation, measure, parse_network
from xpnet.bench.contenders import CONTENDERS, LIMIT
from xpnet.bench.measure import Row, Timing
from xpnet.bench.report import plot, to_json, to_markdown
from xpnet.cli import main
from xpnet.errors import BackendError, ConfigError

TINY = parse_network("4-3-2:5:sgd")


def timed(**medians):
    timings = {name.replace("_", " "): Timing(m, m, m, "") for name, m in medians.items()}
    return Row(TINY, {LIMIT: Timing(10.0, 10.0, 10.0, ""), **timings}, {})


@pytest.mark.parametrize("name", [n for n in CONTENDERS if n not in ("torch.compile",)])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_every_contender_takes_steps_or_says_why_not(name, rule):
    row = measure(parse_network(f"4-3-2:5:{rule}"), [name], rounds=1)
    if name in row.absent:
        assert len(row.absent[name]) > 20
    else:
        assert row.timings[name].median > 0


def test_the_flops_are_those_of_the_products():
    """x W twice (forward and dW), and the second layer's input gradient."""
    assert TINY.flops() == 2 * 5 * (2 * 4 * 3 + 3 * 3 * 2)
    assert str(STANDARD[0]) == "64-32-10:32:sgd"


def test_a_ratio_is_to_the_limit_or_to_another_contender():
    row = timed(xpnet_numpy=12.0, PyTorch_eager=60.0)
    assert row.ratio("xpnet numpy") == 1.2
    assert row.ratio("xpnet numpy", "PyTorch eager") == 0.2


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("ratio<=1.2", True),
        ("ratio<1.2", False),
        ("ratio<=1.1", False),
        ("ratio/PyTorch eager<1", True),
        ("ratio/PyTorch eager<=0.1", False),
        ("4-3-2:5:sgd ratio<=1", False),
        ("9-3-2:5:sgd ratio<=1", True),  # another row
        ("ratio/JAX jit<1", False),  # not timed: a condition that nobody checked does not hold
    ],
)
def test_a_condition_holds_or_names_its_failure(condition, holds):
    row = timed(xpnet_numpy=12.0, PyTorch_eager=60.0)
    failure = Expectation.parse(condition).failure(row, "xpnet numpy")
    assert (failure is None) == holds
    if not holds:
        assert failure.startswith("4-3-2:5:sgd: ")


@pytest.mark.parametrize("text", ["ratio", "ratio=1", "speed<=1", "ratio<=fast"])
def test_a_condition_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="--expect takes"):
        Expectation.parse(text)


@pytest.mark.parametrize("text", ["64", "64-10:32", "64-10:32:sdg", "0-10:32:sgd"])
def test_a_row_that_is_none_is_refused(text):
    with pytest.raises(ConfigError):
        parse_network(text)


def test_the_reports_hold_what_was_measured(tmp_path):
    row = timed(xpnet_numpy=12.0)
    data = to_json([row], "float32")
    assert data["rows"][0]["timings"]["xpnet numpy"]["ratio"] == 1.2
    assert "numpy" in data["machine"]["versions"]
    assert "| 4-3-2:5:sgd | 10 | 12 (1.20) |" in to_markdown([row], "float32")
    pytest.importorskip("matplotlib", reason="a plot needs it: pip install 'xpnet[bench]'")
    plot([row], str(tmp_path / "ratios.svg"))
    assert (tmp_path / "ratios.svg").stat().st_size > 1000


@pytest.mark.parametrize(("condition", "code"), [("ratio<=1e9", 2), ("ratio<=1000000", 0)])
def test_the_command_exits_by_its_conditions(condition, code, tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = ["bench", "--rows", str(TINY), "--only", "xpnet numpy", "--rounds", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--expect", condition, "--json", str(out)])
    assert ended.value.code == code
    if code == 0:
        assert json.loads(out.read_text("utf-8"))["rows"][0]["network"] == str(TINY)


def test_a_missed_condition_exits_with_1(capsys):
    arguments = ["bench", "--rows", str(TINY), "--only", "xpnet numpy", "--rounds", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--expect", "ratio<=0"])
    assert ended.value.code == 1
    assert "not as expected: 4-3-2:5:sgd: xpnet numpy takes" in capsys.readouterr().err


def test_the_crossover_needs_a_gpu():
    from xpnet.backends import backend_class
    from xpnet.bench.crossover import find_crossover

    if backend_class("cupy").probe().devices:
        pytest.skip("there is a GPU here, and this is about its absence")
    with pytest.raises(BackendError, match="nothing to cross over to: device 'cuda' needs"):
        next(find_crossover("float32", 1))


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_profile_names_every_part(rule, portable, monkeypatch):
    from xpnet.bench import profile

    monkeypatch.setattr(profile, "SLICE", 0.001)
    parts = profile.profile(parse_network(f"4-3-2:5:{rule}"), "float32", portable=portable)
    assert tuple(parts) == profile.PARTS
    assert all(time >= 0 for time in parts.values())
    assert all(parts[name] > 0 for name in ("data", "forward", "loss", "backward", "optimizer"))


def test_the_command_profiles_its_rows(capsys):
    arguments = ["bench", "--rows", str(TINY), "--only", "xpnet numpy", "--rounds", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--profile"])
    assert ended.value.code == 0
    assert "xpnet numpy, portable: " in capsys.readouterr().out
