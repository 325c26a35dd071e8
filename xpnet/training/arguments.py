"""What a trainer is given, checked: its settings, and the names that it lacks."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from xpnet.errors import ConfigError, XpnetWarning
from xpnet.nn import Layer, Sequential
from xpnet.nn.losses import LOSSES, Loss
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, Optimizer
from xpnet.optim.schedules import SCHEDULES, Schedule
from xpnet.settings import (
    Checked,
    NonNegativeInt,
    OneOf,
    PositiveInt,
    build,
    convert,
    did_you_mean,
)
from xpnet.step.mixed_precision import Mixed
from xpnet.training.step_choice import Step
from xpnet.training.threads import ThreadsSetting

__all__ = [
    "Settings",
    "check_epochs",
    "checked_settings",
    "not_assignable",
    "refuse_more",
    "refuse_of_fit",
    "refuse_unknown",
    "warn_that_all_is_done",
    "warn_that_all_is_frozen",
]


# What other libraries call it -> what it is here.
ELSEWHERE = {
    "validation_data": "pass validation=(x, y)",
    "validation_split": "pass validation_fraction=0.1",
    "class_weight": "it is a setting, Trainer(..., class_weights=...)",
    "sample_weight": "pass it with the rows, fit((x, y, sample_weight))",
    "learning_rate": "it is a setting of the rule, Trainer(..., optimizer=Adam(0.01))",
    "lr": "it is a setting of the rule, Trainer(..., optimizer=Adam(0.01))",
    "verbose": "pass callbacks=[Progress()] to see the epochs",
    "max_epochs": "pass epochs=",
    "n_epochs": "pass epochs=",
}


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """The settings of a trainer that it keeps as they are given."""

    model: Sequential
    loss: Annotated[Loss, OneOf(LOSSES)]
    optimizer: Annotated[Optimizer, OneOf(OPTIMIZERS)]
    schedule: Annotated[Schedule, OneOf(SCHEDULES)]
    clip: Clip
    batch_size: PositiveInt
    seed: NonNegativeInt
    accumulate: PositiveInt
    mixed: Mixed | None = None
    step: Step
    threads: ThreadsSetting


def checked_settings(model: Any, **given: Any) -> Settings:
    """Return the settings of a trainer in their types.

    Raises ConfigError for a setting of another type, out of range, or at odds with another.
    """
    settings = build(Settings, {"model": _model(model), **given})
    if settings.loss.reduction == "none":
        msg = "a loss with reduction='none' has no single value to train on; use 'mean'"
        raise ConfigError(msg)
    if settings.loss.predicts == "value" and settings.schedule.monitor == "accuracy":
        msg = f"{settings.schedule!r} watches the accuracy, which a regression does not have"
        raise ConfigError(msg)
    return settings


def _model(model: Any) -> Sequential:
    """A model from what a trainer is given; raises ConfigError for what is none."""
    if isinstance(model, Sequential):
        found = model
    elif any(c.__module__.startswith("torch.nn") for c in type(model).__mro__):
        msg = f"model must be layers of xpnet; got {type(model).__name__} of PyTorch"
        raise ConfigError(msg, python="xpnet.from_torch(module) makes a trainer of it")
    elif isinstance(model, str | bytes | Mapping | type) or not isinstance(model, Iterable):
        msg = "model must be a Sequential or a list of layers, such as [Dense(10), ReLU(), "
        msg += f"Dense(3)]; got {model!r}"
        alone = isinstance(model, Layer)
        raise ConfigError(msg, python=f"put it in a list, [{model!r}]" if alone else "")
    else:
        found = Sequential(tuple(model))
    if not found.layers:
        msg = "the model has no layers, so there is nothing to train"
        raise ConfigError(msg)
    return found


def check_epochs(epochs: Any) -> int:
    """Return the number of epochs as an int; raises ConfigError for what is none."""
    return convert(PositiveInt, epochs, "epochs")


def refuse_unknown(unknown: Mapping[str, object], settings: Iterable[str]) -> None:
    """Raise ConfigError for arguments that a trainer, which has ``settings``, does not have."""
    for name in unknown:
        if name == "compile":
            msg = "compile is now step: step='portable' for compile=False, step='jit' for True"
            raise ConfigError(msg)
        msg = f"Trainer has no argument {name!r}; {did_you_mean(name, settings)}"
        raise ConfigError(msg)


def refuse_more(more: tuple[Any, ...], call: str) -> None:
    """Raise ConfigError for data in more arguments than one; ``call`` is how it is passed."""
    if more:
        msg = f"{call.partition('(')[0]} takes all data as one argument"
        raise ConfigError(msg, python=f"{call}, or (x, y, sample_weight)")


def refuse_of_fit(unknown: Iterable[str], own: Iterable[str], settings: Iterable[str]) -> None:
    """Raise ConfigError for arguments that fit, which has its ``own``, does not have.

    ``settings`` are those of a trainer.
    """
    for name in unknown:
        msg = f"fit has no argument {name!r}"
        if name in settings:
            raise ConfigError(msg, python=f"it is a setting, Trainer(..., {name}=...)")
        if name in ELSEWHERE:
            raise ConfigError(msg, python=ELSEWHERE[name])
        known = [key for key in own if key not in ("more", "unknown")]
        msg += f"; {did_you_mean(name, known)}"
        raise ConfigError(msg)


def not_assignable(name: str, settings: Iterable[str], attributes: Iterable[str]) -> ConfigError:
    """Return the error for assigning to ``name``, a setting, another attribute or neither."""
    settings = list(settings)
    if name in settings:
        msg = f"{name} is a setting, which a trainer keeps as it was made"
        remedy = f"make another Trainer(..., {name}=...); its restore(*trainer.snapshot()) goes on "
        return ConfigError(msg, python=f"{remedy}from here")
    if name in attributes:
        msg = f"{name} of a trainer cannot be assigned"
        return ConfigError(msg, python="fit, restore and stop change it")
    return ConfigError(f"a trainer has no attribute {name!r}; {did_you_mean(name, settings)}")


def warn_that_all_is_frozen() -> None:
    """Warn, at the line that calls fit, that no weight will change."""
    msg = "the rule freezes all layers that have weights, so that training changes nothing"
    warnings.warn(msg, XpnetWarning, stacklevel=4)


def warn_that_all_is_done(epochs: int) -> None:
    """Warn, at the line that calls fit, that it had nothing to do."""
    msg = f"nothing was trained, for all {epochs} epochs are done: epochs counts from the first "
    msg += f"on, so pass epochs={2 * epochs} for {epochs} more, or begin with a new Trainer"
    warnings.warn(msg, XpnetWarning, stacklevel=4)
