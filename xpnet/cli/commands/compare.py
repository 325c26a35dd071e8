"""``xpnet compare``."""

from typing import TYPE_CHECKING, Any

import click

from xpnet.cli.options import json_option

if TYPE_CHECKING:
    from xpnet.run.comparison import Comparison


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--output", "-o", metavar="FILE", help="Also write a page, FILE.html; - is standard output."
)
@click.option(
    "--quick", is_flag=True, help="Compare what the runs wrote; read no data, and ask no luck."
)
@json_option
def compare(runs: tuple[str, ...], output: str | None, quick: bool, as_json: bool) -> int:
    """Compare runs: scores on their test parts, what they took, the settings that differ.

    A RUN may also be a folder of runs, or a file. Runs that were tested on the same rows are
    compared row by row, too, as long as their data is there: whether a difference may be luck. What
    cannot be compared is said, and scores of different kinds are not ranked together.

    \b
    xpnet compare runs/first runs/second
    xpnet compare runs --output compare.html
    xpnet compare runs --json
    """
    from xpnet.cli.output import check_places, print_json, say, write_output
    from xpnet.run.comparison import compare as compared

    check_places(output, as_json=as_json)
    found = compared(runs, paired=not quick)
    if output is not None:
        write_output(output, found.html())
    if as_json:
        print_json(found.document())
    elif output != "-":
        _print(found)
        if output is not None:
            say("", f"wrote {output}")
    return 0


def _print(found: "Comparison") -> None:
    from xpnet.cli.output import say

    by_metric: dict[str | None, list[int]] = {}
    for number, row in enumerate(found.rows):
        by_metric.setdefault(row["metric"], []).append(number)
    several = _print_scores(found, by_metric)
    if several:
        _print_settings(found)
    _print_luck(found)
    if found.notes:
        say("", *(f"note: {note}" for note in found.notes))


COLUMNS = (
    *(("loss", "loss"), ("best epoch", "best_epoch"), ("epochs", "epochs")),
    *(("parameters", "parameters"), ("seconds", "seconds")),
)
NARROW = 16  # characters of a folded column
SPARE = ("loss", "epochs", "best epoch", "seconds", "parameters")  # the last is left out first


def _print_scores(found: "Comparison", by_metric: dict[str | None, list[int]]) -> bool:
    """Print a table for each kind of score; return whether its settings need one of their own."""
    from xpnet.cli.output import fits, say, show_rows

    settings = {key: [_shown(v) for v in values] for key, values in found.settings.items()}
    for place, (metric, numbers) in enumerate(by_metric.items()):
        columns = [("run", "left"), (metric or "status", "right" if metric else "left")]
        columns += [(name, "right") for name, _ in COLUMNS]
        rows: list[list[Any]] = []
        for number in numbers:
            row = found.rows[number]
            first = f"{row['score']:.4f}" if metric else row["status"]
            rows.append([row["run"], first, *(_cell(name, row[key]) for name, key in COLUMNS)])
        whole = [*columns, *((key, "left") for key in settings)]
        wide = [
            [*row, *(values[n] for values in settings.values())]
            for n, row in zip(numbers, rows, strict=True)
        ]
        if place:
            say("")
        if len(by_metric) == 1 and fits(whole, wide):
            show_rows(whole, wide)
            return False
        show_rows(columns, rows, spare=SPARE)
    return bool(settings)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "loss":
        return f"{value:.4f}"
    return f"{value:.1f}" if name == "seconds" else f"{value:,}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)


def _print_settings(found: "Comparison") -> None:
    """Print what differs: a line for each setting if that fits, else lines for each run."""
    from xpnet.cli.output import fits, say, show_rows, terminal

    names = [row["run"] for row in found.rows]
    columns = [("setting", "left"), *((name, "left") for name in names)]
    rows = [[key, *map(_shown, values)] for key, values in found.settings.items()]
    say("")
    room = terminal()[0] - max(map(len, found.settings)) - NARROW * len(names)
    if fits(columns, rows) or room >= 0:
        show_rows(columns, rows, fold=not fits(columns, rows))
        return
    say("settings that differ")
    for number, name in enumerate(names):
        say(name)
        say(*(f"  {key} {_shown(values[number])}" for key, values in found.settings.items()))


def _print_luck(found: "Comparison") -> None:
    from xpnet.cli.output import say

    if not found.against:
        return
    say("", "is the difference luck?")
    for each in found.against:
        line = f"{each.run} is behind {each.best} by {each.difference:.4f} in {each.score} on the "
        line += f"same {each.rows:,} test rows: {each.verdict}"
        say(line)
        why = f"p {each.corrected:.2g} by {each.test}"
        if each.run_wrong is not None:
            why = f"both wrong on {each.both_wrong} rows, only it on {each.run_wrong}, only "
            why += f"{each.best} on {each.best_wrong}; p {each.corrected:.2g} by {each.test}"
        say(f"  {why}")
    told = "p is how often two equally good runs would differ so much on such rows"
    if len(found.against) > 1:
        told += "; it is corrected for the number of comparisons (Holm)"
    say(f"{told}. Another seed of the training is another draw.")
