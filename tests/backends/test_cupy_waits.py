"""No formula makes the host wait for the device where arrays are CuPy's.

Without a GPU the arrays are those of a stand-in on NumPy, beneath array-api-compat's own namespace
for CuPy: cupy_on_numpy.py. With one they are CuPy's, whose own detector of waiting is switched on.
The parameters are the registries, so that what is registered is tried without a line here.
"""

import contextlib
import warnings
from functools import partial

import cupy_on_numpy
import numpy as np
import pytest
from array_api_compat import array_namespace
from conftest import AVAILABLE, ran
from cupy_on_numpy import RefusedError, WaitedError

from xpnet.backends import get_backend
from xpnet.check.conformance.subjects import CLIPS, LOSSES, RULES, model_for, model_with
from xpnet.data import Shuffle
from xpnet.elementwise import clip, sign
from xpnet.nn import LAYERS, BatchNorm, Dense, Dropout, Embedding, ReLU, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.optim.schedules import Cosine
from xpnet.step import StepInputs, dropout_keys
from xpnet.step.mixed_precision import CANDIDATES, Mixed, candidates
from xpnet.training.engine import Engine
from xpnet.training.loader import Loader
from xpnet.training.norms import Norms
from xpnet.training.trainer import Trainer

N, BATCH, K = 11, 4, 3  # the last batch is ragged
CLASSES, PLAIN = SoftmaxCrossEntropy(), SGD(0.01)


@contextlib.contextmanager
def cupys_own_detector():
    """Raise where CuPy waits; kernels are compiled, and memory is found, in a first round."""
    import cupyx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, for it does not see all
        with cupyx.allow_synchronize(False):
            yield


@pytest.fixture(params=["stand-in", *(["cupy"] if "cupy" in AVAILABLE else [])])
def no_waiting(request):
    """Return a context in which it is an error to wait."""
    if request.param == "cupy":
        yield cupys_own_detector
        ran["cupy"] += 1
        return
    with cupy_on_numpy.installed():
        yield cupy_on_numpy.no_waiting


@pytest.fixture
def standing_in():
    with cupy_on_numpy.installed() as cupy:
        yield cupy


def rows(model, loss, rng):
    """Examples for a model and its loss, on the host."""
    x = rng.normal(size=(N, *model.input_shape))
    if isinstance(model.layers[0], Embedding):
        x[:, -2:] = rng.integers(3, size=(N, 2))
    y = rng.integers(K, size=N) if loss.predicts == "class" else rng.uniform(size=(N, K))
    return x, y, rng.uniform(0.5, 2.0, size=N)


def steps(no_waiting, rng, model, loss=CLASSES, rule=PLAIN, **options):
    """Train, evaluate and predict from data on the device; only what is asked for may wait."""
    backend = get_backend("cupy", "cuda:0", options.pop("dtype", "float64"))
    engine = Engine(backend, model, loss, rule, step="portable", **options)
    loader = Loader(backend, *rows(model, loss, rng), resident=True)
    shuffle = Shuffle(0, 0)
    before = engine.host_state().params

    def inputs(step):
        numbers = engine.optimizer.coefficients(0.01 / (step + 1), step + 1)
        if engine.state.skipped is not None:
            numbers = candidates(engine.optimizer, 0.01, step + 1, 0, step % CANDIDATES)
        return StepInputs(step, numbers, dropout_keys(0, step, model.n_random))

    def all_of_it():
        engine.zero()
        for step, batch in enumerate(loader.batches(BATCH, shuffle)):
            engine.train(batch, inputs(step))
            engine.gradient(batch, inputs(step).keys)
            state = engine.state
            engine._evaluate(state.totals, state.params, state.stats, batch)
            engine._predict(state.params, state.stats, batch.x)
        engine.weights()

    with np.errstate(all="ignore"):
        all_of_it()  # compiles, on a GPU
        with no_waiting():
            all_of_it()
    after = engine.host_state().params
    assert np.isfinite(after).all()
    assert after.tobytes() != before.tobytes() or not after.size


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_waits(name, no_waiting, rng):
    steps(no_waiting, rng, model_with(name)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits(name, no_waiting, rng):
    loss = LOSSES[name]
    steps(no_waiting, rng, model_for(loss), loss)


@pytest.mark.parametrize("name", RULES)
def test_no_rule_waits(name, no_waiting, rng):
    steps(no_waiting, rng, model_with("tanh")[0], rule=RULES[name])


@pytest.mark.parametrize("name", CLIPS)
def test_no_clipping_waits(name, no_waiting, rng):
    steps(no_waiting, rng, model_with("tanh")[0], clip=CLIPS[name])


RICH = [Dense(8), BatchNorm(), ReLU(), Dropout(0.2), Dense(K)]
WAYS = {
    "mixed": {"mixed": Mixed("float16", initial_scale=8.0), "dtype": "float32", "rule": Adam()},
    "mixed, clipped": {"mixed": Mixed("float16"), "dtype": "float32", "clip": Clip(norm=1.0)},
    "micro-batches": {"accumulate": 3},
    "penalty": {"alpha": 0.1},
    "groups": {"rule": Adam(lr_factors={"b": 0.5})},
    "frozen": {"rule": SGD(freeze=("0.dense",))},
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_training_waits(way, no_waiting, rng):
    steps(no_waiting, rng, Sequential(RICH).build((4,)), **WAYS[way])


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("embedding", "flatten")])
def test_no_layer_waits_in_16_bits(name, no_waiting, rng):
    steps(no_waiting, rng, model_with(name)[0], dtype="float32", mixed=Mixed("float16", 8.0))


