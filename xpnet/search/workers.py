"""Trials in several processes: each trains what it is sent, and asks after each epoch.

The processes share nothing with one another. Where this one ends, however it ends, their pipe does,
and they save their trial and end, too.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from xpnet.errors import XpnetError
from xpnet.search.trials import Base, Outcome, Trial

__all__ = ["Task", "run_parallel"]

POLL = 0.2  # seconds until a signal is noticed
PROGRAM = "import sys; sys.path = {path!r}; from xpnet.search.worker import main; main()"
# A process that takes one core each: not all cores for every library, nor all memory of a GPU.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


class Task(NamedTuple):
    """A trial to train, and where."""

    trial: Trial
    folder: Path
    settings: list[str]
    resume: bool


class Worker:
    """A process; what it says arrives in ``events`` as (worker, what, ...), at its end as "end"."""

    def __init__(self, base: Base, events: "queue.Queue[tuple[Any, ...]]") -> None:
        self.task: Task | None = None
        environment = {**ENVIRONMENT, **os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal is for this process, which tells them
        )
        self.send(base)
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def send(self, what: Any) -> None:
        """Send an object; a process that has ended is told by its end."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # ended, or told to end
            pickle.dump(what, self.process.stdin)
            self.process.stdin.flush()

    def begin(self, task: Task) -> None:
        """Have it train."""
        self.task = task
        self.send((task.folder, task.settings, task.resume))

    def stop(self) -> None:
        """Have it save what it trains, and end."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, OSError):
            self.process.stdin.close()

    def close(self) -> None:
        """Wait until it has ended."""
        self.stop()
        self.process.wait()

    def _listen(self, events: "queue.Queue[tuple[Any, ...]]") -> None:
        assert self.process.stdout is not None
        with self.process.stdout, suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                events.put((self, *pickle.load(self.process.stdout)))
        events.put((self, "end"))


def run_parallel(
    count: int,
    base: Base,
    following: Callable[[], Task | None],
    prune: Callable[[Trial, int, int, float], bool],
    done: Callable[[Trial, Outcome], None],
    stopping: Callable[[], bool],
) -> None:
    """Run the tasks that ``following`` gives in up to ``count`` processes, until there are no more.

    ``prune`` answers for an epoch, ``done`` is called for each trial that has ended; those that
    ``stopping`` ends are interrupted. Raises what ended a process on purpose, such as a
    CheckpointError where the disk is full.
    """
    events: queue.Queue[tuple[Any, ...]] = queue.Queue()
    workers: list[Worker] = []
    asked_to_stop = False
    try:
        while True:
            while not stopping() and (task := _next(workers, count, following)) is not None:
                free = [w for w in workers if w.task is None]
                if not free:
                    free = [Worker(base, events)]
                    workers += free
                free[0].begin(task)
            if not any(w.task for w in workers):
                return
            if stopping() and not asked_to_stop:
                asked_to_stop = True
                for worker in workers:
                    worker.stop()
            with suppress(queue.Empty):
                _handle(events.get(timeout=POLL), workers, prune, done, stopping)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.close()


def _next(workers: list[Worker], count: int, following: Callable[[], Task | None]) -> Task | None:
    return following() if sum(w.task is not None for w in workers) < count else None


def _handle(
    event: tuple[Any, ...],
    workers: list[Worker],
    prune: Callable[[Trial, int, int, float], bool],
    done: Callable[[Trial, Outcome], None],
    stopping: Callable[[], bool],
) -> None:
    worker, what, *rest = event
    task = worker.task
    if what == "epoch" and task is not None:
        worker.send(prune(task.trial, *rest))
    elif what == "done" and task is not None:
        worker.task = None
        done(task.trial, rest[0])
    elif what == "error":
        worker.task = None
        error: XpnetError = rest[0]
        raise error
    elif what == "end":
        workers.remove(worker)
        worker.close()
        if task is not None:
            code = worker.process.returncode
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            state: Any = "interrupted" if stopping() else "failed"
            done(task.trial, Outcome(state, reason=f"its process was ended {how}"))
