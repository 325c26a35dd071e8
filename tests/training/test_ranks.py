"""Several ranks against one process: the same training, and a stop, a check, an error for all."""

import copy
import json
import pickle
from collections import namedtuple
from threading import Thread

import numpy as np
import pytest
from numpy.testing import assert_allclose
from real_ranks import run_script
from thread_ranks import on_ranks

import xpnet
from xpnet.backends import get_backend
from xpnet.backends.numpy import NumpyBackend
from xpnet.errors import ConfigError, DataError, TrainingError, XpnetWarning
from xpnet.nn import BatchNorm, Dense, Dropout, ReLU, Tanh
from xpnet.optim.schedules import Plateau
from xpnet.parallel.settings import Parallel
from xpnet.storage import CheckpointFolder
from xpnet.training import placement
from xpnet.training.callbacks import MANY, Callback, HistoryFile
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.norms import Norms
from xpnet.training.trainer import Trainer

FULL = (Dense(8), Tanh(), BatchNorm(), Dropout(0.3), Dense(3))
ORDERED = Parallel(reduce="ordered", parts=4)
RTOL = 1e-10


def classes(rows=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6))
    y = np.argmax(x @ rng.normal(size=(6, 3)) + 0.3 * rng.normal(size=(rows, 3)), axis=1)
    return x, y.astype(np.int32)


def weighted(rows=56):
    return *classes(rows), np.random.default_rng(1).random(rows)


def made(comm=None, model=FULL, **settings):
    settings = {"batch_size": 16, "dtype": "float64", "backend": "numpy"} | settings
    settings = {"step": "portable", "class_weights": "balanced"} | settings
    return Trainer(model, comm=comm, **settings)


def numbers(history):
    """The records, without what depends on the clock."""
    clock = ("seconds", "rows_per_second")
    return [{k: v for k, v in record.items() if k not in clock} for record in history]


def assert_same(a, b, rtol=RTOL):
    """The trainers have the same history and state, but for rounding; without rtol, the bits."""
    close = {"rtol": rtol, "atol": rtol}
    if not rtol:
        assert numbers(a.history) == numbers(b.history)
    for one, other in zip(numbers(a.history), numbers(b.history), strict=True):
        norms = one.pop("norms", {}), other.pop("norms", {})
        assert norms[0].keys() == norms[1].keys()
        for name, norm in norms[0].items():
            assert norm == pytest.approx(norms[1][name], rel=1e-4, abs=1e-9), name
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_allclose(value, other[name], **close, err_msg=name)
    (left, meta), (right, _) = a.snapshot(), b.snapshot()
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert_allclose(value, right[name], **(close if rtol else {"rtol": 0}), err_msg=name)
    assert a.position == b.position
    assert meta["position"] == a.position._asdict()


def macro_recall(y_true, y_pred):
    return float(np.mean([np.mean(y_pred[y_true == k] == k) for k in range(3)]))


def first_rows(y_true, y_score):
    """A number that depends on the order of the rows."""
    return float(np.sum(y_score[:, 0] * np.arange(len(y_score))))


def whole_fit(trainer, **more):
    metrics = {"recall": macro_recall, "first": first_rows}
    options = {"validation_fraction": 0.3, "metrics": metrics, "early_stopping": 3, "epochs": 6}
    trainer.fit(weighted(), callbacks=[Norms()], **options | more)
    return trainer


ONE = {}


def on_one(**settings):
    key = repr(settings)
    if key not in ONE:
        ONE[key] = whole_fit(made(schedule=Plateau(patience=1), **settings))
    return ONE[key]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_ranks_train_as_one_process(ranks, accumulate):
    one = on_one(accumulate=accumulate)

    def train(comm):
        return whole_fit(made(comm, schedule=Plateau(patience=1), accumulate=accumulate))

    for trained in on_ranks(ranks, train):
        assert_same(trained, one)
        assert trained.stopped == one.stopped


