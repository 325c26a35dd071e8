"""Test, compare, time and profile on this machine's GPU in ten minutes, and write one report.

    scripts/gpu-report FOLDER                writes FOLDER/gpu-report.json and gpu-report.md
    scripts/gpu-report FOLDER --rehearse     runs the same stages on the CPU, to check that they run

Uses the Python that runs it, without a network and without xpnet being installed. What it lacks is
taken from wheels in .whl, which scripts/gpu-wheels fetches elsewhere. scripts/gpu/plan.py has the
stages: each is a process with a limit of its own; one that fails or exceeds it is recorded, and the
next one starts. The report is rewritten after each stage, and two halves into two folders (--only)
are as good as one.
Exit codes: 0 all stages passed; 1 a stage failed; 3 there is no GPU, or a package is missing.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from gpu.plan import PATIENCE, WHOLE, stages  # noqa: E402 - from this checkout
from gpu.running import environment, take  # noqa: E402
from gpu.wheels import COMMIT, absent, install  # noqa: E402
from gpu.writing import findings, write  # noqa: E402

SHOWN, WIDEST = 40, 300  # sentences on what was missed, and their characters


def missing(rehearse: bool) -> str:
    """Return why the stages cannot run, or ""."""
    if lacking := absent():
        names = " ".join(lacking)
        return f"not installed: pip install {names}, or carry wheels: scripts/gpu-wheels .whl"
    if rehearse:
        return ""
    from xpnet.backends import backend_class

    probe = backend_class("cupy").probe()
    return "" if probe.devices else probe.note


def commit(given: str | None, wheels: Path) -> str:
    """Return the commit of this checkout: as it is given, by Git, or as the wheels' folder says."""
    if named := given or os.environ.get("XPNET_COMMIT"):
        return named
    if (ROOT / ".git").exists():  # and not that of a repository around it
        asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=True)
            return done.stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    file = wheels / COMMIT
    return file.read_text("utf-8").strip() if file.exists() else "unknown"


def campaign(chosen: list, options: argparse.Namespace, env: dict[str, str]) -> dict[str, Any]:
    """Run the stages; write the report after each of them."""
    report: dict[str, Any] = {
        "rehearsal": options.rehearse,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(options.commit, options.wheels),
        "stages": [],
    }

    def keep(record: dict[str, Any]) -> None:
        report["stages"].append(record)
        write(report, options.folder)

    take(chosen, options.seconds, env, keep)
    return report


def parsed(given: list[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Return the parser and the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the report")
    parser.add_argument("--rehearse", action="store_true", help="run all stages on the CPU")
    parser.add_argument(
        "--only", action="append", metavar="STAGE", help="stage to run (repeatable)"
    )
    parser.add_argument(
        "--seconds", type=float, help=f"limit for all stages ({WHOLE:.0f}; more for a rehearsal)"
    )
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / ".whl", help="folder of wheels for what is missing"
    )
    parser.add_argument("--commit", help="the commit of this checkout, where there is no Git")
    options = parser.parse_args(given)
    if options.seconds is None:
        options.seconds = WHOLE * (PATIENCE if options.rehearse else 1.0)
    return parser, options


def main() -> None:
    """Parse the options, run the stages and write the report."""
    parser, options = parsed()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it writes what it has, too
    with tempfile.TemporaryDirectory(prefix="xpnet-gpu-report-") as folder:
        work, site = Path(folder), Path(folder) / "site"
        if said := install(options.wheels, site):
            print(f"gpu-report: pip: {said}", file=sys.stderr)
        if reason := missing(options.rehearse):
            print(f"gpu-report: {reason}", file=sys.stderr)
            sys.exit(3)
        known = stages(work, options.rehearse)
        unknown = set(options.only or ()) - {stage.name for stage in known}
        if unknown:
            names = ", ".join(stage.name for stage in known)
            parser.error(f"no stage {sorted(unknown)[0]!r}; they are: {names}")
        chosen = [s for s in known if not options.only or s.name in options.only]
        report = campaign(chosen, options, environment(work, options.rehearse, site))
    for sentence in findings(report["stages"])[0][:SHOWN]:
        print(f"- {sentence}"[:WIDEST])
    sys.exit(any(stage["outcome"] != "passed" for stage in report["stages"]))


if __name__ == "__main__":
    main()
