"""The compiled step for NumPy against the portable one, for every layer, loss and rule."""

import itertools
import logging
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import rules
from array_api_compat import array_namespace

from xpnet.backends import get_backend
from xpnet.backends.numpy import NumpyBackend
from xpnet.nn import (
    ACTIVATIONS,
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    FeatureScale,
    Flatten,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    RMSNorm,
    Sequential,
    SiLU,
    Softmax,
    Tanh,
)
from xpnet.nn.initializers import Constant
from xpnet.nn.layout import initialize
from xpnet.nn.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Hinge,
    Huber,
    MeanSquaredError,
    NegativeLogLikelihood,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredHinge,
)
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    RMSProp,
)
from xpnet.step import Batch, StepInputs, TrainState, dropout_keys, make_train_step, zero_totals
from xpnet.training.engine import Engine
from xpnet.training.trainer import Trainer

pytest.importorskip("numba", reason="the kernels are compiled by Numba: pip install '.[fast]'")

from xpnet.errors import UnsupportedError
from xpnet.kernels.cpu import blas
from xpnet.kernels.cpu.blas import gemm_address
from xpnet.kernels.cpu.compiled import compiled, jitted
from xpnet.kernels.cpu.fused_step import FusedStep
from xpnet.kernels.cpu.memory import ROW
from xpnet.kernels.cpu.rows import PRODUCT

I, K = 6, 5  # noqa: E741 - features and classes
SIZES = [12, 12, 5, 12] * 5  # rows of 20 batches, some of them ragged
TOLERANCE = {"float64": 1e-12, "float32": 3e-5}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


def first_state(model, optimizer, dtype):
    params, stats = (np.array(v, dtype) for v in initialize(model, 0))
    return TrainState(params, stats, optimizer.init(params), zero_totals(params))


def labels(rng, n, dtype):
    return rng.integers(0, K, n).astype(np.int32)


def soft_rows(rng, n, dtype):
    return rng.random((n, K)).astype(dtype)


def one_hot_rows(rng, n, dtype):
    return np.eye(K, dtype=dtype)[rng.integers(0, K, n)]


def column(rng, n, dtype):
    return rng.random(n).astype(dtype)


def compare(layers, dtype, loss=SoftmaxCrossEntropy(), optimizer=None, clip=Clip(), *,
            shape=(I,), target=labels, weighted=False):  # fmt: skip
    """Take the same 20 steps both ways and compare all results; return the fused step."""
    rng, optimizer = np.random.default_rng(1), optimizer or SGD(0.1)
    model = Sequential(layers).build(shape)
    portable = make_train_step(model, loss, optimizer, clip)
    fused = FusedStep(model, loss, optimizer, clip, dtype)
    wanted, state = (first_state(model, optimizer, dtype) for _ in range(2))
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for step, n in enumerate(SIZES):
        x = rng.standard_normal((n, *shape)).astype(dtype)
        weight = rng.random(n).astype(dtype) if weighted else None
        batch = Batch(x, target(rng, n, dtype), weight)
        keys = dropout_keys(0, step, model.n_random)
        inputs = StepInputs(step, optimizer.coefficients(optimizer.lr, step + 1), keys)
        wanted, wanted_cost = portable(wanted, batch, inputs)
        state, cost = fused(state, batch, inputs)
        np.testing.assert_allclose(cost, wanted_cost, **close)
    for mine, theirs in zip(flat(state), flat(wanted), strict=True):
        np.testing.assert_allclose(mine, theirs, **close)
    return fused


def flat(state):
    return [state.params, state.stats, *state.slots, *state.totals]


# -- the product ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_the_product_is_numpys_with_either_factor_transposed(ta, tb, dtype, rng):
    a, b, c = (rng.normal(size=s).astype(dtype) for s in ((7, 5), (5, 9), (7, 9)))
    wanted = 2.0 * (a @ b) + 3.0 * c
    left, right = (np.ascontiguousarray(m.T) if t else m for m, t in ((a, ta), (b, tb)))
    row, pair = np.zeros((), ROW), np.array([2.0, 3.0])
    row["sizes"] = 7, 9, 5, ta, tb, gemm_address(dtype)
    row["at"][:4] = [m.ctypes.data for m in (left, right, c, pair)]
    compiled(PRODUCT.text, dtype).ctypes(row.ctypes.data)
    np.testing.assert_allclose(c, wanted, rtol=1e-5, atol=1e-5)


# -- layers ---------------------------------------------------------------------------------------