def test_every_rank_has_the_record_of_the_first():
    first, second = on_ranks(2, lambda comm: whole_fit(made(comm)))
    assert first.history == second.history
    assert all(record["seconds"] > 0 for record in first.history)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ordered_sums_have_the_same_bits_on_any_number_of_ranks(ranks):
    one = on_one(parallel=ORDERED)
    assert_same(one, on_one(accumulate=1))  # as the plain sum, but for rounding
    assert one.chosen_threads.number == 1
    for trained in on_ranks(
        ranks, lambda comm: whole_fit(made(comm, schedule=Plateau(patience=1), parallel=ORDERED))
    ):
        assert_same(trained, one, rtol=0)


@pytest.mark.parametrize(("rtol", "parallel"), [(RTOL, Parallel()), (0, ORDERED)])
def test_a_training_goes_on_with_another_number_of_ranks(rtol, parallel):
    straight = whole_fit(made(parallel=parallel), epochs=3, early_stopping=None)
    saved = []

    class StopAt(Callback):
        def __init__(self, step):
            self.step = step

        def on_step_end(self, trainer):
            if trainer.position.step == self.step:
                trainer.stop("half of it")

    def part(comm, step):
        trainer = made(comm, parallel=parallel)
        if saved:
            trainer.restore(*copy.deepcopy(saved[-1]))
        metrics = {"recall": macro_recall, "first": first_rows}
        options = {"validation_fraction": 0.3, "metrics": metrics, "epochs": 3}
        trainer.fit(weighted(), callbacks=[Norms(), StopAt(step)], **options)
        return trainer

    for ranks, step in ((4, 2), (2, 5)):
        trained = on_ranks(ranks, lambda comm, at=step: part(comm, at))
        assert {t.position.step for t in trained} == {step}
        saved.append(trained[0].snapshot())
        assert saved[-1][1]["ranks"] == ranks
    assert_same(part(None, -1), straight, rtol)


# ------------------------------------------------------------------------------------------- stops


class Stops(Callback):
    """Stop at a step on one rank, and look at others now and then only."""

    def __init__(self, comm, rank, step, between=1):
        self.mine, self.step, self.between = comm.rank == rank, step, between

    def steps_between(self, trainer):
        return self.between

    def on_step_end(self, trainer):
        if self.mine and trainer.position.step == self.step:
            trainer.stop("enough")


@pytest.mark.parametrize("step", [1, 3, 4, 6])  # 4 is an epoch's end
def test_a_callback_that_looks_at_every_step_stops_all_ranks_there(step):
    def train(comm):
        trainer = made(comm)
        trainer.fit(classes(), epochs=3, callbacks=[Stops(comm, 1, step)])
        return trainer.position.step, trainer.stopped

    assert on_ranks(3, train) == [(step, "enough")] * 3


def test_a_stop_by_the_clock_stops_all_ranks_at_one_step(monkeypatch):
    monkeypatch.setattr("xpnet.training.ranks.SECONDS", 0.002)

    def train(comm):
        trainer = made(comm, model=[Dense(3)])
        trainer.fit(classes(), epochs=400, callbacks=[Stops(comm, 1, 30, MANY)])
        return trainer.position.step, trainer.stopped

    (step, why), other = on_ranks(2, train)
    assert (step, why) == other
    assert why == "enough"
    assert 30 <= step < 400


def test_another_thread_that_stops_one_rank_stops_all_at_one_step():
    trainers = {}

    class Shown(Callback):
        def on_step_end(self, trainer):
            if trainer.comm.rank == 0 and trainer.position.step == 5:
                Thread(target=lambda: trainers[1].stop("by a button")).start()

    def train(comm):
        trainers[comm.rank] = trainer = made(comm, model=[Dense(3)])
        trainer.fit(classes(), epochs=1000, callbacks=[Shown()])
        return trainer.position, trainer.stopped

    first, second = on_ranks(2, train)
    assert first == second
    assert first[1] == "by a button"


