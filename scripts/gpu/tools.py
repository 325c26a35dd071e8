"""NVIDIA's tools for developers, where they are on this machine, and processes with a limit."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["GRACE", "find_tool", "stopped"]

FOLDERS = (
    "/usr/local/cuda*/bin",
    "/usr/local/cuda*/compute-sanitizer",
    "/opt/nvidia/nsight-compute/*",
    "/usr/local/NVIDIA-Nsight-Compute*",
)
GRACE = 10.0  # seconds that a process has to write what it found, after SIGINT


def find_tool(name: str) -> str | None:
    """Return the path of a tool on PATH or in a folder of the CUDA toolkit; None without it."""
    if found := shutil.which(name):
        return found
    for pattern in FOLDERS:
        for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            if os.access(folder / name, os.X_OK):
                return str(folder / name)
    return None


def stopped(process: subprocess.Popen, seconds: float, grace: float = GRACE) -> bool:
    """Wait for the leader of a process group; return whether it had to be stopped.

    After ``seconds`` the group gets SIGINT, and what is left of it ``grace`` later SIGKILL.
    """
    late = False
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        late = True
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(grace)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return late


def started(command: Sequence[str], log: Path) -> subprocess.Popen:
    """Start a process in a group of its own, with its output in a file."""
    with log.open("w", encoding="utf-8") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
