"""Frozen dataclasses that check their own fields, and their conversion to and from plain tables.

A setting is declared once, as a field of the class that uses it::

    @dataclass(frozen=True)
    class SGD(Checked):
        lr: PositiveFloat = 0.01
        momentum: Fraction = 0.0

``SGD(lr=-1)`` and ``lr = -1`` in a TOML file then raise the same one-line error. A field that holds
one of several classes names their table: ``Annotated[Optimizer, OneOf(OPTIMIZERS)]`` is written
``optimizer = "adam"``, or ``[optimizer]`` with ``name = "adam"`` and the fields of that class.
"""

import difflib
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, cast

from xpnet.errors import ConfigError
from xpnet.registry import load_installed

__all__ = [
    "Checked",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OneOf",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "build",
    "build_named",
    "classes_of",
    "convert",
    "default_name",
    "did_you_mean",
    "dump",
    "flattened",
    "kinds_of",
    "section_with",
]

T = TypeVar("T")

NAMES = {float: "a number", int: "a whole number", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class Range:
    """Bounds of a number; ``None`` leaves a side open."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether ``value`` is in range; NaN and the infinities never are."""
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
            and math.isfinite(value)
        )

    def __str__(self) -> str:
        bounds = {">": self.gt, ">=": self.ge, "<": self.lt, "<=": self.le}
        return " and ".join(f"{sign} {b:g}" for sign, b in bounds.items() if b is not None)


