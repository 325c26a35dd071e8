"""Ranks that share each batch take the steps of one process that has all of it.

In float64, to 1e-12 of each array's largest number after 100 steps. Where a gradient is 0 but for
rounding, as that of a bias before batch normalisation, a rule that divides by its size (Adam) makes
steps of rounding errors; so those rules are tried on models that have no such parameter.
"""

import itertools
from dataclasses import fields

import numpy as np
import pytest
from conftest import make_backend
from shared_training import ORDERED, Data, K, Training, assert_same_training, model_for, rows_for
from thread_ranks import on_ranks

from xpnet.check.conformance.subjects import model_with
from xpnet.nn import LAYERS, BatchNorm, Dense, Dropout, LayerNorm, Sequential, Tanh
from xpnet.nn.losses import LOSSES, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, SGD
from xpnet.parallel.settings import Parallel

REDUCTIONS = ("mean", "mean_count", "sum")
OPTIONS = {"class_weights": (1.0, 2.0, 0.5), "label_smoothing": 0.1, "ignore_label": 1}
CHOICES = [
    (name, reduction, weighted, options)
    for name, cls in LOSSES.items()
    for reduction, weighted in itertools.product(REDUCTIONS, (False, True))
    for options in itertools.product(
        *[(False, True)] * len(OPTIONS.keys() & {f.name for f in fields(cls)})
    )
]


def loss_with(name, reduction, chosen):
    known = [k for k in OPTIONS if k in {f.name for f in fields(LOSSES[name])}]
    return LOSSES[name](
        reduction, **{k: OPTIONS[k] for k, c in zip(known, chosen, strict=True) if c}
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, reduction):
    """With weights, of which some are 0, and all options that the loss has."""
    chosen = [True] * len(OPTIONS.keys() & {f.name for f in fields(LOSSES[name])})
    loss = loss_with(name, reduction, chosen)
    training = Training(model_for(loss), loss, rows_for(loss, weighted=True))
    assert_same_training(training, [3])


@pytest.mark.long
def test_every_choice_of_every_loss():
    """A few steps of each, for they are many: of some, 100 are taken above."""
    for i, (name, reduction, weighted, options) in enumerate(CHOICES):
        loss = loss_with(name, reduction, options)
        training = Training(model_for(loss), loss, rows_for(loss, weighted=weighted), steps=5)
        assert_same_training(training, [2 + i % 3])


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name):
    model, _ = model_with(name)
    loss = SoftmaxCrossEntropy()
    data = rows_for(loss, shape=model.input_shape)
    if name == "embedding":
        data.x[:, -2:] = data.y[:, None] % [2, 3]
    # The bias of what is normalised over the batch has no gradient but of rounding.
    of_rounding = ("params/0.dense.b", "slots/v/0.dense.b") if name == "batch_norm" else ()
    training = Training(model, loss, data, steps=30)
    assert_same_training(training, [4], without=of_rounding)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_rule_with_decay(name):
    loss = SoftmaxCrossEntropy()
    rule = OPTIMIZERS[name](0.01, weight_decay=0.1)
    training = Training(model_for(loss), loss, rows_for(loss), rule, steps=30)
    assert_same_training(training, [3])


@pytest.mark.parametrize("clip", [Clip(norm=0.1), Clip(value=0.01), Clip(0.1, 0.05)])
def test_a_gradient_is_clipped_as_that_of_the_whole_batch(clip):
    loss = SoftmaxCrossEntropy("sum")
    training = Training(model_for(loss), loss, rows_for(loss), SGD(0.05), clip)
    assert_same_training(training, [3])


