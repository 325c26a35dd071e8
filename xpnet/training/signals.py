"""The signals that ask a training to end, and what happens when one comes again.

Python runs a signal's handler between two instructions of its own. A compilation or a large matrix
product is one instruction that may take minutes, so a thread watches beside it for the second
signal, which means "at once".
"""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from xpnet.parallel.launcher import launched

__all__ = ["REPEAT", "SIGNALS", "Signals"]

# Windows has no SIGHUP, which says that the terminal was closed.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS: tuple[signal.Signals, ...] = tuple(s for s in signal.Signals if s.name in NAMES)

# Within this many seconds a signal is the same one: `timeout`, and programs that start others, send
# it to a process and then to its group.
REPEAT = 0.1
PATIENCE = 0.5  # seconds until the thread does what the handler has not


def _signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a training to end here.

    One of several ranks is asked by SIGUSR1, too, which launchers hand on, and after which they
    give it time: that of Open MPI ends its ranks soon after the others.
    """
    if launched() is None or not hasattr(signal, "SIGUSR1"):
        return SIGNALS
    return *SIGNALS, signal.SIGUSR1


class Signals:
    """Notes the first SIGINT, SIGTERM or SIGHUP between :meth:`begin` and :meth:`end`.

    The second one ends the process. A signal that is ignored, as nohup ignores SIGHUP, stays so.
    Only the main thread can watch for signals; in another one this does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] | None = None

    def begin(self) -> None:
        """Take over the signals. They stay as they were where no thread can be started."""
        self.received = None
        if threading.current_thread() is not threading.main_thread():
            return
        unwatched = (signal.SIG_IGN, None)
        watched = [s for s in _signals() if signal.getsignal(s) not in unwatched]
        self._before = {s: signal.signal(s, self._handle) for s in watched}
        self._watch()

    def end(self) -> None:
        """Give them back."""
        if self._pipe:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[1])  # ends the thread
            self._pipe = None
        for s, handler in self._before.items():
            signal.signal(s, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since > REPEAT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _watch(self) -> None:
        """Have the interpreter write the number of each signal to a pipe, and a thread read it."""
        if os.name == "nt":  # a pipe there always waits
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        other = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if other != -1:  # somebody else's, such as asyncio's
            signal.set_wakeup_fd(other)
            os.close(read)
            os.close(write)
            return
        self._pipe = read, write
        numbers = {int(s) for s in self._before}
        try:
            threading.Thread(target=_second, args=(read, numbers), daemon=True).start()
        except BaseException:
            self.end()
            os.close(read)  # which the thread would have done
            raise


def _second(pipe: int, numbers: set[int]) -> None:
    """End the process at the second signal, unless the handler was quicker."""
    first = None
    with contextlib.suppress(OSError):
        while got := os.read(pipe, 1):
            if got[0] not in numbers:
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > REPEAT:
                time.sleep(PATIENCE)
                os._exit(128 + got[0])
    os.close(pipe)
