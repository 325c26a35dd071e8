"""The GPU's training step in mixed precision: what it rounds, the loss scale, whole trainings."""

from functools import cache

import numpy as np
import pytest
from conftest import AVAILABLE, make_backend, ran
from cublas_on_cpu import rounded, widened
from cuda_on_cpu import CpuExecutor
from test_cuda_step import class_batches, inputs, placed
from test_cuda_training import FusedNumpy, table  # noqa: F401 - the fixture registers its step

from xpnet.backends import backend_class
from xpnet.kernels.cuda.buffers import arrays
from xpnet.kernels.cuda.executor import CupyExecutor
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.kernels.cuda.sources import STORED, WRITTEN
from xpnet.nn import (
    ELU,
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    LogSoftmax,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from xpnet.nn.layout import initialize, layouts
from xpnet.nn.losses import BinaryCrossEntropy, Huber, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.step import Batch, StepInputs, TrainState, make_gradient, zero_totals
from xpnet.step.microbatch import accumulated
from xpnet.step.mixed_precision import (
    CANDIDATES,
    Mixed,
    candidates,
    first_scale,
    first_skipped,
    make_mixed_step,
)
from xpnet.training.trainer import Trainer

STEP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # half a unit in the last place, relative
BOUND = 20.0  # such steps from float64; half of it is for a ReLU on the other side of 0


@pytest.fixture(params=["float16", "bfloat16"])
def narrow(request):
    return request.param


@cache
def on_gpu(narrow):
    return CupyExecutor(make_backend("cupy", "float32").device, "float32", narrow=narrow)


@pytest.fixture(params=["emulator", *(["cupy"] if "cupy" in AVAILABLE else [])])
def executor(request, narrow):
    """What runs the kernels: the emulator, and CuPy if there is a GPU."""
    if request.param == "emulator":
        yield CpuExecutor("float32", request.getfixturevalue("folder"), narrow=narrow)
        return
    yield on_gpu(narrow)
    ran["cupy"] += 1


def check_guards(executor):
    """Check that nothing was written outside a buffer; a GPU's buffers have no guards."""
    if isinstance(executor, CpuExecutor):
        executor.check_guards()


def on_host(executor, state):
    return [executor.to_host(x) for x in arrays(state)]


def rounding(narrow):
    """Return the function that rounds x as storing it does."""
    dtype = np.dtype(STORED[narrow])
    return lambda x: widened(rounded(np.asarray(x, np.float32), dtype), np.float32)


def first_state(model, optimizer, mixed):
    params, stats = (x.astype("float32") for x in initialize(model, 0))
    scale, skipped = first_scale(mixed, params), first_skipped(mixed, params)
    slots, totals = optimizer.init(params), zero_totals(params)
    return TrainState(params, stats, slots, totals, scale, skipped)


def fused(executor, layers, shape, loss, optimizer, mixed, clip=Clip(), parts=1):
    model = Sequential(layers).build(shape)
    step = FusedStep(executor, model, loss, optimizer, clip, mixed, parts, threads=64)
    return model, step, placed(executor, first_state(model, optimizer, mixed))


def test_what_is_stored_is_the_nearest_number(executor, narrow, rng):
    bits = rng.integers(0, 2**32, size=20_000, dtype=np.uint32)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65519.9, 65520.0, 6e-8, 2.9e-8, 1e-45]
    ties = 1.0 + np.arange(64) * 2.0**-12, 1.0 + np.arange(64) * 2.0**-9
    x = np.concatenate([bits.view(np.float32), np.float32(edges), *map(np.float32, ties)])
    y = executor.empty(x.shape, executor.stored)
    executor.launch(WRITTEN["narrowed"], (3, 1), 64, executor.place(x), y, x.size)()
    y = executor.to_host(y)
    got = widened(y, np.float32)
    if narrow == "float16":
        with np.errstate(over="ignore"):
            wanted = x.astype(np.float16).astype(np.float32)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = widened(rounded(x, y.dtype), np.float32)
        normal = np.isfinite(x) & (np.abs(x) > 1e-37) & (np.abs(x) < 3e38)
        assert (np.abs(wanted[normal] - x[normal]) <= np.abs(x[normal]) * STEP[narrow]).all()
    np.testing.assert_array_equal(got, wanted)
    check_guards(executor)


