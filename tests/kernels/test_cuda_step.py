"""The GPU's training step against the portable one on NumPy, for every layer, loss and rule.

Without a GPU the same kernel sources and the same step run on the CPU, with another executor. If
CuPy sees a GPU, every test with an ``executor`` runs there too, and counts for --min-gpu-tests.
"""

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import rules
from array_api_compat import array_namespace
from conftest import AVAILABLE, make_backend, ran
from cuda_on_cpu import CpuExecutor

from xpnet.errors import DataError, UnsupportedError
from xpnet.kernels.cuda import layer_operations, printed
from xpnet.kernels.cuda.buffers import arrays
from xpnet.kernels.cuda.executor import CupyExecutor
from xpnet.kernels.cuda.graphed_step import PROGRAMS, FusedStep
from xpnet.kernels.cuda.sources import MOST_RANDOM
from xpnet.kernels.formulas import activation, update
from xpnet.nn import (
    ACTIVATIONS,
    ELU,
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    Identity,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from xpnet.nn.layout import initialize
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Hinge,
    Huber,
    MeanSquaredError,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredHinge,
)
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import (
    SGD,
    Adam,
    RMSProp,
)
from xpnet.step import (
    Batch,
    Ordered,
    Rows,
    StepInputs,
    Totals,
    TrainState,
    dropout_keys,
    make_gradient,
    make_train_step,
    zero_totals,
)
from xpnet.step.microbatch import accumulated

KINDS = [cls for cls in ACTIVATIONS.values() if getattr(cls, "elementwise", False)]
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@cache
def on_gpu(dtype):
    backend = make_backend("cupy", dtype)
    return CupyExecutor(backend.device, dtype)


@pytest.fixture(params=["emulator", *(["cupy"] if "cupy" in AVAILABLE else [])])
def executor(request, dtype):
    """What runs the kernels: the emulator, and CuPy if there is a GPU."""
    if request.param == "emulator":
        yield CpuExecutor(dtype, request.getfixturevalue("folder"))
        return
    yield on_gpu(dtype)
    ran["cupy"] += 1


def first_state(model, optimizer, dtype):
    params, stats = (x.astype(dtype) for x in initialize(model, 0))
    return TrainState(params, stats, optimizer.init(params), zero_totals(params))


def inputs(step, model, optimizer):
    lr = optimizer.lr * 0.97**step  # different in every step
    keys = dropout_keys(0, step, model.n_random)
    return StepInputs(step, optimizer.coefficients(lr, step + 1), keys)


def placed(executor, arrays):
    """A named tuple of arrays, or of such tuples, on the executor's device."""
    if arrays is None:
        return None
    if isinstance(arrays, tuple):
        parts = [placed(executor, a) for a in arrays]
        return type(arrays)(*parts) if hasattr(arrays, "_fields") else tuple(parts)
    return executor.place(np.array(arrays))


def compare(executor, layers, shape, batches, loss, optimizer, clip=Clip(), **options):
    """Take the same steps both ways; return the fused step, and its last state on the host.

    With ``accumulate`` the portable step, too, accumulates over as many micro-batches.
    """
    model, dtype = Sequential(layers).build(shape), executor.dtype
    on_cpu = isinstance(executor, CpuExecutor)
    options = {"threads": 64 if on_cpu else 256} | options  # fewer take less time here
    fused = FusedStep(executor, model, loss, optimizer, clip, **options)
    gradient = make_gradient(model, loss)
    if (parts := options.get("accumulate", 1)) > 1:
        gradient = accumulated(gradient, parts, summed=loss.reduction == "sum")
    portable = make_train_step(model, loss, optimizer, clip, gradient)
    wanted = first_state(model, optimizer, dtype)
    state, costs = placed(executor, wanted), []
    for i, batch in enumerate(batches):
        state, cost = fused(state, placed(executor, batch), inputs(i, model, optimizer))
        keys = inputs(i, model, optimizer).keys
        expected = gradient(wanted.params, wanted.stats, batch, keys).gradient
        wanted, wanted_cost = portable(wanted, batch, inputs(i, model, optimizer))
        costs.append((cost, wanted_cost))
    tolerance = TOLERANCE[dtype]
    found, largest = executor.to_host(fused.gradient()), max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found / largest, expected / largest, **tolerance)
    for a, b in costs:  # only now: a returned loss must not change later
        np.testing.assert_allclose(executor.to_host(a), b, **tolerance)
    host = [executor.to_host(a) for a in arrays(state)]
    for a, b in zip(host, arrays(wanted), strict=True):
        size = np.abs(b).max(where=np.isfinite(b), initial=1.0)  # of moments it varies by rule
        np.testing.assert_allclose(a / size, b / size, **tolerance)
        assert a.dtype in (dtype, "int32")
    if on_cpu:
        executor.check_guards()
    slots = tuple(host[2 : 2 + len(state.slots)])
    return fused, TrainState(host[0], host[1], slots, Totals(*host[-5:]))


def class_batches(rng, dtype, rows, n=6, K=5, weights=False):
    for N in rows:
        weight = rng.uniform(0.5, 2.0, size=N).astype(dtype) if weights else None
        yield Batch(
            rng.normal(size=(N, n)).astype(dtype), rng.integers(0, K, N).astype("int32"), weight
        )


# -- layers ---------------------------------------------------------------------------------------

