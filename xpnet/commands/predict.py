"""``xpnet predict``."""

import click

from xpnet.commands.options import device_options


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE")
@device_options
@click.option("--output", "-o", metavar="FILE", help="Write there instead of standard output.")
@click.option("--which", type=click.Choice(["auto", "best", "last"]), default="auto")
def predict(
    run: str,
    file: str,
    device: str | None,
    backend: str | None,
    output: str | None,
    which: str,
) -> int:
    """Predict the rows of FILE (CSV, NPY, NPZ, IDX, Parquet; - reads CSV from standard input).

    Writes CSV: the class and the probability of every class, or the values of a regression. A
    label column, where the file has one, is left out.

    \b
    xpnet predict runs/first new.csv
    head -5 new.csv | xpnet predict runs/first - -o predictions.csv
    """
    from xpnet.run import load_run

    loaded = load_run(run, backend=backend, device=device, which=which)
    rows = loaded.read(_standard_input() if file == "-" else file, labelled=False)
    lines = _lines(loaded.predict(rows.x), loaded.preparation.classes)
    if output is None:
        for line in lines:
            click.echo(line)
        return 0
    from xpnet.checkpoint import atomic_write_text

    atomic_write_text(output, "".join(f"{line}\n" for line in lines))
    click.echo(f"{len(rows):,} predictions in {output}")
    return 0


def _standard_input() -> str:
    """Copy standard input to a file, which the readers can look at twice."""
    import atexit
    import os
    import shutil
    import sys
    import tempfile

    handle, path = tempfile.mkstemp(prefix="stdin-", suffix=".csv")
    atexit.register(os.unlink, path)
    with os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


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