MODELS = {
    **{name: [Dense(9), cls(), Dense(K), cls()] for name, cls in ACTIVATIONS.items()},
    "leaky of slope 0.3": [Dense(9), LeakyReLU(0.3), Dense(K)],
    "no bias": [Dense(9, bias=False), Tanh(), Dense(K, bias=False)],
    "one dense layer": [Dense(K)],
    "dropout everywhere": [Dropout(0.2), Dense(9), Dropout(0.0), ReLU(), Dropout(0.6), Dense(K)],
    "activations first": [Tanh(), ReLU(), Dense(K), Dropout(0.3)],
    "dropout after the last": [Dense(9), ReLU(), Dense(K), Dropout(0.2)],
    "normalized": [LayerNorm(), Dense(9), LayerNorm(), ReLU(), Dropout(0.2), Dense(K)],
    "batch normalized": [Dense(9, bias=False), BatchNorm(), ReLU(), Dense(K), BatchNorm()],
    "root mean squares": [RMSNorm(), Dense(9), RMSNorm(eps=0.1), ReLU(), Dense(K)],
    "scaled": [FeatureScale(), Dense(9), FeatureScale(), ReLU(), Dense(K), FeatureScale()],
    "embedded": [Embedding((2, 3), width=5), FeatureScale(), Dense(9), ReLU(), Dense(K)],
    "normalized first": [BatchNorm(momentum=0.3), Dense(9), ReLU(), Dense(K)],
    "normalized by other numbers": [
        *(Dense(9), LayerNorm(eps=0.1), GELU(), Dense(8), BatchNorm(eps=0.2, momentum=1.0)),
        *(SiLU(), Tanh(), Dropout(0.1), Dense(K)),
    ],
}


