"""Settings: the template and the recipes, overrides, and errors a person can act on."""

import dataclasses
import itertools
import os
import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpnet.errors import ConfigError, DataError, XpnetError
from xpnet.nn import BatchNorm, Dense, Dropout, Flatten, LeakyReLU, ReLU, Softmax
from xpnet.nn.initializers import Orthogonal
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from xpnet.optim.schedules import Cosine, Plateau
from xpnet.run.config import Config, EarlyStoppingConfig, StartConfig, parse_duration, to_toml
from xpnet.run.config_sources import load_config, recipe_names, recipe_text, template_text

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


def test_the_examples_in_the_template_are_settings_that_load(toml, tmp_path):
    shown = re.sub(r"(?m)^# ?((?:\w+ = | *\{|\]).*)$", r"\1", TEMPLATE)
    config = load_config(toml(shown))
    assert config.mixed is not None
    assert config.start == StartConfig(str(tmp_path / "runs/first"))
    assert config.checkpoint.every == "10min"
    assert config.model.layers[1] == LeakyReLU(0.1)
    assert config.clip == Clip(norm=1.0, value=0.5)
    factors = {"2.dense.W": 0.1, "b": 0.5}
    assert config.optimizer == Adam(freeze=("0.dense",), beta2=0.95, lr_factors=factors)


def test_the_template_names_every_setting():
    shown = tomllib.loads(re.sub(r"(?m)^# ?((?:\w+ = | *\{|\]).*)$", r"\1", TEMPLATE))

    def fields(cls):
        return {f.name for f in dataclasses.fields(cls) if f.init}

    assert set(shown) == {*fields(Config), "recipe"}
    sections = ("data", "model", "clip", "early_stopping", "checkpoint", "parallel", "tracking")
    for name in sections:
        assert set(shown[name]) == fields(type(getattr(Config(), name)))
    assert all("name" in shown[name] for name in ("loss", "optimizer", "schedule"))


def test_the_template_lists_every_name(toml):
    from xpnet.run.config import ACTIVATIONS, LOSSES, OPTIMIZERS, SCHEDULES

    hidden = set(ACTIVATIONS) - {"softmax", "log_softmax", "identity"}
    for name in {*hidden, *LOSSES, *OPTIMIZERS, *SCHEDULES}:
        assert re.search(rf"\b{name}\b", TEMPLATE), name


