"""The measurement and the model of :mod:`xpnet.bench.scaling` as tables and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from xpnet.bench.results import sentence
from xpnet.bench.scaling import Measured, Point, Scaling
from xpnet.bench.scaling_model import LIMITS, halves_at, least_rows, predict
from xpnet.bench.scaling_outlook import (
    ENOUGH,
    LINKS,
    POWERS,
    disturbed,
    efficiencies,
    predicted,
    simulations,
)

__all__ = ["Table", "notes", "outlook", "scaling_json", "scaling_markdown", "tables"]


BUSY = 0.25  # processes for each core


class Table(NamedTuple):
    """A table, and what it is of."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(scaling: Scaling) -> list[Table]:
    """Return what was measured, beside the model."""
    found = []
    for of in scaling.networks:
        found += [_steps(scaling, of), _rates(scaling, of)]
        if variants := _variants(of):
            found.append(variants)
    one = [
        (str(m.network), f"{m.one_rank:.2f}", "the same" if m.same_bits else "others")
        for m in scaling.networks
    ]
    title = "One rank of an MPI beside a process without"
    found.append(Table(title, ("network", "time", "bits"), one))
    return [*found, _sums(scaling)] if scaling.sizes else found


def _points(scaling: Scaling, of: Measured) -> Iterator[tuple[str, str, Point]]:
    """The points by kind, and how their rows of a table begin."""
    for kind in ("strong", "weak"):
        for n, p in sorted(of.points[kind].items()):
            if n > 1 or (n == 1 and kind == "strong"):
                yield kind, f"{kind}, {_ranks(scaling, n)}, batch {p.rows:,}", p


def _ranks(scaling: Scaling, n: int) -> str:
    return f"{n}{' *' * (n > scaling.cores)}"


def _steps(scaling: Scaling, of: Measured) -> Table:
    rows = []
    for kind, name, p in _points(scaling, of):
        model = scaling.modelled(of, p.ranks, weak=kind == "weak").microseconds
        sums = f"{_us(p.in_sums)} ({p.in_sums / p.step:.0%})", _us(p.sum_alone), _us(p.computing)
        alone = ("-", "-", _us(p.step))
        error = f"{model / p.step - 1:+.0%}"
        rows.append((name, _us(p.step), *(sums if p.ranks > 1 else alone), _us(model), error))
    head = ("ranks", "µs", "in sums", "sum alone", "without", "model, µs", "error")
    return Table(f"{of.network}: a step, of {of.size / 1e6:,.2f} MB to sum", head, rows)


def _rates(scaling: Scaling, of: Measured) -> Table:
    rows = [
        (
            name,
            f"{p.rate:,.0f}",
            f"{of.speed_up(kind, p.ranks):.2f}",
            f"{of.efficiency(kind, p.ranks):.0%}",
        )
        for kind, name, p in _points(scaling, of)
    ]
    head = ("ranks", "rows per second", "speed-up", "efficiency")
    return Table(f"{of.network}: what that comes to", head, rows)


def _variants(of: Measured) -> Table | None:
    rows = []
    for name, points in of.points.items():
        for n, p in points.items():
            if name not in ("strong", "weak"):
                plain = of.points["strong"][n]
                rows.append((name, str(n), _us(p.step), f"{p.step / plain.step:.2f}", p.note))
    head = ("sum", "ranks", "µs", "ratio", "step")
    return Table(f"{of.network}: summed otherwise", head, rows) if rows else None


def _sums(scaling: Scaling) -> Table:
    rows = []
    for n, points in scaling.sizes.items():
        fit = scaling.sums[n]
        rows += [
            (_ranks(scaling, n), f"{size:,}", _us(spent), _us(fit(n, size)))
            for size, spent in points
        ]
    head = ("ranks", "bytes", "µs", "model, µs")
    return Table("A sum alone, and the model fitted to it", head, rows)


def notes(scaling: Scaling) -> list[str]:
    """Return what must be known to read :func:`tables`."""
    found = [
        "Each rank has one thread. Strong scaling has the same batch for every number of ranks, "
        "weak scaling the same rows of each rank. Medians in microseconds: a step; of that in "
        "sums, waiting for the slower ranks included; such a sum alone, of ranks that come to it "
        "together; and a step without its sum, beside the other ranks."
    ]
    if scaling.load is not None and scaling.load >= BUSY * scaling.cores:
        found.append(
            f"Others used the machine, too: {scaling.load:.1f} processes wanted its "
            f"{scaling.cores} cores before the measurement began. Times are longer for it, and "
            "waiting for the slower ranks is more."
        )
    if any(n > scaling.cores for m in scaling.networks for n in m.points["strong"]):
        found.append(
            f"* More ranks than the {scaling.cores} cores: they take turns, and those that wait "
            "for a sum keep others from theirs. Such rows are no example of how it scales."
        )
    return found


