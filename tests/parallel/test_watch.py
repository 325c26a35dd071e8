"""The watch over calls that wait: when it ends the job, and what it says."""

import threading
import time

import pytest

from xpnet.parallel import watch as module
from xpnet.parallel.watch import Watch


class Told:
    def __init__(self):
        self.lines, self.event = [], threading.Event()

    def __call__(self, line):
        self.lines.append(line)
        self.event.set()

    def wait(self):
        assert self.event.wait(10)
        return self.lines[0]


@pytest.fixture
def told():
    return Told()


def test_a_call_that_lasts_too_long_is_told_with_its_place(told):
    watch = Watch(0.05, told)
    with watch("a sum of", 235_146, "numbers"):
        for _ in range(1000):
            time.sleep(0.01)
            if told.lines:
                break
    (line,) = told.lines
    assert line.startswith("has waited 0 s for the other ranks in a sum of 235,146 numbers (")
    assert f"{__file__}:" in line
    assert line.endswith(
        "): they have stopped or take another path; parallel.timeout = 0.1 allows more"
    )


def test_many_short_calls_are_not_one_long_one(told):
    watch = Watch(0.1, told)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        with watch("a barrier"):
            time.sleep(0.01)
    time.sleep(0.2)  # nor is what is between two calls
    watch.stop()
    assert not told.lines


def test_a_call_that_cannot_return_is_ended_at_the_second_look(told, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.02)
    reasons = iter(["rank 1 has ended", "", "rank 1 has ended", "rank 1 has ended"])
    watch = Watch(60, told, lambda: next(reasons, ""))
    with watch("a barrier"):
        assert ": rank 1 has ended" in told.wait()
    assert next(reasons, None) is None


def test_a_call_that_raises_is_over(told):
    watch = Watch(0.05, told)
    with pytest.raises(ZeroDivisionError), watch("a barrier"):
        1 / 0  # noqa: B018
    time.sleep(0.15)
    watch.stop()
    assert not told.lines
