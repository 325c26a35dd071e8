"""The benchmark's plumbing, on networks too small to say anything about speed.

What runs on a GPU alone runs here on stand-ins: the emulated kernels, and PyTorch and JAX on a CPU
that is called cuda.
"""

import contextlib
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import AVAILABLE, ran
from cublas_on_cpu import widened
from cuda_on_cpu import GUARD, CpuExecutor
from test_backend_choice import stub_of_cupy
from test_cuda_training import FusedNumpy, table  # noqa: F401 - the fixture registers its step

from xpnet.backends import backend_class, get_backend
from xpnet.bench import (
    LIMIT,
    STANDARD,
    STANDARD_ON_GPU,
    Expectation,
    Setting,
    contenders,
    measure,
    parse_network,
)
from xpnet.bench import launches as launching
from xpnet.bench.contender import Contender
from xpnet.bench.contenders import ON_CPU, ON_GPU
from xpnet.bench.crossover import BATCHES, WIDTHS, find_crossover
from xpnet.bench.limit import products, replayed_products
from xpnet.bench.measure import Row, Timing
from xpnet.bench.model import moved_bytes
from xpnet.bench.networks import BYTES_LIMIT
from xpnet.bench.results import plot, to_json, to_markdown
from xpnet.bench.setting import PRECISIONS
from xpnet.cli.main import main
from xpnet.errors import BackendError, ConfigError
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.training.engine import Engine

TINY = parse_network("4-3-2:5:sgd")
CPU = Setting()
FACTS = {
    "processor": "a CPU",
    "cores": 16,
    "threads": "default",
    "python": "3.12.3",
    "versions": {"torch": "2.11.0"},
    "gpu": {"gpu": "NVIDIA H100", "cuda": "13.0", "driver_cuda": "13.1", "driver": "580.1"},
}


def timed(**medians):
    timings = {name.replace("_", " "): Timing(m, m, m, "") for name, m in medians.items()}
    return Row(TINY, {LIMIT: Timing(10.0, 10.0, 10.0, ""), **timings}, {})


def takes_steps(name, setting, rule="sgd"):
    """Time a contender, or return why it cannot be timed."""
    make = contenders(setting)[name]
    row = measure(parse_network(f"4-3-2:5:{rule}"), {name: make}, rounds=1)
    if name in row.absent:
        assert "Error: " not in row.absent[name]  # a reason, not an accident
        return row.absent[name]
    assert row.timings[name].median > 0
    return None


@pytest.mark.long_but(rule=["sgd"])
@pytest.mark.parametrize("name", [n for n in ON_CPU if n not in ("torch.compile",)])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_every_contender_takes_steps_or_says_why_not(name, rule):
    reason = takes_steps(name, CPU, rule)
    assert reason is None or "not installed" in reason or "pip install" in reason


@pytest.mark.long_but(narrow=["float16"])
@pytest.mark.long_where(name=["xpnet jax"])
@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["xpnet torch", "xpnet jax", "PyTorch eager", "JAX jit"])
def test_a_contender_takes_steps_in_16_bits_or_says_why_not(name, narrow):
    reason = takes_steps(name, Setting("cpu", narrow), "adam")
    if (name, narrow) == ("JAX jit", "float16"):
        assert "needs a loss scale" in reason or "pip install" in reason
    else:
        assert reason is None or "pip install" in reason


@pytest.mark.parametrize("name", ["xpnet numpy", "scikit-learn"])
def test_a_contender_without_the_precision_says_so(name):
    reason = takes_steps(name, Setting("cpu", "bfloat16"))
    assert "bfloat16" in reason or "pip install" in reason


def test_what_another_library_raises_is_noted_and_the_rest_is_timed():
    def broken(network):
        msg = "no compiler\nand a long explanation"
        raise RuntimeError(msg)

    good = Contender(lambda: None, lambda: None, lambda: "a note")
    row = measure(TINY, {"broken": broken, "good": lambda network: good}, rounds=1)
    assert row.absent == {"broken": "RuntimeError: no compiler"}
    assert row.timings["good"].note == "a note"


