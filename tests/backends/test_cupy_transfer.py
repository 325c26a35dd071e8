"""Batches are copied to a GPU while the ones before them are computed with, and none is mixed up.

The device here does nothing before it must, or what a random schedule lets it: copies and
computations wait in two queues, and run in any order that the recorded events allow.
"""

import random
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from xpnet.backends.cupy_transfer import AHEAD, CupyLanes, _Pinned, transferred
from xpnet.backends.numpy import NumpyBackend
from xpnet.data import Augment, Shuffle
from xpnet.data.read import open_rows
from xpnet.data.streamed_dataset import Assignment, StreamedDataset
from xpnet.errors import BackendError
from xpnet.training.loader import Loader
from xpnet.training.streamed_loader import StreamedLoader


class Event:
    def __init__(self, device):
        self.device, self.position = device, None

    def synchronize(self):
        self.device.note("host waits")
        if self.position is not None:
            self.device.run_until(*self.position)


class LazyDevice:
    """Two in-order queues. An entry is work, or an event's position that has to be reached.

    ``pause`` is called before each order, as a thread may be interrupted there.
    """

    def __init__(self, pause=lambda: None):
        self.queues = {"copy": [], "compute": []}
        self.done = {"copy": 0, "compute": 0}
        self.log, self.races, self.pause = [], [], pause
        self.lock = threading.RLock()
        self.trainer = threading.get_ident()

    def note(self, what):
        self.pause()
        if threading.get_ident() == self.trainer:
            self.log.append(what)

    # -- Lanes

    def pinned(self, shape, dtype):
        return np.full(shape, 77, dtype)

    def empty(self, shape, dtype):
        return np.full(shape, 99, dtype)

    def event(self):
        return Event(self)

    def copy(self, target, pinned):
        self.note("copy")
        ordered = pinned.copy()

        def work():
            if not np.array_equal(pinned, ordered):
                self.races.append("a buffer was written to while its copy was under way")
            np.copyto(target, pinned)

        self.order("copy", work)

    def record(self, event, *, copying):
        name = "copy" if copying else "compute"
        self.note(f"record {name}")
        with self.lock:
            event.position = (name, len(self.queues[name]))

    def wait(self, event, *, copying):
        name = "copy" if copying else "compute"
        self.note(f"{name} waits")
        if event.position is not None:
            self.order(name, event.position)

    # -- running it

    def order(self, name, entry):
        with self.lock:
            self.queues[name].append(entry)

    def compute(self, work):
        self.note("compute")
        self.order("compute", work)

    def run_until(self, name, position):
        with self.lock:
            while self.done[name] < position:
                entry = self.queues[name][self.done[name]]
                if isinstance(entry, tuple):
                    self.run_until(*entry)
                else:
                    entry()
                self.done[name] += 1

    def run_one(self, name):
        """Run the next entry of a queue, unless there is none or it has to wait."""
        with self.lock:
            entry = ([*self.queues[name], (name, sys.maxsize)])[self.done[name]]
            if not isinstance(entry, tuple):
                entry()
            if not isinstance(entry, tuple) or self.done[entry[0]] >= entry[1]:
                self.done[name] += 1

    def finish(self, first):
        for name in (first, *self.queues):
            self.run_until(name, len(self.queues[name]))


def in_place(batches):
    """What yields the batches from the buffers that it is given."""

    def prepared(empty):
        for batch in batches:
            written = {k: empty(k, v.shape, v.dtype) for k, v in batch.items()}
            for k, v in batch.items():
                written[k][...] = v
            yield written

    return prepared


def elsewhere(batches):
    """What yields the batches from arrays of its own."""
    return lambda empty: iter(batches)


def batches_of(rng, sizes):
    return [
        {"x": rng.normal(size=(n, 3)), "y": rng.integers(0, 9, size=n).astype("int32")}
        for n in sizes
    ]


def assert_same(seen, batches):
    assert len(seen) == len(batches)
    for got, wanted in zip(seen, batches, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])
            assert got[name].dtype == wanted[name].dtype


def copied(batch):
    return {k: v.copy() for k, v in batch.items()}


@pytest.mark.parametrize("written", [in_place, elsewhere])
@pytest.mark.parametrize("first", [None, "copy", "compute"])
@pytest.mark.parametrize("sizes", [[], [4], [4, 4], [4] * 7, [4, 4, 4, 1]])
def test_every_step_sees_its_own_batch_however_late_the_device_is(sizes, first, written, rng):
    """`first` is a queue that runs as early as events let it: too early, without them."""
    device, batches, seen = LazyDevice(), batches_of(rng, sizes), []
    for batch in transferred(device, written(batches)):
        device.compute(lambda b=batch: seen.append(copied(b)))
        if first is not None:
            device.run_until(first, len(device.queues[first]))
    device.finish("compute")
    assert not device.races
    assert_same(seen, batches)


