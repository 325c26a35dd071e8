"""scripts/gpu-report without a GPU: its rehearsal, its limits, and what it makes of answers."""

import argparse
import doctest
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_on_cpu import CpuExecutor
from test_backend_choice import stub_of_cupy
from test_cuda_step import PLANTED

from xpnet import backends
from xpnet.kernels.cuda import executor as executors
from xpnet.nn import BatchNorm, Dense, Tanh
from xpnet.optim.optimizers import SGD

if os.name != "posix":
    pytest.skip("the scripts are for POSIX", allow_module_level=True)
SCRIPTS = Path(__file__).parents[2] / "scripts"
MODULES = ("card", "counters", "curves", "graphs", "keeping", "libraries", "plan", "ranks",
           "recording", "replays", "running", "sanitizer", "standin", "subject", "tools",
           "training", "wheels", "writing", "xpnet")  # fmt: skip


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("gpu_report")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def gpu(report):
    """The modules of the stages."""
    modules = {name: importlib.import_module(f"gpu.{name}") for name in MODULES}
    return argparse.Namespace(**modules)


def program(code):
    return [sys.executable, "-c", code]


def options(folder, *more, seconds=60.0):
    argv = [str(folder), "--seconds", str(seconds), "--wheels", str(folder / "none"), *more]
    return importlib.import_module("gpu_report").parsed(argv)[1]


