"""Plant mistakes that a person could make, one at a time, and say which of them no test notices.

    scripts/mutants                                    all of scripts/mutants.toml
    scripts/mutants --only ops --only kernels          of some rooms
    scripts/mutants --sample 40 --seed 7               some, drawn by the seed: for CI
    scripts/mutants -j 2 --report scripts/reports/mutants.md

Each mistake is a record of that table: a file, a text that is in it exactly once, what stands
there instead, the tests that should notice, and why it is a mistake. It is planted in a copy, never
in the checkout. Before that, its tests have to pass there as they are. The exit code is 1 if a
mistake is not noticed, unless the table says why it changes nothing (`equivalent`); if such a one
is noticed; or if tests fail without a mistake. A mistake that makes the tests hang is noticed only
where the table says that it does (`hangs`).
"""

import argparse
import contextlib
import os
import platform
import queue
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")
PATIENCE, FACTOR = 60.0, 10.0  # seconds, and times what the tests take without a mistake
PASSED, FAILED, INTERRUPTED = 0, 1, 2  # exit codes of pytest
# Those of its process where a mistake goes outside an array. SIGKILL may come from elsewhere.
CRASHED = -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS


@dataclass(frozen=True)
class Mistake:
    """A record of the table."""

    room: str
    file: str
    old: str
    new: str
    why: str
    tests: str  # arguments of pytest
    backends: str = "numpy"  # those of the fixture `backend`
    equivalent: str = ""  # why nothing can notice it, if so
    hangs: bool = False  # whether it makes the tests hang

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r} ({self.why})"


class Outcome(NamedTuple):
    """What became of a mistake."""

    mistake: Mistake
    what: str  # noticed, survived, hung, equivalent, harmful; or broken: its tests are
    detail: str = ""  # the last lines of pytest
    seconds: float = 0.0


GOOD = ("noticed", "equivalent")


def read_table(path: Path = TABLE) -> list[Mistake]:
    """Return the records; `room`, `tests` and `backends` of a [[file]] hold for its mistakes."""
    mistakes = []
    for entry in tomllib.loads(path.read_text("utf-8"))["file"]:
        shared = {k: v for k, v in entry.items() if k != "mistake"}
        mistakes += [Mistake(**{**shared, **mistake}) for mistake in entry["mistake"]]
    return mistakes


def problems(mistakes: Iterable[Mistake], root: Path = ROOT) -> list[str]:
    """Return what is wrong with the records: each must apply, once, and leave valid Python."""
    found = []
    for mistake in mistakes:
        path = root / mistake.file
        text = path.read_text("utf-8") if path.is_file() else ""
        if (count := text.count(mistake.old)) != 1:
            found.append(f"{mistake}: its old text is there {count} times, not once")
        elif path.suffix == ".py":
            try:
                compile(text.replace(mistake.old, mistake.new), mistake.file, "exec")
            except SyntaxError as error:
                found.append(f"{mistake}: what it makes is no Python: {error}")
    return found


class Tree:
    """A copy of the checkout, in which one mistake at a time is planted."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder / "copy"
        self.folder.mkdir(parents=True)
        ignore = shutil.ignore_patterns("__pycache__")
        for path in root.iterdir():
            if path.name in ("xpnet", "tests", "scripts", "docker"):
                shutil.copytree(path, self.folder / path.name, ignore=ignore)
            elif path.is_file() and not path.name.startswith("."):
                shutil.copy(path, self.folder)
        # Printed kernels are cached under a name that is a hash of their text.
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "NUMBA_CACHE_DIR": str(folder / "numba"),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a second each time
            "PYTEST_ADDOPTS": "",  # those of a run of tests that this is part of
        }

    @contextlib.contextmanager
    def planted(self, mistake: Mistake) -> Iterator[None]:
        """Plant a mistake, and take it out again."""
        path = self.folder / mistake.file
        whole = path.read_text("utf-8")
        self._write(path, whole.replace(mistake.old, mistake.new))
        try:
            yield
        finally:
            self._write(path, whole)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        # Python tells an old one by the size and the second of the file: both may be the same.
        if path.suffix == ".py":
            Path(cache_from_source(str(path))).unlink(missing_ok=True)

    def test(self, mistake: Mistake, limit: float) -> tuple[int | None, str, float]:
        """Run a mistake's tests; return pytest's exit code (None: too long), its end, the time."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["--tb=short"]
        command += [f"--basetemp={self.folder.parent / 'tmp'}", *shlex.split(mistake.tests)]
        environment = {**self.environment, "XPNET_TEST_BACKENDS": mistake.backends}
        begun = time.monotonic()
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # and what the tests started
                os.killpg(process.pid, signal.SIGKILL)
        if code is None:
            output, _ = process.communicate()
        lines = [line for line in output.splitlines() if ": not run: " not in line]
        return code, "\n".join(lines[-20:]), time.monotonic() - begun