MODELS = {
    **{cls.__name__: [Dense(9), cls(), Dense(5)] for cls in KINDS},
    "leaky of slope 0.3": [Dense(9), LeakyReLU(0.3), Dense(5)],
    "elu of alpha 0.7": [Dense(9), ELU(0.7), Dense(5)],
    "one dense layer": [Dense(5)],
    "no biases": [Dense(9, bias=False), Tanh(), Dense(5, bias=False)],
    "dense after dense": [Dense(9), Dense(7, bias=False), Dense(5)],
    "two activations in a row": [Dense(9), Tanh(), ELU(), Dense(5)],
    "an activation at the end": [Dense(9), ReLU(), Dense(5), Tanh()],
    "an activation and dropout first": [Tanh(), Dropout(0.2), Dense(9), ReLU(), Dense(5)],
    "dropout everywhere": [Dropout(0.1), Dense(9), Dropout(0.6), ReLU(), Dropout(0.3), Dense(5)],
    "dropout at the end": [Dense(5), Dropout(0.3)],
    "identity at the end": [Dense(5), Identity()],
    "widths of 1": [Dense(1), ReLU(), Dense(1), Tanh(), Dense(5)],
    "wider than a block has columns": [Dense(70), ReLU(), Dense(33), Tanh(), Dense(5)],
    "batch norm": [Dense(9, bias=False), BatchNorm(), ReLU(), Dense(5)],
    "batch norm everywhere": [
        BatchNorm(momentum=0.3),
        Dense(40),
        BatchNorm(),
        Dense(5),
        BatchNorm(),
    ],
    "layer norm": [Dense(9), LayerNorm(), GELU(), Dense(5)],
    "layer norm everywhere": [
        LayerNorm(eps=0.1),
        Dense(40),
        Tanh(),
        LayerNorm(),
        Dense(5),
        LayerNorm(),
    ],
    "both norms in a row": [Dense(9), LayerNorm(), BatchNorm(), Sigmoid(), Dropout(0.2), Dense(5)],
    "only a norm": [Tanh(), LayerNorm(), Dropout(0.1)],
    "softmax inside": [Dense(9), Softmax(), Dense(5)],
    "log-softmax at the end": [Dense(40), LogSoftmax(), Dense(5), LogSoftmax(axis=1)],
}


@pytest.mark.long_but(dtype=["float64"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_steps_as_in_the_portable_step(name, executor, dtype, rng):
    batches = class_batches(rng, dtype, [11, 11, 11, 11, 3])
    lr = 0.02 if "norm" in name else 0.5  # rounding errors of a variance grow fast
    compare(executor, MODELS[name], (6,), batches, SoftmaxCrossEntropy(), SGD(lr))


NORMS = {"batch": [Dense(40), BatchNorm(), Tanh(), Dense(5), BatchNorm()],
         "layer": [Dense(40), LayerNorm(), ReLU(), Dense(5), LayerNorm(), Identity()]}  # fmt: skip


@pytest.mark.long_but(rows=[1, 257])
@pytest.mark.parametrize("rows", [1, 2, 255, 257, 600])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_of_one_row_and_of_several_patches_of_rows(norm, rows, executor, dtype, rng):
    batches = class_batches(rng, dtype, [rows] * 2)
    compare(executor, NORMS[norm], (6,), batches, SoftmaxCrossEntropy(), SGD(0.02))


@pytest.mark.long
@pytest.mark.parametrize("J", [1026, 1540])  # the first not in packs of float32
@pytest.mark.parametrize("layer", [LayerNorm, Softmax, LogSoftmax])
def test_long_rows_of_a_layer_have_a_block_each(layer, J, executor, dtype, rng):
    batches = class_batches(rng, dtype, [3, 3, 2])
    compare(executor, [Dense(J), layer(), Tanh(), Dense(5)], (6,), batches, SoftmaxCrossEntropy(),
            SGD(0.02))  # fmt: skip


@pytest.mark.parametrize("layer", [BatchNorm, LayerNorm, Softmax, LogSoftmax])
def test_rows_of_an_image_are_those_of_its_last_axis(layer, executor, dtype, rng):
    batches = [
        Batch(rng.normal(size=(4, 2, 7, 3)).astype(dtype), rng.integers(0, 5, 4).astype("int32"))
        for _ in range(4)
    ]
    layers = [layer(), Flatten(), Dense(5)]
    compare(executor, layers, (2, 7, 3), batches, SoftmaxCrossEntropy(), SGD(0.02))


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_far_from_zero_keeps_its_digits(norm, executor, dtype, rng):
    """The mean of the squares minus the square of the mean would have none left."""
    far = 1e3 if dtype == "float32" else 1e7
    batches = [b._replace(x=b.x + far) for b in class_batches(rng, dtype, [300])]
    layers = [BatchNorm() if norm == "batch" else LayerNorm(), Dense(5)]
    model = Sequential(layers).build((6,))
    fused = FusedStep(executor, model, SoftmaxCrossEntropy(), SGD(0.1), graph=False)
    first = first_state(model, SGD(), "float64")
    double = [Batch(b.x.astype("float64"), b.y) for b in batches]
    wanted, _ = make_train_step(model, SoftmaxCrossEntropy(), SGD(0.1))(
        first, double[0], inputs(0, model, SGD(0.1))
    )
    state = placed(executor, first_state(model, SGD(), dtype))
    state, _ = fused(state, placed(executor, batches[0]), inputs(0, model, SGD(0.1)))
    tolerance = 1e-3 if dtype == "float32" else 1e-8
    np.testing.assert_allclose(
        executor.to_host(state.params), wanted.params, rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(executor.to_host(state.stats), wanted.stats, rtol=tolerance)


def test_the_table_has_every_element_wise_activation():
    others = {"Softmax", "LogSoftmax", "PReLU"}  # the last one has a parameter, and no kernel
    assert {c.__name__ for c in ACTIVATIONS.values()} - others <= set(MODELS)


def test_blocks_are_as_large_as_on_a_gpu(executor, dtype, rng):
    """The other tests have small blocks, which take less time here."""
    batches = class_batches(rng, dtype, [90, 90, 90, 90], weights=True)
    layers = [Dense(9), Tanh(), Dropout(0.2), Dense(5)]
    compare(
        executor, layers, (6,), batches, SoftmaxCrossEntropy(), Adam(0.01),
        Clip(norm=0.1), threads=256,
    )  # fmt: skip


def test_images_are_flattened(executor, dtype, rng):
    batches = [
        Batch(rng.normal(size=(4, 2, 3)).astype(dtype), rng.integers(0, 5, 4).astype("int32"))
        for _ in range(4)
    ]
    layers = [Tanh(), Flatten(), Dense(5)]
    compare(executor, layers, (2, 3), batches, SoftmaxCrossEntropy(), SGD(0.5))


def test_many_rows_are_summed_by_several_blocks(executor, dtype, rng):
    batches = class_batches(rng, dtype, [300, 300])
    compare(executor, [Dense(9), Tanh(), Dense(5)], (6,), batches, SoftmaxCrossEntropy(), SGD(0.5))
    if isinstance(executor, CpuExecutor):
        assert executor.counts["column_sums"] == 2


@pytest.mark.parametrize("rows", [40, 300])
def test_a_lane_may_have_several_columns(rows, executor, dtype, rng, monkeypatch):
    """As for large matrices; 33 columns cannot be loaded in packs."""
    monkeypatch.setattr(layer_operations, "WIDE_FROM", 0)
    layers = [Dense(300), Tanh(), Dense(33), SiLU(), Dense(40), Dense(5)]
    batches = class_batches(rng, dtype, [rows] * 2)
    compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), SGD(0.1))


@pytest.mark.long_where(dtype=["float64"])
def test_values_far_from_zero_neither_overflow_nor_lose_a_nan(executor, dtype, rng):
    for kind, factor in itertools.product(KINDS, (1.0, 300.0)):
        batch = next(class_batches(rng, dtype, [8]))
        batch = batch._replace(x=batch.x * factor)
        layers = [Dense(9), kind(), Dense(5)]
        compare(executor, layers, (6,), [batch], SoftmaxCrossEntropy(), SGD(0.01))


@pytest.mark.long
def test_a_nan_propagates_through_every_activation_and_names_its_step(folder, rng):
    for kind in KINDS:
        batches = list(class_batches(rng, "float64", [4] * 5))
        batches[3].x[1, 2] = np.nan
        layers = [Dense(4), LayerNorm(), kind(), BatchNorm(), Dense(5)]
        _, state = compare(
            CpuExecutor("float64", folder), layers, (6,), batches, SoftmaxCrossEntropy(), SGD(0.1)
        )
        assert np.isnan(state.params).any()
        assert int(state.totals.bad_step) == 3


# -- losses ---------------------------------------------------------------------------------------

CLASS_WEIGHTS = (1.0, 2.0, 0.0, 0.5, 3.0)
CLASS_OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.2},
    "class weights": {"class_weights": CLASS_WEIGHTS},
    "ignoring": {"ignore_label": 2},
    "everything": {"label_smoothing": 0.1, "class_weights": CLASS_WEIGHTS, "ignore_label": -100},
}