def test_how_ranks_work_together_is_a_section_and_its_name_alone_the_engine(toml):
    from xpnet.parallel.settings import Parallel

    ordered = ["parallel.reduce=ordered", "parallel.parts=4", "parallel.timeout=30"]
    assert load_config("digits", ordered).parallel == Parallel("auto", "ordered", 4, timeout=30.0)
    assert load_config(toml("parallel = 'none'")).parallel == Parallel("none")
    for wrong in ("parallel.engine=gloo", "parallel.parts=0", "parallel.timeout=0"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            load_config("digits", [wrong])


OF_DATA = [name for name in recipe_names() if name != "table"]


@pytest.mark.parametrize("name", OF_DATA)
def test_a_recipe_loads_and_is_named_after_its_data(name):
    config = load_config(name)
    assert config.data.source == name
    assert tomllib.loads(recipe_text(name))["data"]["source"] == name


@pytest.mark.parametrize("name", OF_DATA)
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
    assert load_config("digits", ["optimizer=adam", "optimizer.name=sgd"]).optimizer == SGD()
    assert load_config("digits", ["optimizer.name=sgd", "optimizer=adam"]).optimizer == Adam()


STRAIGHT = [  # the settings, and what they mean, written in Python
    (["optimizer.name=sgd", "optimizer.lr=0.5", "optimizer.nesterov=yes", "optimizer.momentum=.9",
      "optimizer.weight_decay=0"],
     {"optimizer": SGD(0.5, momentum=0.9, nesterov=True)}),
    (["optimizer=adam", "optimizer.lr_factors.0.dense=.1", "optimizer.beta1=0.8"],
     {"optimizer": Adam(beta1=0.8, lr_factors={"0.dense": 0.1})}),
    (['optimizer={name="sgd", lr=1}', "optimizer.momentum=0.5"],
     {"optimizer": SGD(1.0, momentum=0.5)}),
    (["loss.label_smoothing=.1", "loss.name=cross_entropy"],
     {"loss": CrossEntropy(label_smoothing=0.1), "task": "classification"}),
    (["loss.delta=2", "loss=huber", "data.task=regression", "data.source='own.csv'"],
     {"loss": Huber(delta=2.0), "task": "regression"}),
    (["schedule.factor=0.5", "schedule.name=plateau", "schedule.patience=1e1"],
     {"schedule": Plateau(factor=0.5, patience=10)}),
    (["model.activation.slope=0.2", "model.activation.name=leaky_relu"],
     {"activation": LeakyReLU(0.2)}),
    (["model.initializer.gain=.5", "model.initializer.name=orthogonal"],
     {"initializer": Orthogonal(0.5)}),
    (["clip.norm=1", "clip={value=2}"], {"clip": Clip(1.0, 2.0)}),
]  # fmt: skip


def straight(base, optimizer=None, loss=None, schedule=None, clip=None, task=None, **model):
    given = {"optimizer": optimizer, "loss": loss, "schedule": schedule, "clip": clip}
    data = dataclasses.replace(base.data, **{} if task is None else {"task": task})
    if task == "regression":  # digits and MNIST have classes
        data = dataclasses.replace(data, source=os.path.abspath("own.csv"))
    model = dataclasses.replace(base.model, **model)
    given = {key: value for key, value in given.items() if value is not None}
    return dataclasses.replace(base, data=data, model=model, **given)


@pytest.mark.parametrize("source", ["default", "digits", "mnist", "file"])
@pytest.mark.parametrize(("settings", "means"), STRAIGHT)
def test_the_order_of_the_settings_does_not_matter(settings, means, source, toml):
    file = "[optimizer]\nname='adam'\nlr=0.7\n[loss]\nreduction='sum'\n[schedule]\nname='step'\n"
    source = {"default": Config(), "file": toml(file)}.get(source, source)
    expected = straight(load_config(source), **means)
    for order in itertools.permutations(settings):
        assert load_config(source, order) == expected


@given(st.sampled_from(sorted(OPTIMIZERS)), st.data())
def test_the_settings_of_any_optimizer_in_any_order(name, data):
    default = OPTIMIZERS[name]()
    keys = [f.name for f in dataclasses.fields(default) if f.name not in ("lr", "lr_factors")]
    key = data.draw(st.sampled_from(keys))
    value = getattr(default, key)
    word = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
    texts = [f"optimizer.name={name}", "optimizer.lr=1e-1", f"optimizer.{key}={word}"]
    order = data.draw(st.permutations([t.replace("()", "[]") for t in texts]))
    expected = dataclasses.replace(default, lr=0.1)
    for source in ("digits", Config(optimizer=default)):
        assert load_config(source, order).optimizer == expected


def test_a_setting_keeps_its_class_where_no_other_is_named(toml):
    file = toml("[optimizer]\nlr = 0.5\n")  # of the default class, Adam
    assert load_config(file, ["optimizer.name=adam"]).optimizer == Adam(0.5)
    assert load_config(file, ["optimizer.beta1=0.5"]).optimizer == Adam(0.5, beta1=0.5)
    assert load_config(file, ["optimizer.name=sgd"]).optimizer == SGD()
    file = toml("optimizer = 'adam'\n")
    assert load_config(file, ["optimizer.lr=0.5"]).optimizer == Adam(0.5)


def test_what_another_name_leaves_out_is_said(toml):
    file, said = toml("[optimizer]\nname = 'sgd'\nlr = 0.5\nmomentum = 0.9\n"), []
    load_config(file, ["optimizer.name=adam", "optimizer.lr=0.1"], said.append)
    assert said == ["optimizer = 'adam' leaves out what the config sets there: momentum = 0.9"]
    load_config(file, ["optimizer.name=sgd", "optimizer.lr=0.1", "schedule=cosine"], said.append)
    assert len(said) == 1


def test_an_explicit_setting_of_another_class_is_an_error():
    for order in itertools.permutations(["optimizer.name=adam", "optimizer.momentum=0.9"]):
        assert "unknown setting 'optimizer.momentum': 'adam' takes lr, weight_decay" in error(
            *order
        )
    assert "'cosine' takes " in error("schedule.factor=0.5", "schedule.name=cosine")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((".01", 0.01), ("1.", 1.0), ("+.5", 0.5), ("1e3", 1000.0), ("1E-3", 0.001), ("+1", 1.0)),
        *(("1_000", 1000.0), ("1.e2", 100.0), (".5e-1", 0.05), ("5", 5.0), ("1e20", 1e20)),
    ],
)
def test_numbers_as_people_write_them(text, number):
    assert load_config("digits", [f"optimizer.lr={text}"]).optimizer.lr == number


