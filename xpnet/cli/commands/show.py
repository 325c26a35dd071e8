"""``xpnet show``."""

from typing import TYPE_CHECKING, Any

import click

from xpnet.cli.options import column_options, column_settings, json_option, open_run, set_option

if TYPE_CHECKING:
    from xpnet.run.overview import Overview


@click.command()
@click.argument("source", metavar="RUN | FOLDER | FILE")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of last epochs to show.",
)
@click.option("--plot", is_flag=True, help="Draw the curves of loss and metrics in the terminal.")
@click.option(
    "--plan", is_flag=True, help="Show what a fused training step does, operation by operation."
)
@click.option(
    "--ranks",
    type=click.IntRange(min=1),
    help="Of the plan: how many processes share each batch.",
)
@json_option
@column_options
@set_option
def show(
    source: str,
    epochs: int,
    label: tuple[str, ...],
    ignore: tuple[str, ...],
    numeric: tuple[str, ...],
    category: tuple[str, ...],
    weight: str | None,
    task: str | None,
    overrides: tuple[str, ...],
    ranks: int | None,
    *,
    plot: bool,
    plan: bool,
    as_json: bool,
) -> int:
    """Show a run or a saved model: its layers with shapes and counts, its history and settings.

    Of a FOLDER of runs show a line for each. Of a table in a FILE show its columns: the kind that
    each is taken for, missing and distinct values, and what a training would do with it. The
    options from --label on are for that. A run may be shown while it trains.

    \b
    xpnet show runs/first
    xpnet show runs/first --plot
    xpnet show runs                                all of its runs, the oldest first
    xpnet show runs/first --plan
    xpnet show runs/first --plan --ranks 4         the same step, taken by four processes
    xpnet show model.safetensors
    xpnet show flowers.csv --label species
    """
    from pathlib import Path

    from xpnet.errors import ConfigError
    from xpnet.run.overview import is_folder_of_runs
    from xpnet.storage import is_safetensors

    settings = [*column_settings(label, ignore, numeric, category, weight, task), *overrides]
    if ranks is not None and not plan:
        msg = "--ranks says how many processes share the step of a plan: add --plan"
        raise ConfigError(msg)
    chosen = [name for name, on in (("plot", plot), ("plan", plan)) if on]
    _check(chosen, as_json)
    if Path(source).is_file() and Path(source).suffix != ".toml" and not is_safetensors(source):
        if chosen:
            msg = f"--{chosen[0]} is for a run, and {source!r} is shown as a table"
            raise ConfigError(msg)
        from xpnet.cli.showing.columns import show_columns

        show_columns(source, settings, as_json=as_json)
        return 0
    if settings:
        msg = f"{settings[0].partition('=')[0]} is for a FILE; {source!r} is shown as trained"
        raise ConfigError(msg)
    if is_folder_of_runs(source):
        if chosen:
            msg = f"--{chosen[0]} is for one run, and {source!r} is a folder of them: name one, or "
            msg += "draw them all into a page: xpnet compare FOLDER --output FILE.html"
            raise ConfigError(msg)
        from xpnet.cli.showing.folder import show_folder

        show_folder(source, as_json=as_json)
        return 0
    _show(source, epochs, plot, (ranks or 1) if plan else 0, as_json)
    return 0


def _check(chosen: list[str], as_json: bool) -> None:
    from xpnet.errors import ConfigError

    if len(chosen) > 1:
        msg = "--plot and --plan are views of their own: choose one"
        raise ConfigError(msg)
    if chosen == ["plot"] and as_json:
        msg = "--plot draws, and --json prints numbers: choose one"
        raise ConfigError(msg)


def _show(source: str, epochs: int, plot: bool, ranks: int, as_json: bool) -> None:
    """Show a run; ``ranks`` are those of the plan, 0 where it is not asked for."""
    from xpnet.cli.showing.plan import show_plan
    from xpnet.cli.showing.plot import show_plot
    from xpnet.cli.showing.run import show_run, show_saved
    from xpnet.run import RunFolder
    from xpnet.run.overview import overview
    from xpnet.training.monitoring import best_epoch

    if not RunFolder(source).exists():  # one file, or an error
        run = open_run(source, "numpy", "cpu")
        history = run.trainer.history
        if ranks:
            show_plan(run.trainer, ranks, as_json=as_json)
        elif plot:
            show_plot(source, history, best_epoch(history), "saved in one file")
        else:
            show_saved(run, source, epochs, as_json=as_json)
        return
    seen = overview(source, None if plot or as_json else epochs)
    if plot and seen.config is not None:
        show_plot(source, seen.history, seen.best, seen.status)
        return
    run = _run_of(source, seen, needed=ranks > 0)
    if ranks:
        show_plan(run.trainer, ranks, as_json=as_json)
    else:
        show_run(run, seen, epochs, as_json=as_json)


def _run_of(source: str, seen: "Overview", needed: bool) -> Any:
    """The run with its weights; None while it trains and has none yet."""
    from xpnet.errors import CheckpointError

    try:
        return open_run(source, "numpy", "cpu")
    except CheckpointError:
        if seen.status == "training" and not needed:
            return None
        raise