def test_there_is_no_row_without_the_limit():
    with pytest.raises(
        BackendError, match="is NumPy's: use --precision float32 or float64; got bfloat16"
    ):
        measure(TINY, {LIMIT: contenders(Setting("cpu", "bfloat16"))[LIMIT]}, rounds=1)


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("gpu", "float32", "cpu, cuda or cuda:N; got 'gpu'"),
        ("cuda", "fp8", "float16; got 'fp8'"),
        ("cpu", "tf32", "use --device cuda or --precision float32"),
    ],
)
def test_an_invalid_setting_is_refused(device, precision, said):
    with pytest.raises(ConfigError) as refused:
        Setting(device, precision)
    assert said in str(refused.value)


def test_a_setting_is_one_precision_for_all():
    found = {p: Setting("cuda", p) for p in PRECISIONS}
    assert [s.dtype for s in found.values()] == ["float32", "float64", *["float32"] * 3]
    assert [s.narrow for s in found.values()] == [None, None, None, "bfloat16", "float16"]
    assert found["bfloat16"].mixed.dtype == "bfloat16"
    assert found["tf32"].mixed is None


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_setting_tells_the_backend_of_tf32(precision, monkeypatch):
    told = []
    monkeypatch.setattr(backend_class("numpy"), "allow_tf32", lambda self, on: told.append(on))
    monkeypatch.setattr(
        "xpnet.bench.setting.get_backend", lambda *given: get_backend("numpy", "cpu", given[2])
    )
    Setting("cuda", precision).backend("cupy")
    assert told == [precision == "tf32"]


def test_the_flops_are_those_of_the_products():
    """They are x W and dW of each layer, and the second layer's input gradient."""
    assert TINY.flops() == 2 * 5 * (2 * 4 * 3 + 3 * 3 * 2)
    assert [str(networks[0]) for networks in (STANDARD, STANDARD_ON_GPU)] == ["64-32-10:32:sgd"] * 2


def test_the_products_are_those_of_a_step():
    listed = products(TINY, np.array, np.array)
    assert [out.shape for _, _, out in listed] == [(5, 3), (5, 2), (3, 2), (5, 3), (4, 3)]
    for left, right, out in listed:
        assert (left @ right).shape == out.shape
        assert np.all(out)  # a GPU is faster on zeros
    flops = sum(2 * left.shape[0] * left.shape[1] * out.shape[1] for left, _, out in listed)
    assert flops == TINY.flops()


# -- a simulated GPU -------------------------------------------------------------------------------


@pytest.mark.long_but(narrow=["float16"])
@pytest.mark.parametrize("narrow", [None, "float16", "bfloat16"])
def test_the_limit_of_a_gpu_is_a_graph_of_the_same_products(narrow, folder):
    executor = CpuExecutor("float32", folder, narrow=narrow)
    contender = replayed_products(TINY, executor)
    for _ in range(2):
        contender.step()
    contender.wait()
    assert contender.note() == "a CUDA graph of 5 cuBLAS calls"
    assert executor.counts["replay"] == 2
    assert len(executor.cublas_lt.ran) == 3 * 5  # once before the graph


def test_the_limit_of_a_gpu_computes_in_the_dtypes_of_the_step(folder):
    executor, given = CpuExecutor("float32", folder, narrow="bfloat16"), []
    product = executor.product
    executor.product = lambda *triple: given.append(triple) or product(*triple)
    replayed_products(TINY, executor)
    dtypes = [[str(x.dtype) for x in triple] for triple in given]
    narrow, of_weights = ["uint16"] * 3, ["uint16", "uint16", "float32"]
    assert dtypes == [narrow, narrow, of_weights, narrow, of_weights]
    assert {x.shape for triple in given for x in triple} == {(5, 8), (8, 5), (8, 8)}  # padded
    x, W, z = (widened(x, np.float32) for x in given[0])
    np.testing.assert_allclose(z, x @ W, rtol=2**-7, atol=2**-9)
    places = [x.ctypes.data for triple in given for x in triple]
    assert len(set(places)) == 2 + 3 + 3 - 1 + 2  # W, a, da, dW; the input has no gradient