def test_a_step_rounds_what_layers_store_and_nothing_else(executor, narrow, rng):
    """Dense, ReLU, Dense and the loss written out with each rounding."""
    q, S, lr = rounding(narrow), 2.0**10 if narrow == "float16" else 1.0, 0.5
    mixed, N = Mixed(narrow, initial_scale=2.0**10), 12
    layers = [Dense(9), ReLU(), Dense(5)]
    model, step, state = fused(executor, layers, (6,), SoftmaxCrossEntropy(), SGD(lr), mixed)
    batch = next(class_batches(rng, "float32", [N]))
    before = executor.to_host(state.params).copy()
    first, _, last = (dict(t) for t in layouts(model)[0].split(before))
    given = StepInputs(0, SGD(lr).coefficients(lr, 1))
    state, cost = step(state, placed(executor, batch), given)

    W, b, V, c = (q(x) for x in (first["W"], first["b"], last["W"], last["b"]))
    x = q(batch.x)
    a = q(np.maximum(q(q(x @ W) + b), 0))
    z = q(q(a @ V) + c)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    y = np.eye(5)[batch.y]
    wanted_cost = -np.log((p * y).sum(axis=1)).mean()
    dz = q((p - y) * S / N)
    da = q(dz @ V.T)
    dh = np.where(a > 0, da, 0)
    gradient = [(x.T @ dh) / S, dh.sum(axis=0) / S, (a.T @ dz) / S, dz.sum(axis=0) / S]
    np.testing.assert_allclose(executor.to_host(cost), wanted_cost, rtol=1e-6)
    whole = np.concatenate([np.ravel(g) for g in gradient])
    np.testing.assert_allclose(executor.to_host(step.gradient()), whole, rtol=1e-5, atol=1e-6)
    after = layouts(model)[0].split(executor.to_host(state.params))
    got = [after[0]["W"], after[0]["b"], after[2]["W"], after[2]["b"]]
    old = [first["W"], first["b"], last["W"], last["b"]]
    for new, was, g in zip(got, old, gradient, strict=True):
        np.testing.assert_allclose(new, was - lr * g, rtol=1e-5, atol=1e-6)
    check_guards(executor)


MODELS = {
    "relu": [Dense(9), ReLU(), Dense(5)],
    "tanh and dropout": [Dense(9), Tanh(), Dropout(0.3), Dense(5)],
    "an activation first, two in a row": [ELU(), Dense(9, bias=False), Sigmoid(), GELU(), Dense(5)],
    "an activation at the end": [Dense(9), ReLU(), Dense(5), Tanh()],
    "one layer": [Dense(5)],
    "softmax layers": [Dense(9), Softmax(), Dense(7), LogSoftmax(), Dense(5)],
    "norms": [
        Dense(9),
        BatchNorm(),
        Tanh(),
        LayerNorm(),
        Dense(5),
    ],  # none sees a row of zeros
}
LOSSES = {
    "plain": SoftmaxCrossEntropy(),
    "sum": SoftmaxCrossEntropy(reduction="sum"),
    "weighted, smoothed": SoftmaxCrossEntropy(
        class_weights=(1.0, 2.0, 0.5, 1.0, 3.0), label_smoothing=0.1, ignore_label=2
    ),
    "huber": Huber(),
    "bce": BinaryCrossEntropy(reduction="mean_count"),
}


def portable_steps(narrow, model, loss, optimizer, clip, mixed, batches, parts=1):
    """Return the arrays after the portable steps, taken by a library that has the dtype."""
    name = "numpy" if narrow == "float16" else "torch"
    if not backend_class(name).probe().devices:
        pytest.skip("PyTorch is not installed, whose bfloat16 this is compared with")
    backend = backend_class(name)("cpu", "float32")
    gradient = make_gradient(model, loss)
    if parts > 1:
        gradient = accumulated(gradient, parts, summed=loss.reduction == "sum")
    step = make_mixed_step(gradient, optimizer, clip, mixed, backend.dtype_named(narrow))

    def place(tree):
        if tree is None:
            return None
        if isinstance(tree, tuple):
            parts = [place(x) for x in tree]
            return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
        return backend.place(np.array(tree))

    state = place(first_state(model, optimizer, mixed))
    for i, batch in enumerate(batches):
        state, _ = step(state, place(batch), inputs(i, model, optimizer))
    return [backend.to_host(x) for x in arrays(state)]


