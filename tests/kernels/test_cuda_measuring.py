"""How products are timed, on a GPU whose clock is simulated."""

import gc
from types import SimpleNamespace

import pytest

from xpnet.errors import BackendError
from xpnet.kernels.cuda.measuring import BUDGET, MOST, ROUNDS, measured

HOST = 10e-6  # seconds that the host takes for a call, so that a GPU waits for the next one


class Gpu:
    """CuPy on a GPU where the function i of a stream takes ``seconds[i]``, None for a failure."""

    def __init__(self, *seconds):
        self.now, self.captured, self.calls = 0.0, None, [0] * len(seconds)
        self.waited = self.inside = False
        gpu = self

        class Stream:
            ptr = 11

            def __enter__(self):
                gpu.inside = True

            def __exit__(self, *error):
                gpu.inside = False

            def begin_capture(self):
                assert not gc.isenabled()
                gpu.captured = 0.0

            def end_capture(self):
                took, gpu.captured = gpu.captured, None

                def launch():
                    assert gpu.inside, "a graph is launched on the current stream"
                    gpu.now += took

                return SimpleNamespace(launch=launch)

        class Event:
            at = None

            def record(self):
                assert gpu.inside
                self.at = gpu.now

            def synchronize(self):
                assert self.at is not None

        def wait():
            self.waited = True

        self.stream = Stream()
        self.cuda = SimpleNamespace(
            Event=Event,
            Device=lambda: SimpleNamespace(synchronize=wait),
            get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
        )
        self.runs = [self.run(i, time) for i, time in enumerate(seconds)]

    def run(self, i, seconds):
        def run(stream):
            assert self.waited, "other work may still run"
            assert stream == 11
            if seconds is None:
                msg = "status 13"
                raise BackendError(msg)
            self.calls[i] += 1
            if self.captured is None:
                self.now += max(seconds, HOST)
            else:
                self.captured += seconds

        return run


def test_short_functions_are_timed_without_the_time_of_the_host():
    gpu = Gpu(3e-6, 2e-6, 2.9e-6)
    times = measured(gpu, gpu.stream, gpu.runs)
    assert times == pytest.approx([3e-6, 2e-6, 2.9e-6])
    assert gpu.calls == [2 + round(200e-6 / HOST)] * 3
    assert gc.isenabled()
    assert MOST * HOST > 200e-6


def test_one_that_fails_is_infinitely_slow():
    gpu = Gpu(None, 2e-6, None)
    assert measured(gpu, gpu.stream, gpu.runs) == pytest.approx([float("inf"), 2e-6, float("inf")])


def test_what_is_slow_is_left_out_after_the_first_turn():
    gpu = Gpu(1e-3, 5e-3)
    launched, capture = [], gpu.stream.end_capture

    def end_capture():
        graph, i = capture(), len(launched)
        launched.append(0)

        def launch():
            launched[i] += 1
            graph.launch()

        return SimpleNamespace(launch=launch)

    gpu.stream.end_capture = end_capture
    assert measured(gpu, gpu.stream, gpu.runs) == pytest.approx([1e-3, 5e-3])
    assert launched == [ROUNDS, 1]


def test_long_functions_are_tried_within_a_budget():
    gpu = Gpu(*[0.3 * BUDGET] * 5)
    times = measured(gpu, gpu.stream, gpu.runs)
    assert times == pytest.approx([0.3 * BUDGET] * 2 + [float("inf")] * 3)
    assert gpu.now < 3 * BUDGET
