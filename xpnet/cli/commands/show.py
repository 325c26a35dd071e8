"""``xpnet show``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from xpnet.cli.options import column_options, column_settings, open_run, set_option
from xpnet.cli.output import add_column, add_row, say
from xpnet.cli.output import show as print_rich
from xpnet.errors import ConfigError

if TYPE_CHECKING:
    from xpnet.data import Dataset
    from xpnet.training.trainer import Trainer


@click.command()
@click.argument("source", metavar="RUN | FILE")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of last epochs to show.",
)
@click.option(
    "--plan", is_flag=True, help="Show what a fused training step does, operation by operation."
)
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
    *,
    plan: bool,
) -> int:
    """Show a run or a saved model: its layers with shapes and counts, its history and settings.

    Of a table in a FILE show its columns: the kind that each is taken for, missing and distinct
    values, and what a training would do with it. The options from --label on are for that.

    \b
    xpnet show runs/first
    xpnet show runs/first --plan
    xpnet show model.safetensors
    xpnet show flowers.csv --label species
    """
    from xpnet.run.config import to_toml
    from xpnet.storage import is_safetensors

    settings = [*column_settings(label, ignore, numeric, category, weight, task), *overrides]
    saved = is_safetensors(source)
    if Path(source).is_file() and Path(source).suffix != ".toml" and not saved:
        _show_columns(source, settings)
        return 0
    if settings:
        msg = f"{settings[0].partition('=')[0]} is for a FILE; {source!r} is shown as trained"
        raise ConfigError(msg)
    loaded = open_run(source, "numpy", "cpu")
    if plan:
        _show_plan(loaded.trainer)
        return 0
    if loaded.checkpoint is None:  # a model that was saved without a run
        say(*loaded.trainer.summary().splitlines())
        _show_epochs(loaded.trainer.history[-epochs:], len(loaded.trainer.history))
        return 0
    say(*loaded.trainer.model.summary().splitlines(), "")
    if columns := loaded.preprocessing.columns:
        say(*columns.lines(loaded.preprocessing.classes))
    if saved:
        _show_epochs(loaded.trainer.history[-epochs:], len(loaded.trainer.history))
        say("", *to_toml(loaded.config).split("\n")[:-1])
        return 0
    _show_epochs(*loaded.folder.last_epochs(epochs))
    record = loaded.folder.read_json(loaded.folder.run_path)
    if {"backend", "version", "device", "dtype"} <= record.keys():
        say("{backend} {version} on {device}, {dtype}".format_map(record))
    if record.get("threads") and "threads_reason" in record:
        say("threads {threads}: {threads_reason}".format_map(record))
    for key in ("status", "seconds", "started"):
        if key in record:
            say(f"{key} {record[key]}")
    report = loaded.folder.read_json(loaded.folder.report_path)
    for key in ("loss", "accuracy", "r2"):
        if isinstance(report.get(key), float):
            say(f"test {key} {report[key]:.4f}")
    say("", *to_toml(loaded.config).split("\n")[:-1])
    return 0


def _show_epochs(shown: list[dict[str, Any]], total: int) -> None:
    if shown:
        say(f"last {len(shown)} of {total} epochs")
        print_rich(_history(shown))


def _show_columns(path: str, settings: list[str]) -> None:
    from xpnet.run.config_sources import load_config
    from xpnet.run.description import column_table
    from xpnet.run.splits import read_data

    config = load_config(path, ["data.stream=no", "data.missing_labels=drop", *settings])
    whole = cast("Dataset", read_data(config).whole)
    if whole.columns is None or not whole.columns.described:
        say(f"{path}: {len(whole):,} rows of {'x'.join(map(str, whole.feature_shape))} features")
        return
    say(f"{path}: {len(whole):,} rows, {whole.columns.width} columns")
    say(*column_table(whole.columns), *whole.columns.lines(whole.classes))


def _show_plan(trainer: "Trainer") -> None:
    from xpnet.kernels.plan import make_plan
    from xpnet.kernels.plan_table import plan_lines

    engine = trainer.engine
    plan = make_plan(engine.model, engine.loss, engine.optimizer, trainer.clip, by_rows=True)
    N, itemsize = trainer.batch_size, engine.state.params.dtype.itemsize
    lines = plan_lines(plan, engine.model, N, itemsize)
    say(f"A fused training step on {N} rows; bytes are read and written, each array once.")
    phase = ""
    for line in lines:
        if line.phase != phase:
            phase = line.phase
            say("", phase)
        portable = "" if line.fused else "  (portable: no kernel)"
        say(f"  {line.formula}", f"      {line.shapes}, {line.bytes:,} bytes{portable}")
    for name, why in plan.portable:
        say("", f"portable: {name}, because {why}")


def _history(epochs):  # type: ignore[no-untyped-def]
    from rich.table import Table

    names = ("epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
    names = tuple(name for name in names if name in epochs[-1])
    table = Table()
    for name in names:
        add_column(table, name, justify="right")
    for record in epochs:
        cells = [record.get(name, "") for name in names]
        add_row(table, *(f"{c:.4g}" if isinstance(c, float) else c for c in cells))
    return table
