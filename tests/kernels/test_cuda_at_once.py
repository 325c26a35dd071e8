"""Several steps of the GPU as one graph, and batches that a step gathers out of the data set.

To the bit, training is what it is a step at a time from gathered batches, wherever it is looked at,
stopped or resumed.
"""

import contextlib
import io
import os
import signal

import numpy as np
import pytest
from cuda_on_cpu import CpuExecutor
from interruption import interrupted
from test_cuda_mixed import first_state as mixed_state
from test_cuda_step import class_batches, first_state, inputs
from test_cuda_training import FusedNumpy, table  # noqa: F401 - the fixture registers its step

from xpnet.backends import get_backend
from xpnet.errors import XpnetWarning
from xpnet.kernels.cuda.buffers import arrays
from xpnet.kernels.cuda.graphed_step import MOST_AT_ONCE, FusedStep
from xpnet.nn import BatchNorm, Dense, Dropout, Flatten, ReLU, Sequential, Tanh
from xpnet.nn.losses import MeanSquaredError, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.optim.schedules import Cosine
from xpnet.step import Batch, Ordered, Rows, StepInputs
from xpnet.step.mixed_precision import CANDIDATES, Mixed, candidates
from xpnet.storage import CheckpointFolder
from xpnet.training.callbacks import MANY, Callback, StopOnSignal
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.loader import Loader
from xpnet.training.norms import Norms
from xpnet.training.progress import Progress
from xpnet.training.trainer import Trainer

RULE = Adam(0.05)
LAYERS = [Dense(9, bias=False), BatchNorm(), Tanh(), Dropout(0.3), Dense(7), ReLU(), Dense(5)]
SETTINGS = {
    "plain": {},
    "clipped, in micro-batches": {"clip": Clip(norm=0.1), "accumulate": 3},
    "bfloat16": {"mixed": Mixed("bfloat16")},
    "float16, with skipped steps": {"mixed": Mixed("float16", 2.0**30)},
}


def fused(folder, dtype="float32", layers=LAYERS, loss=SoftmaxCrossEntropy(), **options):
    mixed, shape = options.get("mixed"), options.pop("shape", (6,))
    executor = CpuExecutor(dtype, folder, narrow=mixed and mixed.dtype)
    model = Sequential(layers).build(shape)
    step = FusedStep(executor, model, loss, RULE, threads=64, **options)
    state = mixed_state(model, RULE, mixed) if mixed else first_state(model, RULE, dtype)
    return model, step, state


def numbers(model, step, known):
    """The inputs of a step; with a loss scale the candidates after ``known`` = (skipped, step)."""
    given = inputs(step, model, RULE)
    if known is None:
        return given
    skipped, at = known
    c = candidates(RULE, RULE.lr * 0.97**step, step + 1, skipped, step - at)
    return StepInputs(step, c, given.keys)


def bits(state):
    return b"".join(np.asarray(x).tobytes() for x in arrays(state))


@pytest.mark.long_but(n=[3], name=["plain", "float16, with skipped steps"])
@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("name", SETTINGS)
def test_steps_at_once_are_to_the_bit_the_steps(name, n, folder, rng):
    batches = list(class_batches(rng, "float32", [12] * 5 * n, weights=True))
    results = []
    for at_once in (False, True):
        model, step, state = fused(folder, **SETTINGS[name])
        costs = []
        for first in range(0, len(batches), n):
            # Whoever trains looks at the skipped steps at the latest after CANDIDATES steps.
            known = None if state.skipped is None else (int(state.skipped), first)
            given = [numbers(model, first + i, known) for i in range(n)]
            some = batches[first : first + n]
            if at_once:
                state, cost = step.many(state, some, given)
                costs.extend(cost.tolist())
            else:
                for batch, number in zip(some, given, strict=True):
                    state, cost = step(state, batch, number)
                    costs.append(float(cost))
        step.executor.check_guards()
        results.append((bits(state), costs))
        if "skipped" in name:
            assert 3 < int(state.skipped) < len(batches) or n == 2
    assert results[0] == results[1]
    launches = f"{n} steps, {n * len(next(iter(step.programs.values())).program.calls) + n - 1}"
    assert step.note.startswith(f"CUDA graph of {launches} launches on 2 streams")
    assert ", equal to the eager steps; products by " in step.note
    assert step.executor.counts["replay"] == 4  # one of them to compare it
    assert step.executor.counts["capture"] == 1


