"""compute-sanitizer's four tools over some of the kernels' tests, beside one another.

    python -m gpu.sanitizer SECONDS FILE

Without CuPy's memory pool, or all arrays would lie within one allocation that is valid.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from gpu.keeping import Kept
from gpu.tools import end, find_tool, started, stopped

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
STEP, MIXED = "tests/kernels/test_cuda_step.py", "tests/kernels/test_cuda_mixed.py"
CHOSEN = {  # pytest's -k -> the file; of the first two, float32 on the GPU
    "every_layer and (norm or softmax or dropout or wider) or several_blocks": STEP,
    "any_number_of_classes and 33 or many_classes or one_row and 257 or several_columns": STEP,
    "nearest_number or rounds_what_layers_store": MIXED,
}
REHEARSED = {"flattened": STEP}
ERRORS = re.compile(r"ERROR SUMMARY: (\d+) error")
HAZARDS = re.compile(r"RACECHECK SUMMARY: (\d+) hazard")
FIRST = re.compile(r"^=+ +(?=Invalid|Uninit|Error|Warning|Barrier|Program hit|Race|Potential)(.+)")
KEPT = 40  # lines of what a tool found


class Result(NamedTuple):
    """What one process of a tool came to."""

    errors: int | None  # None without a summary
    lines: list[str]  # of the first errors


def read(log: str) -> Result:
    """Return what a tool's log says.

    >>> read("========= ERROR SUMMARY: 2 errors").errors
    2
    >>> read("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)").errors
    0
    """
    lines = log.splitlines()
    summaries = [m for line in lines if (m := ERRORS.search(line) or HAZARDS.search(line))]
    errors = sum(int(m[1]) for m in summaries) if summaries else None
    found = [i for i, line in enumerate(lines) if FIRST.search(line)]
    shown = lines[found[0] : found[0] + KEPT] if found and errors != 0 else []
    if errors is None and found:
        errors = len(found)
    return Result(errors, shown)


def main(seconds: str, file: str) -> int:
    """Run all tools; fails on any error, and where a tool did not run its tests to the end."""
    kept, program = Kept(file), find_tool("compute-sanitizer")
    if program is None:
        kept.miss("compute-sanitizer is neither on PATH nor in a folder of the CUDA toolkit")
        return kept.code
    os.environ["XPNET_TEST_BACKENDS"] = "cupy"  # nothing else uses the GPU, or is imported
    deadline = time.monotonic() + float(seconds)
    chosen = REHEARSED if os.environ.get("XPNET_GPU_REHEARSAL") else CHOSEN
    with tempfile.TemporaryDirectory() as folder:
        running = [
            (tool, log := Path(folder) / f"{tool}-{number}", begun(program, tool, log, which))
            for tool in TOOLS
            for number, which in enumerate(chosen)
        ]
        try:
            for tool, log, process in running:
                late = stopped(process, deadline - time.monotonic(), grace=3.0)
                judge(kept, tool, log, process, late=late)
        finally:
            for _, _, process in running:
                end(process, 0.0)
    return kept.code


def begun(program: str, tool: str, log: Path, which: str) -> subprocess.Popen:
    """Start a tool over the tests that pytest's -k chooses."""
    tests = (CHOSEN | REHEARSED)[which]
    narrowed = "cupy" if tests == MIXED else "cupy and float32"
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "gpu.recording", "--no-pool"]
    pytest += ["-p", "no:cacheprovider", "-p", "no:benchmark", "--long"]
    pytest += ["-k", f"{narrowed} and ({which})", tests]
    options = ["--tool", tool, "--print-limit", "10", "--log-file", f"{log}.log"]
    return started([program, *options, *pytest], log.with_suffix(".out"))


def judge(kept: Kept, tool: str, log: Path, process: subprocess.Popen, *, late: bool) -> None:
    """Add a process's result to those of its tool."""
    said, output = (
        path.read_text("utf-8", "replace") if path.exists() else ""
        for path in (log.with_suffix(".log"), log.with_suffix(".out"))
    )
    result = read(said)
    passed = int(m[1]) if (m := re.search(r"(\d+) passed", output)) else 0
    record: dict[str, Any] = kept.found.setdefault(tool, {"errors": 0, "tests": 0, "lines": []})
    record["errors"] += result.errors or 0
    record["tests"] += passed
    record["lines"] += result.lines
    kept.put()
    ending = f"{passed} tests passed, {result.errors} errors"
    print(f"{tool}, {log.name}: {ending}{', stopped' if late else ''}", flush=True)
    if result.errors:
        kept.miss(f"{tool} found {result.errors} errors: {' / '.join(result.lines[:3])}")
    elif late:
        kept.miss(f"{tool} was stopped before the end of its tests, of which none had an error")
    elif result.errors is None or process.returncode or not passed:
        tail = " / ".join([*said.splitlines()[-3:], *output.splitlines()[-4:]])
        kept.miss(f"{tool} did not run to its end (exit code {process.returncode}): {tail}")
    if result.lines:
        print("\n".join(result.lines), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