def test_a_stop_at_an_epochs_end_on_one_rank_is_one_on_all():
    class AtEnd(Callback):
        def __init__(self, comm):
            self.comm = comm

        def on_epoch_end(self, trainer, record):
            if self.comm.rank == 1 and record["epoch"] == 2:
                trainer.stop("of rank 1")

    def train(comm):
        trainer = made(comm)
        trainer.fit(classes(), epochs=5, callbacks=[AtEnd(comm)])
        return trainer.position, trainer.stopped

    first, second = on_ranks(2, train)
    assert first == second
    assert first[0].epoch == 2
    assert first[1] == "of rank 1"


# ------------------------------------------------------------------------ what each rank is given


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (lambda x, y, r: (x[r::2], y[r::2]), "each has 25 rows, and x of rank 1 are not those"),
        (
            lambda x, y, r: (x[: 50 - r], y[: 50 - r]),
            "rank 0 has 50 rows, rank 1 has 49. Every rank",
        ),
        (lambda x, y, r: (x, np.roll(y, r)), "and y of rank 1 are not those of rank 0"),
        (lambda x, y, r: (x, y, np.ones(50)) if r else (x, y), "sample weights of float64"),
    ],
)
def test_ranks_that_are_given_different_data_are_told_so(rows, found):
    def train(comm):
        with pytest.raises(DataError, match=r"given the whole data set") as caught:
            made(comm).fit(rows(*classes(), comm.rank), epochs=1)
        return str(caught.value)

    first, second = on_ranks(2, train)
    assert found in first
    assert first == second


@pytest.mark.parametrize(
    "settings",
    [{"seed": 5}, {"batch_size": 17}, {"loss": "mean_squared_error"}, {"clip": xpnet.Clip(1.0)}],
)
def test_ranks_with_different_settings_are_told_so(settings):
    (name,) = settings

    def train(comm):
        of_rank = settings if comm.rank == 1 else {}
        x, _ = classes()
        trainer = made(comm, model=[Dense(3)], **{"class_weights": None} | of_rank)
        with pytest.raises(ConfigError, match=f"^{name} is .* on rank 0 and .* on rank 1"):
            trainer.fit((x, x[:, :3]) if "loss" in of_rank else classes(), epochs=1)

    on_ranks(2, train)


def test_an_object_without_a_repr_is_no_other_setting_on_another_rank():
    class Slower(xpnet.schedules.Constant):
        __repr__ = object.__repr__

    def train(comm):
        trainer = made(comm, schedule=Slower())
        assert " at 0x" in repr(trainer.schedule)
        return trainer.fit(classes(), epochs=1)

    first, second = on_ranks(2, train)
    assert first == second


def test_a_label_that_is_wrong_on_one_rank_is_an_error_on_all():
    x, y = classes()

    def train(comm):
        of_rank = np.where(np.arange(50) == 7, 3 if comm.rank == 1 else 0, y)
        with pytest.raises(DataError, match=r"^rank 1: the label of row 7"):
            made(comm).fit((x, of_rank), epochs=1)
        with pytest.raises(DataError, match=r"^the label of row 7"):
            made(comm).fit((x, np.where(np.arange(50) == 7, 3, y)), epochs=1)

    on_ranks(2, train)


def test_another_validation_on_one_rank_is_refused():
    def train(comm):
        with pytest.raises(DataError, match=r"validation: .* rank 0 has 9 rows, rank 2 has 8"):
            made(comm).fit(classes(), epochs=1, validation=classes(9 - (comm.rank == 2)))

    on_ranks(3, train)


