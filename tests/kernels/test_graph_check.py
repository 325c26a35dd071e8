"""The comparison of a captured graph with the eager step: on the device, and what it leaves."""

import weakref

import numpy as np
import pytest
from cuda_on_cpu import CpuExecutor
from test_cuda_step import class_batches, first_state, inputs

from xpnet.errors import BackendError
from xpnet.kernels.cuda.graph_check import Graphs, copies_of, fault_of_graph
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.kernels.cuda.lanes import Recorded
from xpnet.nn import Dense, Dropout, ReLU, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import Adam

SIZES = [(1000,), (0,), (), (3, 5)]
DTYPES = ["float32", "float64", "float64", "int32"]


@pytest.fixture(params=[0, 1])
def executor(request, folder):
    return CpuExecutor("float32", folder, order=request.param)


@pytest.fixture
def state(executor, rng):
    host = [rng.normal(size=s).astype(d) for s, d in zip(SIZES, DTYPES, strict=True)]
    host[0][:3] = np.nan, -0.0, np.inf
    return [executor.placed(x) for x in host]


def bits(state):
    return [x.tobytes() for x in state]


def stepping(state, seen):
    """A step that changes all of the state, and keeps what it was in ``seen``."""

    def step():
        seen.append(bits(state))
        for x in state:
            x[...] = 3 * x + 1

    return step


def fault_of(executor, state, replay, eager, *options, **named):
    """The fault of a graph that is replayed by a function."""
    executor.capture = lambda calls: replay
    graphs = Graphs(executor, [Recorded(eager)])
    kept = copies_of(executor, state)
    return fault_of_graph(executor, state, kept, graphs.try_out, eager, *options, **named)


def test_a_graph_that_does_the_same_has_no_fault_and_both_begin_where_the_state_was(
    executor, state
):
    seen, restored, before = [], [], bits(state)
    was = [x.copy() for x in state]
    step = stepping(state, seen)
    assert fault_of(executor, state, step, step, lambda: restored.append(bits(state))) == ""
    assert seen == [before, before]
    assert restored == [before]
    for now, then in zip(state, was, strict=True):
        np.testing.assert_array_equal(now, 3 * then + 1)
    executor.check_guards()


@pytest.mark.parametrize(
    ("which", "at", "change", "words"),
    [
        (0, 0, lambda x: -x, 1),  # one NaN for another
        (0, 1, lambda x: -x, 1),  # one zero for the other
        (0, 999, lambda x: np.nextafter(x, np.float32(9.0)), 1),
        (2, 0, lambda x: np.nextafter(x, 9.0), 1),
        (2, 0, lambda x: x + 1.1, 2),
        (3, 14, lambda x: x + 1, 1),
    ],
)
def test_one_bit_anywhere_is_a_fault_and_the_state_is_the_eager_steps(
    which, at, change, words, executor, state
):
    before = [x.copy() for x in state]

    def eager():
        for x in state[1:]:
            x += 1

    def replay():
        eager()
        flat = state[which].reshape(-1)
        flat[at] = change(flat[at])

    fault = fault_of(executor, state, replay, eager, threads=64)
    assert fault.endswith(f"different numbers: {words} of 1,017 words of the state differ")
    assert state[0].tobytes() == before[0].tobytes()
    for x, was in zip(state[1:], before[1:], strict=True):
        assert x.tobytes() == (was + np.ones((), was.dtype)).tobytes()


def test_a_graph_that_does_not_launch_leaves_the_state_to_the_eager_step(executor, state):
    """Which is taken in its place, too: other ranks wait for what it sums."""
    before, restored, seen = bits(state), [], []

    def replay():
        msg = "cudaErrorMemoryAllocation"
        raise BackendError(msg)

    step = stepping(state, seen)
    fault = fault_of(executor, state, replay, step, lambda: restored.append(bits(state)))
    assert fault == "the graph could not be launched: BackendError: cudaErrorMemoryAllocation"
    assert seen == [before, before]
    assert restored == [before]


