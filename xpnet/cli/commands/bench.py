"""``xpnet bench``."""

import click


@click.command()
@click.option(
    "--rows",
    multiple=True,
    metavar="WIDTHS:BATCH:OPTIMIZER",
    help="Network to time (repeatable); by default the device's four standard ones.",
)
@click.option("--device", default="cpu", show_default=True, metavar="D", help="cpu or cuda[:N].")
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    metavar="P",
    help="Precision of every contender: float32, float64, tf32, bfloat16 or float16.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Contender to time (repeatable).")
@click.option("--skip", multiple=True, metavar="NAME", help="Contender to skip (repeatable).")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU cores for every library; by default all.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=9,
    show_default=True,
    help="Measurements of each contender.",
)
@click.option(
    "--expect",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 unless the fastest xpnet meets it, e.g. 'ratio<=1.15' (repeatable).",
)
@click.option(
    "--crossover",
    is_flag=True,
    help="Find the width at which cuda overtakes cpu, or the second --only overtakes the first.",
)
@click.option(
    "--scale",
    is_flag=True,
    help="Measure how time and memory grow with width, depth, batch and rows (--only selects).",
)
@click.option("--profile", "profiled", is_flag=True, help="Break down the time of xpnet's steps.")
@click.option("--json", "json_file", metavar="FILE", help="Write the measurement as JSON.")
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write the tables as Markdown.")
@click.option("--plot", "plot_file", metavar="FILE", help="Draw the ratios (PNG, SVG, PDF).")
def bench(
    rows: tuple[str, ...],
    device: str,
    precision: str,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    threads: int | None,
    rounds: int,
    conditions: tuple[str, ...],
    crossover: bool,
    scale: bool,
    profiled: bool,
    json_file: str | None,
    markdown_file: str | None,
    plot_file: str | None,
) -> int:
    """Time a training step against its matrix products alone and against other libraries.

    Contenders take turns, so that other load on the machine affects all of them alike. The GEMM
    limit is the step's matrix products alone: NumPy's on a CPU, cuBLAS's in one CUDA graph on a
    GPU. The precision is set explicitly in every library, since some use TF32 by default.

    \b
    xpnet bench
    xpnet bench --rows 784-512-10:128:adam --expect 'ratio<=1.3'
    xpnet bench --expect 'ratio/PyTorch eager<1' --json bench.json --plot bench.png
    xpnet bench --device cuda --precision tf32 --profile
    xpnet bench --scale --expect 'rows memory<=0.1' --plot scale.png
    """
    import json
    import os

    if threads is not None:
        _keep_to_cores(threads)

    from xpnet.bench import (
        LIMIT,
        STANDARD,
        STANDARD_ON_GPU,
        Expectation,
        Setting,
        contenders,
        measure,
        parse_network,
    )
    from xpnet.bench.results import check_plot, machine, plot, to_json, to_markdown
    from xpnet.cli.output import check_places, write_output
    from xpnet.errors import ConfigError
    from xpnet.settings import did_you_mean

    setting = Setting(device, precision)
    check_places(json_file, markdown_file, plot_file)
    if plot_file:
        check_plot()
    # Otherwise JAX reserves three quarters of the GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if crossover:
        return _crossover(setting, only, rounds, json_file)
    if scale:
        return _scale(only, conditions, json_file, markdown_file, plot_file)
    makes = contenders(setting)
    expectations = [Expectation.parse(text) for text in conditions]
    for name in (*only, *skip, *(e.other for e in expectations)):
        if name not in makes:
            msg = f"unknown contender {name!r} on {device}; {did_you_mean(name, makes)}"
            raise ConfigError(msg)
    names = [n for n in (only or makes) if n not in skip]
    chosen = {name: makes[name] for name in dict.fromkeys([LIMIT, *names])}
    standard = STANDARD_ON_GPU if setting.on_gpu else STANDARD
    facts = machine(setting)
    measured = []
    for network in [parse_network(row) for row in rows] or standard:
        row = measure(network, chosen, rounds=rounds, report=_status)
        _status("")
        if profiled:
            row = row._replace(profiles=_profiles(network, setting, chosen))
        measured.append(row)
        _print(row, setting)
    if json_file:
        text = json.dumps(to_json(measured, setting, facts), indent=2)
        write_output(json_file, text + "\n")
    if markdown_file:
        write_output(markdown_file, to_markdown(measured, setting, facts))
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


def _keep_to_cores(count: int) -> None:
    """Limit every library that is loaded from now on to ``count`` threads."""
    import os
    import sys

    from xpnet.errors import ConfigError

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if "numpy" in sys.modules:
        msg = "--threads must be set before NumPy is loaded: run xpnet bench in its own process"
        raise ConfigError(msg)
    if cores is not None and count > len(cores):
        msg = f"--threads must be at most {len(cores)}, the number of cores; got {count}"
        raise ConfigError(msg)
    if cores is not None:  # JAX and PyTorch count the cores of the affinity mask
        os.sched_setaffinity(0, cores[:count])
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)


