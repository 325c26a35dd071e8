"""Inject a kill, an error or a power cut at each file system call of a training run.

scripts/faults.py runs this file under scripts/layer.c. Each run is `xpnet train` in a process of
its own, forked from this one so that a thousand of them do not each import NumPy.
"""

import contextlib
import ctypes
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training import LostError, Tally, differences

__all__ = ["build", "each_call", "environment"]

MODES = {"FAIL": 1, "FULL": 2, "KILL": 3, "HALF": 4, "POWER": 5}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)


def build(folder: Path) -> Path | None:
    """Compile the layer; None if there is no compiler or no LD_PRELOAD."""
    compiler, made = shutil.which("cc") or shutil.which("gcc"), folder / "layer.so"
    if compiler is None or sys.platform != "linux":
        return None
    source = Path(__file__).with_name("layer.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"]
    return (
        made if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None
    )


def environment(layer: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process that runs under the layer."""
    return {**os.environ, "LD_PRELOAD": str(layer), "OPENBLAS_NUM_THREADS": "1", **more}


def each_call(layer: Path, folder: Path, settings: list[str], sample: int, seed: int) -> dict:
    """Run this file under the layer; return its counts and the problems it found."""
    words = [str(layer), str(folder), json.dumps(settings), str(sample), str(seed)]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env=environment(layer),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        msg = f"the layer itself failed: {done.stderr[-2000:]}"
        raise LostError(msg)
    return json.loads(done.stdout.splitlines()[-1])


class Layer:
    """The functions of layer.c in this process and its forks."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.calls = Path(tempfile.mkstemp(prefix="xpnet-layer-")[1])

    def train(
        self, words: list[str], run: Path, mode: str = "", at: int = 0, error: int = 0
    ) -> Any:
        """Run `xpnet train` in a fork; return its exit code (negative: killed) and error output."""
        errors = Path(f"{self.calls}.err")
        pid = os.fork()
        if pid == 0:
            code = 99
            with errors.open("w") as err, contextlib.redirect_stdout(io.StringIO()):
                sys.stderr = err
                self.library.layer_arm(os.fsencode(run), MODES.get(mode, 1), at, error)
                code = self.main(words)
                self.calls.write_text(str(self.library.layer_calls()))
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, errors.read_text()

    def main(self, words: list[str]) -> int:
        """Run the command line in this process; return its exit code."""
        from xpnet.cli.main import main

        try:
            main(words)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 98
        return 97


def main(library: str, work: str, settings: str, sample: str, seed: str) -> None:
    """Inject faults at each call, or at a sample of them; print the counts as JSON."""
    import xpnet.cli.commands.train
    import xpnet.run

    _ = xpnet.cli.commands.train, xpnet.run
    layer, folder, draw = Layer(library), Path(work), random.Random(int(seed))
    named = [word for setting in json.loads(settings) for word in ("--set", setting)]
    tally, whole, run = Tally(), folder / "whole", folder / "run"
    words = ["train", str(folder / "table.csv"), "--recipe", "none", "--resume", "--quiet"]
    words += [*named, "--out"]

    def resumed(kept: bool) -> None:
        code, err = layer.train([*words, str(run)], run)
        if code != 0 or (found := differences(whole, run, kept=kept)):
            msg = f"the resumed run ended with {code} {err!r}" if code else found[0]
            raise LostError(msg)

    with contextlib.redirect_stdout(io.StringIO()):
        layer.main([*words, str(whole)])  # in this process, so that its forks find all compiled
    code, err = layer.train([*words, str(run)], run)
    if code != 0 or differences(whole, run):
        raise SystemExit(err or "two undisturbed runs differ")
    total = int(layer.calls.read_text())
    cases = [(mode, at) for mode in MODES for at in range(1, total + 1)]
    cases = draw.sample(cases, min(int(sample), len(cases)))
    for mode, at in cases:
        shutil.rmtree(run, ignore_errors=True)
        error = errno.ENOSPC if mode == "FULL" else draw.choice(ERRORS)
        code, err = layer.train([*words, str(run)], run, mode, at, error)
        try:
            killed = mode in ("KILL", "HALF", "POWER")
            check(killed, code, err)
            tally.counts[NAMES[mode]] += 1
            resumed(kept=killed)  # a checkpoint that could not be saved leaves an older one
            tally.counts["runs compared"] += 1
        except LostError as lost:
            tally.counts["lost"] += 1
            tally.problems.append(f"{mode} {os.strerror(error)!r} at call {at} of {total}: {lost}")
    layer.calls.unlink()
    Path(f"{layer.calls}.err").unlink()
    print(json.dumps({"calls": total, "counts": dict(tally.counts), "lost": tally.problems}))


NAMES = {
    "FAIL": "calls to the file system that failed once",
    "FULL": "disks full from a call on",
    "KILL": "kills before a call to the file system",
    "HALF": "kills within a call to the file system",
    "POWER": "power cuts with unflushed data lost",
}


def check(killed: bool, code: int, err: str) -> None:
    """Raise LostError if a run did not end as it must after a kill or an error."""
    if "Traceback" in err or "a bug in xpnet" in err:
        raise LostError(err)
    if killed and code != -signal.SIGKILL:
        msg = f"it was not killed: {code} {err!r}"
        raise LostError(msg)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    if not killed and (code not in (0, 2) or len(lines) != (code == 2)):
        msg = f"exit code {code} and {err!r}"
        raise LostError(msg)


if __name__ == "__main__":
    main(*sys.argv[1:])
