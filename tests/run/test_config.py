"""Settings: the template and the recipes, overrides, and errors a person can act on."""

import dataclasses
import os
import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpnet.errors import ConfigError, DataError, XpnetError
from xpnet.nn import BatchNorm, Dense, Dropout, Flatten, LeakyReLU, ReLU, Softmax
from xpnet.nn.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam, AdamW
from xpnet.optim.schedules import Cosine, Plateau
from xpnet.run.config import (
    Config,
    EarlyStoppingConfig,
    load_config,
    parse_duration,
    recipe_names,
    recipe_text,
    template_text,
    to_toml,
)

TEMPLATE = template_text()


def error(*overrides, source="digits"):
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "my.toml"
        path.write_text(text)
        return str(path)

    return write


# -------------------------------------------------------------------------- template and recipes


def test_the_template_is_the_default_config(toml):
    assert load_config(toml(TEMPLATE)) == Config()


def test_the_examples_in_the_template_are_settings_that_load(toml):
    shown = re.sub(r"(?m)^# ?((?:\w+ = | *\{|\]).*)$", r"\1", TEMPLATE)
    config = load_config(toml(shown))
    assert config.mixed is not None
    assert config.checkpoint.every == "10min"
    assert config.model.layers[1] == LeakyReLU(0.1)
    assert config.clip == Clip(norm=1.0, value=0.5)
    assert config.optimizer == Adam(freeze=("0.dense",), lr_factors={"2.dense": 0.1})


def test_the_template_names_every_setting():
    shown = tomllib.loads(re.sub(r"(?m)^# ?((?:\w+ = | *\{|\]).*)$", r"\1", TEMPLATE))

    def fields(cls):
        return {f.name for f in dataclasses.fields(cls) if f.init}

    assert set(shown) == fields(Config)
    for name in ("data", "model", "clip", "early_stopping", "checkpoint"):
        assert set(shown[name]) == fields(type(getattr(Config(), name)))
    assert all("name" in shown[name] for name in ("loss", "optimizer", "schedule"))


def test_the_template_lists_every_name(toml):
    from xpnet.run.config import ACTIVATIONS, LOSSES, OPTIMIZERS, SCHEDULES

    hidden = set(ACTIVATIONS) - {"softmax", "log_softmax", "identity"}
    for name in {*hidden, *LOSSES, *OPTIMIZERS, *SCHEDULES}:
        assert re.search(rf"\b{name}\b", TEMPLATE), name


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_loads_and_is_named_after_its_data(name):
    config = load_config(name)
    assert config.data.source == name
    assert tomllib.loads(recipe_text(name))["data"]["source"] == name


@pytest.mark.parametrize("name", recipe_names())
def test_a_config_written_is_the_config_read(name, toml):
    config = load_config(name, ["model.layers=['relu', {name='dense', units=3}]", "clip.norm=2"])
    assert load_config(toml(to_toml(config))) == config


def test_any_number_survives_writing_and_reading(tmp_path):
    @given(
        st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        st.floats(min_value=0, max_value=1, exclude_max=True),
    )
    def check(lr, dropout):
        config = Config(
            optimizer=SGD(lr), model=dataclasses.replace(Config().model, dropout=dropout)
        )
        path = tmp_path / "a.toml"
        path.write_text(to_toml(config))
        assert load_config(str(path)) == config

    check()


# ------------------------------------------------------------------------------------- overrides