def under_a_random_schedule(seed, batches):
    """What the steps saw where host threads and both queues run in a random order."""
    chance = random.Random(seed)
    often = chance.choice([0.1, 0.5, 0.9])

    def pause():
        if chance.random() < often:
            time.sleep(chance.random() * 2e-4)

    def on_its_own():
        while not ended:
            device.run_one(chance.choice(["copy", "compute"]))
            pause()

    def prepared(empty):
        for batch in batches:
            out = {k: empty(k, v.shape, v.dtype) for k, v in batch.items()}
            for i in range(len(batch["x"])):  # a row at a time, as a gather does
                pause()
                for k, v in batch.items():
                    out[k][i] = v[i]
            yield out

    device, seen, ended = LazyDevice(pause), [], []
    runs = threading.Thread(target=on_its_own)
    runs.start()
    try:
        for batch in transferred(device, prepared):
            pause()
            device.compute(lambda b=batch: seen.append(copied(b)))
    finally:
        ended.append(True)
        runs.join()
    device.finish(chance.choice(["copy", "compute"]))
    return seen, device.races


@pytest.mark.parametrize("seed", range(12))
def test_every_step_sees_its_own_batch_under_a_random_schedule(seed, rng):
    batches = batches_of(rng, [3] * 14 + [2])
    seen, races = under_a_random_schedule(seed, batches)
    assert not races
    assert_same(seen, batches)


def test_the_order_of_events_is_this_one(rng):
    device, batches = LazyDevice(), batches_of(rng, [4] * 3)
    for _ in transferred(device, in_place([{"x": b["x"]} for b in batches])):
        device.compute(lambda: None)
    load = ["copy waits", "copy", "record copy"]
    use = ["compute waits", "compute", "record compute"]
    made = ["record compute"]
    end = ["record copy", "compute waits", "host waits"]
    assert device.log == [*made, *load, *made, *load, *use, *load, *use, *use, *end]


@pytest.mark.parametrize("removed", ["used", "copied", "host"])
def test_without_one_of_the_waits_a_step_would_see_another_batch(removed, rng, monkeypatch):
    """The tests above find it: each wait is needed."""
    device, batches, seen = LazyDevice(), batches_of(rng, [4] * 9), []
    if removed == "host":
        monkeypatch.setattr(Event, "synchronize", lambda self: None)
    wait, skipped = device.wait, {"used": True, "copied": False}.get(removed)

    def some_waits(event, *, copying):
        if copying != skipped:
            wait(event, copying=copying)

    monkeypatch.setattr(device, "wait", some_waits)
    for batch in transferred(device, in_place(batches)):
        device.compute(lambda b=batch: seen.append(copied(b)))
        if removed != "host":
            eager = "copy" if removed == "used" else "compute"
            device.run_until(eager, len(device.queues[eager]))
    device.finish("compute")
    with pytest.raises(AssertionError):
        assert_same(seen, batches)
    assert bool(device.races) == (removed == "host")


def test_the_thread_that_trains_does_not_wait_for_copies(rng, monkeypatch):
    """It orders them: rows are written, once, and buffers are waited for in the other thread."""
    device, asked, empty = LazyDevice(), [], _Pinned.empty
    monkeypatch.setattr(_Pinned, "empty", lambda *a: asked.append(a[1]) or empty(*a))
    for _ in transferred(device, in_place(batches_of(rng, [4] * 50))):
        assert "host waits" not in device.log
    assert device.log.count("copy") == 100
    assert device.log.count("host waits") == 1  # at the end
    assert len(asked) == 100


def test_leaving_early_waits_for_what_is_on_its_way(rng):
    device = LazyDevice()
    stream = transferred(device, in_place(batches_of(rng, [4] * 5)))
    next(stream)
    stream.close()
    assert device.done["copy"] == len(device.queues["copy"]) > 0


def test_an_interruption_while_a_copy_is_ordered_waits_for_it_too(rng):
    device = LazyDevice()
    record = device.record

    def interrupted(event, *, copying):
        if copying and device.log.count("copy") == 4 and not raised:
            raised.append(True)
            raise KeyboardInterrupt
        record(event, copying=copying)

    def until_closed(empty):
        try:
            yield from in_place(batches_of(rng, [4] * 50))(empty)
        finally:
            closed.set()

    device.record, raised, closed = interrupted, [], threading.Event()
    with pytest.raises(KeyboardInterrupt) as kept:
        list(transferred(device, until_closed))
    assert device.done["copy"] == len(device.queues["copy"]) > 0
    assert closed.wait(5), f"the thread waits while {kept} keeps the frames"


@pytest.mark.parametrize("good", range(6))
def test_an_error_of_the_thread_is_raised_after_the_batches_before_it(good, rng):
    batches = batches_of(rng, [4] * good)

    def failing(empty):
        yield from in_place(batches)(empty)
        msg = "the file is torn"
        raise OSError(msg)

    device, seen = LazyDevice(), []
    given = transferred(device, failing)
    for _ in range(good):
        batch = next(given)
        device.compute(lambda b=batch: seen.append(copied(b)))
    with pytest.raises(OSError, match="torn"):
        next(given)
    device.finish("compute")
    assert_same(seen, batches)


