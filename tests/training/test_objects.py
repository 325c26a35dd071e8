"""Interrupted anywhere, copied or pickled, a trainer goes on bit for bit; its settings stay."""

import copy
import inspect
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest
from conftest import AVAILABLE
from interruption import Interruption, interrupted

from xpnet import schedules
from xpnet.backends import Probe, get_backend
from xpnet.errors import BackendError, ConfigError, DataError, TrainingError, UnsupportedError
from xpnet.nn import BatchNorm, Dense, Dropout, Sequential, Tanh
from xpnet.optim.optimizers import Adam
from xpnet.parallel.settings import Parallel
from xpnet.training.callbacks import Callback
from xpnet.training.early_stopping import EarlyStopping
from xpnet.training.loader import Loader
from xpnet.training.trainer import Position, Trainer

LAYERS = (Dense(8), BatchNorm(), Tanh(), Dropout(0.3), Dense(3))
EXACT = ("epoch", "step", "lr", "loss", "accuracy", "val_loss", "val_accuracy")
STEPS = ["portable", "fused"]


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)), rng.integers(0, 3, n)


def made(step="portable", backend="numpy", **settings):
    plateau = schedules.Plateau(factor=0.5, patience=0, threshold=0.05)
    settings = {"batch_size": 16, "dtype": "float64", "optimizer": Adam(0.01)} | settings
    return Trainer(LAYERS, backend=backend, step=step, schedule=plateau, **settings)


def fit(trainer, *callbacks, epochs=3, data=None):
    watching = [EarlyStopping(9), *callbacks]
    trainer.fit(data or rows(50), epochs=epochs, validation=rows(20, 1), callbacks=watching)
    return trainer


def bits(trainer):
    tensors, meta = trainer.snapshot()
    history = [[record.get(name) for name in EXACT] for record in meta["history"]]
    exact = {name: tensor.tobytes() for name, tensor in tensors.items()}
    return exact, history, meta["position"], meta["schedule"]


# --------------------------------------------------------------------------------- interruption


def check_interruptions(step, event, times):
    whole = fit(made(step, threads=1))
    expected, draw = bits(whole), random.Random(f"{step} {event}")
    total = interrupted(partial(fit, made(step, threads=1)), -1, event)
    for at in sorted(draw.sample(range(1, total), times)):
        trainer = made(step, threads=1)
        assert interrupted(partial(fit, trainer), at, event) >= at
        if trainer.position.epoch < 3:  # else it came after the last epoch
            fit(trainer)
        assert bits(trainer) == expected, f"interrupted at {event} {at} of {total}"


@pytest.mark.parametrize("event", ["line", "opcode"])
@pytest.mark.parametrize("step", STEPS)
def test_a_training_interrupted_anywhere_goes_on_bit_for_bit(step, event):
    check_interruptions(step, event, 8)


@pytest.mark.long
@pytest.mark.parametrize("event", ["line", "opcode"])
@pytest.mark.parametrize("step", STEPS)
def test_a_training_interrupted_hundreds_of_times_goes_on_bit_for_bit(step, event):
    check_interruptions(step, event, 150)


def test_a_fit_with_all_its_options_interrupted_anywhere_goes_on_bit_for_bit():
    """What is learnt of the labels, held out, counted and watched is the same again."""
    x, y = rows(50)
    data = x, np.array(["c", "b", "a"])[y]

    def whole(trainer):
        own = {"mine": lambda y_true, y_pred: np.mean(y_true == y_pred)}
        options = {"validation_fraction": 0.2, "metrics": own, "epochs": 3}
        stopping = EarlyStopping(9, "mine", mode="max")
        return trainer.fit(data, early_stopping=stopping, **options)

    def again():
        return made(threads=1, class_weights={"a": 2.0})

    expected, draw = again(), random.Random("options")
    whole(expected)
    total = interrupted(partial(whole, again()), -1, "line")
    for at in draw.sample(range(1, total), 6):
        trainer = again()
        assert interrupted(partial(whole, trainer), at, "line") >= at
        if trainer.position.epoch < 3:
            whole(trainer)
            values = [record["val_mine"] for record in trainer.history]
            assert values == [record["val_mine"] for record in expected.history]
        assert trainer.classes == ("a", "b", "c")
        assert bits(trainer) == bits(expected), f"interrupted at {at} of {total}"


def test_the_end_of_an_epoch_is_all_done_or_all_undone():
    """Its record, the schedule's state and the totals are set one after the other."""
    expected = bits(fit(made(threads=1)))
    lines = interrupted(partial(fit, made(threads=1)), -1, "line", "_end_epoch")
    assert lines > 3 * 15
    for at in range(1, lines + 1):
        trainer = made(threads=1)
        assert interrupted(partial(fit, trainer), at, "line", "_end_epoch") == at
        if trainer.position.epoch < 3:
            fit(trainer)
        assert bits(trainer) == expected, f"interrupted at line {at} of {lines}"