def test_overrides_reach_every_depth_and_type():
    config = load_config(
        "digits",
        [
            "epochs=3",
            "optimizer.lr=0.01",
            "model.hidden=[256, 64]",
            "checkpoint.every=10min",
            "checkpoint.every_steps = 100",
            "early_stopping.monitor=accuracy",
            "data.stratify=false",
            "data.label=-1",
            "clip.norm=1",
            "mixed.dtype=bfloat16",
        ],
    )
    assert config.epochs == 3
    assert config.optimizer == AdamW(0.01)
    assert config.model.hidden == (256, 64)
    assert config.checkpoint.every == "10min"
    assert config.checkpoint.every_steps == 100
    assert config.early_stopping == EarlyStoppingConfig(monitor="accuracy")
    assert config.data.stratify is False
    assert config.data.label == -1
    assert config.clip == Clip(norm=1.0)
    assert config.mixed.dtype == "bfloat16"


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr_factors.0.dense=0.1"],
        ['optimizer.lr_factors={"0.dense" = 0.1}'],
        ["optimizer.lr_factors={0.dense = 9}", "optimizer.lr_factors.0.dense=0.1"],
    ],
)
def test_layers_are_named_with_or_without_quotes(overrides, toml):
    groups = ["optimizer=adamw", "optimizer.decay=weights", "optimizer.freeze=['2.dense']"]
    config = load_config("digits", [*groups, *overrides])
    rule = AdamW(decay="weights", freeze=("2.dense",), lr_factors={"0.dense": 0.1})
    assert config.optimizer == rule
    assert load_config(toml(to_toml(config))) == config
    again = load_config(config, ["optimizer.lr_factors.0.dense=0.5"])
    assert again.optimizer.lr_factors == {"0.dense": 0.5}
    assert config.optimizer == rule  # its table is its own


def test_another_name_drops_the_settings_of_the_class_before():
    assert load_config("mnist", ["optimizer=adam"]).optimizer == Adam()
    assert load_config("mnist", ["optimizer.name=adam", "optimizer.lr=0.5"]).optimizer == Adam(0.5)
    assert load_config("mnist", ["optimizer.name=sgd"]).optimizer.momentum == 0.9
    assert load_config("digits", ["schedule=plateau", "schedule.factor=0.5"]).schedule == Plateau(
        factor=0.5
    )


def test_a_section_without_a_name_is_of_the_default_class(toml):
    config = load_config(toml("[optimizer]\nlr = 0.5\n[loss]\nlabel_smoothing = 0.1\n"))
    assert config.optimizer == Adam(0.5)
    assert config.loss == SoftmaxCrossEntropy(label_smoothing=0.1)


