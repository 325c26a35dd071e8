"""The space of a sweep: what its file may say, and what is refused before the first trial."""

import functools
import itertools

import pytest

from xpnet.errors import ConfigError
from xpnet.run import load_splits
from xpnet.run.config import Config
from xpnet.run.config_sources import load_config
from xpnet.search.auto import auto_space
from xpnet.search.plan import Sweeping, read_plan, with_trials
from xpnet.search.space import combinations, read_space, settings_of, value_of

LR = {"low": 1e-4, "high": 0.1, "log": True}


def check(settings):
    return load_config("digits", settings)


def space(table):
    return read_space(table, check)


def only(key, **entry):
    (parameter,) = space({key: entry})
    return parameter


def test_a_range_is_of_the_kind_of_its_setting():
    assert not only("optimizer.lr", low=1, high=2).whole  # written as whole numbers
    assert only("epochs", low=1, high=20).whole
    assert only("batch_size", low=16, high=64, step=16).grid() == [16, 32, 48, 64]
    assert only("model.dropout", low=0.0, high=0.3, step=0.1).grid() == [0.0, 0.1, 0.2, 0.3]
    assert only("model.dropout", low=0, high=0.35, step=0.1).high == 0.3


def test_keys_are_dotted_or_nested():
    nested = {"optimizer": {"lr": LR, "lr_factors": {"b": {"low": 0.1, "high": 1.0}}}}
    dotted = {"optimizer.lr": LR, "optimizer.lr_factors.b": {"low": 0.1, "high": 1.0}}
    assert space(nested) == space(dotted)
    assert [p.key for p in space(dotted)] == [*dotted]


def test_a_suggested_number_has_few_digits_and_stays_in_its_range():
    lr = only("optimizer.lr", low=0.00012344, high=0.1, log=True)
    assert lr.rounded(0.0123456789) == 0.01235
    assert lr.rounded(0.00012344) == 0.00012344  # 0.0001234 would be below the range
    assert only("model.dropout", low=0.0, high=0.5, step=0.05).rounded(0.15000000000000002) == 0.15


def test_choices_are_any_values_that_a_config_takes():
    table = {
        "model.hidden": {"choices": [[64], [128, 64]]},
        "model.activation": {"choices": ["relu", {"name": "leaky_relu", "slope": 0.1}]},
        "model.scale_features": {"choices": [True, False]},
        "batch_size": {"choices": [16, 32]},
    }
    found = space(table)
    for p, entry in zip(found, table.values(), strict=True):
        assert [value_of(text) for text in p.choices] == entry["choices"]
        for text in p.choices:
            config = check([f"{p.key}={text}"])
            assert isinstance(config, Config)
        assert space({p.key: p.table()}) == [p]  # what is written is read again


def test_a_setting_that_only_some_classes_have_is_searched_with_these():
    table = {
        "optimizer.momentum": {"low": 0.0, "high": 0.95},
        "optimizer.name": {"choices": ["adam", "sgd", "rmsprop"]},
        "optimizer.lr": LR,
    }
    found = {p.key: p for p in space(table)}
    assert found["optimizer.lr"].needs is None
    assert found["optimizer.momentum"].needs == ("optimizer.name", ('"sgd"', '"rmsprop"'))
    assert found["optimizer.momentum"].applies({"optimizer.name": '"sgd"'})
    assert not found["optimizer.momentum"].applies({"optimizer.name": '"adam"'})
    keys = [p.key for p in space(table)]
    assert keys.index("optimizer.momentum") > keys.index("optimizer.name")


def test_a_whole_table_is_a_choice_and_comes_before_what_is_set_in_it():
    table = {
        "optimizer.lr": LR,
        "optimizer": {"choices": ["sgd", {"name": "adam", "beta2": 0.95}]},
    }
    found = space(table)
    values = {"optimizer.lr": 0.5, "optimizer": '{name = "adam", beta2 = 0.95}'}
    settings = settings_of(found, values)
    assert [*settings] == ["optimizer", "optimizer.lr"]
    config = load_config("digits", settings)
    assert (config.optimizer.lr, config.optimizer.beta2) == (0.5, 0.95)
    with pytest.raises(ConfigError, match=r"optimizer.lr is searched, and the choice .* sets it"):
        space({"optimizer": {"choices": [{"name": "adam", "lr": 0.1}]}, "optimizer.lr": LR})


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"optimizer.lrr": LR}, r"unknown setting 'optimizer.lrr'.*did you mean 'lr'"),
        ({"optimiser.lr": LR}, "unknown setting 'optimiser'; did you mean 'optimizer'"),
        ({"optimizer.lr": {"low": -1, "high": 1}}, r"optimizer.lr must be > 0; got -1"),
        ({"model.dropout": {"low": 0, "high": 1}}, "model.dropout must be >= 0 and < 1"),
        ({"model.dropout": {"low": 0.5, "high": 0.5}}, "low must be less than high; got 0.5 and"),
        ({"model.dropout": {"low": 0, "high": 0.5, "log": True}}, "low must be > 0 for log"),
        ({"optimizer.lr": {**LR, "step": 0.1}}, "a range in the logarithm has no step"),
        ({"optimizer.lr": {"low": 0.1}}, "optimizer.lr has no 'high'"),
        ({"optimizer.lr": {"low": 0.1, "heigh": 1}}, "no 'heigh'; did you mean 'high'"),
        ({"optimizer.lr": {"low": "a", "high": 1}}, "optimizer.lr.low must be a number; got 'a'"),
        ({"optimizer.lr": [0.1, 1.0]}, r"must be a range or choices.*got \[0.1, 1.0\]"),
        ({"batch_size": {"low": 16, "high": 64, "step": 0.5}}, "batch_size.step must be a whole"),
        ({"batch_size": {"low": 16, "high": 20, "step": 8}}, "step = 8 is more than high - low"),
        ({"batch_size": {"low": 0, "high": 64}}, "batch_size must be >= 1"),
        ({"model.hidden": {"low": 1, "high": 2}}, "model.hidden must be a list"),
        ({"model.hidden": {"choices": []}}, "model.hidden.choices must be a list of values"),
        ({"model.hidden": {"choices": [[0]]}}, r"model.hidden\[0\] must be >= 1; got 0"),
        ({"batch_size": {"choices": [16, 16]}}, "batch_size.choices has 16 twice"),
        ({"batch_size": {"choices": [16], "low": 1}}, "has choices and a range"),
        ({"optimizer.name": {"choices": ["adan"]}}, "unknown optimizer 'adan'; did you mean"),
        ({"optimizer.momentum": {"low": 0, "high": 0.9}}, "'adamw' takes lr, weight"),
        ({"seed": {"low": 0, "high": 9}}, "seed cannot be searched: it also draws the parts"),
        ({"data.test_fraction": {"low": 0.1, "high": 0.5}}, "compared on the same rows"),
        ({"device": {"choices": ["cpu"]}}, "does not change what is learnt"),
        ({"checkpoint.keep": {"low": 1, "high": 3}}, "does not change what is learnt"),
        ({}, "the space is empty"),
    ],
)
def test_what_cannot_be_searched_is_an_error_that_names_it(table, expected):
    with pytest.raises(ConfigError, match=expected):
        space(table)


