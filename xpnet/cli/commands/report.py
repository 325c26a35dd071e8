"""``xpnet report``."""

import click

from xpnet.cli.options import device_options, json_option, which_option


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--output", metavar="FILE", help="The page; by default RUN/report.html.")
@json_option
@device_options
@which_option
@click.option(
    "--label",
    multiple=True,
    metavar="COLUMN",
    help="The label in FILE, if not named as in training (repeat for several).",
)
def report(
    run: str,
    file: str | None,
    output: str | None,
    as_json: bool,
    device: str | None,
    backend: str | None,
    which: str,
    label: tuple[str, ...],
) -> int:
    """Write the page of a run: how good it is, where it fails, how it was made.

    It is one HTML file that needs no network. Its rows are the test part of the run's own data, or
    those of a labelled FILE. Training writes it, too, unless config has report = false.

    \b
    xpnet report runs/first
    xpnet report runs/first new.csv --output new.html
    """
    from xpnet.cli.options import open_run
    from xpnet.cli.output import check_places, say_written
    from xpnet.errors import CheckpointError, ConfigError
    from xpnet.run import RunFolder
    from xpnet.run.reporting import write_folder

    if output == "":
        msg = "--output is empty; name the file"
        raise ConfigError(msg)
    check_places(output, as_json=as_json)
    try:
        loaded = open_run(run, backend, device, which)
    except CheckpointError as error:
        folder = RunFolder(run)
        if file is not None or not folder.config_path.is_file():
            raise
        page = write_folder(folder, output, str(error))
        say_written(page, [f"report {page}"], as_json)
        return 0
    named = label[0] if len(label) == 1 else label or None
    page = loaded.report(output, data=file, label=named)
    say_written(page, [f"report {page}"], as_json)
    return 0