def test_the_last_override_wins():
    assert load_config("digits", ["epochs=3", "epochs=5"]).epochs == 5


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("epoch=3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("optimizer.lrr=1", "unknown setting 'optimizer.lrr'; did you mean 'lr'?"),
        ("epochs=0", "epochs must be >= 1; got 0"),
        ("epochs=1.5", "epochs must be a whole number; got 1.5"),
        ("epochs=true", "epochs must be a whole number; got True"),
        ("optimizer.lr=fast", "optimizer.lr must be a number; got 'fast'"),
        ("optimizer.lr=nan", "optimizer.lr must be > 0; got nan"),
        ("optimizer=adm", "unknown optimizer 'adm'; did you mean 'adam'?"),
        ("data.scaling=standart", "did you mean 'standard'?"),
        ("model.hidden=5", "model.hidden must be a list; got 5"),
        ("model.hidden=[5, 0]", "model.hidden[1] must be >= 1; got 0"),
        ("model.dropout=1.0", "model.dropout must be >= 0 and < 1; got 1.0"),
        ("checkpoint.every=10", "checkpoint.every must be a string; got 10"),
        ("checkpoint.every=10 m", "not a duration: '10 m'"),
        ("loss.reduction=none", "loss.reduction 'none' gives no single loss"),
        ("data.task=regression", "use mean_squared_error, huber or poisson for regression"),
        ("loss=huber", "use softmax_cross_entropy, cross_entropy, "),
        ("epochs", "--set takes KEY=VALUE, such as optimizer.lr=0.01; got 'epochs'"),
        ("=3", "--set takes KEY=VALUE"),
        ("epochs.x=3", "epochs is not a table"),
        ("model.layers=[{name='dens', units=3}]", "did you mean 'dense'?"),
        ("model.layers=[{name='dense'}]", "missing setting 'model.layers[0].units'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(override, says):
    assert says in error(override)


def test_a_regression_has_no_accuracy_to_monitor():
    settings = ["data.task=regression", "loss=huber", "early_stopping.monitor=accuracy"]
    assert "a regression has no accuracy" in error(*settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs = ", "is not valid TOML"),
        ("epochs = 1\nepochs = 2", "is not valid TOML"),
        ("a = " + "[" * 5000, "is not valid TOML"),
        ("epochs = 'x'", "my.toml: epochs must be a whole number; got 'x'"),
        ("[data]\nsource = 3", "my.toml: data.source must be a string; got 3"),
        ("data = 3", "my.toml: data must be a table; got 3"),
    ],
)
def test_an_error_in_a_file_names_the_file(toml, text, says):
    assert says in error(source=toml(text))


def test_a_config_that_cannot_be_read_says_why(tmp_path):
    binary = tmp_path / "my.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in error(source=str(binary))
    assert "No such file or directory" in error(source=str(tmp_path / "absent.toml"))
    assert "did you mean 'mnist'?" in error(source="mnits")
    (tmp_path / "iris.csv").touch()
    with pytest.raises(DataError, match=r"no such file; did you mean 'iris\.csv'"):
        load_config(str(tmp_path / "irsi.csv"))
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        load_config(str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").touch()
    assert "is a run folder; to resume it: xpnet train --out" in error(source=str(run))


@given(st.text(max_size=60))
def test_any_text_is_a_config_or_a_one_line_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "a.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for attempt in (lambda: load_config(str(path)), lambda: load_config("digits", [text])):
        try:
            assert isinstance(attempt(), Config)
        except XpnetError as caught:
            assert len(str(caught).splitlines()) == 1  # noqa: PT017 - either outcome is right


def test_a_class_of_ones_own_cannot_be_written_to_a_file():
    @dataclasses.dataclass(frozen=True)
    class Mine(SGD):
        pass

    with pytest.raises(ConfigError, match="Mine has no name"):
        to_toml(Config(optimizer=Mine()))


# ---------------------------------------------------------------------------------- files of data


def test_a_data_file_is_taken_from_the_folder_of_its_config(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    text = "[data]\nsource = 'x.csv'\ntest = '../y.csv'\ndata_dir = 'd'\n"
    (folder / "my.toml").write_text(text)
    data = load_config("a/my.toml").data
    assert (data.source, data.test) == (str(folder / "x.csv"), str(tmp_path / "y.csv"))
    assert data.data_dir == str(folder / "d")


def test_a_data_file_of_an_override_is_taken_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").touch()
    assert load_config("x.csv").data.source == str(tmp_path / "x.csv")
    assert load_config("digits", ["data.source=x.csv"]).data.source == str(tmp_path / "x.csv")
    assert load_config("mnist", ["data.data_dir=~/d"]).data.data_dir == os.path.expanduser("~/d")


def test_the_home_folder_of_nobody_is_refused():
    with pytest.raises(ConfigError, match=r"data\.source = '~nosuchuser/x\.csv' names the home"):
        load_config("digits", ["data.source=~nosuchuser/x.csv"])


def test_a_folder_named_like_a_data_set_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "my.toml").write_text("[data]\nsource = 'mnist'\n")
    assert load_config("my.toml").data.source == "mnist"


# ----------------------------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10min", 600), ("1.5h", 5400), (" 2 min ", 120)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10m", "-1s", "0s", "1e3s", "inf h", "1d", "١٠s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="write a number and s, min or h, such as '10min'"):
        parse_duration(text)


# ---------------------------------------------------------------------------------------- models


def test_hidden_widths_become_layers_in_the_usual_order():
    settings = ["model.hidden=[5]", "model.normalization=batch_norm", "model.dropout=0.5"]
    config = load_config("digits", settings)
    layers = config.model.model((4,), 3, config.loss).layers
    assert [type(layer) for layer in layers] == [Dense, BatchNorm, ReLU, Dropout, Dense]
    assert (layers[0].units, layers[-1].units) == (5, 3)


def test_images_are_flattened_and_probabilities_made_where_the_loss_takes_them():
    model = Config().model
    assert isinstance(model.model((8, 8), 10, SoftmaxCrossEntropy()).layers[0], Flatten)
    assert isinstance(model.model((8,), 10, CrossEntropy()).layers[-1], Softmax)
    assert model.model((8,), 1, BinaryCrossEntropy()).output_shape == (1,)
    assert model.model((8,), 2, MeanSquaredError()).output_shape == (2,)


def test_listed_layers_stand_for_all_the_hidden_ones():
    settings = ["model.layers=[{name='dense', units=4}, 'tanh']", "schedule=cosine"]
    config = load_config("digits", settings)
    assert len(config.model.model((4,), 3, config.loss).layers) == 3
    assert config.schedule == Cosine()
    with pytest.raises(ConfigError, match=r"layer 0 \(dense\)"):
        config.model.model((8, 8), 3, config.loss)