@pytest.mark.long_but(reduction=["mean"], dtype=["float64"])
@pytest.mark.parametrize("reduction", ["mean", "mean_count", "sum"])
@pytest.mark.parametrize("weights", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("form", ["indices", "one-hot", "soft rows"])
@pytest.mark.parametrize("options", CLASS_OPTIONS)
def test_cross_entropy_in_every_form(options, form, weights, reduction, executor, dtype, rng):
    batches = []
    for batch in class_batches(rng, dtype, [9, 9], weights=weights):
        y = batch.y
        if form == "indices" and CLASS_OPTIONS[options].get("ignore_label") == -100:
            y[::3] = -100
        if form == "one-hot":
            y = np.eye(5, dtype=dtype)[y]
        if form == "soft rows":
            y = rng.uniform(size=(9, 5)).astype(dtype)
            y[0] = 0.0
        batches.append(batch._replace(y=y))
    loss = SoftmaxCrossEntropy(reduction=reduction, **CLASS_OPTIONS[options])
    compare(executor, [Dense(5)], (6,), batches, loss, SGD(0.1))
    loss = CrossEntropy(reduction=reduction, **CLASS_OPTIONS[options])
    compare(executor, [Dense(5), Softmax()], (6,), batches, loss, SGD(0.1))


@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("K", [1, 2, 31, 32, 33, 100])
def test_any_number_of_classes(K, rows, executor, dtype, rng):
    batches = class_batches(rng, dtype, [rows, rows], K=K)
    compare(executor, [Dense(4), ReLU(), Dense(K)], (6,), batches, SoftmaxCrossEntropy(), SGD(0.1))


@pytest.mark.long_where(dtype=["float32"])
@pytest.mark.parametrize("form", ["indices", "soft rows"])
@pytest.mark.parametrize("K", [1026, 1540, 8400])  # in packs where 4 divides K, the last not held
def test_a_block_for_each_row_of_many_classes(K, form, executor, dtype, rng):
    batches = list(class_batches(rng, dtype, [3, 3], K=K, weights=True))
    if form == "soft rows":
        batches = [b._replace(y=rng.uniform(size=(3, K)).astype(dtype) / K) for b in batches]
    weights = tuple(rng.uniform(size=K))
    compare(executor, [Dense(K)], (6,), batches, SoftmaxCrossEntropy(ignore_label=3), SGD(0.1))
    loss = SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=weights)
    compare(executor, [Dense(4), ReLU(), Dense(K)], (6,), batches, loss, SGD(0.1))
    loss = CrossEntropy(class_weights=weights)
    batches = [b._replace(x=0.1 * b.x) for b in batches]
    compare(executor, [Dense(K), Softmax()], (6,), batches, loss, SGD(1e-4))
    if isinstance(executor, CpuExecutor):
        packed = form == "indices" and K < 8192 and K % (16 // np.dtype(dtype).itemsize) == 0
        kernel = printed.labelled_rows(16, packed=True, block=True)
        assert (kernel.name in executor.launched) == packed


def test_a_batch_that_is_all_ignored_changes_nothing(executor, dtype, rng):
    batch = next(class_batches(rng, dtype, [5]))
    batch = batch._replace(y=np.full(5, 4, "int32"))
    loss = SoftmaxCrossEntropy(ignore_label=4)
    _, state = compare(executor, [Dense(5)], (6,), [batch], loss, SGD(0.1))
    assert float(state.totals.loss) == float(state.totals.denominator) == 0.0


def test_an_impossible_class_and_huge_logits_are_as_in_the_portable_loss(folder):
    """The output is a matrix of constants, by weights of an identity."""
    z = np.array([[0.0, -np.inf, 1.0], [1e4, 0.0, -1e4], [3.0, 3.0, 3.0]])
    loss, executor = SoftmaxCrossEntropy(), CpuExecutor("float64", folder)
    kernel_z, partial = executor.empty((3, 3), "float64"), executor.empty((1, 4), "float64")
    kernel_z[...] = z
    labels, cost = np.array([2, 0, 0], "int32"), np.zeros(1)
    totals = [np.zeros(()) for _ in range(4)] + [np.array(-1, "int32")]
    denominator, turns, step = np.zeros(1), np.zeros(1, "uint32"), np.array([7], "int32")
    columns, dbias = np.zeros((1, 3)), np.zeros(3)
    cost_at = np.array([cost.ctypes.data], "uint64")
    kernel = printed.cross_entropy(1, block=False)
    executor.launch(kernel, (1, 1), 64, kernel_z, None, kernel_z, labels, None,
                    None, None, 3, 3, 3, 1.0, 0.0, 0, 0, 0, columns, dbias, None, 1.0, partial, 0,
                    1, turns, None, 0, 1, denominator, *totals, step, cost_at, None)()  # fmt: skip
    sums = loss.sums(z, labels)
    np.testing.assert_allclose(totals[0], sums.loss, rtol=1e-14)
    np.testing.assert_allclose(cost, sums.loss / 3, rtol=1e-14)
    np.testing.assert_allclose(kernel_z, sums.gradient, rtol=1e-14)
    np.testing.assert_allclose(dbias, sums.gradient.sum(axis=0), rtol=0, atol=1e-15)
    assert totals[2] == loss.correct(z, labels)[0] == 3  # of equal logits the first counts
    assert totals[4] == (-1 if np.isfinite(sums.loss) else 7)


ROWS = {  # of 3 classes, the others impossible
    "ordinary": ([0.5, -1.0, 2.0], 2),
    "wrong": ([0.5, -1.0, 2.0], 0),
    "an impossible class": ([0.0, -np.inf, 1.0], 2),
    "an impossible label": ([0.0, -np.inf, 1.0], 1),
    "huge": ([1e4, 0.0, -1e4], 0),
    "equal, and the label is the first": ([3.0, 3.0, 3.0], 0),
    "equal, and the label is not": ([3.0, 3.0, 3.0], 1),
    "not a number": ([0.0, np.nan, 1.0], 1),
    "not a number, and the label comes later": ([0.0, np.nan, np.nan], 2),
    "no class is possible": ([-np.inf, -np.inf, -np.inf], 0),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_with_a_label_is_as_in_the_portable_loss(row, block, smoothing, folder):
    values, label = ROWS[row]
    K, loss = 66, SoftmaxCrossEntropy(label_smoothing=smoothing)
    z = np.full((1, K), -np.inf if smoothing == 0 else -3.0)
    z[0, [5, 37, 64]] = values  # of several lanes
    y = np.array([(5, 37, 64)[label]], "int32")
    executor = CpuExecutor("float64", folder)
    dz = executor.placed(z)
    totals = [np.zeros(()) for _ in range(4)] + [np.array(-1, "int32")]
    cost, denominator = np.zeros(1), np.zeros(1)
    executor.launch(printed.labelled_rows(8, packed=True, block=block), (1, 1), 64, dz, None, dz, y,
                    None, 1, K, K, 1.0 - smoothing, smoothing / K, 0, 0, None, None, None, 1.0,
                    np.zeros((1, 4)), 0, 1, np.zeros(1, "uint32"), None, 0, 1, denominator, *totals,
                    np.array([7], "int32"), np.array([cost.ctypes.data], "uint64"),
                    None)()  # fmt: skip
    executor.check_guards()
    with np.errstate(invalid="ignore"):
        sums, correct = loss.sums(z, y), loss.correct(z, y)[0]
    np.testing.assert_allclose(totals[0], sums.loss, rtol=1e-13)
    np.testing.assert_allclose(dz, sums.gradient, rtol=1e-12, atol=1e-15)
    assert (totals[2], totals[3]) == (correct, 1)
    assert totals[4] == (-1 if np.isfinite(sums.loss) else 7)


ELEMENTWISE = {
    "mse": MeanSquaredError,
    "huber": Huber,
    "huber of 0.3": lambda **k: Huber(delta=0.3, **k),
    "bce": BinaryCrossEntropy,
    "bce of 2.5": lambda **k: BinaryCrossEntropy(positive_weight=2.5, **k),
    "hinge": Hinge,
    "squared hinge": SquaredHinge,
}


@pytest.mark.long_but(reduction=["mean"])
@pytest.mark.parametrize("reduction", ["mean", "mean_count", "sum"])
@pytest.mark.parametrize("weights", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("columns", [None, 1, 3])
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_element_wise_losses(loss, columns, weights, reduction, executor, dtype, rng):
    batches = []
    for batch in class_batches(rng, dtype, [9, 9], weights=weights):
        y = rng.uniform(size=9 if columns is None else (9, columns)).astype(dtype)
        batches.append(batch._replace(y=y, x=4.0 * batch.x))
    layers = [Dense(columns or 1)]
    compare(
        executor, layers, (6,), batches, ELEMENTWISE[loss](reduction=reduction),
        SGD(0.01),
    )  # fmt: skip


@pytest.mark.parametrize("log_input", [True, False])
def test_a_loss_of_rates(log_input, executor, dtype, rng):
    batches = [b._replace(y=rng.poisson(2.0, size=9).astype(dtype))
               for b in class_batches(rng, dtype, [9, 9], weights=True)]  # fmt: skip
    layers = [Dense(1), *([] if log_input else [Softplus()])]
    compare(executor, layers, (6,), batches, Poisson(log_input=log_input), SGD(0.01))


def test_whole_number_targets_are_numbers_to_a_loss_of_values(executor, dtype, rng):
    batches = list(class_batches(rng, dtype, [9, 9]))
    compare(executor, [Dense(1)], (6,), batches, MeanSquaredError(), SGD(0.01))


# -- updates --------------------------------------------------------------------------------------

OPTIMIZERS = {
    **rules.RULES,
    "rmsprop, centered, momentum": RMSProp(0.01, centered=True, momentum=0.8),
    "adam": Adam(0.01),
}
CLIPS = {**rules.CLIPS, "value": Clip(value=0.05)}


@pytest.mark.long_but(clip=["both"], dtype=["float64"])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_rule_for_20_steps_with_dropout_and_ragged_batches(
    optimizer, clip, executor, dtype, rng
):
    rows = [12, 12, 12, 12, 5] * 4
    layers = [Dense(7), ReLU(), Dropout(0.3), Dense(5)]
    fused, _ = compare(
        executor, layers, (6,), class_batches(rng, dtype, rows),
        SoftmaxCrossEntropy(label_smoothing=0.1), OPTIMIZERS[optimizer], CLIPS[clip],
    )  # fmt: skip
    assert fused.note.startswith("CUDA graph of ")


def test_the_table_has_every_optimizer():
    from xpnet.optim.optimizers import OPTIMIZERS as ALL

    assert {type(o) for o in OPTIMIZERS.values()} == set(ALL.values())


# -- micro-batches --------------------------------------------------------------------------------

MICRO_BATCHED = {
    "dropout, uneven sizes": [Dense(9), Tanh(), Dropout(0.3), Dense(7, bias=False), Dense(5)],
    "norms": [LayerNorm(), Dense(9), BatchNorm(), ReLU(), Dense(5), LayerNorm()],
    "softmax, flatten": [Flatten(), Dense(5), Softmax()],
}


@pytest.mark.long_but(parts=[3], dtype=["float64"])
@pytest.mark.parametrize("reduction", ["mean", "mean_count", "sum"])
@pytest.mark.parametrize("parts", [2, 3, 40])
@pytest.mark.parametrize("name", MICRO_BATCHED)
def test_micro_batches_add_up_as_in_the_portable_step(name, parts, reduction, executor, dtype, rng):
    """With ignored labels, weights all 0 in some micro-batches, fewer rows than micro-batches."""
    batches = []
    for batch in class_batches(rng, dtype, [20, 20, 20, 20, 2], weights=True):
        weight = batch.weight * (np.arange(len(batch.y)) % 7 > 1)
        batches.append(batch._replace(weight=weight.astype(dtype)))
    kind = CrossEntropy if name.startswith("softmax") else SoftmaxCrossEntropy
    fused, _ = compare(
        executor, MICRO_BATCHED[name], (6,), batches, kind(reduction, ignore_label=2),
        SGD(0.02, momentum=0.5), Clip(norm=0.3), accumulate=parts,
    )  # fmt: skip
    assert fused.note.startswith("CUDA graph of ")


@pytest.mark.long_but(parts=[7])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_micro_batches_give_the_step_of_the_whole_batch(parts, executor, dtype, rng):
    batches = [Batch(b.x, b.y.astype(dtype), b.weight)
               for b in class_batches(rng, dtype, [600, 600, 600, 40], weights=True)]  # fmt: skip
    layers = [Dense(9), LayerNorm(), ReLU(), Dropout(0.3), Dense(1)]
    model, loss, optimizer = Sequential(layers).build((6,)), Huber(), Adam(0.01)
    whole, taken = (
        FusedStep(executor, model, loss, optimizer, accumulate=n, threads=64) for n in (1, parts)
    )
    a, b = (placed(executor, first_state(model, optimizer, dtype)) for _ in range(2))
    for i, batch in enumerate(batches):
        a, cost_a = whole(a, placed(executor, batch), inputs(i, model, optimizer))
        b, cost_b = taken(b, placed(executor, batch), inputs(i, model, optimizer))
        np.testing.assert_allclose(
            executor.to_host(cost_a), executor.to_host(cost_b), **TOLERANCE[dtype]
        )
    tolerance = {"float32": 2e-3, "float64": 1e-9}[dtype]  # Adam divides small numbers by small
    np.testing.assert_allclose(
        executor.to_host(a.params), executor.to_host(b.params), rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(
        executor.to_host(a.totals.loss), executor.to_host(b.totals.loss), rtol=1e-4
    )


def test_micro_batches_take_the_memory_of_one(folder, rng):
    sizes = {}
    for parts in (1, 4):
        executor = CpuExecutor("float32", folder)
        batches = class_batches(rng, "float32", [242])
        layers = [Dense(50), BatchNorm(), GELU(), Dropout(0.1), Dense(50), ReLU(), Dense(5)]
        compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), SGD(0.02), accumulate=parts)
        stored = [whole.nbytes for whole in executor.guarded if whole.size > 61 * 45]
        sizes[parts] = sum(stored[1:])  # the first is the gradient
    assert 0 < sizes[4] < 0.3 * sizes[1]


# -- order, graph, buffers ------------------------------------------------------------------------


ORDERED = {
    "norms": [
        *(Dense(40), BatchNorm(), Tanh(), LayerNorm(), Dropout(0.3), Dense(5), Softmax()),
        Dense(5),
    ],
    "packs": [Dense(300), Tanh(), Dense(40), Dense(1028)],
}


@pytest.mark.long_but(name=["packs"])
@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("dtype", ["float32"])
def test_no_bit_depends_on_the_order_of_threads_and_blocks(dtype, name, folder, monkeypatch):
    """A missing barrier, or two blocks that write to the same place, would make it depend on it."""
    monkeypatch.setattr(layer_operations, "WIDE_FROM", 0)
    results, norms = [], name == "norms"
    for order in (0, 1, 2, 3):
        executor = CpuExecutor(dtype, folder, order=order)
        rng = np.random.default_rng(5)
        batches = class_batches(rng, dtype, [300, 300, 40] if norms else [70], weights=True)
        loss = SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS if norms else None)
        _, state = compare(executor, ORDERED[name], (6,), batches, loss, SGD(0.02), Clip(norm=0.2))
        results.append(state)
    for other in results[1:]:
        assert other.params.tobytes() == results[0].params.tobytes()
        assert other.stats.tobytes() == results[0].stats.tobytes()
        assert other.totals.loss.tobytes() == results[0].totals.loss.tobytes()


PLANTED = {
    "no barrier before the sums are read": ("of_group[group][lane] = x;\n  __syncthreads();",
                                            "of_group[group][lane] = x;"),
    "no barrier before they are read by all": ("  __syncthreads();  // also: this use of of_group",
                                               "  //"),
    "no barrier between two uses": ("  warp_sums(x);\n  __syncthreads();  // the last use",
                                    "  warp_sums(x);\n  //"),
    "not all threads reach a barrier": ("  __syncthreads();  // also: the last",
                                        "  if (lane > 0) __syncthreads();  // the last"),
    "one row too many": ("int last = first + rows < N ? first + rows : N;",
                         "int last = first + rows;"),
    "no barrier between two rows": ("  __syncthreads();  // the last use of values is over\n", ""),
    "a column of a pack in another's place": ("j = (blockIdx.x * WARP + of) * V + v;",
                                              "j = (blockIdx.x * WARP + of) + v * WARP;"),
    "the first block is taken for the last": ("atomicInc(turns, others) == others",
                                              "atomicInc(turns, others) == 0"),
    "the last element is left out": ("return;\n  }\n  each<WIDE>(aligned(x) && aligned(y), n,",
                                     "return;\n  }\n  each<WIDE>(aligned(x) && aligned(y), n - 1,"),
}  # fmt: skip


@pytest.mark.long_but(bug=["one row too many"])
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug, folder, monkeypatch):
    """Guards, poison, other orders and missed barriers find the bugs of a kernel."""
    monkeypatch.setattr(layer_operations, "WIDE_FROM", 0)

    def run(order):
        executor = CpuExecutor("float64", folder, order=order, planted=PLANTED[bug])
        rng = np.random.default_rng(5)
        batches = class_batches(rng, "float64", [301, 71])
        layers = [Dense(9), BatchNorm(), Tanh(), Dropout(0.3), Dense(12), Tanh(), Dense(5)]
        compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), SGD(0.1))
        rows = Batch(rng.normal(size=(3, 6)), rng.uniform(size=(3, 1030)) / 1030)
        compare(executor, [Dense(1030)], (6,), [rows], SoftmaxCrossEntropy(), SGD(0.1))

        return executor.kernels.has_bug

    def run_in_every_order():
        for order in (0, 1, 2):
            if not run(order):
                pytest.fail("it was not planted")

    with pytest.raises(AssertionError):
        run_in_every_order()


