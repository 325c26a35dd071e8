"""What is computed for a backend is computed on its GPU, whichever is the thread's current one.

CuPy runs a kernel on the current device, wherever the arrays are. The stand-in of cupy_on_numpy.py
has two, and refuses a kernel on one for an array of the other.
"""

import threading

import cupy_on_numpy
import numpy as np
import pytest
from cupy_on_numpy import RefusedError, State

from xpnet.backends import get_backend
from xpnet.check.parity import parity
from xpnet.check.sample import Sample
from xpnet.errors import TrainingError
from xpnet.nn import BatchNorm, Dense, Dropout, ReLU, Sequential
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Adam
from xpnet.run.config_sources import load_config
from xpnet.step.mixed_precision import Mixed
from xpnet.training.callbacks import Callback
from xpnet.training.early_stopping import EarlyStopping
from xpnet.training.norms import Norms
from xpnet.training.trainer import Trainer

LAYERS = [Dense(6), BatchNorm(), ReLU(), Dropout(0.2), Dense(3)]


@pytest.fixture(autouse=True)
def two_gpus():
    with cupy_on_numpy.installed() as cupy:
        yield cupy
        assert State.device == 0  # nobody's current device has changed


@pytest.fixture
def data(rng):
    return rng.normal(size=(22, 4)), rng.integers(3, size=22), rng.uniform(0.5, 2.0, size=22)


def trainer(device, **settings):
    settings = {"batch_size": 8, "clip": Clip(norm=1.0, value=0.5)} | settings
    rule = Adam(0.01)
    return Trainer(
        LAYERS, optimizer=rule, backend="cupy", device=device, step="portable", **settings
    )


def results(t, data):
    """All that a trainer computes, by a way that each takes."""
    t.fit(data, epochs=2, validation=data, callbacks=[EarlyStopping(5), Norms()])
    state = t.snapshot()
    t.fit(data, epochs=3)
    t.restore(*state)
    t.fit(data, epochs=3)
    found = [t.evaluate(data).loss, t.predict(data[0]), *map(np.asarray, t.engine.host_state()[:2])]
    found += [g.get() for g in t.gradients(*data).values()]
    return [np.asarray(x).tobytes() for x in found]


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"mixed": Mixed("float16", 8.0)}])
def test_a_training_on_the_second_gpu_is_that_on_the_first(settings, data):
    assert results(trainer("cuda:1", **settings), data) == results(
        trainer("cuda:0", **settings), data
    )


def test_two_trainings_in_turn_do_not_take_each_others_gpu(data):
    alone = results(trainer("cuda:1"), data)
    other = trainer("cuda:0")

    class Between(Callback):
        def on_step_end(self, t):
            assert State.device == 1
            other.fit(data, epochs=other.position.epoch + 1)
            assert State.device == 1

    t = trainer("cuda:1")
    t.fit(data, epochs=1, callbacks=[Between()])
    assert other.position.epoch == 3
    t = trainer("cuda:1")
    trainer("cuda:0").fit(data, epochs=1)
    assert results(t, data) == alone


def test_a_training_in_another_thread_is_on_the_gpu_of_its_backend(data):
    """A thread begins with the first GPU as its current one."""
    t, found = trainer("cuda:1"), []
    thread = threading.Thread(target=lambda: found.append(results(t, data)))
    thread.start()
    thread.join()
    assert found == [results(trainer("cuda:1"), data)]


def test_predictions_that_are_taken_one_by_one_leave_the_callers_gpu(data):
    t = trainer("cuda:1")
    t.fit(data, epochs=1)
    rows = np.concatenate([data[0]] * 100)
    for part in t.predictions(rows):
        assert State.device == 0
        assert part.shape[1] == 3


def test_arrays_of_the_second_gpu_are_trained_on_there(two_gpus, data):
    with two_gpus.cuda.Device(1):
        placed = [two_gpus.asarray(v) for v in data]
    t = Trainer(LAYERS, step="portable", batch_size=8)
    t.fit(tuple(placed), epochs=1)
    assert t.backend.device_name == "cuda:1"


def test_what_is_not_finite_is_found_on_the_second_gpu(data):
    x = data[0].copy()
    x[3, 1] = np.inf
    with pytest.raises(TrainingError, match="not finite"):
        trainer("cuda:1").fit((x, data[1]), epochs=1)


def test_parity_compares_two_gpus(rng):
    config = load_config("digits", ["model.hidden=[6]", "batch_size=8", "step=portable"])
    x, y = rng.normal(size=(80, 5)), rng.integers(3, size=80).astype(np.int32)
    rows = Sample(config, config.model.model((5,), 3, config.loss), x, y, "80 drawn rows")
    backends = [get_backend("cupy", f"cuda:{i}", "float64") for i in (0, 1)]
    report = parity(config, backends, steps=3, rows=rows)
    assert [(r.faults, r.first_difference) for r in report.results] == [([], None)] * 2


def test_an_estimator_predicts_on_the_gpu_that_it_was_fitted_on(two_gpus, data):
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from xpnet.sklearn import XPNetClassifier

    x, y, _ = data
    made = XPNetClassifier(
        hidden_layer_sizes=(5,), max_iter=2, backend="cupy", device="cuda:1", random_state=0
    )
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        made.fit(x, y)
    assert made.predict(x).shape == (22,)
    assert made.predict_log_proba(x).shape == (22, 3)


def test_the_stand_in_has_the_trap(two_gpus, data):
    model = Sequential([Dense(2)]).build((4,))
    x = get_backend("cupy", "cuda:1").asarray(data[0])
    W = get_backend("cupy", "cuda:0").asarray(np.ones((4, 2)))
    with pytest.raises(RefusedError, match="an array of cuda:1 while cuda:0 is the current"):
        model.forward([{"W": W, "b": W[0]}], x)
