"""The number of threads: measured with a clock of one's own, kept, recorded and put back."""

import itertools
import json
import re
import sys
import threading

import numpy as np
import pytest
from interruption import interrupted

from xpnet.backends import get_backend
from xpnet.backends.threads import ThreadPool, blas_threads
from xpnet.backends.torch import TorchBackend
from xpnet.cli.main import main
from xpnet.errors import BackendError, CheckpointError, ConfigError
from xpnet.nn import BatchNorm, Dense, Dropout, ReLU
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.run import load, train
from xpnet.training import threads
from xpnet.training.callbacks import Callback
from xpnet.training.engine import Engine
from xpnet.training.loader import Loader
from xpnet.training.progress import Progress
from xpnet.training.threads import Threads, _measure, candidates
from xpnet.training.trainer import Trainer


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A process that has measured nothing, whose user has set nothing, on four cores."""
    monkeypatch.setattr(threads, "_measured", {})
    monkeypatch.setattr(threads, "cores", lambda: 4)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Machine:
    """A pool of four threads and a clock, on which a step takes ``cost(number, its count)``."""

    def __init__(self, cost):
        self.cost, self.now, self.number, self.taken = cost, 0.0, 4, []
        self.pool = ThreadPool([(lambda: self.number, lambda n: setattr(self, "number", n))])

    def step(self):
        self.now += self.cost(self.number, len(self.taken))
        self.taken.append(self.number)

    def measure(self, steps=10**6, numbers=(1, 2, 4)):
        return _measure(numbers, self.step, self.pool.limited, steps, lambda: self.now)


# -------------------------------------------------------------------------------- the measurement


@pytest.mark.parametrize(
    ("costs", "best"),
    [
        ({1: 4e-4, 2: 2e-4, 4: 1e-4}, 4),
        ({1: 1e-4, 2: 2e-4, 4: 9e-4}, 1),
        ({1: 4e-4, 2: 1e-4, 4: 3e-4}, 2),
        ({1: 1.04e-4, 2: 1.02e-4, 4: 1e-4}, 1),  # more must be worth their cores
        ({1: 4e-4, 2: 1.04e-4, 4: 1e-4}, 2),
    ],
)
def test_the_fewest_that_are_as_fast_as_the_fastest(costs, best):
    machine = Machine(lambda number, _: costs[number])
    chosen = machine.measure()
    assert chosen.number == best
    assert machine.number == 4
    assert machine.now < 0.31
    assert set(machine.taken) == {1, 2, 4}
    assert chosen.measured
    assert f"{1e6 * costs[2]:,.0f} with 2" in chosen.why


def test_they_take_turns_so_that_a_load_that_comes_falls_on_all():
    machine = Machine(lambda number, count: (2e-4 / number) * (1 if count < 900 else 30))
    assert machine.measure().number == 4
    turns = [
        n for n, before in zip(machine.taken[2:], machine.taken[1:], strict=False) if n != before
    ]
    assert turns[:5] == [2, 4, 1, 2, 4]


def test_one_slow_turn_does_not_decide():
    def cost(number, _):
        return 0.02 if number == 4 and machine.now < 0.06 else 1e-3 / number

    machine = Machine(cost)
    assert machine.measure().number == 4


def test_rare_long_waits_count_though_most_steps_are_fast():
    machine = Machine(
        lambda number, count: 8e-3 if number > 1 and count % 40 == 0 else 1e-4 / number**0.5
    )
    assert machine.measure().number == 1


@pytest.mark.parametrize(
    ("cost", "steps", "number", "why"),
    [
        (1e-4, 2_000, 1, "too short"),  # 0.2 s
        (0.5, 50, 4, "too few steps"),
        (0.5, 1_000, 4, "measured in 1.45 s"),  # a round of single steps
        (1e-4, 10_000, 4, "measured in 0.05 s"),  # 5 % of a second
    ],
)
def test_a_small_training_is_measured_less(cost, steps, number, why):
    chosen = Machine(lambda n, _: cost if n < 4 else cost * 0.9).measure(steps)
    assert chosen.number == number
    assert why in chosen.why


def test_the_numbers_to_try():
    assert [candidates(n) for n in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]


# --------------------------------------------------------------------------------------- the pool


def test_limits_may_end_in_any_order():
    machine = Machine(None)
    first, second = machine.pool.limited(1), machine.pool.limited(2)
    first.__enter__()
    second.__enter__()
    assert (machine.number, machine.pool.given) == (2, 4)
    first.__exit__(None, None, None)
    assert (machine.number, machine.pool.given) == (2, 4)
    second.__exit__(None, None, None)
    assert machine.number == 4
    with machine.pool.limited(3), machine.pool.limited(2):
        with machine.pool.limited(1):
            assert machine.number == 1
        assert machine.number == 2
    assert machine.number == 4


@pytest.mark.parametrize("event", ["line", "opcode"])
def test_who_is_interrupted_anywhere_limits_nothing_afterwards(event):
    machine = Machine(None)

    def limit():
        with machine.pool.limited(1):
            pass

    for at in itertools.count(1):
        if interrupted(limit, at, event) < at:
            break
        assert (machine.number, machine.pool.given, machine.pool._limits) == (4, 4, []), at
        with machine.pool.limited(2):
            assert machine.number == 2
        assert machine.number == 4
    assert at > 20


def test_each_copy_of_a_library_gets_its_own_number_back():
    numbers = [4, 2]
    switch = [(lambda i=i: numbers[i], lambda n, i=i: numbers.__setitem__(i, n)) for i in (0, 1)]
    with ThreadPool(switch).limited(1):
        assert numbers == [1, 1]
    assert numbers == [4, 2]


def test_the_blas_of_numpy_is_one_of_them_and_the_fused_step_has_the_same():
    pytest.importorskip("numba")
    from xpnet.kernels.cpu.blas import _libraries

    pool = blas_threads()
    if pool is None:
        pytest.skip("a BLAS without a switch")
    name = "scipy_openblas_get_num_threads64_"
    reads = [getattr(library, name) for library in _libraries() if hasattr(library, name)]
    for number in (1, 2, 1):
        with pool.limited(number):
            assert {read() for read in reads} <= {number}


# ------------------------------------------------------------------------------------ the trainer


def classes(n=256):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 12)).astype("f4"), rng.integers(0, 3, n)


def made(**options):
    layers = [Dense(9), BatchNorm(), ReLU(), Dropout(0.2), Dense(3)]
    options = {"backend": "numpy", "batch_size": 32, **options}
    return Trainer(layers, **options)


def state(trainer):
    tensors, meta = trainer.snapshot()
    history = [{k: v for k, v in r.items() if "second" not in k} for r in meta["history"]]
    return {k: v.tobytes() for k, v in tensors.items()}, history, meta["position"]


class Seen(Callback):
    """The number that holds in each step."""

    def __init__(self, machine):
        self.machine, self.numbers = machine, []

    def on_step_end(self, trainer):
        self.numbers.append(self.machine.number)


@pytest.fixture
def machine(monkeypatch):
    """A pool in the place of NumPy's, and a measurement that takes real steps and finds 2."""
    machine = Machine(None)
    machine.measured = 0

    def measure(numbers, step, limit, steps):
        machine.measured += 1
        for number in numbers:
            with limit(number):
                step()
        return Threads(2, "measured", measured=True)

    monkeypatch.setattr("xpnet.backends.numpy.blas_threads", lambda: machine.pool)
    monkeypatch.setattr(threads, "_measure", measure)
    return machine


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("step", ["portable", "auto"])
def test_measuring_changes_nothing_of_the_training(machine, step, name):
    measured, asked = made(optimizer=name, step=step), made(optimizer=name, step=step, threads=2)
    for each in (measured, asked):
        each.fit(classes(), epochs=2)
    assert machine.measured == 1
    assert state(measured) == state(asked)