def outlook(scaling: Scaling) -> list[Table]:
    """Return what the model predicts up to 1,024 ranks."""
    found, summary = [], []
    for title, steps in predicted(scaling):
        head, rows = efficiencies(steps)
        found.append(Table(title, head, rows))
        for link, step in steps.items():
            half = (halves_at(step, POWERS, weak=weak) for weak in (False, True))
            least = (least_rows(step, n, ENOUGH) for n in (8, POWERS[-1]))
            cells = ("-" if x is None else f"{x:,}" for x in (*half, *least))
            summary.append((f"{title}, {link}", *cells))
    head = ("", "strong", "weak", "rows for 8", f"for {POWERS[-1]:,}")
    title = "Ranks from which efficiency is below a half, and rows of each that keep it there"
    found.append(Table(title, head, summary))
    head, rows = disturbed(scaling)
    return [*found, Table("Where each rank is disturbed as this machine is", head, rows)]


def outlook_notes(scaling: Scaling) -> list[str]:
    """Return what must be known to read :func:`outlook`."""
    letters = "; ".join(f"{letter}: {what}" for letter, what in LIMITS.items())
    links = "; ".join(link.source for link in LINKS.values())
    return [
        "Efficiency by the model, with what takes the most of the rest, and in strong scaling how "
        f"many ranks are idle, without a row ({letters}). {links}. Hosts have one rank each. A "
        f"core as here adds {scaling.added:.0f} GB/s to a vector, and nothing else disturbs it. A "
        "GPU's step by other numbers of rows is as its launches and bytes say, its sums are as "
        "NCCL models them."
    ]


SIMULATION = (
    "Each message of a sum, rank by rank, beside the closed form, from which it differs by "
    "rounding. Then whole steps: each rank computes for as long as one of the steps measured here "
    "took, at its share of the rows, and the sum's messages wait for those that are late. The "
    "model has them begin when the last one comes. The last column has each message late by 1 µs "
    "on average, of which the model knows nothing."
)


def scaling_json(scaling: Scaling, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the measurement, the model beside it and the outlook as JSON data."""
    networks = []
    for m in scaling.networks:
        models = {
            kind: {
                n: scaling.modelled(m, n, weak=kind == "weak")._asdict()
                for n in m.points[kind]
                if n
            }
            for kind in ("strong", "weak")
        }
        points = {k: {n: p._asdict() for n, p in ps.items()} for k, ps in m.points.items()}
        networks.append(
            {
                **m.network.facts(),
                "bytes": m.size,
                "points": points,
                "model": models,
                "compute": {"alone": asdict(m.alone), "shared": asdict(m.compute)},
                "one_rank": {"ratio": m.one_rank, "same_bits": m.same_bits},
            }
        )
    sums = {n: {**asdict(s), "measured": scaling.sizes[n]} for n, s in scaling.sums.items()}
    ahead = {
        title: {
            link: {
                kind: [predict(s, n, weak=kind == "weak")._asdict() for n in POWERS]
                for kind in ("strong", "weak")
            }
            for link, s in steps.items()
        }
        for title, steps in predicted(scaling)
    }
    return {
        "machine": facts,
        "load": scaling.load,
        "networks": networks,
        "sums": sums,
        "added": scaling.added,
        "predicted": ahead,
    }


def scaling_markdown(scaling: Scaling, facts: dict[str, Any]) -> str:
    """Return all tables, and what they say of the machine."""
    lines = ["## Measured, and modelled", "", *_paragraphs(notes(scaling))]
    for table in tables(scaling):
        lines += _written(table)
    lines += [sentence(facts), "", "## Predicted", "", *_paragraphs(outlook_notes(scaling))]
    for table in outlook(scaling):
        lines += _written(table)
    lines += ["## Simulated", "", SIMULATION, ""]
    largest = max(scaling.networks, key=lambda m: m.size)
    head, rows = simulations(scaling, largest)
    lines += _written(Table(f"{largest.network}: message by message", head, rows))
    return "\n".join(lines)


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in (text, "")]


def _written(table: Table) -> list[str]:
    written = [f"| {' | '.join(cells)} |" for cells in (table.head, *table.rows)]
    rule = "| --- |" + " ---: |" * (len(table.head) - 1)
    return [f"### {table.title}", "", written[0], rule, *written[1:], ""]


def _us(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:,.1f}"
