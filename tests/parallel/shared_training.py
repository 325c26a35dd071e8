"""The same training on one process and on ranks that share its batches."""

from typing import NamedTuple

import numpy as np
from conftest import make_backend
from thread_ranks import on_ranks

from xpnet.nn import LAYERS, Dense, Sequential, Tanh
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD
from xpnet.parallel.settings import Parallel
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.training.engine import Engine

K = 3  # classes, or columns
ORDERED = Parallel(reduce="ordered", parts=4)


class Data(NamedTuple):
    """Rows of a training, on the host."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None = None

    def rows(self, of):
        return Data(*(None if a is None else a[of] for a in self))


def rows_for(loss, n=26, *, shape=(4,), weighted=False, seed=0):
    """Return rows for a model that ends in K outputs and for what the loss takes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *shape))
    y = rng.integers(K, size=n) if loss.predicts == "class" else rng.integers(2, size=(n, K)) * 1.0
    weight = rng.uniform(0.1, 3.0, size=n) * (np.arange(n) % 5 != 2) if weighted else None
    return Data(x, y, weight)


def model_for(loss, *layers, shape=(4,)):
    """Return a built model of these layers and of a last one, whose outputs the loss takes."""
    last = LAYERS[loss.output_layer]()
    return Sequential([Dense(5), Tanh(), *layers, Dense(K), last]).build(shape)


class Training:
    """A training of some steps: called with a communicator, it returns what has come of it."""

    def __init__(self, model, loss, data, rule=None, clip=Clip(), *, batch_size=13, steps=100,
                 backend=None, step="portable", **options):  # fmt: skip
        summed = loss.reduction == "sum"
        rule = rule or SGD(0.05 / batch_size if summed else 0.05, momentum=0.9)
        self.given = backend or make_backend("numpy"), model, loss, rule, clip
        self.options = {"step": step, **options}
        self.data, self.batch_size, self.steps = data, batch_size, steps

    def engine(self, comm):
        """Return the engine of a rank, or of a process alone, which has no parts."""
        if comm is None:
            alone = {k: v for k, v in self.options.items() if k != "parallel"}
            return Engine(*self.given, **{**alone, "step": "portable"})
        return Engine(*self.given, comm=comm, **self.options)

    def engine_of_two(self):
        """Return the engine of rank 0 of two, which takes no step."""
        return on_ranks(2, self.engine)[0]

    def batch(self, engine, t):
        """Return this rank's rows of the batch of step t, and what else the step is given."""
        n, size = len(self.data.x), self.batch_size
        starts = range(0, n, size)
        rows = np.arange(n)[starts[t % len(starts)] :][:size]
        own = self.data.rows(rows[engine.share.positions(len(rows))])
        keys = dropout_keys(7, t, engine.model.n_random)
        coefficients = engine.coefficients(engine.optimizer.lr, t + 1)
        shared = None if engine.share.is_whole else len(rows)
        place = engine.backend.asarray
        batch = Batch(*(None if a is None else place(a) for a in own))
        return batch, StepInputs(t, coefficients, keys, shared)

    def __call__(self, comm=None):
        engine, costs = self.engine(comm), []
        with np.errstate(all="ignore"):  # of 16 bits
            for t in range(self.steps):
                costs.append(engine.train(*self.batch(engine, t)))
        state = engine.tensors() | {"costs": np.array([*map(engine.backend.to_host, costs)])}
        return engine, state


def differences(wanted, found):
    """Return by how much each array is another one, relative to its largest number."""
    assert wanted.keys() == found.keys()
    return {
        k: float(np.max(np.abs(found[k] - v), initial=0.0) / (np.max(np.abs(v), initial=0.0) or 1))
        for k, v in wanted.items()
    }


def assert_same_training(training, sizes, tolerance=1e-12, *, without=()):
    """Train alone and on each number of ranks; all must come to the same, on every rank."""
    _, wanted = training()
    assert all(np.isfinite(v).all() for v in wanted.values())
    for size in sizes:
        states = [state for _, state in on_ranks(size, training)]
        for state in states[1:]:
            assert all(np.array_equal(state[k], v) for k, v in states[0].items())
        apart = differences(wanted, states[0])
        apart = {k: v for k, v in apart.items() if v > tolerance and k not in without}
        assert not apart, f"on {size} ranks: {apart}"
