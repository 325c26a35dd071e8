"""The trainer against plain loops, itself resumed, and planted failures."""

import io
import itertools
import json
import math
import os
import re
import signal
from dataclasses import dataclass
from threading import Thread

import numpy as np
import pytest

from xpnet import schedules
from xpnet.backends import get_backend
from xpnet.errors import CheckpointError, ConfigError, DataError, TrainingError, XpnetWarning
from xpnet.nn import BatchNorm, Dense, Dropout, ReLU, Sequential, Softmax, Tanh
from xpnet.nn.initializers import Zeros
from xpnet.nn.layer import Layer
from xpnet.nn.layout import initialize
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from xpnet.optim.optimizers import OPTIMIZERS, SGD, Adam
from xpnet.random import generator
from xpnet.step import Batch, StepInputs, TrainState, dropout_keys, make_train_step, zero_totals
from xpnet.storage import CheckpointFolder, History
from xpnet.training.callbacks import Callback, HistoryFile, StopOnSignal
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.early_stopping import EarlyStopping
from xpnet.training.loader import Loader
from xpnet.training.progress import Progress
from xpnet.training.signals import SIGNALS
from xpnet.training.trainer import Position, Trainer

MODEL = (Dense(8), ReLU(), Dense(3))
FULL = (Dense(8), BatchNorm(), Tanh(), Dropout(0.3), Dense(3))
SIGNIFICANT = ("epoch", "step", "lr", "loss", "accuracy", "val_loss", "val_accuracy")


