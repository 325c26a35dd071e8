"""Compare whole libraries, as they are by default, on real tables.

    scripts/bench-tables --data ../shared/data

Every table of the folder and of scikit-learn, ten seeded splits (a quarter of the rows for testing,
stratified; letter has its usual one, fitted thrice): xpnet against scikit-learn's MLP, its
boosting and linear models, a plain PyTorch network and RealMLP-TD-S. With --samples: small samples
of MNIST, Fashion-MNIST and letter, with 1,500 rows to test on. All get the same file of
training rows; its reading, the encoding and the fit are timed. Needs pandas and scikit-learn, and
skorch and pytabkit for the last two peers (`pip install pandas scikit-learn skorch pytabkit`): a
peer that is not installed is reported as such. Writes bench-tables.md and bench-tables.json, or
bench-samples.md and bench-samples.json.
Exit code 1: a bar was missed; each is named.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from xpnet.bench.results import machine, sentence
from xpnet.bench.samples import SAMPLES
from xpnet.bench.setting import Setting
from xpnet.bench.table_peers import PEERS
from xpnet.bench.table_race import Cell, Racer
from xpnet.bench.table_scores import broken_bars, results, to_json, to_markdown
from xpnet.bench.tables import SHORT, TABLES, Table, tables_named
from xpnet.errors import ConfigError, XpnetError
from xpnet.settings import did_you_mean

SPLITS, SHORT_SPLITS = 10, 3
ROWS = {
    "tables": "{} seeded splits of a quarter of the rows for testing, stratified; letter's usual "
    "one. ",
    "samples": "{} draws of each, with 1,500 rows for testing; none of their rows is a test row of "
    "bench-tables. ",
}
METHOD = (
    "A fit has {threads}; its seconds are those of reading the training rows' CSV file, "
    "encoding them and fitting, after a warm-up, in a process of its own. "
)


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the folder of the tables")
    add("--report", type=Path, default=Path("scripts/reports"), help="folder of the reports")
    add("--tables", type=listed, default=[], help="names, comma-separated; all by default")
    add("--peers", type=listed, default=list(PEERS), help=f"of: {', '.join(PEERS)}")
    add("--splits", type=int, help=f"{SPLITS} by default")
    add("--threads", type=int, default=1, help="of each fit; 1 by default")
    add("--timeout", type=float, default=900.0, help="seconds for a fit; 900 by default")
    add("--cells", type=Path, help="JSON Lines: fits that it has are kept, new ones appended")
    add("--samples", action="store_true", help="of MNIST, Fashion-MNIST and letter, in their stead")
    add("--short", action="store_true", help=f"{', '.join(SHORT)}; {SHORT_SPLITS} splits")
    options = parser.parse_args(given)
    options.tables = options.tables or (list(SHORT) if options.short else [])
    options.splits = options.splits or (SHORT_SPLITS if options.short else SPLITS)
    for peer in options.peers:
        if peer not in PEERS:
            parser.error(f"unknown peer {peer!r}; {did_you_mean(peer, PEERS)}")
    return options


def listed(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def fits(tables: list[Table], options: argparse.Namespace, known: list[Cell]) -> Iterator[Cell]:
    """Yield the fits of all peers to all splits, table by table; known ones as they are."""
    done = {(cell.table, cell.seed, cell.peer): cell for cell in known}
    racers = {
        peer: Racer(peer, PEERS[peer], options.threads, options.timeout) for peer in options.peers
    }
    try:
        for table in tables:
            for split in table.splits(options.splits, options.data):
                for peer, racer in racers.items():
                    cell = done.get((table.name, split.seed, peer))
                    yield cell or racer.run(split, options.data)
    finally:
        for racer in racers.values():
            racer.end()


def collect(tables: list[Table], options: argparse.Namespace) -> list[Cell]:
    """Return all fits, each said as it is done."""
    path, known, cells = options.cells, [], []
    if path and path.exists():
        known = [Cell(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    for cell in fits(tables, options, known):
        cells.append(cell)
        if cell in known:
            continue
        score = cell.failure or ", ".join(f"{k} {v:.4f}" for k, v in cell.scores.items())
        times = f"{cell.seconds:.2f} s, of CPU {cell.cpu:.2f}"
        print(f"{cell.table} {cell.seed} {cell.peer}: {score}, {times}", flush=True)
        if path:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell.json()) + "\n")
    return cells


def main(given: list[str] | None = None) -> int:
    """Measure, write the reports and check the bars."""
    options = arguments(given)
    what, every = ("samples", SAMPLES) if options.samples else ("tables", TABLES)
    try:
        if options.samples and options.short:
            msg = f"--short is {', '.join(SHORT)}, and --samples has none of these: leave one out"
            raise ConfigError(msg)
        cells = collect(tables_named(options.tables, every), options)
    except XpnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts = machine(Setting())
    threads = "one thread" if options.threads == 1 else f"{options.threads} threads"
    method = ROWS[what].format(options.splits) + METHOD.format(threads=threads) + sentence(facts)
    options.report.mkdir(parents=True, exist_ok=True)
    report = to_json(cells, {"machine": facts, "threads": options.threads})
    path = options.report / f"bench-{what}.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    path.with_suffix(".md").write_text(to_markdown(cells, method), "utf-8")
    broken = broken_bars(results(cells))
    for bar in broken:
        print(f"missed: {bar}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
