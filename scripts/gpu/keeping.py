"""What a stage has found so far, on disk: one that is stopped loses nothing."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Kept", "table"]


class Kept:
    """Results by name in a JSON file, which is replaced as a whole at each change.

    ``missed`` holds a sentence for all that is not as it should be, ``near`` one for what is only
    just: the report lists both.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.found: dict[str, Any] = {"missed": [], "near": []}

    def put(self, **values: Any) -> None:
        self.found |= values
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(self.found, default=str) + "\n", "utf-8")
        os.replace(part, self.path)

    def miss(self, sentence: str) -> None:
        self._say("missed", sentence)

    def near(self, sentence: str) -> None:
        self._say("near", sentence)

    def within(self, what: str, value: float, bound: float) -> bool:
        """Note a deviation that exceeds its bound, or half of it; return whether it is within."""
        if not value <= bound:  # NaN, too
            self.miss(f"{what}: {value:.1e} where {bound:.0e} is allowed")
            return False
        if value > bound / 2:
            self.near(f"{what}: {value:.1e}, near the {bound:.0e} that is allowed")
        return True

    def _say(self, kind: str, sentence: str) -> None:
        print(f"{kind}: {sentence}", flush=True)
        self.found[kind].append(sentence)
        self.put()

    @property
    def code(self) -> int:
        """The exit code of the stage."""
        self.put()
        return int(bool(self.found["missed"]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, the keys of the first in its head.

    >>> print(table([{"kernel": "sgd", "GB/s": 3000.0}]))
    | kernel | GB/s |
    | --- | ---: |
    | sgd | 3,000 |
    """
    if not rows:
        return ""
    right = [any(isinstance(row[name], int | float) for row in rows) for name in rows[0]]
    lines = [list(rows[0]), ["---:" if number else "---" for number in right]]
    lines += [[_cell(row.get(name)) for name in rows[0]] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
