"""Two functions of the standard whose version for CuPy makes the host wait for the device.

array-api-compat gives CuPy a ``clip`` and a ``sign`` that put numbers in through a mask, and CuPy
counts the entries of a mask on the host. These only choose, on every library.
"""

from array_api_compat import array_namespace

from xpnet.typing import Array

__all__ = ["clip", "sign"]


def clip(x: Array, low: float | None = None, high: float | None = None) -> Array:
    """Return x, of any shape and real floating dtype, between ``low`` and ``high``; NaN stays.

    >>> import numpy as np
    >>> clip(np.array([-3.0, 0.5, np.nan]), -1.0, 1.0)
    array([-1. ,  0.5,  nan])
    """
    xp = array_namespace(x)
    if low is not None:
        x = xp.maximum(x, low)
    return x if high is None else xp.minimum(x, high)


def sign(x: Array) -> Array:
    """Return 1 where x > 0, -1 where x < 0; 0 and NaN stay. Any shape and real floating dtype.

    >>> import numpy as np
    >>> sign(np.array([-3.0, 0.0, 0.5, np.nan]))
    array([-1.,  0.,  1., nan])
    """
    xp = array_namespace(x)
    return xp.where(x > 0.0, 1.0, xp.where(x < 0.0, -1.0, x))
