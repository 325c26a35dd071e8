"""Where a training is, and that whatever interrupts it leaves a whole number of steps behind.

Python runs the handler of a signal, and so raises KeyboardInterrupt, between any two of its own
instructions, also in the middle of an update that writes over the weights. Two things keep weights
and position together:

deferral   a signal that comes in the middle of a step, or of several that are taken at once, has
           its handler run after it; the next one does not wait, so that nothing is ever deaf to it
repair     where a step is interrupted all the same, its phase stays set, by which the trainer knows
           that it must go back to the last state that it has a copy of
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from xpnet.training.snapshot import Position

__all__ = ["STEP", "TRIAL", "WHOLE", "Cursor"]

# The phase: what is on the device, compared with the position.
WHOLE = 0  # it is the state at this position
TRIAL = 1  # steps are tried or repeated on it: it must be put back
STEP = 2  # it is on its way to the next position: signals wait


class Cursor:
    """The position of a training and its phase; each is set by one assignment.

    Reading and setting them is all that a step costs.
    """

    __slots__ = ("_before", "_thread", "_waiting", "phase", "position")

    def __init__(self, position: Position) -> None:
        self.position, self.phase = position, WHOLE
        self._before: dict[int, Any] = {}  # signal -> the handler that it had
        self._waiting: list[tuple[int, FrameType | None]] = []
        self._thread = threading.get_ident()

    def __reduce__(self) -> tuple[Any, ...]:
        return Cursor, (self.position,)

    @property
    def torn(self) -> bool:
        """Whether a step was interrupted, and not just: one is being taken by another thread."""
        return self.phase != WHOLE and self._thread == threading.get_ident()

    def advance(self, phase: int = WHOLE, steps: int = 1) -> None:
        """End a step, or several taken at once: be so far on, in ``phase`` from here on."""
        epoch, batch, step = self.position
        self.position = Position(epoch, batch + steps, step + steps)
        self.phase = phase
        if self._waiting:
            self._deliver()

    def arrive(self, position: Position) -> None:
        """Be at ``position``: what is on the device is the state there from here on."""
        self.position = position
        self.phase = WHOLE
        if self._waiting:
            self._deliver()

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Within it signals wait for the end of a step, where their handlers are Python's.

        Only the main thread runs those; in another one this does nothing.
        """
        self._thread = threading.get_ident()
        try:
            if threading.current_thread() is threading.main_thread():
                for each in signal.valid_signals():
                    handler = signal.getsignal(each)
                    if callable(handler) and handler != self._handle:
                        self._before[each] = handler
                        signal.signal(each, self._handle)
            yield
        finally:
            for number, handler in tuple(self._before.items()):
                if signal.getsignal(number) == self._handle:  # else somebody has set another
                    signal.signal(number, handler)
            if self._waiting:
                self._deliver()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.phase == STEP and not self._waiting:
            self._waiting.append((number, frame))
        else:
            self._before[number](number, frame)

    def _deliver(self) -> None:
        number, frame = self._waiting.pop()
        self._before[number](number, frame)