# -- the whole ------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_rehearsal_runs_every_stage(report, gpu, tmp_path):
    """As on a GPU, from a checkout without .git, with a commit that the wheels' folder names."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed, which compiles the CUDA kernels for the CPU")
    pytest.importorskip("torch", reason="the rehearsal runs PyTorch's tests")
    pytest.importorskip("jax", reason="the rehearsal runs JAX's tests")
    root, out = tmp_path / "checkout", tmp_path / "report"
    for name in ("scripts", "tests", "xpnet"):
        shutil.copytree(SCRIPTS.parent / name, root / name)
    shutil.copy(SCRIPTS.parent / "pyproject.toml", root)
    (root / ".whl").mkdir()
    (root / ".whl/COMMIT").write_text("v1-7-gabcdef0\n")
    command = ["bash", str(root / "scripts/gpu-report"), str(out), "--rehearse"]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    path = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    env["PATH"] = path
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    kept = json.loads((out / "gpu-report.json").read_text())
    outcomes = {stage["name"]: stage["outcome"] for stage in kept["stages"]}
    assert set(outcomes.values()) == {"passed"}, f"{outcomes}\n{done.stdout}{done.stderr}"
    assert list(outcomes) == [stage.name for stage in gpu.plan.stages(tmp_path, False)]
    assert done.returncode == 0
    assert kept["commit"] == "v1-7-gabcdef0"
    assert gpu.writing.findings(kept["stages"])[0] == []
    assert sorted(p.name for p in out.iterdir()) == ["gpu-report.json", "gpu-report.md"]
    text = (out / "gpu-report.md").read_text()
    assert text.startswith("# A rehearsal on a CPU: nothing here ran on a GPU\n")
    for said in ("0 of 8 replays differ", "same bits", "softmax_cross_entropy", "sm 1755 MHz"):
        assert said in text


def test_the_limits_of_the_stages_add_up_to_the_whole(report, gpu, tmp_path):
    for rehearse in (False, True):
        stages = gpu.plan.stages(tmp_path, rehearse)
        given = ["out", *(["--rehearse"] if rehearse else [])]
        assert sum(stage.seconds for stage in stages) == report.parsed(given)[1].seconds
        assert not {"JSON", "MD"} & {word for s in stages for word in s.command}
    assert gpu.plan.WHOLE <= 575


def test_what_is_timed_remembers_nothing_of_what_ran_beside_others(gpu, tmp_path):
    """Such as the algorithm that was the fastest while 12 processes shared the GPU."""
    caches = {}
    for stage in gpu.plan.stages(tmp_path, False):
        found = [w for w in stage.command if w.startswith("XPNET_CACHE_DIR=")]
        caches[stage.name] = found[0] if found else None
    timed = {name for name, cache in caches.items() if cache == caches["bench bfloat16"]}
    assert {"graphs", "kernels", "profile", "bench tf32", "bench float32"} < timed
    assert not {"tests", "sanitizer", "replays"} & timed


def test_a_stage_has_its_own_limit_and_what_the_ones_before_it_have_left(gpu):
    stages = [gpu.plan.Stage(name, seconds, []) for name, seconds in (("a", 20), ("b", 5))]
    assert gpu.running.limits(stages, 25.0) == 20
    assert gpu.running.limits(stages, 40.0) == 35
    assert gpu.running.limits(stages, 10.0) == 10
    assert gpu.running.limits(stages[1:], 3.0) == 3


def test_a_rehearsal_sees_no_gpu(gpu, tmp_path, monkeypatch):
    monkeypatch.delenv("XPNET_GPU_REHEARSAL", raising=False)
    given = gpu.running.environment(tmp_path, True)
    assert given["CUDA_VISIBLE_DEVICES"] == ""
    assert Path(given["XPNET_GPU_REHEARSAL"]).is_dir()
    assert shutil.which("ncu", path=given["PATH"]) == str(SCRIPTS / "gpu/standins/ncu")
    real = gpu.running.environment(tmp_path, False, tmp_path / "site")
    assert "XPNET_GPU_REHEARSAL" not in real
    assert real["CUPY_NVRTC_USE_PCH"] == "1"
    assert str(tmp_path / "site") in real["PYTHONPATH"].split(os.pathsep)


# -- one stage after the other --------------------------------------------------------------------


def test_a_stage_that_fails_or_takes_too_long_is_recorded_and_the_rest_runs(report, gpu, tmp_path):
    Stage = gpu.plan.Stage
    figures, table, torn = tmp_path / "a.json", tmp_path / "a.md", tmp_path / "torn.json"
    good = f"open({str(figures)!r}, 'w').write('[1.5]'); open({str(table)!r}, 'w').write('| x |')"
    slow = f"open({str(torn)!r}, 'w').write('[1'); import time; time.sleep(60)"
    bad = "import sys; print('why it failed'); sys.exit(7)"
    found = {"missed": ["a bound"], "near": ["another one"]}
    judged = f"import json; open({str(tmp_path / 'j.json')!r}, 'w').write({json.dumps(found)!r})"
    stages = [  # the slow one first: those after others have what these leave, too
        Stage("slow", 1, program(slow), torn),
        Stage("good", 20, program(good), figures, table),
        Stage("bad", 20, program(bad)),
        Stage("absent", 20, [str(tmp_path / "no-such-program")]),
        Stage("judged", 20, program(judged), tmp_path / "j.json"),
        Stage("slower", 20, program("import sys; print('not as expected: x'); sys.exit(1)")),
    ]  # fmt: skip
    kept = tmp_path / "kept"
    made = report.campaign(stages, options(kept, seconds=sum(s.seconds for s in stages)),
                           dict(os.environ))  # fmt: skip
    outcomes = {s["name"]: s["outcome"] for s in made["stages"]}
    assert outcomes.pop("absent").startswith("could not be started: ")
    assert outcomes.pop("slow").startswith("stopped after ")
    assert outcomes == {
        "good": "passed",
        "bad": "failed with exit code 7",
        "judged": "passed",
        "slower": "failed with exit code 1",
    }
    assert json.loads((kept / "gpu-report.json").read_text()) == made
    assert made["stages"][0]["found"] is None
    assert made["stages"][1]["found"] == [1.5]
    text = (kept / "gpu-report.md").read_text()
    assert text.startswith("# What ran on a GPU\n")
    assert "| bad | failed with exit code 7 |" in text
    assert "## good: passed\n\n| x |\n" in text
    assert "why it failed" in text
    refuted = text.partition("## What was refuted or missed\n\n")[2].partition("## slow")[0]
    assert "- bad: failed with exit code 7\n" in refuted
    assert "- judged: a bound\n" in refuted
    assert "- slower: x\n" in refuted
    assert "Near a bound:\n\n- judged: another one\n" in refuted


def test_no_stage_starts_when_no_time_is_left(report, gpu, tmp_path):
    stages = [gpu.plan.Stage("late", 9, ["false"])]
    made = report.campaign(stages, options(tmp_path, "--rehearse", seconds=0.0), {})
    assert made["stages"][0]["outcome"] == "not run: no time was left"


def test_a_stage_that_is_stopped_may_say_what_it_found(report, gpu, tmp_path):
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('found so far')"
    stage = gpu.plan.Stage("slow", 2.0, program(code))
    record = gpu.running.run(stage, 2.0, dict(os.environ))
    assert record["outcome"] == "stopped after 2 s"
    assert record["output"] == ["found so far"]


def test_a_stage_is_told_how_long_its_own_processes_may_take(gpu):
    command = [*program("import sys; print(sys.argv[1])"), gpu.plan.LIMIT]
    record = gpu.running.run(gpu.plan.Stage("told", 60, command), 60, dict(os.environ))
    assert 0 < int(record["output"][0]) < 60 - gpu.tools.GRACE


def test_a_report_that_is_interrupted_has_been_written(report, gpu, tmp_path, monkeypatch):
    def interrupt(process, *given):
        process.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu.running, "stopped", interrupt)
    stages = [gpu.plan.Stage("first", 9, ["true"]), gpu.plan.Stage("second", 9, ["true"])]
    made = report.campaign(stages, options(tmp_path), dict(os.environ))
    assert [s["outcome"] for s in made["stages"]] == ["interrupted by a signal"]
    assert "| first | interrupted by a signal |" in (tmp_path / "gpu-report.md").read_text()


@pytest.mark.long
def test_the_child_processes_of_a_stage_end_with_it(gpu, tmp_path):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.call([sys.executable, '-c', {child!r}])"
    gpu.running.run(gpu.plan.Stage("slow", 0.5, program(parent)), 0.5, {})
    time.sleep(2)
    assert not alive.exists()


def test_of_much_output_the_begin_and_the_end_are_kept(gpu):
    stage = gpu.plan.Stage("loud", 9, program("print('\\n'.join(map(str, range(1000))))"))
    lines = gpu.running.run(stage, 9, dict(os.environ))["output"]
    assert (lines[0], lines[-1]) == ("0", "999")
    assert "... 860 lines ..." in lines


# -- what it needs --------------------------------------------------------------------------------


@pytest.mark.parametrize(("gpus", "message"), [(0, "needs an NVIDIA GPU with its driver"), (1, "")])
def test_the_report_needs_a_gpu(gpus, message, report, gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stub_of_cupy(gpus))
    reason = report.missing(False)
    assert message in reason
    assert bool(reason) == bool(message)
    monkeypatch.setitem(gpu.wheels.NEEDED, "no_such_module", "some-package")
    assert report.missing(True).startswith("not installed: pip install some-package, or carry")


def test_a_missing_gpu_is_exit_code_3_and_nothing_is_written(report, tmp_path, monkeypatch, capsys):
    out = tmp_path / "report"
    monkeypatch.setattr(report, "missing", lambda rehearse: "a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu-report", str(out)])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert (ended.value.code, capsys.readouterr().err) == (3, "gpu-report: a GPU\n")
    assert not out.exists()


@pytest.mark.parametrize(("outcome", "code"), [("passed", 0), ("failed with exit code 1", 1)])
def test_the_exit_code_tells_whether_all_stages_passed(
    outcome, code, report, tmp_path, monkeypatch, capsys
):
    chosen = []

    def campaign(stages, options, env):
        chosen.extend(stage.name for stage in stages)
        stage = {"name": "curves", "outcome": outcome, "found": None, "output": []}
        return {"stages": [stage]}

    monkeypatch.setattr(report, "campaign", campaign)
    monkeypatch.setattr(report, "missing", lambda rehearse: "")
    arguments = ["gpu-report", str(tmp_path), "--rehearse", "--only", "curves"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == code
    assert chosen == ["curves"]
    assert ("- curves: failed" in capsys.readouterr().out) == bool(code)
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "curve"])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == 2
    assert "no stage 'curve'; they are: environment, rates, tests" in capsys.readouterr().err


def test_the_commit_is_given_or_git_s_or_that_of_the_wheels(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.delenv("XPNET_COMMIT", raising=False)
    assert report.commit(None, tmp_path) == "unknown"
    (tmp_path / "COMMIT").write_text("abc\n")
    assert report.commit(None, tmp_path) == "abc"
    monkeypatch.setenv("XPNET_COMMIT", "def")
    assert report.commit(None, tmp_path) == "def"
    assert report.commit("123", tmp_path) == "123"


@pytest.mark.long
def test_what_is_missing_is_installed_from_wheels_and_nothing_else(gpu, tmp_path, monkeypatch):
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    for name in ("some_package", "not_needed"):
        info = f"{name}-1.0.dist-info"
        files = {
            f"{name}.py": "",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setitem(gpu.wheels.NEEDED, "some_package", "some-package")
    assert gpu.wheels.absent() == ["some-package"]
    assert gpu.wheels.install(wheels, site) == ""
    assert gpu.wheels.absent() == []
    assert (site / "some_package.py").exists()
    assert not (site / "not_needed.py").exists()
    (wheels / "some_package-1.0-py3-none-any.whl").write_text("no wheel")
    monkeypatch.setitem(gpu.wheels.NEEDED, "another", "some-package")
    assert "some_package" in gpu.wheels.install(wheels, site)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_right(name, gpu):
    assert doctest.testmod(getattr(gpu, name)).failed == 0


# -- what stages make of what they read -----------------------------------------------------------


def test_a_bound_that_is_exceeded_is_missed_and_half_of_it_is_near(gpu, tmp_path):
    kept = gpu.keeping.Kept(tmp_path / "a.json")
    assert kept.within("small", 1e-5, 1e-4)
    assert kept.code == 0
    assert kept.within("large", 9e-5, 1e-4)
    assert not kept.within("too large", 2e-4, 1e-4)
    assert not kept.within("not finite", float("nan"), 1e-4)
    found = json.loads((tmp_path / "a.json").read_text())
    assert [s.partition(":")[0] for s in found["missed"]] == ["too large", "not finite"]
    assert [s.partition(":")[0] for s in found["near"]] == ["large"]
    assert kept.code == 1


def test_the_clocks_are_those_of_the_first_gpu_and_say_what_slowed_it_down(gpu):
    text = (SCRIPTS / "gpu/standins/nvidia-smi.txt").read_text()
    before = gpu.card.answered(text)
    assert before["sm"] == "1755 MHz"
    assert before["sm max"] == "1980 MHz"
    assert before["power"] == "688.10 W"
    assert before["active"] == ["SW Power Cap"]
    assert before["slowed"]["SW Power Capping"] == 1200345
    after = gpu.card.answered(text.replace("1200345", "3200345").replace("1755 MHz", "1200 MHz"))
    assert gpu.card.throttled(before, after) == {"SW Power Capping": 2_000_000}
    line = gpu.card.clocks_line(before, after)
    assert "after: sm 1200 MHz" in line
    assert line.endswith("slowed down by SW Power Capping for 2.00 s.")
    assert gpu.card.clocks_line({}, {}) == ""


DOT = """digraph dot {
subgraph cluster_1 {
label="graph_1" graph[style="dashed"];
"graph_1_node_0"[style="bold" shape="octagon" label="0
nvjet_tst_64x8_64x16_4x1_v_bz_NNT
"];
"graph_1_node_1"[style="bold" shape="octagon" label="1
sgd_86d02d9f87
"];
"graph_1_node_2"[style="bold" shape="octagon" label="2
sgd_86d02d9f87
"];
"graph_1_node_3"[style="solid" shape="rectangle" label="3
MEMSET
"];
"graph_1_node_0" -> "graph_1_node_1" [headlabel=0];
"graph_1_node_0" -> "graph_1_node_2";
"graph_1_node_2" -> "graph_1_node_3";
}
}
"""


def test_a_graph_s_nodes_are_counted_by_name_along_its_longest_path(gpu):
    found = gpu.graphs.nodes(DOT)
    assert found == {
        "nodes": 4,
        "names": {"sgd_86d02d9f87": 2, "nvjet_tst_64x8_64x16_4x1_v_bz_NNT": 1, "MEMSET": 1},
        "edges": 3,
        "longest path": 3,
    }


def test_where_the_short_text_of_a_graph_names_no_kernel_the_long_one_is_read(gpu):
    label = "{KERNEL\\n| {ID | 0 (topoId: 1) | sgd_86d02d9f87\\<\\<\\<1,32,0\\>\\>\\>}\\n"
    texts = {
        0: '"graph_1_node_0"[style="bold" label="0\nKERNEL\n"];',
        4: f'"graph_1_node_0"[style="bold" shape="record" label="{label}"];',
    }
    assert gpu.graphs.described(texts.get)["names"] == {"sgd_86d02d9f87": 1}
    assert gpu.graphs.described(lambda flags: DOT)["nodes"] == 4


MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at sgd_86d02d9f87+0x120
=========     by thread (0,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 3 errors
"""


def test_errors_of_the_sanitizer_are_counted_and_shown(gpu):
    read = gpu.sanitizer.read
    assert read(MEMCHECK).errors == 3
    assert read(MEMCHECK).lines[:2] == MEMCHECK.splitlines()[1:3]
    assert read("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors)").errors == 2
    assert read("========= ERROR SUMMARY: 0 errors") == (0, [])
    assert read("========= COMPUTE-SANITIZER") == (None, [])  # stopped, and nothing was found
    assert read("========= Invalid __shared__ read of size 4 bytes").errors == 1


@pytest.mark.parametrize(
    ("log", "output", "code", "said"),
    [
        ("========= ERROR SUMMARY: 0 errors", "25 passed in 3 s", 0, None),
        (MEMCHECK, "25 passed in 3 s", 0, "memcheck found 3 errors"),
        ("========= ERROR SUMMARY: 0 errors", "1 failed, 2 passed", 1, "did not run to its end"),
        ("========= ERROR SUMMARY: 0 errors", "no tests ran", 0, "did not run to its end"),
        ("Error: Device not supported", "", 1, "Device not supported"),
    ],
)
def test_the_sanitizer_passes_only_what_ran_to_its_end(log, output, code, said, gpu, tmp_path):
    kept = gpu.keeping.Kept(tmp_path / "kept.json")
    (tmp_path / "memcheck-0.log").write_text(log)
    (tmp_path / "memcheck-0.out").write_text(output)
    process = argparse.Namespace(returncode=code)
    gpu.sanitizer.judge(kept, "memcheck", tmp_path / "memcheck-0", process, late=False)
    assert kept.code == int(said is not None)
    assert said is None or said in kept.found["missed"][0]


COUNTED = """==PROF== Connected to process 71
==PROF== Profiling "sgd_86d02d9f87" - 0: 0%....50%....100% - 1 pass
"ID","Kernel Name","Device","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum"
"","","","byte","byte","ns"
"0","nvjet_tst(args)","0","1,000,000","500,000","1,000"
"1","sgd_86d02d9f87","0","2000000","1000000","1500"
"""


def test_counters_are_rates_beside_what_a_launch_touches(gpu):
    found = gpu.counters.read(COUNTED)
    assert found[1] == {"kernel": "sgd_86d02d9f87", "µs": 1.5, "DRAM MB": 3.0, "GB/s": 2000.0}
    launched = [
        {"label": "matrix products", "bytes": 3_000_000, "flops": 2_000_000_000},
        {"label": "sgd_of_others", "bytes": 1, "flops": 0},
        {"label": "sgd", "bytes": 4_500_000, "flops": 0},
    ]
    rows = gpu.counters.beside(found, launched)
    assert (rows[0]["kernel"], rows[0]["TFLOP/s"]) == ("nvjet_tst", pytest.approx(2000.0))
    assert (rows[1]["kernel"], rows[1]["TFLOP/s"]) == ("sgd", None)
    assert rows[1]["model GB/s"] == pytest.approx(3000.0)
    several = gpu.counters.beside([found[0], *found], launched)  # kernels for one product
    assert [row["model MB"] for row in several] == [None, None, 4.5]
    assert gpu.counters.read("==ERROR== ERR_NVGPUCTRPERM") == []


def test_a_deviation_is_a_share_of_what_is_allowed(gpu):
    share = gpu.recording.share
    assert share([1.0, 2.0], [1.0, 2.2], 0.1, 0.0) == pytest.approx(0.2 / 0.22)
    assert share([0.0], [0.0], 0.0, 0.0) == 0.0
    assert share([np.nan], [np.nan], 0.1, 0.0) == 0.0
    assert share(["a"], ["b"], 0.1, 0.0) == 0.0


RECORDED = """
import numpy as np, pytest, time

def test_that_fails(): np.testing.assert_allclose([1.0], [1.5], rtol=0.1)
def test_that_is_near(): np.testing.assert_allclose([1.0], [1.05], rtol=0.05)
def test_that_is_slow(): time.sleep(60)
"""


@pytest.mark.long
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["one process", "xdist"])
def test_a_test_run_that_is_stopped_has_kept_its_failures(workers, gpu, tmp_path):
    if workers:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    (tmp_path / "test_some.py").write_text(RECORDED)
    kept = tmp_path / "kept.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "gpu.recording", "-p", "no:benchmark",
               *workers, "--record", str(kept), "test_some.py"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}"}
    env.pop("PYTEST_ADDOPTS", None)
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    until = time.monotonic() + 40
    while time.monotonic() < until and "test_that_fails" not in (
        kept.read_text() if kept.exists() else ""
    ):
        time.sleep(0.1)
    time.sleep(0.5)
    assert gpu.tools.stopped(process, 0.0, grace=10.0)
    process.stdout.close()
    found = json.loads(kept.read_text())
    assert found["counts"]["passed"] == 1
    (failure,) = [f for f in found["failures"] if "fails" in f["test"]]
    assert "assert_allclose" in "\n".join(failure["text"])
    assert found["largest"]["test_some.py::test_that_fails"] == pytest.approx(10 / 3)
    assert "test_some.py::test_that_is_near: 95% of its tolerance" in found["near"]


@pytest.mark.long
def test_the_tools_of_a_stage_end_with_it(gpu, tmp_path):
    """They have process groups of their own, which nobody else would end."""
    tool, alive = tmp_path / "compute-sanitizer", tmp_path / "alive"
    tool.write_text(f"#!/usr/bin/env bash\nsleep 4\ntouch '{alive}'\n")
    tool.chmod(0o755)
    command = [sys.executable, "-m", "gpu.sanitizer", "60", str(tmp_path / "kept.json")]
    env = gpu.running.environment(tmp_path, False)
    env["PATH"] = os.pathsep.join([str(tmp_path), env["PATH"]])
    record = gpu.running.run(gpu.plan.Stage("sanitizer", 3.0, command), 3.0, env)
    assert record["outcome"].startswith("stopped after ")
    time.sleep(3)
    assert not alive.exists()


# -- the stages that compute ----------------------------------------------------------------------


@pytest.fixture
def stand_ins(gpu, folder, tmp_path, monkeypatch):
    """Let `cupy` mean the stand-ins, as in a rehearsal."""
    monkeypatch.setenv("XPNET_GPU_REHEARSAL", str(folder))
    monkeypatch.setattr(executors, "CupyExecutor", gpu.standin.StandInExecutor)
    monkeypatch.setitem(backends.BACKENDS, "cupy", "gpu.standin:StandInBackend")


@pytest.mark.long_but(bug=["no barrier before the sums are read"])
@pytest.mark.parametrize("bug", [None, "no barrier before the sums are read"])
def test_replays_find_a_race_that_the_check_of_the_graph_does_not(
    bug, gpu, folder, stand_ins, monkeypatch
):
    class Racy(gpu.standin.StandInExecutor):
        def __init__(self, device, dtype, *, tf32=False, narrow=None):
            CpuExecutor.__init__(self, dtype, folder, planted=PLANTED[bug] if bug else None)

    monkeypatch.setattr(executors, "CupyExecutor", Racy)
    layers = [Dense(9), BatchNorm(), Tanh(), Dense(5)]
    wrong, note = gpu.replays.differing(gpu.subject.Subject(6, layers, 301, SGD(0.1)), 6)
    assert note.startswith("CUDA graph of ")
    assert bool(wrong) == bool(bug)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_step_of_ranks_is_compared_with_the_one_without(
    wrong, gpu, folder, stand_ins, tmp_path, monkeypatch
):
    class Stream(gpu.ranks.Stream):
        def allreduce(self, x):
            if wrong:
                x[3] += 1.0

    small = gpu.subject.Subject(6, [Dense(9), Tanh(), Dense(5)], 12, SGD(0.1))
    given = {"nccl": Stream, "NAMES": ["a"], "SUBJECTS": {"a": small}, "TIMED": 1}
    for name, value in given.items():
        monkeypatch.setattr(gpu.ranks, name, value)
    kept = gpu.keeping.Kept(tmp_path / "ranks.json")
    gpu.ranks.compared(kept)
    found = kept.found["steps"]["a"]
    different = [found[way]["different"] > 0 for way in ("nccl", "nccl, 3 buckets", "host")]
    assert different == [wrong, wrong, False]
    assert found["nccl"]["step"].startswith("CUDA graph of ")
    assert found["host"]["step"].startswith("2 CUDA graphs of ")
    assert len(kept.found["missed"]) == 2 * wrong


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"losses": [2.0, 1.002]}, "against the CPU: 2.0e-03 where 1e-03 is allowed"),
        ({"losses": [2.0, np.nan]}, "against the CPU: nan"),
        ({"resumed": b"b"}, "resumed: other bits in params"),
        ({"again": b"b"}, "again: other bits in params"),
        ({"note": "eager: no"}, "the step is no graph: eager: no"),
    ],
)
def test_a_training_that_differs_is_missed(changed, said, gpu, tmp_path, monkeypatch):
    def trained(losses, bits, note="CUDA graph of 9 launches"):
        history = [{"loss": loss, "seconds": 0.5} for loss in losses]
        engine = SimpleNamespace(step=SimpleNamespace(note=note))
        return SimpleNamespace(history=history, engine=engine, bits=bits)

    losses, note = changed.get("losses", [2.0, 1.0]), changed.get("note", "CUDA graph")
    fits = iter([trained(losses, b"a", note), trained(losses, changed.get("again", b"a"))])
    monkeypatch.setenv("XPNET_GPU_REHEARSAL", str(tmp_path))
    monkeypatch.setattr(gpu.training, "fitted", lambda *given: next(fits))
    monkeypatch.setattr(
        gpu.training, "resumed", lambda case: trained(losses, changed.get("resumed", b"a"))
    )
    monkeypatch.setattr(gpu.training, "state", lambda its: {"params": its.bits})
    kept = gpu.keeping.Kept(tmp_path / "kept.json")
    case = gpu.training.Case(1e-3, repeated=True)
    row = gpu.training.run("some", case, trained([2.0, 1.0], b""), kept)
    assert kept.code == int(said is not None)
    assert said is None or said in kept.found["missed"][0]
    assert row["rows/s"] == case.rows / 0.5


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.001, 1), (np.nan, 1)])
def test_the_curves_must_agree_with_numpys(factor, code, gpu, tmp_path, monkeypatch):
    falling = np.linspace(2.0, 0.5, 60)
    monkeypatch.setattr(gpu.curves, "cases", lambda: [("cupy", "cuda:0", "float32")])
    monkeypatch.setattr(gpu.curves, "curve", lambda name, *given: (
        falling * (factor if name == "cupy" else 1.0), "CUDA graph"))  # fmt: skip
    assert gpu.curves.main("60", str(tmp_path / "curves.json")) == code


