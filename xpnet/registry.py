"""One decorator that gives a class its name in configs and on the command line.

    @register("cube")
    class Cube(Activation):
        ...

``activation = "cube"`` then means this class, everywhere: each base class has the table of its
kind (``ACTIVATIONS``, ``LAYERS``, ``LOSSES``, ``OPTIMIZERS``, ``SCHEDULES``, ``INITIALIZERS``), and
whatever takes or lists names reads it there.

Classes of other packages are found by an entry point in the group ``xpnet.plugins``, which names
the module that registers them; those of a file by ``xpnet --plugin FILE``. A config cannot name
code: what it loads is data.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from xpnet.errors import ConfigError

__all__ = ["load_installed", "load_plugin", "name_of", "register"]

T = TypeVar("T", bound=type)


@dataclass_transform(frozen_default=True)
def register(name: str) -> Callable[[T], T]:
    """Make the class a frozen dataclass, and enter it as ``name`` into the tables of its bases.

    Its fields are its settings, checked as their annotations say. Raises ConfigError for a name
    that is taken or that no config could have, and for a class of no known kind.

    >>> from xpnet.nn import Activation
    >>> @register("relu")
    ... class Rectifier(Activation):
    ...     pass
    Traceback (most recent call last):
    xpnet.errors.ConfigError: the name 'relu' of Rectifier is xpnet.nn.activation.ReLU's: choose ...
    """

    def enter(cls: T) -> T:
        tables = [vars(base)["table"] for base in cls.__mro__ if "table" in vars(base)]
        if not tables:
            msg = f"{cls.__name__} cannot be registered: make it a subclass of Activation, Layer, "
            msg += "Loss, Optimizer, Schedule or Initializer"
            raise ConfigError(msg)
        if not (isinstance(name, str) and name.isascii() and name.isidentifier()):
            msg = f"the name of {cls.__name__} must be of letters, digits and _; got {name!r}"
            raise ConfigError(msg)
        for table in tables:
            if name in table and not _again(cls, table[name]):
                msg = f"the name {name!r} of {cls.__name__} is {_path(table[name])}'s: "
                msg += "choose another"
                raise ConfigError(msg)
        made: Any = dataclass(frozen=True)(cls)
        made.registered = name
        for table in tables:
            table[name] = made
        return made

    return enter


def _again(cls: type, known: type) -> bool:
    """Whether a cell of a notebook defines its class once more."""
    return cls.__module__ == "__main__" and _path(cls) == _path(known)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def name_of(thing: Any) -> str:
    """Return the name that the class of ``thing`` is registered by, or else the class's own.

    >>> from xpnet.nn import Dense
    >>> name_of(Dense(3))
    'dense'
    """
    return vars(type(thing)).get("registered", type(thing).__name__)


@functools.cache
def load_installed() -> None:
    """Import the plugins of other packages, once; raises ConfigError for one that cannot be."""
    for point in metadata.entry_points(group="xpnet.plugins"):
        try:
            point.load()
        except Exception as error:  # a plugin may raise anything; its name helps
            msg = f"plugin {point.name!r} ({point.value}) cannot be loaded: {error}"
            raise ConfigError(msg) from error


def load_plugin(path: str | Path) -> None:
    """Run the Python file ``path``, which registers classes; a second time does nothing.

    Raises ConfigError if there is no such file or it raises an error.
    """
    file = Path(path).expanduser().resolve()
    if any(getattr(m, "__file__", None) == str(file) for m in [*sys.modules.values()]):
        return
    name = f"xpnet_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        msg = f"plugin {str(path)!r} is not a Python file: give a path such as formulas.py"
        raise ConfigError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up the annotations of its classes
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a file of the user's own may raise anything
        del sys.modules[name]
        msg = f"plugin {str(path)!r} cannot be loaded: {type(error).__name__}: {error}"
        raise ConfigError(msg) from error