def test_steps_at_once_are_two_calls_of_the_device(folder, rng):
    model, step, state = fused(folder)
    batches = list(class_batches(rng, "float32", [12] * 8))
    for first in range(0, 32, 8):
        if first == 24:
            step.executor.counts.clear()
        given = [inputs(first + i, model, RULE) for i in range(8)]
        state, _ = step.many(state, batches, given)
    assert step.executor.counts == {"begin_step": 1, "replay": 1}


def test_losses_of_many_steps_keep_their_values(folder, rng, monkeypatch):
    monkeypatch.setattr("xpnet.kernels.cuda.graphed_step.COSTS", 7)
    model, step, state = fused(folder, layers=[Dense(5)])
    step._taken = 7
    batch, seen = next(class_batches(rng, "float32", [12])), []
    for first in range(0, 30, 3):
        given = [inputs(first + i, model, RULE) for i in range(3)]
        state, costs = step.many(state, [batch] * 3, given)
        seen.append((costs, costs.copy()))
    for costs, then in seen:
        np.testing.assert_array_equal(costs, then)
    assert len({x for costs, _ in seen for x in costs.tolist()}) == 30


BEST = {
    "64-32-10": ([Dense(32), ReLU(), Dense(10)], 64, 32, SGD(0.1), None, 16),
    "784-512-256-10": (
        [Dense(512), ReLU(), Dense(256), ReLU(), Dense(10)], 784, 128, Adam(), None, 8,
    ),
    "64-32-10, loss scale": (
        [Dense(32), ReLU(), Dense(10)], 64, 32, Adam(), Mixed("float16"), CANDIDATES,
    ),
    "many layers that draw": ([Dropout(0.1)] * 40 + [Dense(3)], 8, 4, SGD(0.1), None, 4),
    "2000 wide": ([Dense(2000), ReLU(), Dense(2000), Dense(10)], 784, 1024, Adam(), None, 2),
    "8192 wide": ([Dense(8192), ReLU(), Dense(8192)], 784, 4096, SGD(0.1), None, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BEST)
def test_how_many_steps_are_taken_at_once(name, folder):
    layers, width, rows, rule, mixed, best = BEST[name]
    executor = CpuExecutor("float32", folder, narrow=mixed and mixed.dtype)
    executor.prepare = lambda kernels: None
    model = Sequential(layers).build((width,))
    step = FusedStep(executor, model, SoftmaxCrossEntropy(), rule, mixed=mixed)
    assert step.at_once(rows) == best
    assert MOST_AT_ONCE * 3 < CANDIDATES * 8


# -- rows of a data set ---------------------------------------------------------------------------


def data_set(rng, kind, dtype, rows, width):
    x = rng.normal(size=(rows, *width)).astype(dtype)
    y = rng.integers(0, 5, rows).astype("int32")
    if kind == "one-hot":
        y = np.eye(5, dtype=dtype)[y]
    if kind == "values":
        y = rng.normal(size=(rows, 5)).astype(dtype)
    weight = rng.uniform(size=rows).astype(dtype) if kind != "values" else None
    return Batch(x, y, weight)


@pytest.mark.long_but(dtype=["float32", "bfloat16"], kind=["labels", "values"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("width", [(8,), (7,), (2, 3)], ids=repr)
@pytest.mark.parametrize("kind", ["labels", "one-hot", "values"])
def test_rows_give_the_bits_of_the_gathered_batch(kind, width, dtype, folder, rng, monkeypatch):
    loss = MeanSquaredError() if kind == "values" else SoftmaxCrossEntropy()
    options = {"mixed": Mixed("bfloat16")} if dtype == "bfloat16" else {}
    dtype = "float32" if options else dtype
    data = data_set(rng, kind, dtype, 50, width)
    order = rng.permutation(50).astype("int32")
    results = []
    for lazy in (False, True):
        layers = [Flatten(), Dense(9), Tanh(), Dense(5)]
        model, step, state = fused(folder, dtype, layers, loss, shape=width, **options)
        x = Batch(*(None if a is None else step.executor.placed(a) for a in data))
        ordered = Ordered(x, step.executor.placed(order))
        firsts = [0, 12, 24, 36, 48]  # the last one is ragged
        for i, first in enumerate(firsts * 3):
            batch = Rows(ordered, first, min(first + 12, 50))
            if lazy and i >= len(firsts):
                monkeypatch.setattr(Rows, "gathered", lambda self: pytest.fail("gathered"))
            state, _ = step(state, batch if lazy else batch.gathered(), inputs(i, model, RULE))
        step.executor.check_guards()
        assert len(step.programs) == 2
        results.append(bits(state))
    assert results[0] == results[1]


@pytest.mark.long_but(narrow=["bfloat16"])
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_inputs_of_mixed_precision_are_rounded_once_where_there_is_room(narrow, folder, rng):
    results = []
    data = data_set(rng, "labels", "float32", 50, (8,))
    size, epochs = data.x.size * 2, [rng.permutation(50).astype("int32") for _ in range(4)]
    for room in (0, 10 * size - 1, 10 * size):
        model, step, state = fused(folder, mixed=Mixed(narrow), shape=(8,))
        step.executor.free_bytes = room
        x = Batch(*(step.executor.placed(a) for a in data))
        for i, order in enumerate(epochs):
            ordered = Ordered(x, order, fixed=True)
            for first in (0, 12, 38):
                batch = Rows(ordered, first, first + 12)
                state, _ = step(state, batch, inputs(i, model, RULE))
        step.executor.check_guards()
        # The data set is the same in every epoch, its order is not.
        assert step.executor.counts.get("narrowed", 0) == (room == 10 * size)
        results.append(bits(state))
    assert results[0] == results[1] == results[2]
    x.x[...] = np.nan  # the last one reads what was rounded
    state, _ = step(state, Rows(Ordered(x, order, fixed=True), 0, 12), inputs(9, model, RULE))
    assert np.isfinite(state.params).all()


def test_another_data_set_is_rounded_anew(folder, rng):
    model, step, state = fused(folder, mixed=Mixed("bfloat16"))
    order, results = np.arange(40, dtype="int32"), []
    sets = [data_set(rng, "labels", "float32", 40, (6,)) for _ in range(2)]
    for lazy in (True, False):
        model, step, state = fused(folder, mixed=Mixed("bfloat16"))
        for i in range(5):
            batch = Rows(Ordered(sets[i % 2], order, fixed=True), 0, 12)
            state, _ = step(state, batch if lazy else batch.gathered(), inputs(i, model, RULE))
        results.append(bits(state))
    assert results[0] == results[1]


def test_inputs_that_their_owner_may_write_to_are_not_rounded_beforehand(folder, rng):
    results, order = [], np.arange(40, dtype="int32")
    for lazy in (True, False):
        model, step, state = fused(folder, mixed=Mixed("bfloat16"))
        data = data_set(np.random.default_rng(1), "labels", "float32", 40, (6,))
        for i in range(5):
            data.x[...] += 1.0
            batch = Rows(Ordered(data, order), 0, 12)
            state, _ = step(state, batch if lazy else batch.gathered(), inputs(i, model, RULE))
        results.append(bits(state))
    assert results[0] == results[1]
    x, y = rng.normal(size=(40, 6)), np.zeros(40, int)
    backends = get_backend("array-api-strict"), get_backend("numpy")
    assert [Loader(backend, x, y).fixed for backend in backends] == [True, False]


def test_rows_and_batches_of_a_size_share_their_buffers(folder, rng):
    model, step, state = fused(folder)
    data = data_set(rng, "labels", "float32", 40, (6,))
    rows = Rows(Ordered(data, np.arange(40, dtype="int32")), 4, 16)
    state, _ = step(state, rows, inputs(0, model, RULE))
    step(state, rows.gathered(), inputs(1, model, RULE))
    assert len(step.programs) == 1


@pytest.mark.parametrize("change", ["dtype", "layout"])
def test_a_data_set_that_does_not_fit_is_gathered_first(change, folder, rng):
    data = data_set(rng, "labels", "float32", 40, (6,))
    other = data._replace(
        x=data.x.astype("float64") if change == "dtype" else np.asfortranarray(data.x)
    )
    results = []
    for some in (data, other):
        model, step, state = fused(folder)
        ordered = Ordered(
            some, rng.permutation(40).astype("int32") * 0 + np.arange(40, dtype="int32")
        )
        for i in range(5):
            state, _ = step(state, Rows(ordered, i, i + 12), inputs(i, model, RULE))
        results.append(bits(state))
    assert results[0] == results[1]


def test_each_epoch_is_gathered_in_its_own_order(folder, rng):
    data, results = data_set(rng, "labels", "float32", 40, (6,)), []
    epochs = [Ordered(data, rng.permutation(40).astype("int32")) for _ in range(5)]
    for lazy in (False, True):
        model, step, state = fused(folder)
        for i, ordered in enumerate(epochs):
            batch = Rows(ordered, 0, 12)
            state, _ = step(state, batch if lazy else batch.gathered(), inputs(i, model, RULE))
        results.append(bits(state))
    assert results[0] == results[1]


# -- through the trainer --------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch):
    """Sets how many steps are taken at once."""

    def set_to(n):
        monkeypatch.setattr(FusedStep, "at_once", lambda self, rows: n)

    return set_to


@pytest.fixture
def data(rng):
    y = rng.integers(0, 3, size=150)
    return rng.normal(size=(150, 6)) + y[:, None], y


def trainer(folder, **settings):
    layers = [Dense(8, bias=False), BatchNorm(), ReLU(), Dropout(0.2), Dense(3)]
    settings = {"schedule": Cosine(), "optimizer": Adam(0.01)} | settings
    return Trainer(layers, backend=FusedNumpy(folder, "float32"), batch_size=8, **settings)


def result(t):
    history = [{k: v for k, v in r.items() if "second" not in k} for r in t.history]
    return {k: v.tobytes() for k, v in t.engine.tensors().items()}, history


@pytest.mark.long_but(mixed=[None])
@pytest.mark.parametrize("mixed", [None, Mixed("float16", 2.0**28, growth=5)], ids=["", "float16"])
def test_a_training_has_the_same_bits_however_many_steps_are_taken_at_once(
    mixed, folder, data, at_once
):
    results = []
    for n in (1, 4, 8):
        at_once(n)
        t = trainer(folder, mixed=mixed)
        t.fit(data, epochs=3, validation=data)
        results.append(result(t))
        assert f"graph of {f'{n} steps' if n > 1 else ''}" in t.engine.step.note
        assert t.position == (3, 0, 3 * 19)
        taken = t.engine.step.train.executor.counts["begin_step"]
        assert taken < 3 * 19 / n + 4 * n + 25
    assert results[0] == results[1] == results[2]
    assert mixed is None or int(t.engine.state.skipped) > 0


class StopAt(Callback):
    """Stops at a step, looking at each or only there."""

    def __init__(self, step, *, each):
        self.step, self.each, self.seen = step, each, []

    def steps_between(self, trainer):
        left = self.step - trainer.position.step
        return 1 if self.each or left <= 0 else left

    def on_step_end(self, trainer):
        self.seen.append(trainer.position.step)
        if trainer.position.step == self.step:
            trainer.stop("here")


@pytest.mark.long_but(step=[3, 18])
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("step", [3, 8, 13, 18, 21])
def test_a_training_is_stopped_and_resumed_anywhere(step, each, folder, data, at_once):
    at_once(1)
    whole = trainer(folder)
    whole.fit(data, epochs=2)
    at_once(4)
    first, second = trainer(folder), trainer(folder)
    callback = StopAt(step, each=each)
    first.fit(data, epochs=2, callbacks=[callback])
    assert first.position.step == step
    assert callback.seen == list(range(1, step + 1)) if each else len(callback.seen) <= step
    second.restore(*first.snapshot())
    second.fit(data, epochs=2)
    assert result(second) == result(whole)


def test_a_callback_that_says_nothing_sees_every_step(folder, data, at_once):
    class Plain(Callback):
        seen = ()

        def on_step_end(self, trainer):
            self.seen = *self.seen, trainer.position.step

    class Derived(StopOnSignal):
        seen = ()

        def on_step_end(self, trainer):
            self.seen = *self.seen, trainer.position.step

    at_once(4)
    for callback in (Plain(), Derived()):
        trainer(folder).fit(data, epochs=1, callbacks=[callback])
        assert callback.seen[:19] == tuple(range(1, 20))
    counted = []
    watching = type("Watching", (StopOnSignal,), {
        "steps_between": lambda self, trainer: MANY,
        "on_step_end": lambda self, trainer: counted.append(trainer.position.step),
    })  # fmt: skip
    trainer(folder).fit(data, epochs=1, callbacks=[watching()])
    assert counted == [4, 8, 12, 16, 17, 18, 19, 19]  # the last one is of the epoch


def test_the_norms_of_a_step_are_those_of_that_step(folder, data, at_once):
    records = []
    for n in (1, 4):
        at_once(n)
        t = trainer(folder)
        t.fit(data, epochs=2, callbacks=[Norms()])
        records.append([r.get("norms") for r in t.history])
    assert records[0] == records[1] != [None, None]


def test_the_callbacks_of_a_run_let_steps_be_taken_at_once(folder, data, at_once, tmp_path):
    """Each still sees the steps that it waits for: the signal, checkpoints, the bar, the norms."""
    at_once(4)
    saved, seen = [], []

    class Noted(Checkpointing):
        def save(self, trainer):
            saved.append(trainer.position.step)
            return super().save(trainer)

    class Last(StopOnSignal):
        def steps_between(self, trainer):
            seen.append(trainer.position.step)
            return super().steps_between(trainer)

    checkpoints = Noted(CheckpointFolder(tmp_path), every_steps=10)
    progress = Progress(io.StringIO(), live=False)
    t = trainer(folder)
    t.fit(data, epochs=2, callbacks=[Last(), Norms(), progress, checkpoints])
    assert saved[:3] == [10, 20, 30]
    # One at a time: two for the pace of the bar, the last before a save, and those of the norms.
    assert seen[:6] == [0, 1, 2, 6, 10, 14]
    assert len(seen) < 2 * 19 - 8
    at_once(1)
    other = trainer(folder)
    other.fit(data, epochs=2, callbacks=[Norms()])
    assert result(t) == result(other)


@pytest.mark.long_but(number=[57])
@pytest.mark.parametrize("number", [20, 57, 130])
def test_an_interruption_within_steps_that_are_taken_at_once_is_exact(
    number, folder, data, at_once, monkeypatch
):
    at_once(1)
    whole = trainer(folder)
    whole.fit(data, epochs=2)
    at_once(4)
    t, calls, many = trainer(folder), [], FusedStep.many

    def interrupted(self, state, batches, inputs):
        calls.append(len(batches))
        if len(calls) == number // 20:
            os.kill(os.getpid(), signal.SIGINT)
        return many(self, state, batches, inputs)

    monkeypatch.setattr(FusedStep, "many", interrupted)
    # A shell lets what it starts in the background ignore this signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            t.fit(data, epochs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert t.position.step == len(calls) * 4 + (t.position.epoch or len(calls) > 4) * 3
    t.fit(data, epochs=2)
    assert result(t) == result(whole)
    assert set(calls) == {4}


@pytest.mark.long
def test_an_error_at_any_line_leaves_a_training_that_goes_on_exactly(folder, data, at_once):
    at_once(4)
    whole = trainer(folder)
    lines = interrupted(lambda: whole.fit(data, epochs=2), -1, "line")
    for at in np.random.default_rng(3).integers(1, lines, size=10):
        t = trainer(folder)
        interrupted(lambda t=t: t.fit(data, epochs=2), int(at), "line")
        with contextlib.suppress(XpnetWarning):  # all of it was done
            t.fit(data, epochs=2)
        assert result(t) == result(whole)


def test_a_training_that_is_not_finite_names_its_step(folder, data, at_once):
    messages = []
    for n in (1, 4):
        at_once(n)
        x, y = data[0].copy(), data[1]
        x[77, 3] = np.inf
        with pytest.raises(Exception, match="not finite from epoch 1, step") as raised:
            trainer(folder).fit((x, y), epochs=2)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
