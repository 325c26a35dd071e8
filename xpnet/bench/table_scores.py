"""What the fits of `scripts/bench-tables` say: means, standard errors, ranks, bars and reports."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from xpnet.bench.table_peers import BASE, REAL_MLP, SKLEARN_MLP
from xpnet.bench.table_race import Cell
from xpnet.escape import escape_markdown

__all__ = ["Result", "broken_bars", "mean_ranks", "results", "to_json", "to_markdown"]

AHEAD = 0.8  # of the tables, against scikit-learn's MLP
NEAR = 0.01  # of RealMLP's mean score
SHARE = 0.2  # of RealMLP's mean time


class Result(NamedTuple):
    """A peer on a table: its scores in the order of the seeds, and what they say."""

    table: str
    peer: str
    metric: str  # accuracy or R²
    scores: tuple[float, ...]
    seconds: float  # mean
    warnings: int
    others: dict[str, float]  # means of the other metrics

    @property
    def mean(self) -> float:
        """The mean score."""
        return statistics.fmean(self.scores)

    @property
    def counted(self) -> float:
        """The mean score in means over tables: R² below 0 is no worse than the mean target."""
        return max(self.mean, 0.0)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return standard_error(self.scores)


Results = dict[tuple[str, str], Result]


def standard_error(values: Sequence[float]) -> float:
    """Return s / √n; 0 for a single value.

    >>> round(standard_error([1.0, 2.0, 3.0]), 4)
    0.5774
    """
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def results(cells: Iterable[Cell]) -> Results:
    """Return the results by table and peer; a peer that failed in one split of a table has none."""
    of: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        of.setdefault((cell.table, cell.peer), []).append(cell)
    found = {}
    for (table, peer), own in of.items():
        if any(cell.failure for cell in own):
            continue
        own = sorted(own, key=lambda cell: cell.seed)
        metric, *others = own[0].scores
        means = {m: statistics.fmean(c.scores[m] for c in own) for m in others}
        scores = tuple(cell.scores[metric] for cell in own)
        seconds = statistics.fmean(cell.seconds for cell in own)
        count = sum(cell.warnings for cell in own)
        found[table, peer] = Result(table, peer, metric, scores, seconds, count, means)
    return found


def _names(found: Results) -> tuple[list[str], list[str]]:
    """The tables and the peers, in the order in which they came."""
    return list(dict.fromkeys(t for t, _ in found)), list(dict.fromkeys(p for _, p in found))


def mean_ranks(found: Results) -> dict[str, float]:
    """Return each peer's mean rank, 1 the best, over the tables on which all have a result.

    Equal scores share the mean of their ranks.
    """
    tables, peers = _names(found)
    ranks: dict[str, list[float]] = {peer: [] for peer in peers}
    for table in tables:
        if any((table, peer) not in found for peer in peers):
            continue
        means = [found[table, peer].mean for peer in peers]
        for peer, mean in zip(peers, means, strict=True):
            equal = sum(m == mean for m in means)
            ranks[peer].append(sum(m > mean for m in means) + (equal + 1) / 2)
    return {peer: statistics.fmean(values) for peer, values in ranks.items() if values}


def broken_bars(found: Results) -> list[str]:
    """Return a line for each bar that was missed, and for each that could not be checked."""
    return [*_against_sklearn(found), *_against_real_mlp(found)]


def _pairs(found: Results, peer: str) -> tuple[list[tuple[Result, Result]], list[str]]:
    """xpnet's results beside the peer's, and a line for each table where one of them has none."""
    pairs, lines = [], []
    for table in _names(found)[0]:
        ours, theirs = found.get((table, BASE)), found.get((table, peer))
        if ours and theirs and len(ours.scores) == len(theirs.scores):
            pairs.append((ours, theirs))
        elif theirs:
            lines.append(f"{table}: {BASE} has no result")
    if not pairs:
        lines.append(f"{peer} was not compared with")
    return pairs, lines


def _against_sklearn(found: Results) -> list[str]:
    pairs, broken = _pairs(found, SKLEARN_MLP)
    if not pairs:
        return broken
    ranks = mean_ranks({k: v for k, v in found.items() if k[1] in (BASE, SKLEARN_MLP)})
    if not ranks[BASE] < ranks[SKLEARN_MLP]:
        broken.append(f"mean rank {ranks[BASE]:.2f}, {SKLEARN_MLP} {ranks[SKLEARN_MLP]:.2f}")
    ahead = sum(ours.mean > theirs.mean for ours, theirs in pairs) / len(pairs)
    if ahead < AHEAD:
        broken.append(f"ahead of {SKLEARN_MLP} on {ahead:.0%} of the tables; expected {AHEAD:.0%}")
    for ours, theirs in pairs:
        differences = [a - b for a, b in zip(ours.scores, theirs.scores, strict=True)]
        mean, error = statistics.fmean(differences), standard_error(differences)
        if mean < -error:
            broken.append(
                f"{ours.table}: {-mean:.4f} behind {SKLEARN_MLP}, standard error {error:.4f}"
            )
    return broken


def _against_real_mlp(found: Results) -> list[str]:
    pairs, broken = _pairs(found, REAL_MLP)
    if not pairs:
        return broken
    ours, theirs = (statistics.fmean(pair[i].counted for pair in pairs) for i in (0, 1))
    if ours < theirs * (1 - NEAR):
        broken.append(f"mean score {ours:.4f}; expected {NEAR:.0%} below {REAL_MLP}'s {theirs:.4f}")
    ours, theirs = (statistics.fmean(pair[i].seconds for pair in pairs) for i in (0, 1))
    if ours > theirs * SHARE:
        broken.append(
            f"mean time {ours:.2f} s; expected {SHARE:.0%} of {REAL_MLP}'s {theirs:.2f} s"
        )
    return broken


def to_json(cells: Sequence[Cell], facts: dict[str, Any]) -> dict[str, Any]:
    """Return every fit, the summary and the bars as JSON data."""
    found = results(cells)
    return {
        **facts,
        "mean ranks": mean_ranks(found),
        "bars missed": broken_bars(found),
        "fits": [cell.json() for cell in cells],
    }


def to_markdown(cells: Sequence[Cell], sentence: str) -> str:
    """Return the report: the summary, the scores, the seconds, and what failed."""
    found = results(cells)
    tables, peers = _names(found)
    lines = ["# Tables", "", sentence, "", *_summary(found, tables, peers)]
    lines += ["", "## Scores", "", "Mean ± standard error; accuracy, or R² where it says so.", ""]
    lines += _grid(found, tables, peers, _score)
    lines += ["", "## Macro F1, log loss", ""]
    lines += _grid(found, [t for t in tables if _is_classified(found, t)], peers, _others)
    lines += ["", "## Seconds per fit", "", *_grid(found, tables, peers, _seconds)]
    failures = dict.fromkeys((c.table, c.peer, c.failure) for c in cells if c.failure)
    if failures:
        lines += ["", "## Without a result", ""]
        lines += [f"- {t}, {p}: {escape_markdown(why)}" for t, p, why in failures]
    lines += ["", "## Bars", "", *(f"- missed: {b}" for b in broken_bars(found))]
    if not broken_bars(found):
        lines.append("All held.")
    return "\n".join(lines) + "\n"


def _summary(found: Results, tables: list[str], peers: list[str]) -> list[str]:
    ranks, lines = mean_ranks(found), []
    whole = [t for t in tables if all((t, p) in found for p in peers)]
    lines = [
        f"Over the {len(whole)} tables on which all have a result (R² below 0 counts as 0):",
        "",
    ]
    lines += ["| peer | mean rank | mean score | mean seconds | did not converge |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for peer in sorted(ranks, key=lambda p: ranks[p]):
        own = [found[t, peer] for t in whole]
        score = statistics.fmean(r.counted for r in own)
        seconds = statistics.fmean(r.seconds for r in own)
        count = sum(r.warnings for r in own)
        lines.append(f"| {peer} | {ranks[peer]:.2f} | {score:.4f} | {seconds:.2f} | {count} |")
    return lines


def _grid(found: Results, tables: list[str], peers: list[str], shown: Any) -> list[str]:
    lines = [f"| table | {' | '.join(peers)} |", "| --- |" + " ---: |" * len(peers)]
    for table in tables:
        cells = [shown(found[table, p]) if (table, p) in found else "–" for p in peers]
        regression = not _is_classified(found, table)
        lines.append(f"| {table}{' (R²)' if regression else ''} | {' | '.join(cells)} |")
    return lines


def _is_classified(found: Results, table: str) -> bool:
    return any(r.metric == "accuracy" for (t, _), r in found.items() if t == table)


def _score(result: Result) -> str:
    return f"{result.mean:.4f} ± {result.error:.4f}"


def _others(result: Result) -> str:
    return ", ".join(f"{value:.3f}" for value in result.others.values())


def _seconds(result: Result) -> str:
    return f"{result.seconds:.2f}"