@pytest.mark.parametrize(("reduction", "accumulate"), [("mean", 3), ("sum", 2), ("mean_count", 1)])
def test_batch_normalisation_and_dropout_by_micro_batches(accumulate, reduction):
    """Each micro-batch has its own mean and variance, as on one process."""
    loss = SoftmaxCrossEntropy(reduction, ignore_label=2)
    model = model_for(loss, BatchNorm(), Dropout(0.4), Dense(4, bias=False), BatchNorm(), Tanh())
    training = Training(
        model,
        loss,
        rows_for(loss, 60, weighted=True),
        accumulate=accumulate,
        batch_size=32,
        steps=50,
    )
    # The first Dense is followed by tanh, so that no bias is without a gradient.
    assert_same_training(training, [4])


def test_batch_normalisation_of_more_axes():
    """The mean is over all axes but the last, and the ranks have different numbers of rows."""
    layers = [BatchNorm(), Tanh(), LAYERS["flatten"](), Dense(K)]
    model = Sequential(layers).build((2, 3, 2))
    loss = SoftmaxCrossEntropy()
    training = Training(model, loss, rows_for(loss, shape=(2, 3, 2)), batch_size=7)
    assert_same_training(training, [3])


@pytest.mark.parametrize(("n", "batch_size"), [(6, 3), (8, 5), (5, 4), (3, 1)])
@pytest.mark.parametrize("layers", [(), (BatchNorm(),)], ids=["", "batch norm"])
def test_ranks_without_rows(n, batch_size, layers):
    """Fewer rows than ranks, also in the last batch alone."""
    if layers and batch_size < 3:
        pytest.skip("a variance of one row has no meaning")
    loss = SoftmaxCrossEntropy()
    data = rows_for(loss, n)
    training = Training(model_for(loss, *layers), loss, data, batch_size=batch_size, steps=40)
    assert_same_training(training, [4])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_rank_whose_rows_do_not_count(reduction):
    """All rows of rank 1 are ignored, all of rank 2 weigh 0, and once there is no other row."""
    loss = SoftmaxCrossEntropy(reduction, ignore_label=2)
    data = rows_for(loss, 24)
    weight = np.ones(24)
    data.y[1::4], weight[2::4] = 2, 0.0
    data.y[12:] = 2
    training = Training(model_for(loss), loss, Data(data.x, data.y, weight), batch_size=12)
    assert_same_training(training, [4])


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize(
    ("layers", "parallel"),
    [((LayerNorm(), Dropout(0.3)), Parallel()), ((BatchNorm(),), ORDERED)],
    ids=["sum", "ordered"],
)
def test_every_backend(backend, layers, parallel):
    loss = SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 0.5))
    compiles = backend.jit_by_default  # also, one by one, the operations of each shape
    step, rows, steps = ("auto", 12, 2) if compiles else ("portable", 13, 4)
    for accumulate in (1,) if compiles else (1, 2):
        training = Training(
            model_for(loss, *layers), loss, rows_for(loss, 2 * rows), clip=Clip(norm=0.5),
            batch_size=rows, backend=backend, steps=steps, accumulate=accumulate, step=step,
            parallel=parallel,
        )  # fmt: skip
        _, wanted = training()
        for engine, found in on_ranks(3, training):
            compiled = backend.jit_by_default and BatchNorm() not in layers
            assert engine.step.kind == ("jit" if compiled else "portable")
            for name, value in wanted.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-13)


@pytest.mark.long_but(dtype=["float32"], accumulate=[2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ordered_sums_are_of_the_same_bits_on_any_number_of_ranks(dtype, accumulate):
    loss = MeanSquaredError()
    model = model_for(loss, BatchNorm(), Dropout(0.2))
    training = Training(
        model, loss, rows_for(loss, 31, weighted=True), clip=Clip(norm=0.3), steps=12,
        backend=make_backend("numpy", dtype), accumulate=accumulate,
        parallel=Parallel(reduce="ordered"),
    )  # fmt: skip
    states = [s for size in (1, 2, 3, 8) for _, s in on_ranks(size, training)]
    for state in states[1:]:
        assert all(np.array_equal(state[k], v) for k, v in states[0].items())