@dataclass(frozen=True, eq=False)  # by identity: typing hashes it, and a table has no hash
class OneOf:
    """The classes that a field may hold, by the names that users write."""

    table: Mapping[str, type]


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, lt=1)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion for an unknown word: the closest known word, or all of them.

    >>> did_you_mean("momemtum", ["lr", "momentum"])
    "did you mean 'momentum'?"
    """
    known = list(known)
    same = [name for name in known if name.casefold() == word.casefold()]
    closest = same or difflib.get_close_matches(word, known, n=1)
    return f"did you mean {closest[0]!r}?" if closest else "known: " + ", ".join(known)


class Checked:
    """Base of a frozen dataclass whose fields are checked (and ints widened) on construction.

    Its repr is the call that makes it, without the fields that have their default values:

    >>> @dataclass(frozen=True)
    ... class SGD(Checked):
    ...     lr: PositiveFloat
    ...     momentum: Fraction = 0.0
    >>> SGD(1), SGD(0.1, momentum=0.9)
    (SGD(1.0), SGD(0.1, momentum=0.9))
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign] # its own: @dataclass leaves it

    def __repr__(self) -> str:
        arguments = []
        for f in (f for f in fields(cast(Any, self)) if f.init and f.repr):
            text, required = repr(getattr(self, f.name)), f.default is f.default_factory is MISSING
            if required and not f.kw_only:
                arguments.append(text)
            elif required or text != repr(_default(f)):
                arguments.append(f"{f.name}={text}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __post_init__(self) -> None:
        for name, kind in _types(cast(Any, type(self))).items():
            value = convert(kind, getattr(self, name), f"{type(self).__name__}.{name}")
            object.__setattr__(self, name, value)


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


@cache
def _types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def kinds_of(cls: Any) -> Mapping[str, Any]:
    """Return the annotation of each setting of a class; {} for what has no settings."""
    return _types(cls) if isinstance(cls, type) and is_dataclass(cls) else {}


def classes_of(cls: Any, key: str) -> Mapping[str, type] | None:
    """Return the classes by name that the setting ``key`` of ``cls`` chooses from, if it does."""
    one_of = _metadata(kinds_of(cls).get(key), OneOf)
    return None if one_of is None else one_of.table


def default_name(cls: Any, key: str) -> str | None:
    """Return the name of the class that such a setting has by default, if it has one."""
    default = type(getattr(cls, key, None))
    return next((n for n, known in (classes_of(cls, key) or {}).items() if known is default), None)


def build(cls: type[T], table: Mapping[str, Any], path: str = "", name: str = "") -> T:
    """Build a ``cls`` from a plain table such as a TOML section.

    ``path`` names the table in errors, and ``name`` the class, if it is one of several.
    """
    kinds = _types(cast(Any, cls))
    renamed: Mapping[str, str] = getattr(cls, "RENAMED", {})  # old name -> what to write now
    for key in table:
        if key in renamed:
            msg = f"setting {_join(path, key)!r} is now {renamed[key]}"
            raise ConfigError(msg)
        if key not in kinds:
            raise ConfigError(_unknown(cls, path, key, name))
    values = {
        key: convert(kinds[key], _with_default_name(cls, key, value), _join(path, key))
        for key, value in table.items()
    }
    for f in fields(cls):  # type: ignore[arg-type]
        if f.init and f.name not in values and f.default is f.default_factory is MISSING:
            msg = f"missing setting {_join(path, f.name)!r}"
            raise ConfigError(msg)
    try:
        return cls(**values)
    except ConfigError as error:  # a check across fields, which does not know its section
        raise (error.within(path) if path else error) from None


def section_with(cls: Any, key: str) -> str | None:
    """Return the name of the first table among the settings of ``cls`` that has ``key``."""
    return next((s for s, kind in kinds_of(cls).items() if key in kinds_of(kind)), None)


def _unknown(cls: Any, section: str, key: str, name: str) -> str:
    """Say which settings there are: the closest, and all of a class that was chosen by name."""
    path, known = _join(section, key), list(_types(cls))
    if not name:
        deeper = section_with(cls, key)
        meant = f"did you mean {_join(section, f'{deeper}.{key}')!r}?"
        return f"unknown setting {path!r}; {meant if deeper else did_you_mean(key, known)}"
    closest = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {closest[0]!r}?" if closest else ""
    takes = ", ".join(known) or "no settings"
    return f"unknown setting {path!r}: {name!r} takes {takes}{hint}"


def _with_default_name(cls: type, key: str, value: Any) -> Any:
    """Give a table without a name, as ``[optimizer]`` with ``lr = 0.1``, that of the default."""
    if not isinstance(value, Mapping) or "name" in value:
        return value
    name = default_name(cls, key)
    return value if name is None else {"name": name, **value}


def build_named(table: Mapping[str, type], value: Any, path: str) -> Any:
    """Build one of the classes of ``table`` from its name, or from a table with a ``name``."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        msg = f"{path} must be a name or a table with a name; got {value!r}"
        raise ConfigError(msg)
    name = value["name"]
    if name not in table:
        load_installed()  # which may bring it
    if name not in table:
        msg = f"unknown {path} {name!r}; {did_you_mean(name, table)}"
        raise ConfigError(msg)
    return build(table[name], {k: v for k, v in value.items() if k != "name"}, path, name)


def dump(instance: Any) -> dict[str, Any]:
    """Return the plain table that :func:`build` turns into an equal instance; None is omitted."""
    table = {}
    for name, kind in _types(cast(Any, type(instance))).items():
        value = _plain(kind, getattr(instance, name))
        if value is not None:
            table[name] = value
    return table


def _plain(kind: Any, value: Any) -> Any:
    one_of = _metadata(kind, OneOf)
    if value is None:
        return None
    if isinstance(value, tuple):
        inner = _item(kind)
        return [_plain(inner, item) for item in value]
    if one_of is not None:
        names = {cls: name for name, cls in reversed(list(one_of.table.items()))}
        if type(value) not in names:
            name = type(value).__name__
            msg = f"{name} has no name, so it cannot be written to a file"
            raise ConfigError(msg, python=f"register its class: @xpnet.register('{name.lower()}')")
        return {"name": names[type(value)], **dump(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return dump(value) if is_dataclass(value) else value


def flattened(table: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return a table of tables as one table with dotted keys.

    >>> flattened({"a": {"b": 1, "c.d": 2}, "e": 3})
    {'a.b': 1, 'a.c.d': 2, 'e': 3}
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat.update(flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _metadata(kind: Any, what: type[T]) -> T | None:
    """Return the annotation of class ``what`` on ``kind``, also inside ``X | None``, or None."""
    if typing.get_origin(kind) is Annotated:
        for extra in kind.__metadata__:
            if isinstance(extra, what):
                return extra
        return _metadata(kind.__origin__, what)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        found = (_metadata(k, what) for k in typing.get_args(kind))
        return next((f for f in found if f is not None), None)
    return None


def _item(kind: Any) -> Any:
    """The element type of ``tuple[X, ...]``, also inside ``Annotated`` and ``| None``."""
    if typing.get_origin(kind) is tuple:
        return typing.get_args(kind)[0]
    if typing.get_origin(kind) is Annotated:
        return _item(kind.__origin__)
    return next((i for k in typing.get_args(kind) if (i := _item(k)) is not None), None)


def convert(kind: Any, value: Any, path: str) -> Any:
    """Check ``value`` against the annotation ``kind`` and return it in that type.

    Raises ConfigError that names ``path``.
    """
    origin = typing.get_origin(kind)
    if origin is Annotated:
        for extra in kind.__metadata__:
            if isinstance(extra, OneOf):  # from the table, or an instance of the user's own
                if isinstance(value, kind.__origin__):
                    return value
                if isinstance(value, type) and issubclass(value, kind.__origin__):
                    msg = f"{path} must be an object, and {value.__name__} is a class"
                    raise ConfigError(msg, python=f"write {value.__name__}(...)")
                return build_named(extra.table, value, path)
        value = convert(kind.__origin__, value, path)
        for extra in kind.__metadata__:
            if isinstance(extra, Range) and not extra.holds(value):
                msg = f"{path} must be {extra}; got {value!r}"
                raise ConfigError(msg)
        return value
    if origin is typing.Union or isinstance(kind, types.UnionType):
        return _convert_union(typing.get_args(kind), value, path)
    if origin is Literal:
        options = typing.get_args(kind)
        if value in options and type(value) in {type(o) for o in options}:
            return value
        hint = f"; {did_you_mean(value, map(str, options))}" if isinstance(value, str) else ""
        choice = f"one of {', '.join(map(repr, options))}" if options[1:] else repr(options[0])
        msg = f"{path} must be {choice}; got {value!r}{hint}"
        raise ConfigError(msg)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, typing.Sequence):
            msg = f"{path} must be a list; got {value!r}"
            raise ConfigError(msg)
        inner = typing.get_args(kind)[0]
        return tuple(convert(inner, item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:  # of names with dots in them, which TOML takes for tables in tables
        if not isinstance(value, Mapping):
            msg = f"{path} must be a table; got {value!r}"
            raise ConfigError(msg)
        inner = typing.get_args(kind)[1]
        return {k: convert(inner, v, f"{path}.{k}") for k, v in flattened(value).items()}
    if is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        if isinstance(value, str) and hasattr(kind, "BARE"):  # a name stands for this field
            value = {kind.BARE: value}
        if isinstance(value, Mapping):
            return build(kind, value, path)  # type: ignore[arg-type]
        raise _no_table(kind, value, path)
    elif kind is str and isinstance(value, str) and not _has_utf8(value):
        msg = f"{path} must be text that UTF-8 can encode (rename the file); got {value!r}"
        raise ConfigError(msg)
    elif kind in (int, float) and isinstance(value, numbers.Integral) and _is_huge(value):
        msg = f"{path} must be {NAMES[kind]} of at most 64 bits"  # as in TOML
        raise ConfigError(msg)
    elif kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    elif kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    elif kind is Any or (
        isinstance(kind, type) and kind not in (int, float) and isinstance(value, kind)
    ):
        return value
    expected = NAMES.get(kind) or str(kind)
    msg = f"{path} must be {expected}; got {value!r}{_as_number(kind, value)}"
    raise ConfigError(msg)


def _no_table(kind: Any, value: Any, path: str) -> ConfigError:
    """Return the error for what should be a table, or an object of the class ``kind``."""
    keys = [*_types(kind)]
    some = [f"{key}=..." for key in keys[:3]] + ["..."] * (len(keys) > 3)
    section = f"make a section [{path}] of it"
    call = f"write {kind.__name__}({', '.join(some)})"
    return ConfigError(f"{path} must be a table; got {value!r}", python=call, command=section)


def _as_number(kind: Any, value: Any) -> str:
    """Return a suggestion for a text that spells a number as TOML does not: .01, 1., "3"."""
    if kind not in (int, float) or not isinstance(value, str):
        return ""
    try:
        return f"; write {kind(value)!r}"
    except ValueError:
        return ""


def _is_huge(value: numbers.Integral) -> bool:
    return not -(2**63) <= int(value) < 2**63


def _has_utf8(text: str) -> bool:
    """Return whether ``text`` has no lone surrogates, which stand for bytes that are not UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _convert_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors: list[ConfigError] = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return convert(kind, value, path)
            except ConfigError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    start, end, texts = f"{path} must be ", f"; got {value!r}", [*map(str, errors)]
    if all(text.startswith(start) and end in text for text in texts):
        parts = [text.removeprefix(start).partition(end) for text in texts]
        expected = " or ".join(dict.fromkeys(part[0] for part in parts))
        hints = dict.fromkeys(p[2] for p in parts if p[2] and not p[2].startswith("; known: "))
        texts = [f"{start}{expected}{end}{''.join(hints)}"]
    raise ConfigError(" or ".join(dict.fromkeys(texts)))
