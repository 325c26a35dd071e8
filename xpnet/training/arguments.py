"""What a trainer is given, checked: its settings, and the names that it lacks."""

import warnings
from collections.abc import Iterable, Mapping

from xpnet.errors import ConfigError, XpnetWarning
from xpnet.nn.losses import Loss
from xpnet.optim.schedules import Schedule
from xpnet.settings import did_you_mean

__all__ = ["check_settings", "not_assignable", "refuse_unknown", "warn_that_all_is_done"]


def check_settings(
    loss: Loss, schedule: Schedule, batch_size: int, accumulate: int, seed: int
) -> None:
    """Raise ConfigError for settings that do not go together or are out of range."""
    if loss.reduction == "none":
        msg = "a loss with reduction='none' has no single value to train on; use 'mean'"
        raise ConfigError(msg)
    if loss.predicts == "value" and schedule.monitor == "accuracy":
        msg = f"{schedule!r} watches the accuracy, which a regression does not have"
        raise ConfigError(msg)
    if batch_size < 1 or accumulate < 1 or seed < 0:
        msg = "batch_size and accumulate must be >= 1 and seed >= 0; "
        msg += f"got {batch_size}, {accumulate} and {seed}"
        raise ConfigError(msg)


def refuse_unknown(unknown: Mapping[str, object], settings: Iterable[str]) -> None:
    """Raise ConfigError for arguments that a trainer, which has ``settings``, does not have."""
    for name in unknown:
        if name == "compile":
            msg = "compile is now step: step='portable' for compile=False, step='jit' for True"
            raise ConfigError(msg)
        msg = f"Trainer has no argument {name!r}; {did_you_mean(name, settings)}"
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


def warn_that_all_is_done(epochs: int) -> None:
    """Warn, at the line that calls fit, that it had nothing to do."""
    msg = f"nothing was trained, for all {epochs} epochs are done: epochs counts from the first "
    msg += f"on, so pass epochs={2 * epochs} for {epochs} more, or begin with a new Trainer"
    warnings.warn(msg, XpnetWarning, stacklevel=4)
