"""The lanes of a graph: no launch may run beside one that it depends on, in any plan.

What a launch reads and writes is tried, and not taken from the program: bytes that it changes or
needs must be among those that it was recorded with.
"""

import numpy as np
import pytest
from cuda_on_cpu import GUARD, CpuExecutor
from test_cuda_step import MODELS, class_batches, first_state, inputs, placed

from xpnet.kernels.cuda import layer_operations
from xpnet.kernels.cuda.graphed_step import COSTS, FusedStep
from xpnet.kernels.cuda.lanes import Recorded, Span, waits
from xpnet.nn import BatchNorm, Dense, Dropout, LayerNorm, ReLU, Sequential, Tanh
from xpnet.nn.losses import Huber, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.parallel import Share
from xpnet.parallel.across import Across
from xpnet.parallel.settings import Parallel
from xpnet.step.mixed_precision import Mixed, first_scale, first_skipped

DEEP = [Dense(40), Tanh(), Dropout(0.2), Dense(33), ReLU(), Dense(30), BatchNorm(), Dense(9)]


class Unsummed:
    """Two ranks, of which the other one adds nothing."""

    rank, size, takes_device, on_stream = 0, 2, True, True

    def allreduce(self, x):
        pass

    def launched(self):
        pass


def ranks(**settings):
    return Across(Unsummed(), Share(), np.copy, np.copy, settings=Parallel(**settings))


PLANS = {
    **{name: {"layers": layers} for name, layers in MODELS.items()},
    "deep": {"layers": DEEP, "rows": 600},
    "deep, in packs": {"layers": [Dense(128), Tanh(), Dense(128), Dense(64)], "rows": 600},
    "micro-batches": {"layers": DEEP, "rows": 600, "accumulate": 3, "clip": Clip(norm=0.1)},
    "values": {"layers": [Dense(9), LayerNorm(), Dense(7), Dense(3)], "loss": Huber()},
    "bfloat16": {"layers": DEEP, "mixed": Mixed("bfloat16")},
    "float16": {"layers": DEEP, "mixed": Mixed("float16", 2.0**8), "clip": Clip(norm=0.1)},
    "ranks": {"layers": [Dense(40), Tanh(), Dense(9)], "rows": 600, "across": ranks()},
    "ranks, in buckets": {
        "layers": [Dense(40), Tanh(), Dropout(0.2), Dense(33), ReLU(), Dense(9)],
        "rows": 600,
        "across": ranks(buckets=3),
        "clip": Clip(norm=0.1),
    },
    "ranks, batch norm": {
        "layers": [Dense(33), BatchNorm(), ReLU(), Dense(9)],
        "rows": 600,
        "across": ranks(buckets=2),
    },
    "many classes": {"layers": [Dense(30), ReLU(), Dense(1030)], "K": 1030},
}


def program(folder, rng, layers, rows=12, K=5, loss=SoftmaxCrossEntropy(), mixed=None, **options):
    """Return the calls of a plan after a step, with the executor whose buffers they use."""
    executor = CpuExecutor("float32", folder, narrow=mixed and mixed.dtype)
    model, rule = Sequential(layers).build((6,)), Adam(0.01)
    step = FusedStep(executor, model, loss, rule, mixed=mixed, threads=64, **options)
    state = first_state(model, rule, "float32")
    if mixed:
        state = state._replace(
            scale=first_scale(mixed, state.params), skipped=first_skipped(mixed, state.params)
        )
    batch = next(class_batches(rng, "float32", [rows], K=K, weights=True))
    if loss.predicts == "value":
        batch = batch._replace(y=rng.normal(size=(rows, 3)).astype("float32"))
    step(_guarded(executor, state), placed(executor, batch), inputs(0, model, rule))
    (repeated,) = step.programs.values()
    return executor, repeated.program.calls


