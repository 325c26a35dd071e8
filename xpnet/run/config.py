"""The settings of a run: TOML to checked dataclasses and back.

Every setting is a field below (or of the layer, loss, optimizer or schedule that it configures),
so a wrong type, a value out of range and an unknown name give one-line errors without more code.
"""

import os
import re
import textwrap
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from xpnet.data import NAMES, Augment, Scaling, TargetScaling
from xpnet.data.columns import MissingLabels, RowNumbers
from xpnet.data.files import existing
from xpnet.data.image_folder import is_images
from xpnet.data.read import Task
from xpnet.data.tables import TextFormat, is_table
from xpnet.errors import ConfigError
from xpnet.nn import (
    ACTIVATIONS,
    LAYERS,
    Dense,
    Dropout,
    Embedding,
    FeatureScale,
    Flatten,
    Layer,
    ReLU,
    Sequential,
)
from xpnet.nn.initializers import INITIALIZERS, GlorotUniform, Initializer, Zeros
from xpnet.nn.losses import LOSSES, Loss, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, Adam, Optimizer
from xpnet.optim.schedules import SCHEDULES, Constant, Schedule
from xpnet.registry import load_installed, name_of
from xpnet.run.overrides import MAX_PARTS, as_settings, layered, overlaid
from xpnet.settings import (
    Checked,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveInt,
    build,
    default_name,
    did_you_mean,
    dump,
)
from xpnet.step.mixed_precision import Mixed
from xpnet.storage.safe_open import MAX_TOML, read_regular
from xpnet.training.step_choice import Step
from xpnet.training.threads import ThreadsSetting

__all__ = [
    "IN_MEMORY",
    "CheckpointConfig",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "EarlyStoppingConfig",
    "ModelConfig",
    "Placement",
    "StartConfig",
    "fitting_losses",
    "load_config",
    "parse_duration",
    "read_toml",
    "recipe_names",
    "recipe_text",
    "template_text",
    "to_toml",
]

Placement = Literal["auto", "device", "host"]
Column = str | int  # by name, or else by position

