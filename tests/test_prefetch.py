"""A thread that prepares items ahead: in order, errors passed on, and none left behind."""

import itertools
import sys
import threading
import time

import pytest

import xpnet.prefetch
from xpnet.errors import ConfigError
from xpnet.prefetch import prefetch


def prefetch_threads():
    """Return the threads whose first frame is that of a prefetch."""
    first = {}
    for ident, frame in sys._current_frames().items():
        while frame.f_back is not None:
            frame = frame.f_back
        first[ident] = frame.f_code
    return [
        i
        for i, c in first.items()
        if (c.co_name, c.co_filename) == ("work", xpnet.prefetch.__file__)
    ]


def no_thread_is_left():
    end = time.monotonic() + 5
    while prefetch_threads() and time.monotonic() < end:
        time.sleep(0.001)
    return not prefetch_threads()


def test_a_thread_that_prefetches_is_seen_by_these_tests():
    items = prefetch(itertools.count(), 2)
    next(items)
    assert len(prefetch_threads()) == 1
    items.close()
    assert no_thread_is_left()


@pytest.mark.parametrize("depth", [0, 1, 2, 100])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_prefetched_items_come_in_order(n, depth):
    assert list(prefetch(range(n), depth)) == list(range(n))
    assert no_thread_is_left()


def test_an_error_is_raised_after_the_items_before_it_with_its_traceback():
    def source():
        yield 1
        {}["gone"]

    items = prefetch(source(), 5)
    assert next(items) == 1
    with pytest.raises(KeyError, match="gone") as caught:
        next(items)
    assert caught.traceback[-1].name == "source"
    assert no_thread_is_left()


@pytest.mark.parametrize("depth", [1, 3])
def test_at_most_depth_items_are_prefetched(depth):
    made = []
    full = threading.Event()

    def source():
        for i in itertools.count():
            made.append(i)
            if len(made) == 1 + depth:
                full.set()
            yield i

    items = prefetch(source(), depth)
    assert next(items) == 0
    assert full.wait(5)
    time.sleep(0.02)  # time for one item too many
    assert len(made) == 1 + depth
    items.close()
    assert no_thread_is_left()


@pytest.mark.parametrize("taken", [1, 2, 7])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_closing_early_ends_the_thread_and_closes_the_source(taken, depth):
    closed = threading.Event()

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    items = prefetch(source(), depth)
    assert list(itertools.islice(items, taken)) == list(range(taken))
    items.close()
    assert closed.wait(5)
    assert no_thread_is_left()


def test_closing_does_not_wait_for_the_current_item():
    release = threading.Event()

    def source():
        yield 1
        release.wait(30)
        yield 2

    items = prefetch(source(), 2)
    assert next(items) == 1
    items.close()
    assert not release.is_set()
    release.set()
    assert no_thread_is_left()


def test_an_exception_in_the_loop_ends_the_thread():
    def loop():
        for item in prefetch(itertools.count(), 2):
            if item == 3:
                raise RuntimeError(item)

    with pytest.raises(RuntimeError, match="3"):
        loop()
    assert no_thread_is_left()


def test_a_prefetch_that_is_never_used_starts_no_thread():
    prefetch(itertools.count(), 2)
    assert not prefetch_threads()


def test_a_negative_depth_is_refused():
    with pytest.raises(ConfigError, match="got -1"):
        prefetch([], -1)