def test_a_kernel_is_right_after_one_that_missed_a_barrier(folder, rng):
    """Its threads wait in the midst of the kernel; the next one begins at its own beginning."""
    bug = PLANTED["not all threads reach a barrier"]
    executor = CpuExecutor("float64", folder, planted=bug)
    with pytest.raises(AssertionError, match="a barrier is missed"):
        compare(
            executor, [Dense(9), BatchNorm(), Dense(5)], (6,), class_batches(rng, "float64", [301]),
            SoftmaxCrossEntropy(), SGD(0.1),
        )  # fmt: skip
    assert executor.kernels.has_bug
    test_a_kernel_is_right_on_any_grid(50, 256, 7, folder, rng)


@pytest.mark.parametrize("J", [7, 20])  # the second in packs
@pytest.mark.parametrize(("grid", "block"), [(1, 32), (1, 1024), (3, 64), (50, 256)])
def test_a_kernel_is_right_on_any_grid(grid, block, J, folder, rng):
    executor = CpuExecutor("float64", folder)
    x = {name: rng.normal(size=100 * J) for name in "zpgv"}
    z, p, g, v = (executor.placed(x[name]) for name in "zpgv")
    bias, a = executor.placed(rng.normal(size=J)), executor.empty((100 * J,), "float64")
    f = printed.activation("bias_activation", activation(SiLU()))
    executor.launch(f, (grid, 1), block, z, bias, a, 100, J)()
    np.testing.assert_allclose(z, x["z"] + np.tile(bias, 100), rtol=1e-15)
    np.testing.assert_allclose(a, z / (1 + np.exp(-z)), rtol=1e-13)
    partial, one, factor = executor.empty((grid,), "float64"), np.ones(1), np.zeros(1)
    turns = np.zeros(1, "uint32")
    clip = printed.clip_factor(Clip(norm=1.0))
    executor.launch(clip, (grid, 1), block, g, None, one, partial, turns, factor, g.size)()
    assert turns == 0
    np.testing.assert_allclose(factor, 1 / (np.linalg.norm(g) + 1e-6), rtol=1e-13)
    rule = printed.update(update(SGD(momentum=0.5), Clip(norm=1.0), divided=True), "SGD")
    c = np.array([0.1, *[0.0] * 7])
    for n in (g.size, g.size - 1):
        executor.launch(rule, (grid, 1), block, p, g, None, one, factor, None, None, c, n, v)()
        x["v"][:n] = 0.5 * x["v"][:n] + factor * g[:n]
        x["p"][:n] -= 0.1 * x["v"][:n]
        np.testing.assert_allclose(p, x["p"], rtol=1e-12)
        np.testing.assert_allclose(v, x["v"], rtol=1e-12)
    executor.launch("column_sums", (grid, 1), block, g.reshape(100, J), a[:J], 100, J, 0)()
    np.testing.assert_allclose(a[:J], g.reshape(100, J).sum(axis=0), rtol=1e-12)
    executor.check_guards()