@pytest.mark.parametrize("narrow", [None, "bfloat16"])
def test_the_limit_with_the_bytes_of_a_step_also_copies_as_many(narrow, folder):
    executor = CpuExecutor("float32", folder, narrow=narrow)
    moved = sum(moved_bytes(TINY, Setting("cuda", narrow or "float32")).values())
    contender = replayed_products(TINY, executor, moved)
    contender.step()
    assert executor.counts["replay"] == 1
    assert executor.launched == {"copied"}
    x, y = executor.guarded[-1], executor.guarded[-2]
    assert 0 <= moved - (x.nbytes + y.nbytes - 4 * GUARD * 4) < 8
    np.testing.assert_array_equal(x, y)
    executor.check_guards()
    assert contender.note() == (
        f"a CUDA graph of 5 cuBLAS calls and a copy of {moved / 1e6:.2f} MB, read and written"
    )


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_launches_of_a_step_are_timed_by_kernel(precision, rule, folder, monkeypatch):
    monkeypatch.setattr(launching, "SLICE", 1e-4)
    setting = Setting("cuda", precision)
    executor = CpuExecutor("float32", folder, narrow=setting.narrow)
    parts = launching.launches(parse_network(f"4-3-2:5:{rule}"), setting, executor)
    kernels = {"matrix products", "bias_activation", "softmax_cross_entropy"}
    assert kernels <= parts.keys()
    assert any(name.startswith(rule) for name in parts)
    assert list(parts)[-2:] == ["between", "host"]
    assert all(spent >= 0 for spent in parts.values())


def test_a_step_without_a_graph_is_not_profiled(folder):
    executor = CpuExecutor("float32", folder, can_capture=False)
    with pytest.raises(BackendError, match="not a CUDA graph: eager: this executor was"):
        launching.launches(TINY, Setting("cuda"), executor)


class Emulated(FusedNumpy):
    """NumPy with the GPU's step, describing itself as CuPy does."""

    def describe(self):
        return super().describe() | FACTS["gpu"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_command_on_a_gpu_from_its_rows_to_its_reports(
    precision, folder, tmp_path, monkeypatch, capsys
):
    def backend(setting, name):
        if name != "cupy":
            msg = f"{name} sees no GPU"
            raise BackendError(msg)
        return Emulated(folder, setting.dtype)

    def executor(device, dtype, *, tf32, narrow):
        return CpuExecutor(dtype, folder, narrow=narrow)

    monkeypatch.setattr(Setting, "backend", backend)
    monkeypatch.setattr("xpnet.kernels.cuda.executor.CupyExecutor", executor)
    monkeypatch.setattr(launching, "SLICE", 1e-4)
    out, markdown = tmp_path / "bench.json", tmp_path / "bench.md"
    arguments = ["--device", "cuda", "--precision", precision, "--rows", str(TINY), "--profile"]
    arguments += ["--rounds", "1", "--json-file", str(out), "--markdown", str(markdown)]
    conditions = ["ratio<=1000000", "ratio/JAX jit<1"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments, *(word for c in conditions for word in ("--expect", c))])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert printed.err == f"not as expected: {TINY}: JAX jit was not timed\n"
    assert f"{TINY}, {precision} on cuda" in printed.out
    assert "TFLOP/s" in printed.out
    assert "not timed: xpnet torch: torch sees no GPU" in printed.out
    (row,) = json.loads(out.read_text("utf-8"))["rows"]
    notes = {name: timing["note"] for name, timing in row["timings"].items()}
    assert notes["xpnet cupy"].startswith("CUDA graph of 16 steps, ")
    assert notes["xpnet cupy"].endswith("; 16 steps at once, as Trainer.fit takes them")
    assert "at once" not in notes["xpnet cupy, single steps"]
    assert row["timings"]["GEMM limit"]["note"] == "a CUDA graph of 5 cuBLAS calls"
    assert "matrix products" in row["profiles"]["xpnet cupy"]
    assert f"in {precision};" in markdown.read_text("utf-8")


