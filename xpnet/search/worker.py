"""The process that :mod:`xpnet.search.workers` starts: it trains one trial after another."""

import os
import pickle
import queue
import signal
import sys
import threading
from typing import IO, Any

from xpnet.errors import XpnetError
from xpnet.registry import load_plugin
from xpnet.search.trials import Base, run_trial

__all__ = ["main"]


class Parent:
    """The process that sends the trials, at the other end of two pipes."""

    def __init__(self, receiving: IO[bytes], sending: IO[bytes]) -> None:
        self.receiving, self.sending = receiving, sending
        self.received: queue.Queue[Any] = queue.Queue()
        self.gone = False  # then the trial is saved, and this process ends
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, *what: Any) -> None:
        """Send an event."""
        try:
            pickle.dump(what, self.sending)
            self.sending.flush()
        except OSError:
            self.gone = True

    def prune(self, epoch: int, epochs: int, value: float) -> bool:
        """Ask whether the trial is to be pruned."""
        self.tell("epoch", epoch, epochs, value)
        return bool(self.received.get())

    def _listen(self) -> None:
        try:
            while True:
                self.received.put(pickle.load(self.receiving))
        except (EOFError, OSError, pickle.UnpicklingError):
            self.gone = True
        self.received.put(None)


def main() -> None:
    """Train what comes through standard input until it ends; what others print goes to stderr."""
    with os.fdopen(os.dup(1), "wb") as sending, os.fdopen(os.dup(0), "rb") as receiving:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent decides
        parent = Parent(receiving, sending)
        base: Base | None = parent.received.get()
        for path in base.plugins if base else ():
            load_plugin(path)
        # The end may have been the answer to an epoch: it comes only once.
        while base and not parent.gone and (task := parent.received.get()) is not None:
            folder, settings, resume = task
            try:
                outcome = run_trial(
                    base,
                    folder,
                    settings,
                    resume=resume,
                    prune=parent.prune,
                    stopping=lambda: parent.gone,
                )
            except XpnetError as error:  # nothing can be written: no other trial can either
                parent.tell("error", type(error)(error.at_command_line))
                return
            parent.tell("done", outcome)
            if outcome.state == "interrupted":
                return
