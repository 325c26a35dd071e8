"""What cannot train is refused by name before the first step, and what may be meant is not."""

import math

import numpy as np
import pytest

import xpnet
from xpnet.errors import ConfigError, DataError
from xpnet.nn import (
    ACTIVATIONS,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    Identity,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Softplus,
    Tanh,
)
from xpnet.nn.activation import Activation
from xpnet.nn.fit import check_batches, check_output, check_reachable
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
from xpnet.parallel.share import micro_batch_rows

LAST = {name: cls() for name, cls in ACTIVATIONS.items()} | {"dense": None}
REAL = {"dense", "identity", "leaky_relu", "prelu"}
UPWARDS = {"relu", "softplus"}  # from 0 on
BOTH_SIGNS = {"tanh", "softsign", "gelu", "gelu_tanh", "silu", "elu", "selu", "celu", "mish"}
BOTH_SIGNS |= {"hard_swish", *REAL}
# Loss -> the last layers after which it means something.
MEANT = {
    SoftmaxCrossEntropy(): REAL | {"log_softmax"},
    BinaryCrossEntropy(): REAL,
    CrossEntropy(): {"softmax"},
    NegativeLogLikelihood(): {"log_softmax"},
    Hinge(): BOTH_SIGNS,
    SquaredHinge(): BOTH_SIGNS,
    Poisson(): REAL,
    Poisson(log_input=False): UPWARDS | {"sigmoid", "hard_sigmoid", "softmax"},
    MeanSquaredError(): set(LAST),
    Huber(): set(LAST),
}


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("loss", MEANT, ids=repr)
def test_a_loss_is_refused_after_a_layer_that_does_not_give_what_it_takes(loss, last):
    layer = LAST[last]
    model = Sequential([Dense(3), *([] if layer is None else [layer]), Dropout(0.1), Identity()])
    if last in MEANT[loss]:
        check_output(model, loss)
        check_output(model.build((2,)), loss)
        return
    with pytest.raises(ConfigError, match=loss.reason.split(",")[0].replace("(", r"\(")[:30]) as e:
        check_output(model, loss)
    shown = "dense" if last == "identity" else last
    assert f"not the outputs of {shown}" in str(e.value)
    assert "xpnet explain --loss" in str(e.value)


def test_every_loss_is_in_the_table():
    assert {type(loss) for loss in MEANT} == {c for n, c in LOSSES.items() if "own" not in n}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_the_bounds_of_an_activation_are_where_its_values_lie(name):
    layer = ACTIVATIONS[name]()
    if layer.passes or layer.bounds is None:
        return
    z = np.concatenate([np.linspace(-30, 30, 60_001), [-1e9, -1e3, 1e3, 1e9]]).reshape(1, -1)
    if not layer.elementwise if isinstance(layer, Activation) else False:
        z = np.array([[0.0, -1e3], [5.0, 5.0]])
    model = Sequential([layer]).build(z.shape[1:])
    params = [{k: np.full(v.shape, 0.25) for k, v in model.variables()[0].items()}]
    a = model.forward(params, z)[0]
    low, high = layer.bounds
    assert low <= a.min()
    assert a.max() <= high
    assert a.min() <= (low + 2e-3 if math.isfinite(low) else -1e2)
    assert a.max() >= (high - 2e-3 if math.isfinite(high) else 1e2)


def test_log_softmax_before_the_joined_loss_changes_nothing():
    z, y = np.random.default_rng(0).normal(size=(5, 3)), np.array([0, 1, 2, 1, 0])
    log_a = LogSoftmax().value(z)
    joined, dz = SoftmaxCrossEntropy()(z, y)
    apart, da = SoftmaxCrossEntropy()(log_a, y)
    assert joined == pytest.approx(apart, rel=1e-14)
    np.testing.assert_allclose(LogSoftmax().backward_value(da, log_a), dz, rtol=0, atol=1e-15)


def test_settings_of_a_layer_decide():
    logits = SoftmaxCrossEntropy()
    with pytest.raises(ConfigError, match="not the outputs of leaky_relu, which are at least 0"):
        check_output(Sequential([Dense(3), LeakyReLU(0.0)]), logits)
    with pytest.raises(ConfigError, match="probabilities, not the outputs of softmax"):
        check_output(Sequential([Dense(3), Softmax(axis=0)]), CrossEntropy())
    check_output(Sequential([Dense(3), PReLU()]), logits)
    check_output(Sequential([Dense(3), LayerNorm()]), logits)
    check_output(Sequential([Flatten()]), logits)  # the rows themselves are the logits


def test_one_output_is_not_enough_for_classes():
    model = Sequential([Dense(1)]).build((2,))
    with pytest.raises(ConfigError, match=r"the softmax of one number is 1: .* binary_cross"):
        check_output(model, SoftmaxCrossEntropy())
    check_output(model, BinaryCrossEntropy())
    with pytest.raises(ConfigError, match=r"outputs of shape \(3, 4\): end it with flatten"):
        check_output(Sequential([LayerNorm()]).build((3, 4)), SoftmaxCrossEntropy())


