"""Schedules against torch.optim.lr_scheduler, and against what their papers say."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from xpnet.errors import ConfigError
from xpnet.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    CosLog,
    Exponential,
    OneCycle,
    Plateau,
    Power,
    Schedule,
    Step,
)
from xpnet.settings import build_named

BASE_LR = 0.3
EPOCHS, STEPS_PER_EPOCH = 24, 3
TOTAL = EPOCHS * STEPS_PER_EPOCH
# It falls, stalls, falls by less than the threshold, falls, and rises.
METRICS = [1.0, 0.8, 0.8, 0.81, 0.79999, 0.79998, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6] + [0.7] * 12


def rates(schedule, total=TOTAL, steps_per_epoch=STEPS_PER_EPOCH, metrics=None):
    """Run a schedule as a trainer does; return the rate of each step."""
    state, result = schedule.init(), []
    for step in range(total):
        result.append(schedule.lr(state, BASE_LR, step, total, steps_per_epoch))
        if (step + 1) % steps_per_epoch == 0:
            metric = metrics[step // steps_per_epoch] if metrics else 1.0
            state = json.loads(json.dumps(schedule.observe(state, metric), allow_nan=False))
    return result


def torch_rates(make, every=1, metrics=None):
    """Return the rates of a PyTorch scheduler that is stepped once every ``every`` steps."""
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch's scheduler")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE_LR)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    result = []
    for step in range(TOTAL):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0 and step + 1 < TOTAL:
            scheduler.step(*([metrics[step // every]] if metrics else []))
    return result


# name: (schedule, PyTorch's, training steps between two calls of its step())
ORACLES = {
    "step": (
        Step(every=5, gamma=0.3),
        lambda s, o: s.StepLR(o, step_size=5, gamma=0.3),
        STEPS_PER_EPOCH,
    ),
    "exponential": (
        Exponential(gamma=0.9),
        lambda s, o: s.ExponentialLR(o, gamma=0.9),
        STEPS_PER_EPOCH,
    ),
    "cosine": (
        Cosine(minimum=0.1),
        lambda s, o: s.CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.1 * BASE_LR),
        1,
    ),
    "one cycle": (
        OneCycle(),
        lambda s, o: s.OneCycleLR(o, BASE_LR, total_steps=TOTAL, cycle_momentum=False),
        1,
    ),
    "one cycle with other factors": (
        OneCycle(pct_start=0.45, div_factor=10.0, final_div_factor=100.0),
        lambda s, o: s.OneCycleLR(
            o,
            BASE_LR,
            total_steps=TOTAL,
            pct_start=0.45,
            div_factor=10.0,
            final_div_factor=100.0,
            cycle_momentum=False,
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_rates_are_those_of_pytorch(name):
    schedule, make, every = ORACLES[name]
    assert rates(schedule) == pytest.approx(torch_rates(make, every), rel=1e-10)


@pytest.mark.parametrize("cycles", [1, 4, 6])
def test_waves_double_in_length_and_fill_the_steps(cycles):
    total, waves = 2**cycles - 1, 40
    seen = rates(CosLog(cycles), total=waves * total)
    for number in range(cycles):  # of the waves, by the formula solved for t
        start, stop = (2**n - 1 for n in (number, number + 1))
        middle = 2.0 ** (number + 0.5) - 1.0
        assert seen[waves * start] == pytest.approx(0.0, abs=2e-3)
        of_wave = seen[waves * start : waves * stop]
        assert max(of_wave) == pytest.approx(BASE_LR, rel=1e-2)
        assert of_wave.index(max(of_wave)) == pytest.approx(waves * (middle - start), abs=1)


def test_coslog_is_that_of_realmlp():
    """Holzmüller's code: 0.5 - 0.5 * np.cos(2 * np.pi * np.log2(1 + 15 * t))."""
    t = (np.arange(1000) + 0.5) / 1000
    expected = BASE_LR * (0.5 - 0.5 * np.cos(2 * np.pi * np.log2(1 + 15 * t)))
    np.testing.assert_allclose(rates(CosLog(), total=1000), expected, rtol=0, atol=1e-12)
    assert build_named(SCHEDULES, {"name": "coslog", "cycles": 4}, "schedule") == CosLog()
    with pytest.raises(ConfigError, match="cycles must be"):
        CosLog(0)


# In older versions of PyTorch, SequentialLR uses what that very version deprecates.
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_warmed_up_cosine_is_pytorchs_linear_and_cosine_in_sequence():
    warm = TOTAL // 4

    def make(s, optimizer):
        up = s.LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
        down = s.CosineAnnealingLR(optimizer, T_max=TOTAL - warm)
        return s.SequentialLR(optimizer, [up, down], milestones=[warm])

    assert rates(Cosine(warmup=0.25)) == pytest.approx(torch_rates(make), rel=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 0, "cooldown": 3},
        {"patience": 1, "cooldown": 1, "factor": 0.5},
        {"patience": 1, "factor": 0.2, "min_lr": 0.05},
        {"patience": 1, "min_lr": 2 * BASE_LR},
        {"patience": 3, "threshold": 0.3},
        {"patience": 1, "mode": "max"},
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_plateau_is_pytorchs_and_its_state_survives_json(options, sign):
    metrics = [sign * m for m in METRICS]

    def make(s, optimizer):  # its eps would skip tiny reductions; ours has no eps
        return s.ReduceLROnPlateau(optimizer, **options, eps=0)

    expected = torch_rates(make, STEPS_PER_EPOCH, metrics)
    assert rates(Plateau(**options), metrics=metrics) == pytest.approx(expected, rel=1e-10)