class Short(CpuExecutor):
    """A device that says how much is allocated and read, and may have no room for more."""

    def __init__(self, folder):
        super().__init__("float32", folder)
        self.full, self.allocated, self.read = False, [], []

    def empty(self, shape, dtype):
        if self.full:
            msg = "Out of memory allocating 9 bytes"
            raise MemoryError(msg)
        x = np.full(shape, np.nan if str(dtype).startswith("float") else 77, dtype)
        self.allocated.append(weakref.ref(x))
        return x

    def to_host(self, x):
        self.read.append(x.nbytes)
        return super().to_host(x)


LAYERS, RULE = [Dense(40), ReLU(), Dropout(0.3), Dense(5)], Adam(0.01)


def trained(executor, rng, rows, full_at=None, graph=True):
    """Return the step and its last state; the device is full from a batch on."""
    model = Sequential(LAYERS).build((6,))
    fused = FusedStep(executor, model, SoftmaxCrossEntropy(), RULE, graph=graph, threads=64)
    state = first_state(model, RULE, "float32")
    for i, batch in enumerate(class_batches(rng, "float32", rows)):
        if i == full_at:
            executor.full = True
        state, _ = fused(state, batch, inputs(i, model, RULE))
    return fused, state


def test_the_check_reads_one_number_and_gives_its_memory_back(folder, rng):
    """A state may be too large for the host; before, all of it was read three times."""
    executor = Short(folder)
    fused, state = trained(executor, rng, [12, 12])
    alive = sum(ref() is not None for ref in executor.allocated)
    batch = next(class_batches(rng, "float32", [12]))
    fused(state, batch, inputs(2, fused.task.model, RULE))
    assert fused.note.startswith("CUDA graph of ")
    assert executor.read == [8]
    assert sum(ref() is not None for ref in executor.allocated) == alive


class OnDevice(np.ndarray):
    """An array that is not the host's."""


def test_shapes_are_checked_on_the_host(folder, rng, monkeypatch):
    """On a GPU the loss of the first batch would compile a kernel for each of its operations."""
    taken, sums = [], SoftmaxCrossEntropy.sums
    model = Sequential(LAYERS).build((6,))
    step = FusedStep(CpuExecutor("float32", folder), model, SoftmaxCrossEntropy(), RULE, threads=64)

    def spy(self, output, target, weight=None):
        taken.append({type(x) for x in (output, target, weight)})
        return sums(self, output, target, weight)

    monkeypatch.setattr(SoftmaxCrossEntropy, "sums", spy)
    batch = next(class_batches(rng, "float32", [12], weights=True))
    batch = batch._replace(**{k: v.view(OnDevice) for k, v in batch._asdict().items()})
    step(first_state(model, RULE, "float32"), batch, inputs(0, model, RULE))
    assert taken == [{np.ndarray}]


def test_where_a_second_state_has_no_room_the_step_is_eager_and_trains_on(folder):
    states = []
    for full_at, graph in ((2, True), (None, False)):
        rng = np.random.default_rng(3)
        fused, state = trained(Short(folder), rng, [12] * 6, full_at, graph)
        states.append(bits([state.params, *state.slots, state.totals.loss]))
        if graph:
            assert fused.note == (
                "eager: the device has no room to check a graph, for which the parameters and "
                "moments are copied"
            )
            assert "replay" not in fused.executor.counts
    assert states[0] == states[1]


def test_no_room_for_the_check_of_a_ragged_batch_leaves_the_others_their_graph(folder, rng):
    executor = Short(folder)
    fused, _ = trained(executor, rng, [12, 12, 12, 5, 5, 5, 5, 12], full_at=5)
    assert fused.note.startswith("CUDA graph of ")
    assert [bool(r.graphs) for r in fused.programs.values()] == [True, False]
    assert executor.counts["replay"] == 2
    assert executor.counts["capture"] == 2