def test_measuring_with_a_loss_scale_changes_nothing(machine):
    from xpnet.step.mixed_precision import Mixed

    a, b = made(mixed=Mixed("float16"), accumulate=2), made(mixed=Mixed("float16"), accumulate=2)
    b.threads = 2
    b.chosen_threads = Threads(2, "")
    for each in (a, b):
        each.fit(classes(), epochs=2)
    assert machine.measured == 1
    assert state(a) == state(b)


@pytest.mark.parametrize("once_more", [False, True])
def test_the_state_is_as_it_was_where_measuring_is_interrupted(machine, monkeypatch, once_more):
    """Also by a second interruption, where the state would be put back."""

    def interrupt(numbers, step, limit, steps):
        with limit(1):
            step()
            if once_more:
                monkeypatch.setattr(Engine, "set_state", again)
            raise KeyboardInterrupt

    def again(engine, host):
        monkeypatch.setattr(Engine, "set_state", set_state)
        raise KeyboardInterrupt

    set_state = Engine.set_state
    trainer, other = made(), made(threads=2)
    trainer.fit(classes(), epochs=1)
    other.fit(classes(), epochs=1)
    monkeypatch.setattr(threads, "_measured", {})
    whole = threads._measure
    monkeypatch.setattr(threads, "_measure", interrupt)
    trainer.chosen_threads = None
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(classes(), epochs=2)
    assert machine.number == 4
    monkeypatch.setattr(threads, "_measure", whole)
    for each in (trainer, other):
        each.fit(classes(), epochs=2)
    assert state(trainer) == state(other)