def classes(rows=50, seed=0):
    """Rows of 6 features in 3 classes that a line each nearly separates."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6))
    y = np.argmax(x @ rng.normal(size=(6, 3)) + 0.3 * rng.normal(size=(rows, 3)), axis=1)
    return x, y.astype(np.int32)


def trainer(model=MODEL, backend="numpy", **settings):
    settings = {"batch_size": 16, "dtype": "float64"} | settings
    return Trainer(model, backend=backend, **settings)


def state(trained):
    """Everything that must be the same after another way to the same step, comparable."""
    tensors, meta = trained.snapshot()
    history = [[r.get(name) for name in SIGNIFICANT] for r in meta["history"]]
    numbers = {name: (t.dtype, t.shape, t.tobytes()) for name, t in tensors.items()}
    return numbers, history, meta["position"], meta["schedule"]


def orders(rows, epochs, seed=0):
    return [generator(seed, "shuffle", epoch).permutation(rows) for epoch in range(epochs)]


class At(Callback):
    """Call ``action(trainer)`` after step ``step``, or after each step."""

    def __init__(self, action, step=None):
        self.action, self.step = action, step

    def on_step_end(self, trainer):
        if self.step in (None, trainer.position.step):
            self.action(trainer)


# ------------------------------------------------------------------------------------- training


@pytest.mark.long_where(backend32=["jax"])
def test_the_lines_of_the_readme_train_on_every_backend(backend32):
    x, y = classes()
    model = Sequential([Dense(256), ReLU(), Dense(10)])
    fresh = Trainer(model, "softmax_cross_entropy", "adam", backend=backend32)
    history = fresh.fit((x, y), epochs=30)
    probabilities = fresh.predict(x[:7])
    assert probabilities.shape == (7, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    assert history[-1]["loss"] < history[0]["loss"] / 2


def test_a_run_is_the_plain_loop_over_the_train_step():
    (x, y), epochs, size, seed = classes(50), 3, 16, 5
    optimizer, loss = Adam(0.01), SoftmaxCrossEntropy(label_smoothing=0.1)
    schedule = schedules.Cosine(warmup=0.2)
    run = trainer(FULL, loss=loss, optimizer=optimizer, schedule=schedule, seed=seed)
    run.fit((x, y), epochs=epochs)

    model = Sequential(FULL).build((6,))
    params, stats = initialize(model, seed)
    s = TrainState(params, stats, optimizer.init(params), zero_totals(params))
    step, t, per_epoch = make_train_step(model, loss, optimizer), 0, 4
    for order in orders(50, epochs, seed):
        for first in range(0, 50, size):
            rows = order[first : first + size]
            lr = schedule.lr({}, 0.01, t, epochs * per_epoch, per_epoch)
            inputs = StepInputs(t, optimizer.coefficients(lr, t + 1), dropout_keys(seed, t, 1))
            s, _ = step(s, Batch(x[rows], y[rows]), inputs)
            t += 1
    flat = np.concatenate([run.params[n].ravel() for n in run.params])
    # The gradient of a bias before batch normalisation is rounding alone, which Adam enlarges.
    wanted = np.concatenate([s.params, s.stats])
    np.testing.assert_allclose(flat, wanted, rtol=1e-9, atol=1e-8)
    assert run.position == Position(3, 0, 12)


@pytest.mark.long_where(backend32=["jax"])
def test_resident_and_prefetched_rows_give_the_same_bits(backend32):
    x, y = classes(50)
    w = np.linspace(0.5, 1.5, 50)
    states = []
    for resident in (True, False):
        run = trainer(FULL, backend32)
        loader = Loader(backend32, x, y, w, resident=resident)
        run.fit(loader, epochs=2, validation=Loader(backend32, x, y, resident=resident))
        states.append(state(run))
    assert states[0] == states[1]


def test_a_second_fit_goes_on_where_the_first_ended():
    twice, once = trainer(FULL), trainer(FULL)
    twice.fit(classes(), epochs=2)
    twice.fit(classes(), epochs=5)
    once.fit(classes(), epochs=5)
    assert state(twice) == state(once)
    before = state(once)
    with pytest.warns(XpnetWarning, match=r"all 5 epochs are done.* pass epochs=10 for 5 more"):
        once.fit(classes(), epochs=5)
    assert state(once) == before


def test_a_transform_acts_on_the_rows_of_either_feed():
    (x, y), states = classes(), []
    numpy = get_backend("numpy", dtype="float64")
    for resident in (True, False):
        run = trainer()
        run.fit(Loader(numpy, x, y, resident=resident, transform=lambda r: r / 2), epochs=1)
        states.append(state(run))
    halved = trainer()
    halved.fit((x / 2, y), epochs=1)
    assert states == [state(halved)] * 2


def test_rows_of_weight_zero_count_for_nothing():
    x, y = classes(40)
    weight = (np.arange(40) % 4 > 0).astype(float)
    some = weight > 0
    weighted, fewer = trainer(batch_size=40), trainer(batch_size=40)
    weighted.fit((x, y, weight), epochs=5)
    fewer.fit((x[some], y[some]), epochs=5)
    for name, value in fewer.params.items():
        np.testing.assert_allclose(weighted.params[name], value, rtol=1e-9, atol=1e-12)
    assert weighted.evaluate((x, y, weight)).loss == pytest.approx(
        fewer.evaluate((x[some], y[some])).loss
    )


def test_rows_of_the_ignored_label_count_for_nothing():
    x, y = classes(40)
    marked = np.where(np.arange(40) % 4 > 0, y, -1).astype(np.int32)
    some = marked >= 0
    ignoring = trainer(loss=SoftmaxCrossEntropy(ignore_label=-1), batch_size=40)
    fewer = trainer(batch_size=40)
    a = ignoring.fit((x, marked), epochs=5)
    b = fewer.fit((x[some], y[some]), epochs=5)
    for name, value in fewer.params.items():
        np.testing.assert_allclose(ignoring.params[name], value, rtol=1e-9, atol=1e-12)
    assert [r["accuracy"] for r in a] == [r["accuracy"] for r in b]


@pytest.mark.parametrize("backend_name", ["numpy", "torch", "array-api-strict"])
def test_what_a_loss_cannot_mean_is_refused_before_the_first_step(backend_name):
    module = {"array-api-strict": "array_api_strict"}.get(backend_name, backend_name)
    pytest.importorskip(module)
    x, y = classes(20)
    sides = np.where(y == 0, 1.0, -1.0)
    with pytest.raises(ConfigError, match="takes logits, not the outputs of softmax"):
        trainer((*MODEL, Softmax()), backend_name)
    run = trainer([Dense(1)], backend_name, loss=BinaryCrossEntropy())
    with pytest.raises(DataError, match="takes targets from 0 to 1"):
        run.fit((x, sides), epochs=1)
    with pytest.raises(DataError, match="takes targets from 0 to 1"):
        run.fit((x, np.maximum(sides, 0.0)), validation=(x, sides), epochs=1)
    with pytest.raises(DataError, match="sample weights must be finite and >= 0; that of row 0"):
        run.fit((x, np.maximum(sides, 0.0), sides - 1.0), epochs=1)
    assert run.position.step == 0
    run.fit((x, np.maximum(sides, 0.0)), epochs=1)
    with pytest.raises(DataError, match="takes targets from 0 to 1"):
        run.evaluate((x, sides))


def test_an_evaluation_in_which_no_row_counts_is_no_loss_of_0():
    run = trainer([Dense(3)], loss=SoftmaxCrossEntropy(ignore_label=2))
    x, y = classes(20)
    run.fit((x, y), epochs=1)
    with pytest.raises(DataError, match="labels are 2, the ignored one, so no row counts"):
        run.evaluate((x, np.full_like(y, 2)))


@pytest.mark.parametrize("step", ["portable", "fused"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loss_of_a_sum_is_the_sum_over_the_rows(step, accumulate):
    """Not over some batches of them: 2500 rows are evaluated in three, trained on in forty."""
    if step == "fused":
        pytest.importorskip("numba")
    if step == "fused" and accumulate > 1:
        step = "auto"
    x, y = classes(2500)
    settings = {"step": step, "accumulate": accumulate, "batch_size": 64}
    run = trainer([Dense(3)], loss=SoftmaxCrossEntropy("sum"), optimizer=SGD(1e-12), **settings)
    record = run.fit((x, y), epochs=1, validation=(x[:1500], y[:1500]))[-1]
    torch = pytest.importorskip("torch")
    W, b = (torch.tensor(run.params[f"0.dense.{name}"]) for name in "Wb")
    z = torch.asarray(x) @ W + b
    losses = torch.nn.functional.cross_entropy(z, torch.asarray(y).long(), reduction="none")
    assert record["loss"] == pytest.approx(float(losses.sum()), rel=1e-8)
    assert record["val_loss"] == pytest.approx(float(losses[:1500].sum()), rel=1e-8)
    assert run.evaluate((x[:1], y[:1])).loss == pytest.approx(float(losses[0]), rel=1e-8)


def test_softmax_then_cross_entropy_trains_like_the_two_in_one():
    joined, apart = trainer(MODEL), trainer((*MODEL, Softmax()), loss=CrossEntropy())
    joined.fit(classes(), epochs=3)
    apart.fit(classes(), epochs=3)
    x, _ = classes()
    np.testing.assert_allclose(joined.predict(x), apart.predict(x), rtol=1e-7)


@pytest.mark.long_where(backend=["jax"])
def test_a_regression_finds_the_line(backend):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.25
    run = trainer([Dense(1)], backend, loss=MeanSquaredError(), optimizer=SGD(0.1), batch_size=64)
    history = run.fit((x, y), epochs=100)
    assert history[-1]["loss"] < 1e-6
    assert "accuracy" not in history[-1]
    np.testing.assert_allclose(run.predict(x)[:, 0], y, rtol=0, atol=1e-2)
    np.testing.assert_allclose(run.params["0.dense.W"][:, 0], [1.0, -2.0, 0.5], rtol=0, atol=1e-2)


def test_two_classes_from_one_column():
    x, y = classes(80)
    y = (y == 0).astype(np.int32)
    run = trainer([Dense(1)], loss=BinaryCrossEntropy(), optimizer=Adam(0.1))
    history = run.fit((x, y), epochs=30)
    predicted = run.predict(x)
    assert predicted.shape == (80, 1)
    assert history[-1]["accuracy"] > 0.9
    assert run.evaluate((x, y)).accuracy == np.mean((predicted[:, 0] > 0.5) == y)


def test_what_one_has_written_oneself_is_trained_with():
    @dataclass(frozen=True)
    class Double(Layer):
        def forward(self, params, x, *, train=False, keys=None):
            return 2.0 * x, None

        def backward(self, params, residuals, dy, *, input_gradient=True):
            return 2.0 * dy, {}

    @dataclass(frozen=True)
    class Signs(SGD):
        def update(self, params, grad, slots, c):
            return params - c.step_size * np.sign(grad), slots

    @dataclass(frozen=True)
    class Halving(schedules.Schedule):
        def lr(self, state, base_lr, step, total_steps, steps_per_epoch):
            return base_lr / 2 ** (step // steps_per_epoch)

    @dataclass(frozen=True)
    class Tripled(SoftmaxCrossEntropy):
        def terms(self, output, target, weight=None):
            t = super().terms(output, target, weight)
            return t._replace(losses=3.0 * t.losses, gradient=3.0 * t.gradient)

    run = trainer([Double(), *MODEL], loss=Tripled(), optimizer=Signs(0.01), schedule=Halving())
    history = run.fit(classes(), epochs=3)
    assert [r["lr"] for r in history] == [0.01, 0.005, 0.0025]
    assert history[-1]["loss"] < history[0]["loss"]


# -------------------------------------------------------------------------------------- history


def test_a_record_says_what_the_epoch_was():
    x, y = classes(50)
    still = trainer(optimizer=SGD(1e-300), schedule="constant")
    (record,) = still.fit((x, y), epochs=1, validation=(x[:20], y[:20]))
    assert (record["epoch"], record["step"], record["lr"]) == (1, 4, 1e-300)
    whole, part = still.evaluate((x, y)), still.evaluate((x[:20], y[:20]))
    assert record["loss"] == pytest.approx(whole.loss, rel=1e-12)
    assert record["accuracy"] == whole.accuracy
    assert (record["val_loss"], record["val_accuracy"]) == (part.loss, part.accuracy)
    assert record["rows_per_second"] == pytest.approx(50 / record["seconds"])
    p = still.predict(x)
    assert whole.loss == pytest.approx(-np.mean(np.log(p[np.arange(50), y])))
    assert whole.accuracy == np.mean(p.argmax(axis=1) == y)


def test_a_record_has_the_learning_rate_of_its_own_last_step():
    run = trainer(schedule=schedules.Exponential(0.5), optimizer=SGD(0.1))
    assert [r["lr"] for r in run.fit(classes(), epochs=3)] == [0.1, 0.05, 0.025]


def test_early_stopping_stops_and_a_resumed_training_stays_stopped():
    def stopper():
        return EarlyStopping(2, "accuracy", min_delta=1e9)

    run = trainer()
    history = run.fit(classes(), epochs=9, validation=classes(seed=1), callbacks=[stopper()])
    assert len(history) == 3
    assert run.stopped == "no better accuracy for 2 epochs"
    resumed = trainer()
    resumed.restore(*run.snapshot())
    resumed.fit(classes(), epochs=9, validation=classes(seed=1), callbacks=[stopper()])
    assert resumed.stopped
    assert state(resumed) == state(run)


def test_early_stopping_watches_the_validation_and_waits_for_better():
    watcher, asked = EarlyStopping(2, min_delta=0.1), []

    class Stub:
        stop = asked.append

    for loss, stops in [(1.0, 0), (0.95, 0), (0.8, 0), (0.75, 0), (0.75, 1)]:
        watcher.on_epoch_end(Stub, {"loss": 0.0, "val_loss": loss})
        assert len(asked) == stops


def test_a_value_that_stays_the_same_is_no_better():
    watcher, asked = EarlyStopping(2), []

    class Stub:
        stop = asked.append

    for _ in range(3):
        watcher.on_epoch_end(Stub, {"loss": 1.0})
    assert len(asked) == 1


def validated(run, callbacks, epochs=9):
    run.fit(classes(), epochs=epochs, validation=classes(40, seed=1), callbacks=callbacks)
    return run


def test_early_stopping_begins_anew_with_each_training():
    one = EarlyStopping(2, min_delta=0.1)
    runs = [validated(trainer(seed=seed), [one]) for seed in (0, 1, 2, 0)]
    alone = [
        validated(trainer(seed=seed), [EarlyStopping(2, min_delta=0.1)]) for seed in (0, 1, 2, 0)
    ]
    assert [state(run) for run in runs] == [state(run) for run in alone]
    assert all(run.position.epoch > 1 for run in runs)


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_early_stopping_with_another_monitor_goes_on_as_if_it_had_been_that_one(monitor, after):
    other = {"loss": "accuracy", "accuracy": "loss"}[monitor]
    whole = validated(trainer(), [EarlyStopping(4, monitor, 0.02)])
    assert whole.stopped
    first = validated(trainer(), [EarlyStopping(4, other, 0.02)], epochs=after)
    assert first.stopped is None
    resumed = trainer()
    resumed.restore(*through_json(first.snapshot()))
    validated(resumed, [EarlyStopping(4, monitor, 0.02)])
    assert (state(resumed), resumed.stopped) == (state(whole), whole.stopped)


class Counting(Callback):
    """Remembers what does not follow from the history: how many steps it has seen, times n."""

    def __init__(self, n=1, stop=math.inf):
        self.n, self.stop, self.count = n, stop, 0

    def on_epoch_end(self, trainer, record):
        self.count += self.n
        if self.count >= self.stop:
            trainer.stop(f"{self.n} times")

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))][::5])
def test_the_order_and_the_number_of_callbacks_do_not_matter(tmp_path, order):
    """Each checkpoint has what all of them remember, of the epoch that has just ended."""

    def watching(folder):
        saving = Checkpointing(CheckpointFolder(tmp_path / folder), every_steps=3)
        all_ = [saving, EarlyStopping(3, min_delta=1e9), Counting(1, 3), StopOnSignal()]
        return [Counting(100), *(all_[i] for i in order)]

    whole, saved = trainer(), watching("whole")
    validated(whole, saved)
    assert whole.position.epoch == 3
    for epochs in (1, 2):
        folder = f"part{epochs}"
        validated(trainer(), watching(folder), epochs=epochs)
        found = CheckpointFolder(tmp_path / folder).newest()
        resumed, callbacks = trainer(), watching(folder)
        resumed.restore(found.tensors, found.meta)
        validated(resumed, callbacks)
        assert state(resumed) == state(whole)
        assert resumed.stopped == whole.stopped
        assert [c.count for c in callbacks if isinstance(c, Counting)] == [300, 3]


def test_a_snapshot_of_earlier_versions_has_the_states_by_class():
    run = validated(trainer(), [EarlyStopping(9), Counting()], epochs=2)
    tensors, meta = through_json(run.snapshot())
    assert meta["callbacks"] == {"EarlyStopping": {}, "Counting": {"count": 2}}
    meta["callbacks"]["EarlyStopping"] = {"best": 0.5, "waited": 7}
    del meta["monitor"]
    resumed, counting = trainer(), Counting()
    resumed.restore(tensors, meta)
    validated(resumed, [EarlyStopping(9), counting], epochs=3)
    assert state(resumed) == state(validated(run, [EarlyStopping(9)], epochs=3))
    assert counting.count == 3


def test_the_best_is_that_of_the_value_which_is_monitored_now(tmp_path):
    """The file that is there is compared with, by the new monitor's value of its epoch."""
    folder, run = CheckpointFolder(tmp_path, keep=1), trainer(optimizer=Adam(0.05))
    validated(run, [Checkpointing(folder, monitor="loss")], epochs=3)
    best = folder.best().meta["position"]["epoch"]
    resumed, saving = trainer(optimizer=Adam(0.05)), Checkpointing(folder, monitor="accuracy")
    resumed.restore(*through_json(run.snapshot()))
    validated(resumed, [saving], epochs=6)
    history = resumed.history
    for record in history[3:]:
        if record["val_accuracy"] > history[best - 1]["val_accuracy"]:
            best = record["epoch"]
    assert folder.best().meta["position"]["epoch"] == best
    assert saving.best == -history[best - 1]["val_accuracy"]
    new = Checkpointing(CheckpointFolder(tmp_path / "new"))
    validated(trainer(), [new], epochs=1)
    validated(trainer(seed=9), [saving], epochs=1)  # of another training: begins anew
    assert saving.best_step == new.best_step == 4


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize("epochs", [5, 40], ids=["to the last epoch", "until it stops"])
def test_the_weights_of_the_best_epoch_are_put_back(backend, epochs):
    """Those that a training has which is over at the best epoch, running statistics included."""
    options = {"backend": backend, "optimizer": Adam(0.1)}
    stopping = EarlyStopping(4, restore_best=True)
    run = validated(trainer(**options), [stopping], epochs=epochs)
    losses = [record["val_loss"] for record in run.history]
    best = 1 + losses.index(min(losses))
    assert best < len(losses)
    assert (run.stopped is not None) == (epochs == 40)
    until = trainer(**options)
    until.fit(classes(), epochs=best)
    for name, value in until.params.items():
        np.testing.assert_array_equal(run.params[name], value, err_msg=name)
    assert run.evaluate(classes(40, seed=1)).loss == pytest.approx(min(losses), rel=1e-6)
    validated(run, [stopping], epochs=epochs + 1)  # stopped still, or one more epoch


