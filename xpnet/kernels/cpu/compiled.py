"""How every kernel here is compiled."""

import contextlib
from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["kernel"]

# Sums may be reordered and products fused, but a NaN or an infinity stays what it is.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable) -> Any:
    """Compile ``function`` at its first call, once per dtype; the code is cached where it may be.

    An installation that cannot be written, used by somebody without a home (as containers are), has
    no place for the cache.
    """
    compiled = njit(nogil=True, error_model="numpy", fastmath=FASTMATH)(function)
    with contextlib.suppress(RuntimeError):
        compiled.enable_caching()
        compiled._cache = _Lenient(compiled._cache)
    return compiled


class _Lenient:
    """Numba's cache, without which everything still works: on a full disk, or torn by a crash."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *args: Any) -> Any:
        try:
            return self._cache.load_overload(*args)
        except Exception:  # what half a file may raise
            with contextlib.suppress(Exception):
                self._cache.flush()
            return None

    def save_overload(self, *args: Any) -> None:
        with contextlib.suppress(OSError):
            self._cache.save_overload(*args)