def test_the_number_holds_in_training_evaluation_and_prediction_and_is_put_back(machine):
    trainer, seen = made(), Seen(machine)
    trainer.fit(classes(), epochs=1, validation=classes(), callbacks=[seen])
    assert seen.numbers == [2] * 8
    assert machine.number == 4
    trainer.score(classes(), lambda batch, output, predicted: seen.numbers.append(machine.number))
    predictions = trainer.predictions(classes(2000)[0])
    next(predictions)
    assert machine.number == 4  # between two batches others compute
    assert len(list(predictions)) == 1
    assert seen.numbers == [2] * 9
    assert "threads    2: measured" in trainer.summary()


def test_it_is_put_back_after_an_error(machine):
    class Fails(Callback):
        def on_step_end(self, trainer):
            assert machine.number == 2
            msg = "planted"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="planted"):
        made().fit(classes(), epochs=1, callbacks=[Fails()])
    assert machine.number == 4


def test_a_kind_of_network_is_measured_once_in_a_process(machine):
    for _ in range(2):
        made(seed=3).fit(classes(), epochs=1)
    made().fit(classes(300), epochs=2)
    assert machine.measured == 1
    made(batch_size=64).fit(classes(), epochs=1)
    made(dtype="float64").fit(classes(), epochs=1)
    Trainer([Dense(3)], backend="numpy").fit(classes(), epochs=1)
    assert machine.measured == 4


def test_what_a_user_limits_it_to_is_the_most_that_is_tried(machine, monkeypatch):
    tried = []
    monkeypatch.setattr(
        threads, "_measure", lambda n, *_: tried.append(n) or Threads(1, "measured")
    )
    machine.number = 3
    made().fit(classes(), epochs=1)
    machine.number = 1
    made().fit(classes(), epochs=1)
    assert tried == [[1, 2, 3]]