def test_weights_are_not_put_back_where_training_is_to_be_resumed():
    def run(*more, restore=True):
        made = trainer(optimizer=Adam(0.1))
        return validated(made, [EarlyStopping(30, restore_best=restore), *more], epochs=6)

    stopped = [At(lambda t: t.stop("enough"), step=18)]
    assert state(run(*stopped)) == state(run(*stopped, restore=False))
    assert state(run()) != state(run(restore=False))


def test_the_best_of_an_earlier_training_cannot_be_put_back():
    run = validated(trainer(optimizer=Adam(0.1)), [], epochs=3)
    for record in run.history:
        record["val_loss"] = 0.0
    with pytest.warns(XpnetWarning, match="the best loss was that of an earlier training"):
        validated(run, [EarlyStopping(9, restore_best=True)], epochs=4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patience": 0}, "patience must be >= 1; got 0"),
        ({"patience": 1, "monitor": "f1"}, "or a metric of your own; got 'f1'"),
        ({"patience": 1, "monitor": "val_loss"}, "monitor 'val_loss' is written 'loss'"),
    ],
)
def test_early_stopping_refuses_what_it_cannot_do(settings, says):
    with pytest.raises(ConfigError, match=says):
        EarlyStopping(**settings)


def test_a_regression_has_no_accuracy_to_watch():
    x, _ = classes()
    run = trainer([Dense(1)], loss=MeanSquaredError())
    with pytest.raises(ConfigError, match="no 'accuracy' to monitor"):
        run.fit((x, x[:, 0]), epochs=2, callbacks=[EarlyStopping(1, "accuracy")])


