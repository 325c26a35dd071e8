"""How a step scales: the model against numbers by hand and a simulation, and a measurement."""

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from thread_ranks import on_ranks

from xpnet.bench import parse_network, scaling_tables
from xpnet.bench.collectives import ALGORITHMS, Link, allreduce, closed_form, simulate
from xpnet.bench.model import MACHINES
from xpnet.bench.scaling import Measured, Point, Scaling, measure_scaling
from xpnet.bench.scaling_model import (
    INFINIBAND,
    Compute,
    Shared,
    Sums,
    expected_max,
    fit_compute,
    fit_sums,
    halves_at,
    least_rows,
    nccl,
    on_gpu,
    over,
    predict,
    slowest,
)
from xpnet.bench.scaling_outlook import ON_H200, POWERS
from xpnet.bench.scaling_rank import Apart, Clock, Steps, measure_job, summed_bytes
from xpnet.bench.setting import Setting
from xpnet.cli.main import main
from xpnet.errors import BackendError
from xpnet.nn.layout import layouts
from xpnet.parallel import ALONE, Local

LINK = Link(2.0, 10.0, 5.0)  # µs, GB/s: 1000 bytes take 0.1 µs, and 0.2 to add up
SMALL = parse_network("8-6-4:10:sgd")
STEP = Shared(128, 1e6, Compute(100.0, 10.0), over(LINK))


def test_closed_forms_are_those_of_the_paper():
    n, B, a, b, c = 8, 4000.0, 2.0, 1e-4, 2e-4
    assert closed_form("recursive doubling", LINK, n, B) == pytest.approx(3 * (a + B * (b + c)))
    halving = 6 * a + 2 * 7 / 8 * B * b + 7 / 8 * B * c
    assert closed_form("halving and doubling", LINK, n, B) == pytest.approx(halving)
    ring = 14 * a + 2 * 7 / 8 * B * b + 7 / 8 * B * c
    assert closed_form("ring", LINK, n, B) == pytest.approx(ring)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 8, 13, 64, 1000, 1024])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_simulation_takes_the_closed_form_and_is_a_sum(name, n):
    at, counts = simulate(name, LINK, np.zeros(n), 1e6)
    np.testing.assert_allclose(at.max(), closed_form(name, LINK, n, 1e6), rtol=1e-12, atol=0)
    assert (counts == n).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_late_rank_delays_all_and_late_messages_are_never_early(name):
    late = np.zeros(8)
    late[5] = 1000.0
    at, _ = simulate(name, LINK, late, 1e6)
    form = closed_form(name, LINK, 8, 1e6)
    assert (at > 1000.0).all()
    assert at.max() <= 1000.0 + form + 1e-9
    jittered = [simulate(name, LINK, np.zeros(8), 1e6, jitter=5.0, seed=s)[0].max() for s in (1, 2)]
    assert min(jittered) > form
    assert jittered[0] != jittered[1]
    again, _ = simulate(name, LINK, np.zeros(8), 1e6, jitter=5.0, seed=1)
    assert again.max() == jittered[0]


def test_short_sums_double_and_long_ones_do_not():
    assert allreduce(LINK, 64, 8) == closed_form("recursive doubling", LINK, 64, 8)
    assert allreduce(LINK, 64, 1e8) == closed_form("halving and doubling", LINK, 64, 1e8)
    assert allreduce(LINK, 3, 1e8) == closed_form("ring", LINK, 3, 1e8)
    assert allreduce(LINK, 1, 1e8) == 0.0


@pytest.mark.parametrize("weak", [False, True])
def test_one_rank_computes_and_nothing_else(weak):
    one = predict(STEP._replace(alone=Compute(7.0, 1.0), slowest=lambda n: float(n)), 1, weak=weak)
    assert one.microseconds == one.compute == 7.0 + 128
    assert one.efficiency == 1.0
    assert one.limit == ""


