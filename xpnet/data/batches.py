"""The order in which rows are seen, and a thread that prepares them ahead."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from xpnet.errors import ConfigError
from xpnet.random import generator

__all__ = ["Shuffle", "prefetch"]

T = TypeVar("T")


class Shuffle(NamedTuple):
    """An order of rows that depends on (seed, epoch) alone, so an epoch is resumed by a number."""

    seed: int
    epoch: int

    def order(self, n: int, *window: int) -> np.ndarray:
        """Return 0 ... n - 1 in this epoch's order, or in that of one window of it.

        >>> Shuffle(seed=0, epoch=1).order(5).tolist()
        [4, 2, 3, 1, 0]
        """
        return generator(self.seed, "shuffle", self.epoch, *window).permutation(n)


def prefetch(iterable: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield the items of ``iterable``, up to ``depth`` of which a thread makes ahead.

    What ``iterable`` raises is raised here, after the items before it. When this generator is
    closed the thread makes no further item and closes ``iterable``; nothing waits for an item that
    is being made, and the thread does not keep the program alive. With depth 0 there is no thread.
    """
    if depth < 0:
        msg = f"depth must be 0 or more; got {depth}"
        raise ConfigError(msg)
    return _prefetch(iterable, depth) if depth else iter(iterable)


class _End(NamedTuple):
    error: BaseException | None


def _prefetch(iterable: Iterable[T], depth: int) -> Iterator[T]:
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    stopped = threading.Event()

    def work() -> None:
        end = _End(None)
        try:
            iterator = iter(iterable)
            while room.acquire() and not stopped.is_set():
                ready.put(next(iterator))
            if close := getattr(iterator, "close", None):
                close()
        except StopIteration:
            end = _End(None)
        except BaseException as error:  # whatever it is, it belongs to the consumer
            end = _End(error)
        ready.put(end)

    threading.Thread(target=work, name="xpnet-prefetch", daemon=True).start()
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        room.release()  # the thread may be waiting for it
