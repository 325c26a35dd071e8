"""The settings of a run as a JSON Schema, by which an editor completes and checks a TOML file.

It is made from what reads the file: the annotations of the dataclasses (xpnet/settings.py), the
tables of registered classes, those of plugins among them, and the comments of template.toml. What
depends on several settings at once, such as a loss that does not fit the task, is left to reading,
and so is what a table without a name is of, for a recipe may name it. JSON knows no difference
between 3 and 3.0, of which xpnet takes the first for a whole number.
"""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, cast

from xpnet.backends import backend_names
from xpnet.data import NAMES
from xpnet.registry import load_installed
from xpnet.run.config import Config
from xpnet.run.config_sources import NO_RECIPE, recipe_names, recipe_settings
from xpnet.settings import OneOf, Range, classes_of, default_name, dump, kinds_of

__all__ = ["FILE_NAME", "config_schema"]

FILE_NAME = "xpnet.schema.json"  # beside the config that names it in its first line
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
SECTION = re.compile(r"\[([\w.]+)\]\s*(?:# (.*))?")
SETTING = re.compile(r"(?:# )?(\w+) = (.*)")
ANNOUNCED = re.compile(r"[;,]? ?\bone of( the following.*)?$")  # a list that a schema has elsewhere
MORE = re.compile(r"\s{8,}# (.*)")

# What else may be written is not known here, so these are no choices.
HINTS: Mapping[str, Callable[[], Iterable[str]]] = {
    "backend": lambda: ("auto", *backend_names()),
    "device": lambda: ("auto", "cpu", "cuda", "cuda:0"),
    "data.source": lambda: NAMES,
}

Schema = dict[str, Any]


def config_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a config file, as a plain table.

    >>> config_schema()["properties"]["epochs"]["anyOf"]
    [{'type': 'integer', 'minimum': 1}, {'enum': ['auto']}]
    """
    load_installed()
    maker = _Maker()
    root = maker.table(Config, "")
    names = [*recipe_names(), NO_RECIPE]
    recipe = {"enum": names, "description": documented().get("recipe", "")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A config of xpnet",
        **root,
        "properties": {"recipe": recipe, **root["properties"]},
        "$defs": dict(sorted(maker.definitions.items())),
    }


class _Maker:
    """Schemas of kinds; those of registered classes are ``definitions``, once each."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}

    def table(self, cls: Any, path: str) -> Schema:
        """Return the schema of a table with the settings of ``cls``, at the dotted ``path``."""
        defaults = _defaults(cls)
        properties = {}
        for key, kind in kinds_of(cls).items():
            where = f"{path}.{key}".strip(".")
            found = self.of(kind, where, _without_a_name(cls, key, where))
            if text := documented().get(where):
                found = {**found, "description": text}
            if values := HINTS.get(where):
                found["examples"] = list(values())
            if key in defaults and not isinstance(defaults[key], dict):
                found["default"] = defaults[key]
            properties[key] = found
        required = [
            f.name
            for f in fields(cls)
            if f.init and f.name in properties and f.default is f.default_factory is MISSING
        ]
        more = {"required": required} if required else {}
        return {
            "type": "object",
            "properties": properties,
            **more,
            "additionalProperties": False,
        }

    def of(self, kind: Any, path: str, nameless: frozenset[str] = frozenset()) -> Schema:
        """Return the schema of what :func:`xpnet.settings.convert` takes for ``kind``.

        A table may leave its name out where it is one of ``nameless``.
        """
        origin = typing.get_origin(kind)
        if origin is Annotated:
            chosen = [extra for extra in kind.__metadata__ if isinstance(extra, OneOf)]
            if chosen:
                return self._one_of(chosen[0].table, nameless)
            found = self.of(kind.__origin__, path)
            for extra in kind.__metadata__:
                if isinstance(extra, Range):
                    bounds = {word: getattr(extra, side) for side, word in BOUNDS.items()}
                    found |= {w: b for w, b in bounds.items() if b is not None and math.isfinite(b)}
            return found
        if origin is typing.Union or isinstance(kind, types.UnionType):
            kinds = [k for k in typing.get_args(kind) if k is not type(None)]  # TOML has no null
            alternatives = [self.of(k, path, nameless) for k in kinds]
            return {"anyOf": alternatives} if alternatives[1:] else alternatives[0]
        if origin is Literal:
            return {"enum": [*typing.get_args(kind)]}
        if origin is tuple:
            return {"type": "array", "items": self.of(typing.get_args(kind)[0], path)}
        if origin is Mapping:
            return self._tree(typing.get_args(kind)[1], path)
        if is_dataclass(kind):
            table = self.table(kind, path)
            table["description"] = documented().get(path) or _about(cast(type, kind))
            bare = getattr(kind, "BARE", None)  # a string stands for this setting
            return {"anyOf": [table["properties"][bare], table]} if bare else table
        return {"type": PLAIN[kind]} if kind in PLAIN else {}

    def _one_of(self, classes: Mapping[str, type], nameless: frozenset[str]) -> Schema:
        tables, names = [], []
        for name, cls in classes.items():
            key = f"{_kind_of(cls)}.{name}"
            if key not in self.definitions:
                self.definitions[key] = {}  # one that holds others of its own kind
                own = self.table(cls, _kind_of(cls))
                own["properties"] = {"name": {"const": name}, **own["properties"]}
                self.definitions[key] = {"title": name, "description": _about(cls), **own}
            here = {"$ref": f"#/$defs/{key}"}
            required = self.definitions[key].get("required", [])
            tables.append(here if name in nameless else {**here, "required": ["name"]})
            if not required:
                names.append(name)
        return {"anyOf": [{"enum": names}, *tables]}

    def _tree(self, kind: Any, path: str) -> Schema:
        """A table by names with dots in them, which TOML may take for tables in tables."""
        key = path.rpartition(".")[2]
        here = {"$ref": f"#/$defs/{key}"}
        value = {"anyOf": [self.of(kind, path), here]}
        self.definitions[key] = {"type": "object", "additionalProperties": value}
        return here


