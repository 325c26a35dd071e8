"""The table, JSON, Markdown and a plot of what was measured."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from xpnet.bench.contenders import LIMIT
from xpnet.bench.measure import Row
from xpnet.errors import require

__all__ = ["machine", "plot", "to_json", "to_markdown"]

LIBRARIES = ("xpnet", "numpy", "numba", "torch", "jax", "jaxlib", "scikit-learn", "cupy-cuda13x")


def machine() -> dict[str, Any]:
    """Return what the times depend on: processor, threads and versions."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    threads = {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads or "default",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def to_json(rows: list[Row], dtype: str) -> dict[str, Any]:
    """Return the measurement as JSON data; times in microseconds per step."""
    return {
        "machine": machine(),
        "dtype": dtype,
        "rows": [
            {
                "network": str(row.network),
                "flops": row.network.flops(),
                "timings": {
                    name: {**timing._asdict(), "ratio": row.ratio(name)}
                    for name, timing in row.timings.items()
                },
                "absent": row.absent,
            }
            for row in rows
        ],
    }


def to_markdown(rows: list[Row], dtype: str) -> str:
    """Return a table of medians in microseconds, and the ratio to the GEMM limit."""
    names = list(dict.fromkeys(name for row in rows for name in row.timings))
    lines = [
        "| network, batch, optimizer | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for row in rows:
        cells = []
        for name in names:
            timing = row.timings.get(name)
            ratio = "" if name == LIMIT else f" ({row.ratio(name):.2f})" if timing else ""
            cells.append(f"{timing.median:,.0f}{ratio}" if timing else "-")
        lines.append(f"| {row.network} | " + " | ".join(cells) + " |")
    facts = machine()
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    lines += [
        "",
        f"Median microseconds per step, in {dtype}; in brackets, times the {LIMIT}. "
        f"{facts['processor']}, {facts['cores']} cores, threads {facts['threads']}; "
        f"Python {facts['python']}, {versions}.",
    ]
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: str) -> None:
    """Draw the ratios to the GEMM limit as bars; the suffix of ``path`` names the format."""
    require("matplotlib", "bench", "a plot")
    from matplotlib.figure import Figure

    names = [n for n in dict.fromkeys(n for row in rows for n in row.timings) if n != LIMIT]
    figure = Figure(figsize=(9, 1.2 + 1.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for axis, row in zip(axes, rows, strict=True):
        timed = [name for name in names if name in row.timings][::-1]
        ratios = [row.ratio(name) for name in timed]
        colours = ["tab:blue" if name.startswith("xpnet") else "silver" for name in timed]
        bars = axis.barh(timed, ratios, color=colours)
        axis.bar_label(bars, [f"{r:.2f}" for r in ratios], padding=3)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_title(str(row.network), loc="left", fontsize=10)
        axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("time per step, in multiples of the step's matrix products alone")
    figure.savefig(path)
