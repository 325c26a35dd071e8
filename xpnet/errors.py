"""The errors that xpnet raises on purpose.

Each message is one line: what was wrong, what was received and what to do. The command line prints
it after ``error:`` and exits with code 2; a program catches :class:`XpnetError`.
"""

import importlib
import re
from collections.abc import Iterable
from functools import cache
from os import PathLike
from os.path import splitext
from pathlib import Path
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
    "XpnetWarning",
    "first_line",
    "how_to_import",
    "how_to_install",
    "import_failure",
    "require",
]


class XpnetError(Exception):
    """An expected failure, which the user can act on.

    ``python`` and ``command`` are the remedy, as a Python call and as a command line. ``str`` gives
    the message with the first, :attr:`at_command_line` with the second; if only one is given, it
    serves both. A message that ends in a question is followed by its remedy without a colon.

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
        """The message with the remedy as a command line."""
        return _with(self.message, self.command or self.python)

    def within(self, where: str) -> Self:
        """Return the same error with ``where`` before its message."""
        return type(self)(f"{where}: {self.message}", python=self.python, command=self.command)


def _with(message: str, remedy: str) -> str:
    if not remedy:
        return message
    return f"{message} {remedy}" if message.endswith("?") else f"{message}: {remedy}"


class ConfigError(XpnetError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


class DataError(XpnetError, ValueError):
    """Data that cannot be read, or that does not fit the model or the loss."""


class BackendError(XpnetError, RuntimeError):
    """An array library or a device that is missing or cannot do what was asked."""


class UnsupportedError(BackendError):
    """Something that a fused step has no kernel for; the message names it."""


class CheckpointError(XpnetError, RuntimeError):
    """A checkpoint or run folder that is missing, torn, altered or in use."""


class TrainingError(XpnetError, RuntimeError):
    """Training that cannot continue, for example because the loss is no longer finite."""


class XpnetWarning(UserWarning):
    """Something that was done as asked, and is probably not what was meant."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or raise an error that says how to install its extra.

    >>> require("no_such_module", "images", "reading images")
    Traceback (most recent call last):
    xpnet.errors.BackendError: reading images needs 'no_such_module': pip install 'pillow>=10'
    """
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken library is as good as none, whatever it raises
        absent = isinstance(error, ModuleNotFoundError) and error.name in (None, name, module)
        needed = f"{name!r}: {how_to_install(extra)}" if absent else _broken(name, error)
        msg = f"{purpose} needs {needed}"
        raise BackendError(msg) from None if absent else error


def how_to_install(extra: str) -> str:
    """Return the command that installs what an extra of xpnet stands for.

    It names the packages themselves, so that it works wherever this xpnet came from: on no index is
    there an ``xpnet[onnx]`` yet. In place of an extra it may be one package that xpnet or an extra
    of it needs.

    >>> how_to_install("onnx")
    "pip install 'onnx>=1.17' 'ndonnx>=0.23' 'onnxruntime>=1.20'"
    >>> how_to_install("matplotlib")
    "pip install 'matplotlib>=3.8'"
    """
    needed = _requirements()
    all_lines = [line for lines in needed.values() for line in lines]
    lines = needed.get(extra) or [line for line in all_lines if _package(line) == extra][:1]
    if not lines:
        return f"install what xpnet's pyproject.toml names for {extra!r}"
    return " ".join(["pip install", *(f"'{line}'" for line in lines)])


@cache
def _requirements() -> dict[str, list[str]]:
    """Return what xpnet ("") and each extra need: in a checkout as its file says, else the wheel's.

    The metadata of an editable installation is as old as that.
    """
    project = Path(__file__).parents[1] / "pyproject.toml"
    if project.is_file():
        import tomllib

        table = tomllib.loads(project.read_text("utf-8")).get("project", {})
        if table.get("name") == "xpnet":
            return {"": table["dependencies"], **table["optional-dependencies"]}
    from importlib import metadata

    try:
        return _by_extra(metadata.requires("xpnet") or ())
    except metadata.PackageNotFoundError:  # the folder alone, on the path
        return {}


def _by_extra(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return the requirements in metadata by the extra that asks for them, "" for none.

    >>> _by_extra(["numpy>=2.1", "jax[cpu]>=0.4; extra == 'jax'"])
    {'': ['numpy>=2.1'], 'jax': ['jax[cpu]>=0.4']}
    """
    found: dict[str, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([^'\"]+)", marker)
        found.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    return found


def _package(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def how_to_import(path: "str | PathLike[str]") -> dict[str, str]:
    """Return the remedies for a file that is another library's model, by its name; else none.

    >>> how_to_import("net.onnx")["command"]
    'xpnet import net.onnx net.safetensors reads it'
    >>> how_to_import("net.csv")
    {}
    """
    stem, suffix = splitext(path)
    ways = {".onnx": ("from_onnx(path)", ""), ".pt": ("from_torch(path, layers)", " --like RUN")}
    if (way := ways.get(suffix.lower().replace(".pth", ".pt"))) is None:
        return {}
    command = f"xpnet import {path} {stem}.safetensors{way[1]}"
    return {"python": f"xpnet.{way[0]} reads it", "command": f"{command} reads it"}


def import_failure(module: str) -> str | None:
    """Import an optional library that is installed; return why it cannot be, or None.

    >>> import_failure("json")
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises
        return _broken(module, error)
    return None


def _broken(name: str, error: Exception) -> str:
    kind, reason = type(error).__name__, first_line(error)
    return f"{name}, which cannot be imported ({kind}: {reason}): install it again"


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says.

    >>> first_line(OSError("no driver\\nat line 7"))
    'no driver'
    """
    return str(error).strip().partition("\n")[0]