def test_a_plateau_lowers_the_learning_rate_by_what_is_validated():
    schedule = schedules.Plateau(factor=0.5, patience=1, threshold=0.99)
    run = trainer(schedule=schedule, optimizer=SGD(0.01))
    history = run.fit(classes(), epochs=6, validation=classes(seed=1))
    assert [r["lr"] for r in history] == [0.01, 0.01, 0.01, 0.005, 0.005, 0.0025]


def test_a_plateau_watches_the_validation_where_that_parts_from_the_training():
    x, y = classes()
    schedule = schedules.Plateau(factor=0.5, patience=1)
    run = trainer(schedule=schedule, optimizer=SGD(0.05))
    history = run.fit((x, y), epochs=6, validation=(x, (y + 1) % 3))  # gets worse as x, y improve
    losses, validation = ([r[k] for r in history] for k in ("loss", "val_loss"))
    assert losses == sorted(losses, reverse=True)
    assert validation == sorted(validation)
    assert [r["lr"] for r in history] == [0.05, 0.05, 0.05, 0.025, 0.025, 0.0125]


def test_a_plateau_of_the_accuracy_is_pytorchs():
    torch = pytest.importorskip("torch")
    settings = {"factor": 0.5, "patience": 0, "mode": "max"}
    run = trainer(schedule=schedules.Plateau(**settings), optimizer=SGD(0.05))
    history = validated(run, [], epochs=12).history
    rule = torch.optim.SGD([torch.zeros(1)], lr=0.05)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(rule, **settings, eps=0)
    expected = []
    for record in history:
        expected.append(rule.param_groups[0]["lr"])
        plateau.step(record["val_accuracy"])
    assert [r["lr"] for r in history] == expected
    assert 1 < len(set(expected)) < 12  # not that of the loss, which falls


