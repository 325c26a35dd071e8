"""The settings of a run: TOML to checked dataclasses and back.

Every setting is a field below (or of the layer, loss, optimizer or schedule that it configures),
so a wrong type, a value out of range and an unknown name give one-line errors without more code.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from xpnet.data import NAMES, Augment, Scaling, TargetScaling
from xpnet.data.columns import MissingLabels, RowNumbers
from xpnet.data.read import Task
from xpnet.data.tables import TextFormat
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
from xpnet.parallel.settings import Parallel
from xpnet.registry import name_of
from xpnet.settings import (
    Checked,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveInt,
    dump,
    flattened,
)
from xpnet.step.mixed_precision import Mixed
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
    "TrackingConfig",
    "fitting_losses",
    "parse_duration",
    "telling_settings",
    "to_toml",
]

Placement = Literal["auto", "device", "host"]
Column = str | int  # by name, or else by position

IN_MEMORY = "table in memory"  # the source of a training on one
MAX_LAYERS = 1000  # of a model; what is compiled and printed grows with them

ASIDE = ("checkpoint", "tracking", "report")  # make no difference to what is learnt


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
class TrackingConfig(Checked):
    """What is recorded of a training beside its losses and metrics, and where."""

    norms: bool = True  # of weights, gradient and update of each layer: training/norms.py
    tensorboard: bool = False  # event files in the folder tensorboard of the run
    mlflow: bool | str = False  # True: where MLflow logs by default; or the URI of its store

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.mlflow, str) and not re.match(
            r"[A-Za-z][\w+.-]*:|databricks", self.mlflow
        ):
            msg = "mlflow must be true, false or a URI such as sqlite:///mlflow.db or "
            msg += f"http://localhost:5000; got {self.mlflow!r}"
            remedy = "if that is what to train on, put it before --mlflow"
            raise ConfigError(msg, command=remedy, python="True logs where MLflow does by default")


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
    report: bool = True  # whether the run's page is written when it is trained
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    start: StartConfig | None = None  # None: from random weights
    loss: Annotated[Loss, OneOf(LOSSES)] = SoftmaxCrossEntropy()
    optimizer: Annotated[Optimizer, OneOf(OPTIMIZERS)] = Adam()
    schedule: Annotated[Schedule, OneOf(SCHEDULES)] = Constant()
    clip: Clip = Clip()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: Parallel = Parallel()
    tracking: TrackingConfig = TrackingConfig()

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


def table_of(config: Config) -> dict[str, Any]:
    """Return the plain table of a config, without the default loss where the task is open."""
    table = dump(config)
    if config.data.task == "auto" and config.loss == Config().loss:
        del table["loss"]
    return table


def telling_settings(config: Config) -> dict[str, Any]:
    """Return the settings that make a difference to what is learnt, by their names with dots."""
    return flattened({key: v for key, v in table_of(config).items() if key not in ASIDE})


def to_toml(config: Config) -> str:
    """Return the TOML that ``load_config`` reads back as an equal config."""
    import tomli_w

    return tomli_w.dumps(table_of(config))
