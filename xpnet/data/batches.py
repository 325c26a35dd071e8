"""The order in which rows are seen, and a thread that prepares them ahead."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from xpnet.errors import ConfigError
from xpnet.random import generator

__all__ = ["batch_count", "batches", "prefetch"]

T = TypeVar("T")


def batch_count(n_rows: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return the number of batches in an epoch.

    >>> batch_count(10, 4), batch_count(10, 4, drop_last=True)
    (3, 2)
    """
    if n_rows < 1 or batch_size < 1:
        msg = f"batches need a row and a batch_size of at least 1; got {n_rows} and {batch_size}"
        raise ConfigError(msg)
    return n_rows // batch_size if drop_last else -(-n_rows // batch_size)


def batches(
    n_rows: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    start: int = 0,
    drop_last: bool = False,
) -> Iterator[np.ndarray]:
    """Iterate over the row indices, int32 (batch_size,), of one epoch's batches from ``start`` on.

    The order depends on (seed, epoch) alone, so an epoch is resumed by its batch number. The last
    batch is smaller where ``batch_size`` does not divide ``n_rows``, unless ``drop_last``.

    >>> [b.tolist() for b in batches(5, 2, seed=0, epoch=0, shuffle=False, start=1)]
    [[2, 3], [4]]
    """
    count = batch_count(n_rows, batch_size, drop_last=drop_last)
    if not 0 <= start <= count:
        msg = f"start must be a batch number from 0 to {count}; got {start}"
        raise ConfigError(msg)
    order = np.arange(n_rows, dtype=np.int32)
    if shuffle:
        order = generator(seed, "shuffle", epoch).permutation(order)
    return (order[k * batch_size : (k + 1) * batch_size] for k in range(start, count))


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
