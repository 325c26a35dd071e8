"""NVIDIA's tools for developers, where they are on this machine, and processes with a limit."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["GRACE", "end", "find_tool", "started", "stopped"]

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
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return True
    finally:  # also where this process is interrupted
        late = process.returncode is None
        end(process, grace if late else 0.0)
    return False


def end(process: subprocess.Popen, grace: float) -> None:
    """End a process group, in which the leader gets ``grace`` seconds if it is running."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if grace:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
