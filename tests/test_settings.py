"""Settings: the values that each type accepts, and the one-line error for every other value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction as Rational
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpnet.errors import ConfigError
from xpnet.settings import (
    Checked,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Range,
    build,
    build_named,
    convert,
    did_you_mean,
    dump,
)


@dataclass(frozen=True)
class Rule(Checked):
    rate: PositiveFloat = 0.1


@dataclass(frozen=True)
class Momentum(Rule):
    momentum: Fraction = 0.9


@dataclass(frozen=True)
class Own(Rule):
    """A user's own class, which is in no table."""


RULES = {"plain": Rule, "momentum": Momentum, "heavy_ball": Momentum}


@dataclass(frozen=True)
class Inner(Checked):
    width: PositiveInt = 4
    label: str | int | None = None


@dataclass(frozen=True)
class Outer(Checked):
    inner: Inner = Inner()
    rule: Annotated[Rule, OneOf(RULES)] = Momentum()
    maybe: Annotated[Rule, OneOf(RULES)] | None = None
    rules: tuple[Annotated[Rule, OneOf(RULES)], ...] = ()
    widths: tuple[PositiveInt, ...] | None = None
    mode: Literal["slow", "fast"] = "slow"
    limit: PositiveFloat | None = None
    on: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.on and self.limit is None:
            msg = "on needs a limit"
            raise ConfigError(msg)


@dataclass(frozen=True)
class Needy(Checked):
    name: str
    size: int = field(default=3)


def refusal(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- one value ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (float, 1, 1.0),
        (float, np.float32(0.5), 0.5),
        (float, np.int64(2), 2.0),
        (float, Rational(1, 4), 0.25),
        (float, math.inf, math.inf),  # without a range, a float is any float
        (int, np.int32(3), 3),
        (int, -5, -5),
        (bool, True, True),
        (str, "", ""),
        (Any, None, None),
        (Mapping, {"a": 1}, {"a": 1}),
        (PositiveInt, 1, 1),
        (NonNegativeInt, 0, 0),
        (NonNegativeFloat, 0, 0.0),
        (Fraction, 0, 0.0),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, ...], (), ()),
        (tuple[float, ...], [1], (1.0,)),
        (int | None, None, None),
        (str | int, 3, 3),
        (str | int, "3", "3"),
        (Literal["auto", 1], 1, 1),
        (Literal["auto", 1], "auto", "auto"),
        (Inner, {"width": 2}, Inner(2)),
        (Inner, Inner(3), Inner(3)),
    ],
)
def test_a_value_is_converted_to_its_type(kind, value, expected):
    actual = convert(kind, value, "x")
    assert actual == expected
    assert type(actual) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (float, "0.1", "x must be a number; got '0.1'; write 0.1"),
        (float, ".01", "x must be a number; got '.01'; write 0.01"),
        (float, "1.", "x must be a number; got '1.'; write 1.0"),
        (float, "1,5", "x must be a number; got '1,5'"),
        (float, True, "x must be a number; got True"),
        (float, None, "x must be a number; got None"),
        (float, 1j, "x must be a number; got 1j"),
        (float, [1.0], "x must be a number; got [1.0]"),
        (int, 1.0, "x must be a whole number; got 1.0"),
        (int, False, "x must be a whole number; got False"),
        (int, "1", "x must be a whole number; got '1'; write 1"),
        (int, "007", "x must be a whole number; got '007'; write 7"),
        (bool, 1, "x must be true or false; got 1"),
        (bool, "true", "x must be true or false; got 'true'"),
        (str, 1, "x must be a string; got 1"),
        (str, None, "x must be a string; got None"),
        (Inner, 3, "x must be a table; got 3: write Inner(width=..., label=...)"),
        (PositiveInt, 0, "x must be >= 1; got 0"),
        (PositiveInt, 1.5, "x must be a whole number; got 1.5"),
        (NonNegativeInt, -1, "x must be >= 0; got -1"),
        (PositiveFloat, 0, "x must be > 0; got 0.0"),
        (NonNegativeFloat, -0.5, "x must be >= 0; got -0.5"),
        (Fraction, 1, "x must be >= 0 and < 1; got 1.0"),
        (Fraction, -1e-9, "x must be >= 0 and < 1; got -1e-09"),
        (Annotated[float, Range(gt=0, le=1)], 2, "x must be > 0 and <= 1; got 2.0"),
        (PositiveFloat, math.nan, "x must be > 0; got nan"),
        (PositiveFloat, math.inf, "x must be > 0; got inf"),
        (NonNegativeFloat, -math.inf, "x must be >= 0; got -inf"),
        (tuple[int, ...], 3, "x must be a list; got 3"),
        (tuple[str, ...], "ab", "x must be a list; got 'ab'"),
        (tuple[int, ...], {"a": 1}, "x must be a list; got {'a': 1}"),
        (tuple[PositiveInt, ...], [4, 0], "x[1] must be >= 1; got 0"),
        (tuple[int, ...] | None, [1, "a"], "x[1] must be a whole number; got 'a'"),
        (PositiveFloat | None, -1, "x must be > 0; got -1.0"),
        (str | int, 1.5, "x must be a string or a whole number; got 1.5"),
        (
            Literal["slow", "fast"],
            "fats",
            "x must be one of 'slow', 'fast'; got 'fats'; did you mean 'fast'?",
        ),
        (
            Literal["slow", "fast"],
            "zzz",
            "x must be one of 'slow', 'fast'; got 'zzz'; known: slow, fast",
        ),
        (Literal["slow", "fast"], 1, "x must be one of 'slow', 'fast'; got 1"),
        (Literal[1, 2], True, "x must be one of 1, 2; got True"),
        (Literal["slow"], ["slow"], "x must be 'slow'; got ['slow']"),
    ],
)
def test_a_refusal_names_the_expected_and_the_received_value(kind, value, message):
    assert refusal(convert, kind, value, "x") == message


