"""Where the settings of a run come from: recipes, TOML and data files, and what is on top."""

import os
import re
import textwrap
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

from xpnet.data import NAMES
from xpnet.data.files import existing
from xpnet.data.image_folder import is_images
from xpnet.data.read import Task
from xpnet.data.tables import is_table
from xpnet.errors import ConfigError
from xpnet.nn import ACTIVATIONS
from xpnet.nn.initializers import INITIALIZERS
from xpnet.nn.losses import LOSSES
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.optim.schedules import SCHEDULES
from xpnet.registry import load_installed
from xpnet.run.config import IN_MEMORY, Config, fitting_losses, table_of
from xpnet.run.overrides import MAX_PARTS, as_settings, layered, overlaid
from xpnet.settings import build, default_name, did_you_mean
from xpnet.storage.safe_open import MAX_TOML, read_regular

__all__ = [
    "load_config",
    "read_toml",
    "recipe_names",
    "recipe_settings",
    "recipe_text",
    "template_text",
]

NO_RECIPE = "none"  # the default settings
FILES = {"data": ("source", "test", "data_dir"), "start": ("source",)}
FEW_ROWS = 1000  # of a classification, for which a recipe may have settings of their own
# tomllib takes n² steps for a key of n parts, minutes for what fits in a config
PART = r"""(?>[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
DEEP_KEY = re.compile(rf"(?<![\w-])(?>{PART}){{{MAX_PARTS}}}")

TABLES: dict[str, Mapping[str, type]] = {
    "ACTIVATIONS": ACTIVATIONS,
    "INITIALIZERS": INITIALIZERS,
    "LOSSES": LOSSES,
    "OPTIMIZERS": OPTIMIZERS,
    "SCHEDULES": SCHEDULES,
}


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package."""
    files = resources.files("xpnet.run") / "recipes"
    return sorted(f.name.removesuffix(".toml") for f in files.iterdir() if f.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """Return the TOML of a recipe."""
    return (resources.files("xpnet.run") / "recipes" / f"{name}.toml").read_text("utf-8")


def recipe_settings(name: str) -> dict[str, Any]:
    """Return the table that a recipe's TOML is."""
    return tomllib.loads(recipe_text(name))


def _recipe(name: str, task: str | None, rows: int | None) -> dict[str, Any]:
    """Return the settings of a recipe, with those that it has ``for`` a task and rows on top."""
    if name == NO_RECIPE:
        return {}
    if name not in recipe_names():
        msg = f"no recipe {name!r}; {did_you_mean(name, [*recipe_names(), NO_RECIPE])}"
        raise ConfigError(msg)
    table = recipe_settings(name)
    special = table.pop("for", {})
    table = layered(Config, table, special.get(task, {}))
    few = task == "classification" and rows is not None and rows < FEW_ROWS
    return layered(Config, table, special.get("few_rows", {})) if few else table


def template_text(schema: str = "") -> str:
    """Return the commented config to start from, with the names that are registered.

    A path in ``schema`` is named in the first line, as editors take it for TOML's JSON Schema.

    A line ``# {LOSSES}`` of template.toml stands for the names in that table.
    """
    load_installed()
    text = (resources.files("xpnet.run") / "template.toml").read_text("utf-8")
    for name, table in TABLES.items():
        lines = textwrap.wrap(", ".join(table), 98, initial_indent="# ", subsequent_indent="# ")
        text = text.replace(f"# {{{name}}}", "\n".join(lines))
    return f"#:schema {schema}\n{text}" if schema else text


def load_config(
    source: str | Path | Config = "digits",
    overrides: Iterable[str] | Mapping[str, Any] = (),
    report: Callable[[str], None] = lambda line: None,
    *,
    recipe: str | None = None,
    task: Task | None = None,
    rows: int | None = None,
) -> Config:
    """Read a recipe by name or a TOML file by path, with settings on top.

    The path of a data file stands for the settings of a ``recipe`` on that data, by default of
    "table" for a table and of "none", the defaults, for others; a Config stands for itself. A TOML
    file, which may name its recipe, is on top of that. ``overrides`` are ``KEY=VALUE`` texts, as on
    a command line, or a mapping from keys to values, in any order: xpnet/run/overrides.py.
    ``report`` is called with a line for each part of the source that they replace. A relative data
    file in a TOML file is taken from that file's folder.

    Where neither the settings nor a loss among them say what the ``task`` is, it is the one given,
    and decides the loss; without one, ``data.task`` of the result is "auto". ``rows`` are those to
    train and to validate on, where they are known. Raises ConfigError.

    >>> load_config("digits", ["optimizer.lr=0.01", "epochs=3"]).optimizer.lr
    0.01
    >>> load_config("digits", {"model.hidden": [32], "epochs": 3}).model.hidden
    (32,)
    """
    overrides = as_settings(overrides)

    def settled(task: Task | None, report: Callable[[str], None]) -> dict[str, Any]:
        if isinstance(source, Config):
            own = table_of(source)
        else:
            own = _read(str(source), lambda name: _recipe(name, task, rows), recipe)
        return overlaid(Config, own, overrides, report)

    task = _task(settled(None, lambda line: None)) or task
    settings = settled(task, report)
    if task is not None:
        settings["data"] = {**settings.get("data", {}), "task": task}
        settings["loss"] = settings.get("loss") or {"name": fitting_losses(task)[0]}
    _anchor_files(settings, Path())  # of the overrides
    try:
        return build(Config, settings)
    except ConfigError as error:
        if isinstance(source, Config) or not str(source).endswith(".toml"):
            raise
        raise error.within(str(source)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises OSError, RecursionError, or ValueError if it is empty or no TOML."""
    text = read_regular(path, MAX_TOML).decode("utf-8")
    if DEEP_KEY.search(text):
        msg = f"a key has more than {MAX_PARTS} parts"
        raise ValueError(msg)
    if not text.strip("\0 \n"):  # a lost file, not one of nothing but defaults
        msg = "it is empty"
        raise ValueError(msg)
    return tomllib.loads(text)


def _task(settings: Mapping[str, Any]) -> Task | None:
    """Return the task that settings name, or that their loss is for; None if that is open."""
    data, loss = settings.get("data"), settings.get("loss")
    task = data.get("task", "auto") if isinstance(data, Mapping) else "auto"
    if task != "auto":
        return cast(Task, task) if task in typing.get_args(Task) else None
    name = loss.get("name") if isinstance(loss, Mapping) else loss
    if loss and name is None:
        name = default_name(Config, "loss")
    fits = [task for task in typing.get_args(Task) if name in fitting_losses(task)]
    return fits[0] if len(fits) == 1 else None


def _read(
    source: str, settings_of: Callable[[str], dict[str, Any]], recipe: str | None
) -> dict[str, Any]:
    """Return the settings of a source: those of its recipe, and on top of them its own."""
    path, own = Path(source), dict[str, Any]()
    if source in recipe_names():
        if recipe is None:
            recipe = source
        else:
            own = {"data": {"source": source}}
    elif path.suffix == ".toml":
        own = _toml(path)
        named = own.pop("recipe", None)
        recipe = recipe or named
    elif source == IN_MEMORY:
        own, recipe = {"data": {"source": source}}, recipe or "table"
    else:
        own = {"data": {"source": str(_data_file(path))}}
        recipe = recipe or ("table" if is_table(path) else None)
    table = layered(Config, settings_of(recipe or NO_RECIPE), own)
    if recipe == source and "source" not in table.get("data", {}):
        msg = f"recipe {recipe!r} is for data of your own: xpnet train FILE --recipe {recipe}"
        raise ConfigError(msg)
    return table


def _toml(path: Path) -> dict[str, Any]:
    try:
        table = read_toml(path)
    except OSError as error:
        msg = f"cannot read config {str(path)!r}: {error.strerror}"
        raise ConfigError(msg) from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or 5000 digits
        msg = f"{path} is not valid TOML: {error}"
        raise ConfigError(msg) from None
    _anchor_files(table, path.parent)
    return table


def _data_file(path: Path) -> Path:
    if (path / "config.toml").is_file():
        msg = f"{str(path)!r} is a run folder; to resume it: xpnet train --out {path} --resume"
        raise ConfigError(msg)
    if is_images(path):
        return path
    if path.suffix or path.exists():
        return existing(path)
    msg = f"no recipe or file {str(path)!r}; {did_you_mean(str(path), recipe_names())}"
    raise ConfigError(msg)


def _anchor_files(settings: Mapping[str, Any], folder: Path) -> None:
    """Make the files that a config names independent of the current folder."""
    for section, keys in FILES.items():
        table = settings.get(section)
        for key in keys:
            value = table.get(key) if isinstance(table, dict) else None
            if not isinstance(table, dict) or not isinstance(value, str):
                continue
            if key == "source" and section == "data" and value in (*NAMES, IN_MEMORY):
                continue
            try:
                path = Path(value).expanduser()
            except RuntimeError:  # ~name, where nobody has that name
                msg = f"{section}.{key} = {value!r} names the home folder of a user who does not "
                raise ConfigError(msg + "exist") from None
            table[key] = os.path.abspath(folder / path)
