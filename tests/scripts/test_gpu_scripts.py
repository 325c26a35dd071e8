"""scripts/gpu-{report,bench,tests} without a GPU, with stubs of the programs that they call."""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_backend_choice import stub_of_cupy

if os.name != "posix":
    pytest.skip("the scripts are for POSIX", allow_module_level=True)
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("gpu_report"), importlib.import_module("gpu_stages")
    sys.path.remove(str(SCRIPTS))


def program(code):
    return [sys.executable, "-c", code]


# -- gpu-report ------------------------------------------------------------------------------------


def test_a_stage_that_fails_or_takes_too_long_is_recorded_and_the_rest_runs(scripts, tmp_path):
    report_of, Stage = scripts[0].campaign, scripts[0].Stage
    figures, table, torn = tmp_path / "a.json", tmp_path / "a.md", tmp_path / "torn.json"
    good = f"open({str(figures)!r}, 'w').write('[1.5]'); open({str(table)!r}, 'w').write('| x |')"
    slow = f"open({str(torn)!r}, 'w').write('[1'); import time; time.sleep(60)"
    bad = "import sys; print('why it failed'); sys.exit(7)"
    options = argparse.Namespace(seconds=30.0, rehearse=False, folder=tmp_path / "kept")
    stages = [
        Stage("good", 20, program(good), figures, table),
        Stage("bad", 20, program(bad)),
        Stage("slow", 0.5, program(slow), torn),
        Stage("absent", 20, [str(tmp_path / "no-such-program")]),
        Stage("last", 20, program("print('done')")),
    ]
    report = report_of(stages, options, dict(os.environ))
    outcomes = {s["name"]: s["outcome"] for s in report["stages"]}
    assert outcomes.pop("absent").startswith("could not be started: ")
    assert outcomes == {
        "good": "passed",
        "bad": "failed with exit code 7",
        "slow": "stopped after 0 s",
        "last": "passed",
    }
    kept = json.loads((tmp_path / "kept/gpu-report.json").read_text())
    assert kept == report
    assert kept["stages"][0]["found"] == [1.5]
    assert kept["stages"][2]["found"] is None
    text = (tmp_path / "kept/gpu-report.md").read_text()
    assert text.startswith("# What ran on a GPU\n")
    assert "| bad | failed with exit code 7 |" in text
    assert "## good: passed\n\n| x |\n" in text
    assert "why it failed" in text
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "gpu-report.json",
        "gpu-report.md",
    ]


def test_no_stage_starts_when_no_time_is_left(scripts, tmp_path):
    options = argparse.Namespace(seconds=0.0, rehearse=True, folder=tmp_path)
    report = scripts[0].campaign([scripts[0].Stage("late", 9, ["false"])], options, {})
    assert report["stages"][0]["outcome"] == "not run: no time was left"
    text = (tmp_path / "gpu-report.md").read_text()
    assert text.startswith("# A rehearsal on a CPU: nothing here ran on a GPU\n")


def test_a_stage_that_is_stopped_may_say_what_it_found(scripts, tmp_path):
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('found so far')"
    options = argparse.Namespace(seconds=9.0, rehearse=True, folder=tmp_path)
    stage = scripts[0].Stage("slow", 1.0, program(code))
    report = scripts[0].campaign([stage], options, dict(os.environ))
    assert report["stages"][0]["outcome"] == "stopped after 1 s"
    assert report["stages"][0]["output"] == ["found so far"]


@pytest.mark.long
def test_the_child_processes_of_a_stage_end_with_it(scripts, tmp_path):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.call([sys.executable, '-c', {child!r}])"
    options = argparse.Namespace(seconds=9.0, rehearse=True, folder=tmp_path)
    scripts[0].campaign([scripts[0].Stage("slow", 0.5, program(parent))], options, {})
    time.sleep(2)
    assert not alive.exists()


def test_a_rehearsal_has_the_stages_of_a_real_run_and_uses_no_gpu(scripts, tmp_path):
    real, rehearsal = (scripts[0].stages(tmp_path, rehearse) for rehearse in (False, True))

    def kinds(stages):
        return list(dict.fromkeys(stage.name.partition(" ")[0] for stage in stages))

    assert kinds(real) == kinds(rehearsal)
    assert [s.name for s in real if s.name.startswith("bench")] == [
        *("bench tf32", "bench bfloat16", "bench float32")
    ]
    assert not any("cuda" in word or "gpu-bench" in word for s in rehearsal for word in s.command)
    assert scripts[0].environment(tmp_path, True)["CUDA_VISIBLE_DEVICES"] == ""
    assert not {"JSON", "MD"} & {word for s in (*real, *rehearsal) for word in s.command}


