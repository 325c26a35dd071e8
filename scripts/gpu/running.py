"""The stages of a report, one after the other, each within its limit."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gpu.card import clocks, clocks_line
from gpu.plan import LIMIT, ROOT, XPNET, Stage
from gpu.tools import GRACE, stopped

__all__ = ["STANDINS", "environment", "limits", "run", "take"]

STANDINS = Path(__file__).with_name("standins")
TAIL = 100  # lines of a stage's output that are kept
HEAD = 40  # lines before those
MARGIN = 4.0  # seconds by which a stage ends its own processes before it is stopped itself


def environment(work: Path, rehearse: bool, site: Path | None = None) -> dict[str, str]:
    """Return the stages' environment: this checkout comes first, and a rehearsal sees no GPU.

    ``site`` is a folder of packages that this Python lacks.
    """
    paths = [ROOT, ROOT / "scripts", ROOT / "tests", site, os.environ.get("PYTHONPATH")]
    stand_ins: dict[str, str] = {}
    if rehearse:
        (work / "kernels").mkdir(exist_ok=True)
        path = os.pathsep.join([str(STANDINS), os.environ.get("PATH", os.defpath)])
        stand_ins = {"XPNET_GPU_REHEARSAL": str(work / "kernels"), "PATH": path,
                     "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu",
                     "XPNET_TEST_BACKENDS": "cupy"}  # fmt: skip
    inherited = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
        "PYTHONUNBUFFERED": "1",  # otherwise the output of a stopped stage is lost
        "XPNET": " ".join(XPNET),
        "ROUNDS": "5",  # of gpu-bench
        "CUPY_NVRTC_USE_PCH": "1",  # CuPy compiles a kernel in 0.1 s, not in 0.8 s
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # otherwise JAX reserves most of the memory
        "HYPOTHESIS_STORAGE_DIRECTORY": str(work / "hypothesis"),
        "COLUMNS": "140",
        **stand_ins,
    }


def limits(stages: Sequence[Stage], left: float) -> float:
    """Return the limit of the first of ``stages``, with ``left`` seconds for all of them.

    It is its own, and whatever the ones before it have left.
    """
    first, *later = stages
    return min(left, max(first.seconds, left - sum(stage.seconds for stage in later)))


def take(
    stages: Sequence[Stage],
    seconds: float,
    env: Mapping[str, str],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Run the stages within ``seconds`` in all, and give each one's record to ``keep``."""
    deadline = time.monotonic() + seconds
    for i, stage in enumerate(stages):
        limit = limits(stages[i:], deadline - time.monotonic())
        if limit > 0:
            record = run(stage, limit, env)
        else:
            record = {"name": stage.name, "outcome": "not run: no time was left", "seconds": 0.0,
                      "command": "", "output": [], "found": None, "markdown": "",
                      "clocks": ""}  # fmt: skip
        print(f"{record['name']}: {record['outcome']} ({record['seconds']} s)", flush=True)
        keep(record)
        if record["outcome"].startswith(INTERRUPTED):
            return


INTERRUPTED = "interrupted"


def run(stage: Stage, seconds: float, env: Mapping[str, str]) -> dict[str, Any]:
    """Run a stage for at most ``seconds``; return its record."""
    began, before = time.monotonic(), clocks() if stage.timed else {}
    with tempfile.TemporaryFile("w+") as output:
        outcome = outcome_of(stage, seconds, env, output)
        after = clocks() if stage.timed else {}
        output.seek(0)
        lines = output.read().splitlines()
    if len(lines) > HEAD + TAIL:
        lines = [*lines[:HEAD], f"... {len(lines) - HEAD - TAIL} lines ...", *lines[-TAIL:]]
    return {
        "name": stage.name,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 1),
        "command": " ".join(stage.command),
        "output": lines,
        "found": found(stage),
        "markdown": read(stage.md),
        "clocks": clocks_line(before, after),
    }


def outcome_of(stage: Stage, seconds: float, env: Mapping[str, str], output: IO[str]) -> str:
    """Run a stage, kill whatever is left of it, and return how it ended.

    Within its limit it is asked to end by SIGINT, in time to write what it has found: pytest then
    prints the failures that it has seen.
    """
    grace = min(GRACE, seconds / 4)
    own = f"{max(1.0, seconds - grace - MARGIN):.0f}"
    try:
        process = subprocess.Popen(
            [own if word == LIMIT else word for word in stage.command],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"could not be started: {error}"
    try:
        late = stopped(process, seconds - grace, grace)
    except KeyboardInterrupt:  # of this program: what is known by now is written
        return f"{INTERRUPTED} by a signal"
    if late:
        return f"stopped after {seconds - grace:.0f} s"
    code = process.returncode
    return "passed" if code == 0 else f"failed with exit code {code}"


def found(stage: Stage) -> object:
    """Return a stage's JSON results; None if it was stopped before it had written them."""
    try:
        return json.loads(read(stage.json))
    except json.JSONDecodeError:
        return None


def read(path: Path | None) -> str:
    """Return the text of a stage's file, or "" if there is none."""
    return path.read_text("utf-8") if path is not None and path.exists() else ""
