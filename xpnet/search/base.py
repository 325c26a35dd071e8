"""What all trials of a sweep share, as it is given or as the folder of a sweep has it."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xpnet.errors import ConfigError
from xpnet.run.config import IN_MEMORY
from xpnet.run.config_sources import recipe_names
from xpnet.run.origin import given_keys
from xpnet.run.overrides import as_setting, as_settings
from xpnet.run.trained_run import Run
from xpnet.search.folder import SweepFolder
from xpnet.search.metric import Metric
from xpnet.search.plan import Plan, read_plan
from xpnet.search.trials import Base
from xpnet.settings import flattened

__all__ = ["base_of", "resumed"]


def base_of(
    source: Any,
    recipe: str | None,
    settings: Iterable[str] | Mapping[str, Any],
    start_from: str | Path | Run | None,
) -> Base:
    """What trials share, in a form that a file can hold."""
    settings = as_settings(settings)
    if isinstance(settings, Mapping):
        settings = [as_setting(key, value) for key, value in settings.items()]
    if isinstance(start_from, Run):
        start_from = start_from.folder.path
    source = "digits" if source is None else source
    if isinstance(source, str | Path):
        named = str(source) in recipe_names()
        source = str(source) if named or not Path(source).exists() else str(Path(source).resolve())
    start = None if start_from is None else str(Path(start_from).resolve())
    return Base(source, recipe, tuple(settings), start, Metric("loss"), _plugins())


def resumed(
    folder: SweepFolder,
    source: Any,
    space: Any,
    options: Mapping[str, Any],
    recipe: str | None,
    settings: Iterable[str] | Mapping[str, Any],
    start_from: str | Path | Run | None,
) -> tuple[Plan, Base]:
    """The plan and the base of the sweep in ``folder``, and what may change of them."""
    stored = folder.read_json(folder.base_path)
    plan = read_plan(folder.plan_path, options)
    if space is not None and space != "auto":
        new = read_plan(space, options)
        if new.space is not None and _plain(new.space) != _plain(plan.space):
            msg = f"{new.name} has another space than the sweep in {str(folder.path)!r}"
            raise ConfigError(msg, python="choose another out", command="choose another --out")
        may = {key: getattr(new.sweeping, key) for key in ("trials", "time", "parallel")}
        given = {k: v for k, v in may.items() if v != getattr(type(new.sweeping)(), k)}
        plan = plan._replace(sweeping=replace(plan.sweeping, **given))
    before = read_plan(folder.plan_path, {}).sweeping
    for key in ("sampler", "monitor", "seed", "storage"):
        ours, theirs = getattr(plan.sweeping, key), getattr(before, key)
        if ours != theirs:
            msg = f"cannot resume with sweep.{key} = {ours!r}: {str(folder.path)!r} has {theirs!r}"
            raise ConfigError(msg, python="choose another out", command="choose another --out")
    if source is None and stored["source"] == IN_MEMORY:
        msg = f"{str(folder.path)!r} searches on a table in memory"
        again = f"sweep(table, out={str(folder.path)!r}, resume=True)"
        raise ConfigError(msg, python=f"give it again: {again}", command=f"in Python: {again}")
    base = base_of(
        stored["source"] if source is None else source,
        recipe or stored["recipe"],
        settings,
        start_from or stored["start_from"],
    )
    keys = {*given_keys(base.settings)}
    kept = [text for text in stored["settings"] if text.partition("=")[0] not in keys]
    return plan, replace(base, settings=(*kept, *base.settings))


def _plain(space: Mapping[str, Any] | None) -> Any:
    return json.dumps(flattened(space or {}), sort_keys=True, default=list)


def _plugins() -> tuple[str, ...]:
    """The files whose formulas a process of its own has to register, too."""
    loaded = [m for name, m in [*sys.modules.items()] if name.startswith("xpnet_plugin_")]
    return tuple(path for m in loaded if (path := getattr(m, "__file__", None)))
