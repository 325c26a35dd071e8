"""Real `xpnet train` processes for scripts/faults.py: started, killed and compared."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fuzz import csv_text

from xpnet.run import RunFolder
from xpnet.storage import Checkpoint, CheckpointFolder

__all__ = [
    "BACKENDS_TOLERANCE",
    "LostError",
    "Process",
    "Tally",
    "Training",
    "differences",
    "timeless",
]

BACKENDS_TOLERANCE = 1e-4
CLOCKS = ("seconds", "rows_per_second")  # fields in which equal runs may differ


class LostError(AssertionError):
    """A broken promise: something was lost."""


@dataclass
class Tally:
    """Counts of what was done so far, and the problems found."""

    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Record a LostError of the block, so that the next case runs."""
        began = time.monotonic()
        try:
            yield
        except LostError as error:
            self.counts["lost"] += 1
            self.problems.append(f"{name}: {error}")
            print(f"LOST in {name}: {error}", flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


class Process:
    """An `xpnet train` in a process group of its own."""

    def __init__(self, tally: Tally, arguments: Sequence[str], **options: str) -> None:
        self.tally = tally
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200", **options}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "xpnet", *arguments],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def running(self) -> bool:
        """Return whether it is still running."""
        return self.popen.poll() is None

    def stderr(self) -> str:
        """Return what it has written to standard error so far."""
        return os.pread(self.errors.fileno(), 2**20, 0).decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def kill(self) -> bool:
        """Kill it; return whether it was still running."""
        self.signal(signal.SIGKILL)
        self.end()
        return self.popen.returncode == -signal.SIGKILL

    def end(self) -> tuple[int, str, str]:
        """Wait for it to exit; return its exit code, standard output and standard error."""
        out, _ = self.popen.communicate(timeout=600)
        err = self.stderr()
        self.errors.close()
        if "Traceback" in err or "a bug in xpnet" in err:
            self.tally.counts["tracebacks"] += 1
            self.tally.problems.append(err[-2000:])
        return self.popen.returncode, out, err

    def succeeds(self) -> str:
        """Wait for it to succeed; return what it printed. Raises LostError if it failed."""
        code, out, err = self.end()
        if code != 0:
            msg = f"exit code {code}: {err[-500:]}"
            raise LostError(msg)
        return out + err

    def refused(self, message: str) -> None:
        """Wait for exit code 2 and one error line that contains ``message``; raises LostError."""
        code, _, err = self.end()
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        if code != 2 or len(lines) != 1 or message not in lines[0]:
            msg = f"expected exit code 2 and {message!r}; got {code} and {err[-500:]!r}"
            raise LostError(msg)


@dataclass(frozen=True)
class Training:
    """A small table and the settings of a run of a second or two."""

    folder: Path
    settings: tuple[str, ...]
    tally: Tally
    rows: int = 120

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.data.exists():
            return
        if self.data.suffix == ".csv":
            self.data.write_text(csv_text(self.rows))
            return
        *x, y = np.array([line.split(",") for line in csv_text(self.rows).split()[1:]]).T
        np.savez(self.data, x=np.stack(np.array(x, np.float32), axis=1), y=y)

    @property
    def data(self) -> Path:
        """The table, in a format that can be streamed if the settings stream it."""
        return self.folder / ("table.npz" if "data.stream=yes" in self.settings else "table.csv")

    def start(self, out: Path, *extra: str, **options: str) -> Process:
        """Start or resume the run in ``out``; ``options`` are added to its environment."""
        named = [word for setting in (*self.settings, *extra) for word in ("--set", setting)]
        arguments = ["train", str(self.data), "--recipe", "none", "--out", str(out), "--resume"]
        return Process(self.tally, [*arguments, "--quiet", *named], **options)

    def whole(self) -> Path:
        """Return the folder of an undisturbed run."""
        out = self.folder / "whole"
        if not out.exists():
            self.start(out).succeeds()
        return out

    def same(self, out: Path, tolerance: float = 0.0, *, kept: bool = True) -> None:
        """Compare a run with the undisturbed one; raises LostError if they differ."""
        found = differences(self.whole(), out, tolerance, kept=kept)
        if found:
            msg = f"{len(found)} differences from an undisturbed run: {found[0]}"
            raise LostError(msg)
        self.tally.counts["runs compared"] += 1

    def wait_for(self, process: Process, out: Path, step: int = 1) -> None:
        """Wait until a checkpoint of ``step`` or later exists, or the process has ended."""
        while (
            process.running()
            and max(CheckpointFolder(out / "checkpoints").steps(), default=0) < step
        ):
            time.sleep(0.002)


def differences(one: Path, other: Path, tolerance: float = 0.0, *, kept: bool = True) -> list[str]:
    """Return the bitwise differences between two finished runs, except in their times.

    Without ``kept``, older checkpoints may be of other steps, as after a failed one.
    """
    ours, theirs = RunFolder(one), RunFolder(other)
    found = []
    for which in ("last", "best"):
        a, b = ours.checkpoint(which), theirs.checkpoint(which)
        found += _tensors(which, a, b, tolerance)
        if not tolerance:
            found += [
                f"{which}: {key}"
                for key in ("position", "schedule", "callbacks", "preparation", "fingerprint")
                if a.meta[key] != b.meta[key]
            ]
            if timeless(a.meta["history"]) != timeless(b.meta["history"]):
                found.append(f"{which}: history")
    if not tolerance:
        steps = [list(CheckpointFolder(run / "checkpoints").steps()) for run in (one, other)]
        if kept and steps[0] != steps[1]:
            found.append(f"kept checkpoints: {steps}")
        if timeless(ours.history()) != timeless(theirs.history()):
            found.append("history.jsonl")
        if ours.read_json(ours.report_path) != theirs.read_json(theirs.report_path):
            found.append("report.json")
    return found


def _tensors(which: str, a: Checkpoint, b: Checkpoint, tolerance: float) -> list[str]:
    if a.tensors.keys() != b.tensors.keys():
        return [f"{which}: tensor names"]
    if tolerance:
        return [
            f"{which}: {name}"
            for name, x in a.tensors.items()
            if abs(x - b.tensors[name]).max(initial=0) > tolerance * (1 + abs(x).max(initial=0))
        ]
    return [
        f"{which}: {name}"
        for name, x in a.tensors.items()
        if x.dtype != b.tensors[name].dtype or x.tobytes() != b.tensors[name].tobytes()
    ]


def timeless(history: list[dict]) -> list[dict]:
    """Return the records without what a clock says."""
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in history]
