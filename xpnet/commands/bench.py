"""``xpnet bench``."""

import click


@click.command()
@click.option(
    "--rows",
    multiple=True,
    metavar="WIDTHS:BATCH:OPTIMIZER",
    help="Networks to time (repeatable), instead of the standard four.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Contenders to time (repeatable).")
@click.option("--skip", multiple=True, metavar="NAME", help="Contenders to leave out (repeatable).")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@click.option(
    "--expect",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 unless it holds for the fastest xpnet, such as 'ratio<=1.15' (repeatable).",
)
@click.option("--crossover", is_flag=True, help="Find where cuda overtakes cpu.")
@click.option("--profile", "profiled", is_flag=True, help="Say what xpnet's time goes to on a CPU.")
@click.option("--json", "json_file", metavar="FILE", help="Write the measurement as JSON.")
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write the table as Markdown.")
@click.option("--plot", "plot_file", metavar="FILE", help="Draw the ratios (PNG, SVG, PDF).")
def bench(
    rows: tuple[str, ...],
    only: tuple[str, ...],
    skip: tuple[str, ...],
    dtype: str,
    rounds: int,
    conditions: tuple[str, ...],
    crossover: bool,
    profiled: bool,
    json_file: str | None,
    markdown_file: str | None,
    plot_file: str | None,
) -> int:
    """Time a train step beside its matrix products alone and other libraries, in one run.

    Contenders take turns, so that what else the machine does meets all alike. The GEMM limit is
    the step's matrix products alone, in NumPy: the floor.

    \b
    xpnet bench
    xpnet bench --rows 784-512-10:128:adam --expect 'ratio<=1.3'
    xpnet bench --expect 'ratio/PyTorch eager<1' --json bench.json --plot bench.png
    """
    import json

    from xpnet.bench import STANDARD, Expectation, measure, parse_network
    from xpnet.bench.contenders import CONTENDERS, LIMIT
    from xpnet.bench.crossover import find_crossover
    from xpnet.bench.report import plot, to_json, to_markdown
    from xpnet.checkpoint import atomic_write_text
    from xpnet.errors import ConfigError
    from xpnet.schema import did_you_mean

    expectations = [Expectation.parse(text) for text in conditions]
    for name in (*only, *skip, *(e.other for e in expectations)):
        if name not in CONTENDERS:
            msg = f"unknown contender {name!r}; {did_you_mean(name, CONTENDERS)}"
            raise ConfigError(msg)
    if crossover:
        for line in find_crossover(dtype, rounds):
            click.echo(line)
        return 0
    names = [n for n in (CONTENDERS if not only else (LIMIT, *only)) if n not in skip]
    names = list(dict.fromkeys([LIMIT, *names]))
    networks = [parse_network(row) for row in rows] or list(STANDARD)
    measured = []
    for network in networks:
        row = measure(network, names, dtype=dtype, rounds=rounds, report=lambda line: _status(line))
        measured.append(row)
        _status("")
        _print(row)
        if profiled:
            _print_profile(network, dtype)
    if json_file:
        atomic_write_text(json_file, json.dumps(to_json(measured, dtype), indent=2) + "\n")
    if markdown_file:
        atomic_write_text(markdown_file, to_markdown(measured, dtype))
    if plot_file:
        plot(measured, plot_file)
    failures = [
        failure
        for expectation in expectations
        for row in measured
        if (failure := expectation.failure(row, _fastest(row)))
    ]
    for failure in failures:
        click.echo(f"not as expected: {failure}", err=True)
    return 1 if failures else 0


def _fastest(row) -> str:  # type: ignore[no-untyped-def]
    """The fastest of xpnet's own contenders."""
    ours = [name for name in row.timings if name.startswith("xpnet")]
    return min(ours, key=lambda name: row.timings[name].median, default="xpnet numpy")


def _status(line: str) -> None:
    """What is going on, on a line that the next one overwrites; nothing where there is no line."""
    import sys

    if sys.stderr.isatty():
        click.echo(f"\r\033[K{line}", nl=False, err=True)


def _print(row) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(row.network), title_justify="left")
    table.add_column("step")
    for name in ("median µs", "quartiles", "ratio", "faults"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    for name, timing in sorted(row.timings.items(), key=lambda item: item[1].median):
        faults = "-" if timing.faults is None else f"{timing.faults:.1f}"
        quartiles = f"{timing.low:,.0f} to {timing.high:,.0f}"
        cells = (f"{timing.median:,.1f}", quartiles, f"{row.ratio(name):.2f}", faults)
        table.add_row(name, *cells, timing.note)
    Console(highlight=False).print(table)
    for name, why in row.absent.items():
        click.echo(f"not timed: {name}: {why}")


def _print_profile(network, dtype) -> None:  # type: ignore[no-untyped-def]
    from xpnet.bench.profile import profile

    for name, portable in (("xpnet numpy", False), ("xpnet numpy, portable", True)):
        parts = profile(network, dtype, portable=portable)
        shares = "  ".join(f"{part} {time:,.1f}" for part, time in parts.items())
        click.echo(f"{name}: {sum(parts.values()):,.1f} µs in the trainer's loop: {shares}")