def test_a_step_of_four_ranks_by_hand():
    found = predict(STEP._replace(sums=lambda n, B: 5.0 * n + B / 1e4, slowest=lambda n: 1.5), 4)
    assert (found.compute, found.waiting) == (100 + 320, 210)
    assert (found.latency, found.moving) == (20, 100)
    assert found.microseconds == 750
    assert found.efficiency == pytest.approx((100 + 1280) / 4 / 750)
    assert found.lost == {"a": 420 - 345, "w": 210, "l": 20, "b": 100}
    assert found.limit == "w"


def test_without_a_sum_and_a_fixed_part_scaling_is_perfect():
    free = Shared(1024, 1e6, Compute(0.0, 10.0), over(Link(0.0, math.inf)))
    for n in POWERS:
        assert predict(free, n).efficiency == pytest.approx(1.0)
        assert predict(free, n, weak=True).efficiency == pytest.approx(1.0)
    assert halves_at(free, POWERS) is None


@pytest.mark.parametrize("weak", [False, True])
def test_efficiency_falls_with_the_ranks_and_with_slower_links(weak):
    found = [predict(STEP, n, weak=weak).efficiency for n in POWERS]
    assert found == sorted(found, reverse=True)
    for worse in (LINK._replace(latency=4.0), LINK._replace(bandwidth=5.0)):
        slower = STEP._replace(sums=over(worse))
        assert all(
            predict(slower, n, weak=weak).efficiency < predict(STEP, n, weak=weak).efficiency
            for n in POWERS[1:]
        )


def test_ranks_without_a_row_are_counted_and_named():
    found = predict(STEP, 1024)
    assert found.idle == 1024 - 128
    assert found.compute == 100 + 10
    assert "r" in found.lost
    assert predict(STEP, 128).idle == 0
    assert predict(STEP, 1024, weak=True).idle == 0


