"""What an engine refuses of ranks, and what it says of the batch, the loss and the step."""

import copy
import importlib
import logging
from functools import partial

import numpy as np
import pytest
from conftest import make_backend
from shared_training import ORDERED, Training, assert_same_training, model_for, rows_for
from thread_ranks import on_ranks

from xpnet.errors import BackendError, ConfigError, DataError
from xpnet.nn import BatchNorm, Dense, Dropout, Layer, Sequential, Tanh
from xpnet.nn.losses import MeanSquaredError, SoftmaxCrossEntropy
from xpnet.parallel.settings import Parallel
from xpnet.step import Batch
from xpnet.step.mixed_precision import Mixed

LOSS = SoftmaxCrossEntropy()


def training_of(*layers, loss=LOSS, n=26, **options):
    return Training(model_for(loss, *layers), loss, rows_for(loss, n), **options)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("weight", [1.0, 1e-5])
def test_mixed_precision_has_the_scale_and_the_skipped_steps_of_one_process(weight, accumulate):
    """The first scale overflows; weights of any size leave gradients within 16 bits."""
    mixed = Mixed("float16", 2.0**22, growth=8 if accumulate == 1 else 100)
    training = training_of(BatchNorm(), backend=make_backend("numpy", "float32"), mixed=mixed,
                           accumulate=accumulate, steps=30)  # fmt: skip
    training.data = training.data._replace(weight=np.full(26, weight))
    _, wanted = training()
    assert wanted["skipped"] > 2
    states = [state for _, state in on_ranks(3, training)]
    for state in states:
        # A rank's part of a micro-batch may be beyond the range and the sum of the parts not.
        assert abs(state["skipped"] - wanted["skipped"]) <= accumulate - 1
        assert state["scale"][0] == wanted["scale"][0]
        if accumulate == 1:
            W = "params/0.dense.W"
            np.testing.assert_array_equal(state["scale"], wanted["scale"])
            np.testing.assert_allclose(state[W], wanted[W], rtol=0.0, atol=4e-3)
        assert all(np.array_equal(state[k], v) for k, v in states[0].items())


def test_a_step_in_16_bits_is_skipped_where_the_sum_is_beyond_them():
    """The parts of a gradient are within float16, and the whole one is not."""
    model = Sequential([Dense(1, bias=False)]).build((1,))
    training = Training(model, MeanSquaredError(), None, backend=make_backend("numpy", "float32"),
                        mixed=Mixed("float16", 1.0))  # fmt: skip
    training.data = rows_for(MeanSquaredError(), 4)._replace(
        x=np.full((4, 1), 40.0, np.float32), y=np.full((4, 1), -700.0, np.float32)
    )
    training.batch_size, training.steps = 4, 1
    _, alone = training()
    assert alone["skipped"] == 0
    training.data = training.data._replace(y=np.full((4, 1), -1000.0, np.float32))
    assert training()[1]["skipped"] == 1
    assert [state["skipped"] for _, state in on_ranks(4, training)] == [1] * 4


def test_a_shared_evaluation_has_the_numbers_of_all_rows():
    """Rank 2 has no rows."""
    training = training_of(n=17)
    loss = SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 0.5))
    training.given = (*training.given[:2], loss, *training.given[3:])
    cuts = [slice(0, 4), slice(4, 17), slice(17, 17)]

    def numbers(comm=None):
        engine = training.engine(comm)
        data = training.data if comm is None else training.data.rows(cuts[comm.rank])
        batches = [Batch(*data)] if len(data.x) else []
        return engine.evaluate(batches, shared=comm is not None)

    wanted = numbers()
    for found in on_ranks(3, numbers):
        assert found.loss == pytest.approx(wanted.loss, rel=1e-14)
        assert found[1:] == wanted[1:]


def test_a_shared_evaluation_without_a_row_that_counts_is_an_error_everywhere():
    def refused(comm):
        with pytest.raises(DataError, match="no row counts"):
            training_of().engine(comm).evaluate([], shared=True)

    on_ranks(2, refused)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"parallel": ORDERED}])
def test_the_gradient_of_a_step_is_that_of_the_whole_batch(options):
    training = training_of(BatchNorm(), Dropout(0.3), steps=1, **options)

    def gradient(comm=None):
        engine, _ = training(comm)
        before = training.engine(comm).state.params
        batch, inputs = training.batch(engine, 0)
        return engine.gradient_of_step(batch, inputs.keys, before, inputs.rows)

    wanted = gradient()
    for found in on_ranks(3, gradient):
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"parallel": ORDERED}])
@pytest.mark.parametrize("layers", [(), (BatchNorm(),)], ids=["", "batch norm"])
def test_all_ranks_name_the_first_array_that_is_not_finite(layers, options):
    training = training_of(*layers, **options)
    training.data.x[5, 0] = np.inf  # in the second half of a batch of 8, on one rank
    training.batch_size = 8

    def first(comm=None):
        engine = training.engine(comm)
        with np.errstate(all="ignore"):
            return engine.first_nonfinite(*training.batch(engine, 0))

    wanted = first()
    assert wanted.startswith("the input batch")
    assert on_ranks(3, first) == [wanted] * 3
    training.data.x[5, 0] = 0.0
    assert on_ranks(2, first) == [None] * 2