@pytest.mark.parametrize("calls", [1, 7, 8, 21])
def test_every_call_is_a_step_however_many_are_taken_at_once(calls, folder, monkeypatch):
    engines = []

    class Noted(Engine):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            engines.append(self)

    monkeypatch.setattr(sys.modules["xpnet.bench.contenders"], "Engine", Noted)
    monkeypatch.setattr(Setting, "backend", lambda *given: Emulated(folder, "float32"))
    monkeypatch.setattr(FusedStep, "at_once", lambda self, rows: 8)
    states = []
    for name, before in (("xpnet cupy", 0), ("xpnet cupy, single steps", 16)):
        contender = ON_GPU[name](TINY, Setting("cuda"))
        for _ in range(before + calls):
            contender.step()
        contender.wait()
        contender.wait()
        states.append(engines[-1].state.params.tobytes())
    assert states[0] == states[1]


@pytest.fixture
def cpu_called_cuda(monkeypatch):
    """Let PyTorch and JAX take a GPU's step on a CPU; a CUDA graph replays what was recorded."""
    torch = pytest.importorskip("torch", reason="the stand-in is PyTorch on a CPU")
    monkeypatch.setattr(Setting, "backend", lambda self, name: get_backend(name, "cpu", self.dtype))
    done = []
    stream = SimpleNamespace(wait_stream=done.append)
    for name, value in {
        "synchronize": lambda device: done.append("waited"),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda side: contextlib.nullcontext(),
        "graph": lambda graph, capture_error_mode: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: done.append("replayed")),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return done


@pytest.mark.parametrize("name", ["PyTorch eager", "PyTorch CUDA graph", "JAX jit", "xpnet torch"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_contender_of_a_gpu_takes_steps_where_it_is(name, precision, cpu_called_cuda):
    assert name in ON_GPU
    reason = takes_steps(name, Setting("cuda", precision))
    assert reason is None or "pip install" in reason
    assert ("waited" in cpu_called_cuda) == name.startswith("PyTorch")
    assert ("replayed" in cpu_called_cuda) == (name == "PyTorch CUDA graph")


# Without a GPU these tests are not collected, rather than each being skipped.
PRECISE = ("float32", "tf32", "bfloat16") if "cupy" in AVAILABLE else ()
REAL = [(name, p) for name in ON_GPU if "compile" not in name for p in PRECISE]


@pytest.mark.parametrize(("name", "precision"), REAL)
def test_every_contender_takes_steps_on_a_real_gpu_or_says_why_not(name, precision):
    reason = takes_steps(name, Setting("cuda", precision))
    assert reason is None or name not in (LIMIT, "xpnet cupy")
    ran["cupy"] += 1


@pytest.mark.parametrize("precision", PRECISE)
def test_the_launches_of_a_step_on_a_real_gpu_are_timed(precision):
    assert launching.profile_gpu(TINY, Setting("cuda", precision))["matrix products"] > 0
    ran["cupy"] += 1


@pytest.mark.long
def test_every_library_is_kept_to_the_cores_asked_for(tmp_path):
    words = ["--threads", "1", "--rows", "8-4:4:sgd", "--rounds", "1"]
    words += [
        "--only",
        "PyTorch eager",
        "--only",
        "xpnet numpy",
        "--json-file",
        str(tmp_path / "b.json"),
    ]
    subprocess.run(
        [sys.executable, "-m", "xpnet", "bench", *words], check=True, capture_output=True
    )
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["machine"]["cores"] == 1
    assert found["machine"]["threads"]["OPENBLAS_NUM_THREADS"] == "1"
    note = found["rows"][0]["timings"].get("PyTorch eager", {"note": "1 threads"})["note"]
    assert "1 threads" in note


def test_a_cuda_graph_of_pytorch_needs_a_gpu():
    pytest.importorskip("torch", reason="PyTorch raises it")
    from xpnet.bench.peers import torch_graphed

    with pytest.raises(BackendError, match="needs a GPU: use --device cuda; got 'cpu'"):
        torch_graphed((4, 2), "sgd", 0.1, *TINY.batch("float32"), CPU)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda"], "device 'cuda' needs an NVIDIA GPU with its driver"),
        (["--device", "gpu"], "--device must be cpu, cuda or cuda:N; got 'gpu'"),
        (["--precision", "tf32"], "use --device cuda"),
        (["--precision", "bfloat16"], "the GEMM limit on a CPU is NumPy's"),
        (["--only", "xpnet cupy"], "unknown contender 'xpnet cupy' on cpu"),
        (["--model", "H20"], "unknown GPU 'H20'; did you mean 'H200'"),
        (
            ["--model", "H200", "--crossover"],
            "--scale, --scaling and --model are different things: choose one",
        ),
        (["--crossover"], "the second contender cannot run: device 'cuda' needs"),
        (["--crossover", "--only", "xpnet numpy"], "takes two --only contenders, or none"),
        (["--rows", "4-1000000000-2:5:sgd"], "takes widths and batch sizes below 10^9"),
        (["--rows", f"4-2:{10**20}:sgd"], "takes widths and batch sizes below 10^9"),
        (["--threads", "1"], "must be set before NumPy is loaded"),
        (
            ["--json-file", "nowhere/b.json"],
            "cannot write nowhere/b.json: 'nowhere' is not a folder",
        ),
    ],
)
def test_the_command_refuses_in_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", stub_of_cupy(0))
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--rounds", "1", *arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert said in printed


