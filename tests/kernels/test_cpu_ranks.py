"""The compiled step of a batch that several ranks share: it is the step on the whole batch."""

from pathlib import Path

import numpy as np
import pytest
from array_api_compat import array_namespace
from real_ranks import run_script
from thread_ranks import ThreadComm, on_ranks

from xpnet.backends import get_backend
from xpnet.errors import BackendError
from xpnet.nn import (
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
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
    Poisson,
    SoftmaxCrossEntropy,
)
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.parallel import Share
from xpnet.parallel.settings import Parallel
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.training.engine import Engine

pytest.importorskip("numba", reason="the kernels are compiled by Numba: pip install '.[fast]'")

from xpnet.kernels.cpu.fused_step import FusedStep
from xpnet.kernels.operations import AllReduce

I, K = 6, 5  # noqa: E741 - features and classes
SIZES = 12, 11, 2, 12, 1, 7  # rows of the batches: uneven shares, and ranks that have none
RULE = SGD(0.1)
TOLERANCE = {"float64": 1e-12, "float32": 3e-5}


def labels(rng, n):
    return rng.integers(0, K, n).astype(np.int32)


def values(rng, n):
    return rng.random((n, K))


def batches(target, *, weighted, dtype, sizes=SIZES):
    rng = np.random.default_rng(1)
    for n in sizes:
        weight = rng.random(n).astype(dtype) if weighted else None
        y = target(rng, n)
        yield Batch(rng.standard_normal((n, I)).astype(dtype),
                    y if y.dtype == np.int32 else y.astype(dtype), weight)  # fmt: skip


def trained(comm, layers, loss=SoftmaxCrossEntropy(), rule=RULE, clip=Clip(), *,
            target=labels, weighted=False, dtype="float64", buckets=1, sizes=SIZES):  # fmt: skip
    """Take the steps of a rank, or those of a process alone; return what they came to."""
    model = Sequential(layers).build((I,))
    options = {} if comm is None else {"comm": comm, "parallel": Parallel(buckets=buckets)}
    backend = get_backend("numpy", dtype=dtype)
    engine = Engine(backend, model, loss, rule, clip, step="fused", **options)
    assert type(engine.step.train) is FusedStep
    costs, gradients = [], []
    for step, whole in enumerate(batches(target, weighted=weighted, dtype=dtype, sizes=sizes)):
        batch, rows = whole, None
        if comm is not None:
            rows = len(whole.x)
            at = Share(comm.rank, comm.size).positions(rows)
            batch = Batch(*(None if a is None else a[at] for a in whole))
        keys = dropout_keys(0, step, model.n_random)
        inputs = StepInputs(step, rule.coefficients(rule.lr, step + 1), keys, rows)
        costs.append(float(engine.train(batch, inputs)))
        if (gradient := engine.step.train.gradient()) is not None:
            gradients.append(np.array(gradient))
    state = engine.host_state()
    found = [state.params, state.stats, *state.slots, *state.totals, costs]
    return [np.array(a) for a in found], gradients, engine


def compare(n, *given, **options):
    """Train on n ranks and on none; return the engines of the ranks."""
    dtype = options.get("dtype", "float64")
    buckets = options.pop("buckets", 1)
    wanted, gradients, _ = trained(None, *given, **options)
    ranks = on_ranks(n, lambda comm: trained(comm, *given, buckets=buckets, **options))
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for found, of_rank, _ in ranks:
        for mine, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine, theirs, **close)
        for mine, theirs in zip(of_rank, gradients, strict=bool(gradients)):
            np.testing.assert_allclose(mine, theirs, **close)
        for mine, first in zip(found, ranks[0][0], strict=True):
            np.testing.assert_array_equal(mine, first)
    return [engine for _, _, engine in ranks]


DENSE = [Dense(8), GELU(), Dense(7), ReLU(), Dense(K)]


class Jump(SGD):
    """A rule that no kernel can be printed from."""

    def update(self, params, grad, slots, c):
        xp = array_namespace(params)
        return params - c.step_size * grad * xp.asarray(np.sign(2.0)), slots


@pytest.mark.parametrize("n", [2, 3, 4])
def test_ranks_take_the_step_of_the_whole_batch(n):
    compare(n, DENSE, rule=Adam(0.01), clip=Clip(norm=0.3, value=0.2))


@pytest.mark.long
def test_ranks_take_it_in_float32_too():
    compare(3, DENSE, rule=SGD(0.1, momentum=0.9), dtype="float32")


def test_descent_has_its_gradient_where_ranks_sum_it():
    compare(2, DENSE, rule=SGD(0.1))


WEIGHTS = (0.5, 1.0, 2.0, 0.25, 1.5)
OF_LABELS = {
    "mean": SoftmaxCrossEntropy(),
    "count": SoftmaxCrossEntropy("mean_count"),
    "sum": SoftmaxCrossEntropy("sum"),
    "class weights": SoftmaxCrossEntropy(class_weights=WEIGHTS),
    "ignored": SoftmaxCrossEntropy(ignore_label=1),
    "all": SoftmaxCrossEntropy(class_weights=WEIGHTS, ignore_label=1, label_smoothing=0.1),
}
OF_ROWS = {
    "softmax": SoftmaxCrossEntropy(label_smoothing=0.1),
    "squares": MeanSquaredError(),
    "squares, count": MeanSquaredError("mean_count"),
    "squares, sum": MeanSquaredError("sum"),
    "huber": Huber(),
    "binary": BinaryCrossEntropy(),
    "hinge": Hinge(),
    "poisson": Poisson(),
}