def test_plateau_counts_bad_epochs_one_by_one():
    plateau = Plateau(patience=1, cooldown=1, factor=0.5)
    state, seen = plateau.init(), []
    for metric in [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1]:
        state = plateau.observe(state, metric)
        seen.append((state["reductions"], state["bad_epochs"], state["cooldown_left"]))
    # best, bad, bad: reduce; cooling, bad, bad: reduce; better
    assert seen == [(0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 0, 0), (1, 1, 0), (2, 0, 1), (2, 0, 0)]
    assert plateau.lr(state, 1.0, 0, 1, 1) == 0.25


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_constant_metric_does_not_improve_even_without_a_threshold(mode):
    plateau = Plateau(patience=1, threshold=0.0, mode=mode)
    state = plateau.init()
    for _ in range(3):
        state = plateau.observe(state, 1.0)
    assert state["reductions"] == 1


@pytest.mark.parametrize(("mode", "monitor"), [("min", "loss"), ("max", "accuracy")])
def test_mode_and_monitor_imply_each_other_and_are_checked(mode, monitor):
    both = Plateau(mode=mode, monitor=monitor)
    assert both == Plateau(mode=mode) == Plateau(monitor=monitor)
    assert Plateau() == Plateau(mode="min")
    other = "max" if mode == "min" else "min"
    with pytest.raises(ConfigError, match=f"{monitor} needs mode '{mode}'; got '{other}'"):
        Plateau(mode=other, monitor=monitor)


def test_observing_leaves_the_old_state_as_it_was():
    plateau = Plateau()
    before = plateau.init()
    plateau.observe(before, 1.0)
    assert before == plateau.init()


def test_a_metric_that_is_not_finite_is_a_bad_epoch_and_never_the_best():
    plateau = Plateau(patience=1)
    state = plateau.init()
    for metric in [math.nan, math.inf, -math.inf]:
        state = plateau.observe(state, metric)
    assert state["best"] is None
    assert state["reductions"] == 1


def test_step_and_exponential_by_hand():
    assert rates(Step(every=2, gamma=0.5), total=6, steps_per_epoch=1) == pytest.approx(
        [0.3, 0.3, 0.15, 0.15, 0.075, 0.075]
    )
    assert rates(Exponential(gamma=0.5), total=6, steps_per_epoch=2) == pytest.approx(
        [0.3, 0.3, 0.15, 0.15, 0.075, 0.075]
    )


def test_cosine_rises_in_equal_steps_to_the_base_rate_and_is_half_way_down_in_the_middle():
    lr = rates(Cosine(warmup=0.25), total=16)
    assert lr[:5] == pytest.approx([BASE_LR * k / 5 for k in (1, 2, 3, 4, 5)])
    assert lr[10] == pytest.approx(BASE_LR / 2)
    assert all(a > b for a, b in pairwise(lr[4:]))


def test_a_warm_up_of_almost_all_steps_leaves_the_last_one_for_the_base_rate():
    # round(0.99 * 10) would be all of them.
    assert rates(Cosine(warmup=0.99), total=10) == pytest.approx(
        [k / 10 * BASE_LR for k in range(1, 11)]
    )


def test_one_cycle_starts_peaks_and_ends_where_it_says():
    lr = rates(OneCycle(pct_start=0.5), total=20)
    assert lr[0] == pytest.approx(BASE_LR / 25)
    assert lr[9] == max(lr) == pytest.approx(BASE_LR)
    assert lr[-1] == pytest.approx(BASE_LR / 25 / 1e4)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_very_short_run_has_finite_rates_within_the_base_rate(name, total, fraction):
    settings = {"cosine": {"warmup": fraction}, "one_cycle": {"pct_start": fraction}}
    schedule = SCHEDULES[name](**settings.get(name, {}))
    for lr in rates(schedule, total=total, steps_per_epoch=1):
        assert type(lr) is float
        assert 0 < lr <= BASE_LR


@pytest.mark.parametrize("schedule", [Cosine(minimum=0.2), OneCycle()])
def test_past_the_end_the_rate_stays_at_its_minimum(schedule):
    last = schedule.lr({}, BASE_LR, TOTAL, TOTAL, STEPS_PER_EPOCH)
    assert schedule.lr({}, BASE_LR, TOTAL + 7, TOTAL, STEPS_PER_EPOCH) == last


def test_a_power_divides_the_rate_by_the_number_of_the_update():
    expected = [BASE_LR, BASE_LR / 2**0.25, BASE_LR / 3**0.25]
    assert rates(Power(0.25), total=3) == pytest.approx(expected, rel=1e-15)


def test_the_table_builds_every_schedule_and_only_plateau_has_a_state():
    built = {name: build_named(SCHEDULES, name, "schedule") for name in SCHEDULES}
    assert all(isinstance(schedule, Schedule) for schedule in built.values())
    assert [name for name, schedule in built.items() if schedule.init()] == ["plateau"]
    assert set(rates(Constant())) == {BASE_LR}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("step", {"every": 0}, "schedule.every must be >= 1; got 0"),
        ("exponential", {"gamma": 1.5}, "schedule.gamma must be > 0 and <= 1; got 1.5"),
        ("plateau", {"mode": "low"}, "schedule.mode must be one of 'min', 'max'; got 'low'"),
        ("cosine", {"warm": 0.1}, "'cosine' takes warmup, minimum; did you mean 'warmup'?"),
    ],
)
def test_a_wrong_setting_is_named(name, settings, message):
    with pytest.raises(ConfigError) as error:
        build_named(SCHEDULES, {"name": name, **settings}, "schedule")
    assert message in str(error.value)