@pytest.mark.long_but(parts=[1], loss=["plain", "weighted, smoothed"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_it_steps_as_the_portable_step_up_to_rounding(name, loss, parts, executor, narrow, rng):
    lr = 0.1 / parts if loss == "sum" else 0.1
    optimizer, mixed, clip = SGD(lr, momentum=0.9), Mixed(narrow, initial_scale=2.0**8), Clip()
    rows = [parts * n for n in (11, 11, 11, 11, 3)]  # a batch norm of one row is ill-conditioned
    batches = list(class_batches(rng, "float32", rows, weights=True))
    if LOSSES[loss].predicts != "class":
        batches = [b._replace(y=rng.uniform(size=(len(b.y), 5)).astype("float32")) for b in batches]
    model, step, state = fused(
        executor, MODELS[name], (6,), LOSSES[loss], optimizer, mixed, clip, parts
    )
    begun = executor.to_host(state.params).copy()
    for i, batch in enumerate(batches):
        state, _ = step(state, placed(executor, batch), inputs(i, model, optimizer))
    wanted = portable_steps(narrow, model, LOSSES[loss], optimizer, clip, mixed, batches, parts)
    got = on_host(executor, state)
    moved = np.abs(wanted[0] - begun).max()
    assert moved > 0.01
    np.testing.assert_allclose(got[0], wanted[0], rtol=0, atol=30 * STEP[narrow] * moved)
    np.testing.assert_allclose(got[1], wanted[1], rtol=30 * STEP[narrow], atol=STEP[narrow])
    np.testing.assert_array_equal(got[3], wanted[3])  # the loss scale
    np.testing.assert_allclose(got[4], wanted[4], rtol=10 * STEP[narrow])  # the loss
    np.testing.assert_allclose(got[5::2], wanted[5::2], rtol=1e-6)  # denominator and count
    assert abs(got[6] - wanted[6]) <= 2 * parts  # correct, where two outputs are nearly equal
    assert got[8] == wanted[8] == -1
    check_guards(executor)
    assert step.note.startswith("CUDA graph of ")


@pytest.mark.long_but(loss=["plain"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_is_that_of_float64_but_for_what_is_rounded(name, loss, executor, narrow, rng):
    """A rounding for each layer, forward and backward, of which few add up."""
    mixed, optimizer = Mixed(narrow, initial_scale=2.0**8), SGD(0.1)
    model, step, state = fused(executor, MODELS[name], (6,), LOSSES[loss], optimizer, mixed)
    batch = next(class_batches(rng, "float32", [40], weights=True))
    if LOSSES[loss].predicts != "class":
        batch = batch._replace(y=rng.uniform(size=(40, 5)).astype("float32"))
    params, stats = (executor.to_host(x).astype("float64") for x in (state.params, state.stats))
    given = inputs(0, model, optimizer)
    state, cost = step(state, placed(executor, batch), given)
    wide = Batch(batch.x.astype("float64"), batch.y, batch.weight.astype("float64"))
    wanted = make_gradient(model, LOSSES[loss])(params, stats, wide, given.keys)
    size = float(np.linalg.norm(wanted.gradient))
    off = float(np.linalg.norm(executor.to_host(step.gradient()) - wanted.gradient))
    np.testing.assert_allclose(off / size, 0.0, rtol=0, atol=BOUND * STEP[narrow])
    expected = wanted.loss / wanted.denominator
    np.testing.assert_allclose(executor.to_host(cost), expected, rtol=BOUND * STEP[narrow])


in_float16 = pytest.mark.parametrize("narrow", ["float16"], indirect=True)
in_bfloat16 = pytest.mark.parametrize("narrow", ["bfloat16"], indirect=True)


@in_float16
def test_an_overflowing_step_is_skipped_and_halves_the_scale(executor, rng):
    mixed = Mixed("float16", 2.0**30)
    layers, optimizer = [Dense(9), BatchNorm(), ReLU(), Dense(5)], Adam(0.01)
    clip = Clip(norm=0.5)
    model, step, state = fused(
        executor, layers, (6,), SoftmaxCrossEntropy(), optimizer, mixed, clip
    )

    def trained():
        return [executor.to_host(x).tobytes() for x in (state.params, state.stats, *state.slots)]

    begun, scales = trained(), []
    for i, batch in enumerate(class_batches(rng, "float32", [12] * 30)):
        state, _ = step(state, placed(executor, batch), inputs(i, model, optimizer))
        scales.append(tuple(executor.to_host(state.scale).tolist()))
        if scales[-1][1] == 0:
            assert trained() == begun
    lost = [s for s, good in scales if good == 0]
    assert lost == [2.0 ** (30 - n) for n in range(1, len(lost) + 1)]
    assert 5 < len(lost) < 25
    assert scales[-1] == (lost[-1], 30.0 - len(lost))
    assert not {*trained()[:2]} & {*begun[:2]}
    assert float(executor.to_host(state.totals.counted)) == 30 * 12
    assert step.note.startswith("CUDA graph of ")


@in_float16
@pytest.mark.parametrize("rule", [Adam(0.05), SGD(0.05, momentum=0.9, dampening=0.9)], ids=repr)
def test_skipped_steps_do_not_count_in_the_bias_corrections(rule, executor, rng):
    """As if they had not been: the same batches from the first good step on, with its scale."""
    batches = list(class_batches(rng, "float32", [12] * 30))

    def trained(mixed, batches):
        _, step, state = fused(executor, [Dense(5)], (6,), SoftmaxCrossEntropy(), rule, mixed)
        for i, batch in enumerate(batches):
            if i % CANDIDATES == 0:
                known = int(executor.to_host(state.skipped))
            c = candidates(rule, 0.05, i + 1, known, i % CANDIDATES)
            state, _ = step(state, placed(executor, batch), StepInputs(i, c))
        assert step.note.startswith("CUDA graph of ")
        found = [executor.to_host(x).tobytes() for x in (state.params, *state.slots)]
        return int(executor.to_host(state.skipped)), executor.to_host(state.scale)[0], found

    n, scale, found = trained(Mixed("float16", 2.0**31), batches)
    assert n > CANDIDATES
    assert trained(Mixed("float16", float(scale)), batches[n:]) == (0, scale, found)


@in_float16
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_gradient_that_is_not_finite_is_an_overflow(value, executor):
    good, found = executor.place(np.ones(1, "int32")), []
    for last in (65504.0, value):
        g = executor.place(np.array([1.0] * 99 + [last], "float32"))
        executor.launch(WRITTEN["find_overflow"], (2, 1), 32, g, good, 100)()
        found.append(int(executor.to_host(good)[0]))
    assert found == [1, 0]


@in_float16
def test_the_scale_doubles_after_so_many_good_steps(executor, rng):
    mixed = Mixed("float16", initial_scale=4.0, growth=3)
    model, step, state = fused(executor, [Dense(5)], (6,), SoftmaxCrossEntropy(), SGD(0.1), mixed)
    seen = []
    for i, batch in enumerate(class_batches(rng, "float32", [12] * 7)):
        state, _ = step(state, placed(executor, batch), inputs(i, model, SGD(0.1)))
        seen.append(executor.to_host(state.scale).tolist())
    assert seen == [[4, 1], [4, 2], [8, 0], [8, 1], [8, 2], [16, 0], [16, 1]]


@in_bfloat16
def test_a_nan_is_noticed_and_not_taken_for_an_overflow(executor, rng):
    model, step, state = fused(
        executor, [Dense(5)], (6,), SoftmaxCrossEntropy(), SGD(0.1), Mixed("bfloat16")
    )
    batch = next(class_batches(rng, "float32", [12]))
    batch.x[3, 2] = np.nan
    state, cost = step(state, placed(executor, batch), inputs(0, model, SGD(0.1)))
    assert np.isnan(executor.to_host(cost))
    assert int(executor.to_host(state.totals.bad_step)) == 0
    assert np.isnan(executor.to_host(state.params)).any()


@pytest.mark.long
def test_no_bit_depends_on_the_order_of_threads_and_blocks(folder, narrow):
    results = []
    for order in (0, 1, 2, 3):
        executor = CpuExecutor("float32", folder, order=order, narrow=narrow)
        rng = np.random.default_rng(5)
        layers = [Dense(40), Tanh(), Dropout(0.3), Dense(5)]
        model, step, state = fused(
            executor, layers, (6,), SoftmaxCrossEntropy(), Adam(0.01), Mixed(narrow), Clip(norm=0.2)
        )
        for i, batch in enumerate(class_batches(rng, "float32", [150] * 3, weights=True)):
            state, _ = step(state, batch, inputs(i, model, Adam(0.01)))
        results.append(b"".join(x.tobytes() for x in arrays(state)))
    assert len(set(results)) == 1


# -- whole trainings ------------------------------------------------------------------------------


def trainer(backend, narrow):
    layers = [Dense(16), ReLU(), Dropout(0.1), Dense(3)]
    mixed = Mixed(narrow, initial_scale=2.0**12, growth=5)
    return Trainer(layers, optimizer=Adam(0.01), backend=backend, batch_size=16, mixed=mixed)


@pytest.mark.long_but(narrow=["float16"])
def test_a_training_learns_records_its_step_and_resumes_bitwise(folder, narrow, rng):
    y = rng.integers(0, 3, size=96)
    x = rng.normal(size=(96, 5)) + 3.0 * y[:, None]
    whole, first, second = (trainer(FusedNumpy(folder, "float32"), narrow) for _ in range(3))
    history = whole.fit((x, y), epochs=24, validation=(x, y))
    assert history[-1]["val_accuracy"] > 0.85
    assert whole.engine.step.note.startswith("CUDA graph of ")
    assert narrow in whole.engine.step.note
    first.fit((x, y), epochs=3)
    second.restore(*first.snapshot())
    second.fit((x, y), epochs=24)
    ours, theirs = whole.engine.tensors(), second.engine.tensors()
    assert {n for n in ours if ours[n].tobytes() != theirs[n].tobytes()} == set()
    assert ours["scale"].tolist() != [2.0**12, 0.0] or narrow == "bfloat16"
