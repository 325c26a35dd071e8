"""Batches are copied to a GPU while the ones before them are computed with, and none is mixed up.

The device here does nothing before it must: copies and computations wait in two queues, and run in
any order that the recorded events allow, the worst ones first.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from xpnet.backends.cupy_transfer import CupyLanes, transferred
from xpnet.backends.numpy import NumpyBackend
from xpnet.data import Shuffle
from xpnet.training.loader import Loader


class Event:
    def __init__(self, device):
        self.device, self.position = device, None

    def synchronize(self):
        self.device.log.append("host waits")
        if self.position is not None:
            self.device.run_until(*self.position)


class LazyDevice:
    """Two in-order queues. An entry is work, or an event's position that has to be reached."""

    def __init__(self):
        self.queues = {"copy": [], "compute": []}
        self.done = {"copy": 0, "compute": 0}
        self.log = []

    # -- Lanes

    def pinned(self, shape, dtype):
        return np.full(shape, 77, dtype)

    def empty(self, shape, dtype):
        return np.full(shape, 99, dtype)

    def event(self):
        return Event(self)

    def copy(self, target, pinned):
        self.log.append("copy")
        self.queues["copy"].append(lambda: np.copyto(target, pinned))

    def record(self, event, *, copying):
        name = "copy" if copying else "compute"
        self.log.append(f"record {name}")
        event.position = (name, len(self.queues[name]))

    def wait(self, event, *, copying):
        name = "copy" if copying else "compute"
        self.log.append(f"{name} waits")
        if event.position is not None:
            self.queues[name].append(event.position)

    # -- running it

    def compute(self, work):
        self.log.append("compute")
        self.queues["compute"].append(work)

    def run_until(self, name, position):
        while self.done[name] < position:
            entry = self.queues[name][self.done[name]]
            if isinstance(entry, tuple):
                self.run_until(*entry)
            else:
                entry()
            self.done[name] += 1

    def finish(self, first):
        for name in (first, *self.queues):
            self.run_until(name, len(self.queues[name]))


def batches_of(rng, sizes):
    return [
        {"x": rng.normal(size=(n, 3)), "y": rng.integers(0, 9, size=n).astype("int32")}
        for n in sizes
    ]


@pytest.mark.parametrize("first", [None, "copy", "compute"])
@pytest.mark.parametrize("sizes", [[], [4], [4, 4], [4] * 7, [4, 4, 4, 1]])
def test_every_step_sees_its_own_batch_however_late_the_device_is(first, sizes, rng):
    """`first` is a queue that runs as early as events let it: too early, without them."""
    device, batches, seen = LazyDevice(), batches_of(rng, sizes), []
    for batch in transferred(device, iter(batches)):
        device.compute(lambda b=batch: seen.append({k: v.copy() for k, v in b.items()}))
        if first is not None:
            device.run_until(first, len(device.queues[first]))
    device.finish("compute")
    assert len(seen) == len(batches)
    for got, wanted in zip(seen, batches, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])
            assert got[name].dtype == wanted[name].dtype


def test_the_order_of_events_is_this_one(rng):
    device, batches = LazyDevice(), batches_of(rng, [4] * 3)
    for _ in transferred(device, iter([{"x": b["x"]} for b in batches])):
        device.compute(lambda: None)
    load = ["host waits", "copy waits", "copy", "record copy"]
    use = ["compute waits", "compute", "record compute"]
    made = ["record compute"]
    end = ["compute waits", "host waits"] * 2
    assert device.log == [*made, *load, *made, *load, *use, *load, *use, *use, *end]