def test_a_plateau_that_watched_something_else_begins_anew():
    run = validated(trainer(schedule=schedules.Plateau(patience=0)), [], epochs=3)
    other = schedules.Plateau(patience=0, monitor="accuracy")
    resumed = trainer(Sequential(MODEL).build((6,)), schedule=other)
    resumed.restore(*through_json(run.snapshot()))
    assert resumed.snapshot()[1]["schedule"] == other.init()
    same = trainer(Sequential(MODEL).build((6,)), schedule=schedules.Plateau(patience=0))
    same.restore(*through_json(run.snapshot()))
    assert state(same) == state(run)


def test_a_regression_has_no_accuracy_for_a_plateau():
    with pytest.raises(ConfigError, match="watches the accuracy, which a regression does not have"):
        trainer(loss=MeanSquaredError(), schedule=schedules.Plateau(mode="max"))


def test_a_finished_training_that_is_resumed_says_nothing():
    run = validated(trainer(), [], epochs=2)
    resumed = trainer()
    resumed.restore(*run.snapshot())
    validated(resumed, [], epochs=2)
    assert state(resumed) == state(run)
    with pytest.warns(XpnetWarning, match="nothing was trained, for all 2 epochs are done"):
        validated(resumed, [], epochs=1)


def test_a_snapshot_that_does_not_fit_changes_nothing():
    run, other = validated(trainer(), [], epochs=2), trainer((Dense(7), ReLU(), Dense(3)))
    before = state(validated(other, [], epochs=1))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        other.restore(*run.snapshot())
    assert state(other) == before


def test_a_callback_stops_the_training_after_the_step():
    run = trainer()
    run.fit(classes(), epochs=5, callbacks=[At(lambda t: t.stop("enough"), step=6)])
    assert (run.position, run.stopped, len(run.history)) == (Position(1, 2, 6), "enough", 1)
    resumed = trainer()
    resumed.restore(*run.snapshot())
    record = resumed.fit(classes(), epochs=2)[-1]  # of its 50 rows, 32 were trained on before
    assert record["rows_per_second"] == pytest.approx(18 / record["seconds"])


def test_a_stop_at_the_last_step_of_an_epoch_ends_the_epoch():
    run = trainer()
    run.fit(classes(), epochs=5, callbacks=[At(lambda t: t.stop("enough"), step=4)])
    assert (run.position, len(run.history)) == (Position(1, 0, 4), 1)


def test_every_callback_that_began_is_told_of_the_end_and_of_the_error():
    ends = []

    class Ends(Callback):
        def on_train_end(self, trainer):
            ends.append(trainer.failed)

    def fail(trainer):
        msg = "planted"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="planted"):
        trainer().fit(classes(), epochs=2, callbacks=[Ends(), At(fail, 3), Ends()])
    assert [str(e) for e in ends] == ["planted"] * 2


def test_plain_progress_tells_of_the_epochs_and_of_a_long_epoch(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("xpnet.training.progress.PLAIN_REFRESH", 0.0)
    data = classes(50)
    trainer().fit(data, epochs=2, validation=data, callbacks=[Progress(shown)])
    lines = shown.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *(f"epoch 1/2 batch {batch}/4" for batch in (1, 2, 3, 4)),
        "epoch 1/2",
        *(f"epoch 2/2 batch {batch}/4" for batch in (1, 2, 3, 4)),
        "epoch 2/2",
    ]
    means, left = r"loss \d\.\d{4}  accuracy \d\.\d{4}", r"\d:\d\d left"
    assert re.fullmatch(rf"epoch 1/2 batch 2/4  {means}  {left}", lines[1])
    means += r"  val_loss \d\.\d{4}  val_accuracy \d\.\d{4}"
    assert re.fullmatch(rf"epoch 1/2  {means} +[\d,]+ rows/s  {left}", lines[4])


def test_a_first_step_that_is_compiled_for_long_does_not_slow_the_pace(monkeypatch):
    """An hour for the first step, a second for each of the other 7 of 16 rows."""
    seconds, paces = [0.0], []
    monkeypatch.setattr("xpnet.training.progress.time.monotonic", lambda: seconds[0])
    update = "xpnet.training.progress._Bar.update"
    monkeypatch.setattr(update, lambda bar, *given: paces.append(given[2:]))
    tick = At(lambda t: seconds.__setitem__(0, 3599.0 + t.position.step))
    progress = Progress(io.StringIO(), live=True)
    trainer().fit(classes(64), epochs=2, callbacks=[tick, progress])
    assert paces[:3] == [(0.0, 0.0), (0.0, 0.0), (16.0, 6.0)]
    assert paces[-1] == (16.0, 0.0)


# -------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", [3, 4])
def test_a_signal_stops_after_the_step_and_the_rest_gives_the_same_bits(tmp_path, number, step):
    before = [signal.getsignal(s) for s in SIGNALS]
    saving = Checkpointing(CheckpointFolder(tmp_path))
    strike = At(lambda t: os.kill(os.getpid(), number), step)
    run, whole = trainer(FULL), trainer(FULL)
    run.fit(classes(), epochs=3, callbacks=[strike, StopOnSignal(), saving])
    assert run.position.step == step
    assert run.stopped == f"interrupted by {number.name}"
    assert [signal.getsignal(s) for s in SIGNALS] == before
    saved = saving.folder.newest()
    resumed = trainer(FULL)
    resumed.restore(saved.tensors, saved.meta)
    for each in (run, resumed, whole):
        each.fit(classes(), epochs=3)
    assert state(run) == state(resumed) == state(whole)