def test_a_number_has_at_most_64_bits():
    for value in (-(2**63), 2**63 - 1):
        assert convert(int, value, "x") == value
    for value in (-(2**63) - 1, 2**63):
        with pytest.raises(ConfigError, match="a whole number of at most 64 bits"):
            convert(int, value, "x")


@given(st.floats(), st.sampled_from([PositiveFloat, NonNegativeFloat, Fraction]))
def test_a_range_accepts_exactly_what_satisfies_its_inequalities(value, kind):
    holds = {
        PositiveFloat: 0 < value < math.inf,
        NonNegativeFloat: 0 <= value < math.inf,
        Fraction: 0 <= value < 1,
    }[kind]
    if holds:
        assert convert(kind, value, "x") == value
    else:
        assert "x must be" in refusal(convert, kind, value, "x")


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (Range(gt=1), 1.1, 1),
        (Range(ge=1), 1, 0.9),
        (Range(lt=1), 0.9, 1),
        (Range(le=1), 1, 1.1),
        (Range(), 0, math.nan),
    ],
)
def test_each_bound_applies_to_its_side(bounds, inside, outside):
    assert bounds.holds(inside)
    assert not bounds.holds(outside)


# -- a dataclass ----------------------------------------------------------------------------------


def test_fields_are_checked_and_widened_on_construction():
    rule = Rule(1)
    assert type(rule.rate) is float
    assert Outer(widths=[3, np.int64(4)]).widths == (3, 4)
    assert refusal(Rule, -1) == "Rule.rate must be > 0; got -1.0"
    assert refusal(Momentum, momentum=1.0) == "Momentum.momentum must be >= 0 and < 1; got 1.0"


def test_an_instance_and_a_table_raise_the_same_error():
    end = "must be > 0; got -1.0"
    assert refusal(Rule, rate=-1) == f"Rule.rate {end}"
    assert refusal(build, Rule, {"rate": -1}) == f"rate {end}"
    assert refusal(build, Outer, {"rule": {"rate": -1}}) == f"rule.rate {end}"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"mod": "slow"}, "unknown setting 'mod'; did you mean 'mode'?"),
        ({"inner": {"with": 1}}, "unknown setting 'inner.with'; did you mean 'width'?"),
        ({"inner": {"zzz": 1}}, "unknown setting 'inner.zzz'; known: width, label"),
        ({"inner": {"width": 0}}, "inner.width must be >= 1; got 0"),
        ({"inner": 3}, "inner must be a table; got 3: write Inner(width=..., label=...)"),
        ({"rule": "momntum"}, "unknown rule 'momntum'; did you mean 'momentum'?"),
        (
            {"rule": {"name": "plain", "momentum": 0.5}},
            "unknown setting 'rule.momentum': 'plain' takes rate",
        ),
        ({"rule": 3}, "rule must be a name or a table with a name; got 3"),
        ({"rule": {"name": 3}}, "rule must be a name or a table with a name; got {'name': 3}"),
        ({"maybe": {"rate": 1}}, "maybe must be a name or a table with a name; got {'rate': 1}"),
        ({"rules": ["plain", {"name": "plain", "rate": 0}]}, "rules[1].rate must be > 0; got 0.0"),
        ({"widths": [1, -1]}, "widths[1] must be >= 1; got -1"),
        ({"on": True}, "on needs a limit"),
    ],
)
def test_an_error_names_the_setting_by_its_path(table, message):
    assert refusal(build, Outer, table) == message
    nested = refusal(convert, tuple[Outer, ...], [table], "runs")
    assert nested.startswith(("runs[0]", "unknown")) or nested == f"runs[0]: {message}"


