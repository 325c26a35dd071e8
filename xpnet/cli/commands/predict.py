"""``xpnet predict``."""

import click

from xpnet.cli.options import device_options, json_option, open_run, say_notes, which_option
from xpnet.cli.output import say, write_output


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE")
@device_options
@click.option("--output", "-o", metavar="FILE", help="Write to FILE instead of standard output.")
@json_option
@which_option
def predict(
    run: str,
    file: str,
    device: str | None,
    backend: str | None,
    output: str | None,
    as_json: bool,
    which: str,
) -> int:
    """Predict the rows of FILE: a table, arrays or images; - reads CSV from standard input.

    Writes CSV: the class and the probability of every class, or the predicted values of a
    regression. Columns are found by the names that the run was trained on, or by position where
    there are none; others, and the label, are left out. With --json it is a list with an object
    for each row, of the same names.

    \b
    xpnet predict runs/first new.csv
    xpnet predict model.safetensors rows.npy       a saved model, and rows of plain numbers
    head -5 new.csv | xpnet predict runs/first - -o predictions.csv
    """
    import sys

    from xpnet.data.files import naming

    loaded, place, output = open_run(run, backend, device, which), file, output or "-"
    if file == "-":
        place, rows = "standard input", _standard_input(loaded)
    else:
        rows = loaded.read(file, labelled=False)
    say_notes(place, rows)
    with naming(place):
        make = _json_lines if as_json else _lines
        lines = make(loaded.predictions(rows), loaded.preprocessing)
        if output == "-" and sys.stdout.isatty():
            for line in lines:
                say(line)
        else:
            write_output(output, (f"{line}\n" for line in lines))
    if output != "-":
        say(f"{len(rows):,} predictions in {output}", err=as_json)
    return 0


def _standard_input(loaded):  # type: ignore[no-untyped-def]
    """Read the rows from a copy of standard input, which the readers can read twice."""
    import sys
    import tempfile
    from pathlib import Path

    from xpnet.data.files import MAX_BYTES
    from xpnet.errors import DataError

    if sys.stdin is None:
        msg = "standard input is closed: name a file instead of -"
        raise DataError(msg)
    with tempfile.TemporaryDirectory() as folder:
        path, total = Path(folder) / "input.csv", 0
        with path.open("wb") as file:
            while block := sys.stdin.buffer.read(2**20):
                total += file.write(block)
                if total > MAX_BYTES:
                    msg = f"standard input has more than {MAX_BYTES} bytes: split it"
                    raise DataError(msg)
        try:
            return loaded.read(path, labelled=False)
        except DataError as error:
            message = error.message.replace(str(path), "standard input")
            raise DataError(message, python=error.python, command=error.command) from None


def _lines(batches, preprocessing):  # type: ignore[no-untyped-def]
    """Yield the CSV lines of predictions that arrive in batches."""
    import csv
    import io

    from xpnet.run.answers import answer_names

    classes = preprocessing.classes

    def line(cells):  # type: ignore[no-untyped-def]
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(cells)
        return text.getvalue()

    for number, batch in enumerate(batches):
        columns = batch.reshape(len(batch), -1)
        if number == 0:
            yield line(answer_names(preprocessing, columns.shape[1]))
        for row in columns:
            if preprocessing.task == "regression":
                yield line([f"{v:.7g}" for v in row])
            else:
                named = [] if classes is None else [classes[int(row.argmax())]]
                yield line([*named, *(f"{p:.6f}" for p in row)])


def _json_lines(batches, preprocessing):  # type: ignore[no-untyped-def]
    """Yield the lines of a JSON list with an object for each row; numbers have all their digits."""
    from xpnet.run.answers import answer_columns
    from xpnet.storage.plain_json import json_text

    before = "["
    for batch in batches:
        columns = answer_columns(preprocessing, batch)
        for row in zip(*columns.values(), strict=True):
            named = zip(columns, row, strict=True)
            yield f"{before}{json_text({k: _shortest(v) for k, v in named})}"
            before = ","
    yield "[]" if before == "[" else "]"


def _shortest(value):  # type: ignore[no-untyped-def]
    """The number of the fewest digits that is this one in its own precision."""
    return value if isinstance(value, str) else float(str(value))