def test_the_loss_for_what_the_model_gives_is_named():
    for layer, loss, other in (
        (Softmax(), SoftmaxCrossEntropy(), "leave out the last softmax, or use cross_entropy"),
        (Softmax(), NegativeLogLikelihood(), "end the model with log_softmax.* use cross_entropy"),
        (LogSoftmax(), CrossEntropy(), "end the model with softmax.* use negative_log_likelihood"),
    ):
        with pytest.raises(ConfigError, match=other + "$"):
            check_output(Sequential([Dense(3), layer]), loss)


class Mine(Activation):
    """What nothing is known of."""

    def value(self, z):
        return z

    def backward_value(self, da, z):
        return da


class MyProbabilities(Mine):
    """What says what it gives."""

    bounds = 0.0, 1.0
    gives = "probabilities"


def test_what_one_has_written_oneself_is_refused_only_by_what_it_says():
    for loss in MEANT:
        check_output(Sequential([Dense(3), Mine()]), loss)
    check_output(Sequential([Dense(3), MyProbabilities()]), CrossEntropy())
    with pytest.raises(ConfigError, match="not the outputs of MyProbabilities"):
        check_output(Sequential([Dense(3), MyProbabilities()]), SoftmaxCrossEntropy())


@pytest.mark.parametrize(
    ("layer", "target", "message"),
    [
        (Sigmoid(), [0.0, 1.0, 0.5], None),
        (Sigmoid(), [0.0, 1.5], "row 1 is 1.5, but .*, sigmoid, are between 0 and 1: scale the"),
        (Tanh(), [-1.0, -3.0], "row 1 is -3.0, but .* between -1 and 1"),
        (ReLU(), [-0.5], "row 0 is -0.5, but .* at least 0"),
        (LogSoftmax(), [0.25], "row 0 is 0.25, but .* at most 0"),
        (Softplus(), [1e6], None),
        (Dense(1), [-1e6], None),
        (Mine(), [-1e6], None),
    ],
)
def test_targets_that_the_last_layer_cannot_reach(layer, target, message):
    model = Sequential([Dense(1), layer])
    check_reachable(model, SoftmaxCrossEntropy(), np.array(target))
    if message is None:
        check_reachable(model, MeanSquaredError(), np.array(target))
        return
    with pytest.raises(DataError, match=message):
        check_reachable(model, Huber(), np.array(target))
    y = np.array(target)
    trainer = xpnet.Trainer(model, MeanSquaredError(), backend="numpy")
    with pytest.raises(DataError, match=message):
        trainer.fit((np.ones((len(y), 2)), y), epochs=1)
    assert trainer.position.step == 0


def batch_norm_of_torch_takes(rows, batch_size, parts):
    """Train PyTorch's layer on every micro-batch: it raises for one row."""
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm1d(1)
    for start in range(0, rows, batch_size):
        n = min(batch_size, rows - start)
        for first, last in micro_batch_rows(n, parts):
            try:
                layer(torch.zeros(last - first, 1))
            except ValueError:
                return False
    return True


def test_batch_norm_is_given_two_rows_as_in_pytorch():
    model = Sequential([Dense(2), BatchNorm(), Dense(2)]).build((3,))
    without = Sequential([Dense(2), LayerNorm(), Dense(2)]).build((3,))
    for rows in range(1, 10):
        for batch_size in range(1, 11):
            for parts in (1, 2, 5):
                check_batches(without, rows, batch_size, parts)
                if batch_norm_of_torch_takes(rows, batch_size, parts):
                    check_batches(model, rows, batch_size, parts)
                    continue
                with pytest.raises(ConfigError, match="batch_norm needs two rows") as error:
                    check_batches(model, rows, batch_size, parts)
                remedy = error.value.python
                if remedy:
                    check_batches(model, rows, int(remedy.removeprefix("batch_size=")), parts)
                else:
                    assert "more rows" in str(error.value)
                    assert not any(
                        batch_norm_of_torch_takes(rows, b, parts) for b in range(1, rows + 1)
                    )


def test_batch_norm_of_more_than_a_vector_takes_a_single_row():
    check_batches(Sequential([BatchNorm(), Flatten(), Dense(2)]).build((3, 4)), 1, 1, 1)


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (65, {"batch_size": 64}, "65 rows in batches of 64 leave it one: batch_size=63"),
        (64, {"accumulate": 64, "batch_size": 64}, "in 64 micro-batches, leave it one"),
        (1, {}, "1 rows in batches of 128 leave it one: give it more rows"),
    ],
)
def test_a_batch_of_one_row_stops_before_the_first_step(rows, settings, message):
    trainer = xpnet.Trainer([Dense(2), BatchNorm(), Dense(2)], backend="numpy", **settings)
    with pytest.raises(ConfigError, match=message):
        trainer.fit((np.ones((rows, 3)), np.zeros(rows, int)), epochs=1)
    assert trainer.position.step == 0
