"""The report as Markdown and as JSON."""

import json
from pathlib import Path
from typing import Any

__all__ = ["findings", "markdown", "write"]

UNEXPECTED = "not as expected: "  # how xpnet bench says that a condition is missed


def write(report: dict[str, Any], folder: Path) -> None:
    """Write gpu-report.json and gpu-report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu-report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (folder / "gpu-report.md").write_text(markdown(report), "utf-8")


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown: outcomes, what was refuted or missed, and each stage."""
    lines = ["# What ran on a GPU", ""]
    if report["rehearsal"]:
        lines = ["# A rehearsal on a CPU: nothing here ran on a GPU", ""]
    lines += [f"{report['date']}, commit {report['commit']}.", ""]
    lines += ["| stage | outcome | seconds |", "| --- | --- | ---: |"]
    lines += [f"| {s['name']} | {s['outcome']} | {s['seconds']} |" for s in report["stages"]]
    missed, near = findings(report["stages"])
    lines += ["", "## What was refuted or missed", ""]
    lines += [f"- {sentence}" for sentence in missed] or ["Nothing."]
    if near:
        lines += ["", "Near a bound:", "", *(f"- {sentence}" for sentence in near)]
    for stage in report["stages"]:
        lines += ["", f"## {stage['name']}: {stage['outcome']}", ""]
        if stage["clocks"]:
            lines += [stage["clocks"], ""]
        if stage["markdown"]:
            lines.append(stage["markdown"].rstrip())
        if not stage["markdown"] or stage["outcome"] != "passed":
            lines += ["```text", *stage["output"], "```"]
        lines += failures(stage["found"])
    return "\n".join(lines) + "\n"


def findings(stages: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return what all stages have missed, and what was near a bound, a sentence each."""
    missed, near = [], []
    for stage in stages:
        name, found = stage["name"], stage["found"]
        if stage["outcome"] != "passed":
            missed.append(f"{name}: {stage['outcome']}")
        if isinstance(found, dict):
            missed += [f"{name}: {sentence}" for sentence in found.get("missed", ())]
            near += [f"{name}: {sentence}" for sentence in found.get("near", ())]
        missed += [
            f"{name}: {line.strip().removeprefix(UNEXPECTED)}"
            for line in stage["output"]
            if line.strip().startswith(UNEXPECTED)
        ]
    return missed, near


def failures(found: Any) -> list[str]:
    """Return the failures that gpu.recording has kept, and the largest deviations."""
    if not isinstance(found, dict) or "failures" not in found:
        return []
    lines = ["", ", ".join(f"{n} {outcome}" for outcome, n in found["counts"].items()) + "."]
    for failure in found["failures"][:20]:
        lines += ["", f"{failure['test']}, {failure['when']}:", "", "```text"]
        lines += [*failure["text"], "```"]
    if found["largest"]:
        lines += ["", "Largest deviations, as a share of what is allowed:", ""]
        lines += [f"- {share:.0%}: {test}" for test, share in list(found["largest"].items())[:15]]
    return lines