def test_training_in_a_thread_leaves_signals_alone():
    run = trainer()
    fit = {"epochs": 1, "callbacks": [StopOnSignal()]}
    thread = Thread(target=run.fit, args=(classes(),), kwargs=fit, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(run.history) == 1


# --------------------------------------------------------------------------------------- resume


def through_json(snapshot):
    tensors, meta = snapshot
    return {k: v.copy() for k, v in tensors.items()}, json.loads(json.dumps(meta))


def resumable(name, backend="numpy", **settings):
    """A run that keeps something everywhere: moments, statistics, masks, a plateau, a wait."""
    optimizer = OPTIMIZERS[name](**({"momentum": 0.9} if name in ("sgd", "rmsprop") else {}))
    schedule = schedules.Plateau(factor=0.5, patience=0, threshold=0.05)
    return trainer(FULL, backend, optimizer=optimizer, schedule=schedule, **settings)


def fit_watched(run, epochs=4, callbacks=()):
    watched = [EarlyStopping(2, min_delta=0.02), *callbacks]
    run.fit(classes(50), epochs=epochs, validation=classes(20, seed=1), callbacks=watched)
    return run


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resume_at_any_step_gives_the_same_bits(name):
    snapshots = []
    keep = At(lambda t: snapshots.append(through_json(t.snapshot())))
    whole = fit_watched(resumable(name), callbacks=[keep])
    assert len(snapshots) == whole.position.step
    for snapshot in snapshots:
        resumed = resumable(name)
        resumed.restore(*snapshot)
        assert state(fit_watched(resumed)) == state(whole)


@pytest.mark.long_where(backend32=["jax"])
@pytest.mark.parametrize("resident", [True, False])
def test_a_resume_gives_the_same_bits_on_every_backend(backend32, resident):
    x, y = classes(40)

    def run(snapshot=None, callbacks=()):
        made = resumable("adam", backend32)
        if snapshot:
            made.restore(*snapshot)
        loader = Loader(backend32, x, y, resident=resident)
        made.fit(loader, epochs=2, callbacks=callbacks)
        return made

    snapshots = []
    keep = At(lambda t: snapshots.append(through_json(t.snapshot())), step=2)
    whole = run(callbacks=[keep])
    assert state(run(snapshots[0])) == state(whole)


@pytest.mark.long_where(backend32=["jax"])
def test_a_run_of_one_backend_goes_on_with_another(backend32):
    snapshots = []
    keep = At(lambda t: snapshots.append(through_json(t.snapshot())), step=5)
    # Not Adam: before a batch norm a bias has the gradient 0, of which Adam follows the rounding.
    numpy = fit_watched(resumable("sgd", dtype="float32"), epochs=3, callbacks=[keep])
    moved = resumable("sgd", backend32)
    moved.restore(*snapshots[0])
    fit_watched(moved, epochs=3)
    for name, value in numpy.params.items():
        np.testing.assert_allclose(moved.params[name], value, rtol=1e-4, atol=1e-5)
    assert moved.history[-1]["val_loss"] == pytest.approx(numpy.history[-1]["val_loss"], rel=1e-4)


def test_a_snapshot_is_a_copy():
    run = trainer(FULL)
    run.fit(classes(), epochs=1)
    snapshot = run.snapshot()
    kept = through_json(snapshot)
    run.fit(classes(), epochs=3)
    assert snapshot[1] == kept[1]
    assert all((snapshot[0][name] == kept[0][name]).all() for name in kept[0])


@pytest.mark.parametrize("name", ["params/0.dense.W", "stats/1.batch_norm.var"])
def test_a_snapshot_that_is_not_finite_is_refused(name):
    run = trainer(FULL)
    run.fit(classes(), epochs=1)
    tensors, meta = run.snapshot()
    tensors[name].flat[0] = math.nan
    other = trainer(FULL)
    other.restore(tensors, meta)
    with pytest.raises(CheckpointError, match="values that are not finite"):
        other.fit(classes(), epochs=2)


def test_a_step_beyond_those_that_are_counted_is_refused():
    run = trainer()
    run.fit(classes(), epochs=1)
    tensors, meta = run.snapshot()
    meta["position"]["step"] = 2**31 - 1
    trainer().restore(tensors, meta)
    for step in (2**31, -1, 4.0, True):
        meta["position"]["step"] = step
        with pytest.raises(CheckpointError, match="invalid position"):
            trainer().restore(tensors, meta)


@pytest.mark.parametrize(
    "model", [(Dense(7), ReLU(), Dense(3)), (Dense(8), BatchNorm(), ReLU(), Dense(3))]
)
def test_a_snapshot_of_another_model_is_refused(model):
    run = trainer()
    run.fit(classes(), epochs=1)
    other = trainer(model)
    other.restore(*run.snapshot())
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* must have shape"):
        other.fit(classes(), epochs=2)


def test_a_snapshot_of_another_optimizer_is_refused():
    run = trainer(optimizer="sgd")
    run.fit(classes(), epochs=1)
    other = trainer(optimizer="adam")
    other.restore(*run.snapshot())
    with pytest.raises(CheckpointError, match=r"slots/m/0\.dense\.W must have shape"):
        other.fit(classes(), epochs=2)


def test_the_history_file_has_each_epoch_once_wherever_the_run_is_resumed(tmp_path):
    path = tmp_path / "history.jsonl"
    snapshots = []
    keep = At(lambda t: snapshots.append(through_json(t.snapshot())))
    whole = fit_watched(resumable("adam"), callbacks=[keep, HistoryFile(path)])
    for snapshot in snapshots:  # the file always holds the epochs after the snapshot as well
        resumed = resumable("adam")
        resumed.restore(*snapshot)
        fit_watched(resumed, callbacks=[HistoryFile(path)])
        epochs = [record["epoch"] for record in History(path).read()]
        assert epochs == [record["epoch"] for record in whole.history]
    path.unlink()
    resumed = resumable("adam")
    resumed.restore(*snapshots[-1])
    fit_watched(resumed, callbacks=[HistoryFile(path)])
    assert len(History(path).read()) == len(whole.history)


def test_training_goes_on_when_the_disk_is_full_and_writes_what_it_could_not(tmp_path, monkeypatch):
    full, said = [True], []

    def on_full_disk(function):
        def call(*args, **kwargs):
            if full[0]:
                msg = "cannot write x: No space left on device"
                raise CheckpointError(msg)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(History, "append", on_full_disk(History.append))
    folder = CheckpointFolder(tmp_path / "checkpoints")
    monkeypatch.setattr(folder, "save", on_full_disk(folder.save))
    free = At(lambda t: full.clear() or full.append(False), step=9)
    callbacks = [
        free,
        HistoryFile(tmp_path / "history.jsonl", said.append),
        Checkpointing(folder, report=said.append),
    ]
    run, undisturbed = trainer(), trainer()
    run.fit(classes(), epochs=4, callbacks=callbacks)
    undisturbed.fit(classes(), epochs=4)
    assert state(run) == state(undisturbed)
    assert [r["epoch"] for r in History(tmp_path / "history.jsonl").read()] == [1, 2, 3, 4]
    assert list(folder.steps()) == [12, 16]
    assert [line.partition(":")[0] for line in said] == [
        "history not written, training continues",
        "checkpoint not saved, training continues",
    ] * 2


def test_checkpoints_come_by_steps_by_time_and_at_the_end_of_epochs(tmp_path, monkeypatch):
    def saved_steps(**settings):
        steps = []
        folder = CheckpointFolder(tmp_path)
        monkeypatch.setattr(folder, "save", lambda step, *_, **__: steps.append(step))
        trainer().fit(classes(), epochs=2, callbacks=[Checkpointing(folder, **settings)])
        return steps

    assert saved_steps() == [4, 8]
    assert saved_steps(every_steps=3) == [3, 4, 6, 8]
    assert saved_steps(every_seconds=0.0) == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert saved_steps(every_seconds=1e9) == [4, 8]


def test_epochs_that_are_short_wait_for_the_next_save_and_are_not_lost(tmp_path, monkeypatch):
    """Here the second save of a training comes with its fourth epoch, and an error in the sixth."""
    folder, now = CheckpointFolder(tmp_path), [0.0]
    monkeypatch.setattr("xpnet.training.checkpointing.time.monotonic", lambda: now[0])
    saved, save = [], folder.save

    def recorded(step, *args, **options):
        saved.append((step, options.get("best", False)))
        return save(step, *args, **options)

    monkeypatch.setattr(folder, "save", recorded)

    class Clock(Callback):
        def on_epoch_end(self, trainer, record):
            now[0] += 4.0

        def on_step_end(self, trainer):
            if trainer.position.step == 23:
                raise OSError

    whole, run = (trainer(optimizer=Adam(0.05)) for _ in range(2))
    validated(whole, [Checkpointing(CheckpointFolder(tmp_path / "whole"))], epochs=7)
    with pytest.raises(OSError):
        validated(run, [Clock(), Checkpointing(folder, min_seconds=5.0)], epochs=7)
    losses = [record["val_loss"] for record in run.history]
    falls = [4 * (1 + i) for i in range(5) if losses[i] == min(losses[: i + 1])]
    newest_best = [max(step for step in falls if step <= end) for end in (8, 16, 20)]
    assert list(dict(saved)) == sorted({8, 16, 20, *newest_best})  # 20 after the error
    assert [step for step, best in saved if best] == sorted({*newest_best})
    found = folder.newest()
    assert found.meta["position"]["step"] == 20
    best = 4 * (1 + losses.index(min(losses)))
    assert folder.best().meta["position"]["step"] == best
    resumed = trainer(optimizer=Adam(0.05))
    resumed.restore(found.tensors, found.meta)
    validated(resumed, [Checkpointing(folder, min_seconds=5.0)], epochs=7)
    assert state(resumed) == state(whole)
    assert folder.newest().meta["position"]["step"] == 28


def test_the_best_epoch_is_kept_and_a_resumed_run_knows_it(tmp_path):
    x, y = classes()
    saving = Checkpointing(CheckpointFolder(tmp_path, keep=1), monitor="accuracy")
    run = trainer(optimizer=Adam(0.05))
    history = run.fit((x, y), epochs=6, validation=classes(seed=1), callbacks=[saving])
    accuracies = [r["val_accuracy"] for r in history]
    best = CheckpointFolder(tmp_path).best()
    assert best.meta["position"]["epoch"] == 1 + int(np.argmax(accuracies))
    again = Checkpointing(CheckpointFolder(tmp_path, keep=1), monitor="accuracy")
    resumed = trainer(optimizer=Adam(0.05))
    resumed.restore(*run.snapshot())
    resumed.fit((x, y), epochs=6, validation=classes(seed=1), callbacks=[again])
    assert again.best == saving.best == -max(accuracies)


# ------------------------------------------------------------------------- what is not finite


def failure(run, data, epochs=3):
    with pytest.raises(TrainingError, match="not finite") as caught:
        run.fit(data, epochs=epochs)
    return str(caught.value)


def where_is(row, epoch, rows=50, size=16):
    """The epoch and the step, counted from 1, in which a row is first seen."""
    order = list(orders(rows, epoch)[epoch - 1])
    return (
        f"epoch {epoch}, step {(epoch - 1) * math.ceil(rows / size) + order.index(row) // size + 1}"
    )


@pytest.mark.long_where(backend32=["jax"])
def test_an_infinite_feature_is_found_in_its_step(backend32):
    x, y = classes(50)
    x[37, 2] = np.inf
    message = failure(trainer(FULL, backend32), (x, y))
    assert where_is(37, 1) in message
    assert "first in the input batch" in message


@pytest.mark.parametrize("step", ["portable", "auto"])
def test_the_very_first_step_is_kept_though_later_ones_fail_as_well(step):
    x, y = classes(16)
    run = trainer(Sequential(MODEL).build((6,)), step=step)
    for number in range(3):
        inputs = StepInputs(number, run.optimizer.coefficients(0.1, number + 1))
        run.engine.train(Batch(x * math.nan, y), inputs)
    assert run.engine.read().bad_step == 0


@pytest.mark.parametrize("resident", [True, False])
def test_an_overflow_in_the_last_batch_of_the_epoch_is_found_there(resident):
    x, y = classes(50)
    x[orders(50, 1)[0][-1]] = 3e38  # finite, and its weighted sums are not
    numpy = get_backend("numpy", dtype="float32")
    message = failure(trainer(MODEL, numpy), Loader(numpy, x, y, resident=resident))
    assert "epoch 1, step 4 on; first in the output of layer 0 (dense)" in message


def test_a_gradient_that_overflows_is_blamed_and_not_the_step_after():
    x, y = np.ones((50, 1)), np.zeros(50)
    x[orders(50, 1)[0][-1]], y[orders(50, 1)[0][-1]] = 1e30, 1e18
    run = trainer([Dense(1, initializer=Zeros())], loss=MeanSquaredError(), dtype="float32")
    message = failure(run, (x, y))
    assert "epoch 1, step 4" in message
    assert "gradient of W of layer 0 (dense)" in message


def test_weights_that_an_update_spoilt_are_never_saved(tmp_path):
    x, y = classes(50)
    run = trainer(optimizer=SGD(1e39), dtype="float32")
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(TrainingError, match=r"step 2 on; first in parameter W of layer 0"):
        run.fit((x, y), epochs=3, callbacks=[Checkpointing(folder, every_steps=1)])
    assert folder.newest() is None


def test_a_learning_rate_that_is_too_high_is_told_at_the_step_of_a_plain_loop():
    x = np.random.default_rng(0).normal(size=(48, 4)) * 10
    y = x.sum(axis=1)
    optimizer, loss, size = SGD(1.0), MeanSquaredError(), 16
    model = Sequential([Dense(1)]).build((4,))
    params, stats = (v.astype(np.float32) for v in initialize(model, 0))
    s, t, bad = TrainState(params, stats, (), zero_totals(params)), 0, None
    step = make_train_step(model, loss, optimizer)
    with np.errstate(all="ignore"):
        for order in orders(48, 9):
            for first in range(0, 48, size):
                rows = order[first : first + size]
                batch = Batch(x[rows].astype(np.float32), y[rows].astype(np.float32))
                s, cost = step(s, batch, StepInputs(t, optimizer.coefficients(1.0, t + 1)))
                t += 1
                if bad is None and not np.isfinite(cost):
                    bad = t
    run = trainer([Dense(1)], loss=loss, optimizer=optimizer, dtype="float32")
    message = failure(run, (x, y), epochs=9)
    assert f"epoch {(bad - 1) // 3 + 1}, step {bad} on; first in the loss" in message


def test_the_failure_is_the_same_however_often_the_loss_is_read():
    x, y = classes(50)
    x[37, 2] = np.nan
    quiet, watched = trainer(FULL), trainer(FULL)
    expected = failure(quiet, (x, y))
    with pytest.raises(TrainingError) as caught:
        watched.fit((x, y), epochs=1, callbacks=[At(lambda t: t.read())])
    assert str(caught.value) == expected


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("y", "says"),
    [
        ([0, 1, 2, 1, 7], "the label of row 4 is 7; the model has classes 0..2"),
        ([0, -1, 2, 1, 0], "the label of row 1 is -1"),
        ([0.0, 1.0, 2.0, 1.0, 0.0], "class labels must be whole numbers 0..2; got float64"),
        ([0, 1], "x has 5, y has 2"),
        ([[0.1, 0.2, np.nan]] * 5, "the target of row 0 is not finite"),
    ],
)
def test_labels_are_checked_before_the_first_step(y, says):
    run = trainer()
    with pytest.raises(DataError, match=says.replace(".", r"\.")):
        run.fit((np.ones((5, 6)), np.array(y)), epochs=1)
    assert run.position == Position()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": "sofmax_cross_entropy"}, "did you mean 'softmax_cross_entropy'"),
        ({"loss": 3}, "loss must be a name"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"loss": SoftmaxCrossEntropy("none")}, "no single value"),
        ({"batch_size": 0}, "batch_size must be >= 1; got 0"),
        ({"seed": -1}, "seed must be >= 0; got -1"),
    ],
)
def test_settings_are_checked_at_once(settings, says):
    with pytest.raises(ConfigError, match=says):
        trainer(**settings)


