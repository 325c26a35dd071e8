"""What a sweep is told: how to search, and where, from its TOML file or from Python.

The table ``[sweep]`` says how, ``[space]`` what is searched::

    [sweep]
    trials = 50

    [space]
    "optimizer.lr" = { low = 1e-4, high = 1e-1, log = true }
    "model.hidden" = { choices = [[64], [128, 64]] }
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xpnet.errors import ConfigError
from xpnet.run.config import parse_duration
from xpnet.run.config_sources import read_toml
from xpnet.run.overrides import toml_text
from xpnet.settings import Checked, NonNegativeInt, PositiveInt, build, did_you_mean, dump

__all__ = ["AUTO", "Plan", "Sweeping", "read_plan"]

AUTO = "auto"  # the space that follows from the settings of the run
SECTIONS = ("sweep", "space")


@dataclass(frozen=True)
class Sweeping(Checked):
    """How to search: the table [sweep]."""

    trials: PositiveInt | None = None  # in all, by default 30; all of a grid
    time: str | None = None  # such as "10min", after which no trial begins
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "hyperband", "asha", "none"] = "median"
    monitor: str = AUTO  # loss, accuracy, r2 or another score of the validation part
    seed: NonNegativeInt = 0  # of the suggestions; that of the runs is `seed` of their config
    parallel: PositiveInt = 1  # processes
    storage: str | None = None  # a URL of Optuna's, instead of a file in the folder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time is not None:
            parse_duration(self.time)

    @property
    def seconds(self) -> float:
        """The time in seconds."""
        return float("inf") if self.time is None else parse_duration(self.time)


class Plan(NamedTuple):
    """How to search, and the space as it was given: a table with dotted or nested keys, or auto."""

    sweeping: Sweeping
    space: Mapping[str, Any] | None  # None for auto
    name: str  # of the file, for errors

    def to_toml(self, space: Mapping[str, Any]) -> str:
        """Return the file that :func:`read_plan` reads, with a space that is settled."""
        lines = ["# A sweep of xpnet: xpnet train SOURCE --sweep FILE reads it.", "[sweep]"]
        own = {**dump(self.sweeping)}
        lines += [f"{key} = {toml_text(value)}" for key, value in own.items()]
        lines += ["", "[space]"]
        lines += [f"{toml_text(key)} = {toml_text(table)}" for key, table in space.items()]
        return "\n".join([*lines, ""])


def read_plan(given: Any, options: Mapping[str, Any]) -> Plan:
    """Return the plan of "auto", of a file's path, or of a mapping that is the space.

    ``options`` are settings of [sweep], on top of those of the file; None leaves one as it is.
    Raises ConfigError, naming the file.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if isinstance(given, Mapping):
        return Plan(build(Sweeping, options, "sweep"), given, "space")
    if not isinstance(given, str | Path):
        msg = "the space of a sweep is 'auto', the path of a TOML file, or a mapping from settings "
        msg += f"to ranges; got {given!r}"
        raise ConfigError(msg)
    if given == AUTO:
        return Plan(build(Sweeping, options, "sweep"), None, AUTO)
    name = str(given)
    try:
        table = read_toml(Path(given))
    except OSError as error:
        msg = f"cannot read the sweep {name!r}: {error.strerror}; for one to start from"
        raise ConfigError(
            msg, python="space='auto' writes its own into the folder", command="--sweep auto"
        ) from None
    except (ValueError, RecursionError) as error:
        msg = f"{name} is not valid TOML: {error}"
        raise ConfigError(msg) from None
    try:
        return _checked(table, options, name)
    except ConfigError as error:
        raise error.within(name) from None


def _checked(table: Mapping[str, Any], options: Mapping[str, Any], name: str) -> Plan:
    for key in table:
        if key not in SECTIONS:
            msg = f"a sweep has the tables [sweep] and [space], and no {key!r}; "
            msg += f"{did_you_mean(key, SECTIONS)}; what all trials share is set as for one run"
            raise ConfigError(msg, python=f"settings={{{key!r}: ...}}", command=f"--set {key}=...")
    own = table.get("sweep", {})
    if not isinstance(own, Mapping):
        msg = f"sweep must be a table; got {own!r}"
        raise ConfigError(msg)
    sweeping = build(Sweeping, {**own, **options}, "sweep")
    space = table.get("space", AUTO)
    if space == AUTO:
        return Plan(sweeping, None, name)
    if not isinstance(space, Mapping):
        msg = f"space must be a table, or 'auto'; got {space!r}"
        raise ConfigError(msg)
    return Plan(sweeping, space, name)


def with_trials(sweeping: Sweeping, combinations: int | None) -> Sweeping:
    """Return ``sweeping`` with a number of trials: 30, or as many as a grid has."""
    if combinations is not None:
        wanted = sweeping.trials or combinations
        return replace(sweeping, trials=min(wanted, combinations))
    return replace(sweeping, trials=sweeping.trials or 30)