@pytest.mark.parametrize(("gpus", "message"), [(0, "needs an NVIDIA GPU with its driver"), (1, "")])
def test_the_report_needs_a_gpu(gpus, message, scripts, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stub_of_cupy(gpus))
    reason = scripts[0].missing(False)
    assert message in reason
    assert bool(reason) == bool(message)
    monkeypatch.setitem(scripts[0].NEEDED, "no_such_module", "some-package")
    assert scripts[0].missing(True) == "not installed: pip install some-package"


def test_a_missing_gpu_is_exit_code_3_and_nothing_is_written(tmp_path):
    out = tmp_path / "report"
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import gpu_report\n"
        "gpu_report.missing = lambda rehearse: 'a GPU'\n"
        "gpu_report.main()\n"
    )
    command = [*program(code), str(SCRIPTS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "gpu-report: a GPU\n")
    assert not out.exists()


@pytest.mark.parametrize(("outcome", "code"), [("passed", 0), ("failed with exit code 1", 1)])
def test_the_exit_code_tells_whether_all_stages_passed(
    outcome, code, scripts, tmp_path, monkeypatch, capsys
):
    chosen = []

    def campaign(stages, options, env):
        chosen.extend(stage.name for stage in stages)
        return {"stages": [{"outcome": outcome}]}

    monkeypatch.setattr(scripts[0], "campaign", campaign)
    arguments = ["gpu-report", str(tmp_path), "--rehearse", "--only", "curves"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        scripts[0].main()
    assert ended.value.code == code
    assert chosen == ["curves"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "curve"])
    with pytest.raises(SystemExit) as ended:
        scripts[0].main()
    assert ended.value.code == 2
    assert "no stage 'curve'; they are: environment, tests, curves" in capsys.readouterr().err


@pytest.mark.parametrize(("tolerance", "code"), [("1e-4", 0), ("1e-12", 1)])
def test_the_curves_must_agree_with_numpys(tolerance, code, scripts, tmp_path, monkeypatch, capsys):
    """With array-api-strict in place of a GPU, and few steps."""
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    stages = scripts[1]
    monkeypatch.setattr(stages, "STEPS", 30)
    monkeypatch.setattr(stages, "BACKENDS", ["numpy", "cupy", "array-api-strict"])
    assert stages.curves("cpu", tolerance, str(tmp_path / "curves.json")) == code
    kept = json.loads((tmp_path / "curves.json").read_text())
    assert len(kept["numpy"]) == len(kept["backends"]["array-api-strict"]["losses"]) == 30
    assert "array-api-strict on cpu (portable): largest difference " in capsys.readouterr().out


def test_a_curve_that_is_not_finite_or_fails_does_not_agree(scripts, tmp_path, monkeypatch, capsys):
    stages = scripts[1]
    falling = np.linspace(2.0, 0.5, 5)

    def curve(name, device):
        if name == "torch":
            msg = "no kernel image"
            raise RuntimeError(msg)
        return (falling * (np.nan if name == "jax" else 1.0)), "portable"

    monkeypatch.setattr(stages, "curve", curve)
    monkeypatch.setattr(stages, "seen", lambda name, device: "cpu")
    for names, code in {("jax",): 1, ("torch", "cupy"): 1, ("cupy",): 0, (): 1}.items():
        monkeypatch.setattr(stages, "BACKENDS", names)
        assert stages.curves("cpu", "1e-4", str(tmp_path / "curves.json")) == code
    assert "torch on cpu: RuntimeError: no kernel image" in capsys.readouterr().out


def test_only_the_libraries_that_see_a_gpu_are_tested_there(scripts, monkeypatch, capsys):
    monkeypatch.setattr(scripts[1], "seen", lambda name, device: None)
    assert scripts[1].tests("cuda") == 0
    assert "neither PyTorch nor JAX sees cuda" in capsys.readouterr().out
    monkeypatch.setattr(scripts[1], "seen", lambda name, device: name == "torch")
    monkeypatch.setattr(scripts[1].subprocess, "call", lambda command: command)
    command = scripts[1].tests("cuda", "tests/ops/test_ops.py")
    assert command[-5:] == [
        "tests/ops/test_ops.py",
        "--long",
        "-k",
        "torch-cuda",
        "--require-backend=torch-cuda",
    ]


def test_the_docker_files_agree_on_the_version_of_cuda():
    docker = SCRIPTS.parent / "docker"
    (version,) = re.findall(
        "^ARG CUDA_VERSION=(.+)$", (docker / "Dockerfile.gpu").read_text(), re.M
    )
    assert f"${{CUDA_VERSION:-{version}}}" in (docker / "compose.yaml").read_text()


# -- gpu-bench and gpu-tests -----------------------------------------------------------------------


@pytest.fixture
def only(tmp_path, monkeypatch):
    """Set PATH to a folder of the few tools that are needed; only(name, script) adds a stub."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "dirname", "grep", "mktemp", "rm", "sed"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))

    def stub(name, script):
        path = folder / name
        path.write_text(f"#!{folder}/bash\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return stub


def called(script, *arguments):
    command = ["bash", str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# Stubs of a running engine, a driver and the toolkit; `docker` appends its calls to $CALLS.
ENGINE = """
case $1 in
  info) [ -z "$2" ] || echo '{"nvidia":{},"runc":{}}' ;;
  *) echo "$@" >>"$CALLS"; [ "$1" = build ] || exit 5 ;;