@pytest.mark.long_but(dtype=["float64"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_steps_as_in_the_portable_step(name, dtype):
    compare(MODELS[name], dtype)


def test_images_are_flattened(dtype):
    layers = [Dropout(0.2), Flatten(), ReLU(), Dense(9), ReLU(), Flatten(), Dense(K)]
    compare(layers, dtype, shape=(3, 4))
    compare(layers[1:], dtype, shape=(3, 4))


def test_images_are_normalized_over_their_last_axis(dtype):
    layers = [BatchNorm(), LayerNorm(), ReLU(), Flatten(), Dense(K)]
    compare(layers, dtype, shape=(3, 4), optimizer=Adam(0.01))
    compare([Tanh(), *layers], dtype, shape=(2, 3, 4))


def test_a_batch_of_one_row_is_normalized_as_in_the_portable_step():
    """Its variance is zero, and the unbiased one would be 0/0."""
    model = Sequential([Dense(9), BatchNorm(), ReLU(), Dense(K)]).build((I,))
    batch = Batch(np.ones((1, I)), np.zeros(1, np.int32))
    inputs = StepInputs(0, SGD(0.1).coefficients(0.1, 1))
    made = [make_train_step(model, SoftmaxCrossEntropy(), SGD(0.1), Clip())]
    made.append(FusedStep(model, SoftmaxCrossEntropy(), SGD(0.1), Clip(), "float64"))
    states = [step(first_state(model, SGD(0.1), "float64"), batch, inputs)[0] for step in made]
    for mine, theirs in zip(flat(states[1]), flat(states[0]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_note_names_what_is_portable_inside_the_step_and_why():
    fused = compare([Dense(9), Softmax(axis=0), Dense(K), Softmax(axis=0)], "float64")
    why = "softmax (it calls max with axis=0, keepdims=True; kernels work along rows)"
    assert fused.note.endswith(f"portable inside it: {why}, {why}")
    for name in ("one dense layer", "normalized", "softmax", "log_softmax", "root mean squares"):
        assert compare(MODELS[name], "float64").note == "fused step compiled by Numba"


# -- losses ---------------------------------------------------------------------------------------

WEIGHTS = (1.0, 2.0, 0.5, 0.0, 3.0)
CLASS_LOSSES = {
    "plain": SoftmaxCrossEntropy(),
    "smooth": SoftmaxCrossEntropy(label_smoothing=0.1),
    "class weights": SoftmaxCrossEntropy(class_weights=WEIGHTS),
    "ignored": SoftmaxCrossEntropy(ignore_label=2, reduction="mean_count"),
    "all": SoftmaxCrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1, ignore_label=2),
    "sum": SoftmaxCrossEntropy(reduction="sum", class_weights=WEIGHTS),
}
VALUE_LOSSES = {
    "squares": MeanSquaredError(),
    "huber": Huber(delta=0.5, reduction="mean_count"),
    "binary": BinaryCrossEntropy(positive_weight=2.0),
    "binary sum": BinaryCrossEntropy(reduction="sum"),
    "hinge": Hinge(),
    "squared hinge": SquaredHinge(reduction="mean_count"),
    "poisson": Poisson(),
}


@pytest.mark.long_but(name=["plain", "all"], dtype=["float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", [labels, soft_rows, one_hot_rows])
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_cross_entropy_with_every_target(name, target, weighted, dtype):
    layers, rule = [Dense(9), ReLU(), Dense(K)], SGD(0.02)
    compare(layers, dtype, CLASS_LOSSES[name], rule, target=target, weighted=weighted)


FAR = 1e4 * np.eye(K)
EXTREMES = {
    "far apart": (SoftmaxCrossEntropy(), np.concatenate([FAR, -FAR]), 0.0),
    "far below zero": (SoftmaxCrossEntropy(label_smoothing=0.1), FAR - 1e5, 0.0),
    "equal": (SoftmaxCrossEntropy(), np.zeros((8, K)), 0.0),
    "an impossible class": (SoftmaxCrossEntropy(class_weights=WEIGHTS), FAR[1:] / 1e4, -np.inf),
    "nothing counts": (SoftmaxCrossEntropy(ignore_label=1), np.zeros((3, K)), 0.0),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_cross_entropy_of_extreme_logits(name):
    """The logits are x, but for the bias of class 0."""
    loss, x, bias = EXTREMES[name]
    model = Sequential([Dense(K)]).build((K,))
    y = (
        np.full(len(x), 1, np.int32)
        if name == "nothing counts"
        else 1 + np.arange(len(x)) % (K - 1)
    )
    inputs = StepInputs(0, SGD(0.1).coefficients(0.1, 1))
    results = []
    for make in (make_train_step, lambda *given: FusedStep(*given, "float64")):
        state = first_state(model, SGD(0.1), "float64")
        state.params[:] = np.concatenate([np.eye(K).ravel(), [bias, 0.0, 0.0, 0.0, 0.0]])
        batch = Batch(np.array(x), y.astype(np.int32))
        state, cost = make(model, loss, SGD(0.1), Clip())(state, batch, inputs)
        results.append([cost, *flat(state)])
        assert np.isfinite(cost)
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_softmax_far_below_zero_is_shifted_by_its_own_largest():
    far = Dense(9, bias_initializer=Constant(-2000.0))
    compare([far, Softmax(), Dense(K)], "float64")


@pytest.mark.long_but(dtype=["float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_element_wise_losses(name, weighted, dtype):
    layers, loss, rule = [Dense(9), ReLU(), Dense(K)], VALUE_LOSSES[name], SGD(0.02)
    compare(layers, dtype, loss, rule, target=soft_rows, weighted=weighted)
    compare([*layers, Dense(1)], dtype, loss, rule, target=column, weighted=weighted)


def test_a_loss_without_a_kernel_is_portable_inside_the_step(dtype):
    layers, rule = [Dense(9), ReLU(), Dense(K), Softmax()], SGD(0.1)
    fused = compare(layers, dtype, CrossEntropy(), rule, weighted=True)
    compare(layers, dtype, CrossEntropy(class_weights=WEIGHTS), rule, target=soft_rows)
    why = "CrossEntropy (it depends on the number of rows or columns)"
    assert fused.note.endswith(f"portable inside it: {why}")
    fused = compare([Dense(K), LogSoftmax()], dtype, NegativeLogLikelihood(), rule, weighted=True)
    assert "portable inside it: NegativeLogLikelihood (" in fused.note


def test_the_tables_have_every_loss_and_rule():
    losses = {type(v) for v in (*CLASS_LOSSES.values(), *VALUE_LOSSES.values())}
    assert losses | {CrossEntropy, NegativeLogLikelihood} == set(LOSSES.values())
    assert {type(rule) for rule in RULES.values()} == set(OPTIMIZERS.values())


# -- rules ----------------------------------------------------------------------------------------

RULES = {
    **rules.RULES,
    "rmsprop, centered, momentum": RMSProp(0.01, eps=1e-3, centered=True, momentum=0.8),
    "adamw, amsgrad": AdamW(0.01, amsgrad=True, weight_decay=0.1),
}
CLIPS = rules.CLIPS


@pytest.mark.long_but(clip=["no clip", "both"], dtype=["float64"])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_for_20_steps_with_dropout_and_ragged_batches(rule, clip, dtype):
    layers = [Dense(7), ReLU(), Dropout(0.3), Dense(K)]
    compare(layers, dtype, optimizer=RULES[rule], clip=CLIPS[clip])


class Normalized(SGD):
    """A step of the same length every time: its norm is over all parameters."""

    def update(self, params, grad, slots, c):
        xp = array_namespace(grad)
        return params - c.step_size * grad / xp.sqrt(xp.sum(grad * grad)), slots


class Centred(SGD):
    """One that computes with NumPy whatever the array is."""

    def update(self, params, grad, slots, c):
        return params - c.step_size * np.where(grad > 0, grad, 0.5 * grad), slots


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Normalized(0.1), "it calls sum, which is not a function of one element"),
        (Centred(0.1), "it calls NumPy whatever the array is: array_namespace(x) is"),
    ],
)
def test_a_rule_that_is_not_element_wise_is_portable_inside_the_step(rule, why, dtype):
    fused = compare([Dense(9), ReLU(), Dense(K)], dtype, optimizer=rule)
    assert f"portable inside it: {type(rule).__name__} ({why}" in fused.note


# -- the state, and numbers that are not finite ----------------------------------------------------


def engine(layers, optimizer=None, shape=(I,), **options):
    model, loss = Sequential(layers).build(shape), SoftmaxCrossEntropy()
    return Engine(get_backend("numpy"), model, loss, optimizer or SGD(0.1), **options)


def batch_of(rng, n=12, width=I):
    x = rng.normal(size=(n, width)).astype("float32")
    return Batch(x, rng.integers(0, K, n).astype(np.int32))


def test_a_nan_names_its_step_and_stays(rng):
    made = engine([Dense(9), ReLU(), Dense(K)])
    coefficients = made.optimizer.coefficients(0.1, 1)
    for step in range(4):
        batch = batch_of(rng)
        if step == 2:
            batch.x[3, 1] = np.nan
        made.train(batch, StepInputs(step, coefficients))
    assert made.read().bad_step == 2
    assert not made.finite()


@pytest.mark.long_but(dtype=["float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_and_infinity_propagate_through_every_activation(name, value, dtype):
    model = Sequential([Dense(4), ACTIVATIONS[name](), Dense(K)]).build((I,))
    x = np.random.default_rng(0).normal(size=(8, I)).astype(dtype)
    x[2, 3] = value
    results = []
    for make in (make_train_step, lambda *given: FusedStep(*given, dtype)):
        step = make(model, SoftmaxCrossEntropy(), SGD(0.1), Clip())
        batch = Batch(x, np.arange(8, dtype=np.int32) % K)
        with np.errstate(all="ignore"):
            inputs = StepInputs(7, SGD().coefficients(0.1, 1))
            state, cost = step(first_state(model, SGD(), dtype), batch, inputs)
        results.append((np.isfinite(cost), np.isfinite(state.params).all(), int(state.totals[4])))
    assert results[0] == results[1]


def test_new_totals_and_restored_weights_are_adopted(rng):
    made, again = engine([Dense(K)], Adam(0.1)), engine([Dense(K)], Adam(0.1))
    inputs = StepInputs(0, made.optimizer.coefficients(0.1, 1))
    batches = [batch_of(rng) for _ in range(3)]
    made.train(batches[0], inputs)
    made.zero()
    kept = made.host_state()
    wanted = [float(made.train(b, inputs)) for b in batches[1:]]
    reading = made.read()
    again.train(batches[2], inputs)
    again.set_state(kept)
    assert [float(again.train(b, inputs)) for b in batches[1:]] == wanted
    assert again.read() == reading


def test_batches_of_any_layout_give_the_same_step(rng):
    x, y = batch_of(rng)[:2]
    wide = np.repeat(x, 2, axis=1)
    frozen = x.copy()
    frozen.flags.writeable = False
    costs = []
    for variant in (x, wide[:, ::2], np.asfortranarray(x), frozen, x.astype("float64")):
        inputs = StepInputs(0, SGD().coefficients(0.1, 1))
        costs.append(float(engine([Dense(K)]).train(Batch(variant, y.astype("int64")), inputs)))
    assert set(costs) == {costs[0]}


def test_fused_and_portable_training_learn_the_same(rng):
    x, y = rng.normal(size=(100, I)), rng.integers(0, K, 100)
    params = []
    for step in ("auto", "portable"):
        trainer = Trainer(
            [Dense(16), ReLU(), Dropout(0.2), Dense(K)],
            optimizer=Adam(0.01),
            backend=NumpyBackend("cpu", "float64"),
            batch_size=16,
            step=step,
        )
        trainer.fit((x, y), epochs=3, validation=(x, y))
        params.append(trainer.params)
    for name, value in params[0].items():
        np.testing.assert_allclose(value, params[1][name], rtol=1e-8, atol=1e-12)


# -- which step is chosen --------------------------------------------------------------------------


def test_numpy_takes_the_fused_step_and_says_so():
    assert engine([Dense(K)]).step.note == "fused step compiled by Numba"
    assert engine([Dense(K)], step="portable").step.note == "portable"


def test_without_numba_everything_still_runs(monkeypatch, rng):
    monkeypatch.setattr("xpnet.training.step_choice.installed_version", lambda *_: None)
    trainer = Trainer([Dense(3)], backend=NumpyBackend())
    trainer.fit((rng.normal(size=(20, 4)), rng.integers(0, 3, 20)), epochs=1)
    why = "Numba is not installed: pip install 'numba>=0.61'"
    assert trainer.engine.step.note == f"portable: {why}"


@pytest.mark.parametrize(
    ("begin", "environment", "why"),
    [
        (
            "",
            {"NUMBA_DISABLE_JIT": "1"},
            "Numba cannot be used: its compiler is switched off by NUMBA_DISABLE_JIT",
        ),
        (
            "import sys; sys.modules['numba'] = None",
            {},
            "the fused step needs numba, which cannot be imported (ModuleNotFoundError: import of",
        ),
    ],
)
def test_a_numba_that_cannot_be_used_leaves_the_portable_step(begin, environment, why):
    script = f"""{begin}
from xpnet import Dense, Sequential, Trainer
trainer = Trainer(Sequential([Dense(3)]).build((4,)), backend="numpy")
print(trainer.engine.step.note)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith(f"portable: {why}"), done.stderr


def test_a_blas_that_is_missing_or_miscalculates_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(blas, "_multiplies", lambda *_: False)
    gemm_address.cache_clear()
    with caplog.at_level(logging.INFO, "xpnet"):
        assert engine([Dense(K)]).step.note == "portable: the BLAS of NumPy was not found"
    assert "the BLAS of NumPy was not found" in caplog.text
    monkeypatch.setattr(blas, "_libraries", list)
    gemm_address.cache_clear()
    assert engine([Dense(K)]).step.note == "portable: the BLAS of NumPy was not found"
    gemm_address.cache_clear()


def test_a_model_without_a_dense_layer_is_portable():
    with pytest.raises(UnsupportedError, match="no dense layer"):
        FusedStep(
            Sequential([LayerNorm()]).build((K,)), SoftmaxCrossEntropy(), SGD(), Clip(), "float32"
        )


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_steady_step_allocates_no_array(optimizer, rng):
    """All that tracemalloc sees of a step are small Python objects, no buffer."""
    made = engine([Dense(256), ReLU(), Dropout(0.1), Dense(K)], optimizer, (300,))
    batches = [batch_of(rng, n, 300) for n in (64, 40)]
    inputs = StepInputs(0, made.optimizer.coefficients(0.01, 1), ((1, 2),))

    def steps(count):
        for batch in itertools.islice(itertools.cycle(batches), count):
            made.train(batch, inputs)

    steps(6)
    tracemalloc.start()
    try:
        steps(6)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        steps(50)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 4096  # the batch of x has 76800 bytes
    assert after - before < 1024


# --------------------------------------------------------------------------------- Numba's cache


SUCCESSOR = "def run(x):\n    return x + {}\n"


def test_kernels_are_compiled_even_without_a_place_for_the_cache(monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "a file"))
    assert jitted(SUCCESSOR.format(1))(1) == 2


def test_a_cache_on_a_full_disk_or_torn_by_a_crash_is_ignored():
    def fail(error):
        def method(*args):
            done.append(type(error))
            raise error

        return method

    done, made = [], jitted(SUCCESSOR.format(2))
    made._cache._cache.load_overload = fail(EOFError())
    made._cache._cache.flush = fail(OSError())
    made._cache._cache.save_overload = fail(OSError())
    assert made(1) == 3
    assert done == [EOFError, OSError, OSError]
