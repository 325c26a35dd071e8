"""``xpnet parity``."""

from typing import Any

import click

from xpnet.cli.options import json_option, set_option, warn
from xpnet.cli.output import (
    add_column,
    add_row,
    cell,
    check_places,
    print_json,
    say,
    show,
    write_json,
    write_output,
)


@click.command()
@click.argument("source", default="digits", metavar="[RECIPE | FILE]")
@click.option(
    "--backends",
    metavar="LIST",
    help="NAME[:DEVICE][:DTYPE], separated by commas; by default all available ones.",
)
@click.option(
    "--backend-module",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Your own array library, as MODULE or MODULE:ATTRIBUTE (repeatable).",
)
@click.option(
    "--to-numpy", metavar="METHOD", help="Of your library's arrays: gives NumPy's; found if it can."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1),
    default=60.0,
    show_default=True,
    help="For your library's operations, and as many for its steps.",
)
@click.option("--steps", default=20, show_default=True, help="Training steps to compare.")
@click.option("--batch", type=click.IntRange(1), help="Rows per step; by default the config's.")
@click.option(
    "--tolerance",
    type=float,
    help="Largest relative difference; by default 1e-10 for float64, 1e-4 for float32.",
)
@click.option("--allow-missing", is_flag=True, help="Do not fail if a backend is not available.")
@click.option("--fail-on-rounding", is_flag=True, help="Also fail if rounding exceeds --tolerance.")
@click.option("--json-file", metavar="FILE", help="Write the report as JSON.")
@click.option("--markdown", "markdown_path", metavar="FILE", help="Write the report as Markdown.")
@json_option
@set_option
def parity(
    source: str,
    backends: str | None,
    modules: tuple[str, ...],
    to_numpy: str | None,
    seconds: float,
    steps: int,
    batch: int | None,
    tolerance: float | None,
    allow_missing: bool,
    fail_on_rounding: bool,
    json_file: str | None,
    markdown_path: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Train on several backends side by side and report where they diverge.

    Each activation, gradient, parameter and loss is compared with NumPy's in float64, step by
    step. Each operation is also compared with the reference on the same operands, which separates
    a fault from rounding that training amplifies. The exit code is 1 for a fault and 2 if a named
    backend is not available.

    With --backend-module, every function that training uses is first called on its own. What is
    missing, wrong or of the wrong dtype is listed, each distinct cause once; an error ends neither
    the list nor the training, which goes on around it.

    \b
    xpnet parity
    xpnet parity mnist --backends numpy,torch,jax,array-api-strict,cupy --steps 50
    xpnet parity --backends torch:cpu:float64,torch:cuda:0:float32 --markdown parity.md
    xpnet parity --backend-module mylib
    """
    from xpnet.backends import backend_names
    from xpnet.check.parity import load_module, to_json, to_markdown
    from xpnet.check.parity import parity as compare
    from xpnet.run.config_sources import load_config

    check_places(json_file, markdown_path, as_json=as_json)
    config = load_config(source, overrides, report=warn)
    named = [name.strip() for name in (backends or "").split(",") if name.strip()]
    libraries = [load_module(module, config.dtype, to_numpy) for module in modules]
    asked: list[Any] = [*named, *libraries] or backend_names()
    report = compare(
        config,
        asked,
        steps=steps,
        batch_size=batch,
        tolerance=tolerance,
        source=source,
        seconds=seconds,
    )
    if json_file is not None:
        write_json(json_file, to_json(report))
    if markdown_path is not None:
        write_output(markdown_path, to_markdown(report))
    if as_json:
        print_json(to_json(report))
    else:
        _print(report)
    verdicts = [r.verdict for r in report.results]
    if not report.ok or (fail_on_rounding and "rounding" in verdicts):
        return 1
    missing = "not run" in verdicts and bool(named) and not allow_missing
    return 2 if missing or set(verdicts) == {"not run"} else 0


def _print(report: Any) -> None:
    say(
        f"{report.source}: {report.steps} steps of {report.batch_size} rows of {report.rows}; "
        f"reference: numpy {report.reference['version']}, {report.reference['dtype']}"
    )
    show(_backends(report))
    if any(r.growth for r in report.results):
        say("largest relative difference of any tensor")
        show(_growth(report))
    for result in report.results:
        style = "bold red" if result.verdict == "fault" else ""
        show(cell(f"{result.asked}: {result.sentence()}", style))
        for fault in result.told[1:]:
            show(cell(f"  also {fault}"))
        if result.operations:
            _print_operations(result)


def _backends(report: Any) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("backend", "version", "device", "dtype", "TF32", "jit", "tol."):
        add_column(table, name, overflow="fold")
    add_column(table, "verdict", no_wrap=True)
    for r in report.results:
        keys = ("version", "device", "dtype", "tf32", "compiled")
        cells = [r.described.get(key, "-").replace("does not apply", "-") for key in keys]
        add_row(table, r.asked, *cells, f"{r.tolerance:g}", r.verdict)
    return table


def _growth(report: Any) -> Any:
    """Tabulate the largest relative difference of any tensor at steps 1, 2, 5, ... and the last."""
    from rich.box import SIMPLE
    from rich.table import Table

    ran = [r for r in report.results if r.growth]
    table = Table(box=SIMPLE, pad_edge=False)
    add_column(table, "step", justify="right")
    for r in ran:
        add_column(table, r.asked, justify="right", overflow="fold")
    shown = {report.steps, *(s * 10**k for k in range(9) for s in (1, 2, 5))}
    for step in sorted(s for s in shown if s <= report.steps):
        rows = [next((g for g in r.growth if g.step == step), None) for r in ran]
        add_row(table, step, *("-" if g is None else f"{max(g[1:]):.1e}" for g in rows))
    return table


def _print_operations(result: Any) -> None:
    for number, cause in enumerate(result.causes, 1):
        show(cell(f"  {number}. {cause}", "red"))
        calls = [row for row in cause.rows if row.case]
        if calls:
            say(f"     in {', '.join(f'{row.function} ({row.case})' for row in calls[:6])}"
                f"{', ...' if len(calls) > 6 else ''}")  # fmt: skip
    for row in result.operations:
        if row.status == "note":
            say(f"  note: {row.function} ({row.case}): {row.detail}")
    good = len(result.operations) - len(result.bad_operations)
    say(f"{good} of {len(result.operations)} operations are correct")
    if result.causes:
        say("--markdown FILE writes each cause as an issue with a program that shows it")
