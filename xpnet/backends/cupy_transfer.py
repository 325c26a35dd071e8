"""Batches on their way to a GPU, one copied while the one before it is computed with.

A thread writes each batch into a pinned buffer of the host, and this side copies it to a buffer of
the device on a stream of its own. Events keep the order: a pinned buffer is written to when its
last copy is done, a buffer of the device when the step that used it is done, and that step begins
when the copy is done. Only the first makes a host thread wait, which is not the one that trains.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from xpnet.errors import BackendError
from xpnet.prefetch import Empty, prefetch
from xpnet.typing import Array

__all__ = ["CupyLanes", "Lanes", "Staging", "transferred"]

AHEAD = 2  # batches that are written while the one before them is on its way
IN_TURN = 2  # buffers of the device: one is computed with, one is copied to
Named = Mapping[str, np.ndarray]


class Lanes(Protocol):
    """A device with a stream for copies beside the one that computes."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray: ...
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array: ...
    def event(self) -> Any:
        """Return an event, which has a ``synchronize`` that returns at once before a record."""
        ...

    def copy(self, target: Array, pinned: np.ndarray) -> None:
        """Copy on the copying stream, without waiting."""
        ...

    def record(self, event: Any, *, copying: bool) -> None:
        """Let the event stand for all work so far on the copying or the computing stream."""
        ...

    def wait(self, event: Any, *, copying: bool) -> None:
        """Let later work on that stream begin after the event; the host goes on."""
        ...