def test_weights_that_differ_become_those_of_the_first_rank_with_a_warning():
    def train(comm):
        trainer = made(comm, model=[Dense(3)])
        if comm.rank == 1:
            trainer._prepare((6,))
            trainer.params = {"0.dense.b": np.ones(3)}
        trainer.fit(classes(), epochs=2)
        return trainer

    with pytest.warns(XpnetWarning, match="weights of rank 1 were not those of rank 0") as caught:
        first, second = on_ranks(2, train)
    assert len(caught) == 1
    assert_same(first, second, rtol=0)


def test_more_ranks_than_rows_or_parts_are_refused():
    def train(comm):
        with pytest.raises(ConfigError, match="3 ranks cannot share batches of 2 rows"):
            made(comm, batch_size=2)
        with pytest.raises(ConfigError, match="2 parts, too few for 3 ranks"):
            made(comm, parallel=Parallel(reduce="ordered", parts=2))

    on_ranks(3, train)


def test_a_last_batch_of_fewer_rows_than_ranks_is_fine():
    one = made(model=(Dense(3),), accumulate=2)
    one.fit(classes(33), epochs=2)

    def train(comm):
        trainer = made(comm, model=(Dense(3),), accumulate=2)
        trainer.fit(classes(33), epochs=2)
        return trainer

    for trained in on_ranks(4, train):
        assert_same(trained, one)


@pytest.mark.parametrize("comm", ["mpi", 4, object()])
def test_what_is_no_comm_is_refused(comm):
    with pytest.raises(ConfigError, match="comm must be a Comm"):
        made(comm)
    with pytest.raises(ConfigError, match="parallel must be a Parallel"):
        made(parallel=comm)


def test_an_engine_that_is_named_without_a_comm_is_refused():
    with pytest.raises(ConfigError, match=r"pass comm=xpnet\.parallel\.join"):
        made(parallel=Parallel(engine="mpi"))


@pytest.mark.parametrize(("asked", "own"), [("cuda", "cuda:1"), ("cuda:0", "cuda:0")])
def test_each_rank_of_a_host_has_its_own_gpu(asked, own, monkeypatch):
    gpus = {"cuda": ["cuda:0", "cuda:1"]}
    monkeypatch.setattr(placement, "own_device", lambda c, d: gpus.get(d, [d] * 2)[c.rank])
    seen = []
    monkeypatch.setattr(placement, "resolve", lambda *names: seen.append(names) or Chosen)
    Chosen = namedtuple("Chosen", "backend")(get_backend("numpy"))

    def train(comm):
        made(comm, backend="cupy", device=asked).fit(classes(), epochs=1)

    on_ranks(2, train)
    assert ("cupy", own, "float64") in seen


def test_auto_is_a_gpu_of_its_own_where_there_are_any(monkeypatch):
    monkeypatch.setattr(placement, "own_device", lambda comm, device: f"{device}:{comm.rank}")
    probed = namedtuple("Probed", "devices")(("cuda:0", "cuda:1"))
    monkeypatch.setattr(NumpyBackend, "probe", lambda: probed)
    found = on_ranks(2, lambda comm: placement.device_of(comm, "numpy", "auto"))
    assert found == ["cuda:0", "cuda:1"]


# ---------------------------------------------------------------------------------------- failures


def test_all_ranks_raise_the_same_error_of_a_row_that_is_not_finite():
    x, y = classes()
    x[37, 2] = np.nan
    with pytest.raises(TrainingError) as caught:
        made().fit((x, y), epochs=2)

    def train(comm):
        with pytest.raises(TrainingError) as caught:
            made(comm).fit((x, y), epochs=2)
        return str(caught.value)

    assert set(on_ranks(3, train)) == {str(caught.value)}
    assert "row 37 of x is not finite" in str(caught.value)


@pytest.mark.parametrize("settings", [{"parallel": ORDERED}, {"accumulate": 3}])
def test_all_ranks_raise_the_same_error_of_a_learning_rate_too_high(settings):
    def run(comm):
        trainer = made(comm, (Dense(8), ReLU(), Dense(3)), optimizer=xpnet.SGD(1e200), **settings)
        with pytest.raises(TrainingError) as caught:
            trainer.fit(classes(), epochs=2)
        return str(caught.value)

    one = run(None)
    assert set(on_ranks(2, run)) == {one}
    assert "step" in one


