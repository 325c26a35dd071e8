"""Inverted dropout whose mask is a function of a key and an element's position.

    y = x m / (1 - p)        m = 1 with probability 1 - p        Srivastava et al. 2014

The standard has no random numbers, and libraries draw different ones from the same seed. A hash
of the position needs none: every library makes the same mask, and resuming needs no saved state.
"""

import math
from typing import Any

from array_api_compat import array_namespace, device

from xpnet.typing import Array

__all__ = ["dropout", "dropout_backward", "keep_mask", "position_hash"]


def position_hash(positions: Array, keys: Any) -> Array:
    """Return int32 values in [0, 2**24), uniform and reproducible, for two int32 keys.

    There is one for each of the int32 positions, of any shape.

    Two rounds of the 32-bit mixer lowbias32 (Wellons 2018, "Prospecting for hash functions") over
    the position, with a key mixed in before each. It relies on integers that wrap around, as those
    of all libraries do, and on int32 alone, which every device has.
    """
    h = _mix(positions ^ keys[0]) + keys[1]
    return (_mix(h) >> 8) & 0xFFFFFF


def _mix(h: Array) -> Array:
    # `>>` on a signed integer copies the sign bit in; the mask makes it a logical shift.
    h = (h ^ ((h >> 16) & 0xFFFF)) * 0x7FEB352D
    h = (h ^ ((h >> 15) & 0x1FFFF)) * -0x7B935975  # 0x846CA68B as a signed number
    return h ^ ((h >> 16) & 0xFFFF)


def keep_mask(shape: tuple[int, ...], rate: float, keys: Any, like: Array) -> Array:
    """Return 0 with probability ``rate``, else 1 / (1 - rate), in the dtype of ``like``.

    ``keys`` are two int32 and, for a part of a batch, the row of the batch at which it begins and
    how far apart its rows are there (1).
    """
    xp, width = array_namespace(like), math.prod(shape[1:])
    if len(keys) < 4:
        first, count = (keys[2] if len(keys) > 2 else 0) * width, math.prod(shape)
        positions = xp.arange(first, first + count, dtype=xp.int32, device=device(like))
    else:
        rows = xp.arange(shape[0], dtype=xp.int32, device=device(like)) * keys[3] + keys[2]
        row = xp.arange(width, dtype=xp.int32, device=device(like))
        positions = xp.reshape(rows, (-1, 1)) * width + row
    kept = position_hash(positions, keys) >= round(rate * 2**24)
    return xp.reshape(xp.astype(kept, like.dtype) * (1.0 / (1.0 - rate)), shape)


def dropout(x: Array, rate: float, keys: Any) -> tuple[Array, Array]:
    """Return y = x m / (1 - p) and the scaled mask m / (1 - p), both of the shape of x."""
    mask = keep_mask(x.shape, rate, keys, x)
    return x * mask, mask


def dropout_backward(dy: Array, mask: Array) -> Array:
    """dx = dy m / (1 - p)."""
    return dy * mask