@pytest.mark.long_but(name=["sum", "all"])
@pytest.mark.parametrize("name", OF_LABELS)
def test_every_loss_of_labels_is_that_of_the_whole_batch(name):
    compare(3, DENSE, OF_LABELS[name], SGD(0.005, momentum=0.9), weighted=True)


@pytest.mark.long_but(name=["squares, count", "huber"])
@pytest.mark.parametrize("name", OF_ROWS)
def test_every_loss_of_rows_is_that_of_the_whole_batch(name):
    compare(3, DENSE, OF_ROWS[name], SGD(0.005, momentum=0.9), target=values, weighted=True)


def test_a_portable_loss_is_that_of_the_whole_batch():
    loss = CrossEntropy(class_weights=WEIGHTS, ignore_label=1)
    (engine, *_) = compare(3, [*DENSE, Softmax()], loss, SGD(0.01, momentum=0.9), weighted=True)
    assert "portable inside it: CrossEntropy" in engine.step.note


class OwnDropout(Dropout):
    """A layer that draws and has no kernel."""


@pytest.mark.parametrize(
    "layers",
    [[BatchNorm(), ReLU()], [Dropout(0.3)], [LayerNorm(), GELU()], [OwnDropout(0.3)]],
    ids=["batch norm", "dropout", "layer norm", "portable"],
)
def test_layers_see_the_whole_batch(layers):
    compare(4, [Dense(8), *layers, Dense(7), *layers, Dense(K)], rule=SGD(0.05, momentum=0.9))


def test_a_portable_rule_is_given_the_gradient_of_the_whole_batch():
    compare(3, DENSE, rule=Jump(0.1), clip=Clip(norm=0.3))


class _Late(ThreadComm):
    """A sum that is begun is taken when it is waited for."""

    def iallreduce(self, x):
        return lambda: self.allreduce(x)


@pytest.mark.parametrize("buckets", [2, 3, 100])
def test_buckets_do_not_change_a_bit(buckets):
    layers = [Dense(6), ReLU(), Dense(6), BatchNorm(), ReLU(), Dense(6), ReLU(), Dense(K)]
    given = layers, SoftmaxCrossEntropy(), Adam(0.01)
    wanted = on_ranks(3, lambda comm: trained(comm, *given)[0])[0]
    for form in (ThreadComm, _Late):
        results = on_ranks(
            3,
            lambda comm, form=form: trained(form(comm.rank, comm._shared), *given, buckets=buckets),
        )
        for found, _, engine in results:
            sums = [o for o in engine.step.train.plan.backward if isinstance(o, AllReduce)]
            assert len(sums) == min(buckets, 5)
            for mine, theirs in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_a_batch_that_no_row_counts_in_changes_nothing():
    def ignored(rng, n):
        return np.full(n, 1, np.int32)

    engines = compare(2, DENSE, SoftmaxCrossEntropy(ignore_label=1), target=ignored)
    assert all(float(e.state.totals.denominator) == 0.0 for e in engines)


def test_all_ranks_note_a_loss_that_is_not_finite_on_one():
    def exploding(rng, n):
        y = values(rng, n)
        if n == 11:  # the second batch
            y[4] = np.inf  # a row of rank 1
        return y

    alone = trained(None, DENSE, MeanSquaredError(), target=exploding)
    for found, _, engine in on_ranks(
        3, lambda comm: trained(comm, DENSE, MeanSquaredError(), target=exploding)
    ):
        assert engine.read().bad_step == alone[2].read().bad_step == 1
        assert np.isfinite(found[-1]).tolist() == np.isfinite(alone[0][-1]).tolist()


def test_the_phases_of_a_shared_step_have_the_sums_over_the_ranks():
    def phases(comm):
        _, _, engine = trained(comm, DENSE, buckets=2, sizes=(4,))
        (batch,) = batches(labels, weighted=False, dtype="float64", sizes=(2,))
        inputs = StepInputs(0, engine.optimizer.coefficients(0.1, 1), (), 4)
        engine.train(batch, inputs)
        found = engine.step.train.phases(batch, inputs)
        for phase in found.values():
            phase()
        return list(found)

    wanted = ["forward", "loss", "backward", "ranks", "optimizer"]
    assert on_ranks(2, phases) == [wanted, wanted]


def test_sums_in_order_take_the_portable_step():
    def steps(comm):
        model = Sequential(DENSE).build((I,))
        given = get_backend("numpy"), model, SoftmaxCrossEntropy(), SGD(0.1)
        options = {"comm": comm, "parallel": Parallel(reduce="ordered")}
        with pytest.raises(BackendError, match=r"no fused step.*reduce = 'ordered'"):
            Engine(*given, step="fused", **options)
        return Engine(*given, **options).step.note

    for note in on_ranks(2, steps):
        assert note.startswith("portable: reduce = 'ordered'")


@pytest.mark.long
def test_processes_take_the_step_of_the_whole_batch():
    folders = [str(Path(__file__).parents[1] / name) for name in ("kernels", "parallel")]
    done = run_script(
        2,
        f"""
        import sys
        sys.path[:0] = {folders}
        from test_cpu_ranks import *
        layers = [Dense(8), BatchNorm(), ReLU(), Dropout(0.2), Dense(7), ReLU(), Dense(K)]
        given = layers, SoftmaxCrossEntropy(), SGD(0.05, momentum=0.9), Clip(norm=0.3)
        wanted = trained(None, *given)[0]
        for buckets in (1, 2, 100):
            found = trained(comm, *given, buckets=buckets)[0]
            for mine, theirs in zip(found, wanted, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
        print("well")
        """,
    )
    assert (done.code, done.lines, done.err) == (0, ["well"] * 2, "")