@pytest.mark.parametrize(("text", "number"), [("1e3", 1000), ("+5", 5), ("1_000", 1000)])
def test_counts_as_people_write_them(text, number):
    assert load_config("digits", [f"epochs={text}"]).epochs == number
    assert load_config("digits", [f"model.hidden=[{text}, 3]"]).model.hidden == (number, 3)


@pytest.mark.parametrize("word", ["true", "yes", "True", "on", "TRUE"])
def test_yes_is_true(word):
    assert load_config("digits", [f"optimizer.amsgrad={word}"]).optimizer.amsgrad
    assert load_config("digits", ["data.stratify=no"]).data.stratify is False
    if word != "on":
        assert load_config("digits", [f"data.header={word.lower()}"]).data.header == "yes"


def test_text_with_points_and_dates_is_text():
    assert load_config("digits", ["data.label='1.'"]).data.label == "1."
    assert load_config("digits", ["data.label=2024-01-31"]).data.label == "2024-01-31"
    assert load_config("digits", ["data.label=v.1"]).data.label == "v.1"


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("epoch=3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("optimizer.lrr=1", "unknown setting 'optimizer.lrr': 'adamw' takes lr, weight_decay"),
        ("optimizer.lrr=1", "; did you mean 'lr'?"),
        (
            "optimizer.momentum=0.9",
            "unknown setting 'optimizer.momentum': 'adamw' takes lr, weight_decay",
        ),
        (
            "model.activation.slope=0.1",
            "'model.activation.slope': 'relu' takes no settings",
        ),
        ("a" + ".a" * 65_000 + "=1", "--set takes KEY=VALUE"),
        ("epochs=0", "epochs must be >= 1 or 'auto'; got 0"),
        ("epochs=1.5", "epochs must be a whole number or 'auto'; got 1.5"),
        ("epochs=true", "epochs must be a whole number or 'auto'; got True"),
        ("optimizer.lr=fast", "optimizer.lr must be a number; got 'fast'"),
        ("optimizer.lr=nan", "optimizer.lr must be > 0; got nan"),
        ("optimizer=adm", "unknown optimizer 'adm'; did you mean 'adam'?"),
        ("data.scaling=standart", "did you mean 'standard'?"),
        ("model.hidden=5", "model.hidden must be a list; got 5"),
        ("model.hidden=[5, 0]", "model.hidden[1] must be >= 1; got 0"),
        ("model.dropout=1.0", "model.dropout must be >= 0 and < 1 or 'auto'; got 1.0"),
        ("checkpoint.every=10", "checkpoint.every must be a string; got 10"),
        ("checkpoint.every=10 m", "not a duration: '10 m'"),
        (
            "accumulate=20000000",
            "accumulate must be at most batch_size, 32: it divides the rows",
        ),
        ("loss.reduction=none", "loss.reduction 'none' gives no single loss"),
        (
            "loss=huber",
            "digits has classes to predict, and is no regression: loss 'huber' does not fit",
        ),
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
    file = ["data.source=own.csv", "data.task=regression"]
    settings = [*file, "loss=huber", "early_stopping.monitor=accuracy"]
    assert "a regression has no accuracy" in error(*settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs = ", "is not valid TOML"),
        ("a" + ".a" * 60_000 + " = 1", "is not valid TOML: a key has more than 32 parts"),
        ("[a" + ". 'a' " * 20_000 + "]", "is not valid TOML: a key has more than 32 parts"),
        ("x = {a" + " ." * 60_000, "is not valid TOML"),
        (
            "model.hidden = [" + "1," * 60_000 + "]",
            "model: hidden has 60000 layers, more than",
        ),
        ("epochs = 1\nepochs = 2", "is not valid TOML"),
        ("a = " + "[" * 5000, "is not valid TOML"),
        ("epochs = 'x'", "my.toml: epochs must be a whole number or 'auto'; got 'x'"),
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