@pytest.mark.parametrize("removed", ["consumed", "ready", "host"])
def test_without_one_of_the_waits_a_step_would_see_another_batch(removed, rng, monkeypatch):
    """The test above finds it: each wait is needed."""
    device, batches, seen = LazyDevice(), batches_of(rng, [4] * 6), []
    if removed == "host":
        monkeypatch.setattr(Event, "synchronize", lambda self: None)
    wait, skipped = device.wait, {"consumed": True, "ready": False}.get(removed)

    def some_waits(event, *, copying):
        if copying != skipped:
            wait(event, copying=copying)

    monkeypatch.setattr(device, "wait", some_waits)
    for batch in transferred(device, iter(batches)):
        device.compute(lambda b=batch: seen.append(b["x"].copy()))
        if removed != "host":
            eager = "copy" if removed == "consumed" else "compute"
            device.run_until(eager, len(device.queues[eager]))
    device.finish("compute")
    assert not all(np.array_equal(a, b["x"]) for a, b in zip(seen, batches, strict=True))


def test_leaving_early_waits_for_what_is_on_its_way(rng):
    device = LazyDevice()
    stream = transferred(device, iter(batches_of(rng, [4] * 5)))
    next(stream)
    stream.close()
    assert device.done["copy"] == len(device.queues["copy"])


def test_copies_and_waits_of_the_host_are_one_per_array_and_batch(rng):
    device = LazyDevice()
    for _ in transferred(device, iter(batches_of(rng, [4] * 50))):
        pass
    assert device.log.count("copy") == 100
    assert device.log.count("host waits") == 52  # and one per slot at the end


class Streaming(NumpyBackend):
    """NumPy that takes batches as CuPy does."""

    def stream(self, batches):
        self.device_ = LazyDevice()
        for batch in transferred(self.device_, batches):
            self.device_.finish("copy")
            yield batch


@pytest.mark.parametrize("ordered", [False, True])
def test_a_feed_streams_through_the_backend_what_it_would_have_placed(ordered, rng):
    x, y = rng.normal(size=(11, 2)).astype("float32"), rng.integers(0, 3, size=11)
    shuffle = Shuffle(0, 1) if ordered else None
    arrays = (x, y, rng.uniform(size=11))
    plain = Loader(NumpyBackend(), *arrays, resident=False, transform=lambda a: 2 * a)
    streamed = Loader(Streaming(), *arrays, resident=False, transform=lambda a: 2 * a)
    count = 0
    for a, b in zip(plain.batches(4, shuffle), streamed.batches(4, shuffle), strict=True):
        for mine, wanted in zip(b, a, strict=True):
            np.testing.assert_array_equal(mine, wanted)
            assert mine.dtype == wanted.dtype
        count += 1
    assert count == 3


class Cupy:
    """CuPy as far as lanes use it, for two devices; every copy is done at once."""

    def __init__(self):
        self.current = 0
        cupy = self

        class Device:
            def __init__(self, index):
                self.index = index

            def __enter__(self):
                self.before, cupy.current = cupy.current, self.index

            def __exit__(self, *error):
                cupy.current = self.before

        class Stream:
            def __init__(self, non_blocking=False):
                self.device = cupy.current

            def wait_event(self, event):
                assert self.device == event.device == cupy.current

        class Event:
            def __init__(self, disable_timing=False):
                self.device = cupy.current

            def record(self, stream):
                assert stream.device == self.device == cupy.current

            def synchronize(self):
                pass

        class Array(np.ndarray):
            def set(self, arr, stream=None):
                assert type(arr) is np.ndarray
                assert (arr.dtype, arr.shape) == (self.dtype, self.shape)
                assert arr.flags.c_contiguous  # else a copy, in memory that is not pinned
                assert self.flags.c_contiguous
                self[...] = arr

        self.Device = Device
        self.empty = lambda shape, dtype: np.empty(shape, dtype).view(Array)
        streams = SimpleNamespace(Stream=Stream, Event=Event)
        streams.get_current_stream = Stream  # of the current device
        self.cuda = streams


@pytest.mark.parametrize("device", [0, 1])
def test_cupys_lanes_use_the_streams_of_their_device(device, rng, monkeypatch):
    cupy = Cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=np.empty))
    batches = batches_of(rng, [4, 4, 4, 1])
    given = transferred(CupyLanes(cupy.Device(device)), iter(batches))
    for got, wanted in zip(given, batches, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])