def test_all_ranks_raise_the_same_error_of_the_last_update_of_an_epoch():
    x, y = classes(10)

    def run(comm):
        trainer = made(comm, (Dense(8), ReLU(), Dense(3)), optimizer=xpnet.SGD(1e308))
        with pytest.raises(TrainingError, match="from epoch 1, step 2 on") as caught:
            trainer.fit((1e3 * x, y), epochs=1)
        return str(caught.value)

    assert set(on_ranks(4, run)) == {run(None)}


def test_what_rank_0_finds_between_two_steps_all_ranks_explain():
    x, y = classes(800)
    x[700, 2] = np.nan

    class Reads(Callback):
        first_rank_only = True

        def steps_between(self, trainer):
            return 1

        def on_step_end(self, trainer):
            trainer.read()

    def run(comm):
        with pytest.raises(TrainingError) as caught:
            made(comm).fit((x, y), epochs=1, callbacks=[Reads()])
        return str(caught.value)

    one = run(None)
    assert set(on_ranks(2, run)) == {one}
    assert "row 700 of x" in one


def test_a_metric_that_fails_fails_on_all_ranks():
    def broken(y_true, y_pred):
        return len(y_true) / 0

    def run(comm):
        with pytest.raises(TrainingError, match="the metric 'broken' failed: ZeroDivisionError"):
            made(comm).fit(classes(), epochs=1, validation=classes(9), metrics={"broken": broken})

    on_ranks(3, run)


def test_a_validation_with_a_bad_row_fails_on_all_ranks():
    x, y = classes(20)
    x[11] = np.inf

    def run(comm):
        with pytest.raises(DataError, match="validation: row 11 of x is not finite"):
            made(comm).fit(classes(), epochs=1, validation=(x, y))

    on_ranks(3, run)


# --------------------------------------------------------------------------------------- callbacks


def test_rank_0_alone_writes(tmp_path):
    def train(comm):
        lines = []
        trainer = made(comm)
        folder = CheckpointFolder(tmp_path / "checkpoints")
        history = HistoryFile(tmp_path / "history.jsonl", lines.append)
        saving = Checkpointing(folder, every_steps=3, report=lines.append)
        trainer.fit(classes(), epochs=2, validation=classes(9), callbacks=[history, saving])
        path = trainer.save(tmp_path / "model.safetensors")
        return lines, len(trainer.callbacks), path

    results = on_ranks(2, train)
    assert [r[:2] for r in results] == [([], 2), ([], 0)]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2
    assert results[0][2] == results[1][2]
    loaded = xpnet.load(results[0][2])
    assert loaded.comm.size == 1
    assert loaded.position.epoch == 2


def test_a_copy_of_one_of_several_ranks_is_alone():
    def train(comm):
        trainer = made(comm)
        trainer.fit(classes(), epochs=1)
        copies = copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))
        return trainer, *copies

    one = made()
    one.fit(classes(), epochs=2)
    for trainer, *copies in on_ranks(2, train):
        assert trainer.comm.size == 2
        for each in copies:
            assert each.comm.size == 1
            each.fit(classes(), epochs=2)
            assert_same(each, one)


def test_the_summary_names_the_ranks():
    def train(comm):
        return made(comm, parallel=ORDERED).summary()

    texts = on_ranks(2, train)
    assert "2 ranks, connected by threads; this is rank 1" in texts[1]
    assert "parallel   Parallel(reduce='ordered', parts=4)" in texts[1]
    assert "rank" not in made().summary() + repr(made())


def test_its_repr_says_which_rank_it_is():
    assert repr(on_ranks(2, made)[1]).endswith("comm=<rank 1 of 2>)")