# Python swallows what is raised within a destructor or a callback of its collector, and says so;
# a library that is interrupted may leave a file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("resident", [True, False])
def test_signals_at_random_times_cost_no_bit_and_no_step(step, resident):
    numpy = get_backend("numpy", dtype="float64")
    data = Loader(numpy, *rows(50), resident=resident)
    expected, draw = bits(fit(made(step, threads=1), epochs=6, data=data)), random.Random(step)
    trainer, came = made(step, threads=1), 0

    def interrupt(number, frame):
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            reached = trainer.position
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-4, 3e-3))
                fit(trainer, epochs=6, data=data)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interruption:
                came += 1
            assert trainer.position >= reached  # never a step back: signals wait for the step
            if trainer.position.epoch == 6:
                assert bits(trainer) == expected
                trainer = made(step, threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came
    if trainer.position.epoch < 6:
        fit(trainer, epochs=6, data=data)
    assert bits(trainer) == expected


class InStep(Callback):
    """Send signals to this process in the middle of a step."""

    def __init__(self, monkeypatch, at, times=1):
        self.at, self.times, self.monkeypatch = at, times, monkeypatch

    def on_train_begin(self, trainer):
        engine, whole = trainer.engine, trainer.engine.train

        def train(batch, inputs):
            cost = whole(batch, inputs)
            if inputs.step == self.at:
                for _ in range(self.times):
                    os.kill(os.getpid(), signal.SIGINT)
            return cost

        self.monkeypatch.setattr(engine, "train", train)


@pytest.fixture
def ctrl_c():
    """Let SIGINT interrupt, also where `nohup` or `&` have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_waits_for_the_step_and_a_second_one_does_not(monkeypatch, ctrl_c, step):
    expected = bits(fit(made(step)))
    for times, where in [(1, Position(1, 2, 6)), (2, Position(1, 0, 4))]:
        trainer = made(step)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            fit(trainer, InStep(patch, 5, times))
        assert trainer.position == where  # the second one goes back to the copy of the epoch
        assert isinstance(trainer.failed, KeyboardInterrupt)
        assert bits(fit(trainer)) == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.long_where(backend=["jax"])
def test_an_error_in_a_step_is_undone_on_every_backend(monkeypatch, backend):
    """In the middle of an update that may write over its state, or has handed it over."""
    expected = bits(fit(made("auto", backend, dtype=None)))
    trainer = made("auto", backend, dtype=None)

    class Breaks(Callback):
        def on_step_end(self, trainer):
            engine = trainer.engine
            if trainer.position.step != 6:
                return
            whole = engine.step.train

            def half(state, batch, inputs):
                whole(state, batch, inputs)
                raise MemoryError

            engine.step = engine.step._replace(train=half)

    with pytest.raises((MemoryError, RuntimeError)):
        fit(trainer, Breaks())
    assert trainer.position == Position(1, 0, 4)
    assert bits(fit(trainer)) == expected


@pytest.mark.parametrize("hook", ["on_train_begin", "on_step_end", "on_epoch_end", "on_train_end"])
@pytest.mark.parametrize("step", STEPS)
def test_an_error_of_a_callback_costs_nothing(step, hook):
    class Fails(Callback):
        calls = 0

    def fail(self, trainer, *record):
        self.calls += 1
        if self.calls == 2 or "train" in hook:
            msg = "planted"
            raise RuntimeError(msg)

    setattr(Fails, hook, fail)
    expected, trainer = bits(fit(made(step))), made(step)
    with pytest.raises(RuntimeError, match="planted"):
        fit(trainer, Fails())
    assert bits(fit(trainer)) == expected


def test_an_epoch_that_a_callback_missed_counts_for_its_early_stopping():
    class Fails(Callback):
        def on_epoch_end(self, trainer, record):
            if trainer.position.epoch == 2:
                msg = "planted"
                raise RuntimeError(msg)

    def stopping(*before):
        return [*before, EarlyStopping(2, min_delta=1e9)]

    whole, trainer = made(), made()
    whole.fit(rows(50), epochs=9, callbacks=stopping())
    with pytest.raises(RuntimeError, match="planted"):
        trainer.fit(rows(50), epochs=9, callbacks=stopping(Fails()))
    trainer.fit(rows(50), epochs=9, callbacks=stopping())
    assert bits(trainer) == bits(whole)
    assert trainer.stopped == whole.stopped == "no better loss for 2 epochs"


def test_handlers_are_as_they_were_and_a_new_one_stays():
    mine = []

    class Sets(Callback):
        def on_step_end(self, trainer):
            signal.signal(signal.SIGTERM, lambda *_: mine.append(1))

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        fit(made(), Sets())
        assert signal.getsignal(signal.SIGINT) is before[0]
        os.kill(os.getpid(), signal.SIGTERM)
        assert mine == [1]
    finally:
        signal.signal(signal.SIGTERM, before[1])


def test_another_thread_may_look_at_a_training_without_changing_it():
    expected, trainer, seen, done = bits(fit(made())), made(), [], threading.Event()

    def look():
        while not done.is_set():
            if trainer.position.step:
                seen.append(trainer.params["0.dense.W"].shape)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        fit(trainer)
    finally:
        done.set()
        thread.join()
    assert bits(trainer) == expected


# ---------------------------------------------------------------------------------------- copies

WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda trainer: pickle.loads(pickle.dumps(trainer)),
}
# What cannot run here is not collected, rather than each being skipped; pytest's summary says so.
EVERYWHERE = [
    *((step, "numpy") for step in STEPS),
    *(("auto", name) for name in ("torch", "array-api-strict") if name in AVAILABLE),
    *(pytest.param("auto", name, marks=pytest.mark.long) for name in ("jax",) if name in AVAILABLE),
    *((step, "cupy") for step in STEPS if "cupy" in AVAILABLE),
]


class Copies(Callback):
    """Copy the trainer after some steps, in the middle of ``fit``."""

    def __init__(self, copied, steps):
        self.copied, self.steps, self.copies = copied, steps, []

    def on_step_end(self, trainer):
        if trainer.position.step in self.steps:
            self.copies.append(self.copied(trainer))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("step", "backend"), EVERYWHERE)
def test_a_copy_goes_on_bit_for_bit_and_leaves_the_original_alone(step, backend, way):
    expected = bits(fit(made(step, backend)))
    steps = (6,) if backend == "jax" else (1, 4, 6)  # each copy compiles its steps for seconds
    trainer, copies = made(step, backend), Copies(WAYS[way], steps)
    copies.copies.append(WAYS[way](trainer))
    fit(trainer, copies, epochs=2)
    copies.copies.append(WAYS[way](trainer))
    for each in copies.copies:
        assert each.callbacks == []
        before = bits(trainer)
        assert bits(fit(each)) == expected
        assert bits(trainer) == before
    assert bits(fit(trainer)) == expected
    assert bits(WAYS[way](trainer)) == expected


@pytest.mark.long_but(step=["fused"])
@pytest.mark.parametrize(("step", "backend"), EVERYWHERE)
def test_a_pickle_goes_on_in_another_process(tmp_path, step, backend):
    expected = bits(fit(made(step, backend)))
    pickles = Copies(pickle.dumps, (6,))
    fit(made(step, backend), pickles)
    (tmp_path / "trainer").write_bytes(pickles.copies[0])
    code = """
import pickle, sys
from test_objects import bits, fit
with open(sys.argv[1] + "/trainer", "rb") as file:
    trainer = pickle.load(file)
with open(sys.argv[1] + "/bits", "wb") as file:
    pickle.dump(bits(fit(trainer)), file)
"""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    run = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(run, check=True, env={**os.environ, "PYTHONPATH": path})
    assert pickle.loads((tmp_path / "bits").read_bytes()) == expected


def test_a_copy_of_what_is_not_finite_or_only_restored_is_that():
    trainer, other = fit(made()), made()
    other.restore(*trainer.snapshot())
    assert bits(fit(copy.deepcopy(other), epochs=4)) == bits(fit(copy.copy(trainer), epochs=4))
    trainer.engine.set_state(trainer.engine.host_state()._replace(params=np.full(115, np.nan)))
    assert np.isnan(copy.deepcopy(trainer).params["0.dense.W"]).all()


def test_an_engine_is_copied_with_a_step_of_its_own_and_a_fused_step_is_not():
    trainer = fit(made("fused"))
    engine = copy.copy(trainer.engine)
    assert engine.step.train is not trainer.engine.step.train
    assert engine.tensors().keys() == trainer.engine.tensors().keys()
    with pytest.raises(UnsupportedError, match="copy the Trainer or the Engine"):
        copy.deepcopy(trainer.engine.step)


def test_a_backend_that_is_not_here_is_said_when_it_is_unpickled(monkeypatch):
    backend = get_backend("numpy")
    text = pickle.dumps(backend)
    monkeypatch.setattr(type(backend), "probe", classmethod(lambda cls: Probe("2", ("gpu",))))
    with pytest.raises(BackendError, match="no device 'cpu'; its devices: gpu"):
        pickle.loads(text)


# -------------------------------------------------------------------------------------- settings

SETTINGS = {
    "optimizer": Adam(0.1),
    "loss": "mean_squared_error",
    "model": Sequential([Dense(3)]),
    "schedule": schedules.Constant(),
    "clip": None,
    "mixed": None,
    "class_weights": "balanced",
    "step": "portable",
    "backend": "torch",
    "device": "cpu",
    "dtype": "float32",
    "batch_size": 8,
    "accumulate": 2,
    "seed": 1,
    "comm": None,
    "parallel": Parallel(reduce="ordered"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("step", STEPS)
def test_a_setting_that_would_have_no_effect_cannot_be_assigned(name, step):
    untouched, trainer = fit(made(step)), made(step)
    for epochs in (2, 3):  # before the first step, and after one
        with pytest.raises(ConfigError, match=rf"{name} is a setting.*Trainer\(\.\.\., {name}="):
            setattr(trainer, name, SETTINGS[name])
        fit(trainer, epochs=epochs)
    assert bits(trainer) == bits(untouched)


def test_every_setting_is_kept_but_the_threads():
    parameters = {*inspect.signature(Trainer).parameters} - {"unknown"}
    assert parameters == {*SETTINGS, "threads"}


@pytest.mark.parametrize("name", ["position", "history", "engine", "stopped", "callbacks", "fit"])
def test_what_training_changes_cannot_be_assigned(name):
    with pytest.raises(ConfigError, match=f"{name} of a trainer cannot be assigned"):
        setattr(made(), name, None)


def test_an_attribute_that_a_trainer_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="no attribute 'optimiser'; did you mean 'optimizer'"):
        made().optimiser = Adam(0.1)


@pytest.mark.parametrize("step", STEPS)
def test_parameters_are_read_only_and_may_be_assigned_by_name(step):
    trainer = fit(made(step))
    with pytest.raises(ValueError, match="read-only"):
        trainer.params["0.dense.W"][...] = 0
    with pytest.raises(TypeError):
        trainer.params["0.dense.W"] = np.zeros((6, 8))
    before, new = dict(trainer.params), np.arange(48).reshape(6, 8)
    trainer.params = {"0.dense.W": new}
    assert (trainer.params["0.dense.W"] == new).all()
    assert all((trainer.params[k] == v).all() for k, v in before.items() if k != "0.dense.W")
    other = made(step)
    other.fit(rows(50), epochs=1)
    other.params = trainer.params
    np.testing.assert_array_equal(other.predict(rows(9)[0]), trainer.predict(rows(9)[0]))


@pytest.mark.parametrize(
    ("some", "says"),
    [
        ({"0.dense.V": np.zeros((6, 8))}, "no parameter '0.dense.V'"),
        ({"0.dense.W": np.zeros((8, 6))}, r"shape \(6, 8\); got \(8, 6\)"),
        ({"0.dense.W": np.full((6, 8), np.nan)}, "must be finite"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(some, says):
    trainer = fit(made())
    before = bits(trainer)
    with pytest.raises(DataError, match=says):
        trainer.params = some
    assert bits(trainer) == before


# ------------------------------------------------------------------- before there is a training


def built():
    model, plateau = Sequential(LAYERS).build((6,)), schedules.Plateau()
    return Trainer(model, backend="numpy", dtype="float64", schedule=plateau)


@pytest.mark.parametrize("make", [made, built])
def test_nothing_is_predicted_before_there_is_anything_trained(make):
    trainer = make()
    for predict in (trainer.predict, lambda x: list(trainer.predictions(x))):
        with pytest.raises(TrainingError, match="nothing has been trained yet: the weights are"):
            predict(rows(9)[0])
    with pytest.raises(TrainingError, match="nothing has been trained yet"):
        trainer.evaluate(rows(9))
    restored = make()
    restored.restore(*fit(made()).snapshot())
    assert restored.predict(rows(9)[0]).shape == (9, 3)


def test_a_model_with_given_parameters_predicts_with_them():
    trainer, trained = built(), fit(made())
    assert set(trainer.params) == set(trained.params)  # B10: it is built, so there are some
    trainer.params = trained.params
    np.testing.assert_array_equal(trainer.predict(rows(9)[0]), trained.predict(rows(9)[0]))


@pytest.mark.parametrize("what", ["x", "weight"])
@pytest.mark.parametrize("resident", [True, False])
def test_what_is_not_finite_in_a_validation_is_data_that_is_refused(what, resident):
    (x, y), numpy = rows(20, 1), get_backend("numpy", dtype="float64")
    weight = np.ones(20)
    (x if what == "x" else weight)[17] = np.nan
    data = Loader(numpy, x, y, weight, resident=resident)
    wrong = "row 17 of x is not finite"
    if what == "weight":
        wrong = "sample weights must be finite and >= 0; that of row 17 is nan"
    trainer = made()
    with pytest.raises(DataError, match=f"^validation: {wrong}"):
        trainer.fit(rows(50), epochs=3, validation=data, callbacks=[EarlyStopping(1)])
    trainer.fit(rows(50), epochs=1)
    with pytest.raises(DataError, match=f"^{wrong}"):
        trainer.evaluate(data)