def test_what_is_shared_within_a_step_is_seen_nowhere_else():
    def names(comm):
        engine, state = training_of(BatchNorm(), steps=2)(comm)
        other = copy.deepcopy(engine.model)
        return repr(engine.model), engine.model.summary(), sorted(state), other == engine.model

    engine, state = training_of(BatchNorm(), steps=2)()
    wanted = repr(engine.model), engine.model.summary(), sorted(state), True
    assert on_ranks(2, names) == [wanted] * 2
    assert type(engine.model.layers[2]) is BatchNorm


class RowMean(Layer):
    """It takes the mean over the rows of a batch, and says nothing of other ranks."""

    fewest = 2

    def forward(self, params, x, *, train=False, keys=None):
        return x - x.mean(axis=0), None

    def backward(self, params, residuals, dy, *, input_gradient=True):
        return dy - dy.mean(axis=0), {}


class OtherBatchNorm(BatchNorm):
    pass


class SharedRowMean(RowMean):
    """It says how."""

    def shared(self, total):
        def centred(x):
            sums = total(np.append(x.sum(axis=0), len(x)))
            return x - sums[:-1] / sums[-1]

        layer = RowMean()
        vars(layer)["forward"] = lambda params, x, **options: (centred(x), None)
        vars(layer)["backward"] = lambda params, residuals, dy, **options: (centred(dy), {})
        return layer


def test_a_layer_that_says_how_it_is_shared_is_trained_by_the_portable_step():
    training = training_of(Tanh(), SharedRowMean(), Dense(4, bias=False), step="auto")
    assert_same_training(training, [3])
    assert "SharedRowMean sums over" in training.engine_of_two().step.note
    training.options["step"] = "fused"
    with pytest.raises(BackendError, match=r"no fused step .*SharedRowMean sums over"):
        training.engine_of_two()


@pytest.mark.parametrize("layer", [RowMean(), OtherBatchNorm()])
def test_a_layer_that_needs_all_rows_and_does_not_say_how_is_refused(layer):
    refused = "computes with all rows of a batch, .* define its method shared"
    assert training_of(layer, steps=1)()  # alone it may
    with pytest.raises(ConfigError, match=f"{type(layer).__name__} {refused}"):
        training_of(layer).engine_of_two()


def test_class_weights_that_are_still_to_be_counted_are_refused():
    with pytest.raises(ConfigError, match="still to be counted"):
        training_of(loss=SoftmaxCrossEntropy(class_weights="balanced")).engine_of_two()


def test_the_penalty_is_refused():
    with pytest.raises(BackendError, match=r"penalty alpha .*several processes: use the weight"):
        training_of(alpha=0.1).engine_of_two()


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_a_step_whose_layers_sum_over_ranks_is_not_compiled(name, caplog):
    pytest.importorskip(name, reason="it has a compiler")
    options = {"backend": make_backend(name), "parallel": Parallel()}
    with pytest.raises(BackendError, match=r"cannot be compiled: batch_norm sums .*'auto'"):
        training_of(BatchNorm(), step="jit", **options).engine_of_two()
    with caplog.at_level(logging.INFO, "xpnet"):
        chosen = training_of(BatchNorm(), step="auto", **options).engine_of_two().step
    assert chosen.kind == "portable"
    if name == "jax":
        assert "portable: batch_norm sums over" in chosen.note
        assert "batch_norm sums over" in caplog.text


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # those of PyTorch about itself
def test_a_compiled_step_is_shared(monkeypatch):
    """By PyTorch, in mixed precision; JAX compiles its step by default."""
    torch = pytest.importorskip("torch", reason="it has a compiler")
    # It traces, and leaves out the compiler of C++, which takes long.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    importlib.import_module("torch._dynamo")  # not by several threads at once
    backend, mixed = make_backend("torch", "float32"), Mixed("float16", 2.0**18)
    training = training_of(Dropout(0.2), backend=backend, step="jit", mixed=mixed,
                           batch_size=12, n=24, steps=3)  # fmt: skip
    _, wanted = training()
    for engine, state in on_ranks(2, training):
        assert engine.step.kind == "jit"
        for k, v in wanted.items():
            np.testing.assert_allclose(state[k], v, rtol=1e-2, atol=1e-2)
