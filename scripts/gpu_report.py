"""Test, compare, time and profile on this machine's GPU in ten minutes, and write one report.

    scripts/gpu-report FOLDER                writes FOLDER/gpu-report.json and gpu-report.md
    scripts/gpu-report FOLDER --rehearse     runs the same stages on the CPU, to check that they run

Uses the Python that runs it, without a network. Each stage is a process with a time limit of its
own; one that fails or exceeds it is recorded, and the next one starts. The report is rewritten
after each stage.
Exit codes: 0 all stages passed; 1 a stage failed; 3 there is no GPU, or a package is missing.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HELPER = str(Path(__file__).with_name("gpu_stages.py"))
PYTHON = sys.executable
XPNET = (PYTHON, "-m", "xpnet")
# pytest-benchmark warns where pytest-xdist runs, and warnings are errors.
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:benchmark")
PYTEST = (PYTHON, "-m", "pytest", "-q", "-rfE", "--tb=short", *PLUGINS)
PRECISIONS = ("tf32", "bfloat16", "float32")
TOLERANCE = "1e-4"  # relative, between the losses on the CPU and on the GPU
TAIL = 100  # lines of a stage's output that are kept
GRACE = 10.0  # seconds that a stage has to write what it found, after SIGINT
NEEDED = {  # module -> the package that provides it
    "numpy": "numpy",
    "array_api_compat": "array-api-compat",
    "array_api_strict": "array-api-strict",
    "click": "click",
    "platformdirs": "platformdirs",
    "pooch": "pooch",
    "rich": "rich",
    "safetensors": "safetensors",
    "threadpoolctl": "threadpoolctl",
    "tomli_w": "tomli-w",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "sklearn": "scikit-learn",
    "mpmath": "mpmath",
    "ml_dtypes": "ml-dtypes",
}


class Stage(NamedTuple):
    """A process that writes its results to ``json`` and ``md``, or only returns an exit code."""

    name: str
    seconds: float  # time limit
    command: Sequence[str]
    json: Path | None = None
    md: Path | None = None


def stages(work: Path, rehearse: bool) -> list[Stage]:
    """Return the stages, the most informative first; ``work`` is for their files."""

    def stage(name: str, seconds: float, *command: str, md: bool = False) -> Stage:
        """Replace JSON and MD in the command by the stage's files."""
        files = {"JSON": work / f"{name}.json", "MD": work / f"{name}.md"}
        filled = [str(files.get(word, word)) for word in command]
        return Stage(name, seconds, filled, files["JSON"], files["MD"] if md else None)

    device = "cpu" if rehearse else "cuda"
    if rehearse:
        some = ["tests/ops/test_ops.py"]
        tests = [*PYTEST, *some, "-k", "numpy-readonly", "--require-backend=numpy-readonly"]
        backends = "numpy:cpu:float32,array-api-strict"
        timed = ("float32", "float64")
        few = ["--rows", "4-3-2:5:sgd", "--rounds", "1", "--only", "xpnet numpy"]
        bench = [*XPNET, "bench", *few, "--markdown", "MD", "--json-file", "JSON", "--precision"]
        crossover = ["--only", "xpnet numpy, portable", "--only", "xpnet numpy"]
    else:
        required = ["--require-backend=cupy", "--min-gpu-tests=500"]
        some = ["tests"]
        chosen = "(cupy or real_gpu) and not nvrtc"  # NVRTC compiles the kernels without a GPU, too
        parallel = ["-n", "12"] if find_spec("xdist") else []
        tests = [*PYTEST, "--long", *parallel, *some, "-k", chosen, *required]
        names = ("cupy", "torch:cuda:0", "jax:cuda:0")
        backends = ",".join(f"{n}:{dtype}" for n in names for dtype in ("float32", "float64"))
        timed = PRECISIONS
        few = ["--only", "xpnet cupy", "--rounds", "3", "--precision", "tf32"]
        bench = [str(ROOT / "scripts/gpu-bench"), "MD", "JSON"]
        crossover = []
    return [
        stage("environment", 60, PYTHON, HELPER, "environment", device, "JSON"),
        stage("tests", 150, *tests),
        stage("curves", 60, PYTHON, HELPER, "curves", device, TOLERANCE, "JSON"),
        stage("parity", 60, *XPNET, "parity", "digits", "--backends", backends, "--allow-missing",
              "--json-file", "JSON"),
        stage("profile", 60, *XPNET, "bench", "--device", device, *few, "--profile",
              "--json-file", "JSON", "--markdown", "MD", md=True),
        *(stage(f"bench {precision}", 150, *bench, precision, md=True) for precision in timed),
        stage("crossover", 60, *XPNET, "bench", "--crossover", *crossover, "--rounds", "3",
              "--json-file", "JSON"),
        stage("tests of other libraries", 300, PYTHON, HELPER, "tests", device, *some),
    ]  # fmt: skip