def test_a_step_in_the_graph_launches_copies_and_reads_no_more_than_this(folder, rng):
    executor = CpuExecutor("float32", folder)
    layers = [Dense(7), ReLU(), Dropout(0.3), Dense(5)]
    batches = list(class_batches(rng, "float32", [12] * 10, weights=True))
    model = Sequential(layers).build((6,))
    fused = FusedStep(executor, model, SoftmaxCrossEntropy(), Adam(0.01))
    state = first_state(model, Adam(0.01), "float32")
    for i, batch in enumerate(batches):
        if i == 3:
            executor.counts.clear()
        state, _ = fused(state, batch, inputs(i, model, Adam(0.01)))
    per_step = {what: n / 7 for what, n in executor.counts.items()}
    # One launch for the batch, the numbers of the step and the dropout keys; then the graph.
    assert per_step == {"begin_step": 1, "replay": 1}
    assert len(fused.programs) == 1


def test_a_step_in_the_graph_neither_reads_on_the_host_nor_allocates(
    executor, dtype, rng, monkeypatch
):
    model, optimizer = Sequential([Dense(7), ReLU(), Dropout(0.3), Dense(5)]).build((6,)), Adam(0.1)
    fused = FusedStep(executor, model, SoftmaxCrossEntropy(), optimizer)
    state = placed(executor, first_state(model, optimizer, dtype))
    batches = [placed(executor, b) for b in class_batches(rng, dtype, [12] * 6)]
    for i, batch in enumerate(batches[:3]):
        state, _ = fused(state, batch, inputs(i, model, optimizer))
    assert fused.note.startswith("CUDA graph of ")

    def refuse(*given):
        pytest.fail("the step read on the host, placed from it, or allocated")

    with monkeypatch.context() as patched:
        for method in ("to_host", "place", "empty"):
            patched.setattr(executor, method, refuse)
        for i, batch in enumerate(batches[3:]):
            state, _ = fused(state, batch, inputs(3 + i, model, optimizer))
    assert float(executor.to_host(state.totals.counted)) == 6 * 12