class _Pinned:
    """Buffers of the host for a batch, as large as the first one; ``copied`` is its last copy."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes, self.copied = lanes, lanes.event()
        self.buffers: dict[str, np.ndarray] = {}
        self.batch: dict[str, np.ndarray] = {}

    def begin(self) -> None:
        self.copied.synchronize()
        self.batch = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if name not in self.buffers:
            self.buffers[name] = self.lanes.pinned(shape, dtype)
        rows = self.buffers[name][: shape[0]]
        if (rows.shape, rows.dtype) != (shape, dtype):
            msg = f"a later batch has {name} of shape {shape} and {dtype}; the first had "
            msg += f"{self.buffers[name].shape} and {self.buffers[name].dtype}"
            raise BackendError(msg)
        self.batch[name] = rows
        return rows

    def finish(self, batch: Named) -> None:
        """Copy what was not written here."""
        for name, x in batch.items():
            if x is not self.batch.get(name):
                np.copyto(self.empty(name, x.shape, x.dtype), x)


class _OnDevice:
    """Buffers of the device for a batch, as large as the first one; ``used`` is its last use."""

    def __init__(self, lanes: Lanes, first: Named) -> None:
        self.lanes, self.used = lanes, lanes.event()
        self.buffers = {k: lanes.empty(v.shape, v.dtype) for k, v in first.items()}
        # They may be memory that earlier steps, still under way, have given back.
        lanes.record(self.used, copying=False)

    def load(self, pinned: _Pinned) -> None:
        self.lanes.wait(self.used, copying=True)
        self.batch = {k: self.buffers[k][: v.shape[0]] for k, v in pinned.batch.items()}
        for name, rows in self.batch.items():
            self.lanes.copy(rows, pinned.batch[name])
        self.lanes.record(pinned.copied, copying=True)
        self.loaded = pinned.copied


def transferred(
    lanes: Lanes, prepared: Callable[[Empty], Iterator[Named]]
) -> Iterator[dict[str, Array]]:
    """Yield each batch of host arrays on the device, in the dtypes it has.

    ``prepared(empty)`` yields them in a thread; what it writes into the arrays that ``empty`` gives
    it is in pinned memory, and is copied once. The first batch is the longest. A batch is
    overwritten once the next one is asked for: computations with it that are under way are safe,
    the arrays themselves are not to be kept.

    Raises BackendError where a batch does not fit into the buffers of the first.
    """
    # The thread begins batch n when n - AHEAD is taken, and so when the copy of the one before
    # that has been ordered: it finds the event of its own slot's last copy recorded.
    slots = [_Pinned(lanes) for _ in range(AHEAD + 1)]
    written = prefetch(_written(slots, prepared), depth=AHEAD)
    last_copy = lanes.event()
    buffers: list[_OnDevice] = []
    loaded: deque[_OnDevice] = deque()
    failure: Exception | None = None
    ended = False
    try:
        for k in itertools.count():
            try:
                slot = None if ended else next(written, None)
            except Exception as error:  # raised after the batches before it
                slot, failure = None, error
            ended = slot is None
            if slot is not None:
                if k < IN_TURN:
                    buffers.append(_OnDevice(lanes, slots[0].buffers))
                buffers[k % IN_TURN].load(slot)
                loaded.append(buffers[k % IN_TURN])
            if loaded and (len(loaded) > 1 or ended):
                given = loaded.popleft()
                lanes.wait(given.loaded, copying=False)
                yield given.batch
                lanes.record(given.used, copying=False)
            elif ended:
                break
        if failure is not None:
            raise failure
    finally:
        written.close()  # type: ignore[attr-defined]
        # No buffer is given back while a copy may still read or write it.
        lanes.record(last_copy, copying=True)
        lanes.wait(last_copy, copying=False)
        last_copy.synchronize()


def _written(
    slots: list[_Pinned], prepared: Callable[[Empty], Iterator[Named]]
) -> Iterator[_Pinned]:
    """Let batches be written into the slots in turn: this runs in the thread."""
    turns = itertools.cycle(slots)
    slot = next(turns)

    def empty(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return slot.empty(name, shape, dtype)

    for batch in prepared(empty):
        slot.finish(batch)
        yield slot
        slot = next(turns)
        slot.begin()


class Staging:
    """Arrays of CuPy to the host and back, through one pinned buffer there."""

    def __init__(self, device: Any) -> None:
        import cupy
        import cupyx  # type: ignore[import-not-found]

        self._cupy, self._cupyx, self._device = cupy, cupyx, device
        self._buffer = np.empty(0, np.uint8)

    def to_host(self, x: Array) -> np.ndarray:
        """Return what is in x, in the buffer until the next call; waits for the device."""
        with self._device:
            buffer = self._buffer
            if len(buffer) < x.nbytes:
                buffer = self._cupyx.empty_pinned((x.nbytes,), np.uint8)
            host = buffer[: x.nbytes].view(x.dtype).reshape(x.shape)
            x.get(out=host)  # ends after earlier copies from the buffer
            self._buffer = buffer
            return host

    def place(self, host: np.ndarray) -> Array:
        """Return a copy on the device, which is made in the order of the current stream."""
        with self._device:
            x = self._cupy.empty(host.shape, dtype=host.dtype)
            x.set(host)
            return x


class CupyLanes:
    """CuPy's streams and pinned memory."""

    def __init__(self, device: Any) -> None:
        import cupy
        import cupyx

        self._cupy, self._cupyx, self._device = cupy, cupyx, device
        with device:
            self._copying = cupy.cuda.Stream(non_blocking=True)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if 0 in shape:  # no row of the batch is this rank's
            return np.empty(shape, dtype)
        with self._device:  # in a thread, whose current device is its own
            return self._cupyx.empty_pinned(shape, dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self._device:
            return self._cupy.empty(shape, dtype=dtype)

    def event(self) -> Any:
        with self._device:
            return self._cupy.cuda.Event(disable_timing=True)

    def copy(self, target: Array, pinned: np.ndarray) -> None:
        target.set(pinned, stream=self._copying)

    def record(self, event: Any, *, copying: bool) -> None:
        with self._device:  # an event and its stream belong to one device, the current one
            event.record(self._stream(copying))

    def wait(self, event: Any, *, copying: bool) -> None:
        with self._device:
            self._stream(copying).wait_event(event)

    def _stream(self, copying: bool) -> Any:
        return self._copying if copying else self._cupy.cuda.get_current_stream()