def test_ranks_of_a_host_divide_its_cores(monkeypatch):
    monkeypatch.setattr("xpnet.training.threads.cores", lambda: 6)
    for name in xpnet.training.threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def train(comm):
        trainer = made(comm)
        trainer.fit(classes(), epochs=1)
        return trainer.chosen_threads

    for ranks, number in ((2, 3), (4, 1)):
        for threads in on_ranks(ranks, train):
            assert threads.number == number
            assert threads.why == f"6 cores for {ranks} ranks of this host"


def test_nothing_is_summed_by_a_process_alone(monkeypatch):
    def refuse(*arguments):
        pytest.fail("a process alone has nobody to ask")

    for name in ("barrier", "allreduce", "iallreduce"):
        monkeypatch.setattr(f"xpnet.parallel.comm.Local.{name}", refuse)
    whole_fit(made())


@pytest.mark.long
def test_ranks_with_the_fused_step_train_as_one_process():
    one = whole_fit(made(step="fused"))
    for trained in on_ranks(2, lambda comm: whole_fit(made(comm, step="fused"))):
        assert trained.engine.step.kind == "fused"
        assert_same(trained, one)


# ----------------------------------------------------------------------- ranks that are processes

SCRIPT = """
import json, os, signal, sys
import xpnet
from xpnet.parallel.settings import Parallel
from xpnet.training.callbacks import Callback, StopOnSignal
from xpnet.training.norms import Norms

way, out, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(100, 6)), rng.integers(0, 3, 100)
layers = [xpnet.Dense(8), xpnet.Tanh(), xpnet.BatchNorm(), xpnet.Dropout(0.3), xpnet.Dense(3)]
parallel = Parallel(reduce="ordered") if way == "ordered" else Parallel()
settings = dict(batch_size=16, backend="numpy", dtype="float64", comm=comm, parallel=parallel)


class Signal(Callback):
    def on_step_end(self, trainer):
        if way == "signal" and comm.rank == 1 and trainer.position.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)


if os.path.exists(out):
    trainer = xpnet.load(out, comm=comm, parallel=parallel)
else:
    trainer = xpnet.Trainer(layers, class_weights="balanced", step="portable", **settings)
if way == "parts":
    x, y = x[comm.rank :: comm.size], y[comm.rank :: comm.size]
comm.barrier()
trainer.fit((x, y), epochs=epochs, validation_fraction=0.2,
            callbacks=[Norms(), Signal(), StopOnSignal()])
print(json.dumps([comm.rank, trainer.position, trainer.stopped]))
trainer.save(out)
"""


def on_processes(ranks, way, out, epochs):
    done = run_script(ranks, SCRIPT, way, out, epochs)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.lines]


@pytest.mark.long
def test_processes_train_as_one_and_go_on_with_other_numbers(tmp_path):
    straight, parts = tmp_path / "one.safetensors", tmp_path / "many.safetensors"
    on_processes(1, "ordered", straight, 3)
    for epochs, ranks in enumerate((4, 2, 1), 1):
        found = on_processes(ranks, "ordered", parts, epochs)
        assert sorted(found) == [[rank, [epochs, 0, 5 * epochs], None] for rank in range(ranks)]
    one, many = xpnet.load(straight), xpnet.load(parts)
    assert_same(many, one, rtol=0)


@pytest.mark.long
def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    found = on_processes(2, "signal", tmp_path / "model.safetensors", 50)
    assert [rest for _, *rest in sorted(found)] == [[[1, 3, 8], "interrupted by SIGTERM"]] * 2


@pytest.mark.long
def test_processes_that_are_given_a_part_each_are_told_so_once(tmp_path):
    done = run_script(2, SCRIPT, "parts", tmp_path / "model.safetensors", 1)
    assert done.code == 1
    last = [line for line in done.err.splitlines() if line.startswith("xpnet.errors")]
    assert len(last) == 1
    assert "Every rank is given the whole data set" in last[0]
