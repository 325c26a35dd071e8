"""The results of a benchmark as JSON, as Markdown tables and as a plot."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from xpnet.backends.threads import cores
from xpnet.bench.measure import Row
from xpnet.bench.networks import BYTES_LIMIT, LIMIT
from xpnet.bench.setting import Setting
from xpnet.errors import require
from xpnet.escape import escape_markdown

__all__ = [
    "check_plot",
    "machine",
    "plot",
    "profile_lines",
    "ratios",
    "sentence",
    "to_json",
    "to_markdown",
]

LIBRARIES = (
    *("xpnet", "numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas"),
    *("torch", "triton", "jax", "jaxlib", "optax", "scikit-learn", "keras", "tensorflow"),
    *("onnx", "onnxruntime"),
)


def machine(setting: Setting) -> dict[str, Any]:
    """Return what the times depend on: processor, threads, versions, and the GPU and driver."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    threads = {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")}
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores(),
        "threads": threads or "default",
        "python": platform.python_version(),
        "versions": versions,
    }
    if setting.on_gpu:
        described = setting.backend("cupy").describe()
        facts["gpu"] = {k: described[k] for k in ("gpu", "cuda", "driver_cuda")}
        facts["gpu"]["driver"] = _driver()
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _driver() -> str:
    """Return the version of NVIDIA's driver, which CUDA's API does not report."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.partition("\n")[0].strip()


def to_json(rows: list[Row], setting: Setting, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the measurement as JSON data; times in microseconds."""
    return {
        "machine": facts,
        "device": setting.device,
        "precision": setting.precision,
        "rows": [
            {
                **row.workload.facts(),
                "timings": {name: _facts(row, name) for name in row.timings},
                "absent": row.absent,
                "profiles": row.profiles,
                "moved": row.moved,
            }
            for row in rows
        ],
    }


def _facts(row: Row, name: str) -> dict[str, Any]:
    facts = {**row.timings[name]._asdict(), "ratio": row.ratio(name)}
    if row.workload.base == LIMIT:
        facts |= {"tflops": row.rate(name), "share": 1.0 / row.ratio(name)}
    if BYTES_LIMIT in row.timings:
        facts["ratio_with_bytes"] = row.ratio(name, BYTES_LIMIT)
    return facts


def to_markdown(rows: list[Row], setting: Setting, facts: dict[str, Any]) -> str:
    """Return a Markdown table of times and ratios to the base.

    There is a second one: of a step, the rates and their shares of the GEMM limit's; of a fit, the
    scores.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.timings))
    kind = rows[0].workload
    header = [f"| {kind.title} | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    lines = [*header, *(_line(row, names, _time) for row in rows), ""]
    unit = "seconds" if kind.unit.name == "s" else "microseconds"
    base = f"the {LIMIT}" if kind.base == LIMIT else kind.base
    if BYTES_LIMIT in names:
        base += f", and that to its {BYTES_LIMIT} copied"
    lines += [
        f"Median {unit} per {kind.what} in {setting.precision}; in brackets, the ratio to {base}. "
        + sentence(facts)
    ]
    if kind.base == LIMIT:
        lines += ["", *header, *(_line(row, names, _rate) for row in rows), ""]
        lines += [
            f"TFLOP/s of the step's matrix products; in brackets, the share of the {LIMIT}'s rate."
        ]
    if kind.score:
        lines += ["", *header, *(_line(row, names, _score) for row in rows), ""]
        lines += ["Accuracy (of a regression, R²) on the test rows, the median over the fits."]
    absent = dict.fromkeys(f"{name}: {why}" for row in rows for name, why in row.absent.items())
    if absent:
        lines += ["", "Not timed:", "", *(f"- {escape_markdown(line)}" for line in absent)]
    profiled = [f"- {row.workload}: {line}" for row in rows for line in profile_lines(row)]
    if profiled:
        lines += ["", "Breakdown of a step's time, in microseconds:", "", *profiled]
    return "\n".join(lines) + "\n"


def profile_lines(row: Row) -> list[str]:
    """Return a line for each contender whose step was profiled, with the rates of its kernels."""
    lines = []
    for name, parts in row.profiles.items():
        moved = row.moved.get(name, {})
        shares = ", ".join(_part(part, spent, moved.get(part, 0)) for part, spent in parts.items())
        lines.append(f"{name}: {sum(parts.values()):,.1f} = {shares}")
    return lines


def _part(part: str, spent: float, moved: int) -> str:
    rate = f" ({moved / spent / 1e6:.2f} TB/s)" if moved and spent else ""
    return f"{part} {spent:,.1f}{rate}"


def _line(row: Row, names: list[str], cell: Any) -> str:
    cells = [cell(row, name) if name in row.timings else "-" for name in names]
    return f"| {row.workload} | " + " | ".join(cells) + " |"


def _time(row: Row, name: str) -> str:
    ratio = "" if name == row.workload.base else f" ({ratios(row, name)})"
    return f"{row.workload.unit.shown(row.timings[name].median)}{ratio}"


def ratios(row: Row, name: str) -> str:
    """Return the ratio to the base and, where that was timed, to the products and bytes."""
    limits = [None, BYTES_LIMIT] if BYTES_LIMIT in row.timings and name != BYTES_LIMIT else [None]
    return ", ".join(f"{row.ratio(name, limit):.2f}" for limit in limits)


def _score(row: Row, name: str) -> str:
    score = row.timings[name].score
    return "-" if score is None else f"{score:.3f}"


def _rate(row: Row, name: str) -> str:
    share = "" if name == LIMIT else f" ({1 / row.ratio(name):.0%})"
    return f"{row.rate(name):.3g}{share}"


def sentence(facts: dict[str, Any]) -> str:
    """Return the facts of :func:`machine` as a sentence."""
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    gpu = ""
    if "gpu" in facts:
        gpu = "{gpu}, driver {driver} (CUDA {driver_cuda}), CUDA {cuda}; ".format(**facts["gpu"])
    return (
        f"{gpu}{facts['processor']}, {facts['cores']} cores, threads {facts['threads']}; "
        f"Python {facts['python']}, {versions}."
    )


def check_plot() -> None:
    """Raise BackendError if nothing can be plotted, before minutes are spent measuring."""
    require("matplotlib", "matplotlib", "a plot")


def plot(rows: list[Row], path: str) -> None:
    """Draw the ratios to the base as bars; the suffix of ``path`` names the format."""
    check_plot()
    from matplotlib.figure import Figure

    kind = rows[0].workload
    names = [n for n in dict.fromkeys(n for row in rows for n in row.timings) if n != kind.base]
    figure = Figure(figsize=(9, 1.2 + 1.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for axis, row in zip(axes, rows, strict=True):
        timed = [name for name in names if name in row.timings][::-1]
        ratios = [row.ratio(name) for name in timed]
        colours = ["tab:blue" if name.startswith("xpnet") else "silver" for name in timed]
        bars = axis.barh(timed, ratios, color=colours)
        axis.bar_label(bars, [f"{r:.2f}" for r in ratios], padding=3)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_title(str(row.workload), loc="left", fontsize=10)
        axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
    of = "its matrix products alone" if kind.base == LIMIT else f"that of {kind.base}"
    axes[-1].set_xlabel(f"time per {kind.what}, as a multiple of {of}")
    figure.savefig(path)
