"""Models of steps as JSON, and as Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from xpnet.bench.model import Model
from xpnet.bench.networks import Network

__all__ = ["HEADER", "model_json", "model_markdown", "part_cells"]

Models = Mapping[Network, Model]
HEADER = ("part", "launches", "MB", "GFLOP", "µs")


def part_cells(model: Model) -> list[tuple[str, ...]]:
    """Return a row of cells for each part, below :data:`HEADER`."""
    return [
        (
            part.name,
            str(part.launches),
            f"{part.bytes / 1e6:,.2f}",
            f"{part.flops / 1e9:,.2f}" if part.flops else "-",
            f"{part.microseconds:,.1f}",
        )
        for part in model.parts
    ]


def model_json(models: Models) -> list[dict[str, Any]]:
    """Return the models as JSON data; times in microseconds."""
    return [
        {
            **network.facts(),
            "launches": model.launches,
            "bytes": model.moved,
            "modelled": model.microseconds,
            "limit": model.limit,
            "parts": [part._asdict() for part in model.parts],
        }
        for network, model in models.items()
    ]


def model_markdown(models: Models) -> str:
    """Return a table of the models beside their limits, and what their launches move."""
    head = ("network, batch, optimizer", "launches", "MB", "limit, µs", "model, µs", "ratio")
    rows = [
        (str(network), str(model.launches), f"{model.moved / 1e6:,.2f}", f"{model.limit:,.2f}",
         f"{model.microseconds:,.1f}", f"{model.microseconds / model.limit:,.2f}")
        for network, model in models.items()
    ]  # fmt: skip
    lines = _table(head, rows)
    for network, model in models.items():
        lines += ["", f"{network}:", "", *_table(HEADER, part_cells(model))]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    written = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return [written[0], "| --- |" + " ---: |" * (len(head) - 1), *written[1:]]