def test_a_ratio_is_to_the_limit_or_to_another_contender():
    row = timed(xpnet_numpy=12.0, PyTorch_eager=60.0)
    assert row.ratio("xpnet numpy") == 1.2
    assert row.ratio("xpnet numpy", "PyTorch eager") == 0.2
    assert row.rate(LIMIT) == pytest.approx(420 / 10e-6 / 1e12)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("ratio<=1.2", True),
        ("ratio<1.2", False),
        ("ratio<=1.1", False),
        ("ratio/PyTorch eager<1", True),
        ("ratio/PyTorch eager<=0.1", False),
        ("4-3-2:5:sgd ratio<=1", False),
        ("9-3-2:5:sgd ratio<=1", True),  # another row
        ("ratio/JAX jit<1", False),  # not timed: a condition that was not checked does not hold
    ],
)
def test_a_condition_holds_or_names_its_failure(condition, holds):
    row = timed(xpnet_numpy=12.0, PyTorch_eager=60.0)
    failure = Expectation.parse(condition).failure(row, "xpnet numpy")
    assert (failure is None) == holds
    if not holds:
        assert failure.startswith("4-3-2:5:sgd: ")


@pytest.mark.parametrize("text", ["ratio", "ratio=1", "speed<=1", "ratio<=fast"])
def test_an_invalid_condition_is_refused(text):
    with pytest.raises(ConfigError, match="--expect takes"):
        Expectation.parse(text)


@pytest.mark.parametrize("text", ["64", "64-10:32", "64-10:32:sdg", "0-10:32:sgd"])
def test_an_invalid_row_is_refused(text):
    with pytest.raises(ConfigError):
        parse_network(text)


