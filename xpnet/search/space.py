"""The space of a sweep: settings of a run with the values that they may have.

``{ low, high }`` is a range, of whole numbers where the setting is one, with ``step`` or in the
logarithm (``log = true``); ``{ choices = [...] }`` lists values, also whole tables such as
``optimizer = { choices = ["sgd", { name = "adam", beta2 = 0.95 }] }``. What only some classes have
(the momentum of SGD) is searched in the trials that have such a class.

Every value that a sweep may try is checked against the config before the first trial.
"""

import itertools
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xpnet.errors import ConfigError
from xpnet.run.config import Config
from xpnet.run.overrides import as_setting, toml_text
from xpnet.settings import classes_of, did_you_mean, dump, flattened, kinds_of

__all__ = ["Parameter", "Value", "Values", "combinations", "read_space", "settings_of", "value_of"]

Value = float | int | str  # of a choice: its text in TOML
Values = Mapping[str, Value]  # of one trial
Check = Callable[[list[str]], Config]

KEYS = ("low", "high", "step", "log", "choices")
DIGITS = 4  # of a number from a range: what is tried can be typed

# What may not differ between trials, and why.
REFUSED = {
    "seed": "it also draws the parts of the data: the luckiest draw would be found",
    "data.source": "trials are compared on the same rows",
    "data.test": "the test part is for the one that is chosen",
    "data.test_fraction": "trials are compared on the same rows",
    "data.validation_fraction": "trials are compared on the same rows",
    "data.stratify": "trials are compared on the same rows",
    "data.label": "trials are compared on the same labels",
    "data.missing_labels": "trials are compared on the same rows",
    "data.task": "trials are compared on the same task",
    "early_stopping.monitor": "it is what the sweep monitors: set sweep.monitor",
}
# What changes no result, or only how it is kept.
POINTLESS = (
    *("backend", "device", "step", "threads", "checkpoint", "report", "tracking"),
    *("data.placement", "data.stream", "data.buffer", "data.data_dir", "start.source"),
)


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched; a range, or choices as the texts of their values."""

    key: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()
    needs: tuple[str, tuple[str, ...]] | None = None  # a parameter, and which of its choices

    def applies(self, values: Values) -> bool:
        """Return whether a trial with these values has the setting."""
        return self.needs is None or values.get(self.needs[0]) in self.needs[1]

    def holds(self, value: float) -> bool:
        """Return whether a number is in the range, and on one of its steps."""
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < 1e-9

    def rounded(self, value: Value) -> Value:
        """Return a suggested value with few digits, and within the range."""
        if self.choices or not isinstance(value, float):
            return value
        value = round(value, 12) if self.step else float(f"{value:.{DIGITS}g}")
        return min(max(value, self.low), self.high)

    def table(self) -> dict[str, Any]:
        """Return it as it is written in a file."""
        if self.choices:
            return {"choices": [value_of(text) for text in self.choices]}
        number = int if self.whole else float
        table: dict[str, Any] = {"low": number(self.low), "high": number(self.high)}
        if self.step and not (self.whole and self.step == 1):
            table["step"] = number(self.step)
        return table | ({"log": True} if self.log else {})

    def grid(self) -> list[Value]:
        """Return its values in order; raises ConfigError for a range without a step."""
        if self.choices:
            return list(self.choices)
        if self.log or not (self.whole or self.step):
            msg = f"a grid needs choices for {self.key}, or a step; "
            raise ConfigError(msg + "sampler 'tpe' or 'random' searches a range")
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + k * step for k in range(count)]
        return [int(v) if self.whole else round(v, 12) for v in values]


def value_of(text: str) -> Any:
    """Return the value of a choice's text."""
    return tomllib.loads(f"value = {text}")["value"]


def settings_of(space: Iterable[Parameter], values: Values) -> dict[str, Any]:
    """Return the settings of a trial, whole tables before what is set in them."""
    keys = sorted((p for p in space if p.key in values), key=lambda p: p.key.count("."))
    return {p.key: value_of(str(v)) if p.choices else v for p in keys for v in [values[p.key]]}


def read_space(table: Mapping[str, Any], check: Check) -> list[Parameter]:
    """Return the parameters of a space.

    ``check`` builds the config of a run with such settings on top. Raises ConfigError for a key
    that no config has, a value out of its limits, and for what trials could not be compared on.
    """
    found = dict(_entries(table, ""))
    if not found:
        msg = "the space is empty: give a setting, such as "
        raise ConfigError(msg + '"optimizer.lr" = { low = 1e-4, high = 1e-1, log = true }')
    for key in found:
        _refuse(key)
    space: list[Parameter] = []
    for key in sorted(found, key=lambda key: (key.count("."), not key.endswith(".name"))):
        space.append(_parameter(key, found[key], space, check))
    order = list(found)
    space.sort(key=lambda p: (p.needs is not None, order.index(p.key)))
    return space


def combinations(space: list[Parameter]) -> list[dict[str, Value]]:
    """Return the trials of a grid, each once; raises ConfigError for a range without a step."""
    found: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
    for values in itertools.product(*(p.grid() for p in space)):
        whole = {p.key: v for p, v in zip(space, values, strict=True)}
        trial = {p.key: whole[p.key] for p in space if p.applies(whole)}
        found[tuple(trial.items())] = trial
        if len(found) > 100_000:
            msg = "the grid has more than 100,000 trials: search fewer settings, or use sampler "
            raise ConfigError(msg + "'random'")
    return list(found.values())


