"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["device_options", "given", "opened", "set_option", "which_option"]

F = TypeVar("F", bound=Callable)


def device_options(command: F) -> F:
    """Add ``--device`` and ``--backend``."""
    command = click.option(
        "--backend", metavar="B", help="numpy, cupy, torch, jax, array-api-strict or auto."
    )(command)
    return click.option(
        "--device", metavar="D", help="auto, cpu, cuda or cuda:N; cuda means CuPy by default."
    )(command)


def set_option(command: F) -> F:
    """Add the repeatable ``--set KEY=VALUE``."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting, such as optimizer.lr=0.01 (repeatable).",
    )(command)


def which_option(command: F) -> F:
    """Add ``--which``, the choice of a checkpoint."""
    return click.option(
        "--which",
        type=click.Choice(["auto", "best", "last"]),
        default="auto",
        show_default=True,
        help="The checkpoint; auto is the best where there was a validation.",
    )(command)


def opened(run: str, backend: str | None, device: str | None, which: str = "auto") -> Any:
    """Read a run folder, and say on standard error which of its files are torn."""
    from xpnet.cli.escape import escape
    from xpnet.run import load

    loaded = load(run, backend=backend, device=device, which=which)
    for message in loaded.folder.skipped:
        click.echo(f"skipped: {escape(message)}", err=True)
    return loaded


def given(parameter: str) -> bool:
    """Say whether the user wrote this parameter, rather than its default standing in."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source not in (None, click.core.ParameterSource.DEFAULT)