def test_a_number_that_is_asked_for_is_not_measured(machine):
    trainer, seen = made(threads=3), Seen(machine)
    trainer.fit(classes(), epochs=1, callbacks=[seen])
    assert set(seen.numbers) == {3}
    assert (machine.measured, machine.number) == (0, 4)
    assert str(trainer.chosen_threads) == "3: as asked for"
    trainer.threads = 1
    trainer.fit(classes(), epochs=2, callbacks=[seen])
    assert seen.numbers == [3] * 8 + [1] * 8
    with pytest.raises(ConfigError, match="got 0"):
        trainer.threads = 0
    assert trainer.threads == 1


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_what_the_environment_sets_is_left_alone(machine, monkeypatch, name):
    monkeypatch.setenv(name, "4")
    trainer, seen = made(), Seen(machine)
    trainer.fit(classes(), epochs=1, callbacks=[seen])
    assert set(seen.numbers) == {4}
    assert machine.measured == 0
    assert str(trainer.chosen_threads) == f"4: set by {name}"
    made(threads=1).fit(classes(), epochs=1, callbacks=[seen])
    assert seen.numbers[-1] == 1


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", True, None])
def test_what_is_no_number_is_refused(threads):
    with pytest.raises(ConfigError, match="threads must be"):
        made(threads=threads)


def test_more_threads_than_cores_are_refused():
    with pytest.raises(ConfigError, match="at most 4, the cores that this process may use; got 5"):
        made(threads=5)


def test_a_number_is_refused_where_the_library_cannot_change_it():
    pytest.importorskip("jax")
    with pytest.raises(BackendError, match="'jax' on cpu cannot change its threads"):
        made(backend="jax", threads=2).fit(classes(), epochs=1)
    trainer = made(backend="jax")
    trainer.fit(classes(), epochs=1)
    assert str(trainer.chosen_threads) == "of the library: jax on cpu cannot change them"
    assert trainer.snapshot()[1]["threads"] == {}


def test_pytorch_has_a_switch_of_its_own():
    torch = pytest.importorskip("torch")
    before, seen = torch.get_num_threads(), []

    class Reads(Callback):
        def on_step_end(self, trainer):
            seen.append(torch.get_num_threads())

    made(backend="torch", device="cpu", threads=1).fit(classes(), epochs=1, callbacks=[Reads()])
    assert seen == [1] * 8
    assert torch.get_num_threads() == before
    on_gpu = object.__new__(TorchBackend)
    on_gpu.device_name = "cuda:0"
    assert on_gpu.threads() is None


def test_a_compiled_step_is_not_measured(machine):
    trainer = made()
    trainer.fit(classes(), epochs=1)
    engine = trainer.engine
    engine.step = engine.step._replace(kind="jit")
    assert threads.choose(engine, None, None, 10**6).number is None


def test_it_is_measured_for_real_in_a_training_that_is_long_enough():
    if (pool := blas_threads()) is None or pool.given == 1:
        pytest.skip("one thread is all there is")
    given, shown = pool.given, []
    trainer = Trainer([Dense(300), ReLU(), Dense(3)], backend="numpy", batch_size=128)

    class Stops(Callback):
        def on_step_end(self, trainer):
            shown.append(pool._read()[0])
            trainer.stop("seen")

    trainer.fit(classes(), epochs=10**5, callbacks=[Stops()])
    assert trainer.chosen_threads.measured
    assert shown == [trainer.chosen_threads.number]
    assert pool.given == pool._read()[0] == given


def test_progress_says_what_was_measured(machine, capsys):
    made().fit(classes(), epochs=1, callbacks=[Progress(sys.stdout)])
    assert capsys.readouterr().out.splitlines()[0] == "threads 2: measured"
    made(threads=1).fit(classes(), epochs=1, callbacks=[Progress(sys.stdout)])
    assert "threads" not in capsys.readouterr().out


def test_trainings_in_several_threads_put_the_number_back(machine):
    jobs = [threading.Thread(target=made(threads=n).fit, args=(classes(),), kwargs={"epochs": 3})
            for n in (1, 2, 3)]  # fmt: skip
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert machine.number == 4


# ------------------------------------------------------------------------------- record and resume


def xpnet(*argv):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    return ended.value.code


def test_a_resumed_training_keeps_the_number(machine):
    whole, begun, resumed = made(), made(), made()
    begun.fit(classes(), epochs=1)
    threads._measured.clear()  # another process
    tensors, meta = begun.snapshot()
    assert meta["threads"] == {"numpy": 2}
    resumed.restore(tensors, json.loads(json.dumps(meta)))
    for each in (resumed, whole):
        each.fit(classes(), epochs=2)
    assert str(resumed.chosen_threads) == "2: as before the training was resumed"
    assert state(resumed) == state(whole)


