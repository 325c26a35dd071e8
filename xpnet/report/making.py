"""How a run was made: its layers, settings, machine, and what was said on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xpnet.report.layout import Card, Section, Table

__all__ = ["Text", "making"]

MOST_LAYERS, MOST_LINES = 60, 60
# of run.json, with the words for them; the rest is shown by its own name
WORDS = {
    "backend": "array library",
    "tf32": "TF32",
    "reason": "chosen because",
    "fingerprint": "data fingerprint",
    "step": "training step",
    "threads_reason": "threads because",
    "train_rows": "training rows",
    "validation_rows": "validation rows",
    "test_rows": "test rows",
}
ELSEWHERE = ("warnings",)


@dataclass(frozen=True)
class Text:
    """Lines as they stand; ``folded`` ones are shown on demand."""

    lines: Sequence[str]
    summary: str = ""


def making(
    layers: Sequence[Sequence[Sequence[str]]],
    changed: Sequence[tuple[str, str, str]],
    config: str,
    record: Mapping[str, Any],
    said: Sequence[str],
    warnings: Sequence[str],
) -> Section:
    """Return the section on how a run was made.

    ``layers`` are the head, the rows and the foot of the table of layers; ``changed`` the settings
    that are not defaults, with both values; ``config`` all of them as TOML; ``record`` what
    run.json has; ``said`` and ``warnings`` what the training printed.
    """
    cards = []
    if warnings:
        cards.append(Card("Warnings", (Text(_bounded(warnings)),), "", wide=True))
    if layers:
        cards.append(_layers(layers))
    if record:
        rows = [
            [WORDS.get(key, key.replace("_", " ")), _shown(value)]
            for key, value in record.items()
            if key not in ELSEWHERE
        ]
        cards.append(Card("Environment", (Table(("what", "value"), rows, "<<", "Environment"),)))
    rows = [list(each) for each in changed[:MOST_LINES]]
    settings = Table(("setting", "value", "default"), rows, "<<<", "Settings that are not defaults")
    whole = Text(config.rstrip("\n").split("\n"), "All settings, as TOML")
    note = "" if rows else "All settings are the defaults."
    cards.append(Card("Settings", (*([settings] if rows else []), whole), note))
    if said:
        cards.append(Card("What it said of the data", (Text(_bounded(said)),), "", wide=True))
    return Section("making", "How was it made?", "", tuple(cards))


def _layers(groups: Sequence[Sequence[Sequence[str]]]) -> Card:
    (head, *_), body, foot = groups
    left = len(body) - MOST_LAYERS
    shown = [*body[: MOST_LAYERS // 2], *body[-MOST_LAYERS // 2 :]] if left > 0 else [*body]
    more = f"{left} layers in the middle are not shown." if left > 0 else ""
    rows = [[f"{n}.{name}" if n else name, *rest] for n, name, *rest in [*shown, *foot]]
    return Card("Layers", (Table(tuple(head[1:]), rows, "<<<>", "Layers", more),), "", wide=True)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _bounded(lines: Sequence[str]) -> Sequence[str]:
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[:MOST_LINES], f"... and {len(lines) - MOST_LINES} more lines"]