def test_where_a_half_is_lost_and_how_many_rows_keep_it():
    n = halves_at(STEP, POWERS)
    assert predict(STEP, n).efficiency < 0.5 <= predict(STEP, n // 2).efficiency
    rows = least_rows(STEP, 64, 0.9)
    assert predict(STEP._replace(rows=rows), 64, weak=True).efficiency >= 0.9
    assert predict(STEP._replace(rows=rows * 15 // 16), 64, weak=True).efficiency < 0.9
    nothing = STEP._replace(compute=Compute(0.001, 0.0))
    assert least_rows(nothing, 64, 0.9) is None


def test_fits_find_what_was_planted():
    compute = fit_compute([(n, 30.0 + 2.5 * n) for n in (3, 10, 40, 200)])
    np.testing.assert_allclose((compute.fixed, compute.per_row), (30.0, 2.5), rtol=1e-9, atol=0)
    planted = Sums(4.0, 3e-4)
    points = [(n, B, planted(n, B)) for n in (2, 4) for B in (100.0, 1e4, 1e6)]
    found = fit_sums(points)
    np.testing.assert_allclose(
        (found.latency, found.per_byte), (planted.latency, planted.per_byte), rtol=1e-9, atol=0
    )


def test_a_fit_is_never_negative():
    found = fit_compute([(10, 5.0), (20, 20.0), (40, 60.0)])
    assert found.fixed == 0.0
    assert found.per_row > 0
    found = fit_compute([(10, 60.0), (20, 50.0), (40, 40.0)])
    assert found.per_row == 0.0
    assert 40 < found.fixed < 60


def test_the_slowest_of_n_is_what_drawing_finds():
    rng = np.random.default_rng(0)
    samples = rng.gamma(3.0, size=50)
    assert expected_max(samples, 1) == pytest.approx(samples.mean())
    drawn = rng.choice(samples, (20_000, 7)).max(axis=1)
    assert expected_max(samples, 7) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 141)
    factor = slowest([samples, samples, [1.0, 1e6]])
    assert factor(7) == pytest.approx(expected_max(samples, 7) / samples.mean())


def test_nccl_takes_trees_for_short_sums_and_rings_for_long_ones():
    assert nccl(INFINIBAND, 1024, 8) == pytest.approx(4.4 + 2 * 10 * 5.0, abs=0.1)
    wire = 2 * 7 / 8 * 1e9 / INFINIBAND.bandwidth / 1e3
    assert nccl(INFINIBAND, 8, 1e9) == pytest.approx(8.4 + 14 * 9.6 + wire)
    slower = INFINIBAND._replace(latency=INFINIBAND.latency + 10)
    assert nccl(slower, 8, 8) == pytest.approx(nccl(INFINIBAND, 8, 8) + 6 * 10)


@pytest.mark.parametrize(("text", "precision", "spent"), ON_H200[:2])
def test_a_gpus_step_is_what_was_measured_and_shorter_with_fewer_rows(text, precision, spent):
    network = parse_network(text)
    compute = on_gpu(network, Setting("cuda", precision), MACHINES["H200"], spent)
    assert compute(network.batch_size) == spent
    assert compute(0) == compute(1) <= spent < compute(2**14)


def test_what_is_summed_is_the_gradient_and_four_numbers():
    assert summed_bytes(SMALL) == 4 * (layouts(SMALL.model())[0].size + 4)


def test_apart_from_the_others_a_rank_computes_its_rows_only():
    steps = Steps(SMALL, 10, Apart(3, 4))
    assert len(steps._batch.y) == 2
    assert steps.timed(2)
    assert Steps(SMALL, 10, ALONE)._shared is None


def test_the_clock_has_the_time_of_sums_and_of_waiting_for_them():
    class Slow(Local):
        def barrier(self):
            time.sleep(0.02)

        def allreduce(self, x):
            time.sleep(0.01)

        def iallreduce(self, x):
            return lambda: time.sleep(0.01)

    clock = Clock()
    timed = clock.on(Slow())
    timed.barrier()
    assert clock.seconds == 0.0
    timed.allreduce(np.ones(3))
    first = clock.seconds
    assert first >= 0.01
    wait = timed.iallreduce(np.ones(3))
    wait()
    assert clock.seconds - first >= 0.01


def measured_on_threads(n):
    job = {"networks": [str(SMALL)], "seconds": 0.001, "alone": n == 0, "variants": {}}
    if n == 2:
        job["variants"] = {"in order": {"reduce": "ordered"}}
    return next(filter(None, on_ranks(n, lambda comm: measure_job(job, comm)))) if n > 1 else (
        measure_job(job, ALONE)
    )  # fmt: skip


FACTS = {"processor": "P", "cores": 2, "threads": "1", "python": "3", "versions": {}}


@pytest.fixture(autouse=True)
def few_simulations(monkeypatch):
    monkeypatch.setattr("xpnet.bench.scaling_outlook.SIMULATED", (2, 3))


@pytest.fixture
def one_rank(monkeypatch):
    monkeypatch.setattr("xpnet.bench.scaling._run_job", lambda job, n, _: measured_on_threads(n))
    return measure_scaling([SMALL], [], ranks=(1,), rounds=1)


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr("xpnet.bench.scaling_rank.SIZES", (1024, 4096))
    monkeypatch.setattr("xpnet.bench.scaling._run_job", lambda job, n, _: measured_on_threads(n))
    return measure_scaling([SMALL], [], ranks=(1, 2), rounds=1)


def test_a_measurement_has_every_point_and_its_model(found):
    (of,) = found.networks
    assert isinstance(of, Measured)
    assert of.same_bits
    assert sorted(of.points) == ["in order", "strong", "weak"]
    strong, weak = (of.points[kind][2] for kind in ("strong", "weak"))
    assert isinstance(strong, Point)
    assert (strong.rows, weak.rows) == (10, 20)
    assert 0 < strong.in_sums < strong.step
    assert strong.computing > 0
    assert of.size == summed_bytes(SMALL)
    assert of.efficiency("strong", 1) == 1.0
    model = found.modelled(of, 2)
    assert model.compute == of.compute(5) * max(1.0, 2 / found.cores)
    assert model.latency + model.moving == pytest.approx(found.sums[2](2, of.size))
    assert found.modelled(of, 1).compute == of.alone(10)


def test_one_rank_alone_is_enough_for_the_model(one_rank):
    (of,) = one_rank.networks
    assert one_rank.elsewhere(of, LINK).size == of.size > 0
    assert one_rank.sums == {}
    assert "| 1,024 | 1,014 |" in scaling_tables.scaling_markdown(one_rank, FACTS)


def test_tables_and_json_say_all_of_it(found):
    text = scaling_tables.scaling_markdown(found, FACTS)
    for words in (
        "| strong, 2, batch 10 |", "| weak, 2, batch 20 |", "| in order | 2 |",
        "| 8-6-4:10:sgd | ", " the same |", "| 1,024 | 1,014 |", "InfiniBand, ring, 3",
        "P, 2 cores", "| 8-6-4:10:sgd, weak, Ethernet |",
    ):  # fmt: skip
        assert words in text, words
    data = json.loads(json.dumps(scaling_tables.scaling_json(found, {})))
    (network,) = data["networks"]
    assert network["model"]["weak"]["2"]["rows"] == 20
    assert len(data["predicted"]["8-6-4:10:sgd, a core as here"]["Ethernet"]["strong"]) == 11


def test_more_ranks_than_cores_take_turns_and_that_is_said(found):
    few = Scaling(found.networks, found.sums, found.sizes, found.added, cores=1, load=3.0)
    (of,) = few.networks
    assert any("3.0 processes wanted its 1 cores" in note for note in scaling_tables.notes(few))
    assert few.modelled(of, 2).compute == 2 * of.compute(5)
    assert any("More ranks than the 1 cores" in note for note in scaling_tables.notes(few))
    assert "strong, 2 *, batch 10" in [row[0] for row in scaling_tables.tables(few)[0].rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ranks", "1,x"], "--ranks takes numbers of processes, such as 1,2,4; got '1,x'"),
        (["--ranks", "0"], "--ranks takes numbers of processes"),
        (["--device", "cuda"], "--scaling measures steps on a CPU in float32; got"),
        (["--launcher", "no-such-mpiexec"], "there is no program 'no-such-mpiexec'"),
        (["--model", "H200"], "--scaling and --model are different things: choose one"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, capsys):
    pytest.importorskip("mpi4py", reason="mpi4py connects the ranks")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--scaling", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_without_mpi4py_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--scaling"])
    assert ended.value.code == 2
    assert "--scaling needs mpi4py, and an MPI: pip install 'mpi4py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (["no-such-program"], "cannot start no-such-program: No such file"),
        ([sys.executable, "-c", "print('so it is\\n==='); raise SystemExit(3)"], "ranks: so it is"),
        (
            [
                sys.executable,
                "-c",
                "import sys; print('x.DataError: why\\nSee the FAQ', file=sys.stderr)",
            ],
            "2 ranks: x.DataError: why",
        ),
    ],
)
def test_ranks_that_cannot_be_started_or_fail_are_an_error(launcher, message, monkeypatch):
    from xpnet.bench.scaling import _run_job

    with pytest.raises(BackendError, match=message):
        _run_job({"timeout": 20.0}, 2, launcher)


def test_ranks_that_hang_are_ended():
    from xpnet.bench.scaling import _run_job

    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(BackendError, match=r"2 ranks: nothing was measured in 0\.2 s"):
        _run_job({"timeout": 0.2}, 2, sleeping)


@pytest.mark.long
def test_the_command_measures_two_real_ranks(tmp_path):
    pytest.importorskip("mpi4py", reason="mpi4py connects the ranks")
    command = [sys.executable, "-m", "xpnet", "bench", "--scaling", "--ranks", "1,2"]
    command += ["--rounds", "1", "--rows", "64-32-10:32:sgd", "--json-file", "s.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "s.json").read_text())
    (network,) = found["networks"]
    assert network["one_rank"]["same_bits"]
    assert network["points"]["strong"]["2"]["step"] > network["points"]["strong"]["2"]["in_sums"]
    assert [size for size, _ in found["sums"]["2"]["measured"]] == [4**k for k in range(5, 13)]
