"""A vector that is kept as its tensors, for compilers to which slices and joints are copies.

XLA has no views: a slice of a parameter vector is copied out before each matrix product, and a
gradient is joined by a loop over its longest tensor for each of the tensors, masked where they
end. On a CPU that took longer than the rest of a step. So JAX keeps the vector in tensors, and the
formulas that are written for a vector apply to this as they are::

    p = SplitVector((W, b))
    xp = array_namespace(p)
    p -= 0.1 * xp.sqrt(p)            # each tensor
    norm = xp.linalg.vector_norm(p)  # over all of them, 0-d

Element-wise functions act on each tensor, reductions on all of them; a function that needs the
order of the elements, such as ``cumsum``, gets an argument that it does not know.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from array_api_compat import array_namespace, device

from xpnet.typing import Array

__all__ = ["SplitVector"]


@dataclass(frozen=True, eq=False)
class SplitVector:
    """The tensors of a vector in their order, at least one, of one dtype on one device.

    Its operators take scalars, 0-d arrays and vectors that are split in the same way.

    >>> import numpy as np
    >>> p = SplitVector((np.array([[3.0]]), np.array([4.0])))
    >>> 2.0 * p - p
    SplitVector(tensors=(array([[3.]]), array([4.])))
    >>> float(array_namespace(p).linalg.vector_norm(p))
    5.0
    """

    tensors: tuple[Array, ...]

    @property
    def dtype(self) -> Any:
        return self.tensors[0].dtype

    @property
    def device(self) -> Any:
        return device(self.tensors[0])

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return _Namespace(array_namespace(*self.tensors))


class _Namespace:
    """The functions of a library, for its own arrays and for split vectors of them."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self.__name__ = f"{xp.__name__} of split vectors"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._xp, name)
        if name == "linalg":
            return _Namespace(found)
        if name in ELEMENTWISE:
            return functools.partial(_each, found)
        if name in REDUCTIONS:
            return functools.partial(_reduce, found)
        return found


# As the Array API standard lists them, and the creation functions that take an array's shape.
_NAMES = """
    abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift
    bitwise_or bitwise_right_shift bitwise_xor ceil clip copysign cos cosh divide equal exp expm1
    floor floor_divide greater greater_equal hypot isfinite isinf isnan less less_equal log log10
    log1p log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply
    negative nextafter not_equal positive pow reciprocal remainder round sign signbit sin sinh sqrt
    square subtract tan tanh trunc where
    asarray astype empty_like full_like ones_like zeros_like
"""
ELEMENTWISE = frozenset(_NAMES.split())
# f(f(x), f(y)) = f(x, y): the whole follows from the tensors' own.
REDUCTIONS = frozenset({"all", "any", "max", "min", "prod", "sum", "vector_norm"})


def _each(function: Callable, *args: Any, **options: Any) -> Any:
    """Apply to each tensor in turn, and to what is no split vector every time."""
    if not any(isinstance(a, SplitVector) for a in args):
        return function(*args, **options)
    parts = (a.tensors if isinstance(a, SplitVector) else repeat(a) for a in args)
    return SplitVector(tuple(function(*part, **options) for part in zip(*parts, strict=False)))


def _reduce(function: Callable, x: Any, **options: Any) -> Array:
    if not isinstance(x, SplitVector):
        return function(x, **options)
    parts = [function(t, **options) for t in x.tensors]
    return function(array_namespace(*parts).stack(parts), **options)


def _operators() -> None:
    """Give the class its operators; a value is never written into."""
    for name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor"):
        function = getattr(operator, f"__{name}__")
        setattr(SplitVector, f"__{name}__", functools.partialmethod(_binary, function))
        setattr(SplitVector, f"__r{name}__", functools.partialmethod(_reflected, function))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        function = getattr(operator, f"__{name}__")
        setattr(SplitVector, f"__{name}__", functools.partialmethod(_binary, function))
    for name in ("neg", "pos", "abs", "invert"):
        function = getattr(operator, f"__{name}__")
        setattr(SplitVector, f"__{name}__", functools.partialmethod(_unary, function))


def _binary(x: SplitVector, function: Callable, y: Any) -> Any:
    return _each(function, x, y)


def _reflected(x: SplitVector, function: Callable, y: Any) -> Any:
    return _each(function, y, x)


def _unary(x: SplitVector, function: Callable) -> Any:
    return _each(function, x)


_operators()