def test_the_reports_hold_what_was_measured(tmp_path):
    row = timed(xpnet_numpy=12.0)._replace(profiles={"xpnet numpy": {"data": 1.0, "loss": 2.5}})
    facts = {k: v for k, v in FACTS.items() if k != "gpu"}
    data = to_json([row], CPU, facts)
    assert data["rows"][0]["timings"]["xpnet numpy"]["ratio"] == 1.2
    assert data["machine"] == facts
    text = to_markdown([row], CPU, facts)
    assert "| 4-3-2:5:sgd | 10.0 | 12.0 (1.20) |" in text
    assert "- 4-3-2:5:sgd: xpnet numpy: 3.5 = data 1.0, loss 2.5" in text
    assert "GPU" not in text
    pytest.importorskip("matplotlib", reason="a plot needs it: pip install '.[bench]'")
    plot([row], str(tmp_path / "ratios.svg"))
    assert (tmp_path / "ratios.svg").stat().st_size > 1000


def test_the_reports_of_a_gpu_say_which_what_precision_and_what_rate():
    network = parse_network("8192-8192-8192-8192:4096:sgd")
    times = {LIMIT: 10_000.0, BYTES_LIMIT: 10_500.0, "xpnet cupy": 11_000.0}
    timings = {name: Timing(t, t, t, "CUDA graph") for name, t in times.items()}
    row = Row(network, timings, {"JAX jit": "JAX sees no GPU"},
              {"xpnet cupy": {"sgd": 600.0, "host": 3.0}},
              {"xpnet cupy": {"sgd": 2_400_000_000}})  # fmt: skip
    setting = Setting("cuda", "tf32")
    data = json.loads(json.dumps(to_json([row], setting, FACTS)))
    assert (data["device"], data["precision"]) == ("cuda", "tf32")
    assert data["machine"]["gpu"]["gpu"] == "NVIDIA H100"
    found = data["rows"][0]["timings"]["xpnet cupy"]
    assert found["tflops"] == pytest.approx(network.flops() / 11e-3 / 1e12)
    assert found["share"] == pytest.approx(10 / 11)
    assert found["ratio_with_bytes"] == pytest.approx(110 / 105)
    text = to_markdown([row], setting, FACTS)
    assert "| 10,000 | 10,500 (1.05) | 11,000 (1.10, 1.05) |" in text
    assert "the ratio to the GEMM limit, and that to its products and bytes copied." in text
    assert "xpnet cupy: 603.0 = sgd 600.0 (4.00 TB/s), host 3.0" in text
    assert "in tf32;" in text
    assert "NVIDIA H100, driver 580.1 (CUDA 13.1), CUDA 13.0; a CPU, 16 cores" in text
    assert "| 400 (91%) |" in text
    assert "- JAX jit: JAX sees no GPU" in text