def _crossover(setting, only, rounds, json_file) -> int:  # type: ignore[no-untyped-def]
    """Print a line for each batch size."""
    import json

    from xpnet.bench import Setting, contenders
    from xpnet.bench.crossover import find_crossover
    from xpnet.cli.output import write_output
    from xpnet.errors import ConfigError

    on_gpu = setting if setting.on_gpu else Setting("cuda", setting.precision)
    makes = {**contenders(Setting("cpu", setting.dtype)), **contenders(on_gpu)}
    pair = only or ("xpnet numpy", "xpnet cupy")
    if len(pair) != 2 or not set(pair) <= makes.keys():
        msg = f"--crossover takes two --only contenders, or none; got {', '.join(only)}"
        raise ConfigError(msg)
    found = []
    for crossing in find_crossover(makes[pair[0]], makes[pair[1]], rounds):
        click.echo(crossing.sentence(*pair))
        found.append(crossing._asdict())
    if json_file:
        text = json.dumps({"first": pair[0], "second": pair[1], "crossings": found}, indent=2)
        write_output(json_file, text + "\n")
    return 0


def _scale(only, conditions, json_file, markdown_file, plot_file) -> int:  # type: ignore[no-untyped-def]
    """Print a line for each point; return 1 if something grows faster than expected."""
    import json

    from xpnet.bench import Setting, scale
    from xpnet.bench.results import machine
    from xpnet.cli.output import write_output
    from xpnet.errors import ConfigError
    from xpnet.settings import did_you_mean

    growths = [scale.Growth.parse(text) for text in conditions]
    for name in only:
        if name not in scale.AXES:
            msg = f"unknown axis {name!r}; {did_you_mean(name, scale.AXES)}"
            raise ConfigError(msg)
    measured = {}
    for name in only or scale.AXES:
        click.echo(f"{name}: {scale.AXES[name].what}")
        measured[name] = scale.measure_axis(name, lambda point: click.echo(f"  {point}"))
    facts = machine(Setting())
    if json_file:
        text = json.dumps({"machine": facts, "axes": scale.to_json(measured)}, indent=2)
        write_output(json_file, text + "\n")
    if markdown_file:
        write_output(markdown_file, scale.to_markdown(measured, facts))
    if plot_file:
        scale.plot(measured, plot_file)
    failures = [failure for growth in growths if (failure := growth.failure(measured))]
    for failure in failures:
        click.echo(f"not as expected: {failure}", err=True)
    return 1 if failures else 0


def _fastest(row) -> str:  # type: ignore[no-untyped-def]
    """Return the fastest of xpnet's own contenders."""
    ours = [name for name in row.timings if name.startswith("xpnet")]
    return min(ours, key=lambda name: row.timings[name].median, default="xpnet")


def _status(line: str) -> None:
    """Show progress on a terminal, on a line that the next call overwrites."""
    import sys

    if sys.stderr.isatty():
        click.echo(f"\r\033[K{line}", nl=False, err=True)


def _print(row, setting) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    from xpnet.bench.results import profile_lines

    title = f"{row.network}, {setting}"
    table = Table(title=title, title_justify="left")
    table.add_column("step", no_wrap=True)
    for name in ("median µs", "quartiles", "ratio", "TFLOP/s" if setting.on_gpu else "faults"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    for name, timing in sorted(row.timings.items(), key=lambda item: item[1].median):
        last = "-" if timing.faults is None else f"{timing.faults:.1f}"
        if setting.on_gpu:
            last = f"{row.rate(name):.3g} ({1 / row.ratio(name):.0%})"
        quartiles = f"{timing.low:,.0f} to {timing.high:,.0f}"
        cells = (f"{timing.median:,.1f}", quartiles, f"{row.ratio(name):.2f}", last)
        table.add_row(name, *cells, timing.note)
    Console(highlight=False).print(table)
    for name, why in row.absent.items():
        click.echo(f"not timed: {name}: {why}")
    for line in profile_lines(row):
        click.echo(f"µs of {line}")


def _profiles(network, setting, names) -> dict[str, dict[str, float]]:  # type: ignore[no-untyped-def]
    """Return the breakdown of each timed xpnet step, by contender and part."""
    from xpnet.bench.launches import profile_gpu
    from xpnet.bench.profile import profile
    from xpnet.errors import BackendError

    found = {}
    for name, profile_step in {
        "xpnet cupy": lambda: profile_gpu(network, setting),
        "xpnet numpy": lambda: profile(network, setting.dtype),
        "xpnet numpy, portable": lambda: profile(network, setting.dtype, portable=True),
    }.items():
        if name in names:
            try:
                found[name] = profile_step()
            except BackendError as error:  # keep the times
                click.echo(f"not profiled: {name}: {error}")
    return found
