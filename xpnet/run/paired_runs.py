"""Runs that were tested on the same rows, each beside the best of them, row by row."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np

from xpnet.data import Dataset, fingerprint
from xpnet.data.paired import holm, mcnemar, sign_flips
from xpnet.errors import XpnetError
from xpnet.run.overview import Overview
from xpnet.run.row_errors import row_errors
from xpnet.run.scores import scores
from xpnet.run.trained_run import Run, load
from xpnet.settings import dump

__all__ = ["MOST_ROWS", "Against", "paired_with"]

MOST_ROWS = 1_000_000  # of a test part


class Against(NamedTuple):
    """A run beside the best one, on the rows that both were tested on."""

    run: str
    best: str
    rows: int
    score: str  # of which the difference is
    difference: float  # how much worse the run is
    both_wrong: int | None  # rows; None where errors are not right or wrong
    run_wrong: int | None  # of those that the best has right
    best_wrong: int | None
    test: str  # "McNemar's exact test" or "sign flips"
    p: float
    corrected: float  # for all that are compared with the same best: Holm's method

    @property
    def verdict(self) -> str:
        """What it means, in words."""
        if self.corrected < 0.01:
            return "hardly luck"
        return "probably not luck" if self.corrected < 0.05 else "may be luck"

    def row(self) -> dict[str, Any]:
        """Return it with its verdict, as a row of a table."""
        return {**self._asdict(), "verdict": self.verdict}


class _Tested(NamedTuple):
    rows: str  # a fingerprint of the test rows
    errors: np.ndarray
    weight: np.ndarray | None
    kind: str  # what the errors are


def paired_with(
    runs: Mapping[str, Overview],
) -> tuple[list[Against], dict[str, Overview], list[str]]:
    """Return each run beside the best of those of the same rows, and notes on what has no pair.

    ``runs`` are by name. Of a run that has a test part and no score yet, the score is
    computed: the second value has such runs with it.
    """
    parts: dict[str, Any] = {}  # the test parts by what decides them: the data is read once
    tested: dict[str, _Tested] = {}
    scored: dict[str, Overview] = {}
    notes = []
    for name, seen in _worth_it(runs).items():
        try:
            run = cast(Run, load(seen.path, backend="numpy", device="cpu"))
            part = _part(run, parts)
            if not isinstance(part, Dataset) or len(part) > MOST_ROWS:
                notes.append(f"{name} is not compared row by row: its test part is large")
                continue
            tested[name] = _tested(run, part)
            if seen.score is None:
                scored[name] = replace(seen, report=scores(run, part))
        except XpnetError as error:
            notes.append(f"{name} is not compared row by row: {error.message}")
    return _against(runs, tested), scored, [*notes, *_apart(tested)]


def _worth_it(runs: Mapping[str, Overview]) -> dict[str, Overview]:
    """The runs whose data is to be read: others have it, too, or it gives them a score."""
    having = {
        name: seen
        for name, seen in runs.items()
        if seen.status == "finished" and seen.config and seen.record.get("test_rows") != 0
    }
    prints = [seen.record.get("fingerprint") for seen in having.values()]
    return {
        name: seen
        for name, seen in having.items()
        if seen.score is None or prints.count(seen.record.get("fingerprint")) > 1
    }


def _part(run: Run, parts: dict[str, Any]) -> Any:
    """The test part of a run; runs of the same data and seed share it."""
    if run.config.start is not None:  # which may have brought its columns and classes
        return run.test_part()
    key = json.dumps([dump(run.config.data), run.config.seed, run.fingerprint], sort_keys=True)
    if key not in parts:
        parts[key] = run.test_part()
    return parts[key]


def _tested(run: Run, part: Dataset) -> _Tested:
    task = run.preprocessing.task
    return _Tested(fingerprint(part), row_errors(run, part), part.weight, task)


def _against(runs: Mapping[str, Overview], tested: Mapping[str, _Tested]) -> list[Against]:
    found: list[Against] = []
    groups: dict[tuple[str, str], list[str]] = {}
    for name in runs:
        if name in tested:
            groups.setdefault((tested[name].rows, tested[name].kind), []).append(name)
    for names in groups.values():
        best, *others = sorted(names, key=lambda name: _mean(tested[name]))
        pairs = [_pair(name, best, tested[name], tested[best]) for name in others]
        corrected = holm([pair.p for pair in pairs])
        found += [pair._replace(corrected=c) for pair, c in zip(pairs, corrected, strict=True)]
    return found


def _mean(tested: _Tested) -> float:
    counts = ~np.isnan(tested.errors)
    weight = None if tested.weight is None else tested.weight.reshape(-1)[counts]
    return float(np.average(tested.errors[counts], weights=weight)) if counts.any() else np.inf


def _pair(name: str, best: str, own: _Tested, other: _Tested) -> Against:
    counts = ~(np.isnan(own.errors) | np.isnan(other.errors))
    a, b = own.errors[counts], other.errors[counts]
    worse = _mean(own) - _mean(other)
    weight = 1.0 if own.weight is None else own.weight.reshape(-1)[counts]
    both = alone = best_alone = None  # of numbers no row is right or wrong
    if own.kind == "classification":
        both, alone, best_alone = (int(n) for n in (a @ b, a @ (1 - b), b @ (1 - a)))
    if alone is not None and best_alone is not None and own.weight is None:
        test, p = "McNemar's exact test", mcnemar(alone, best_alone)
    else:
        test, p = "sign flips", sign_flips((a - b) * weight)
    score = "r2" if own.kind == "regression" else "accuracy"
    return Against(name, best, len(a), score, worse, both, alone, best_alone, test, p, p)


def _apart(tested: Mapping[str, _Tested]) -> list[str]:
    """A note where runs were tested on different rows."""
    groups: dict[str, list[str]] = {}
    for name, each in tested.items():
        groups.setdefault(each.rows, []).append(name)
    if len(groups) < 2:
        return []
    told = "; ".join(", ".join(names) for names in groups.values())
    return [f"tested on different rows, so that luck is in the difference: {told}"]
