"""Training stays on its device: proven without a GPU, on libraries that refuse to leave theirs.

array-api-strict's ``device1`` refuses to meet an array of another device, and the trap below closes
the ways to the host that it leaves open. JAX's transfer guard and tracing, the devices without
64-bit types and PyTorch's graph are the other witnesses.
"""

import contextlib
from typing import ClassVar

import array_api_strict as strict
import numpy as np
import pytest
from array_api_compat import array_namespace, device

from xpnet.backends import get_backend
from xpnet.data import Shuffle
from xpnet.nn import (
    ACTIVATIONS,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    Identity,
    LayerNorm,
    LogSoftmax,
    ReLU,
    Sequential,
    Softmax,
)
from xpnet.nn.losses import (
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
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSProp,
)
from xpnet.optim.schedules import Cosine
from xpnet.step import StepInputs, dropout_keys
from xpnet.training.engine import Engine
from xpnet.training.loader import Loader
from xpnet.training.trainer import Trainer

N, I, K = 22, 5, 3  # noqa: E741
BATCH = 8  # the last batch is ragged

RICH_LOSS = SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1, ignore_label=-1)
RULES = [
    SGD(0.05),
    SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    RMSProp(centered=True, momentum=0.5, weight_decay=0.01),
    Adagrad(initial_accumulator=0.1, weight_decay=0.01),
    Adam(weight_decay=0.01),
    AdamW(),
    Lion(),
    SGD(0.05, momentum=0.9, dampening=0.1),
    Adam(amsgrad=True),
    NAdam(),
    RAdam(),
    Adamax(),
    Adadelta(),
]


class LeftTheDeviceError(Exception):
    """An array was read on the host."""


# All that turns an array-api-strict array into something of the host's.
WAYS_OUT = (
    *("__float__", "__int__", "__bool__", "__index__", "__complex__", "__iter__"),
    *("__dlpack__", "__array__", "__buffer__", "to_device"),
)


@contextlib.contextmanager
def no_host_transfer():
    """Raise on each way from array-api-strict to the host, and on data-dependent shapes."""
    cls = strict._array_object.Array

    def trap(name):
        def refuse(self, *args, **kwargs):
            raise LeftTheDeviceError(name)

        return refuse

    with pytest.MonkeyPatch.context() as patch:
        for name in WAYS_OUT:
            if hasattr(cls, name):
                patch.setattr(cls, name, trap(name))
        with strict.ArrayAPIStrictFlags(data_dependent_shapes=False, boolean_indexing=False):
            yield


def model_of(layers):
    return Sequential(layers).build((I,))


def rich_layers():
    return [Dense(6), BatchNorm(), ReLU(), Dense(6), LayerNorm(), Dropout(0.3), Dense(K)]


def examples(rng, target="labels"):
    x = rng.normal(size=(N, I))
    y = {
        "labels": rng.integers(-1, K, size=N),  # -1 is ignored
        "rows": rng.uniform(size=(N, K)),
        "values": rng.normal(size=(N, K)),
    }[target]
    return x, y, rng.uniform(size=N)


def step_inputs(engine, step):
    keys = dropout_keys(0, step, engine.model.n_random)
    return StepInputs(step, engine.optimizer.coefficients(0.01 / (step + 1), step + 1), keys)


def leaves(tree):
    """The arrays in nested tuples."""
    if tree is None:
        return []
    if isinstance(tree, tuple):
        return [leaf for item in tree for leaf in leaves(item)]
    return [tree]


def run_on_device1(rng, loss, optimizer, layers=None, target="labels", **options):
    """Place examples, then gather, train, evaluate and predict under the trap; check the places."""
    backend = get_backend("array-api-strict", "device1", "float64")
    engine = Engine(backend, model_of(layers or rich_layers()), loss, optimizer, **options)
    loader = Loader(backend, *examples(rng, target))
    before = engine.host_state().params
    with no_host_transfer():
        made = []
        for step, batch in enumerate(loader.batches(BATCH, Shuffle(0, 0))):
            made += [engine.train(batch, step_inputs(engine, step)), *leaves(batch)]
            totals, output, predicted = engine._evaluate(
                engine.state.totals, engine.state.params, engine.state.stats, batch
            )
            alone = engine._predict(engine.state.params, engine.state.stats, batch.x)
            made += [*leaves(totals), output, predicted, alone]
        made += leaves(engine.state)
    assert {device(array) for array in made} == {backend.device}
    after = engine.host_state().params
    assert np.isfinite(after).all()
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("optimizer", RULES, ids=repr)
@pytest.mark.parametrize("clip", [Clip(), Clip(norm=0.1, value=0.05)], ids=["free", "clipped"])
def test_train_step_stays_on_the_device_with_each_optimizer(rng, optimizer, clip):
    run_on_device1(rng, RICH_LOSS, optimizer, clip=clip)


