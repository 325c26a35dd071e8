"""A watch over calls that wait for other ranks: one that lasts too long ends the job."""

import os
import sys
import threading
import time
from collections.abc import Callable

__all__ = ["Watch"]

LOOK = 0.5  # seconds between two looks
HERE = os.path.dirname(__file__)


class Watch:
    """Calls ``end`` with a line for the terminal, once one call has waited ``timeout`` seconds.

    A call is what is inside of ``with watch("a sum of", 10, "numbers"):``; there is one at a time.
    It is ended earlier where ``why``, at two looks in a row, says why it cannot return. What is
    waited for on a GPU is watched by :attr:`fault`: what it says ends the job. The thread that
    looks is asleep in between.
    """

    def __init__(
        self, timeout: float, end: Callable[[str], None], why: Callable[[], str] = str
    ) -> None:
        self.timeout, self.end, self._why = timeout, end, why
        self.fault: Callable[[], str] = str
        self._what: tuple[object, ...] = ()
        self._since: float | None = None
        self._caller = 0
        self._over = threading.Event()
        threading.Thread(target=self._look_on, name="xpnet-watch", daemon=True).start()

    def __call__(self, *what: object) -> "Watch":
        self._what = what
        return self

    def __enter__(self) -> None:
        self._caller = threading.get_ident()
        self._since = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._since = None

    def stop(self) -> None:
        """Let the thread go."""
        self._over.set()

    def _look_on(self) -> None:
        suspect = None  # since when the call lasts that will not return
        while not self._over.wait(min(LOOK, self.timeout / 4)):
            if fault := self.fault():
                return self.end(fault)
            since = self._since
            waited = 0.0 if since is None else time.monotonic() - since
            if waited >= self.timeout:
                return self._tell(self.stopped)
            why = self._why() if waited >= LOOK else ""
            if why and suspect == since:
                return self._tell(why)
            suspect = since if why else None

    @property
    def stopped(self) -> str:
        """What is to be thought of the others after the time-out, and what to do."""
        more = f"parallel.timeout = {2 * self.timeout:g} allows more"
        return f"they have stopped or take another path; {more}"

    def _tell(self, why: str) -> None:
        since, what = self._since, self._what
        if since is None:  # it has returned after all
            return
        named = " ".join(f"{w:,}" if isinstance(w, int) else str(w) for w in what)
        waited = f"has waited {time.monotonic() - since:.0f} s for the other ranks in {named}"
        self.end(f"{waited}{self._place()}: {why}")

    def _place(self) -> str:
        """Where in the program the call is: its last line outside of this folder."""
        frame = sys._current_frames().get(self._caller)
        while frame is not None and frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back
        return "" if frame is None else f" ({frame.f_code.co_filename}:{frame.f_lineno})"
