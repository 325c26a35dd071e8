"""scripts/supply-check: what the GPU image installs is pinned, for each release of CUDA."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
DOCKERFILE = (SCRIPTS.parent / "docker" / "Dockerfile.gpu").read_text()


@pytest.fixture(scope="module")
def supply():
    pytest.importorskip("packaging", reason="packaging reads requirements")
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module("supply")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def pip(supply, monkeypatch):
    """pip(report or an error of pip) answers the next calls of it, and returns their words."""
    calls, run = [], subprocess.run

    def answers(packages=(), error=""):
        def answer(command, **options):
            if "pip" not in command:
                return run(command, **options)
            calls.append([str(word) for word in command])
            found = [{"metadata": {"name": n, "version": v}} for n, v in packages]
            report = json.dumps({"install": found})
            return SimpleNamespace(returncode=bool(error), stdout=report, stderr=f"ERROR: {error}")

        monkeypatch.setattr(supply.subprocess, "run", answer)
        return calls

    return answers


def test_every_release_that_the_image_is_built_with_has_all_of_nvidias_libraries(supply):
    files = supply.image_files()
    built = re.findall(r"CUDA_VERSION=(\d+\.\d+)\.\d+", DOCKERFILE)
    assert set(files) == {*built} >= {"12.8", "13.0"}
    kinds = []
    for cuda, path in files.items():
        pinned = supply.pins(path)
        assert path.read_text() == supply.CUDA_HEADER.format(cuda) + "".join(
            f"{name}=={version}\n" for name, version in sorted(pinned.items())
        )
        libraries = {name.removesuffix("-cu12"): version for name, version in pinned.items()}
        for name in ("cuda-toolkit", "nvidia-cuda-nvrtc", "nvidia-nvjitlink"):
            assert libraries[name].startswith(f"{cuda}."), name
        assert all(n == "cuda-toolkit" or n.startswith("nvidia-") for n in libraries)
        kinds.append(libraries.keys())
    assert all(kind == kinds[0] for kind in kinds)


def test_the_image_adds_these_pins_to_the_others(tmp_path):
    """The line of the Dockerfile, run by a shell."""
    (line,) = re.findall(r"RUN (pins=.+?\bfi)\n", DOCKERFILE, re.S)
    assert re.search(r"PIP_CONSTRAINT=/src/constraints\.txt\n+WORKDIR /src\n", DOCKERFILE)
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "cuda-13.0.txt").write_text("b==2\n")
    for version, pins, said in (("13.0.1", "a==1\nb==2\n", ""), ("13.1.0", "a==1\n", "cuda-13.1")):
        (tmp_path / "constraints.txt").write_text("a==1\n")
        done = subprocess.run(
            ["sh", "-c", f"CUDA_VERSION={version}; {line}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (tmp_path / "constraints.txt").read_text() == pins
        assert said in done.stderr
        assert bool(done.stderr) == bool(said)


def test_what_pip_would_install_and_is_not_pinned_is_a_finding(supply, pip):
    calls = pip([("nvidia-cublas", "13.1.1.3"), ("nvidia-cublas-cu12", "1"), ("NVIDIA_new", "2.0")])
    findings, not_done = supply.check_images()
    assert not_done is None
    assert "cuda-13.0.txt: nvidia-new 2.0 is not pinned" in findings
    assert "cuda-12.8.txt: nvidia-new 2.0 is not pinned" in findings
    assert not any("nvidia-cublas 13" in f and "13.0.txt" in f for f in findings)
    old, new = calls
    assert {"cuda-toolkit==12.8.*", "nvidia-nvjitlink-cu12==12.8.*"} < {*old}
    assert {"cuda-toolkit==13.0.*", "nvidia-nvjitlink==13.0.*"} < {*new}
    assert any(word.startswith("cupy-cuda12x[ctk]") for word in old)
    assert any(word.startswith("cupy-cuda13x[ctk]") for word in new)
    assert "--python-version=3.12" in old
    assert any(word.endswith("cuda-13.0.txt") for word in new)


def test_pins_that_contradict_each_other_are_a_finding_and_no_index_is_none(supply, pip):
    pip(error="ResolutionImpossible: for help visit a page")
    findings, not_done = supply.check_images()
    assert (len(findings), not_done) == (2, None)
    pip(error="Could not find a version that satisfies the requirement cupy (from versions: none)")
    findings, not_done = supply.check_images()
    assert findings == []
    assert "pip cannot resolve what CUDA 12.8 needs: Could not find a version" in not_done


def test_the_pins_are_renewed_without_what_all_images_have(supply, pip, tmp_path):
    pip([("nvidia-cublas", "13.1.1.3"), ("numpy", "2.4.6"), ("cuda-toolkit", "13.0.3.0")])
    supply.write_image("13.0", tmp_path / "cuda-13.0.txt")
    text = (tmp_path / "cuda-13.0.txt").read_text()
    assert text.splitlines()[2:] == ["cuda-toolkit==13.0.3.0", "nvidia-cublas==13.1.1.3"]