@pytest.mark.parametrize("recorded", [{"numpy": 5}, {"torch": 1}, {"numpy": 0}, {}])
def test_a_number_that_does_not_fit_here_is_measured_anew(machine, recorded):
    begun, resumed = made(), made()
    begun.fit(classes(), epochs=1)
    threads._measured.clear()
    tensors, meta = begun.snapshot()
    resumed.restore(tensors, {**meta, "threads": recorded})
    resumed.fit(classes(), epochs=2)
    assert machine.measured == 2


def test_a_checkpoint_of_an_earlier_version_has_none(machine):
    begun, resumed = made(), made()
    begun.fit(classes(), epochs=1)
    tensors, meta = begun.snapshot()
    del meta["threads"]
    resumed.restore(tensors, meta)
    resumed.fit(classes(), epochs=2)
    assert resumed.chosen_threads.number == 2


@pytest.mark.parametrize("recorded", [2, {"numpy": "2"}, {"numpy": -1}, [1], {"numpy": True}])
def test_a_damaged_number_is_refused(machine, recorded):
    begun = made()
    begun.fit(classes(), epochs=1)
    tensors, meta = begun.snapshot()
    with pytest.raises(CheckpointError, match="invalid threads"):
        made().restore(tensors, {**meta, "threads": recorded})


def test_a_run_records_the_number_and_keeps_it(machine, tmp_path, capsys):
    folder, settings = tmp_path / "run", {"epochs": 1, "backend": "numpy", "model.hidden": [8]}
    run = train("digits", folder, settings=settings, report=lambda line: None)
    record = json.loads((folder / "run.json").read_text())
    assert (record["threads"], record["threads_reason"]) == (2, "measured")
    assert load(folder, backend="numpy").trainer.chosen_threads.number == 2
    assert xpnet("show", str(folder)) == 0
    assert "threads 2: measured\n" in capsys.readouterr().out
    more = {"epochs": 2, **{k: v for k, v in settings.items() if k != "epochs"}}
    threads._measured.clear()
    run = train("digits", folder, settings=more, resume=True, report=lambda line: None)
    assert run.trainer.chosen_threads.why == "as before the training was resumed"
    assert machine.measured == 1


def test_the_command_line_overrides(machine, tmp_path, capsys):
    folder = str(tmp_path / "run")
    short = ["--set", "epochs=1", "--backend", "numpy", "--quiet", "--out", folder]
    assert xpnet("train", *short, "--threads", "0") == 2
    assert "threads must be >= 1 or 'auto'; got 0" in capsys.readouterr().err
    assert xpnet("train", *short, "--threads", "9") == 2
    assert "use --threads auto" in capsys.readouterr().err
    assert xpnet("train", *short, "--threads", "3") == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["threads"] == 3
    assert re.search(r"^threads = 3$", (tmp_path / "run/config.toml").read_text(), re.MULTILINE)
    more = ["train", "--out", folder, "--resume", "--quiet", "--set", "epochs=2"]
    assert xpnet(*more, "--threads", "1") == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["threads"] == 1
    assert machine.measured == 0


# ------------------------------------------------------------------------------ what is measured


def test_a_loader_has_a_batch_at_hand(tmp_path):
    backend, (x, y) = get_backend("numpy"), classes(5)
    weight = np.arange(5.0)
    for resident in (True, False):
        batch = Loader(backend, x, y, weight, resident=resident).sample(7)
        rows = np.arange(7) % 5
        assert (batch.x == x[rows]).all()
        assert batch.y.tolist() == y[rows].tolist()
        assert batch.weight.dtype == np.float32
        assert batch.weight.tolist() == weight[rows].tolist()
    doubled = Loader(backend, x, resident=False, transform=lambda rows: 2 * rows).sample(3)
    assert (doubled.x == 2 * x[:3]).all()