def test_a_long_epoch_waits_as_often_as_a_short_one(standing_in, rng):
    """For its metrics, norms and validation; here with class weights and a schedule."""
    waited = []
    for rows in (16, 160):
        x, y = rng.normal(size=(rows, 4)), rng.integers(K, size=rows)
        trainer = Trainer(
            RICH, backend="cupy", device="cuda:0", batch_size=8, step="portable",
            schedule=Cosine(), clip=Clip(norm=1.0, value=0.5), class_weights="balanced",
            mixed=Mixed("float16", 8.0),
        )  # fmt: skip
        before = cupy_on_numpy.State.waited
        trainer.fit((x, y), epochs=2, validation=(x[:8], y[:8]), callbacks=[Norms()])
        assert trainer.position.step == rows // 4
        waited.append(cupy_on_numpy.State.waited - before)
    assert waited[0] > 0
    assert waited[1] - waited[0] <= 160 // 4 // CANDIDATES  # looks at the skipped steps


# -- the stand-in itself --------------------------------------------------------------------------


LEAKS = {
    "clip": lambda xp, x: xp.clip(x, -1.0, 1.0),
    "sign": lambda xp, x: xp.sign(x),
    "mask": lambda xp, x: x[x > 0.0],
    "assignment by a mask": lambda xp, x: operator_setitem(x, x > 0.0, 1.0),
    "float": lambda xp, x: float(x[0, 0]),
    "int": lambda xp, x: int(x[0, 0]),
    "if": lambda xp, x: 1 if xp.any(x > 0.0) else 0,
    "index": lambda xp, x: range(xp.astype(x[0, 0], xp.int32)),
    "item": lambda xp, x: x[0, 0].item(),
    "built-in max": lambda xp, x: max(x[0, 0], x[0, 1]),
    "nonzero": lambda xp, x: xp.nonzero(x),
    "unique": lambda xp, x: xp.unique_values(x),
    "sort": lambda xp, x: xp.sort(x),
    "get": lambda xp, x: x.get(),
}


def operator_setitem(x, key, value):
    x[key] = value


@pytest.mark.parametrize("leak", LEAKS)
def test_what_waits_on_cupy_is_caught(leak, standing_in, rng):
    x = get_backend("cupy", "cuda:0", "float64").asarray(rng.normal(size=(3, 4)))
    xp = array_namespace(x)
    assert xp.__name__ == "array_api_compat.cupy"
    with cupy_on_numpy.no_waiting(), pytest.raises(WaitedError):
        LEAKS[leak](xp, x)
    LEAKS[leak](xp, x)


def test_what_cupy_refuses_is_refused(standing_in, rng):
    x = get_backend("cupy", "cuda:0", "float64").asarray(rng.normal(size=(3, 4)))
    other = get_backend("cupy", "cuda:1", "float64").asarray(rng.normal(size=(3, 4)))
    for wrong in (
        lambda: x + np.ones((3, 4)),
        lambda: np.asarray(x),
        lambda: standing_in.sum(np.ones(3)),
    ):
        with pytest.raises(RefusedError):
            wrong()
    with standing_in.cuda.Device(0), pytest.raises(RefusedError, match="an array of cuda:1 while"):
        standing_in.exp(other)


def test_the_real_cupy_is_back_afterwards():
    import sys

    import array_api_compat

    before = {k: v for k, v in sys.modules.items() if "cupy" in k and "xpnet" not in k}
    with cupy_on_numpy.installed() as cupy:
        assert sys.modules["cupy"] is cupy
    after = {k: v for k, v in sys.modules.items() if "cupy" in k and "xpnet" not in k}
    assert after == before
    assert vars(array_api_compat).get("cupy") is before.get("array_api_compat.cupy")


# -- what stands in their place -------------------------------------------------------------------

VALUES = [-np.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, np.inf, np.nan]


def test_clip_and_sign_are_those_of_the_standard(backend):
    x = np.array(VALUES)
    placed = partial(backend.asarray, x)
    found = {
        "both": clip(placed(), -1.0, 1.0),
        "below": clip(placed(), -1.0),
        "above": clip(placed(), high=1.0),
        "sign": sign(placed()),
    }
    wanted = [np.clip(x, -1.0, 1.0), np.maximum(x, -1.0), np.minimum(x, 1.0), np.sign(x)]
    for got, right in zip(found.values(), wanted, strict=True):
        assert got.dtype == backend.dtype
        np.testing.assert_array_equal(backend.to_host(got), right)
