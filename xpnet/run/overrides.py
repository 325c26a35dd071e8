"""Settings on top of a config: ``--set KEY=VALUE``, in any order.

The settings are a layer of their own, put together before it is laid over the config, so what they
mean does not depend on their order. Of one key that is set twice, the last value counts.

- ``optimizer.lr=0.1`` sets one key, of the class that is named: by these settings, else by the
  config, else by default.
- ``optimizer.name=sgd`` chooses a class. What the config sets for another class is left out, also
  what has the same name in both: a learning rate for Adam is none for SGD.
- ``optimizer=sgd`` and ``optimizer={name="sgd", lr=0.1}`` stand for the whole table: all that the
  config says there is left out. What these settings set one by one is added.

What is left out is reported.
"""

import datetime
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from xpnet.errors import ConfigError
from xpnet.registry import load_installed
from xpnet.settings import classes_of, default_name, kinds_of

__all__ = [
    "MAX_PARTS",
    "as_setting",
    "as_settings",
    "layered",
    "overlaid",
    "parse_setting",
    "toml_text",
]

Path = tuple[str, ...]

MAX_PARTS = 32  # of a key; optimizer.lr_factors.0.dense.W has five
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# 1. and .5 outside of strings, to which TOML wants a digit on the other side of the point
BARE = re.compile(r"""("[^"]*"|'[^']*')|(?<![\w.])(?:(\d[\d_]*\.)(?=[eE]|[^\w.]|$)|\.(?=\d))""")


def as_settings(given: Any) -> Mapping[str, Any] | list[str]:
    """Return settings as a mapping or a list of texts; raises ConfigError for anything else."""
    if isinstance(given, Mapping):
        return given
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        msg = "settings must be a mapping or a list of KEY=VALUE texts, such as {'epochs': 3} or "
        msg += f"['epochs=3']; got {given!r}"
        raise ConfigError(msg)
    return [*given]


def as_setting(key: str, value: Any) -> str:
    """Return the ``KEY=VALUE`` text that stands for a plain value; raises ConfigError for others.

    >>> as_setting("model.hidden", [64, 32]), as_setting("optimizer", {"name": "sgd", "lr": 0.1})
    ('model.hidden=[64, 32]', 'optimizer={name = "sgd", lr = 0.1}')
    >>> as_setting("optimizer.name", "sgd"), as_setting("data.label", "4")
    ('optimizer.name=sgd', 'data.label="4"')
    """
    bare = (
        isinstance(value, str)
        and value.strip() == value
        and parse_setting(f"k={value}")[1] == value
    )
    try:
        return f"{key}={value if bare and value else toml_text(value)}"
    except (TypeError, ValueError):
        msg = f"{key} must be a plain value, which a file can hold; got {value!r}"
        raise ConfigError(msg) from None


def toml_text(value: Any) -> str:
    """Return a value as TOML on one line; raises TypeError for what TOML does not have.

    >>> toml_text([1, "a"])
    '[1, "a"]'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(k))} = {toml_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    if value is None:
        raise TypeError
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name, ensure_ascii=False)


def overlaid(
    cls: type,
    table: Mapping[str, Any],
    overrides: Iterable[str] | Mapping[str, Any],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Return the ``table`` of a ``cls`` with ``overrides`` on top; raises ConfigError.

    They are ``KEY=VALUE`` texts or a mapping from keys to values. ``report`` is called with a line
    for each part of ``table`` that is left out.
    """
    layer = _Layer(cls, report)
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            layer.add(_parts(key, f"{key}={value!r}"), value)
    else:
        for text in overrides:
            key, value = parse_setting(text)
            layer.add(_parts(key, text), value)
    return layer.over(cls, table, layer.settings, ())


