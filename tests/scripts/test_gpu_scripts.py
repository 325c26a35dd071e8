"""scripts/gpu-{bench,tests,wheels} without a GPU, with stubs of the programs that they call."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("the scripts are for POSIX", allow_module_level=True)
SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_docker_files_agree_on_the_version_of_cuda():
    docker = SCRIPTS.parent / "docker"
    (version,) = re.findall(
        "^ARG CUDA_VERSION=(.+)$", (docker / "Dockerfile.gpu").read_text(), re.M
    )
    assert f"${{CUDA_VERSION:-{version}}}" in (docker / "compose.yaml").read_text()


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


# -- gpu-wheels ------------------------------------------------------------------------------------

PIP = """
echo "$@" >>"$CALLS"
while [ "$1" != --dest ]; do shift; done
: >"$2/array_api_compat-1.0-py3-none-any.whl"
"""


def test_the_wheels_are_those_of_the_other_python_and_the_commit_is_beside_them(
    only, tmp_path, monkeypatch
):
    calls, folder = tmp_path / "calls", tmp_path / "wheels"
    monkeypatch.setenv("CALLS", str(calls))
    only("python3", PIP)
    only("git", "echo v1-2-gabc")
    for name in ("ls", "mkdir"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name, path=os.defpath))
    folder.mkdir()
    (folder / "old-1.0-py3-none-any.whl").write_text("")
    done = called("gpu-wheels", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "COMMIT").read_text() == "v1-2-gabc\n"
    assert [p.name for p in folder.glob("*.whl")] == ["array_api_compat-1.0-py3-none-any.whl"]
    assert called("gpu-wheels", folder, "3.13", "pooch", "rich").returncode == 0
    first, second = calls.read_text().splitlines()
    assert "--no-deps --only-binary=:all: --python-version 3.12 " in first
    assert first.endswith(" array-api-compat array-api-strict pooch platformdirs tomli-w")
    assert "--python-version 3.13 " in second
    assert second.endswith(f" --dest {folder} pooch rich")
    assert called("gpu-wheels").returncode == 2


def test_the_wheels_are_of_packages_that_the_report_needs():
    """With the versions of constraints.txt, which the image and CI have, too."""
    names = re.search(r"set -- (array.+)$", (SCRIPTS / "gpu-wheels").read_text(), re.M)[1].split()
    needed = re.findall(r'": "(\S+)"', (SCRIPTS / "gpu/wheels.py").read_text())
    pinned = {line.partition("==")[0] for line in
              (SCRIPTS.parent / "constraints.txt").read_text().splitlines()}  # fmt: skip
    assert set(names) <= set(needed) & pinned