@cache
def documented() -> Mapping[str, str]:
    """Return what template.toml says of each setting and section, by dotted name."""
    text = (resources.files("xpnet.run") / "template.toml").read_text("utf-8")
    said: dict[str, str] = {}
    section = last = ""
    for line in text.splitlines():
        if found := SECTION.match(line):
            section = last = found[1]
            said[last] = found[2] or ""
        elif found := SETTING.match(line):
            last = f"{section}.{found[1]}".strip(".")
            said[last] = found[2].partition(" # ")[2]
        elif (found := MORE.match(line)) and last:
            said[last] += f" {found[1]}"
        else:
            last = ""
    return {key: ANNOUNCED.sub("", text) for key, text in said.items()}


def _about(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].split())


def _kind_of(cls: type) -> str:
    """layer, loss, optimizer, ...: the base whose table has the class."""
    return next(b for b in reversed(cls.__mro__) if "table" in vars(b)).__name__.lower()


def _defaults(cls: Any) -> Mapping[str, Any]:
    try:
        return dump(cls())
    except TypeError:  # a setting that has none
        return {}


def _without_a_name(cls: Any, key: str, path: str) -> frozenset[str]:
    """Return the classes that a table at ``path`` is of if it names none.

    That is the default, or what a recipe names, which may be chosen on the command line.
    """
    classes, default = classes_of(cls, key), default_name(cls, key)
    if classes is None or default is None:
        return frozenset()
    names = {default}
    for recipe in recipe_names():
        value: Any = recipe_settings(recipe)
        for part in path.split("."):
            value = value.get(part, {}) if isinstance(value, Mapping) else {}
        name = value.get("name") if isinstance(value, Mapping) else value
        names |= {str(name)} & classes.keys()
    return frozenset(names)