esac
"""
DRIVER = """
case $1 in
  -L) echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)' ;;
  -q) echo 'CUDA Version                              : 12.8' ;;
esac
"""
NO_TOOLKIT = """[ -z "$2" ] || echo '{"runc":{}}'"""


@pytest.mark.parametrize(
    ("stubs", "message"),
    [
        ({}, "a Docker client"),
        ({"docker": "exit 1"}, "a Docker engine that answers"),
        ({"docker": ENGINE}, "nvidia-smi; install"),
        ({"docker": ENGINE, "nvidia-smi": "exit 9"}, "a GPU; nvidia-smi lists none"),
        ({"docker": NO_TOOLKIT, "nvidia-smi": DRIVER}, "the NVIDIA Container Toolkit"),
        ({"docker": ENGINE, "nvidia-smi": DRIVER}, "a driver for CUDA 13."),
    ],
)
def test_the_gpu_tests_report_what_is_missing(stubs, message, only, monkeypatch):
    monkeypatch.delenv("CUDA_VERSION", raising=False)
    for name, script in stubs.items():
        only(name, script)
    done = called("gpu-tests")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"missing: {message}")
    assert done.stderr.count("\n") == 1


def test_the_gpu_tests_run_in_the_image_and_exit_as_pytest_does(only, tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    monkeypatch.setenv("CUDA_VERSION", "12.8.1")
    monkeypatch.setenv("CALLS", str(calls))
    only("docker", ENGINE)
    only("nvidia-smi", DRIVER)
    done = called("gpu-tests", "-k", "cupy")
    assert done.returncode == 5, done.stderr
    build, run = calls.read_text().splitlines()
    assert build.startswith("build -f docker/Dockerfile.gpu --target tests")
    assert "CUDA_VERSION=12.8.1" in build
    assert "--gpus all" in run
    assert run.endswith("--require-backend=cupy --min-gpu-tests=500 -k cupy")
    assert "NVIDIA H100" in done.stdout


XPNET = """
while [ $# -gt 0 ]; do
  case $1 in
    --precision) precision=$2 ;;
    --markdown) echo "| a row of $precision |" >"$2" ;;
    --json-file) echo "{\\"precision\\": \\"$precision\\"}" >"$2" ;;
  esac
  shift
done
[ "$precision" != tf32 ] || exit "${TF32_CODE:-0}"
"""


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_gpu_bench_combines_the_precisions(code, only, tmp_path, monkeypatch):
    monkeypatch.setenv("TF32_CODE", str(code))
    monkeypatch.setenv("XPNET", only("xpnet", XPNET) + " as-given")
    table, times = tmp_path / "table.md", tmp_path / "times.json"
    done = called("gpu-bench", table, times)
    assert done.returncode == code, done.stderr
    if code == 2:  # the timing failed
        assert not table.exists()
        return
    found = [each["precision"] for each in json.loads(times.read_text())]
    assert found == ["float32", "tf32", "bfloat16"]
    assert table.read_text().startswith("## float32\n\n| a row of float32 |\n\n## tf32\n")
    assert called("gpu-bench", table, times, "bfloat16").returncode == 0
    assert len(json.loads(times.read_text())) == 1


def test_the_gpu_bench_prints_its_usage():
    done = called("gpu-bench", "table.md")
    assert done.returncode == 2
    assert done.stderr.endswith("gpu-bench TABLE.md TIMES.json [PRECISION...]\n")


def test_the_conditions_of_the_gpu_bench_are_valid():
    """The command can parse each of them, and the rows and contenders that they name exist."""
    from xpnet.bench import LIMIT, STANDARD_ON_GPU, Expectation
    from xpnet.bench.contenders import ON_GPU
    from xpnet.bench.networks import BYTES_LIMIT

    text = (SCRIPTS / "gpu-bench").read_text()
    conditions = [Expectation.parse(found) for found in re.findall(r"--expect '(.+?)'", text)]
    large = [str(network) for network in STANDARD_ON_GPU[-2:]]
    assert [condition.row for condition in conditions] == large
    assert all(c.other == BYTES_LIMIT and c.bound <= 1.1 for c in conditions)
    peers = re.search(r"for peer in (.+?); do", text)[1]
    named = {a or b for a, b in re.findall(r"'(.+?)'|(\S+)", peers)}
    assert named == {n for n in ON_GPU if not n.startswith(("xpnet", LIMIT, BYTES_LIMIT))}
