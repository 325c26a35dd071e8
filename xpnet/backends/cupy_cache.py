"""CuPy's import, wherever its compiled kernels can or cannot be kept."""

import os
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Imported", "import_cupy"]

FOLDER, IN_MEMORY = "CUPY_CACHE_DIR", "CUPY_CACHE_IN_MEMORY"


class Imported(NamedTuple):
    """CuPy, and where its kernels are not kept the reason; "" where they are."""

    cupy: Any
    note: str


def import_cupy() -> Imported:
    """Import CuPy, also where the folder for its kernels cannot be made or written to.

    CuPy makes the folder when it is imported and writes to it after each compilation, and passes on
    the OSError of either (``cupy/cuda/_compiler_cache.py``): in a container that is read-only or
    runs as another user, even a command for the CPU would end. Without the folder each process
    compiles its kernels anew. Raises what the import raises otherwise.
    """
    folder, before = _folder(), os.environ.get(FOLDER)
    if _can_be_written_to(folder):
        import cupy

        return Imported(cupy, "")
    os.environ[IN_MEMORY] = "1"  # which is read at each compilation
    os.environ[FOLDER] = str(Path(__file__).parent)  # is there; nothing is written to it
    try:
        import cupy
    finally:
        del os.environ[FOLDER]
        if before is not None:
            os.environ[FOLDER] = before
    note = f"each process compiles its kernels anew, for the folder {folder} cannot be written to; "
    return Imported(cupy, note + f"set {FOLDER} to one that can")


def _folder() -> str:
    """The folder that CuPy would take."""
    return os.environ.get(FOLDER, os.path.expanduser("~/.cupy/kernel_cache"))


def _can_be_written_to(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