def _entries(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the settings with their ranges; keys are dotted, or tables in tables."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            msg = f"{key} must be a range or choices, such as {{ low = 0.0, high = 0.5 }} or "
            msg += f"{{ choices = [1, 2] }}; got {value!r}"
            raise ConfigError(msg)
        if value.keys() & {*KEYS} and not any(isinstance(v, Mapping) for v in value.values()):
            for unknown in value.keys() - {*KEYS}:
                msg = f"{key} takes {', '.join(KEYS)}, and no {unknown!r}; "
                raise ConfigError(msg + did_you_mean(unknown, KEYS))
            yield key, value
        else:
            yield from _entries(value, f"{key}.")


def _refuse(key: str) -> None:
    for refused, why in REFUSED.items():
        if key == refused:
            msg = f"{key} cannot be searched: {why}"
            raise ConfigError(msg)
    if any(f"{key}.".startswith(f"{name}.") for name in POINTLESS):
        msg = f"{key} cannot be searched: it does not change what is learnt"
        raise ConfigError(msg)


def _parameter(
    key: str, table: Mapping[str, Any], before: list[Parameter], check: Check
) -> Parameter:
    needs, having = _needs(key, before)
    if "choices" in table:
        made = _choices(key, table)
        for text in made.choices:
            check([*having, as_setting(key, value_of(text))])
    else:
        made = _range(key, table, having, check)
    _no_clash(made, before)
    return Parameter(**{**vars(made), "needs": needs})


def _choices(key: str, table: Mapping[str, Any]) -> Parameter:
    choices = table["choices"]
    if table.keys() != {"choices"}:
        msg = f"{key} has choices and a range: give one of them"
        raise ConfigError(msg)
    if isinstance(choices, str) or not isinstance(choices, list | tuple) or not choices:
        msg = f"{key}.choices must be a list of values; got {choices!r}"
        raise ConfigError(msg)
    try:
        texts = [*map(toml_text, choices)]
    except (TypeError, ValueError):
        msg = f"{key}.choices must be plain values, which a file can hold; got {choices!r}"
        raise ConfigError(msg) from None
    if len({*texts}) < len(texts):
        msg = f"{key}.choices has {max(texts, key=texts.count)} twice"
        raise ConfigError(msg)
    return Parameter(key, choices=tuple(texts))


def _range(key: str, table: Mapping[str, Any], having: list[str], check: Check) -> Parameter:
    for end in ("low", "high"):
        if end not in table:
            msg = f"{key} has no {end!r}: give low and high, or choices"
            raise ConfigError(msg)
    log, step = table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        msg = f"{key}.log must be true or false; got {log!r}"
        raise ConfigError(msg)
    ends: list[Any] = []
    for end in ("low", "high"):
        value = table[end]
        if not _is_number(value):
            msg = f"{key}.{end} must be a number; got {value!r}"
            raise ConfigError(msg)
        config = check([*having, as_setting(key, value)])
        ends.append(flattened(dump(config)).get(key))
    low, high = ends
    if not (_is_number(low) and _is_number(high)):
        msg = f"{key} is no number, and has no range: give choices"
        raise ConfigError(msg)
    if not low < high:
        msg = f"{key}: low must be less than high; got {low:g} and {high:g}"
        raise ConfigError(msg)
    whole = isinstance(low, int)
    if log and step is not None:
        msg = f"{key}: a range in the logarithm has no step"
        raise ConfigError(msg)
    if step is not None and (not _is_number(step) or step <= 0 or (whole and step % 1)):
        msg = f"{key}.step must be a {'whole ' if whole else ''}number > 0; got {step!r}"
        raise ConfigError(msg)
    if step is not None and step > high - low:
        msg = f"{key}.step = {step:g} is more than high - low: only low would be tried"
        raise ConfigError(msg)
    if log and low <= 0:
        msg = f"{key}: low must be > 0 for log = true; got {low:g}"
        raise ConfigError(msg)
    if step is not None:  # as far as the steps go
        high = low + math.floor((high - low) / step + 1e-9) * step
        high = int(high) if whole else round(high, 12)
    return Parameter(key, low, high, step, log, whole)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _needs(
    key: str, before: list[Parameter]
) -> tuple[tuple[str, tuple[str, ...]] | None, list[str]]:
    """Return which choices have the setting ``key``, and settings with which it can be checked."""
    parts = key.split(".")
    for n in range(1, len(parts)):
        section = ".".join(parts[:n])
        for chooser in before:
            if chooser.key not in (section, f"{section}.name") or chooser.key == key:
                continue
            classes = _classes(parts[:n])
            if classes is None or not chooser.choices:
                continue
            fitting = tuple(
                text
                for text in chooser.choices
                if parts[n] in kinds_of(classes.get(_class_name(text)))
            )
            if fitting == chooser.choices:
                return None, [as_setting(chooser.key, value_of(fitting[0]))]
            # where none has it, the check of the first says so
            having = [as_setting(chooser.key, value_of((fitting or chooser.choices)[0]))]
            return (chooser.key, fitting), having
    return None, []


def _classes(path: list[str]) -> Mapping[str, type] | None:
    cls: Any = Config
    for part in path[:-1]:
        cls = kinds_of(cls).get(part)
    return classes_of(cls, path[-1])


def _class_name(text: str) -> str:
    value = value_of(text)
    return str(value.get("name", "") if isinstance(value, dict) else value)


def _no_clash(made: Parameter, before: list[Parameter]) -> None:
    """Raise ConfigError for a table whose keys are searched, or set by another table, as well."""
    for other in before:
        for text in other.choices:
            value = value_of(text)
            rest = made.key.removeprefix(f"{other.key}.")
            sets = {"name", *(value if isinstance(value, dict) else ())}
            if rest != made.key and rest in sets and _classes(other.key.split(".")):
                msg = f"{made.key} is searched, and the choice {text} of {other.key} sets it, too"
                raise ConfigError(msg)