def try_group(tree: Tree, group: list[Mistake]) -> Iterator[Outcome]:
    """Yield what becomes of mistakes that the same tests should notice."""
    code, end, seconds = tree.test(group[0], 20 * PATIENCE)
    if code != PASSED or " passed" not in end:
        yield from (Outcome(m, "broken", f"without a mistake: {end}") for m in group)
        return
    for mistake in group:
        with tree.planted(mistake):
            code, end, took = tree.test(mistake, PATIENCE + FACTOR * seconds)
        yield Outcome(mistake, _judged(mistake, code), end, took)


def _judged(mistake: Mistake, code: int | None) -> str:
    if code is None:
        return "noticed" if mistake.hangs else "hung"
    if code not in (PASSED, FAILED, INTERRUPTED, *CRASHED):
        return "broken"
    if mistake.equivalent:
        return "equivalent" if code == PASSED else "harmful"
    return "survived" if code == PASSED else "noticed"


def try_all(mistakes: Iterable[Mistake], root: Path, jobs: int) -> list[Outcome]:
    """Try mistakes in several copies at once, and print each that is not as it should be."""
    groups: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in mistakes:
        groups.setdefault((mistake.tests, mistake.backends), []).append(mistake)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for number in range(jobs):
            trees.put(Tree(root, Path(folder) / str(number)))

        def work(group: list[Mistake]) -> None:
            tree = trees.get()
            try:
                for outcome in try_group(tree, group):
                    outcomes.append(outcome)
                    if outcome.what not in GOOD:
                        print(f"{outcome.what}: {outcome.mistake}", flush=True)
                        if outcome.what != "survived":
                            print(outcome.detail, flush=True)
            finally:
                trees.put(tree)

        largest_first = sorted(groups.values(), key=len, reverse=True)
        list(pool.map(work, largest_first))  # raises what a group raised
    return outcomes


def counts(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Return how many mistakes of each room there are, and what became of them."""
    table: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        for room in (outcome.mistake.room, "all"):
            row = table.setdefault(room, {"planted": 0, **dict.fromkeys(GOOD, 0), "not noticed": 0})
            row["planted"] += 1
            row[outcome.what if outcome.what in GOOD else "not noticed"] += 1
    return {room: table[room] for room in sorted(table, key=lambda room: (room == "all", room))}


def markdown(outcomes: list[Outcome], command: str, seconds: float) -> str:
    """Return the report of a run."""
    columns = ["planted", *GOOD, "not noticed"]
    lines = [
        "# Mistakes that were planted, and noticed",
        "",
        f"By `{command}` on {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, in "
        f"{seconds:,.0f} s. `scripts/mutants.toml` has them, with the tests that notice.",
        "",
        f"| room | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for room, row in counts(outcomes).items():
        lines.append(f"| {room} | {' | '.join(str(row[c]) for c in columns)} |")
    same = [o for o in outcomes if o.what == "equivalent"]
    survivors = [o for o in outcomes if o.what not in GOOD]
    for heading, named in (("They change nothing", same), ("Not noticed", survivors)):
        if named:
            lines += ["", f"## {heading}", ""]
        for outcome in named:
            mistake = outcome.mistake
            because = mistake.equivalent or outcome.what
            lines.append(f"- `{mistake.file}`: {mistake.why}: {because}")
    return "\n".join([*lines, ""])


def main() -> None:
    """Parse the options, plant the mistakes and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-j", "--jobs", type=int, default=1, help="copies that are tested at once")
    parser.add_argument("--only", action="append", metavar="ROOM", help="a room (repeatable)")
    parser.add_argument("--sample", type=int, metavar="N", help="so many, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, metavar="PATH", help="write PATH, in Markdown")
    options = parser.parse_args()
    mistakes = read_table()
    if wrong := problems(mistakes):
        parser.exit(
            2, "\n".join(["scripts/mutants.toml has to be brought up to date:", *wrong, ""])
        )
    chosen = [m for m in mistakes if not options.only or m.room in options.only]
    if options.sample is not None:
        drawn = random.Random(options.seed).sample(
            range(len(chosen)), min(options.sample, len(chosen))
        )
        chosen = [chosen[i] for i in sorted(drawn)]
        print(
            f"{len(chosen)} of {len(mistakes)} mistakes, drawn by --seed {options.seed}", flush=True
        )
    begun = time.monotonic()
    outcomes = try_all(chosen, ROOT, options.jobs)
    if options.report:
        command = shlex.join(["scripts/mutants", *sys.argv[1:]])
        text = markdown(outcomes, command, time.monotonic() - begun)
        options.report.write_text(text, "utf-8")
    for room, row in counts(outcomes).items():
        print(f"{room}: {', '.join(f'{n} {what}' for what, n in row.items())}")
    sys.exit(any(o.what not in GOOD for o in outcomes))


if __name__ == "__main__":
    main()
