"""The errors that xpnet raises on purpose.

Each message is one line and says what was wrong, what was received and what to do. The command
line prints it after ``error:`` and exits with code 2; a library user catches :class:`XpnetError`.
"""

import importlib
from types import ModuleType
from typing import Self

__all__ = [
    "BackendError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "TrainingError",
    "UnsupportedError",
    "XpnetError",
    "require",
]


class XpnetError(Exception):
    """A foreseen failure that the person at the prompt can act on.

    ``python`` and ``command`` are what to do about it, in the words of the interface: a Python call
    and a command line. ``str`` gives the message with the first, :attr:`at_command_line` with the
    second; where there is only one of them, it serves both.

    >>> error = DataError("no header", python="header=False", command="--set data.header=no")
    >>> str(error)
    'no header: header=False'
    >>> error.within("a.csv").at_command_line
    'a.csv: no header: --set data.header=no'
    """

    def __init__(self, message: str, *, python: str = "", command: str = "") -> None:
        self.message, self.python, self.command = message, python, command
        super().__init__(_with(message, python or command))

    @property
    def at_command_line(self) -> str:
        """The message with the remedy that a command line takes."""
        return _with(self.message, self.command or self.python)

    def within(self, place: str) -> Self:
        """Return the same error with ``place`` before its message."""
        return type(self)(f"{place}: {self.message}", python=self.python, command=self.command)


def _with(message: str, remedy: str) -> str:
    return f"{message}: {remedy}" if remedy else message


class ConfigError(XpnetError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(XpnetError, ValueError):
    """Data that cannot be read, or that does not fit the model or the loss."""


class BackendError(XpnetError, RuntimeError):
    """An array library or a device that is missing or cannot do what was asked."""


class UnsupportedError(BackendError):
    """Something in a training that a fused step has no kernel for; the message says what."""


class CheckpointError(XpnetError, RuntimeError):
    """A checkpoint or run folder that is absent, torn, altered or in use."""


class TrainingError(XpnetError, RuntimeError):
    """Training that cannot go on, such as a loss that is no longer finite."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    >>> require("no_such_module", "parquet", "reading Parquet")
    Traceback (most recent call last):
    xpnet.errors.BackendError: reading Parquet needs 'no_such_module': pip install 'xpnet[parquet]'
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        msg = f"{purpose} needs {name!r}: pip install 'xpnet[{extra}]'"
        raise BackendError(msg) from None