@pytest.mark.long_where(dtype=["float64"])
@pytest.mark.parametrize("width", [8, 7])
def test_rows_and_several_steps_at_once_have_the_bits_of_the_steps(width, executor, dtype, rng):
    """More of it, on the emulator alone, is in test_cuda_at_once.py."""
    layers = [Dense(9, bias=False), BatchNorm(), Tanh(), Dropout(0.3), Dense(7), ReLU(), Dense(5)]
    data = next(class_batches(rng, dtype, [60], n=width, weights=True))
    order = rng.permutation(60).astype("int32")
    model, rule, results = Sequential(layers).build((width,)), Adam(0.05), []
    for way in ("gathered", "rows", "at once"):
        step = FusedStep(executor, model, SoftmaxCrossEntropy(), rule, threads=64)
        state, costs = placed(executor, first_state(model, rule, dtype)), []
        ordered = Ordered(placed(executor, data), executor.place(order))
        for first in range(0, 32, 4):
            rows = [Rows(ordered, 12 * k, 12 * k + 12) for k in range(4)]
            given = [inputs(first + k, model, rule) for k in range(4)]
            if way == "at once":
                state, cost = step.many(state, rows, given)
                costs += executor.to_host(cost).tolist()
                continue
            for batch, number in zip(rows, given, strict=True):
                state, cost = step(state, batch.gathered() if way == "gathered" else batch, number)
                costs.append(float(executor.to_host(cost)))
        assert step.note.startswith(f"CUDA graph of {'4 steps, ' * (way == 'at once')}")
        results.append((b"".join(executor.to_host(x).tobytes() for x in arrays(state)), costs))
    assert results[0] == results[1] == results[2]


