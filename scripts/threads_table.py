"""Compare the number of threads that xpnet chooses with every fixed number of them.

    python scripts/threads_table.py DATA_DIR scripts/reports/threads.md

DATA_DIR holds `mnist/` and UCI's `letter/letter-recognition.data`. Networks are trained for some
seconds in processes of their own, in turns, with the machine as it is and beside as many
spinning processes as it has cores. Takes about ten minutes; begin on an idle machine.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xpnet import Dense, ReLU, Trainer
from xpnet.backends.threads import cores
from xpnet.bench import Setting
from xpnet.bench.results import machine, sentence
from xpnet.data import load_named
from xpnet.training.callbacks import Callback
from xpnet.training.threads import VARIABLES, candidates

# name -> hidden widths, rows of a batch
NETWORKS = {"digits": ((256, 128), 32), "letter": ((256, 256), 64), "mnist": ((512, 256), 128)}
SPIN = "while True: pass"
PAUSE = 0.2  # seconds until the spinning processes are under way


class Clock(Callback):
    """Counts steps from the second on, and stops the training after some seconds of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.began, self.now = seconds, -1, 0.0, 0.0

    def on_step_end(self, trainer: Trainer) -> None:
        self.steps, self.now = self.steps + 1, time.perf_counter()
        self.began = self.began or self.now
        if self.now - self.began > self.seconds:
            trainer.stop("enough")


def examples(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, I) about 1 in size, and labels (N,)."""
    if name == "letter":
        source = folder / "letter/letter-recognition.data"
        table = np.loadtxt(source, delimiter=",", dtype=str)
        x, y = table[:, 1:].astype("f4"), np.unique(table[:, 0], return_inverse=True)[1]
    else:
        dataset, _ = load_named(name, None if name == "digits" else folder)
        x, y = np.reshape(dataset.x, (len(dataset.x), -1)).astype("f4"), dataset.y
    return x / x.max(), y


def one(name: str, threads: str, seconds: float, folder: Path) -> dict:
    """Train for so long, in this process; return examples per second and the number of threads."""
    x, y = examples(name, folder)
    hidden, batch_size = NETWORKS[name]
    layers = [layer for width in hidden for layer in (Dense(width), ReLU())]
    trainer = Trainer(
        [*layers, Dense(int(y.max()) + 1)],
        backend="numpy",
        batch_size=batch_size,
        threads=threads if threads == "auto" else int(threads),
    )
    clock = Clock(seconds)
    trainer.fit((x, y), epochs=10_000, callbacks=[clock])
    rate = clock.steps * batch_size / (clock.now - clock.began)
    return {"rate": rate, "threads": trainer.chosen_threads.number}


@contextlib.contextmanager
def load(count: int) -> Iterator[None]:
    """Spin in so many processes within."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        time.sleep(PAUSE)
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def child(name: str, threads: str, seconds: float, folder: Path) -> dict:
    """Call :func:`one` in a process whose libraries nobody has limited."""
    words = [str(folder), "-", "--one", name, threads, "--seconds", str(seconds)]
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    done = subprocess.run(
        [sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def measured(rounds: int, seconds: float, folder: Path) -> dict[tuple, list[dict]]:
    """Return what every round found, by network, load and threads."""
    found = defaultdict(list)
    fixed = [str(n) for n in candidates(cores())]
    for name in NETWORKS:
        child(name, "1", 0.0, folder)  # compiles the kernels
    for number in range(rounds):
        for beside in (0, cores()):
            for name in NETWORKS:
                print(f"round {number + 1}: {name} beside {beside}", file=sys.stderr, flush=True)
                with load(beside):
                    for threads in ("auto", *fixed):
                        result = child(name, threads, seconds, folder)
                        found[name, beside, threads].append(result)
    return found


def table(found: dict[tuple, list[dict]]) -> Iterator[str]:
    """The lines of a Markdown table of medians, and of the lowest and highest."""
    fixed = [str(n) for n in candidates(cores())]
    heads = ["network", "beside it", *(f"{n} thread{'s' * (n != '1')}" for n in fixed), "auto"]
    yield "| " + " | ".join([*heads, "auto / best", "it chose"]) + " |"
    yield "| --- | --- |" + " ---: |" * (len(fixed) + 2) + " --- |"
    for name, beside in dict.fromkeys(key[:2] for key in found):
        rates = {t: [r["rate"] for r in found[name, beside, t]] for t in (*fixed, "auto")}
        medians = {t: statistics.median(values) for t, values in rates.items()}
        best = max(medians[t] for t in fixed)
        chosen = Counter(r["threads"] for r in found[name, beside, "auto"])
        (hidden, batch_size), state = (
            NETWORKS[name],
            f"{beside} spinning" if beside else "nothing of ours",
        )
        cells = [f"{name}, {'-'.join(map(str, hidden))}, batch {batch_size}", state]
        cells += [f"{medians[t]:,.0f} ({min(v):,.0f} to {max(v):,.0f})" for t, v in rates.items()]
        cells += [
            f"{medians['auto'] / best:.2f}",
            ", ".join(f"{n} ({times} times)" for n, times in chosen.most_common()),
        ]
        yield "| " + " | ".join(cells) + " |"


def report(rounds: int, seconds: float, folder: Path) -> str:
    """Measure, and return the report."""
    before = os.getloadavg()[0]
    found = measured(rounds, seconds, folder)
    lines = [
        "Rows per second of training on NumPy with Adam, in float32: medians, lowest and highest",
        f"of {rounds} processes of {seconds:g} s, taken in turns, with the machine as it was and",
        f"beside {cores()} processes that spin. `auto` is what xpnet chooses when training begins.",
        f"Written by `scripts/threads_table.py`; the load average before it was {before:.2f}.",
        "",
        *table(found),
        "",
        sentence(machine(Setting())),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DATA_DIR")
    parser.add_argument("output", type=Path, metavar="REPORT.md")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one training")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one, options.seconds, options.folder)))
        return
    options.output.write_text(report(options.rounds, options.seconds, options.folder), "utf-8")


if __name__ == "__main__":
    main()
