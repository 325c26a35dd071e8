"""``xpnet predict``."""

import click

from xpnet.commands.options import device_options, opened, which_option


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE")
@device_options
@click.option("--output", "-o", metavar="FILE", help="Write there instead of standard output.")
@which_option
def predict(
    run: str,
    file: str,
    device: str | None,
    backend: str | None,
    output: str | None,
    which: str,
) -> int:
    """Predict the rows of FILE (CSV, NPY, NPZ, IDX, Parquet; - reads CSV from standard input).

    Writes CSV: the class and the probability of every class, or the values of a regression.
    Columns are found by the names that the run was trained on, where FILE has a header; a label
    column is left out.

    \b
    xpnet predict runs/first new.csv
    head -5 new.csv | xpnet predict runs/first - -o predictions.csv
    """
    loaded = opened(run, backend, device, which)
    rows = _standard_input(loaded) if file == "-" else loaded.read(file, labelled=False)
    lines = _lines(loaded.predict(rows.x), loaded.preparation.classes)
    if output is None:
        for line in lines:
            click.echo(line)
        return 0
    from xpnet.checkpoint import atomic_write_text

    atomic_write_text(output, "".join(f"{line}\n" for line in lines))
    click.echo(f"{len(rows):,} predictions in {output}")
    return 0


def _standard_input(loaded):  # type: ignore[no-untyped-def]
    """Read the rows from a copy of standard input, which the readers can look at twice."""
    import shutil
    import sys
    import tempfile
    from pathlib import Path

    from xpnet.errors import DataError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input.csv"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            return loaded.read(path, labelled=False)
        except DataError as error:
            raise DataError(str(error).replace(str(path), "standard input")) from None


def _lines(out, classes):  # type: ignore[no-untyped-def]
    import csv
    import io

    def line(cells):  # type: ignore[no-untyped-def]
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(cells)
        return text.getvalue()

    if classes is None:
        columns = out.reshape(len(out), -1)
        yield line(
            ["value"] if columns.shape[1] == 1 else [f"value_{j}" for j in range(columns.shape[1])]
        )
        for row in columns:
            yield line([f"{v:.7g}" for v in row])
        return
    yield line(["class", *(f"p_{name}" for name in classes)])
    for row in out:
        yield line([classes[int(row.argmax())], *(f"{p:.6f}" for p in row)])
