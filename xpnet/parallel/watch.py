"""A watch over calls that wait for other ranks: one that lasts too long ends the job."""

import sys
import threading
import time
from collections.abc import Callable

__all__ = ["Watch"]


class Watch:
    """Calls ``end`` with a line for the terminal, once one call has waited ``timeout`` seconds.

    A call is what is inside of ``with watch("a sum of", 10, "numbers"):``; there is one at a time.
    The thread that looks on is asleep but for a moment now and then.
    """

    def __init__(self, timeout: float, end: Callable[[str], None]) -> None:
        self.timeout, self._end = timeout, end
        self._what: tuple[object, ...] = ()
        self._thread_id = 0
        self._since: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="xpnet-watch", daemon=True)
        self._thread.start()

    def __call__(self, *what: object) -> "Watch":
        self._what = what
        return self

    def __enter__(self) -> None:
        self._thread_id = threading.get_ident()
        self._since = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._since = None

    def stop(self) -> None:
        """Let the thread go."""
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(min(self.timeout / 4, 5.0)):
            since = self._since
            if since is not None and time.monotonic() - since >= self.timeout:
                self._end(self._line())
                return

    def _line(self) -> str:
        what = " ".join(f"{w:,}" if isinstance(w, int) else str(w) for w in self._what)
        more = f"parallel.timeout = {2 * self.timeout:g} allows more"
        return (
            f"has waited {self.timeout:g} s for the other ranks in {what}{self._place()}: "
            f"they have stopped or take another path; {more}"
        )

    def _place(self) -> str:
        """Where in the program the call is: its last line outside of this folder."""
        frame = sys._current_frames().get(self._thread_id)
        here = __file__.rpartition("/")[0]
        while frame is not None and frame.f_code.co_filename.startswith(here):
            frame = frame.f_back
        return "" if frame is None else f" ({frame.f_code.co_filename}:{frame.f_lineno})"
