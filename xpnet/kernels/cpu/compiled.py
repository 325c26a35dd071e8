"""How every kernel here is compiled."""

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["kernel"]

# Sums may be reordered and products fused, but a NaN or an infinity stays what it is.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable) -> Any:
    """Compile ``function`` at its first call, once per dtype; the code is cached on disk."""
    return njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH)(function)
