"""CuPy is imported also where its kernels cannot be kept, and is told to keep them in memory."""

import os
import sys

import pytest
from test_backend_choice import stub_of_cupy

from xpnet.backends import cupy_cache
from xpnet.backends.cupy import CupyBackend
from xpnet.backends.cupy_cache import FOLDER, IN_MEMORY, import_cupy

# What CuPy 14 does when it is imported (cupy/cuda/_compiler_cache.py).
PACKAGE = """
import os
folder = os.environ.get("CUPY_CACHE_DIR", os.path.expanduser("~/.cupy/kernel_cache"))
if not os.path.isdir(folder):
    os.makedirs(folder, exist_ok=True)
"""


@pytest.fixture
def cupy(tmp_path, monkeypatch):
    (tmp_path / "site" / "cupy").mkdir(parents=True)
    (tmp_path / "site" / "cupy" / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setenv(IN_MEMORY, "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield tmp_path
    sys.modules.pop("cupy", None)


def test_a_folder_that_can_be_written_to_is_left_to_cupy(cupy, monkeypatch):
    monkeypatch.setenv(FOLDER, str(cupy / "new" / "kernels"))
    assert import_cupy().note == ""
    assert (cupy / "new" / "kernels").is_dir()
    assert os.environ[IN_MEMORY] == ""


@pytest.mark.parametrize("given", [True, False])
def test_a_folder_that_cannot_be_made_ends_nothing(given, cupy, monkeypatch):
    for name in ("file", "home"):
        (cupy / name).write_text("")
    monkeypatch.delenv(FOLDER, raising=False)
    where = cupy / "home" / ".cupy" / "kernel_cache"
    if given:
        monkeypatch.setenv(FOLDER, str(where := cupy / "file" / "kernels"))
    for _ in range(2):  # the second time it is imported already
        module, note = import_cupy()
        assert f"the folder {where} cannot be written to; set {FOLDER}" in note
    assert module.folder != str(where)
    assert os.environ[IN_MEMORY] == "1"
    assert os.environ.get(FOLDER) == (str(where) if given else None)


@pytest.mark.parametrize("mode", ["not writable", "empty name"])
def test_a_folder_that_is_there_but_of_no_use_ends_nothing(mode, cupy, monkeypatch):
    monkeypatch.setenv(FOLDER, "" if mode == "empty name" else str(cupy))
    monkeypatch.setattr(cupy_cache.os, "access", lambda folder, how: False)
    assert "cannot be written to" in import_cupy().note
    assert os.environ[IN_MEMORY] == "1"


def test_the_environment_is_as_it_was_after_an_import_that_fails(cupy, monkeypatch):
    (cupy / "file").write_text("")
    (cupy / "site" / "cupy" / "__init__.py").write_text("raise ImportError('libcuda')")
    monkeypatch.setenv(FOLDER, str(cupy / "file" / "kernels"))
    with pytest.raises(ImportError, match="libcuda"):
        import_cupy()
    assert os.environ[FOLDER] == str(cupy / "file" / "kernels")


def test_a_gpu_is_used_then_and_the_list_of_backends_says_so(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(IN_MEMORY, "")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "kernels"))
    monkeypatch.setitem(sys.modules, "cupy", stub_of_cupy(1))
    _, devices, note = CupyBackend.probe()
    assert devices == ("cuda:0",)
    assert note.startswith("each process compiles its kernels anew")