def test_a_curve_that_fails_does_not_agree_and_the_next_one_runs(gpu, tmp_path, monkeypatch):
    def curve(name, device, precision, steps):
        if precision == "bfloat16":
            msg = "no kernel image"
            raise RuntimeError(msg)
        return np.linspace(2.0, 0.5, 60), "portable" if precision == "tf32" else "CUDA graph"

    monkeypatch.setattr(gpu.curves, "curve", curve)
    kinds = ("float32", "bfloat16", "tf32")
    monkeypatch.setattr(gpu.curves, "cases", lambda: [("cupy", "cuda:0", p) for p in kinds])
    assert gpu.curves.main("60", str(tmp_path / "curves.json")) == 1
    found = json.loads((tmp_path / "curves.json").read_text())
    assert found["missed"] == [
        "cupy on cuda:0 in bfloat16: RuntimeError: no kernel image",
        "cupy on cuda:0 in tf32: the step is no graph: portable",
    ]
    assert len(found["curves"]) == 2


def test_only_the_libraries_that_see_a_gpu_are_tested_there(gpu, monkeypatch, capsys):
    libraries = gpu.libraries
    monkeypatch.delenv("XPNET_GPU_REHEARSAL", raising=False)
    monkeypatch.setenv("XPNET_TEST_BACKENDS", "")
    monkeypatch.setattr(libraries, "seen", lambda name, device: None)
    assert libraries.main("kept.json") == 0
    assert "neither PyTorch nor JAX sees cuda" in capsys.readouterr().out
    monkeypatch.setattr(libraries, "seen", lambda name, device: name == "torch")
    monkeypatch.setattr(libraries.subprocess, "call", lambda command: command)
    command = libraries.main("kept.json", "tests/ops/test_ops.py")
    assert command[3:] == [
        *("-k", "(torch-cuda) and not cupy", "--record", "kept.json"),
        *("tests/ops/test_ops.py", "--require-backend=torch-cuda"),
    ]
    assert os.environ["XPNET_TEST_BACKENDS"] == "torch-cuda"
