"""Fits every peer to every split of every table, one fit at a time, and scores the test rows.

A peer has a process of its own, which stays for all its fits: importing its library is not timed,
no peer's threads or memory are another's, and a fit that takes too long can be ended.
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.bench.table_peers import Job, Peer
from xpnet.bench.tables import Split, installed, write_split
from xpnet.training.threads import VARIABLES

__all__ = ["Cell", "Racer", "scored"]

FLOOR = 1e-7  # of a probability in the logarithmic loss


@dataclass(frozen=True)
class Cell:
    """One fit of one peer: its scores, or why there are none."""

    table: str
    seed: int
    peer: str
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0  # seconds of all threads: what other programs do not add to
    warnings: int = 0  # that training has not converged
    failure: str = ""

    def json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


class Racer:
    """The process of a peer, begun when it is first needed."""

    def __init__(self, name: str, peer: Peer, threads: int, timeout: float) -> None:
        self.name, self.peer, self.threads, self.timeout = name, peer, threads, timeout
        self._process: Any = None
        self._connection: Connection | None = None

    def run(self, split: Split, data: Path) -> Cell:
        """Fit to the training rows and score the test rows."""
        place = split.table.name, split.seed, self.name
        with tempfile.TemporaryDirectory() as folder:
            truth = write_split(split, data, Path(folder))
            labels = tuple(split.table.frame(data)[1])
            job = Job(
                Path(folder, "train.csv"), Path(folder, "test.csv"), labels, split.table.task,
                split.seed, self.threads, Path(folder),
            )  # fmt: skip
            answer = self._ask(job)
        if isinstance(answer, str):
            return Cell(*place, failure=answer)
        predicted, classes, *measured = answer
        return Cell(*place, scored(truth, predicted, classes), *measured)

    def _ask(self, job: Job) -> Any:
        try:
            connection = self._connection or self._begin()
            connection.send(job)
            if connection.poll(self.timeout):
                return connection.recv()
            answer = f"not done after {self.timeout:g} s"
        except (EOFError, OSError):
            answer = "its process died"
        self.end()
        return answer

    def _begin(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        with _environment(dict.fromkeys(VARIABLES, str(self.threads))):  # read at the import
            self._process = context.Process(target=_serve, args=(self.peer, theirs), daemon=True)
            self._process.start()
        theirs.close()
        self._connection.recv()  # that it has warmed up
        return self._connection

    def end(self) -> None:
        """End the process; another run begins another one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._connection = None


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(peer: Peer, connection: Connection) -> None:
    """Answer each job with what :func:`_answer` returns; what libraries print is lost.

    The first message says that the peer is loaded.
    """
    with open(os.devnull, "w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())
    _warm_up(peer)
    connection.send("ready")
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_answer(peer, job))


def _warm_up(peer: Peer) -> None:
    """Fit the peer to a few rows, so that what is loaded or compiled once is not timed."""
    with tempfile.TemporaryDirectory() as folder:
        rows = "".join(f"{i % 7},{i % 5},{'ab'[i % 2]}\n" for i in range(80))
        for name in ("train", "test"):
            Path(folder, f"{name}.csv").write_text("x,y,label\n" + rows)
        files = Path(folder, "train.csv"), Path(folder, "test.csv")
        _answer(peer, Job(*files, ("label",), "classification", 0, 1, Path(folder)))


def _answer(peer: Peer, job: Job) -> Any:
    """Return predictions, classes, seconds, those of CPU, and a count of warnings, or a failure."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            began = time.perf_counter(), time.process_time()
            fitted = peer(job)
            seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
            predicted = np.asarray(fitted.predict())
        unconverged = sum(w.category.__name__ == "ConvergenceWarning" for w in caught)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return predicted, fitted.classes, seconds, cpu, unconverged


def scored(
    truth: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...] | None
) -> dict[str, float]:
    """Return accuracy, macro F1 and log loss, or R², the mean over the targets.

    ``truth`` (N,) are names of classes, with ``predicted`` (N, K) their probabilities in the order
    of ``classes``, or values (N, J).
    """
    metrics = installed("sklearn.metrics")
    if classes is None:
        return {"R²": float(metrics.r2_score(truth, predicted.reshape(truth.shape)))}
    names = np.asarray(classes)
    answers = names[predicted.argmax(axis=1)]
    of_truth = np.where(names == truth[:, None], predicted, 0.0).sum(axis=1)
    return {
        "accuracy": float((answers == truth).mean()),
        "macro F1": float(
            metrics.f1_score(truth, answers, average="macro", labels=np.unique(truth))
        ),
        "log loss": float(-np.log(np.maximum(of_truth, FLOOR)).mean()),
    }