def test_data_of_no_known_form_is_refused():
    x, y = classes()
    for data in (x, {"x": x, "y": y}, (x,), (x, y, y, y)):
        with pytest.raises(
            DataError, match=r"data must be \(x, y\), \(x, y, sample_weight\), a Loader"
        ):
            trainer().fit(data, epochs=1)
    run = trainer()
    run.fit((x, y), epochs=1)
    with pytest.raises(DataError, match=r"examples of shape \(6,\); got \(5,\)"):
        run.predict(x[:, :5])
    with pytest.raises(ConfigError, match="epochs must be >= 1"):
        run.fit((x, y), epochs=0)
    with pytest.raises(TrainingError, match="no sizes yet"):
        trainer().snapshot()
    with pytest.raises(DataError, match="need targets"):
        run.evaluate(Loader(run.backend, x))


@pytest.mark.parametrize("form", ["csr_matrix", "csc_array", "coo_array", "dok_array"])
def test_a_sparse_matrix_is_refused_by_name(form):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    x, y = getattr(sparse, form)(np.eye(6)), np.arange(6) % 2
    trainer = Trainer(Sequential([Dense(2)]), backend="numpy")
    trainer.fit((x.toarray(), y), epochs=1)
    for call in (lambda: trainer.fit((x, y), epochs=2), lambda: trainer.evaluate((x, y))):
        with pytest.raises(DataError, match=f"x is a sparse {form}; pass x.toarray"):
            call()
    with pytest.raises(DataError, match="x is a sparse"):
        trainer.predict(x)