def test_a_momentum_that_no_choice_has_is_an_error():
    table = {
        "optimizer.name": {"choices": ["adam", "adamax"]},
        "optimizer.momentum": {"low": 0, "high": 0.9},
    }
    with pytest.raises(ConfigError, match=r"unknown setting 'optimizer.momentum': 'adam' takes"):
        space(table)


def test_a_grid_has_each_combination_once():
    table = {
        "optimizer.name": {"choices": ["adam", "sgd"]},
        "optimizer.momentum": {"choices": [0.0, 0.5, 0.9]},
        "batch_size": {"low": 16, "high": 32, "step": 16},
    }
    found = [tuple(sorted(trial.items())) for trial in combinations(space(table))]
    sgd = itertools.product((16, 32), ("0.0", "0.5", "0.9"))
    expected = {
        (("batch_size", b), ("optimizer.momentum", m), ("optimizer.name", '"sgd"')) for b, m in sgd
    } | {(("batch_size", b), ("optimizer.name", '"adam"')) for b in (16, 32)}
    assert sorted(found) == sorted(expected)
    with pytest.raises(ConfigError, match=r"a grid needs choices for optimizer.lr, or a step"):
        combinations(space({"optimizer.lr": LR}))


def test_the_auto_space_is_one_around_the_settings_of_every_recipe():
    for recipe, rows in (("digits", 1258), ("table", 100)):
        config = load_splits(load_config("digits", recipe=recipe)).config
        table = auto_space(config, rows)
        read = functools.partial(load_config, "digits", recipe=recipe)
        found = {p.key: p for p in read_space(table, read)}
        lr = found["optimizer.lr"]
        assert lr.low < config.optimizer.lr < lr.high
        assert str([*config.model.hidden]) in found["model.hidden"].choices
        assert all(int(size) <= rows for size in found["batch_size"].choices)
    assert not [k for k in auto_space(config, rows, architecture=False) if k.startswith("model")]


def test_a_file_is_read_and_the_options_are_on_top(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('[sweep]\ntrials = 7\ntime = "10min"\n[space]\nbatch_size.choices = [16, 32]\n')
    plan = read_plan(path, {"trials": 9, "seed": None})
    assert (plan.sweeping.trials, plan.sweeping.seconds, plan.sweeping.seed) == (9, 600.0, 0)
    again = tmp_path / "again.toml"
    again.write_text(plan.to_toml({p.key: p.table() for p in space(plan.space)}))
    assert read_plan(again, {}).sweeping == plan.sweeping
    assert space(read_plan(again, {}).space) == space(plan.space)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[sweep]\ntrals = 1\n", r"s.toml: unknown setting 'sweep.trals'; did you mean 'trials'"),
        ("[sweep]\ntrials = 0\n", r"s.toml: sweep.trials must be >= 1; got 0"),
        ("[sweep]\nsampler = 'tpi'\n", r"sweep.sampler must be one of .*did you mean 'tpe'"),
        ("[sweep]\ntime = '10 minutes'\n", r"not a duration: '10 minutes'"),
        ("[spaces]\n", r"no 'spaces'; did you mean 'space'"),
        ("epochs = 3\n", r"no 'epochs'.*settings=\{'epochs': ...\}"),
        ("sweep = 3\n", r"sweep must be a table; got 3"),
        ("space = 3\n", r"space must be a table, or 'auto'; got 3"),
        ("[sweep\n", r"s.toml is not valid TOML"),
        ("", r"s.toml is not valid TOML: it is empty"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(tmp_path, text, expected):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        read_plan(path, {})


def test_a_file_that_is_not_there_says_how_to_get_one(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the sweep .*no.toml': No such file") as e:
        read_plan(tmp_path / "no.toml", {})
    assert e.value.at_command_line.endswith("for one to start from: --sweep auto")
    with pytest.raises(ConfigError, match=r"the space of a sweep is 'auto', .*; got 3"):
        read_plan(3, {})


def test_a_grid_decides_the_number_of_trials():
    assert with_trials(Sweeping(), 12).trials == 12
    assert with_trials(Sweeping(trials=5), 12).trials == 5
    assert with_trials(Sweeping(trials=50), 12).trials == 12
    assert with_trials(Sweeping(), None).trials == 30