@pytest.mark.parametrize(("condition", "code"), [("ratio<=1e9", 2), ("ratio<=1000000", 0)])
def test_the_command_exits_by_its_conditions(condition, code, tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = ["bench", "--rows", str(TINY), "--only", "xpnet numpy", "--rounds", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--expect", condition, "--json-file", str(out)])
    assert ended.value.code == code
    if code == 0:
        assert json.loads(out.read_text("utf-8"))["rows"][0]["network"] == str(TINY)


def test_a_missed_condition_exits_with_1(capsys):
    arguments = ["bench", "--rows", str(TINY), "--only", "xpnet numpy", "--rounds", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--expect", "ratio<=0"])
    assert ended.value.code == 1
    assert "not as expected: 4-3-2:5:sgd: xpnet numpy takes" in capsys.readouterr().err


def test_the_crossover_is_the_first_width_at_which_the_second_is_ahead(monkeypatch):
    def measured(network, makes, rounds):
        assert makes == {"first": "one", "second": "other"}
        times = {"first": network.widths[0], "second": 100.0 if network.batch_size < 512 else 1e4}
        return Row(network, {name: Timing(t, t, t, "") for name, t in times.items()}, {})

    monkeypatch.setattr("xpnet.bench.crossover.measure", measured)
    found = list(find_crossover("one", "other", 1))
    assert [crossing.batch for crossing in found] == list(BATCHES)
    assert [crossing.width for crossing in found] == [128, 128, None, None]
    said = found[0].sentence("cpu", "cuda")
    assert said == "batch 32: cuda overtakes cpu at width 128 (1.3 times as fast)"
    said = found[-1].sentence("cpu", "cuda")
    assert said == f"batch {BATCHES[-1]}: cpu is faster up to width {WIDTHS[-1]}"


def test_a_measurement_that_is_stopped_has_kept_its_rows(tmp_path, monkeypatch, capsys):
    rows = iter([timed(xpnet_numpy=30.0)])

    def measured(*given, **options):
        for row in rows:
            return row
        raise KeyboardInterrupt

    monkeypatch.setattr("xpnet.cli.benches.measure", measured)
    files = tmp_path / "bench.json", tmp_path / "bench.md"
    command = ["bench", "--rows", str(TINY), "--rows", "8-3-2:5:sgd", "--expect", "ratio<=2"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--json-file", str(files[0]), "--markdown", str(files[1])])
    assert ended.value.code == 130
    assert [row["network"] for row in json.loads(files[0].read_text())["rows"]] == [str(TINY)]
    assert f"| {TINY} | 10.0 | 30.0 (3.00) |" in files[1].read_text("utf-8")
    assert "not as expected: 4-3-2:5:sgd: xpnet numpy takes 3.00" in capsys.readouterr().err


def test_the_command_writes_the_crossings_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("xpnet.bench.crossover.BATCHES", (2,))
    monkeypatch.setattr("xpnet.bench.crossover.WIDTHS", (4,))
    pair, out = ["xpnet numpy, portable", "xpnet numpy"], tmp_path / "crossings.json"
    arguments = ["--only", pair[0], "--only", pair[1], "--rounds", "1", "--json-file", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--crossover", *arguments])
    assert ended.value.code == 0
    data = json.loads(out.read_text("utf-8"))
    assert [data["first"], data["second"]] == pair
    assert data["crossings"][0]["batch"] == 2
    assert capsys.readouterr().out.startswith("batch 2: xpnet numpy")


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_profile_names_every_part(rule, portable, monkeypatch):
    from xpnet.bench import profile

    monkeypatch.setattr(profile, "SLICE", 0.001)
    parts = profile.profile(parse_network(f"4-3-2:5:{rule}"), "float32", portable=portable)
    assert tuple(parts) == profile.PARTS
    assert all(time >= 0 for time in parts.values())
    assert all(parts[name] > 0 for name in ("data", "forward", "loss", "backward", "optimizer"))


def test_the_command_profiles_the_contenders_that_it_times(capsys, monkeypatch):
    def profiled(network, dtype, *, portable=False):
        if portable:
            msg = "it cannot be profiled"
            raise BackendError(msg)
        return {"data": 1.0, "Python": 2.0}

    monkeypatch.setattr("xpnet.bench.profile.profile", profiled)
    names = ["xpnet numpy", "xpnet numpy, portable"]
    arguments = ["bench", "--rows", str(TINY), "--rounds", "1", "--profile"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *(word for name in names for word in ("--only", name))])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "µs of xpnet numpy: 3.0 = data 1.0, Python 2.0\n" in printed
    assert "not profiled: xpnet numpy, portable: it cannot be profiled\n" in printed


def test_the_command_prints_a_model_without_a_gpu(capsys, tmp_path):
    tables = tmp_path / "model.md"
    arguments = ["--precision", "bfloat16", "--rows", "4-3-2:5:adam", "--markdown", str(tables)]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--model", "H200", "--json", *arguments])
    assert ended.value.code == 0
    done = capsys.readouterr()
    data = json.loads(done.out)
    assert (data["gpu"], data["rows"][0]["launches"]) == ("H200", 9)
    names = {part["name"] for part in data["rows"][0]["parts"]}
    assert names >= {"adam", "matrix products"}
    assert "9 launches: " in done.err
    assert "| 4-3-2:5:adam | 9 |" in tables.read_text()
