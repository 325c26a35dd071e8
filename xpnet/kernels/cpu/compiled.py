"""How every kernel here is compiled: from its text, by itself, once per machine.

A kernel's text, printed from a formula or taken from a function in this folder, is written to a
file named by a hash of all that its machine code depends on here, and compiled from there. So
Numba's cache never serves code of an older text. A kernel calls no function that is cached by
itself: LLVM inlines one that was just compiled and not one from the cache, and rounds otherwise.
"""

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import config, njit
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from xpnet.cache import cache_folder
from xpnet.kernels.cpu import memory, parts
from xpnet.kernels.cpu.parts import OPTIONS

__all__ = ["Kernel", "compiled", "jitted", "text_of"]

if config.DISABLE_JIT:
    msg = "its compiler is switched off by NUMBA_DISABLE_JIT"
    raise ImportError(msg)

HEADER = '''"""A kernel that xpnet printed. Delete the file, and it is printed again."""

import math

import numpy as np

from xpnet.kernels.cpu.blas import PLAIN, TRANSPOSED, call_gemm
from xpnet.kernels.cpu.memory import ROW_BYTES, address, call, doubles, integers, size, store, word
from xpnet.kernels.cpu.parts import CORRECT, COUNT, DENOMINATOR, LOSS, add_up, finish
from xpnet.kernels.cpu.parts import first_largest, give, mix
from xpnet.kernels.cpu.memory import number_{0} as number, real_{0} as real, vector_{0} as vector

'''

Kernel = Any  # Numba's: `address` is where its code is, as long as it lives


def text_of(*functions: Callable) -> str:
    """Return the source of functions that are written in this folder."""
    return "\n".join(inspect.getsource(function) for function in functions)


@functools.cache
def compiled(text: str, dtype: str) -> Kernel:
    """Compile the function ``kernel(row)`` of a text; ``real`` in it is ``dtype``."""
    function = _module(HEADER.format(dtype) + text).kernel
    made = _cached(CFunc(function, normalize_signature("void(int64)"), {}, OPTIONS))
    made.compile()
    return made


@functools.cache
def jitted(text: str) -> Any:
    """Compile the function ``run`` of a text, which Python calls, for each type of arguments."""
    function = _module(HEADER.format("float64") + text).run
    return _cached(njit(nogil=True, **OPTIONS)(function))


def _cached(made: Any) -> Any:
    """Switch Numba's cache on, where there is a place for it."""
    with contextlib.suppress(RuntimeError):
        made.enable_caching()
        made._cache = _Lenient(made._cache)
    return made


def _module(text: str) -> ModuleType:
    """Import a text as a module, from a file where one can be written."""
    name = f"kernel_{hashlib.sha256((text + _surroundings()).encode()).hexdigest()[:20]}"
    module = ModuleType(name)
    try:
        path = _written(_folder() / f"{name}.py", text)
    except OSError:  # a read-only disk, or no home: compiled anew in every process
        exec(compile(text, f"<{name}>", "exec"), module.__dict__)
        return module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where Numba looks its functions up
    spec.loader.exec_module(module)
    return module


@functools.cache
def _surroundings() -> str:
    """What a kernel's machine code depends on besides its text."""
    from xpnet.kernels.cpu import blas

    return "".join(map(inspect.getsource, (memory, parts, blas)))


def _folder() -> Path:
    """Where the texts are kept, and the machine code beside them."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return Path(os.environ["NUMBA_CACHE_DIR"]) / "xpnet"
    return cache_folder() / "kernels"


def _written(path: Path, text: str) -> Path:
    """Write a file whole or not at all, unless it is there: another process may read it."""
    if path.exists() and path.read_text("utf-8") == text:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)
    return path


class _Lenient:
    """Numba's cache, which is skipped if it cannot be used: disk full, or torn by a crash."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *args: Any) -> Any:
        try:
            return self._cache.load_overload(*args)
        except Exception:  # half a file may raise anything
            with contextlib.suppress(Exception):
                self._cache.flush()
            return None

    def save_overload(self, *args: Any) -> None:
        with contextlib.suppress(OSError):
            self._cache.save_overload(*args)
