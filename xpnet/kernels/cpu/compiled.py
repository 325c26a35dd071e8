"""How every kernel here is compiled."""

import contextlib
from collections.abc import Callable
from typing import Any

from numba import config, njit

__all__ = ["kernel"]

if config.DISABLE_JIT:
    msg = "its compiler is switched off by NUMBA_DISABLE_JIT"
    raise ImportError(msg)

# Sums may be reordered and products fused, but a NaN or an infinity stays what it is.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable) -> Any:
    """Compile ``function`` on its first call, once per dtype, and cache the code where possible.

    A read-only installation used without a home directory, as in containers, has no place for the
    cache.
    """
    compiled = njit(nogil=True, error_model="numpy", fastmath=FASTMATH)(function)
    with contextlib.suppress(RuntimeError):
        compiled.enable_caching()
        compiled._cache = _Lenient(compiled._cache)
    return compiled


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