def _guarded(executor, state):
    if isinstance(state, tuple):
        parts = [_guarded(executor, x) for x in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return None if state is None else executor.placed(np.asarray(state))


class Memory:
    """All buffers of an executor as bytes, and which of them a call was recorded with."""

    def __init__(self, executor):
        self.parts = [whole.view(np.uint8) for whole in executor.guarded]
        sizes = [whole.size for whole in executor.guarded]
        self.costs = len(sizes) - 1 - sizes[::-1].index(COSTS + 2 * GUARD)

    def copy(self):
        return [part.copy() for part in self.parts]

    def put(self, copy):
        for part, x in zip(self.parts, copy, strict=True):
            part[...] = x

    def within(self, spans):
        masks = []
        for part in self.parts:
            mask = np.zeros(part.size, bool)
            at = part.ctypes.data
            for first, last in spans:
                mask[max(first - at, 0) : max(last - at, 0)] = True
            masks.append(mask)
        return masks


@pytest.mark.long_but(name=["deep", "float16"])
@pytest.mark.parametrize("name", PLANS)
def test_a_call_touches_what_it_was_recorded_with_and_nothing_else(name, folder, rng):
    executor, calls = program(folder, rng, **PLANS[name])
    memory = Memory(executor)
    for number, call in enumerate(calls):
        before = memory.copy()
        call.run()
        after = memory.copy()
        known, written = memory.within(call.reads + call.writes), memory.within(call.writes)
        memory.put(before)
        for i, (part, mask) in enumerate(zip(memory.parts, known, strict=True)):
            if i != memory.costs:  # where a loss goes is one of the numbers of the step
                assert (part == after[i])[~written[i]].all(), f"call {number} wrote elsewhere"
                part[~mask] = 0xFF
        call.run()
        for i, mask in enumerate(written):
            assert (memory.parts[i] == after[i])[mask].all(), f"call {number} read elsewhere"
        memory.put(after)


def unordered(calls):
    """The pairs of calls that nothing orders, by going through the graph from each call."""
    after, n = waits(calls), len(calls)
    before = np.zeros((n, n), bool)  # [i, j]: j is done when i begins
    for i, call in enumerate(calls):
        direct = [j for j in range(i) if calls[j].lane == call.lane] + [after[i]] * (
            after[i] is not None
        )
        for j in direct:
            before[i] |= before[j]
            before[i, j] = True
    last = [i for i in range(n) if calls[i].lane][-1:]
    assert all(
        after[-1] == i or any(before[j, i] for j in range(n) if not calls[j].lane) for i in last
    )
    return [(j, i) for i in range(n) for j in range(i) if not before[i, j]]


def touched(spans):
    return {byte // 4 for first, last in spans for byte in range(first, last, 2)}


@pytest.mark.long_but(name=["deep", "float16"])
@pytest.mark.parametrize("name", PLANS)
def test_what_runs_at_the_same_time_shares_no_bytes_that_either_writes(name, folder, rng):
    _, calls = program(folder, rng, **PLANS[name])
    words = [(touched(call.reads), touched(call.writes)) for call in calls]
    pairs = unordered(calls)
    for i, j in pairs:
        (reads_i, writes_i), (reads_j, writes_j) = words[i], words[j]
        assert not writes_i & (reads_j | writes_j)
        assert not writes_j & reads_i
    dense = sum(isinstance(layer, Dense) for layer in PLANS[name]["layers"])
    assert bool(pairs) == (dense > 1 or name == "deep")


@pytest.mark.parametrize("seed", range(30))
def test_waits_order_what_conflicts_and_each_is_needed(seed):
    rng = np.random.default_rng(seed)

    def spans(most):
        starts = rng.integers(0, 12, size=rng.integers(0, most + 1))
        return tuple(Span(int(s), int(s) + int(rng.integers(1, 4))) for s in starts)

    calls = [
        Recorded(print, spans(2), spans(1), int(i > 0 and rng.random() < 0.4)) for i in range(25)
    ]

    def conflict(i, j):
        a, b = calls[i], calls[j]
        writes = {x for s in a.writes for x in range(*s)}, {x for s in b.writes for x in range(*s)}
        reads = {x for s in a.reads for x in range(*s)}, {x for s in b.reads for x in range(*s)}
        return writes[0] & (reads[1] | writes[1]) or reads[0] & writes[1]

    assert not any(conflict(*pair) for pair in unordered(calls))
    first = next((i for i, call in enumerate(calls) if call.lane), None)
    for i, awaited in enumerate(waits(calls)[:-1]):
        assert awaited is None or i == first or conflict(awaited, i)


def products_in_a_row(calls, product):
    """The most products of which each comes after the one before."""
    after, length, last = waits(calls), [], [0, 0]
    for i, call in enumerate(calls):
        before = max(last[call.lane], 0 if after[i] is None else length[after[i]])
        length.append(before + product(call))
        last[call.lane] = length[-1]
    return max(length)


class Naming(CpuExecutor):
    """Knows what each call is."""

    def _call(self, what, run):
        call = super()._call(what, run)
        call.what = what
        return call


def named(folder, rng, layers, rows):
    model = Sequential(layers).build((6,))
    step = FusedStep(Naming("float32", folder), model, SoftmaxCrossEntropy(), SGD(0.1), threads=64)
    batch = next(class_batches(rng, "float32", [rows]))
    step(first_state(model, SGD(0.1), "float32"), batch, inputs(0, model, SGD(0.1)))
    (repeated,) = step.programs.values()
    return repeated.program.calls


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
def test_products_in_a_row_are_two_for_each_layer_where_they_would_be_three(layers, folder, rng):
    calls = named(folder, rng, [x for _ in range(layers) for x in (Dense(20), Tanh())], 12)
    assert sum(call.run.what == "product" for call in calls) == 3 * layers - 1
    assert products_in_a_row(calls, lambda call: call.run.what == "product") == 2 * layers


def test_no_layer_waits_until_the_bias_gradient_of_another_is_added_up(folder, rng):
    calls = named(folder, rng, [x for _ in range(4) for x in (Dense(20), Tanh())], 600)
    awaited = [a for call, a in zip(calls, waits(calls), strict=False) if not call.lane]
    assert sum(call.run.what == "column_sums" for call in calls) == 4
    before_the_update = {calls[a].run.what for a in awaited[:-1] if a is not None}
    assert before_the_update == {"product"}  # which reads the buffer of a gradient


def test_two_large_products_are_not_forked(folder, rng, monkeypatch):
    """Each fills a GPU alone, and together they share its cache."""
    monkeypatch.setattr(layer_operations, "MOST_TILES", 0)
    _, calls = program(folder, rng, [Dense(9), Tanh(), Dense(5)])
    assert not any(call.lane for call in calls)
