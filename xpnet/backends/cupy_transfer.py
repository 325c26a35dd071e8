"""Batches on their way to a GPU, one copied while the one before it is computed with.

Two slots, each a pinned buffer on the host and a buffer on the device. The copies have a stream of
their own, and events keep the order: a slot is filled on the host when its last copy is done,
copied when the step that used it is done, and used when its copy is done. Only the first of the
three makes the host wait, and by then that copy is a batch old.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from xpnet.typing import Array

__all__ = ["CupyLanes", "Lanes", "transferred"]

SLOTS = 2
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


class _Slot:
    """Buffers that hold a batch like ``first``, or a shorter one."""

    def __init__(self, lanes: Lanes, first: Named) -> None:
        self.lanes = lanes
        self.pinned = {k: lanes.pinned(v.shape, v.dtype) for k, v in first.items()}
        self.device = {k: lanes.empty(v.shape, v.dtype) for k, v in first.items()}
        self.ready, self.consumed = lanes.event(), lanes.event()
        # The device's buffers may be memory that earlier steps, still under way, have given back.
        lanes.record(self.consumed, copying=False)

    def load(self, batch: Named) -> None:
        self.ready.synchronize()
        self.lanes.wait(self.consumed, copying=True)
        for name, x in batch.items():
            rows = slice(0, x.shape[0])
            np.copyto(self.pinned[name][rows], x)
            self.lanes.copy(self.device[name][rows], self.pinned[name][rows])
        self.rows = {name: x.shape[0] for name, x in batch.items()}
        self.lanes.record(self.ready, copying=True)

    def use(self) -> dict[str, Array]:
        self.lanes.wait(self.ready, copying=False)
        return {name: x[: self.rows[name]] for name, x in self.device.items()}


def transferred(lanes: Lanes, batches: Iterable[Named]) -> Iterator[dict[str, Array]]:
    """Yield each batch of host arrays on the device, in the dtypes it has.

    The first batch is the longest. What is yielded is overwritten once the next one is asked for:
    computations with it that are under way are safe, the arrays themselves are not to be kept.
    """
    slots: list[_Slot] = []
    loaded: list[_Slot] = []
    try:
        for k, batch in enumerate(batches):
            if len(slots) < SLOTS:
                slots.append(_Slot(lanes, batch if k == 0 else slots[0].pinned))
            slot = slots[k % SLOTS]
            slot.load(batch)
            loaded.append(slot)
            if len(loaded) == SLOTS:
                yield from _given(lanes, loaded.pop(0))
        while loaded:
            yield from _given(lanes, loaded.pop(0))
    finally:
        for slot in slots:  # no buffer is given back while a copy may still write to it
            lanes.wait(slot.ready, copying=False)
            slot.ready.synchronize()


def _given(lanes: Lanes, slot: _Slot) -> Iterator[dict[str, Array]]:
    yield slot.use()
    lanes.record(slot.consumed, copying=False)


class CupyLanes:
    """CuPy's streams and pinned memory."""

    def __init__(self, device: Any) -> None:
        import cupy
        import cupyx  # type: ignore[import-not-found]

        self._cupy, self._device = cupy, device
        self.pinned = cupyx.empty_pinned
        with device:
            self._copying = cupy.cuda.Stream(non_blocking=True)

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