def run(stage: Stage, seconds: float, environment: dict[str, str]) -> dict:
    """Run a stage for at most ``seconds``; return its record."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        outcome = outcome_of(stage, seconds, environment, output)
        output.seek(0)
        lines = output.read().splitlines()
    return {
        "name": stage.name,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 1),
        "command": " ".join(stage.command),
        "output": lines[-TAIL:],
        "found": found(stage),
        "markdown": read(stage.md),
    }


def outcome_of(stage: Stage, seconds: float, environment: dict[str, str], output: IO[str]) -> str:
    """Run a stage, kill whatever is left of it, and return how it ended."""
    try:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"could not be started: {error}"
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        interrupt(process)
        return f"stopped after {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "passed" if code == 0 else f"failed with exit code {code}"


def interrupt(process: subprocess.Popen) -> None:
    """Ask the process group to end: pytest then prints the failures it has seen."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(GRACE)


def found(stage: Stage) -> object:
    """Return a stage's JSON results; None if it was stopped before it had written them."""
    try:
        return json.loads(read(stage.json))
    except json.JSONDecodeError:
        return None


def read(path: Path | None) -> str:
    """Return the text of a stage's file, or "" if there is none."""
    return path.read_text("utf-8") if path is not None and path.exists() else ""


def markdown(report: dict) -> str:
    """Return the report as Markdown."""
    lines = ["# What ran on a GPU", ""]
    if report["rehearsal"]:
        lines = ["# A rehearsal on a CPU: nothing here ran on a GPU", ""]
    lines += [f"{report['date']}, commit {report['commit']}.", ""]
    lines += ["| stage | outcome | seconds |", "| --- | --- | ---: |"]
    lines += [f"| {s['name']} | {s['outcome']} | {s['seconds']} |" for s in report["stages"]]
    for stage in report["stages"]:
        lines += ["", f"## {stage['name']}: {stage['outcome']}", ""]
        if stage["markdown"]:
            lines.append(stage["markdown"].rstrip())
        if not stage["markdown"] or stage["outcome"] != "passed":
            lines += ["```text", *stage["output"], "```"]
    return "\n".join(lines) + "\n"


def missing(rehearse: bool) -> str:
    """Return why the stages cannot run, or ""."""
    absent = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if absent:
        return f"not installed: pip install {' '.join(absent)}"
    if rehearse:
        return ""
    sys.path.insert(0, str(ROOT))
    from xpnet.backends import backend_class

    probe = backend_class("cupy").probe()
    return "" if probe.devices else probe.note


def environment(work: Path, rehearse: bool) -> dict[str, str]:
    """Return the stages' environment: this checkout comes first, and a rehearsal sees no GPU."""
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"} if rehearse else {}
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",  # otherwise the output of a stopped stage is lost
        "XPNET": " ".join(XPNET),
        "CUPY_NVRTC_USE_PCH": "1",  # CuPy compiles a kernel in 0.1 s, not in 0.8 s
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # otherwise JAX reserves most of the memory
        "HYPOTHESIS_STORAGE_DIRECTORY": str(work / "hypothesis"),
        "COLUMNS": "140",
        **hidden,
    }


def commit() -> str:
    """Return the commit of this checkout."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def campaign(chosen: Iterable[Stage], options: argparse.Namespace, env: dict[str, str]) -> dict:
    """Run the stages; write the report after each of them."""
    deadline = time.monotonic() + options.seconds
    report: dict = {
        "rehearsal": options.rehearse,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "stages": [],
    }
    for stage in chosen:
        left = deadline - time.monotonic()
        if left > 0:
            result = run(stage, min(stage.seconds, left), env)
        else:
            result = {"name": stage.name, "outcome": "not run: no time was left", "seconds": 0.0,
                      "command": "", "output": [], "found": None, "markdown": ""}  # fmt: skip
        report["stages"].append(result)
        print(f"{result['name']}: {result['outcome']} ({result['seconds']} s)", flush=True)
        options.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2) + "\n"
        (options.folder / "gpu-report.json").write_text(text, "utf-8")
        (options.folder / "gpu-report.md").write_text(markdown(report), "utf-8")
    return report


def main() -> None:
    """Parse the options, run the stages and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the report")
    parser.add_argument("--rehearse", action="store_true", help="run all stages on the CPU")
    parser.add_argument(
        "--only", action="append", metavar="STAGE", help="stage to run (repeatable)"
    )
    parser.add_argument(
        "--seconds", type=float, default=570.0, help="time limit for all stages (570)"
    )
    options = parser.parse_args()
    if reason := missing(options.rehearse):
        print(f"gpu-report: {reason}", file=sys.stderr)
        sys.exit(3)
    with tempfile.TemporaryDirectory(prefix="xpnet-gpu-report-") as folder:
        work = Path(folder)
        known = stages(work, options.rehearse)
        unknown = set(options.only or ()) - {stage.name for stage in known}
        if unknown:
            names = ", ".join(stage.name for stage in known)
            parser.error(f"no stage {sorted(unknown)[0]!r}; they are: {names}")
        chosen = [s for s in known if not options.only or s.name in options.only]
        report = campaign(chosen, options, environment(work, options.rehearse))
    sys.exit(any(stage["outcome"] != "passed" for stage in report["stages"]))


if __name__ == "__main__":
    main()
