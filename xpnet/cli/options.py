"""Options shared by several commands."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from xpnet.cli.output import say

__all__ = [
    "column_options",
    "column_settings",
    "device_options",
    "given",
    "json_option",
    "open_run",
    "say_notes",
    "say_test",
    "set_option",
    "warn",
    "which_option",
]

F = TypeVar("F", bound=Callable)


def device_options(command: F) -> F:
    """Add ``--device`` and ``--backend``."""
    command = click.option(
        "--backend", metavar="B", help="numpy, cupy, torch, jax, array-api-strict or auto."
    )(command)
    return click.option(
        "--device", metavar="D", help="auto, cpu, cuda or cuda:N; cuda means CuPy by default."
    )(command)


def column_options(command: F) -> F:
    """Add the options that say what the columns of a table are."""
    options = (
        ("--label", "Column of the labels, by name or position (repeat for several)."),
        ("--ignore", "Column to leave out (repeatable)."),
        ("--numeric", "Column of numbers (repeatable)."),
        ("--category", "Column of categories, though they may be numbers (repeatable)."),
    )
    command = click.option(
        "--task",
        type=click.Choice(["classification", "regression", "multilabel"]),
        help="What to predict; by default as the labels say.",
    )(command)
    command = click.option("--weight", metavar="COLUMN", help="Column of the rows' weights.")(
        command
    )
    for name, text in reversed(options):
        command = click.option(name, multiple=True, metavar="COLUMN", help=text)(command)
    return command


def column_settings(
    label: tuple[str, ...],
    ignore: tuple[str, ...],
    numeric: tuple[str, ...],
    category: tuple[str, ...],
    weight: str | None,
    task: str | None,
) -> list[str]:
    """Return what :func:`column_options` took as settings; a column is a text: 4 may be a name."""
    import json

    settings = {
        "data.label": label[0] if len(label) == 1 else list(label),
        "data.columns.ignore": list(ignore),
        "data.columns.numeric": list(numeric),
        "data.columns.category": list(category),
        "data.columns.weight": weight,
        "data.task": task,
    }
    return [f"{key}={json.dumps(v, ensure_ascii=False)}" for key, v in settings.items() if v]


def json_option(command: F) -> F:
    """Add ``--json``: the document of :func:`~xpnet.cli.output.print_json`, and nothing else."""
    text = "Print one JSON document, and nothing else, on standard output."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def set_option(command: F) -> F:
    """Add the repeatable ``--set KEY=VALUE``."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting, e.g. optimizer.lr=0.01 (repeatable).",
    )(command)


def which_option(command: F) -> F:
    """Add ``--which``, which chooses the checkpoint."""
    return click.option(
        "--which",
        type=click.Choice(["auto", "best", "last"]),
        default="auto",
        show_default=True,
        help="Checkpoint to use; auto is the best if the run had validation data, else the last.",
    )(command)


def open_run(run: str, backend: str | None, device: str | None, which: str = "auto") -> Any:
    """Load a run and report its damaged files, which are skipped, on standard error.

    A trainer that was saved is a run of plain numbers.
    """
    from xpnet.run import load
    from xpnet.training.trainer import Trainer

    loaded = load(run, backend=backend, device=device, which=which)
    if isinstance(loaded, Trainer):
        from xpnet.run.plain_run import plain_run

        loaded = plain_run(run, loaded)
    for message in loaded.folder.skipped:
        warn(f"skipped: {message}")
    return loaded


def say_test(test: Mapping[str, Any], report: Callable[[str], None], *, last: bool = True) -> None:
    """Print the scores on the test part, if there is one, and with ``last`` the most telling."""
    if test:
        name = next(key for key in ("accuracy", "r2", "mse") if key in test)
        report(f"test loss {test['loss']:.4f}")
        if last:
            say(f"test {name} {test[name]:.4f}")


def say_notes(file: str, rows: Any) -> None:
    """Report on standard error what was decided about the columns of a file."""
    for note in rows.columns.notes if rows.columns else ():
        warn(f"{file}: {note}")


def warn(line: str) -> None:
    """Print a line on standard error."""
    say(line, err=True)


def given(parameter: str) -> bool:
    """Return whether the user gave this parameter, rather than its default standing in."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source not in (None, click.core.ParameterSource.DEFAULT)
