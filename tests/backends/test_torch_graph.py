"""PyTorch's train step on tensors that stay in place; the graph is stood in for by a recording.

The stand-in runs the step again on the same tensors, as a replay does. The numbers of a step, which
a real graph would freeze, are checked to be tensors.
"""

from contextlib import contextmanager

import numpy as np
import pytest

from xpnet.backends.torch_graph import GraphedStep, _wrapped, cuda_graph
from xpnet.nn import BatchNorm, Dense, Dropout, ReLU, Sequential
from xpnet.nn.layout import initialize
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, SGD, Adam
from xpnet.step import (
    Batch,
    StepInputs,
    TrainState,
    dropout_keys,
    make_train_step,
    zero_totals,
)

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

LAYERS = [Dense(7), BatchNorm(), ReLU(), Dropout(0.3), Dense(4)]


class Recorder:
    """Captures, and counts what it did."""

    def __init__(self, error=None):
        self.captures = self.replays = 0
        self.error = error

    def __call__(self, work):
        if self.error:
            raise RuntimeError(self.error)
        self.captures += 1

        def replay():
            self.replays += 1
            work()

        return replay


def make(optimizer):
    model = Sequential(LAYERS).build((5,))
    return model, make_train_step(model, SoftmaxCrossEntropy(), optimizer, Clip(norm=1.0))


def first_state(model, optimizer):
    params, stats = map(torch.from_numpy, initialize(model, 0))
    return TrainState(params, stats, optimizer.init(params), zero_totals(params))


def inputs(i, model, optimizer):
    coefficients = optimizer.coefficients(optimizer.lr * 0.9**i, i + 1)
    return StepInputs(i, coefficients, dropout_keys(0, i, model.n_random))


def batch_of(rng, n, weighted=True):
    weight = torch.from_numpy(rng.uniform(size=n)) if weighted else None
    y = torch.from_numpy(rng.integers(0, 4, size=n).astype("int32"))
    return Batch(torch.from_numpy(rng.normal(size=(n, 5))), y, weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_20_steps_in_place_are_the_functional_ones(name, rng):
    optimizer, recorder = OPTIMIZERS[name](), Recorder()
    model, step = make(optimizer)
    graphed = GraphedStep(step, recorder)
    mine, wanted = (first_state(model, optimizer) for _ in range(2))
    costs = []
    for i, n in enumerate([8, 8, 8, 8, 3] * 4):
        batch = batch_of(rng, n)
        if i == 10:  # an epoch ends
            mine, wanted = (s._replace(totals=zero_totals(s.params)) for s in (mine, wanted))
        mine, cost = graphed(mine, batch, inputs(i, model, optimizer))
        wanted, wanted_cost = step(wanted, batch, inputs(i, model, optimizer))
        costs.append((cost, wanted_cost))
    for a, b in costs:
        np.testing.assert_allclose(a, b, rtol=1e-12)
    for a, b in zip(
        (mine.params, mine.stats, *mine.slots, *mine.totals),
        (wanted.params, wanted.stats, *wanted.slots, *wanted.totals),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-15)  # fmt: skip
    assert (recorder.captures, recorder.replays) == (2, 20 - 2 * 3)
    assert graphed.note == "CUDA graph"


def test_the_state_and_the_numbers_of_a_step_are_tensors_that_stay_in_place(rng):
    optimizer, seen = Adam(), []
    model, step = make(optimizer)

    def spy(state, batch, given):
        numbers = (given.step, *given.coefficients, *(k for pair in given.keys for k in pair))
        assert all(isinstance(x, torch.Tensor) and x.shape == () for x in numbers)
        arrays = (state.params, state.stats, *state.slots, *state.totals, *batch, *numbers)
        seen.append([x.data_ptr() for x in arrays])
        return step(state, batch, given)

    graphed, state = GraphedStep(spy, Recorder()), first_state(model, optimizer)
    for i in range(6):
        state, _ = graphed(state, batch_of(rng, 8), inputs(i, model, optimizer))
    assert all(pointers == seen[0] for pointers in seen)


def test_a_capture_that_fails_leaves_the_step_eager_and_says_why(rng):
    optimizer = SGD()
    model, step = make(optimizer)
    graphed = GraphedStep(step, Recorder("operation not permitted when stream is capturing\nmore"))
    state, batches = first_state(model, optimizer), [batch_of(rng, 8) for _ in range(5)]
    for i, batch in enumerate(batches):
        state, _ = graphed(state, batch, inputs(i, model, optimizer))
    assert graphed.note == "eager: operation not permitted when stream is capturing"
    assert float(state.totals.counted) == pytest.approx(sum(float(b.weight.sum()) for b in batches))


@pytest.mark.parametrize("step", [0, 2**31 - 1, 2**31, 2**32 + 5])
def test_a_step_number_wraps_as_int32_does(step):
    assert _wrapped(step) == int(np.array(step).astype(np.int32))


class FakeCuda:
    """torch.cuda as torch/cuda/graphs.py (2.13) has it, where a failed capture keeps its stream."""

    def __init__(self):
        self.current, self.captured_on, self.fails = (0, "default"), None, False
        self.CUDAGraph = type("CUDAGraph", (), {"replay": lambda graph: "replayed"})

    @contextmanager
    def device(self, index):
        before, self.current = self.current, (index, "default")
        yield
        self.current = before

    def Stream(self):
        return (self.current[0], "another")

    def current_stream(self):
        return self.current

    def set_stream(self, stream):
        self.current = stream

    @contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"  # else no thread may allocate meanwhile
        before, self.current = self.current, stream
        yield
        if self.fails:
            msg = "capture_end failed"
            raise RuntimeError(msg)
        self.current = before


def test_a_graph_is_captured_on_the_devices_own_stream_which_is_left_again(monkeypatch):
    fake, seen, after = FakeCuda(), [], []
    monkeypatch.setattr(torch, "cuda", fake)
    assert cuda_graph(lambda: seen.append(fake.current), device=1)() == "replayed"
    assert (seen, fake.current) == ([(1, "another")], (0, "default"))
    fake.fails, leave = True, fake.set_stream
    monkeypatch.setattr(fake, "set_stream", lambda stream: (after.append(stream), leave(stream)))
    with pytest.raises(RuntimeError, match="capture_end failed"):
        cuda_graph(lambda: None, device=1)
    assert after == [(1, "default")]