@pytest.mark.parametrize("change", ["longer", "wider", "dtype"])
def test_a_batch_that_does_not_fit_the_first_is_refused(change, rng):
    first = {"x": rng.normal(size=(4, 3))}
    other = {"longer": (5, 3), "wider": (4, 4), "dtype": (4, 3)}[change]
    late = {"x": rng.normal(size=other).astype("float32" if change == "dtype" else "float64")}
    batches = [first] * (AHEAD + 1) + [late]
    with pytest.raises(BackendError, match="a later batch has x of shape"):
        list(transferred(LazyDevice(), in_place(batches)))


# -- what writes the batches -----------------------------------------------------------------------


class Streaming(NumpyBackend):
    """NumPy that takes batches as CuPy does, and counts the arrays that were written elsewhere."""

    def stream(self, prepared):
        self.elsewhere = []

        def watched(empty):
            given = {}

            def kept(name, shape, dtype):
                given[name] = empty(name, shape, dtype)
                return given[name]

            for batch in prepared(kept):
                self.elsewhere += [k for k, v in batch.items() if v is not given.pop(k, None)]
                yield batch

        device = LazyDevice()
        for batch in transferred(device, watched):
            device.finish("copy")
            yield batch

    def owns(self, x):
        return False  # as if its arrays were another library's


OPTIONS = {
    "as stored": {},
    "transformed": {"transform": lambda a: 2 * a},
    "shifted": {"augment": Augment(shift=1)},
    "noise": {"augment": Augment(noise=0.1)},
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("ordered", [False, True])
def test_a_loader_streams_through_the_backend_what_it_would_have_placed(
    ordered, options, dtype, rng
):
    x = (9 * rng.uniform(size=(11, 4, 5))).astype(dtype)
    arrays = (x, rng.integers(0, 3, size=11), rng.uniform(size=11))
    shuffle = Shuffle(0, 1) if ordered else None
    plain, streaming = NumpyBackend(), Streaming()
    loaders = [Loader(b, *arrays, resident=False, **OPTIONS[options]) for b in (plain, streaming)]
    pairs = list(zip(*([(*map(np.copy, b),) for b in loader.batches(4, shuffle)]
                       for loader in loaders), strict=True))  # fmt: skip
    assert len(pairs) == 3
    for wanted, got in pairs:
        for a, b in zip(wanted, got, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    # Noise is added last, to a new array.
    assert set(streaming.elsewhere) == ({"x"} if ordered and options == "noise" else set())


def test_rows_that_are_not_one_block_of_memory_are_gathered_without_copying_all_of_them(rng):
    wide = rng.normal(size=(1000, 50)).astype("float32")
    streaming = Streaming()
    loader = Loader(streaming, wide[:, 3:], resident=False)
    order = Shuffle(0, 0).order(1000)
    for k, (x, _, _) in enumerate(loader.batches(100, Shuffle(0, 0))):
        np.testing.assert_array_equal(x, wide[order[100 * k : 100 * k + 100], 3:])
    assert not streaming.elsewhere


@pytest.mark.parametrize("options", [o for o in OPTIONS if o != "shifted"])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_streamed_file_is_gathered_where_it_is_copied_from(ordered, options, rng, tmp_path):
    x, y = rng.normal(size=(300, 6)), rng.integers(0, 3, size=300)
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    file = open_rows(tmp_path / "rows.npz")
    shuffle = Shuffle(0, 1) if ordered else None
    results = []
    for backend in (NumpyBackend(), streaming := Streaming()):
        dataset = StreamedDataset(
            file, Assignment(file.bounds), 0, lambda y: y.astype("int32"), ("a", "b", "c"), "", 2048
        )
        loader = StreamedLoader(backend, dataset, **OPTIONS[options])
        results.append([(*map(np.copy, b[:2]),) for b in loader.batches(64, shuffle)])
    assert len(results[0]) == 5
    for wanted, got in zip(*results, strict=True):
        for a, b in zip(wanted, got, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert set(streaming.elsewhere) == ({"x"} if ordered and options == "noise" else set())


class Cupy:
    """CuPy as far as lanes use it, for two devices; every copy is done at once."""

    def __init__(self):
        self.now = threading.local()  # each thread has a current device of its own
        self.pinned_on = set()
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

        def empty_pinned(shape, dtype):
            self.pinned_on.add(self.current)
            return np.empty(shape, dtype)

        self.Device = Device
        self.cupyx = SimpleNamespace(empty_pinned=empty_pinned)
        self.empty = lambda shape, dtype: np.empty(shape, dtype).view(Array)
        streams = SimpleNamespace(Stream=Stream, Event=Event)
        streams.get_current_stream = Stream  # of the current device
        self.cuda = streams

    @property
    def current(self):
        return getattr(self.now, "index", 0)

    @current.setter
    def current(self, index):
        self.now.index = index


@pytest.mark.parametrize("device", [0, 1])
def test_cupys_lanes_use_the_streams_of_their_device(device, rng, monkeypatch):
    cupy = Cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", cupy.cupyx)
    batches = batches_of(rng, [4, 4, 4, 1])
    given = transferred(CupyLanes(cupy.Device(device)), in_place(batches))
    for got, wanted in zip(given, batches, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])
    assert cupy.pinned_on == {device}
