"""``xpnet gradcheck``."""

from typing import Any

import click

from xpnet.cli.options import json_option, set_option, warn
from xpnet.cli.output import add_column, add_row, check_places, print_json, say, show, write_json


@click.command()
@click.argument("source", default="digits", metavar="[RECIPE | FILE | RUN]")
@click.option("--samples", default=100, show_default=True, help="Entries per tensor; 0 is all.")
@click.option("--batch", default=8, show_default=True, help="Number of rows.")
@click.option("--seed", type=int, help="Seed of weights, dropout and sampling; default config's.")
@click.option("--tolerance", default=1e-6, show_default=True, help="Largest relative error.")
@click.option("--json-file", metavar="FILE", help="Also write the report as JSON.")
@json_option
@set_option
def gradcheck(
    source: str,
    samples: int,
    batch: int,
    seed: int | None,
    tolerance: float,
    json_file: str | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Check the gradients of a config against finite differences, PyTorch and JAX.

    Checks every parameter tensor and the input, in float64, on a few rows, and prints the relative
    error of the worst entry; "diff." are central differences. Entries at a kink, such as a ReLU's
    at 0, have no derivative; they are skipped and counted. The exit code is 1 if a gradient is
    wrong; its layer is named. Of a run or a saved model it is the weights that were trained, and
    for a model without a run the rows are synthetic.

    \b
    xpnet gradcheck
    xpnet gradcheck mnist --samples 500
    xpnet gradcheck model.safetensors              a saved model with its weights
    xpnet gradcheck my.toml --set model.activation=gelu --json-file check.json
    """
    import dataclasses

    from xpnet.check.gradcheck import gradcheck as check
    from xpnet.check.sample import sample_rows, saved_rows
    from xpnet.errors import ConfigError
    from xpnet.run import Run, load
    from xpnet.run.config_sources import load_config
    from xpnet.run.plain_run import is_saved

    if batch < 1 or samples < 0 or not tolerance > 0:
        msg = "gradcheck needs --batch >= 1, --samples >= 0 and --tolerance > 0; "
        msg += f"got {batch}, {samples} and {tolerance}"
        raise ConfigError(msg)
    check_places(json_file, as_json=as_json)
    model: Any
    if is_saved(source):
        if overrides:
            msg = f"--set is for a config; {source!r} is checked as trained"
            raise ConfigError(msg, command="omit --set")
        found = load(source, backend="numpy", device="cpu")
        x, y, whose = saved_rows(found, batch)
        model = found.trainer if isinstance(found, Run) else found
        loss, seed = model.loss, model.seed if seed is None else seed
    else:
        config = load_config(source, overrides, report=warn)
        if seed is not None:
            config = dataclasses.replace(config, seed=seed)
        rows = sample_rows(config, batch)
        model, x, y, whose = rows.model, rows.x, rows.y, rows.source
        loss, seed = rows.config.loss, rows.config.seed
    report = check(model, loss, x, y, samples=samples, seed=seed, tolerance=tolerance)
    table = {"source": source, "rows": whose, "ok": report.ok, **dataclasses.asdict(report)}
    if json_file is not None:
        write_json(json_file, table)
    if as_json:
        print_json(table)
    else:
        say(f"{source}: {len(x)} rows of {whose}, {type(loss).__name__}")
        _print(report)
    return 0 if report.ok else 1


def _print(report: Any) -> None:
    from rich.table import Table

    from xpnet.check.gradcheck import DIFFERENCES

    names = list(dict.fromkeys([DIFFERENCES, *(k for c in report.checks for k in c.worst)]))
    title = "worst relative error of each tensor's gradient"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    short = ["diff." if name == DIFFERENCES else name for name in names]
    for heading in ("tensor", "entries", *short, "at", "ours", "theirs"):
        justify: Any = "left" if heading == "tensor" else "right"
        add_column(table, heading, justify=justify, no_wrap=heading != "at", overflow="fold")
    for check in report.checks:
        total = 1
        for length in check.shape:
            total *= length
        row = [check.tensor, f"{check.checked}/{total}"]
        if not check.worst:
            add_row(table, *row)
            continue
        errors = {k: w.error for k, w in check.worst.items()}
        worst = max(check.worst.values(), key=lambda w: w.error)
        numbers = [f"{errors[k]:.1e}" if k in errors else "-" for k in names]
        place = ",".join(map(str, worst.place))
        style = None if check.error <= report.tolerance else "bold red"
        add_row(
            table, *row, *numbers, place, f"{worst.ours:.3g}", f"{worst.theirs:.3g}", style=style
        )
    show(table)
    kinks = sum(c.kinks for c in report.checks)
    if kinks:
        say(f"{kinks} entries skipped: the cost has a kink there")
    for oracle, reason in report.not_run.items():
        say(f"{oracle}: not run: {reason}")
    for fault in report.faults:
        say(f"wrong: {fault}")
    word = "agree" if report.ok else "DO NOT agree"
    say(f"the gradients {word} to {report.tolerance:g}")