def test_a_check_across_fields_names_its_section():
    assert refusal(build, Outer, {"on": True}, "training") == "training: on needs a limit"


def test_a_field_without_a_default_is_required():
    assert build(Needy, {"name": "a"}) == Needy("a")
    assert refusal(build, Needy, {"size": 1}, "data") == "missing setting 'data.name'"


# -- one of several classes -----------------------------------------------------------------------


def test_a_class_is_chosen_by_name_by_table_or_by_instance():
    assert build(Outer, {"rule": "plain"}).rule == Rule()
    assert build(Outer, {"rule": {"name": "momentum", "momentum": 0.5}}).rule == Momentum(0.1, 0.5)
    assert Outer(rule="plain") == Outer(rule=Rule())
    assert Outer(rules=["plain", Momentum()]).rules == (Rule(), Momentum())
    assert Outer(rule=Own(2.0)).rule == Own(2.0)


def test_a_table_without_a_name_means_the_default_class():
    assert build(Outer, {"rule": {"momentum": 0.5}}).rule == Momentum(0.1, 0.5)


def test_an_optional_class_may_be_omitted():
    assert build(Outer, {}).maybe is None
    assert build(Outer, {"maybe": "plain"}).maybe == Rule()


def test_the_input_table_is_not_modified():
    table = {"rule": {"name": "momentum", "momentum": 0.5}, "widths": [1, 2]}
    build(Outer, table)
    assert table == {"rule": {"name": "momentum", "momentum": 0.5}, "widths": [1, 2]}


def test_errors_of_build_named_name_the_path():
    assert build_named(RULES, "momentum", "rule") == Momentum()
    assert refusal(build_named, RULES, ["plain"], "a.rule").startswith("a.rule must be a name")


# -- round trip -----------------------------------------------------------------------------------

rates = st.floats(1e-12, 1e12)
rules = st.one_of(
    st.builds(Rule, rates), st.builds(Momentum, rates, st.floats(0, 1, exclude_max=True))
)
outers = st.builds(
    Outer,
    inner=st.builds(Inner, st.integers(1, 2**63 - 1), st.none() | st.text() | st.integers(-9, 9)),
    rule=rules,
    maybe=st.none() | rules,
    rules=st.lists(rules, max_size=3),
    widths=st.none() | st.lists(st.integers(1, 99), max_size=3),
    mode=st.sampled_from(["slow", "fast"]),
    limit=rates,
    on=st.booleans(),
)


def plain(value):
    """Return whether a value consists of types that TOML and JSON can write."""
    if isinstance(value, dict):
        return all(type(k) is str and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return type(value) in (str, int, float, bool)


@given(outers)
def test_a_dump_is_plain_and_builds_an_equal_instance(outer):
    table = dump(outer)
    assert plain(table)
    assert build(Outer, table) == outer


def test_a_dump_writes_the_first_name_of_a_class_and_omits_none():
    assert dump(Outer()) == {
        "inner": {"width": 4},
        "rule": {"name": "momentum", "rate": 0.1, "momentum": 0.9},
        "rules": [],
        "mode": "slow",
        "on": False,
    }


def test_a_class_without_a_name_cannot_be_dumped():
    expected = "Own has no name, so it cannot be written to a file: "
    expected += "register its class: @xpnet.register('own')"
    assert refusal(dump, Outer(rule=Own())) == expected
    assert refusal(dump, Outer(rules=[Own()])) == expected


def test_did_you_mean_suggests_the_closest_word_or_lists_all():
    assert did_you_mean("epoch", ["lr", "epochs"]) == "did you mean 'epochs'?"
    assert did_you_mean("x", iter(["lr", "epochs"])) == "known: lr, epochs"