def test_a_batch_in_another_dtype_or_layout_is_converted_first(executor, dtype, rng):
    other = "float64" if dtype == "float32" else "float32"
    batches = list(class_batches(rng, other, [12] * 5, weights=True))
    model, optimizer = Sequential([Dense(7), ReLU(), Dense(5)]).build((6,)), SGD(0.1)
    fused = FusedStep(executor, model, SoftmaxCrossEntropy(), optimizer, threads=64)
    portable = make_train_step(model, SoftmaxCrossEntropy(), optimizer)
    wanted = first_state(model, optimizer, dtype)
    state = placed(executor, wanted)
    for i, batch in enumerate(batches):
        given = placed(executor, batch._replace(x=batch.x.T.copy(), y=batch.y.astype("int64")))
        given = given._replace(x=given.x.T)
        state, _ = fused(state, given, inputs(i, model, optimizer))
        exact = Batch(batch.x.astype(dtype), batch.y, batch.weight.astype(dtype))
        wanted, _ = portable(wanted, exact, inputs(i, model, optimizer))
    np.testing.assert_allclose(executor.to_host(state.params), wanted.params, **TOLERANCE[dtype])
    assert fused.note.startswith("CUDA graph of ")


def test_the_work_of_a_step_does_not_grow(folder, rng):
    """With ten more launches per layer a step would be slower, but still correct."""
    executor = CpuExecutor("float32", folder)
    layers = [Dense(7), ReLU(), Dense(6), ReLU(), Dense(5)]
    fused, _ = compare(
        executor, layers, (6,), class_batches(rng, "float32", [12]), SoftmaxCrossEntropy(),
        Adam(0.01), graph=False,
    )  # fmt: skip
    (repeated,) = fused.programs.values()
    # products: 3 forward, 3 dW, 2 dx; then 2 bias + ReLU, loss, 2 backward, 1 update.
    assert executor.counts["product"] == 8
    assert len(repeated.program.calls) == 14
    assert fused.note == "eager: graphs are switched off"


