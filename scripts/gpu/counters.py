"""What each kernel of a step moves, and how fast, by Nsight Compute's counters.

    python -m gpu.counters SECONDS FILE MARKDOWN

The clocks and the caches stay as they are in a training. The model counts each array that a launch
is given once where it is read and once where it is written: what takes more of DRAM than that was
read again, and what takes less has come from the cache.
"""

import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu.keeping import Kept, table
from gpu.tools import find_tool, started, stopped
from xpnet.bench.launches import PRODUCTS

CASES = [("8192-8192-8192-8192:4096:sgd", "bfloat16"), ("784-512-256-10:128:adam", "float32")]
READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
SPENT = "gpu__time_duration.sum"
OPTIONS = ["--clock-control", "none", "--cache-control", "none", "--profile-from-start", "off"]
OPTIONS += ["--metrics", f"{READ},{WRITTEN},{SPENT}", "--csv", "--page", "raw"]
OPTIONS += ["--print-units", "base", "--target-processes", "all"]
REFUSED = "ERR_NVGPUCTRPERM"


def read(log: str) -> list[dict[str, Any]]:
    """Return the launches in a log of ncu: name, microseconds, and bytes of DRAM."""
    lines = log.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return []
    head, _, *rows = csv.reader(line for line in lines[first:] if line.startswith('"'))
    found = []
    for values in rows:
        row = dict(zip(head, values, strict=False))
        read_, written, spent = (number(row[name]) for name in (READ, WRITTEN, SPENT))
        found.append(
            {
                "kernel": row["Kernel Name"].partition("(")[0].partition("<")[0],
                "µs": spent / 1e3,
                "DRAM MB": (read_ + written) / 1e6,
                "GB/s": (read_ + written) / spent if spent else 0.0,
            }
        )
    return found


def number(text: str) -> float:
    """Return a number that may have commas between its thousands."""
    return float(text.replace(",", "") or "nan")


def beside(found: list[dict[str, Any]], launched: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table: each launch that ncu saw, with what the model says of it.

    A kernel's name is its label, or begins with that. What is left are the products, if there are
    as many: cuBLAS may take several kernels for one.
    """
    ours = [launch for launch in launched if launch["label"] != PRODUCTS]
    matches: dict[int, dict[str, Any]] = {}
    for i, row in enumerate(found):
        named = [x for x in ours if f"{row['kernel']}_".startswith(f"{x['label']}_")]
        if named:
            matches[i] = max(named, key=lambda x: len(x["label"]))
            ours.remove(matches[i])
    products = [launch for launch in launched if launch["label"] == PRODUCTS]
    left = [i for i in range(len(found)) if i not in matches]
    if len(left) == len(products):
        matches |= dict(zip(left, products, strict=True))
    return [joined(row, matches.get(i)) for i, row in enumerate(found)]


def joined(row: dict[str, Any], launch: dict[str, Any] | None) -> dict[str, Any]:
    """Return a row of the table."""
    if launch is None:
        return {**row, "model MB": None, "model GB/s": None, "TFLOP/s": None}
    name = launch["label"] if launch["label"] != PRODUCTS else row["kernel"][:60]
    seconds = row["µs"] * 1e-6 or float("nan")
    return {
        **row,
        "kernel": name,
        "model MB": launch["bytes"] / 1e6,
        "model GB/s": launch["bytes"] / seconds / 1e9,
        "TFLOP/s": launch["flops"] / seconds / 1e12 if launch["flops"] else None,
    }


def main(seconds: str, file: str, markdown: str) -> int:
    """Profile a step of each case."""
    kept, program = Kept(file), find_tool("ncu")
    if program is None:
        kept.miss("ncu is neither on PATH nor in a folder of the CUDA toolkit")
        return kept.code
    deadline, texts = time.monotonic() + float(seconds), []
    with tempfile.TemporaryDirectory() as folder:
        for number_, (network, precision) in enumerate(CASES):
            log, plan = Path(folder) / f"{number_}.log", Path(folder) / f"{number_}.json"
            command = [sys.executable, "-m", "gpu.subject", network, precision, str(plan)]
            process = started([program, *OPTIONS, *command], log)
            left = len(CASES) - number_
            late = stopped(process, (deadline - time.monotonic()) / left, grace=3.0)
            said = log.read_text("utf-8", "replace")
            launched = json.loads(plan.read_text("utf-8")) if plan.exists() else []
            rows, title = beside(read(said), launched), f"{network} in {precision}"
            kept.put(**{title: rows})
            ours = sum(launch["label"] != PRODUCTS for launch in launched)
            unseen = ours - sum(row["model MB"] is not None and not row["TFLOP/s"] for row in rows)
            if REFUSED in said:
                kept.miss(f"{title}: the driver lets only root count: {REFUSED}")
            elif late or not rows or unseen:
                tail = " / ".join(said.splitlines()[-5:])
                what = "was stopped" if late else f"saw {len(rows)} launches, {unseen} of ours not"
                kept.miss(f"{title}: ncu {what}: {tail}")
            texts += [f"{title}:", "", table(rows), ""]
            Path(markdown).write_text("\n".join(texts), "utf-8")
    return kept.code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