IN_MEMORY = "table in memory"  # the source of a training on one
NO_RECIPE = "none"  # the default settings
FILES = {"data": ("source", "test", "data_dir"), "start": ("source",)}
FEW_ROWS = 1000  # of a classification, for which a recipe may have settings of their own
MAX_LAYERS = 1000  # of a model; what is compiled and printed grows with them
# tomllib takes n² steps for a key of n parts, minutes for what fits in a config
PART = r"""(?>[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
DEEP_KEY = re.compile(rf"(?<![\w-])(?>{PART}){{{MAX_PARTS}}}")

TABLES: dict[str, Mapping[str, type]] = {
    "ACTIVATIONS": ACTIVATIONS,
    "INITIALIZERS": INITIALIZERS,
    "LOSSES": LOSSES,
    "OPTIMIZERS": OPTIMIZERS,
    "SCHEDULES": SCHEDULES,
}


@dataclass(frozen=True)
class ColumnsConfig(Checked):
    """What the columns of a table are, where that is not to be guessed."""

    ignore: tuple[Column, ...] = ()  # left out
    numeric: tuple[Column, ...] = ()  # numbers: anything else in them is an error
    category: tuple[Column, ...] = ()  # categories, numbers included
    weight: Column | None = None  # the weight of each row
    one_hot: PositiveInt = 32  # categories of up to so many values are one-hot, others embedded


@dataclass(frozen=True)
class DataConfig(Checked):
    """Where the examples come from, and how they are split and scaled."""

    source: str = "digits"  # digits, mnist, fashion-mnist, or a file
    test: str | None = None  # a file; without one, test_fraction of the source is held out
    label: Column | tuple[Column, ...] | None = None  # label column, or several
    columns: ColumnsConfig = ColumnsConfig()
    header: Literal["auto", "yes", "no"] = "auto"  # whether a text file names its columns
    text: TextFormat = TextFormat()  # how a text file is written
    missing_labels: MissingLabels = "refuse"  # rows without a label: an error, or left out
    row_numbers: RowNumbers = "drop"  # columns that number the rows: left out, or features
    task: Task | Literal["auto"] = "auto"  # auto: as the loss or else the labels say
    array: str | None = None  # the features in an .npz file
    image_size: tuple[PositiveInt, ...] | None = None  # to which images are resized
    data_dir: str | None = None  # folder of the named data sets
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction | Literal["auto"] = 0.1
    stratify: bool = True
    scaling: Scaling = "standard"
    target_scaling: TargetScaling = "standard"  # of a regression
    placement: Placement = "auto"  # on the device at once, or batch by batch from the host
    stream: Literal["auto", "yes", "no"] = "auto"  # leave the rows in their file; auto: large ones
    buffer: PositiveInt = 256  # MiB of streamed rows in memory, which are shuffled
    augment: Augment = Augment()  # of the training rows


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The hidden layers; the output layer is added with one unit per class or target column.

    Either ``hidden`` widths, each with ``normalization``, ``activation`` and ``dropout``, or the
    full list of hidden ``layers``. ``scale_features`` puts a trained factor of each feature before
    them, and categories that are not one-hot are embedded before that.
    """

    hidden: tuple[PositiveInt, ...] = (128,)
    activation: Annotated[Layer, OneOf(ACTIVATIONS)] = ReLU()
    normalization: Literal["none", "batch_norm", "layer_norm", "rms_norm"] = "none"
    dropout: Fraction | Literal["auto"] = 0.0
    initializer: Annotated[Initializer, OneOf(INITIALIZERS)] = GlorotUniform()
    bias_initializer: Annotated[Initializer, OneOf(INITIALIZERS)] = Zeros()
    output_initializer: Annotated[Initializer, OneOf(INITIALIZERS)] | None = None  # as the others
    scale_features: bool = False
    layers: tuple[Annotated[Layer, OneOf(LAYERS)], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, count in (("hidden", len(self.hidden)), ("layers", len(self.layers or ()))):
            if count > MAX_LAYERS:
                msg = f"{key} has {count} layers, more than {MAX_LAYERS}"
                raise ConfigError(msg)

    def model(
        self,
        input_shape: tuple[int, ...],
        n_outputs: int,
        loss: Loss,
        embeddings: tuple[int, ...] = (),
    ) -> Sequential:
        """Return the built model for examples of ``input_shape``.

        The last inputs are codes of categories, ``embeddings`` says of how many values each.
        """
        layers: list[Layer] = [Embedding(embeddings)] if embeddings else []
        if self.layers is None and len(input_shape) > 1:
            layers.append(Flatten())
        if self.scale_features:
            layers.append(FeatureScale())
        layers += self._hidden() if self.layers is None else self.layers
        layers.append(Dense(n_outputs, initializer=self.output_initializer or self.initializer))
        if loss.output_layer != "identity":  # such as softmax for a loss of probabilities
            layers.append(LAYERS[loss.output_layer]())
        return Sequential(tuple(layers)).build(input_shape)

    def check_hidden(self) -> None:
        """Raise ConfigError if ``layers`` end as a whole network does: it would go on after that.

        A run of an earlier version may have such layers, so this is for a new training.
        """
        if self.layers and (last := self.layers[-1]).gives != "numbers":
            msg = "model.layers are the hidden layers, and the output layer is added after "
            msg += f"{name_of(last)}: leave that out, and the last dense layer"
            raise ConfigError(msg)

    def _hidden(self) -> list[Layer]:
        layers: list[Layer] = []
        for units in self.hidden:
            dense = Dense(units, True, self.initializer, self.bias_initializer)
            layers.append(dense)
            if self.normalization != "none":
                layers.append(LAYERS[self.normalization]())
            layers.append(self.activation)
            if isinstance(self.dropout, str):
                msg = "model.dropout 'auto' depends on the number of rows, which is not known here"
                raise ConfigError(msg)
            if self.dropout:
                layers.append(Dropout(self.dropout))
        return layers


@dataclass(frozen=True)
class StartConfig(Checked):
    """What a run starts from, instead of random weights: another run, or a saved model."""

    source: str  # the folder of a run, one of its checkpoints, or a file of Trainer.save
    which: Literal["auto", "best", "last"] = "auto"  # of a run's checkpoints
    optimizer_state: bool = False  # whether the moments of the update rule go on, too
    new_head: bool = False  # whether the last layer begins anew where it would fit


@dataclass(frozen=True)
class EarlyStoppingConfig(Checked):
    """Stop after ``patience`` epochs without improvement of the validation; 0 never stops."""

    patience: NonNegativeInt = 0
    monitor: Literal["loss", "accuracy"] = "loss"
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class CheckpointConfig(Checked):
    """When to save besides the end of each epoch, and how many to keep besides the best."""

    every_steps: NonNegativeInt = 0  # 0: never by steps
    every: str | None = None  # by time, such as "10min"
    min_seconds: NonNegativeFloat = 5.0  # between two epochs that are saved
    keep: PositiveInt = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every is not None:
            parse_duration(self.every)


@dataclass(frozen=True)
class Config(Checked):
    """A whole run."""

    RENAMED: ClassVar[dict[str, str]] = {
        "compile": "step: write step='portable' for compile=false, step='jit' for compile=true"
    }

    epochs: PositiveInt | Literal["auto"] = 30  # auto: by the number of rows, run/by_rows.py
    batch_size: PositiveInt | Literal["auto", "largest"] = 64  # largest: that fits the memory
    seed: NonNegativeInt = 0
    backend: str = "auto"
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    tf32: bool | None = None  # on a GPU; None: as the library is set
    mixed: Mixed | None = None  # a narrower dtype for the layers; weights stay in dtype
    accumulate: PositiveInt = 1  # micro-batches that a batch's gradient is accumulated over
    step: Step = "auto"  # who takes the training step: training/step_choice.py
    threads: ThreadsSetting = "auto"  # on a CPU; auto: measured, training/threads.py
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    start: StartConfig | None = None  # None: from random weights
    loss: Annotated[Loss, OneOf(LOSSES)] = SoftmaxCrossEntropy()
    optimizer: Annotated[Optimizer, OneOf(OPTIMIZERS)] = Adam()
    schedule: Annotated[Schedule, OneOf(SCHEDULES)] = Constant()
    clip: Clip = Clip()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.reduction == "none":
            msg = "loss.reduction 'none' gives no single loss to train on; use mean or sum"
            raise ConfigError(msg)
        if isinstance(self.batch_size, int) and self.accumulate > self.batch_size:
            msg = f"accumulate must be at most batch_size, {self.batch_size}: it divides the rows "
            msg += f"of a batch into micro-batches; got {self.accumulate}"
            raise ConfigError(msg)
        self._check_task()

    def _check_task(self) -> None:
        task = self.data.task
        if task == "auto":
            return
        if task != "classification" and self.data.source in NAMES:
            msg = f"{self.data.source} has classes to predict, and is no {task}: "
            msg += f"loss {name_of(self.loss)!r} does not fit"
            raise ConfigError(msg)
        if name_of(self.loss) not in (fit := fitting_losses(task)):
            msg = f"loss {name_of(self.loss)!r} does not fit data.task {task!r}; "
            msg += (
                f"use {' or '.join([', '.join(fit[:-1]), fit[-1]] if fit[1:] else fit)} for {task}"
            )
            remedy = {"python": f"loss={fit[0]!r}", "command": f"--set loss.name={fit[0]}"}
            raise ConfigError(msg, **remedy)
        if task == "regression" and self.early_stopping.monitor == "accuracy":
            msg = "early_stopping.monitor: a regression has no accuracy; use 'loss'"
            raise ConfigError(msg)


def fitting_losses(task: Task) -> list[str]:
    """Return the names of the losses for a task, its default first."""
    kinds = {
        "classification": ("class", "binary"),
        "regression": ("value",),
        "multilabel": ("binary",),
    }[task]
    return [n for kind in kinds for n, c in LOSSES.items() if c.predicts == kind]


def parse_duration(text: str) -> float:
    """Return seconds for a duration such as ``"30s"``, ``"10min"`` or ``"1.5h"``.

    >>> parse_duration("10min")
    600.0
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h)", text.strip())
    if not match or float(match[1]) == 0:
        msg = f"not a duration: {text!r}; write a number and s, min or h, such as '10min'"
        raise ConfigError(msg)
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package."""
    files = resources.files("xpnet.run") / "recipes"
    return sorted(f.name.removesuffix(".toml") for f in files.iterdir() if f.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """Return the TOML of a recipe."""
    return (resources.files("xpnet.run") / "recipes" / f"{name}.toml").read_text("utf-8")


def _recipe(name: str, task: str | None, rows: int | None) -> dict[str, Any]:
    """Return the settings of a recipe, with those that it has ``for`` a task and rows on top."""
    if name == NO_RECIPE:
        return {}
    if name not in recipe_names():
        msg = f"no recipe {name!r}; {did_you_mean(name, [*recipe_names(), NO_RECIPE])}"
        raise ConfigError(msg)
    table = tomllib.loads(recipe_text(name))
    special = table.pop("for", {})
    table = layered(Config, table, special.get(task, {}))
    few = task == "classification" and rows is not None and rows < FEW_ROWS
    return layered(Config, table, special.get("few_rows", {})) if few else table


def template_text() -> str:
    """Return the commented config to start from, with the names that are registered.

    A line ``# {LOSSES}`` of template.toml stands for the names in that table.
    """
    load_installed()
    text = (resources.files("xpnet.run") / "template.toml").read_text("utf-8")
    for name, table in TABLES.items():
        lines = textwrap.wrap(", ".join(table), 98, initial_indent="# ", subsequent_indent="# ")
        text = text.replace(f"# {{{name}}}", "\n".join(lines))
    return text


def load_config(
    source: str | Path | Config = "digits",
    overrides: Iterable[str] | Mapping[str, Any] = (),
    report: Callable[[str], None] = lambda line: None,
    *,
    recipe: str | None = None,
    task: Task | None = None,
    rows: int | None = None,
) -> Config:
    """Read a recipe by name or a TOML file by path, with settings on top.

    The path of a data file stands for the settings of a ``recipe`` on that data, by default of
    "table" for a table and of "none", the defaults, for others; a Config stands for itself. A TOML
    file, which may name its recipe, is on top of that. ``overrides`` are ``KEY=VALUE`` texts, as on
    a command line, or a mapping from keys to values, in any order: xpnet/run/overrides.py.
    ``report`` is called with a line for each part of the source that they replace. A relative data
    file in a TOML file is taken from that file's folder.

    Where neither the settings nor a loss among them say what the ``task`` is, it is the one given,
    and decides the loss; without one, ``data.task`` of the result is "auto". ``rows`` are those to
    train and to validate on, where they are known. Raises ConfigError.

    >>> load_config("digits", ["optimizer.lr=0.01", "epochs=3"]).optimizer.lr
    0.01
    >>> load_config("digits", {"model.hidden": [32], "epochs": 3}).model.hidden
    (32,)
    """
    overrides = as_settings(overrides)

    def settled(task: Task | None, report: Callable[[str], None]) -> dict[str, Any]:
        if isinstance(source, Config):
            own = table_of(source)
        else:
            own = _read(str(source), lambda name: _recipe(name, task, rows), recipe)
        return overlaid(Config, own, overrides, report)

    task = _task(settled(None, lambda line: None)) or task
    settings = settled(task, report)
    if task is not None:
        settings["data"] = {**settings.get("data", {}), "task": task}
        settings["loss"] = settings.get("loss") or {"name": fitting_losses(task)[0]}
    _anchor_files(settings, Path())  # of the overrides
    try:
        return build(Config, settings)
    except ConfigError as error:
        if isinstance(source, Config) or not str(source).endswith(".toml"):
            raise
        raise error.within(str(source)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises OSError, RecursionError, or ValueError if it is empty or no TOML."""
    text = read_regular(path, MAX_TOML).decode("utf-8")
    if DEEP_KEY.search(text):
        msg = f"a key has more than {MAX_PARTS} parts"
        raise ValueError(msg)
    if not text.strip("\0 \n"):  # a lost file, not one of nothing but defaults
        msg = "it is empty"
        raise ValueError(msg)
    return tomllib.loads(text)


def _task(settings: Mapping[str, Any]) -> Task | None:
    """Return the task that settings name, or that their loss is for; None if that is open."""
    data, loss = settings.get("data"), settings.get("loss")
    task = data.get("task", "auto") if isinstance(data, Mapping) else "auto"
    if task != "auto":
        return cast(Task, task) if task in typing.get_args(Task) else None
    name = loss.get("name") if isinstance(loss, Mapping) else loss
    if loss and name is None:
        name = default_name(Config, "loss")
    fits = [task for task in typing.get_args(Task) if name in fitting_losses(task)]
    return fits[0] if len(fits) == 1 else None


def _read(
    source: str, settings_of: Callable[[str], dict[str, Any]], recipe: str | None
) -> dict[str, Any]:
    """Return the settings of a source: those of its recipe, and on top of them its own."""
    path, own = Path(source), dict[str, Any]()
    if source in recipe_names():
        if recipe is None:
            recipe = source
        else:
            own = {"data": {"source": source}}
    elif path.suffix == ".toml":
        own = _toml(path)
        named = own.pop("recipe", None)
        recipe = recipe or named
    elif source == IN_MEMORY:
        own, recipe = {"data": {"source": source}}, recipe or "table"
    else:
        own = {"data": {"source": str(_data_file(path))}}
        recipe = recipe or ("table" if is_table(path) else None)
    table = layered(Config, settings_of(recipe or NO_RECIPE), own)
    if recipe == source and "source" not in table.get("data", {}):
        msg = f"recipe {recipe!r} is for data of your own: xpnet train FILE --recipe {recipe}"
        raise ConfigError(msg)
    return table


def _toml(path: Path) -> dict[str, Any]:
    try:
        table = read_toml(path)
    except OSError as error:
        msg = f"cannot read config {str(path)!r}: {error.strerror}"
        raise ConfigError(msg) from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or 5000 digits
        msg = f"{path} is not valid TOML: {error}"
        raise ConfigError(msg) from None
    _anchor_files(table, path.parent)
    return table


def _data_file(path: Path) -> Path:
    if (path / "config.toml").is_file():
        msg = f"{str(path)!r} is a run folder; to resume it: xpnet train --out {path} --resume"
        raise ConfigError(msg)
    if is_images(path):
        return path
    if path.suffix or path.exists():
        return existing(path)
    msg = f"no recipe or file {str(path)!r}; {did_you_mean(str(path), recipe_names())}"
    raise ConfigError(msg)


def _anchor_files(settings: Mapping[str, Any], folder: Path) -> None:
    """Make the files that a config names independent of the current folder."""
    for section, keys in FILES.items():
        table = settings.get(section)
        for key in keys:
            value = table.get(key) if isinstance(table, dict) else None
            if not isinstance(table, dict) or not isinstance(value, str):
                continue
            if key == "source" and section == "data" and value in (*NAMES, IN_MEMORY):
                continue
            try:
                path = Path(value).expanduser()
            except RuntimeError:  # ~name, where nobody has that name
                msg = f"{section}.{key} = {value!r} names the home folder of a user who does not "
                raise ConfigError(msg + "exist") from None
            table[key] = os.path.abspath(folder / path)


def table_of(config: Config) -> dict[str, Any]:
    """Return the plain table of a config, without the default loss where the task is open."""
    table = dump(config)
    if config.data.task == "auto" and config.loss == Config().loss:
        del table["loss"]
    return table


def to_toml(config: Config) -> str:
    """Return the TOML that :func:`load_config` reads back as an equal config."""
    import tomli_w

    return tomli_w.dumps(table_of(config))
