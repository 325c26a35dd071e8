"""``xpnet evaluate``."""

from typing import TYPE_CHECKING

import click

from xpnet.cli.options import device_options, json_option, open_run, say_notes, which_option
from xpnet.cli.output import add_column, add_row, cell, print_json, say, show

if TYPE_CHECKING:
    from rich.table import Table


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", required=False, metavar="[FILE]")
@device_options
@which_option
@click.option(
    "--label",
    multiple=True,
    metavar="COLUMN",
    help="The label in FILE, if not named as in training (repeat for several).",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="K",
    help="Also score a row as correct if its class is among the K most probable.",
)
@json_option
def evaluate(
    run: str,
    file: str | None,
    device: str | None,
    backend: str | None,
    which: str,
    label: tuple[str, ...],
    top: int,
    as_json: bool,
) -> int:
    """Measure a trained run on the test part of its own data, or on a labelled FILE.

    \b
    xpnet evaluate runs/first
    xpnet evaluate runs/first new.csv --which last
    xpnet evaluate runs/first --json               {"rows": 360, "loss": 0.06, ...}
    """
    from xpnet.data.files import naming
    from xpnet.run.scores import scores

    loaded = open_run(run, backend, device, which)
    if file is None:
        result = scores(loaded, loaded.test_part(), top)
    else:
        with naming(file):
            named = label[0] if len(label) == 1 else label or None
            rows = loaded.read(file, labelled=True, label=named)
            say_notes(file, rows)
            result = scores(loaded, rows, top)
    if as_json:
        print_json(result)
        return 0
    print_scores(result)
    return 0


def print_scores(result: dict) -> None:
    """Print per-class scores, the confusion matrix and a summary."""
    from rich.table import Table

    if "confusion" in result:
        table = Table()
        for name in ("class", "precision", "recall", "F1", "rows"):
            add_column(table, name, justify="left" if name == "class" else "right")
        columns = zip(
            result["classes"],
            result["precision"],
            result["recall"],
            result["f1"],
            result["support"],
            strict=True,
        )
        for name, precision, recall, f1, support in columns:
            add_row(table, name, f"{precision:.4f}", f"{recall:.4f}", f"{f1:.4f}", str(support))
        say("by class")
        show(table)
        if len(result["classes"]) <= 20:
            say("rows of a class (down) by prediction (across)")
            show(_confusion(result))
    if "by_target" in result:
        table = Table("target", *result["by_target"])
        columns = zip(*result["by_target"].values(), strict=True)
        for name, values in zip(result["targets"], columns, strict=True):
            add_row(table, name, *(f"{value:.4f}" for value in values))
        show(table)
    top = [key for key in result if key.startswith("top_")]
    for key in ("rows", "loss", *top, "exact", "macro_f1", "mse", "mae", "r2", "accuracy"):
        if key in result:
            value = result[key]
            text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
            say(f"{key.replace('_', ' ')} {text}")


def _confusion(result: dict) -> "Table":
    from rich.table import Table

    table = Table()
    add_column(table, "")
    for name in result["classes"]:
        add_column(table, name, justify="right")
    for i, (name, row) in enumerate(zip(result["classes"], result["confusion"], strict=True)):
        cells = [cell(n, "bold") if i == j else str(n or "·") for j, n in enumerate(row)]
        add_row(table, name, *cells)
    return table
