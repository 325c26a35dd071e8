"""Options that several commands share."""

from collections.abc import Callable
from typing import TypeVar

import click

__all__ = ["device_options", "given", "set_option"]

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


def given(parameter: str) -> bool:
    """Say whether the user wrote this parameter, rather than its default standing in."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source not in (None, click.core.ParameterSource.DEFAULT)