def layered(cls: type, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table ``below`` of a ``cls`` with the keys of the table ``above`` on top."""
    return _Layer(cls, lambda line: None).over(cls, below, above, ()) if below else dict(above)


class _Layer:
    """The settings as one table, and which keys of it stand for a whole table."""

    def __init__(self, cls: type, report: Callable[[str], None]) -> None:
        self.cls, self.report = cls, report
        self.settings: dict[str, Any] = {}
        self.whole: set[Path] = set()

    def add(self, path: Path, value: Any) -> None:
        """Add a setting: a table key by key, and the name of a class as its table's ``name``."""
        if isinstance(value, str) and self._chooses(path):
            value = {"name": value}
        if isinstance(value, Mapping):
            self.whole.add(path)
            self._table(path)
            for key, item in value.items():
                self.add((*path, *_parts(str(key), f"{'.'.join(path)}={value!r}")), item)
            return
        table = self._table(path[:-1])
        if isinstance(table.get(path[-1]), dict):
            raise _no_table(path)
        table[path[-1]] = value

    def over(self, cls: Any, below: Mapping[str, Any], settings: Any, path: Path) -> dict[str, Any]:
        """Return the table ``below``, which a ``cls`` has at ``path``, with ``settings`` on top."""
        result = dict(below)
        for key, value in settings.items():
            if not isinstance(value, dict):
                result[key] = _fitting(kinds_of(cls).get(key), value)
                continue
            here, lower = (*path, key), below.get(key, {})
            if isinstance(lower, str):  # optimizer = "adam" is short for a table with that name
                lower = {"name": lower}
            if not isinstance(lower, Mapping):
                raise _no_table(here)
            now = _kind(cls, key, {**lower, **value})
            if here in self.whole or now is not _kind(cls, key, lower):
                self._say(here, lower, value)
                lower = {}
            result[key] = self.over(now, lower, value, here)
        return result

    def _chooses(self, path: Path) -> bool:
        cls: Any = self.cls
        for part in path[:-1]:
            cls = kinds_of(cls).get(part)
        return classes_of(cls, path[-1]) is not None

    def _table(self, path: Path) -> dict[str, Any]:
        table = self.settings
        for n, part in enumerate(path, 1):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise _no_table(path[:n])
        return table

    def _say(self, path: Path, below: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        lost = [f"{k} = {v!r}" for k, v in below.items() if k != "name" and k not in settings]
        if lost:
            what = f"{'.'.join(path)} = {settings.get('name', 'a table')!r}"
            self.report(f"{what} leaves out what the config sets there: {', '.join(lost)}")


def _kind(cls: Any, key: str, table: Mapping[str, Any]) -> Any:
    """Return the kind of a setting: of one that chooses a class, the class that ``table`` names."""
    classes = classes_of(cls, key)
    if classes is None:
        return kinds_of(cls).get(key)
    name = table.get("name", default_name(cls, key))
    if isinstance(name, str) and name not in classes:
        load_installed()  # which may bring it
    return classes.get(name) if isinstance(name, str) else None


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the key and the value of ``a.b=value``: a TOML value, or else a string.

    Raises ConfigError for a text without "=".
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise _no_setting(text)
    value = value.strip()
    for form in (value, BARE.sub(_with_digits, value)):
        try:
            found = tomllib.loads(f"value = {form}", parse_float=_number)["value"]
        except (ValueError, RecursionError):
            continue
        return key, value if isinstance(found, datetime.date | datetime.time) else found
    return key, WORDS[value.lower()] if value in ("True", "TRUE", "False", "FALSE") else value


def _with_digits(match: re.Match[str]) -> str:
    return match[1] or (f"{match[2]}0" if match[2] else "0.")


def _number(text: str) -> float | int:
    """Return 1000 for 1e3, which may stand for a count, and a float for any other number."""
    number = float(text)
    whole = "." not in text and abs(number) < 2**53 and number % 1 == 0
    return int(number) if whole else number


def _parts(key: str, text: str) -> Path:
    if not isinstance(key, str) or key.count(".") >= MAX_PARTS:
        raise _no_setting(text)
    parts = tuple(part.strip() for part in key.split("."))
    if not all(parts):
        raise _no_setting(text)
    return parts


def _fitting(kind: Any, value: Any) -> Any:
    """Return yes and true, no and false in the form that a setting of this kind takes."""
    if isinstance(value, str) and value.lower() in WORDS and bool in _alternatives(kind):
        return WORDS[value.lower()]
    if isinstance(value, bool) and {"yes", "no"} <= {*_alternatives(kind)}:
        return "yes" if value else "no"
    return value


def _alternatives(kind: Any) -> Iterator[Any]:
    """Yield the types, and the values, that a setting may have."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        yield from _alternatives(kind.__origin__)
    elif origin is typing.Union or isinstance(kind, types.UnionType):
        for one in typing.get_args(kind):
            yield from _alternatives(one)
    elif origin is Literal:
        yield from typing.get_args(kind)
    else:
        yield kind


def _no_setting(text: str) -> ConfigError:
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    return ConfigError(f"--set takes KEY=VALUE, such as optimizer.lr=0.01; got {shown!r}")


def _no_table(path: Path) -> ConfigError:
    return ConfigError(f"--set: {'.'.join(path)} is not a table")
