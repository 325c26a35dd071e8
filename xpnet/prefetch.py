"""A thread that prepares items before they are asked for, and where it writes them."""

import _thread
import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xpnet.errors import ConfigError

__all__ = ["Empty", "new_array", "prefetch"]

T = TypeVar("T")
# Returns an array for the values of a batch, by name, shape and dtype: a new one, or a buffer from
# which the batch is copied to a device.
Empty = Callable[[str, tuple[int, ...], Any], np.ndarray]


def new_array(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a new array, uninitialised."""
    return np.empty(shape, dtype)


def prefetch(iterable: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield the items of ``iterable``, while a thread prepares up to ``depth`` items ahead.

    The thread begins item n when item n - ``depth`` is taken. An exception of ``iterable`` is
    raised here, after the items before it. When this generator is closed, the thread closes
    ``iterable`` and ends after the current item, for which nothing waits; the thread does not keep
    the program alive. With depth 0 there is no thread.
    """
    if depth < 0:
        msg = f"depth must be >= 0; got {depth}"
        raise ConfigError(msg)
    return _prefetch(iterable, depth) if depth else iter(iterable)


class _End(NamedTuple):
    error: BaseException | None


def _prefetch(iterable: Iterable[T], depth: int) -> Iterator[T]:
    # Nothing here holds a lock of Python's own, as a Semaphore does and the start of a Thread: who
    # is interrupted while holding one waits for it forever after.
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room: queue.SimpleQueue[None] = queue.SimpleQueue()  # an entry for each item to prepare
    stopped = False
    for _ in range(depth):
        room.put(None)

    def work() -> None:
        end = _End(None)
        try:
            iterator = iter(iterable)
            while room.get() is None and not stopped:
                ready.put(next(iterator))
            if close := getattr(iterator, "close", None):
                close()
        except StopIteration:
            end = _End(None)
        except BaseException as error:  # whatever it is, the consumer handles it
            end = _End(error)
        ready.put(end)

    _thread.start_new_thread(work, ())
    try:
        while not isinstance(item := ready.get(), _End):
            room.put(None)
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped = True
        room.put(None)  # the thread may be waiting for it