def test_all_optimizers_are_among_those_tried():
    assert {type(rule) for rule in RULES} == set(OPTIMIZERS.values())


@pytest.mark.parametrize(
    ("loss", "target", "last"),
    [
        (SoftmaxCrossEntropy(), "rows", []),
        (SoftmaxCrossEntropy("mean_count", class_weights=(1, 2, 3)), "rows", []),
        (SoftmaxCrossEntropy("sum", ignore_label=-1), "labels", []),
        (CrossEntropy(label_smoothing=0.1, ignore_label=-1), "labels", [Softmax()]),
        (BinaryCrossEntropy(positive_weight=2.0), "rows", []),
        (MeanSquaredError(), "values", []),
        (Huber(delta=0.5), "values", []),
        (Poisson(), "values", []),
        (Hinge(), "rows", []),
        (SquaredHinge(), "rows", []),
        (NegativeLogLikelihood(), "labels", [LogSoftmax()]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_train_step_stays_on_the_device_with_each_loss(rng, loss, target, last):
    run_on_device1(rng, loss, Adam(), [*rich_layers(), *last], target)


def test_train_step_stays_on_the_device_with_each_layer(rng):
    activations = [layer for cls in ACTIVATIONS.values() for layer in (Dense(4), cls())]
    layers = [Flatten(), *activations, BatchNorm(), LayerNorm(), Dropout(0.2), Dense(K)]
    run_on_device1(rng, RICH_LOSS, SGD(0.01), layers)


def test_accumulated_train_step_stays_on_the_device(rng):
    run_on_device1(rng, RICH_LOSS, Adam(), accumulate=3)


# -- the trap itself ------------------------------------------------------------------------------


OUT = LeftTheDeviceError
# kind -> (a leak, the error that stops it)
LEAKS = {
    "float": (lambda x: float(x[0, 0]), OUT),
    "int": (lambda x: int(strict.astype(x[0, 0], strict.int32)), OUT),
    "bool": (lambda x: bool(strict.all(x > 0.0)), OUT),
    "if": (lambda x: 1 if strict.sum(x) > 100.0 else 0, OUT),
    "range": (lambda x: range(strict.astype(x[0, 0], strict.int32)), OUT),
    "iteration": (lambda x: [row for row in x], OUT),  # noqa: C416
    "builtin sum": (lambda x: sum(x[0, :]), OUT),
    "asarray": (np.asarray, OUT),
    "numpy function": (np.mean, OUT),
    "nested asarray": (lambda x: strict.asarray([x[0, 0], x[0, 1]]), TypeError),
    "from_dlpack": (np.from_dlpack, OUT),
    "to_device": (lambda x: x.to_device(strict.Device("CPU_DEVICE")), OUT),
    "mask": (lambda x: x[x > 0.0], RuntimeError),
    "nonzero": (strict.nonzero, RuntimeError),
    "unique": (strict.unique_values, RuntimeError),
    "no device": (lambda x: x + strict.zeros(x.shape), ValueError),
    "host operand": (lambda x: x * np.zeros(x.shape), TypeError),
    "host indices": (lambda x: strict.take(x, strict.asarray([0, 1]), axis=0), ValueError),
}


@pytest.mark.parametrize("kind", LEAKS)
@pytest.mark.parametrize("where", ["loss", "forward", "backward"])
def test_a_planted_leak_is_caught(rng, kind, where):
    leak, error = LEAKS[kind]
    reached = []

    def spring(place, x):
        if place == where:
            reached.append("before")
            leak(x)
            reached.append("after")

    class Leaky(Identity):
        def forward(self, params, x, *, train=False, keys=None):
            spring("forward", x)
            return super().forward(params, x, train=train, keys=keys)

        def backward(self, params, residuals, dy, *, input_gradient=True):
            spring("backward", dy)
            return super().backward(params, residuals, dy, input_gradient=input_gradient)

    class LeakyLoss(SoftmaxCrossEntropy):
        def terms(self, output, target, weight=None):
            spring("loss", output)
            return super().terms(output, target, weight)

    with pytest.raises(error):
        run_on_device1(rng, LeakyLoss(ignore_label=-1), SGD(), [Dense(K), Leaky()])
    assert reached == ["before"]


def test_the_trap_is_gone_afterwards():
    with no_host_transfer(), pytest.raises(LeftTheDeviceError, match="__float__"):
        float(strict.ones(()))
    assert float(strict.ones(())) == 1.0


# -- narrow devices -------------------------------------------------------------------------------


def argmax_as_narrow_as_the_device(x, /, *, axis=None, keepdims=False):
    """argmax for ``no_x64``, where array-api-strict's own (2.6) fails by making an int64."""
    index = np.argmax(np.asarray(x.to_device(strict.Device("CPU_DEVICE"))), axis, keepdims=keepdims)
    return strict.asarray(index.astype(np.int32), device=x.device)


@pytest.mark.parametrize("name", ["no_float64", "no_x64"])
@pytest.mark.parametrize("optimizer", RULES, ids=repr)
def test_float32_training_runs_where_there_are_no_64_bit_types(rng, name, optimizer, monkeypatch):
    if name == "no_x64":
        monkeypatch.setattr(strict, "argmax", argmax_as_narrow_as_the_device)
    trainer = Trainer(
        rich_layers(),
        RICH_LOSS,
        optimizer,
        backend="array-api-strict",
        device=name,
        batch_size=BATCH,
        schedule=Cosine(),
        clip=Clip(norm=1.0),
    )
    data = examples(rng)
    history = trainer.fit(data, epochs=2, validation=data)
    assert np.isfinite([record["val_loss"] for record in history]).all()
    assert trainer.predict(data[0]).dtype == np.float32
    assert {device(a) for a in leaves(trainer.engine.state)} == {strict.Device(name)}


def test_float64_is_refused_where_there_is_none(rng):
    with pytest.raises(ValueError, match="float64"):
        Trainer([Dense(K)], backend="array-api-strict", device="no_float64", dtype="float64").fit(
            examples(rng), epochs=1
        )


# -- JAX ------------------------------------------------------------------------------------------


def few_layers():
    """Enough of them for statistics and keys; each more takes its time to compile."""
    return [Dense(6), BatchNorm(), ReLU(), Dropout(0.3), Dense(K)]


@pytest.mark.long
def test_jitted_steps_transfer_nothing_but_their_scalars(rng):
    """`disallow` lets explicit transfers pass: the scalars of StepInputs, and nothing else."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    backend = get_backend("jax", "cpu", "float32")
    engine = Engine(backend, model_of(few_layers()), RICH_LOSS, AdamW(), Clip(norm=1.0))
    batches = list(Loader(backend, *(a[: 2 * BATCH] for a in examples(rng))).batches(BATCH))
    inputs = [step_inputs(engine, step) for step in range(len(batches))]
    engine.train(batches[0], inputs[0])  # compiles: a program's constants are transferred once
    engine._evaluate(engine.state.totals, engine.state.params, engine.state.stats, batches[0])
    engine._predict(engine.state.params, engine.state.stats, batches[0].x)
    with jax.transfer_guard("disallow"):
        for batch, scalars in zip(batches, inputs, strict=True):
            with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
                engine.train(batch, scalars)  # the guard is awake
            cost = engine.train(batch, jax.device_put(scalars))
            engine._evaluate(engine.state.totals, engine.state.params, engine.state.stats, batch)
            engine._predict(engine.state.params, engine.state.stats, batch.x)
    assert np.isfinite(backend.to_host(cost))
    assert {device(a) for a in leaves(engine.state)} == {backend.device}


class Traced(Identity):
    """An identity that notes the shape of each array it is called with."""

    calls: ClassVar[list] = []

    def forward(self, params, x, *, train=False, keys=None):
        self.calls.append((tuple(x.shape), train))
        return super().forward(params, x, train=train, keys=keys)


@pytest.mark.long
def test_jax_compiles_each_step_once_per_batch_shape(rng, monkeypatch):
    pytest.importorskip("jax", reason="jax is not installed")
    monkeypatch.setattr(Traced, "calls", [])
    trainer = Trainer(
        [Traced(), *few_layers()],
        RICH_LOSS,
        Adam(),
        backend="jax",
        batch_size=BATCH,
        schedule=Cosine(),
    )
    data = examples(rng)
    trainer.fit(data, epochs=7, validation=data)  # 21 steps
    assert trainer.position.step == 21
    rates = {record["lr"] for record in trainer.history}
    assert len(rates) == 7
    shapes = [((BATCH, I), True), ((N % BATCH, I), True), ((N, I), False)]
    assert sorted(Traced.calls) == sorted(shapes)


# -- PyTorch --------------------------------------------------------------------------------------


def test_torch_records_no_graph_even_for_tensors_that_want_one(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, y, weight = (torch.asarray(a) for a in examples(rng))
    x.requires_grad_()
    kept = []
    trainer = Trainer(rich_layers(), RICH_LOSS, Adam(), backend="torch", batch_size=BATCH)
    trainer.fit((x, y, weight), epochs=1)
    loader = Loader(trainer.backend, x, y, weight)
    for step, batch in enumerate(loader.batches(BATCH)):
        kept += [*leaves(batch), trainer.engine.train(batch, step_inputs(trainer.engine, step))]
    kept += leaves(trainer.engine.state)
    assert all(array_namespace(t) is trainer.backend.xp for t in kept)
    assert not any(t.requires_grad or t.grad_fn is not None for t in kept)
    assert x.grad is None
