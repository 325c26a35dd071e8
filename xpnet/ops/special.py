"""What the standard lacks: erf, and room for the squares of 16-bit floats."""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

from array_api_compat import array_namespace

from xpnet.elementwise import clip
from xpnet.typing import Array

__all__ = ["erf", "rational_erf"]

Function = TypeVar("Function", bound=Callable[..., Any])

# Rational Chebyshev approximations, W. J. Cody, Math. Comp. 23 (1969) 631-637, as in SPECFUN.
# Each pair is (numerator, denominator), highest power first.
_SMALL = (  # erf(x) / x in x², for |x| <= 0.46875
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2,
     3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
     2.84423683343917062e3),
)  # fmt: skip
_MIDDLE = (  # erfc(x) exp(x²) in x, for 0.46875 <= x <= 4
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0,
     6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
     1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
     1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
     3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_LARGE = (  # (1/sqrt(pi) - x erfc(x) exp(x²)) x² in 1/x², for x >= 4
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
     1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)  # fmt: skip


def widened(function: Function) -> Function:
    """Let a function compute in float32 where its first argument is of 16 bits.

    Its result, or the first of them, is rounded to the dtype of that argument.
    """

    @functools.wraps(function)
    def wide(x: Array, *rest: Any) -> Any:
        xp = array_namespace(x)
        dtype = xp.result_type(x.dtype, xp.float32)
        if dtype == x.dtype:
            return function(x, *rest)
        result = function(xp.astype(x, dtype), *rest)
        if isinstance(result, tuple):
            return xp.astype(result[0], x.dtype), *result[1:]
        return xp.astype(result, x.dtype)

    return wide  # type: ignore[return-value]


@widened
def erf(x: Array) -> Array:
    """erf x = 2/√π ∫_0^x exp(-t²) dt for any real floating dtype and shape.

    It is at most 2 units in the last place off. The standard has no erf; the namespace's own is
    taken where it has one (PyTorch, and what records formulas for kernels).

    >>> import numpy as np
    >>> bool(abs(erf(np.asarray([0.5]))[0] - math.erf(0.5)) < 1e-16)
    True
    """
    xp = array_namespace(x)
    if hasattr(xp, "erf"):
        return xp.erf(x)
    return rational_erf(x)


def rational_erf(x: Array) -> Array:
    """erf x in functions of the standard, in float32 or float64."""
    xp = array_namespace(x)
    size = xp.abs(x)
    # Every branch of a `where` is computed, so each takes an argument from its own range.
    small = clip(size, high=0.46875)
    middle = clip(size, 0.46875, 4.0)
    large = clip(size, 4.0, 30.0)
    inverse = 1.0 / (large * large)
    tail = inverse * _ratio(_LARGE, inverse)
    erfc_large = (1.0 / math.sqrt(math.pi) - tail) / large
    erfc = xp.where(
        size <= 4.0,
        xp.exp(-middle * middle) * _ratio(_MIDDLE, middle),
        xp.exp(-large * large) * erfc_large,
    )
    value = xp.where(size <= 0.46875, small * _ratio(_SMALL, small * small), 1.0 - erfc)
    return xp.where(x > 0.0, value, xp.where(x < 0.0, -value, x))  # 0 and NaN stay


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    over, under = coefficients
    return _horner(over, x) / _horner(under, x)


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    value = x * coefficients[0]
    for c in coefficients[1:-1]:
        value = (value + c) * x
    return value + coefficients[-1]
