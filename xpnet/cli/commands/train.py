"""``xpnet train``."""

from typing import TYPE_CHECKING, Any

import click

from xpnet.cli.options import column_options, device_options, json_option, set_option

if TYPE_CHECKING:
    from xpnet.run import Run


@click.command()
@click.argument("source", default="digits", metavar="[RECIPE | FILE]")
@device_options
@click.option("--out", metavar="DIR", help="Run folder; by default runs/NAME-DATE-TIME.")
@click.option("--from", "start", metavar="RUN", help="Start from the weights of a run or a file.")
@click.option("--resume", is_flag=True, help="Resume from the newest checkpoint in --out.")
@column_options
@click.option("--recipe", metavar="NAME", help="Settings for FILE: table (for tables) or none.")
@click.option("--epochs", metavar="N|auto", help="Passes through the rows; auto: by their number.")
@click.option("--batch-size", metavar="N|auto|largest", help="Rows per step; largest: that fit.")
@click.option("--step", metavar="S", help="Kind of step: auto, portable, fused or jit.")
@click.option("--threads", metavar="N|auto", help="Threads on a CPU; auto: measured.")
@click.option("--data-dir", metavar="DIR", help="Folder of the mnist and fashion-mnist files.")
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard.")
@click.option("--mlflow", metavar="[URI]", is_flag=False, flag_value="true",
              help="Log to MLflow, at URI or where it logs by default.")  # fmt: skip
@click.option(
    "--sweep", "search", metavar="auto|FILE", help="Search the settings for the best: many runs."
)
@click.option("--ranks", type=click.IntRange(1), metavar="N",
              help="Processes that share each batch; started by mpiexec.")  # fmt: skip
@click.option("--launcher", metavar="TEXT", help="What starts them, such as 'mpiexec -hosts a,b'.")
@click.option("--max-restarts", type=click.IntRange(0), metavar="M",
              help="Resume a training that crashes, at most so many times.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print only the last line.")
@json_option
@set_option
def train(
    source: str,
    device: str | None,
    backend: str | None,
    out: str | None,
    start: str | None,
    resume: bool,
    label: tuple[str, ...],
    ignore: tuple[str, ...],
    numeric: tuple[str, ...],
    category: tuple[str, ...],
    weight: str | None,
    task: str | None,
    recipe: str | None,
    epochs: str | None,
    batch_size: str | None,
    step: str | None,
    threads: str | None,
    data_dir: str | None,
    tensorboard: bool,
    mlflow: str | None,
    search: str | None,
    ranks: int | None,
    launcher: str | None,
    max_restarts: int | None,
    quiet: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Train a network and measure it on held-out data.

    The source is a recipe (digits, mnist, fashion-mnist), a TOML file, or data: a table (CSV or
    other text, Parquet, Feather, JSON Lines, ARFF, LIBSVM), arrays (NPY, NPZ, IDX) or a folder of
    images. Tables are trained on with the recipe "table", others with the default settings. The
    last line is the test accuracy; with --json all lines are on standard error, and the document
    has the run's folder, scores and how it ended.

    \b
    xpnet train
    xpnet train mnist --device cuda --out runs/mnist
    xpnet train flowers.csv --label species --ignore id
    xpnet train my.toml --set optimizer.lr=0.01 --set model.hidden=[256,128]
    xpnet train --out runs/mnist --resume
    xpnet train new.csv --from runs/first --set 'optimizer.freeze=["0"]'
    xpnet train flowers.csv --label species --sweep auto --set sweep.trials=50
    xpnet train flowers.csv --label species --ranks 4 --max-restarts 3
    mpiexec -n 4 xpnet train mnist --device cuda
    """
    import shlex

    from xpnet.cli.main import several
    from xpnet.cli.options import column_settings, given, say_test, warn
    from xpnet.cli.output import only_json, print_json, say
    from xpnet.cli.streams import tolerant_streams
    from xpnet.errors import ConfigError
    from xpnet.run import train as run_training
    from xpnet.training.progress import Progress

    named = {
        "device": device,
        "backend": backend,
        "data.data_dir": data_dir,
        "epochs": epochs,
        "batch_size": batch_size,
        "step": step,
        "threads": threads,
        "tracking.tensorboard": "true" if tensorboard else None,
        "tracking.mlflow": mlflow,
    }
    if out == "":  # a shell variable that is not set, and not the current folder
        msg = "--out is empty; name the folder, . for the current one"
        raise ConfigError(msg)

    if ranks is not None or launcher is not None or max_restarts is not None:
        from xpnet.cli.supervisor import supervise

        return supervise(click.get_current_context(), max_restarts or 0, warn)

    texts = [
        *(f"{key}={value}" for key, value in named.items() if value),
        *column_settings(label, ignore, numeric, category, weight, task),
        *overrides,
    ]
    asked = source if given("source") else None
    searches = search is not None
    if resume and out is not None and not searches:
        from xpnet.search.folder import is_sweep

        searches = is_sweep(out)
    if searches:
        from xpnet.cli.sweeps import run_sweep

        return run_sweep(
            asked, search, out, recipe, texts, start, resume=resume, quiet=quiet, as_json=as_json
        )

    def report(line: str) -> None:
        if not quiet:
            say(line)

    launch = several()
    with tolerant_streams(), only_json(as_json):
        run = run_training(
            asked,
            out,
            recipe=recipe,
            settings=texts,
            start_from=start,
            resume=resume,
            # A launcher gives ranks a terminal, or none, whatever its own output is.
            progress=False if quiet else Progress(live=None if launch is None else False),
            report=report,
            warn=warn,
        )
        if launch is not None and launch.rank and run.config.parallel.engine != "none":
            return 130 if run.interrupted else 0  # rank 0 has all there is to say
        report(f"run folder {run.folder.path}")
        if run.interrupted:
            command = f"xpnet train --out {shlex.quote(str(run.folder.path))} --resume"
            command += f" --ranks {launch.size}" if launch is not None else ""
            say(f"{run.stopped}; resume with: {command}")
        else:
            say_test(run.test, report, last=not (quiet and as_json))
    if as_json:
        print_json(_result(run))
    return 130 if run.interrupted else 0


def _result(run: "Run") -> dict[str, Any]:
    """The document of ``--json``: where the run is, how it ended, and its scores."""
    record = run.folder.read_json(run.folder.run_path)
    return {
        "folder": str(run.folder.path),
        "status": record.get("status"),
        "stopped": run.stopped,
        "interrupted": run.interrupted,
        "epochs": run.folder.last_epochs(1)[1],
        "seconds": record.get("seconds"),
        "parameters": record.get("parameters"),
        "ranks": record.get("ranks", 1),
        "rows": {part: record.get(f"{part}_rows") for part in ("train", "validation", "test")},
        "test": run.test,
    }
