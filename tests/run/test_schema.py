"""The JSON Schema of a config takes what reading the config takes, and refuses what it refuses."""

import dataclasses
import json
import math
import random
import tomllib
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xpnet.errors import ConfigError
from xpnet.run.config import Config
from xpnet.run.config_sources import load_config, recipe_names, recipe_settings, template_text
from xpnet.run.schema import config_schema, documented
from xpnet.settings import build, classes_of, dump, kinds_of

jsonschema = pytest.importorskip("jsonschema", reason="no jsonschema: pip install '.[test]'")

# What is refused because of several settings, or of more than a type and a range.
LEFT_TO_READING = (
    "divides the rows", "gives no single loss", "does not fit", "a regression has no accuracy",
    "is no ", "without nesterov", "needs a momentum", "needs mode", "monitor is", "all 0",
    "not a duration", "one character", "which is unknown", "layers, more than",
    "sizes of its codes", "or a URI such as",
)  # fmt: skip
# Values of every type of TOML. A whole float is an integer for JSON, and no number for xpnet.
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2, -1, 32, 64, 65, True, False, "", "auto", "yes", "adam", "relu"]),
    st.sampled_from(
        [0.5, -0.25, 1e-3, 1.5, [], [1], ["a"], [0.5, 2], {}, {"a": 1}, {"name": "sgd"}]
    ),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != math.floor(x)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)


@cache
def validator():
    jsonschema.Draft202012Validator.check_schema(config_schema())
    return jsonschema.Draft202012Validator(config_schema())


def refused(table):
    """Why xpnet refuses a table, or None."""
    try:
        build(Config, {k: v for k, v in table.items() if k != "recipe"})
    except ConfigError as error:
        return str(error)
    return None


def complaints(table):
    return [f"{error.json_path}: {error.message}" for error in validator().iter_errors(table)]


def agree(table):
    why = refused(table)
    if why is not None and any(text in why for text in LEFT_TO_READING):
        return
    assert bool(complaints(table)) == (why is not None), (table, why, complaints(table))


def settings_of(cls, path=()):
    """Every setting: the path, and what has to be beside it, such as the name of its class."""
    for key, kind in kinds_of(cls).items():
        yield (*path, key), {}
        classes = classes_of(cls, key)
        for name, chosen in (classes or {}).items():
            for inner in kinds_of(chosen):
                yield (*path, key, inner), {"name": name}
        if classes is None and dataclasses.is_dataclass(kind):
            yield from settings_of(kind, (*path, key))


SETTINGS = [*settings_of(Config)]


def nested(path, value, beside):
    table = {path[-1]: value, **beside}
    for part in reversed(path[:-1]):
        table = {part: table}
    return table


def test_there_are_as_many_settings_as_a_person_would_count():
    assert len(SETTINGS) > 150
    assert (("optimizer", "momentum"), {"name": "sgd"}) in SETTINGS


@given(st.sampled_from(SETTINGS), VALUES)
@example((("optimizer", "lr"), {"name": "sgd"}), 0)
@example((("data", "test_fraction"), {}), 1)
@example((("model", "hidden"), {}), [0])
@example((("model", "hidden"), {}), [1.5])
@example((("optimizer", "lr_factors"), {"name": "adam"}), {"0": {"dense": {"W": 0.1}}, "b": 1})
@example((("optimizer", "lr_factors"), {"name": "adam"}), {"0": {"dense": {"W": "x"}}})
@example((("mixed",), {}), "float16")
@example((("mixed",), {}), "float8")
@example((("model", "layers"), {}), ["relu", {"name": "dense", "units": 3}])
@example((("model", "layers"), {}), ["dense"])
@example((("model", "layers"), {}), [{"units": 3}])
@example((("model", "layers"), {}), [{"name": "dense"}])
def test_a_value_is_refused_where_xpnet_refuses_it(setting, value):
    path, beside = setting
    agree(nested(path, value, beside))


@given(st.sampled_from(SETTINGS), st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8))
def test_a_key_is_refused_where_xpnet_does_not_know_it(setting, key):
    path, beside = setting
    agree(nested((*path[:-1], key), 1, beside))


@given(st.randoms(use_true_random=False))
def test_a_config_that_xpnet_has_written_is_valid(rng: random.Random):
    table = dump(Config())
    for key in ("loss", "optimizer", "schedule"):
        table[key] = dump_of(classes_of(Config, key), rng)
    model = kinds_of(Config)["model"]
    for key in ("activation", "initializer", "bias_initializer", "output_initializer"):
        table["model"][key] = dump_of(classes_of(model, key), rng)
    assert complaints(table) == []
    assert refused(table) is None


def dump_of(classes, rng):
    """A random class with its defaults, as a name or a table."""
    name = rng.choice([name for name, cls in classes.items() if buildable(cls)])
    return name if rng.random() < 0.3 else {"name": name, **dump(classes[name]())}


def buildable(cls):
    try:
        cls()
    except (TypeError, ConfigError):
        return False
    return True


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid(name):
    table = recipe_settings(name)
    table.pop("for", None)
    assert complaints(table) == []
    assert complaints({"recipe": name, "optimizer": {"lr": 0.5}}) == []
    assert complaints({"recipe": f"{name}s"})


def test_the_template_is_valid_and_so_are_its_examples():
    import re

    text = template_text()
    assert complaints(tomllib.loads(text)) == []
    shown = tomllib.loads(re.sub(r"(?m)^# ?((?:\w+ = | *\{|\]).*)$", r"\1", text))
    assert complaints(shown) == []


def test_each_setting_says_what_the_template_says():
    schema = config_schema()
    model = schema["properties"]["model"]["properties"]
    assert model["hidden"]["description"] == "a dense layer for each width"
    assert model["hidden"]["default"] == [128]
    start = schema["properties"]["start"]
    assert start["description"].endswith("are taken over, too, or a saved model")
    freeze = schema["$defs"]["optimizer.adam"]["properties"]["freeze"]
    assert "xpnet show has their numbers" in freeze["description"]
    assert not [text for text in documented().values() if "one of" in text or "{" in text]


def test_a_class_of_ones_own_is_in_it(tmp_path):
    from xpnet import Activation, register
    from xpnet.nn import ACTIVATIONS, LAYERS
    from xpnet.settings import Fraction

    @register("schema_leak")
    class Leak(Activation):
        """A leak."""

        share: Fraction

    try:
        schema = config_schema()
        found = schema["$defs"]["layer.schema_leak"]
        assert found["description"] == "A leak."
        assert found["required"] == ["share"]
        mine = jsonschema.Draft202012Validator(schema)
        for share, valid in ((0.5, True), (1.5, False), ("x", False)):
            table = {"model": {"activation": {"name": "schema_leak", "share": share}}}
            assert mine.is_valid(table) == valid
        assert not mine.is_valid({"model": {"activation": "schema_leak"}})  # share has no default
    finally:
        del ACTIVATIONS["schema_leak"], LAYERS["schema_leak"]


def test_the_file_names_it_and_loads(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(template_text("./xpnet.schema.json"), "utf-8")
    assert path.read_text("utf-8").startswith("#:schema ./xpnet.schema.json\n")
    assert load_config(path) == Config()
    assert json.loads(json.dumps(config_schema(), allow_nan=False)) == config_schema()