def test_a_refused_capture_leaves_the_step_eager_and_says_why(folder, rng):
    executor = CpuExecutor("float64", folder, can_capture=False)
    batches = class_batches(rng, "float64", [8] * 6)
    fused, _ = compare(executor, [Dense(5)], (6,), batches, SoftmaxCrossEntropy(), Adam(0.01))
    assert fused.note == "eager: this executor was told not to"
    assert "replay" not in executor.counts


def test_a_replay_that_gives_other_bits_is_not_used(folder, rng):
    executor = CpuExecutor("float64", folder, corrupt_replay=True)
    batches = class_batches(rng, "float64", [8] * 6)
    fused, _ = compare(executor, [Dense(5)], (6,), batches, SoftmaxCrossEntropy(), Adam(0.01))
    assert fused.note == (
        "eager: the replayed graph and the eager step gave different numbers: "
        "210 of 219 words of the state differ"
    )
    assert executor.counts["replay"] == 1


def test_a_state_from_outside_is_adopted(folder, rng):
    """After a restore, or after the totals are zeroed, the graph must see the new state."""
    executor, optimizer = CpuExecutor("float64", folder), Adam(0.01)
    model = Sequential([Dense(5)]).build((6,))
    fused = FusedStep(executor, model, SoftmaxCrossEntropy(), optimizer)
    portable = make_train_step(model, SoftmaxCrossEntropy(), optimizer)
    state = first_state(model, optimizer, "float64")
    batches = list(class_batches(rng, "float64", [8] * 5))
    for i, batch in enumerate(batches):
        state, _ = fused(state, batch, inputs(i, model, optimizer))
    state = state._replace(totals=zero_totals(state.params))
    other = first_state(model, optimizer, "float64")._replace(params=state.params.copy() + 1.0)
    copy = other._replace(params=other.params.copy(), slots=optimizer.init(other.params))
    got, _ = fused(other, batches[0], inputs(9, model, optimizer))
    wanted, _ = portable(copy, batches[0], inputs(9, model, optimizer))
    np.testing.assert_allclose(got.params, wanted.params, rtol=1e-12)
    np.testing.assert_allclose(got.totals.loss, wanted.totals.loss, rtol=1e-12)


def test_only_so_many_batch_sizes_keep_their_buffers(folder, rng):
    executor = CpuExecutor("float64", folder)
    batches = class_batches(rng, "float64", [*range(1, 9), 1, 2, 3])
    fused, _ = compare(executor, [Dense(5)], (6,), batches, SoftmaxCrossEntropy(), SGD(0.1))
    assert len(fused.programs) == PROGRAMS


def test_targets_that_do_not_fit_raise_the_portable_error(folder, rng):
    model = Sequential([Dense(5)]).build((6,))
    fused = FusedStep(CpuExecutor("float64", folder), model, SoftmaxCrossEntropy(), SGD())
    state = first_state(model, SGD(), "float64")
    batch = Batch(rng.normal(size=(4, 6)), np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"the target must be \(4,\) class indices or \(4, 5\)"):
        fused(state, batch, inputs(0, model, SGD()))


@dataclass(frozen=True)
class Centred(SGD):
    """Gradient descent with the mean of the gradient removed: more than an element's."""

    def update(self, params, grad, slots, c):
        xp = array_namespace(grad)
        return params - c.step_size * (grad - xp.mean(grad)), slots


@pytest.mark.parametrize(
    ("layers", "loss", "optimizer", "reason"),
    [
        (
            [Dense(3), Softmax(axis=0)],
            MeanSquaredError(),
            SGD(),
            "softmax has no kernel: it calls max, which is not a function of one element",
        ),
        (
            [type("MyNorm", (LayerNorm,), {})()],
            MeanSquaredError(),
            SGD(),
            "MyNorm has no kernel: MyNorm is no Activation",
        ),
        ([Dense(3)], type("Mine", (SoftmaxCrossEntropy,), {})(), SGD(), "Mine has no kernel: it"),
        ([ReLU()], MeanSquaredError(), SGD(), "0 parameters and"),
        (
            [*[Dropout(0.1)] * (MOST_RANDOM + 1), Dense(3)],
            Huber(),
            SGD(),
            "65 layers that draw random",
        ),
        ([Dense(3)], MeanSquaredError("none"), SGD(), "the reduction 'none' has no kernel"),
        ([Dense(3)], Huber(), Centred(), r"Centred has no kernel: it calls mean"),
    ],
)
def test_what_has_no_kernel_is_named(layers, loss, optimizer, reason, folder):
    model = Sequential(layers).build((4,))
    with pytest.raises(UnsupportedError, match=reason):
        FusedStep(CpuExecutor("float64", folder), model, loss, optimizer)
