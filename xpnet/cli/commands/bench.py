"""``xpnet bench``."""

import click

from xpnet.cli.options import json_option, set_option


@click.command()
@click.option(
    "--rows",
    multiple=True,
    metavar="WIDTHS:BATCH:OPTIMIZER",
    help="Network to time (repeatable); by default the device's four standard ones. "
    "With --predict WIDTHS:ROWS, with --fit DATA:HIDDEN:BATCH:OPTIMIZER:EPOCHS.",
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
    help="Measurements of each contender; by default 9, with --scaling 5.",
)
@click.option(
    "--expect",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 unless the fastest xpnet meets it, e.g. 'ratio<=1.15' (repeatable).",
)
@click.option(
    "--predict",
    is_flag=True,
    help="Time the prediction of one row and of a million, from host rows to host probabilities.",
)
@click.option(
    "--fit",
    is_flag=True,
    help="Time a whole training, and score it on test rows; by default on the digits.",
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
@click.option(
    "--scaling",
    is_flag=True,
    help="Measure how a step scales over the processes of an MPI here, beside a model that "
    "predicts it to 1,024 ranks.",
)
@click.option(
    "--ranks",
    default="1,2,4",
    show_default=True,
    metavar="N,N,...",
    help="Numbers of processes for --scaling.",
)
@click.option(
    "--launcher",
    metavar="COMMAND",
    help="What starts them; by default the mpiexec beside this Python, or that of PATH.",
)
@click.option(
    "--model",
    "gpu",
    metavar="GPU",
    help="Print the launches and bytes of xpnet's step, and what they take on an H100 or H200; "
    "needs no GPU.",
)
@click.option("--profile", "profiled", is_flag=True, help="Break down the time of xpnet's steps.")
@set_option
@json_option
@click.option("--json-file", metavar="FILE", help="Write the measurement as JSON.")
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write the tables as Markdown.")
@click.option("--plot", "plot_file", metavar="FILE", help="Draw the ratios (PNG, SVG, PDF).")
def bench(
    rows: tuple[str, ...],
    device: str,
    precision: str,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    threads: int | None,
    rounds: int | None,
    conditions: tuple[str, ...],
    predict: bool,
    fit: bool,
    crossover: bool,
    scale: bool,
    scaling: bool,
    ranks: str,
    launcher: str | None,
    gpu: str | None,
    profiled: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    json_file: str | None,
    markdown_file: str | None,
    plot_file: str | None,
) -> int:
    """Time a training step, a prediction or a whole fit beside other libraries.

    Contenders take turns, so that other load on the machine affects all of them alike. A step's
    GEMM limit is its matrix products alone: NumPy's on a CPU, cuBLAS's in one CUDA graph on a
    GPU. The precision is set explicitly in every library, since some use TF32 by default.

    \b
    xpnet bench
    xpnet bench --rows 784-512-10:128:adam --expect 'ratio<=1.3'
    xpnet bench --expect 'ratio/PyTorch eager<1' --json-file bench.json --plot bench.png
    xpnet bench --device cuda --precision tf32 --profile
    xpnet bench --model H200 --precision bfloat16
    xpnet bench --predict --rows 784-512-10:1 --rows 784-512-10:100000
    xpnet bench --fit --rows mnist:512-256:128:adam:1 --set data.data_dir=mnist
    xpnet bench --fit --rows flowers.csv:64:32:adam:20 --set data.label=species
    xpnet bench --scale --expect 'rows memory<=0.1' --plot scale.png
    xpnet bench --scaling --ranks 1,2 --rows 784-512-256-10:128:adam
    """
    import os

    if threads is not None:
        _keep_to_cores(threads)

    from xpnet.bench import Setting
    from xpnet.bench.results import check_plot
    from xpnet.cli import benches
    from xpnet.cli.output import check_places
    from xpnet.errors import ConfigError

    setting = Setting("cuda" if gpu else device, precision)
    reports = benches.Reports(json_file, markdown_file, plot_file, as_json)
    check_places(json_file, markdown_file, plot_file, as_json=as_json)
    if plot_file:
        check_plot()
    if predict + fit + crossover + scale + scaling + bool(gpu) > 1:
        msg = "--predict, --fit, --crossover, --scale, --scaling and --model are different things: "
        raise ConfigError(msg + "choose one")
    if overrides and not fit:
        msg = f"--set is for the data of --fit; got {overrides[0]!r}"
        raise ConfigError(msg)
    # Otherwise JAX reserves three quarters of the GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if gpu:
        return benches.model(gpu, precision, rows, reports)
    if crossover:
        return benches.crossover(setting, only, rounds or 9, reports)
    if scale:
        return benches.scale(only, conditions, reports)
    if scaling:
        return benches.scaling(setting, rows, ranks, launcher, rounds or 5, reports)
    return benches.compare(
        "fit" if fit else "prediction" if predict else "step",
        setting,
        rows,
        overrides,
        only=only,
        skip=skip,
        rounds=rounds or 9,
        conditions=conditions,
        profiled=profiled,
        reports=reports,
    )


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
